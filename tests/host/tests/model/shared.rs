// SPDX-License-Identifier: GPL-2.0

//! Models of folios that share a chunk, and of a whole batch with folios of both kinds.

use crate::support::*;
use ferry_core::{
    close,
    entry_mark,
    entry_state,
    settle_shared,
    settle_span,
    Chunk,
    EntryState,
    Lane,
    Settle, //
};
use loom::thread;
use std::sync::Arc;

/// A model of one chunk with several folios.
struct Shared<O> {
    chunk: Chunk<ModelWord<O>>,
    entries: Vec<ModelWord<O>>,
    memory: Vec<Memory>,
    /// The folio that must not be copied early.
    skip: Option<usize>,
    /// The folio at which the lane gives the whole chunk up.
    poison: Option<usize>,
}

impl<O: Orders> Shared<O> {
    fn new(folios: usize, skip: Option<usize>, poison: Option<usize>) -> Self {
        Self {
            chunk: Chunk::new(ModelWord::new(0)),
            entries: (0..folios).map(|_| ModelWord::new(0)).collect(),
            memory: (0..folios).map(Memory::new).collect(),
            skip,
            poison,
        }
    }

    fn help(&self, lane: Lane) {
        if !self.chunk.try_claim(lane) {
            return;
        }
        for (i, (entry, memory)) in self.entries.iter().zip(&self.memory).enumerate() {
            if self.poison == Some(i) {
                memory.copy_and_fail();
                self.chunk.complete(lane, false);
                return;
            }
            if self.skip == Some(i) {
                // This is the last access of the lane to the folio.
                let _ = memory.src.get();
                entry_mark(entry, EntryState::Skipped);
            } else {
                memory.copy();
                entry_mark(entry, EntryState::Copied);
            }
        }
        self.chunk.complete(lane, true);
    }

    /// Runs the mover, which settles and frees each folio before the next one.
    fn settle(&self, settle: SettleFn<O>, seen: &Seen) {
        for (i, (entry, memory)) in self.entries.iter().zip(&self.memory).enumerate() {
            let last = loop {
                let step = settle(&self.chunk, entry);
                seen.step(step);
                match step {
                    Settle::Wait(_) => thread::yield_now(),
                    last => break last,
                }
            };
            match last {
                Settle::AllCopied => {
                    assert_eq!(memory.copies.get(), 1);
                    assert_eq!(memory.dst.get(), content(i));
                }
                Settle::NotStarted => {
                    assert_eq!(memory.copies.get(), 0);
                    assert_eq!(memory.dst.get(), 0);
                }
                Settle::Partial => {
                    let _ = memory.copies.get();
                    // A lane that never fails skips no folio that may be copied.
                    assert!(self.skip == Some(i) || self.poison.is_some_and(|p| p <= i));
                }
                step => panic!("{step:?}"),
            }
            memory.let_go();
        }
    }

    fn end(&self) {
        for memory in &self.memory {
            assert_eq!(memory.src.get(), REUSED);
            assert_eq!(memory.dst.get(), REUSED);
        }
    }
}

type SettleFn<O> = fn(&Chunk<ModelWord<O>>, &ModelWord<O>) -> Settle;

fn shared<O: Orders>(
    folios: usize,
    workers: u8,
    skip: Option<usize>,
    poison: Option<usize>,
    settle: SettleFn<O>,
    seen: &Seen,
) {
    let all = Arc::new(Shared::<O>::new(folios, skip, poison));
    let workers: Vec<_> = (1..=workers)
        .map(|lane| {
            let all = all.clone();
            thread::spawn(move || all.help(Lane::new(lane)))
        })
        .collect();
    all.settle(settle, seen);
    for worker in workers {
        worker.join().unwrap();
    }
    all.end();
}

#[test]
fn shared_chunk() {
    let seen = explore(|seen| shared::<Sound>(2, 1, None, None, settle_shared, seen));
    assert_eq!(seen, ["all copied", "not started", "wait"]);
}

#[test]
fn shared_chunk_two_helpers() {
    let seen = explore_bounded(3, |seen| {
        shared::<Sound>(2, 2, None, None, settle_shared, seen)
    });
    assert_eq!(seen, ["all copied", "not started", "wait"]);
}

#[test]
fn shared_chunk_three_folios_one_skipped() {
    for skip in 0..3 {
        let seen = explore_bounded(3, move |seen| {
            shared::<Sound>(3, 1, Some(skip), None, settle_shared, seen)
        });
        assert_eq!(seen, ["all copied", "not started", "partial", "wait"]);
    }
}

#[test]
fn shared_chunk_that_fails() {
    for poison in 0..3 {
        explore_bounded(3, move |seen| {
            shared::<Sound>(3, 1, None, Some(poison), settle_shared, seen)
        });
    }
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_entry_without_release() {
    explore(|seen| shared::<StoreRelaxed>(2, 1, None, None, settle_shared, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_entry_without_acquire() {
    explore(|seen| shared::<LoadRelaxed>(2, 1, None, None, settle_shared, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_shared_claim_by_plain_store() {
    explore(|seen| shared::<ExchangeTorn>(2, 1, None, None, settle_shared, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_failed_chunk_without_acquire() {
    // The entry is still Pending, so only the chunk orders what the lane wrote.
    explore(|seen| shared::<FailureRelaxed>(1, 1, None, Some(0), settle_shared, seen));
}

/// Mutant: does not check whether the chunk is final.
fn settle_by_entry_only<O: Orders>(c: &Chunk<ModelWord<O>>, e: &ModelWord<O>) -> Settle {
    match settle_shared(c, e) {
        Settle::Wait(_) => Settle::Partial,
        step => step,
    }
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_shared_settle_that_does_not_wait() {
    explore(|seen| {
        // The mover takes the folio for partial although the lane is copying it.
        let all = Arc::new(Shared::<Sound>::new(1, Some(0), None));
        let worker = {
            let all = all.clone();
            thread::spawn(move || all.help(Lane::new(1)))
        };
        all.settle(settle_by_entry_only, seen);
        worker.join().unwrap();
    });
}

/// Mutant: reads the entry first, then the chunk, which may end in between.
fn settle_entry_first<O: Orders>(c: &Chunk<ModelWord<O>>, e: &ModelWord<O>) -> Settle {
    let state = entry_state(e);
    match settle_shared(c, e) {
        Settle::AllCopied if state != EntryState::Copied => Settle::Partial,
        step => step,
    }
}

#[test]
#[should_panic(expected = "self.skip == Some(i)")]
fn mutant_shared_settle_that_reads_the_entry_first() {
    explore(|seen| shared::<Sound>(1, 1, None, None, settle_entry_first, seen));
}

/// Mutant: the lane marks the entry as copied before it copies.
#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_entry_marked_before_its_bytes() {
    explore(|seen| {
        let all = Arc::new(Shared::<Sound>::new(1, None, None));
        let worker = {
            let all = all.clone();
            thread::spawn(move || {
                if all.chunk.try_claim(Lane::new(1)) {
                    entry_mark(&all.entries[0], EntryState::Copied);
                    all.memory[0].copy();
                    all.chunk.complete(Lane::new(1), true);
                }
            })
        };
        all.settle(settle_shared, seen);
        worker.join().unwrap();
    });
}

/// Models a large folio of two chunks, two small ones that share the third chunk, two workers, and
/// the end of the batch, when all memory is freed. The mover copies ahead instead of waiting.
#[test]
fn whole_batch() {
    let seen = explore_bounded(2, |seen| {
        let large = Arc::new(Batch::<Sound>::new(2, None));
        let small = Arc::new(Shared::<Sound>::new(2, None, None));
        let workers: Vec<_> = (1..=2)
            .map(|lane| {
                let large = large.clone();
                let small = small.clone();
                thread::spawn(move || {
                    while let Some(i) = large.ticket.take(3) {
                        if i < 2 {
                            large.try_copy(i as usize, Lane::new(lane));
                        } else {
                            small.help(Lane::new(lane));
                        }
                    }
                })
            })
            .collect();

        loop {
            let step = settle_span(&large.chunks, true);
            seen.step(step);
            match step {
                Settle::Mine(i) => {
                    large.memory[i as usize].copy();
                    large.chunks[i as usize].complete(Lane::MOVER, true);
                }
                Settle::Wait(_) => match large.ticket.take(3) {
                    Some(2) => small.help(Lane::MOVER),
                    Some(i) => {
                        large.try_copy(i as usize, Lane::MOVER);
                    }
                    None => thread::yield_now(),
                },
                Settle::Partial | Settle::NotStarted => break,
                Settle::AllCopied => {
                    for (i, memory) in large.memory.iter().enumerate() {
                        assert_eq!(memory.dst.get(), content(i));
                    }
                    break;
                }
            }
        }
        large.memory.iter().for_each(Memory::let_go);
        small.settle(settle_shared, seen);
        // A lane may still have to complete the chunk.
        while close(&large.chunks).is_some() || close(core::slice::from_ref(&small.chunk)).is_some()
        {
            thread::yield_now();
        }
        for worker in workers {
            worker.join().unwrap();
        }
        small.end();
    });
    assert_eq!(seen, ["all copied", "mine", "not started", "wait"]);
}
