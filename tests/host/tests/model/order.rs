// SPDX-License-Identifier: GPL-2.0

//! Models of the protocol's environment: store fences (I11), and the reference count that shows
//! whether a folio's content is final (I1, I2).

use crate::support::*;
use ferry_core::{
    entry_mark,
    settle_shared,
    settle_span,
    Chunk,
    EntryState,
    Lane,
    Settle, //
};
use loom::{
    sync::atomic::{
        fence, AtomicU32,
        Ordering::{
            AcqRel,
            Acquire,
            Relaxed,
            Release,
            SeqCst, //
        },
    },
    thread, //
};
use std::sync::Arc;

const HELPER: Lane = Lane::new(1);

/// The write-combining buffer of a processor: a non-temporal store reaches memory at any later
/// time, whatever else the processor stores or releases meanwhile.
struct WriteCombining(thread::JoinHandle<()>);

impl WriteCombining {
    /// Copies `memory` with non-temporal stores.
    fn copy(memory: Arc<Memory>) -> Self {
        let v = memory.src.get();
        Self(thread::spawn(move || memory.dst.set(v)))
    }

    /// Empties the buffer as `sfence` does: its stores are visible before any later store.
    fn fence(self) {
        self.0.join().unwrap();
    }
}

fn non_temporal_chunk(fenced: bool, seen: &Seen) {
    let chunk = Arc::new(Chunk::<ModelWord<Sound>>::new(ModelWord::new(0)));
    let memory = Arc::new(Memory::new(0));
    let worker = {
        let chunk = chunk.clone();
        let memory = memory.clone();
        thread::spawn(move || {
            if !chunk.try_claim(HELPER) {
                return;
            }
            let buffer = WriteCombining::copy(memory);
            if fenced {
                buffer.fence();
                chunk.complete(HELPER, true);
            } else {
                chunk.complete(HELPER, true);
                buffer.fence();
            }
        })
    };
    loop {
        let step = settle_span(core::slice::from_ref(&*chunk), false);
        seen.step(step);
        match step {
            Settle::Wait(_) => thread::yield_now(),
            Settle::AllCopied => {
                assert_eq!(memory.dst.get(), content(0));
                break;
            }
            Settle::NotStarted => break,
            step => panic!("{step:?}"),
        }
    }
    memory.let_go();
    worker.join().unwrap();
    assert_eq!(memory.dst.get(), REUSED);
}

#[test]
fn fenced_non_temporal_stores() {
    let seen = explore(|seen| non_temporal_chunk(true, seen));
    assert_eq!(seen, ["all copied", "not started", "wait"]);
}

#[test]
#[should_panic(expected = "left == right")]
fn mutant_non_temporal_stores_without_fence() {
    explore(|seen| non_temporal_chunk(false, seen));
}

/// Models the same for entries: a fence has to precede each mark, because one at the end of the
/// chunk is too late.
fn non_temporal_entry(fenced: bool, seen: &Seen) {
    let chunk = Arc::new(Chunk::<ModelWord<Sound>>::new(ModelWord::new(0)));
    let entry = Arc::new(ModelWord::<Sound>::new(0));
    let memory = Arc::new(Memory::new(0));
    let worker = {
        let (chunk, entry, memory) = (chunk.clone(), entry.clone(), memory.clone());
        thread::spawn(move || {
            if !chunk.try_claim(HELPER) {
                return;
            }
            let buffer = WriteCombining::copy(memory);
            if fenced {
                buffer.fence();
                entry_mark(&*entry, EntryState::Copied);
            } else {
                entry_mark(&*entry, EntryState::Copied);
                buffer.fence();
            }
            chunk.complete(HELPER, true);
        })
    };
    loop {
        let step = settle_shared(&chunk, &*entry);
        seen.step(step);
        let Settle::Wait(_) = step else { break };
        thread::yield_now();
    }
    memory.let_go();
    worker.join().unwrap();
    assert_eq!(memory.dst.get(), REUSED);
}

#[test]
fn fenced_non_temporal_stores_by_entry() {
    let seen = explore(|seen| non_temporal_entry(true, seen));
    assert_eq!(seen, ["all copied", "not started", "wait"]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_entry_marked_before_the_fence() {
    explore(|seen| non_temporal_entry(false, seen));
}

/// The reference count of a folio that is unmapped and isolated and has no other holder.
const EXPECTED: u32 = 1;
/// The content that the writer writes.
const WRITTEN: u32 = 77;

/// The notes of a model of a writer that reaches all cases.
const EVERY_END: [&str; 4] = [
    "moved, copied early",
    "moved, copied now",
    "not moved",
    "not moved, copied early",
];

/// A folio that a writer outside migration may hold.
struct Folio {
    refs: AtomicU32,
    /// The page table entry by which user space and get_user_pages() find it; 0 when unmapped.
    pte: AtomicU32,
    /// The folio lock. The mover holds it from the start and lets it go once.
    locked: AtomicU32,
    /// 1 if the mapping has the new folio in it. Accessed under the lock.
    moved: Bytes,
    /// The content of `struct folio`, which is reused when the folio is.
    meta: Bytes,
    chunk: Chunk<ModelWord<Sound>>,
    memory: Memory,
}

impl Folio {
    fn new(refs: u32) -> Self {
        Self {
            refs: AtomicU32::new(refs),
            pte: AtomicU32::new(1),
            locked: AtomicU32::new(1),
            moved: Bytes::new(0),
            meta: Bytes::new(EXPECTED),
            chunk: Chunk::new(ModelWord::new(0)),
            memory: Memory::new(0),
        }
    }

    /// Copies early as a worker does (I1): it claims, then checks the count, then copies.
    fn copy_early(&self, acquire: bool) {
        if !self.chunk.try_claim(HELPER) {
            return;
        }
        let quiet = self.refs.load(Relaxed) == self.meta.get();
        if quiet {
            if acquire {
                fence(Acquire);
            }
            self.memory.copy();
        }
        self.chunk.complete(HELPER, quiet);
    }

    fn settle(&self) -> Settle {
        loop {
            match settle_span(core::slice::from_ref(&self.chunk), false) {
                Settle::Wait(_) => thread::yield_now(),
                last => return last,
            }
        }
    }

    /// Does the rest of the migration: settle, stock check, stock copy if need be, move, unlock.
    /// Returns `true` if the folio moved.
    fn migrate(&self, seen: &Seen) -> bool {
        let last = self.settle();
        let moved = self.refs.load(Acquire) == EXPECTED;
        seen.note(match (moved, last) {
            (true, Settle::AllCopied) => "moved, copied early",
            (true, _) => "moved, copied now",
            (false, Settle::AllCopied) => "not moved, copied early",
            (false, _) => "not moved",
        });
        if moved {
            if last != Settle::AllCopied {
                self.memory.copy();
            }
            self.moved.set(1);
            self.meta.set(REUSED);
        }
        self.locked.store(0, Release);
        moved
    }

    /// Writes as a writer that obeys the rule: it has a reference of its own, locks after that, and
    /// checks whether the folio is still in the mapping.
    fn write_locked(&self) {
        while self.locked.load(Acquire) != 0 {
            thread::yield_now();
        }
        if self.moved.get() == 1 {
            self.memory.dst.set(WRITTEN);
        } else {
            self.memory.src.set(WRITTEN);
        }
    }

    /// Returns the content that user space reads in the end.
    fn content(&self, moved: bool) -> u32 {
        if moved {
            self.memory.dst.get()
        } else {
            self.memory.src.get()
        }
    }
}

/// Models I1: a writer has held a reference since before the batch, writes, and drops the reference
/// while a worker checks the count.
fn writer_with_a_reference(acquire: bool, seen: &Seen) {
    let folio = Arc::new(Folio::new(EXPECTED + 1));
    let writer = {
        let folio = folio.clone();
        thread::spawn(move || {
            folio.memory.src.set(WRITTEN);
            folio.refs.fetch_sub(1, Release);
        })
    };
    let worker = {
        let folio = folio.clone();
        thread::spawn(move || folio.copy_early(acquire))
    };
    let moved = folio.migrate(seen);
    writer.join().unwrap();
    worker.join().unwrap();
    assert_eq!(folio.content(moved), WRITTEN);
}

#[test]
fn count_then_acquire() {
    let seen = explore(|seen| writer_with_a_reference(true, seen));
    assert_eq!(
        seen,
        ["moved, copied early", "moved, copied now", "not moved"]
    );
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_count_without_acquire() {
    explore(|seen| writer_with_a_reference(false, seen));
}

/// Mutant: copies without checking the count.
#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_copy_without_looking_at_the_count() {
    explore(|seen| {
        let folio = Arc::new(Folio::new(EXPECTED + 1));
        let writer = {
            let folio = folio.clone();
            thread::spawn(move || {
                folio.memory.src.set(WRITTEN);
                folio.refs.fetch_sub(1, Release);
            })
        };
        let worker = {
            let folio = folio.clone();
            thread::spawn(move || {
                if folio.chunk.try_claim(HELPER) {
                    folio.memory.copy();
                    folio.chunk.complete(HELPER, true);
                }
            })
        };
        folio.migrate(seen);
        writer.join().unwrap();
        worker.join().unwrap();
    });
}

/// I2: a writer takes its reference at any time, for example through the swap cache, and locks.
#[test]
fn writer_that_locks_after_its_grab() {
    let seen = explore(|seen| {
        let folio = Arc::new(Folio::new(EXPECTED));
        let writer = {
            let folio = folio.clone();
            thread::spawn(move || {
                folio.refs.fetch_add(1, AcqRel);
                folio.write_locked();
                folio.refs.fetch_sub(1, AcqRel);
            })
        };
        let worker = {
            let folio = folio.clone();
            thread::spawn(move || folio.copy_early(true))
        };
        let moved = folio.migrate(seen);
        writer.join().unwrap();
        worker.join().unwrap();
        assert_eq!(folio.content(moved), WRITTEN);
    });
    assert_eq!(seen, EVERY_END);
}

/// Shows why shmem is not eligible while memfd_pin_folios() pins without the lock: the count is
/// right when the worker checks it and when the mover checks it, and the write in between is lost.
///
/// The content is atomic here, as the bytes of a folio are for a processor, so the model fails
/// because of the lost write, not because of the race.
#[test]
#[should_panic(expected = "lost write")]
fn mutant_writer_that_does_not_lock() {
    explore(|_| {
        let refs = Arc::new(AtomicU32::new(EXPECTED));
        let src = Arc::new(AtomicU32::new(content(0)));
        let chunk = Arc::new(Chunk::<ModelWord<Sound>>::new(ModelWord::new(0)));
        let dst = Arc::new(Bytes::new(0));
        let writer = {
            let (refs, src) = (refs.clone(), src.clone());
            thread::spawn(move || {
                refs.fetch_add(1, AcqRel);
                src.store(WRITTEN, Relaxed);
                refs.fetch_sub(1, AcqRel);
            })
        };
        assert!(chunk.try_claim(HELPER));
        let quiet = refs.load(Acquire) == EXPECTED;
        if quiet {
            dst.set(src.load(Relaxed));
        }
        chunk.complete(HELPER, quiet);
        let last = settle_span(core::slice::from_ref(&*chunk), false);
        // The check of the stock kernel, which comes with its freeze if there is one.
        let moved = refs.compare_exchange(EXPECTED, 0, AcqRel, Acquire).is_ok();
        if moved && last == Settle::Partial {
            dst.set(src.load(Relaxed));
        }
        let by_then = src.load(Relaxed);
        writer.join().unwrap();
        // A write before the move has to be in what was moved.
        let lost = moved && by_then == WRITTEN && dst.get() != WRITTEN;
        assert!(!lost, "lost write");
    });
}

/// Models get_user_pages_fast() against unmap: it takes a reference by the page table, then checks
/// the entry again.
///
/// If the entry has gone, the writer takes the slow path through the fault, which waits for the
/// lock.
fn writer_by_page_table(fences: bool, seen: &Seen) {
    let folio = Arc::new(Folio::new(EXPECTED));
    let writer = {
        let folio = folio.clone();
        thread::spawn(move || {
            if folio.pte.load(Relaxed) == 1 {
                folio.refs.fetch_add(1, AcqRel);
                if fences {
                    fence(SeqCst);
                }
                let mapped = folio.pte.load(Relaxed) == 1;
                if mapped {
                    folio.memory.src.set(WRITTEN);
                }
                folio.refs.fetch_sub(1, Release);
                if mapped {
                    return;
                }
            }
            folio.write_locked();
        })
    };
    // The mover unmaps and flushes.
    folio.pte.store(0, Relaxed);
    if fences {
        fence(SeqCst);
    }
    let worker = {
        let folio = folio.clone();
        thread::spawn(move || folio.copy_early(true))
    };
    let moved = folio.migrate(seen);
    writer.join().unwrap();
    worker.join().unwrap();
    assert_eq!(folio.content(moved), WRITTEN);
}

#[test]
fn writer_by_page_table_is_seen_after_the_flush() {
    let seen = explore_bounded(3, |seen| writer_by_page_table(true, seen));
    assert_eq!(seen, EVERY_END);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_claim_before_the_flush() {
    explore_bounded(3, |seen| writer_by_page_table(false, seen));
}

/// Mutant: checks the folio before the claim, when the mover may still free the folio.
#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_check_before_claim() {
    explore(|seen| {
        let folio = Arc::new(Folio::new(EXPECTED));
        let worker = {
            let folio = folio.clone();
            thread::spawn(move || {
                let quiet = folio.refs.load(Acquire) == folio.meta.get();
                if quiet && folio.chunk.try_claim(HELPER) {
                    folio.memory.copy();
                    folio.chunk.complete(HELPER, true);
                }
            })
        };
        folio.migrate(seen);
        folio.memory.src.set(REUSED);
        worker.join().unwrap();
    });
}

/// The same model passes with the claim first.
#[test]
fn check_after_claim() {
    let seen = explore(|seen| {
        let folio = Arc::new(Folio::new(EXPECTED));
        let worker = {
            let folio = folio.clone();
            thread::spawn(move || folio.copy_early(true))
        };
        assert!(folio.migrate(seen));
        folio.memory.src.set(REUSED);
        assert_eq!(folio.memory.dst.get(), content(0));
        worker.join().unwrap();
    });
    assert_eq!(seen, ["moved, copied early", "moved, copied now"]);
}

/// Mutant of I6: the stock check comes first, and a folio that fails it is freed unsettled.
#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_check_before_settle() {
    explore(|_| {
        let folio = Arc::new(Folio::new(EXPECTED));
        let worker = {
            let folio = folio.clone();
            thread::spawn(move || folio.copy_early(true))
        };
        let walker = {
            let folio = folio.clone();
            thread::spawn(move || {
                // Another task holds the folio for a moment and never writes.
                folio.refs.fetch_add(1, AcqRel);
                folio.refs.fetch_sub(1, AcqRel);
            })
        };
        if folio.refs.load(Acquire) == EXPECTED {
            folio.settle();
        }
        folio.memory.let_go();
        worker.join().unwrap();
        walker.join().unwrap();
    });
}
