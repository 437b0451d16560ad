// SPDX-License-Identifier: GPL-2.0

//! Knobs whose values are numbers or words: the allowed values, and the reason why another value is
//! refused.
//!
//! # Examples
//!
//! ```
//! use ferry_core::knob::{CopyRoutine, FromKnob, CHUNK_BYTES, COPY_ROUTINE};
//!
//! assert_eq!(CHUNK_BYTES.parse("131072\n"), Ok(131072));
//! let refused = CHUNK_BYTES.parse("70000").unwrap_err();
//! assert_eq!(
//!     refused.to_string(),
//!     "chunk_bytes: \"70000\" is not a multiple of 4096 \
//!      (allowed: 65536 to 262144, multiples of 4096)",
//! );
//!
//! // The value of a word is its index.
//! let value = COPY_ROUTINE.parse("nontemporal").unwrap();
//! assert_eq!(value, 2);
//! assert_eq!(CopyRoutine::from_knob(value), CopyRoutine::NonTemporal);
//! assert_eq!(COPY_ROUTINE.shown(value).to_string(), "nontemporal");
//! ```

use core::fmt;

/// A knob. Its value is a number, or the index of one of its words.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// The name below `vm.ferry`.
    pub name: &'static str,
    /// The smallest value.
    pub min: u64,
    /// The largest value.
    pub max: u64,
    /// The divisor of all values; 1 if any value in the range is allowed.
    pub multiple_of: u64,
    /// The value when the module is loaded.
    pub default: u64,
    /// The words that are written instead of a number; empty if the knob takes numbers.
    pub words: &'static [&'static str],
}

/// Creates a knob that takes numbers.
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
    // The compiler evaluates this for the knobs below.
    assert!(min <= max && multiple_of > 0 && knob.refusal(default).is_none());
    knob
}

/// Creates a knob that takes words, the first of which is the default.
const fn choice(name: &'static str, words: &'static [&'static str]) -> Knob {
    Knob {
        name,
        min: 0,
        // The compiler evaluates this and refuses an empty list.
        max: words.len() as u64 - 1,
        multiple_of: 1,
        default: 0,
        words,
    }
}

/// A type that the value of a knob stands for.
pub trait FromKnob {
    /// Returns the meaning of a value that the knob allows; for any other value, the meaning of the
    /// default.
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
    /// The node whose workers are preferred.
    CpuNode {
        /// The node of the destination.
        Destination = "destination",
        /// The node of the source.
        Source = "source",
    }
}

words! {
    /// The routine with which CPUs copy.
    CopyRoutine {
        /// The reason of the migration decides.
        Auto = "auto",
        /// The stores go through the caches.
        Cached = "cached",
        /// The stores go past the caches.
        NonTemporal = "nontemporal",
    }
}

words! {
    /// The share of a batch that an engine copies.
    EngineShare {
        /// The share by which batches of the class have gained most.
        Auto = "auto",
        /// The whole batch.
        All = "all",
    }
}

/// The most folios of one batch of `migrate_pages()`. The default is the size of a batch of the
/// stock kernel.
pub const BATCH_FOLIOS: Knob = knob("batch_folios", (1, 4096), 1, 512);
/// The most bytes of one batch of `migrate_pages()`. The default is the size of a batch of the
/// stock kernel.
pub const BATCH_BYTES: Knob = knob("batch_bytes", (4096, 1 << 30), 1, 2 << 20);
/// The size of the largest chunk, in bytes. Workers copy a chunk with preemption off, which takes a
/// CPU 25 to 100 microseconds at this size.
pub const MAX_CHUNK_BYTES: u64 = 256 << 10;
/// The size of a chunk, in bytes. The default is the smallest value, with which a mover waits least
/// for a chunk in flight.
pub const CHUNK_BYTES: Knob = knob("chunk_bytes", (64 << 10, MAX_CHUNK_BYTES), 4096, 64 << 10);
/// The size of the smallest batch that is submitted early, in eligible bytes. The default is that
/// of a chunk: a smaller batch has a single chunk, and nothing for a worker.
pub const MIN_BATCH_BYTES: Knob = knob("min_batch_bytes", (0, 1 << 30), 1, 64 << 10);
/// The size, in bytes, of the smallest folio for whose copy in place the mover gets help.
pub const MIN_FOLIO_BYTES: Knob = knob("min_folio_bytes", (4096, 1 << 30), 1, 256 << 10);
/// The bytes by which CPU workers may be ahead of the mover.
pub const LOOKAHEAD_BYTES: Knob = knob("lookahead_bytes", (0, 1 << 30), 1, 4 << 20);
/// The most workers that one batch wakes.
pub const CPU_WORKERS: Knob = knob("cpu_workers", (0, 64), 1, 8);
/// The most workers for one batch of a task in a control group other than the root. Their time is
/// charged to the group, and is not limited by its `cpu.max`.
pub const CGROUP_WORKERS: Knob = knob("cgroup_workers", (0, 64), 1, 64);
/// The most workers that migrate whole batches of one call, beside its mover.
pub const SPREAD_WORKERS: Knob = knob("spread_workers", (0, 64), 1, 0);
/// The node whose workers are preferred.
pub const CPU_NODE: Knob = choice("cpu_node", CpuNode::WORDS);
/// The routine with which CPUs copy.
pub const COPY_ROUTINE: Knob = choice("copy_routine", CopyRoutine::WORDS);
/// The share of a batch that an engine copies.
pub const ENGINE_SHARE: Knob = choice("engine_share", EngineShare::WORDS);
/// The most channels that the selected migrator holds.
pub const DMA_CHANNELS: Knob = knob("dma_channels", (1, 64), 1, 16);
/// `1` lets Ferry use DMA drivers that do not report failures.
pub const DMA_UNTRUSTED: Knob = knob("dma_untrusted", (0, 1), 1, 0);
/// The time, in milliseconds, after which an unfinished claim counts as not quiet. The default is
/// long, because an overcommitted host may well take the CPU of a worker away for a second, and a
/// folio that fails for this reason is worse than a folio that is late.
pub const TIMEOUT_MS: Knob = knob("timeout_ms", (1, 60_000), 1, 10_000);

impl Knob {
    /// Parses a value: decimal digits, or one of the words. White space around it is ignored.
    ///
    /// # Errors
    ///
    /// Returns an error whose text names the knob, the value and the allowed values, for a text
    /// that is not a decimal number in the range and a multiple of [`Self::multiple_of`], or not
    /// one of [`Self::words`] if the knob has any.
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
        // A number that does not fit into a `u64` is outside any range.
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

    /// Returns the text for a value: its word, or the number.
    pub fn shown(&self, value: u64) -> impl fmt::Display {
        let word = usize::try_from(value).ok().and_then(|i| self.words.get(i));
        Value(value, word.copied())
    }

    /// Returns the reason why the knob cannot have this value; `None` if it can.
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

/// A value and its word, if it has one.
struct Value(u64, Option<&'static str>);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(word) => f.write_str(word),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The reason why a value is refused.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The text is not a decimal number.
    NotANumber,
    /// The number is below the smallest or above the largest value.
    OutOfRange,
    /// The number is not a multiple of [`Knob::multiple_of`].
    NotAMultiple,
    /// The text is none of [`Knob::words`].
    NotAWord,
}

/// A value that a knob cannot have. Its text names the knob, the value and the allowed values.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct KnobError<'a> {
    knob: Knob,
    text: &'a str,
    refusal: Refusal,
}

impl KnobError<'_> {
    /// Returns the reason why the value is refused.
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
                f.write_str("not a valid word (allowed: ")?;
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

/// Text from a user, made fit for a message: it is escaped, and cut after 32 characters.
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

/// Helpers for the tests of several modules.
#[cfg(any(CONFIG_KUNIT = "y", all(test, not(CONFIG_RUST))))]
pub(crate) mod tests_support {
    use core::fmt::{
        self,
        Write, //
    };

    /// A writer that removes each text that is written from the expected one.
    struct Expect<'a>(&'a str);

    impl Write for Expect<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(s).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    /// Returns `true` if `value` is shown as exactly `text`. It compares while it formats, because
    /// the crate cannot allocate.
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
            "cpu_node: \"both\" is not a valid word (allowed: destination, source)"
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
