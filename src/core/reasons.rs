// SPDX-License-Identifier: GPL-2.0

//! Migration reasons by name, and sets of them.
//!
//! # Examples
//!
//! ```
//! use ferry_core::reasons::{ReasonMask, DEMOTION};
//!
//! let mask = ReasonMask::parse("demotion, syscall\n").unwrap();
//! assert!(mask.contains(DEMOTION));
//! // The text of a set can be read back.
//! assert_eq!(mask.to_string(), "syscall,demotion");
//! assert_eq!(ReasonMask::parse(&mask.to_string()), Ok(mask));
//!
//! assert_eq!(ReasonMask::parse("all"), Ok(ReasonMask::ALL));
//! assert_eq!(ReasonMask::parse("syscal").unwrap_err().word(), "syscal");
//! ```

use core::fmt;

/// The names of the reasons, in the order of `enum migrate_reason`.
const NAMES: [&str; 10] = [
    "compaction",
    "memory_failure",
    "memory_hotplug",
    "syscall",
    "mempolicy_mbind",
    "numa_misplaced",
    "contig_range",
    "longterm_pin",
    "demotion",
    "damon",
];

/// The number of `MR_DEMOTION`, which also decides the copy routine.
pub const DEMOTION: u32 = 8;

/// The numbers of the reasons whose migrations must not block, always or in some cases: compaction,
/// NUMA balancing, demotion and DAMON.
const ASYNC: [u32; 4] = [0, 5, DEMOTION, 9];

/// Returns `true` if migrations for this reason may block; `false` for an unknown number.
pub fn may_block(reason: u32) -> bool {
    BITS.contains(&reason) && !ASYNC.contains(&reason)
}

/// The numbers of the reasons.
const BITS: core::ops::Range<u32> = 0..NAMES.len() as u32;

/// Returns the bit of a reason; 0 for a number that a mask has no room for.
fn bit_of(reason: u32) -> u32 {
    1u32.checked_shl(reason).unwrap_or(0)
}

/// A set of migration reasons.
///
/// Its text is `all`, `none`, or names with commas between them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReasonMask(u32);

impl ReasonMask {
    /// The empty set.
    pub const NONE: ReasonMask = ReasonMask(0);
    /// The set of all reasons.
    pub const ALL: ReasonMask = ReasonMask((1 << NAMES.len()) - 1);

    /// Creates the set with these bits, bit n for reason n. Bits that no reason has are dropped.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Returns the bits of the set, bit n for reason n.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Returns `true` if the reason with this number of `enum migrate_reason` is in the set.
    #[inline]
    pub fn contains(self, reason: u32) -> bool {
        self.0 & bit_of(reason) != 0
    }

    /// Parses a set. White space around the text and around names is ignored.
    ///
    /// # Errors
    ///
    /// Returns an error with the first word that is not the name of a reason.
    pub fn parse(text: &str) -> Result<Self, ReasonError<'_>> {
        match text.trim_ascii() {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut mask = 0;
        let mut rest = Some(text);
        while let Some(text) = rest {
            let comma = text.as_bytes().iter().position(|b| *b == b',');
            let (word, more) = match comma {
                Some(at) => (text.get(..at), text.get(at.saturating_add(1)..)),
                None => (Some(text), None),
            };
            // A comma is one byte, so both slices are at character boundaries.
            let word = word.unwrap_or_default().trim_ascii();
            match BITS.zip(NAMES).find(|(_, name)| *name == word) {
                Some((bit, _)) => mask |= bit_of(bit),
                None => return Err(ReasonError { word }),
            }
            rest = more;
        }
        Ok(Self(mask))
    }
}

impl fmt::Display for ReasonMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => return f.write_str("all"),
            Self::NONE => return f.write_str("none"),
            _ => {}
        }
        let mut comma = "";
        for (bit, name) in BITS.zip(NAMES) {
            if self.contains(bit) {
                f.write_str(comma)?;
                f.write_str(name)?;
                comma = ",";
            }
        }
        Ok(())
    }
}

/// A word that is not the name of a reason.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReasonError<'a> {
    word: &'a str,
}

impl<'a> ReasonError<'a> {
    /// Returns the word as it was written.
    pub fn word(&self) -> &'a str {
        self.word
    }
}

impl fmt::Display for ReasonError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word {
            "" => f.write_str("a migration reason is missing")?,
            word @ ("all" | "none") => return write!(f, "\"{word}\" has to stand alone"),
            word => write!(
                f,
                "unknown migration reason \"{}\"",
                crate::knob::Printable(word)
            )?,
        }
        f.write_str(" (allowed: all, none, or some of ")?;
        for (i, name) in NAMES.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            f.write_str(name)?;
        }
        f.write_str(")")
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_reasons))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::knob::tests_support::shows;

    #[test]
    fn order_is_the_kernels() {
        for (i, name) in (0u32..).zip(NAMES) {
            let mask = ReasonMask::parse(name);
            assert_eq!(mask, Ok(ReasonMask::from_bits(1 << i)));
        }
        assert_eq!(ReasonMask::parse("compaction"), Ok(ReasonMask(1)));
        assert_eq!(ReasonMask::parse("syscall"), Ok(ReasonMask(1 << 3)));
        assert_eq!(ReasonMask::parse("demotion"), Ok(ReasonMask(1 << DEMOTION)));
        assert_eq!(ReasonMask::parse("damon"), Ok(ReasonMask(1 << 9)));
        assert_eq!(ReasonMask::ALL.bits(), 0x3ff);
    }

    #[test]
    fn lists_are_read_and_shown() {
        let mask = ReasonMask::parse(" demotion, syscall,syscall\n");
        assert_eq!(mask, Ok(ReasonMask(1 << 3 | 1 << 8)));
        assert!(shows(ReasonMask(1 << 3 | 1 << 8), "syscall,demotion"));
        assert!(shows(ReasonMask::ALL, "all"));
        assert!(shows(ReasonMask::NONE, "none"));
        assert_eq!(ReasonMask::parse("all\n"), Ok(ReasonMask::ALL));
        assert_eq!(ReasonMask::parse("none"), Ok(ReasonMask::NONE));
    }

    #[test]
    fn errors_say_which_word() {
        let e = ReasonMask::parse("syscall,demotoin,damon");
        assert_eq!(e, Err(ReasonError { word: "demotoin" }));
        assert!(shows(
            ReasonError { word: "demotoin" },
            "unknown migration reason \"demotoin\" (allowed: all, none, or some of compaction, \
             memory_failure, memory_hotplug, syscall, mempolicy_mbind, numa_misplaced, \
             contig_range, longterm_pin, demotion, damon)"
        ));
        assert_eq!(ReasonMask::parse(""), Err(ReasonError { word: "" }));
        assert_eq!(ReasonMask::parse("syscall,"), Err(ReasonError { word: "" }));
        assert!(shows(
            ReasonError { word: "" },
            "a migration reason is missing (allowed: all, none, or some of compaction, \
             memory_failure, memory_hotplug, syscall, mempolicy_mbind, numa_misplaced, \
             contig_range, longterm_pin, demotion, damon)"
        ));
        assert_eq!(
            ReasonMask::parse("all,damon"),
            Err(ReasonError { word: "all" })
        );
        assert!(shows(
            ReasonError { word: "all" },
            "\"all\" has to stand alone"
        ));
        assert_eq!(
            ReasonMask::parse("Syscall"),
            Err(ReasonError { word: "Syscall" })
        );
        assert_eq!(ReasonError { word: "x" }.word(), "x");
    }

    #[test]
    fn numbers_beyond_the_reasons_are_in_no_set() {
        assert!(ReasonMask::ALL.contains(9));
        assert!(!ReasonMask::ALL.contains(10));
        assert!(!ReasonMask::ALL.contains(32));
        assert!(!ReasonMask::ALL.contains(u32::MAX));
        assert_eq!(ReasonMask::from_bits(u32::MAX), ReasonMask::ALL);
    }
}
