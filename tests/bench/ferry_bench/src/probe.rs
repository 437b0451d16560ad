// SPDX-License-Identifier: GPL-2.0

//! Measures when the first folio of a batch is readable again.
//!
//! A second thread, on another CPU, reads the first word of the batch over and over with a time
//! stamp around each read. While the folio is under migration the read faults and sleeps in the
//! kernel until it is mapped again; so the probe leaves its CPU to others during that gap, and a
//! worker may run there. It also yields after each read: `move_pages(2)` begins by having every
//! CPU empty its LRU caches, which would wait for a timer tick if the probe kept its CPU to
//! itself. A gap counts only if the thread's own fault counter says that it was a fault: being
//! preempted for something else is not taken for migration.

use crate::pattern;
use crate::sys;
use std::hint::spin_loop;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex};

/// Ticks of a read above which the probe checks for a fault.
const SUSPICIOUS_TICKS: u64 = 1000;

/// Reads before the mover may begin.
const WARM_READS: u64 = 16;

/// Observations of the probe during one batch; time stamps in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// From the last good read before the first fault to the first good one after the last.
    pub gap: Option<(u64, u64)>,
    /// Bytes of the probed word that were wrong, over all reads.
    pub bad_bytes: u64,
}

/// The meeting point of mover and probe. Numbers of batches go up; 0 is none.
pub struct Probe {
    mapping: Arc<sys::Mapping>,
    index: AtomicUsize,
    expected: AtomicU64,
    ordered: AtomicU64,
    reading: AtomicU64,
    finish: AtomicU64,
    finished: AtomicU64,
    seen: Mutex<Seen>,
    quit: AtomicBool,
}

impl Probe {
    pub fn new(mapping: Arc<sys::Mapping>) -> Self {
        Probe {
            mapping,
            index: AtomicUsize::new(0),
            expected: AtomicU64::new(0),
            ordered: AtomicU64::new(0),
            reading: AtomicU64::new(0),
            finish: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            seen: Mutex::new(Seen::default()),
            quit: AtomicBool::new(false),
        }
    }

    /// Runs the probe's thread until [`Probe::quit`].
    pub fn run(&self) {
        let mut last = 0;
        while !self.quit.load(Acquire) {
            let number = self.ordered.load(Acquire);
            if number == last {
                spin_loop();
                continue;
            }
            last = number;
            let seen = self.watch(number);
            *self.seen.lock().expect("no thread panics") = seen;
            self.finished.store(number, Release);
        }
    }

    fn watch(&self, number: u64) -> Seen {
        let word = &self.mapping.words()[self.index.load(Relaxed)];
        let expected = self.expected.load(Relaxed);
        let mut gaps = Gaps::new(sys::thread_usage().faults);
        let mut bad_bytes = 0;
        let mut reads = 0u64;
        loop {
            let before = sys::ticks();
            let value = word.load(Relaxed);
            let after = sys::ticks();
            if value != expected {
                bad_bytes += pattern::bad_bytes(value, expected);
            }
            if after.wrapping_sub(before) > SUSPICIOUS_TICKS {
                gaps.suspect(before, after, sys::thread_usage().faults);
            }
            reads += 1;
            if reads == WARM_READS {
                self.reading.store(number, Release);
            }
            if reads > WARM_READS && self.finish.load(Relaxed) == number {
                return Seen {
                    gap: gaps.gap,
                    bad_bytes,
                };
            }
        }
    }

    /// Starts watching a word, and returns when the probe is really reading it.
    pub fn start(&self, number: u64, index: usize, expected: u64) {
        self.index.store(index, Relaxed);
        self.expected.store(expected, Relaxed);
        self.ordered.store(number, Release);
        while self.reading.load(Acquire) != number {
            spin_loop();
        }
    }

    /// Ends it, and says what was seen.
    pub fn stop(&self, number: u64) -> Seen {
        self.finish.store(number, Release);
        while self.finished.load(Acquire) != number {
            spin_loop();
        }
        *self.seen.lock().expect("no thread panics")
    }

    pub fn quit(&self) {
        self.quit.store(true, Release);
    }
}

/// Joins the gaps that were faults.
struct Gaps {
    faults: u64,
    gap: Option<(u64, u64)>,
}

impl Gaps {
    fn new(faults: u64) -> Self {
        Gaps { faults, gap: None }
    }

    fn suspect(&mut self, before: u64, after: u64, faults: u64) {
        if faults != self.faults {
            self.faults = faults;
            self.gap = Some((self.gap.map_or(before, |(start, _)| start), after));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_make_a_gap() {
        let mut gaps = Gaps::new(5);
        gaps.suspect(100, 900, 5);
        assert_eq!(gaps.gap, None);
        gaps.suspect(1000, 1500, 6);
        gaps.suspect(1600, 2500, 6);
        gaps.suspect(3000, 3500, 8);
        assert_eq!(gaps.gap, Some((1000, 3500)));
    }

    #[test]
    fn probe_reports_what_it_reads() {
        let mapping = Arc::new(sys::Mapping::new(4096).unwrap());
        mapping.words()[3].store(7, Relaxed);
        mapping.words()[4].store(7 ^ 0xff00, Relaxed);
        let probe = Probe::new(mapping);
        std::thread::scope(|scope| {
            scope.spawn(|| probe.run());
            probe.start(1, 3, 7);
            assert_eq!(probe.stop(1).bad_bytes, 0);
            probe.start(2, 4, 7);
            assert!(probe.stop(2).bad_bytes >= 16);
            probe.quit();
        });
    }
}
