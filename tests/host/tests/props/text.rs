// SPDX-License-Identifier: GPL-2.0

//! Property tests of parsers: they take any text, refuse wrong values, and can read their own
//! output.

use ferry_core::{
    hist::{
        bounds,
        bucket,
        BUCKETS, //
    },
    knob::{
        Knob,
        Refusal,
        BATCH_BYTES,
        BATCH_FOLIOS,
        CHUNK_BYTES,
        CPU_WORKERS,
        LOOKAHEAD_BYTES,
        MIN_BATCH_BYTES,
        MIN_FOLIO_BYTES,
        TIMEOUT_MS, //
    },
    reasons::ReasonMask,
};
use proptest::prelude::*;

const KNOBS: [Knob; 8] = [
    BATCH_FOLIOS,
    BATCH_BYTES,
    CHUNK_BYTES,
    MIN_BATCH_BYTES,
    MIN_FOLIO_BYTES,
    LOOKAHEAD_BYTES,
    CPU_WORKERS,
    TIMEOUT_MS,
];

/// The most bytes of a message: a record of the kernel log has 1024 (`PRINTKRB_RECORD_MAX`), of
/// which fewer than 64 go to `ferry: vm.ferry.reasons: ` and the newline. The log cuts the rest,
/// which would be the allowed values.
const MAX_MESSAGE: usize = 1024 - 64;

#[test]
fn defaults_are_allowed() {
    for knob in KNOBS {
        assert_eq!(
            knob.parse(&knob.default.to_string()).ok(),
            Some(knob.default)
        );
        assert_eq!(knob.parse(&format!("{}\n", knob.min)).ok(), Some(knob.min));
        assert_eq!(knob.parse(&knob.max.to_string()).ok(), Some(knob.max));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn knob_takes_exactly_its_range(which in 0usize..KNOBS.len(), v in any::<u64>(), bits in 0u32..64) {
        let knob = KNOBS[which];
        let v = v >> bits;
        let text = v.to_string();
        let allowed = v >= knob.min && v <= knob.max && v % knob.multiple_of == 0;
        match knob.parse(&text) {
            Ok(got) => prop_assert!(allowed && got == v),
            Err(e) => {
                prop_assert!(!allowed);
                prop_assert_ne!(e.refusal(), Refusal::NotANumber);
                let says = e.to_string();
                for part in [knob.name, &text, &knob.min.to_string(), &knob.max.to_string()] {
                    prop_assert!(says.contains(part), "{says}");
                }
            }
        }
    }

    #[test]
    fn knob_takes_any_text(which in 0usize..KNOBS.len(), text in "\\PC{0,255}|.{0,255}") {
        let knob = KNOBS[which];
        match knob.parse(&text) {
            Ok(v) => prop_assert!(text.trim().parse() == Ok(v)),
            Err(e) => {
                let says = e.to_string();
                prop_assert!(says.starts_with(knob.name));
                prop_assert!(says.len() <= MAX_MESSAGE);
                prop_assert!(says.is_ascii() && !says.contains(char::is_control));
            }
        }
    }

    #[test]
    fn reasons_read_back(bits in any::<u32>()) {
        let mask = ReasonMask::from_bits(bits);
        let text = mask.to_string();
        prop_assert_eq!(ReasonMask::parse(&text), Ok(mask));
        for reason in 0..64 {
            prop_assert_eq!(mask.contains(reason), reason < 10 && bits >> reason & 1 == 1);
        }
    }

    #[test]
    fn reasons_take_any_text(text in "[a-z_, \n]{0,255}|\\PC{0,255}") {
        if let Err(e) = ReasonMask::parse(&text) {
            prop_assert!(text.contains(e.word()));
            let says = e.to_string();
            prop_assert!(says.len() <= MAX_MESSAGE);
            prop_assert!(says.is_ascii() && !says.contains(char::is_control));
        }
    }

    #[test]
    fn reasons_name_the_wrong_word(
        good in "(syscall|demotion|damon)",
        bad in "[a-z]{1,6}x",
        first in any::<bool>(),
    ) {
        let text = if first { format!("{bad}, {good}") } else { format!("{good},{bad}") };
        prop_assert_eq!(ReasonMask::parse(&text).unwrap_err().word(), bad.as_str());
    }

    #[test]
    fn every_value_is_in_its_bucket(v in any::<u64>(), bits in 0u32..64) {
        let v = v >> bits;
        let i = bucket(v);
        prop_assert!(i < BUCKETS);
        let (lo, hi) = bounds(i);
        prop_assert!(lo <= v && v <= hi);
    }
}
