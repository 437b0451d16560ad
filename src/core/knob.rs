// SPDX-License-Identifier: GPL-2.0

//! Knobs that are numbers, or one of some words: what is allowed, and what exactly is wrong with a
//! value that is refused.

use core::fmt;

/// A knob. Its value is a number; where there are words, the index of one of them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// Its name below `vm.ferry`.
    pub name: &'static str,
    /// The smallest value.
    pub min: u64,
    /// The largest value.
    pub max: u64,
    /// What every value has to be a multiple of; 1 for any value.
    pub multiple_of: u64,
    /// The value at load.
    pub default: u64,
    /// What is written instead of a number, if any.
    pub words: &'static [&'static str],
}

const fn knob(name: &'static str, range: (u64, u64), multiple_of: u64, default: u64) -> Knob {
    let (min, max) = range;
    let knob = Knob {
        name,
        min,
        max,
        multiple_of,
        default,
        words: &[],
    };
    // Evaluated at compile time for the knobs below.
    assert!(min <= max && multiple_of > 0 && knob.refusal(default).is_none());
    knob
}

const fn choice(name: &'static str, words: &'static [&'static str]) -> Knob {
    Knob {
        name,
        min: 0,
        // Evaluated at compile time: there are a few.
        max: words.len() as u64 - 1,
        multiple_of: 1,
        default: 0,
        words,
    }
}

/// What the value of a knob stands for.
pub trait FromKnob {
    /// Returns it for a value that the knob allows; for any other value, what the default stands
    /// for.
    fn from_knob(value: u64) -> Self;
}

impl FromKnob for u64 {
    fn from_knob(value: u64) -> Self {
        value
    }
}

impl FromKnob for bool {
    fn from_knob(value: u64) -> Self {
        value != 0
    }
}

/// Declares the type of a knob whose values are words, the first of which is the default.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $(#[$first_doc:meta])* $first:ident = $first_word:literal,
        $($(#[$other_doc:meta])* $other:ident = $other_word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $(#[$first_doc])*
            #[default]
            $first,
            $($(#[$other_doc])* $other,)*
        }

        impl $name {
            /// The words, in the order of the values.
            pub const WORDS: &'static [&'static str] = &[$first_word, $($other_word,)*];
        }

        impl FromKnob for $name {
            fn from_knob(value: u64) -> Self {
                $(if value == $name::$other as u64 {
                    return $name::$other;
                })*
                $name::$first
            }
        }
    };
}

words! {
    /// Where workers are looked for first.
    CpuNode {
        /// On the node of the destination.
        Destination = "destination",
        /// On the node of the source.
        Source = "source",
    }
}

words! {
    /// How CPUs copy.
    CopyRoutine {
        /// By the reason of the migration.
        Auto = "auto",
        /// Through the caches.
        Cached = "cached",
        /// Past the caches.
        NonTemporal = "nontemporal",
    }
}

words! {
    /// How much of a batch an engine gets.
    EngineShare {
        /// What such batches have gained most by.
        Auto = "auto",
        /// Everything.
        All = "all",
    }
}

/// Most folios in one batch of `migrate_pages()`.
pub const BATCH_FOLIOS: Knob = knob("batch_folios", (1, 4096), 1, 512);
/// Most bytes in one batch of `migrate_pages()`.
pub const BATCH_BYTES: Knob = knob("batch_bytes", (4096, 1 << 30), 1, 2 << 20);
/// The largest chunk that there may be, in bytes. Workers copy a chunk with preemption off: this
/// takes a CPU 25 to 100 microseconds.
pub const MAX_CHUNK_BYTES: u64 = 256 << 10;
/// The size of a chunk.
pub const CHUNK_BYTES: Knob = knob("chunk_bytes", (64 << 10, MAX_CHUNK_BYTES), 4096, 64 << 10);
/// The smallest eligible batch that is submitted early.
pub const MIN_BATCH_BYTES: Knob = knob("min_batch_bytes", (0, 1 << 30), 1, 64 << 10);
/// The smallest folio that is copied in place by more than the mover.
pub const MIN_FOLIO_BYTES: Knob = knob("min_folio_bytes", (4096, 1 << 30), 1, 256 << 10);
/// How far CPU workers run ahead of the mover.
pub const LOOKAHEAD_BYTES: Knob = knob("lookahead_bytes", (0, 1 << 30), 1, 4 << 20);
/// Most workers that one batch wakes.
pub const CPU_WORKERS: Knob = knob("cpu_workers", (0, 64), 1, 8);
/// Most workers for one batch of a task that is in a control group, other than the root. Their time
/// is charged to the group, and is not limited by its `cpu.max`.
pub const CGROUP_WORKERS: Knob = knob("cgroup_workers", (0, 64), 1, 64);
/// Where workers are looked for first.
pub const CPU_NODE: Knob = choice("cpu_node", CpuNode::WORDS);
/// How CPUs copy.
pub const COPY_ROUTINE: Knob = choice("copy_routine", CopyRoutine::WORDS);
/// How much of a batch an engine gets.
pub const ENGINE_SHARE: Knob = choice("engine_share", EngineShare::WORDS);
/// Most channels of a provider that are held.
pub const DMA_CHANNELS: Knob = knob("dma_channels", (1, 64), 1, 16);
/// Take providers that do not tell of failures.
pub const DMA_UNTRUSTED: Knob = knob("dma_untrusted", (0, 1), 1, 0);
/// After this, an unfinished claim counts as not quiet. Long, as an overcommitted host may well
/// keep the CPU of a worker from us for a second, and a folio that fails for it is worse than one
/// late.
pub const TIMEOUT_MS: Knob = knob("timeout_ms", (1, 60_000), 1, 10_000);

impl Knob {
    /// Reads a value: decimal digits, or one of the words, with white space around them.
    pub fn parse<'a>(&self, text: &'a str) -> Result<u64, KnobError<'a>> {
        let text = text.trim_ascii();
        if !self.words.is_empty() {
            return (0..).zip(self.words).find(|(_, w)| **w == text).map_or(
                Err(KnobError {
                    knob: *self,
                    text,
                    refusal: Refusal::NotAWord,
                }),
                |(value, _)| Ok(value),
            );
        }
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let refused = |refusal| {
            Err(KnobError {
                knob: *self,
                text,
                refusal,
            })
        };
        if !digits {
            return refused(Refusal::NotANumber);
        }
        // What does not fit into a `u64` is outside any range.
        let value = text.bytes().try_fold(0u64, |value, digit| {
            let digit = u64::from(digit.wrapping_sub(b'0'));
            value.checked_mul(10)?.checked_add(digit)
        });
        let Some(value) = value else {
            return refused(Refusal::OutOfRange);
        };
        match self.refusal(value) {
            None => Ok(value),
            Some(refusal) => refused(refusal),
        }
    }

    /// As a person writes this value.
    pub fn shown(&self, value: u64) -> impl fmt::Display {
        let word = usize::try_from(value).ok().and_then(|i| self.words.get(i));
        Value(value, word.copied())
    }

    /// Why the knob cannot have this value, if so.
    pub const fn refusal(&self, value: u64) -> Option<Refusal> {
        if value < self.min || value > self.max {
            return Some(Refusal::OutOfRange);
        }
        match value.checked_rem(self.multiple_of) {
            None | Some(0) => None,
            Some(_) => Some(Refusal::NotAMultiple),
        }
    }
}

/// A value and the word for it.
struct Value(u64, Option<&'static str>);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(word) => f.write_str(word),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Why a value is refused.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a decimal number.
    NotANumber,
    /// It is below the smallest or above the largest value.
    OutOfRange,
    /// It is not a multiple of what it has to be.
    NotAMultiple,
    /// It is none of the words.
    NotAWord,
}

/// A value that a knob cannot have. Its text names the knob, the value and what is allowed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct KnobError<'a> {
    knob: Knob,
    text: &'a str,
    refusal: Refusal,
}

impl KnobError<'_> {
    /// Why it is refused.
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }
}

impl fmt::Display for KnobError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Knob {
            name,
            min,
            max,
            multiple_of,
            words,
            ..
        } = self.knob;
        write!(f, "{name}: \"{}\" is ", Printable(self.text))?;
        match self.refusal {
            Refusal::NotANumber => f.write_str("not a decimal number")?,
            Refusal::OutOfRange => f.write_str("out of range")?,
            Refusal::NotAMultiple => write!(f, "not a multiple of {multiple_of}")?,
            Refusal::NotAWord => {
                f.write_str("no value of it (allowed: ")?;
                for (i, word) in words.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    f.write_str(word)?;
                }
                return f.write_str(")");
            }
        }
        write!(f, " (allowed: {min} to {max}")?;
        if multiple_of > 1 {
            write!(f, ", multiples of {multiple_of}")?;
        }
        f.write_str(")")
    }
}

/// Text from a user as it may stand in a message: printable, and not without end.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 32;
        for c in self.0.chars().take(MOST) {
            write!(f, "{}", c.escape_default())?;
        }
        if self.0.chars().nth(MOST).is_some() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// What tests of several modules share.
#[cfg(any(CONFIG_KUNIT = "y", all(test, not(CONFIG_RUST))))]
pub(crate) mod tests_support {
    use core::fmt::{
        self,
        Write, //
    };

    /// Takes the expected text off as it is written.
    struct Expect<'a>(&'a str);

    impl Write for Expect<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(s).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    /// Whether `value` is shown as exactly `text`. There is no allocation to format into.
    pub(crate) fn shows(value: impl fmt::Display, text: &str) -> bool {
        let mut expect = Expect(text);
        write!(expect, "{value}").is_ok() && expect.0.is_empty()
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_knob))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::knob::tests_support::shows;

    fn refusal(knob: Knob, text: &str) -> Option<Refusal> {
        knob.parse(text).err().map(|e| e.refusal())
    }

    #[test]
    fn values_in_range() {
        assert_eq!(CHUNK_BYTES.parse("131072\n"), Ok(131072));
        assert_eq!(CHUNK_BYTES.parse(" 65536 "), Ok(65536));
        assert_eq!(CHUNK_BYTES.parse("262144"), Ok(262144));
        assert_eq!(CPU_WORKERS.parse("0"), Ok(0));
        assert_eq!(CPU_WORKERS.parse("00064"), Ok(64));
    }

    #[test]
    fn values_refused() {
        assert_eq!(refusal(CHUNK_BYTES, "65535"), Some(Refusal::OutOfRange));
        assert_eq!(refusal(CHUNK_BYTES, "262145"), Some(Refusal::OutOfRange));
        assert_eq!(refusal(CHUNK_BYTES, "70000"), Some(Refusal::NotAMultiple));
        assert_eq!(refusal(CPU_WORKERS, "65"), Some(Refusal::OutOfRange));
        for text in ["", " ", "+1", "-1", "0x10", "1 2", "4k", "1.0", "\u{664}"] {
            assert_eq!(refusal(CPU_WORKERS, text), Some(Refusal::NotANumber));
        }
        let huge = "99999999999999999999999999";
        assert_eq!(refusal(BATCH_BYTES, huge), Some(Refusal::OutOfRange));
        assert_eq!(
            refusal(BATCH_BYTES, "18446744073709551616"),
            Some(Refusal::OutOfRange)
        );
    }

    #[test]
    fn words_are_values() {
        assert_eq!(COPY_ROUTINE.parse(" cached\n"), Ok(1));
        assert_eq!(COPY_ROUTINE.max, 2);
        for text in ["", "Cached", "1", "cached nontemporal", "non"] {
            assert_eq!(refusal(COPY_ROUTINE, text), Some(Refusal::NotAWord));
        }
        assert!(shows(COPY_ROUTINE.shown(2), "nontemporal"));
        assert!(shows(CPU_WORKERS.shown(2), "2"));
        assert_eq!(CopyRoutine::from_knob(2), CopyRoutine::NonTemporal);
        assert_eq!(CopyRoutine::from_knob(0), CopyRoutine::Auto);
        assert_eq!(CopyRoutine::from_knob(u64::MAX), CopyRoutine::default());
        assert_eq!(CpuNode::from_knob(1), CpuNode::Source);
        assert_eq!(EngineShare::from_knob(1), EngineShare::All);
        assert!(says(
            CPU_NODE,
            "both",
            "cpu_node: \"both\" is no value of it (allowed: destination, source)"
        ));
    }

    fn says(knob: Knob, text: &str, message: &str) -> bool {
        knob.parse(text).is_err_and(|e| shows(e, message))
    }

    #[test]
    fn messages_say_what_is_allowed() {
        assert!(says(
            CHUNK_BYTES,
            "70000",
            "chunk_bytes: \"70000\" is not a multiple of 4096 \
             (allowed: 65536 to 262144, multiples of 4096)"
        ));
        assert!(says(
            CPU_WORKERS,
            "65",
            "cpu_workers: \"65\" is out of range (allowed: 0 to 64)"
        ));
        assert!(says(
            TIMEOUT_MS,
            "a\nb",
            "timeout_ms: \"a\\nb\" is not a decimal number (allowed: 1 to 60000)"
        ));
        assert!(shows(
            Printable("12345678901234567890123456789012"),
            "12345678901234567890123456789012"
        ));
        assert!(shows(
            Printable("123456789012345678901234567890123"),
            "12345678901234567890123456789012..."
        ));
    }
}
