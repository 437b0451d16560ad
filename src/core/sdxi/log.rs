// SPDX-License-Identifier: GPL-2.0

//! The error log (SDXI 1.0, section 3.4): entries of 64 bytes that the device writes, and their
//! meaning.

use core::fmt;

/// Number of 64-bit words in an entry.
pub const WORDS: usize = 8;
/// Number of entries in the smallest log, which is the size that software uses.
pub const ENTRIES: usize = 64;

/// The type of every entry.
const TYPE: u64 = 0x7f7;

/// The reaction of the device to an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "re")]
pub enum Reaction {
    /// The device stopped neither context nor function.
    Informative,
    /// The device stopped the context.
    ContextStopped,
    /// The device stopped the function.
    FunctionStopped,
    /// The value has no meaning.
    Undefined(u8),
}

/// An entry of the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "ERRLOG_HD_ENT")]
pub struct Entry {
    /// The processing step that failed.
    pub step: u8,
    /// The way in which it failed.
    pub sub_step: u8,
    /// The reaction of the device.
    #[doc(alias = "re")]
    pub reaction: Reaction,
    /// The context, if the device names one.
    #[doc(alias("cxt_num", "cv"))]
    pub context: Option<u16>,
    /// The index of the descriptor in its ring, if the device names one.
    #[doc(alias("dsc_index", "div"))]
    pub index: Option<u64>,
    /// The number of the descriptor's buffer, if the device names one.
    #[doc(alias("buf", "bv"))]
    pub buffer: Option<u8>,
    /// The class of the error; the meaning of its values is not known.
    #[doc(alias = "err_class")]
    pub class: u16,
    /// Words that the vendor defines.
    pub vendor: [u32; 4],
}

impl Entry {
    /// Decodes an entry. Returns `None` if it is not valid, or has another type.
    pub const fn decode(words: &[u64; WORDS]) -> Option<Self> {
        let head = words[0];
        if head & 1 == 0 || (head >> 16) & 0x7ff != TYPE {
            return None;
        }
        let context = if head >> 32 & 1 != 0 {
            Some((head >> 48) as u16)
        } else {
            None
        };
        let index = if head >> 33 & 1 != 0 {
            Some(words[1])
        } else {
            None
        };
        let buffer = if head >> 34 & 1 != 0 {
            Some((head >> 36 & 7) as u8)
        } else {
            None
        };
        Some(Self {
            step: (head >> 8 & 0x3f) as u8,
            sub_step: (head >> 40 & 0xf) as u8,
            reaction: match head >> 44 & 7 {
                0 => Reaction::Informative,
                1 => Reaction::ContextStopped,
                2 => Reaction::FunctionStopped,
                other => Reaction::Undefined(other as u8),
            },
            context,
            index,
            buffer,
            class: (words[5] >> 32) as u16,
            vendor: [
                words[6] as u32,
                (words[6] >> 32) as u32,
                words[7] as u32,
                (words[7] >> 32) as u32,
            ],
        })
    }
}

/// Returns the name of a processing step for the kernel log.
const fn step_name(step: u8) -> &'static str {
    match step {
        1 => "internal",
        2 => "level 2 entry",
        3 => "level 1 entry",
        4 => "context control",
        5 => "context status",
        6 => "write index",
        7 => "descriptor",
        8 => "completion status block",
        9 => "atomic operation",
        10 => "data buffer",
        11 => "AKey",
        12 => "RKey",
        _ => "unknown step",
    }
}

/// Returns the name of the way in which a step failed for the kernel log.
const fn sub_step_name(sub_step: u8) -> &'static str {
    match sub_step {
        0 => "error",
        1 => "translation failed",
        2 => "access failed",
        3 => "invalid",
        _ => "unknown failure",
    }
}

/// Writes the entry as one line, without a newline.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.context {
            Some(context) => write!(f, "context {context}")?,
            None => f.write_str("function")?,
        }
        if let Some(index) = self.index {
            write!(f, " descriptor {index}")?;
        }
        match self.buffer {
            Some(0) => f.write_str(" source")?,
            Some(1) => f.write_str(" destination")?,
            Some(buffer) => write!(f, " buffer {buffer}")?,
            None => {}
        }
        let (step, sub_step) = (step_name(self.step), sub_step_name(self.sub_step));
        write!(
            f,
            ": {step}: {sub_step} ({}.{}), ",
            self.step, self.sub_step
        )?;
        match self.reaction {
            Reaction::Informative => f.write_str("nothing stopped")?,
            Reaction::ContextStopped => f.write_str("context stopped")?,
            Reaction::FunctionStopped => f.write_str("function stopped")?,
            Reaction::Undefined(other) => write!(f, "unknown reaction {other}")?,
        }
        if self.class != 0 || self.vendor != [0; 4] {
            let [a, b, c, d] = self.vendor;
            write!(
                f,
                ", class {:#x}, vendor {a:#x} {b:#x} {c:#x} {d:#x}",
                self.class
            )?;
        }
        Ok(())
    }
}

/// Returns how many entries wait between the two indices; `None` if the indices are impossible.
#[doc(alias("ERR_RD", "ERR_WRT"))]
pub const fn waiting(read: u64, written: u64) -> Option<usize> {
    match written.checked_sub(read) {
        Some(n) if n <= ENTRIES as u64 => Some(n as usize),
        _ => None,
    }
}

/// Returns the position in the log of the entry with this index.
pub const fn slot(index: u64) -> usize {
    (index % ENTRIES as u64) as usize
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_sdxi_log))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use core::fmt::Write;

    /// The golden entry: a reserved operation in context 3.
    const GOLDEN: [u64; WORDS] = [0x0003_1303_07f7_0701, 4711, 0, 0, 0, 0, 0, 0];

    /// A writer that removes each text that is written from the expected one, as there is no memory
    /// to print to.
    struct Line<'a>(&'a str);

    impl Write for Line<'_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(s).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    fn says(words: [u64; WORDS], line: &str) {
        let Some(entry) = Entry::decode(&words) else {
            panic!("no entry");
        };
        let mut rest = Line(line);
        assert!(write!(rest, "{entry}").is_ok());
        assert!(rest.0.is_empty());
    }

    #[test]
    fn golden_entry() {
        let Some(entry) = Entry::decode(&GOLDEN) else {
            panic!("no entry");
        };
        assert_eq!(entry.context, Some(3));
        assert_eq!(entry.index, Some(4711));
        assert_eq!(entry.buffer, None);
        assert_eq!((entry.step, entry.sub_step), (7, 3));
        assert_eq!(entry.reaction, Reaction::ContextStopped);
        says(
            GOLDEN,
            "context 3 descriptor 4711: descriptor: invalid (7.3), context stopped",
        );
    }

    #[test]
    fn lines() {
        // A destination that cannot be translated, with a word of the vendor.
        let mut words = [0; WORDS];
        words[0] = 0x0001_1117_07f7_0a01;
        words[1] = u64::MAX;
        words[5] = 0xabcd << 32;
        words[7] = 0x9 << 32;
        says(
            words,
            "context 1 descriptor 18446744073709551615 destination: data buffer: translation \
             failed (10.1), context stopped, class 0xabcd, vendor 0x0 0x0 0x0 0x9",
        );
        let mut words = [0; WORDS];
        words[0] = 0xffff_7f00_07f7_3f01;
        says(
            words,
            "function: unknown step: unknown failure (63.15), unknown reaction 7",
        );
    }

    #[test]
    fn what_is_no_entry() {
        assert_eq!(Entry::decode(&[0; WORDS]), None);
        assert_eq!(Entry::decode(&[u64::MAX - 1; WORDS]), None);
        let mut words = GOLDEN;
        words[0] ^= 1 << 16;
        assert_eq!(Entry::decode(&words), None);
    }

    #[test]
    fn indices() {
        assert_eq!(waiting(0, 0), Some(0));
        assert_eq!(waiting(7, 71), Some(64));
        assert_eq!(waiting(7, 72), None);
        assert_eq!(waiting(8, 7), None);
        assert_eq!(waiting(0, u64::MAX), None);
        assert_eq!(waiting(u64::MAX - 3, u64::MAX), Some(3));
        assert_eq!(slot(64), 0);
        assert_eq!(slot(u64::MAX), 63);
    }
}
