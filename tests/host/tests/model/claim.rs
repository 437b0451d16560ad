// SPDX-License-Identifier: GPL-2.0

//! Models of chunks, of the chunk counter, of folios that span several chunks, and of the end of a
//! batch.

use crate::support::*;
use ferry_core::{
    close,
    settle_span,
    Chunk,
    ChunkCounter, //
    ChunkState,
    Lane,
    Settle,
};
use loom::thread;
use std::{
    collections::BTreeSet,
    sync::Arc, //
};

/// The notes of a model of settling with help that reaches all cases.
const STEPS_WITH_HELP: [&str; 3] = ["all copied", "mine", "wait"];

type SettleFn<O> = fn(&[Chunk<ModelWord<O>>], bool) -> Settle;
type CloseFn<O> = fn(&[Chunk<ModelWord<O>>]) -> Option<u32>;

/// A model of one folio that spans all chunks of a batch, of workers, and of a mover that settles
/// the folio and frees its memory at once.
#[derive(Copy, Clone)]
struct Span {
    chunks: usize,
    workers: u8,
    help: bool,
    poison: Option<usize>,
}

impl Span {
    fn run<O: Orders>(self, settle: SettleFn<O>, seen: &Seen) {
        let batch = Arc::new(Batch::<O>::new(self.chunks, self.poison));
        let workers: Vec<_> = (1..=self.workers)
            .map(|lane| {
                let batch = batch.clone();
                thread::spawn(move || batch.help(Lane::new(lane)))
            })
            .collect();

        let mut mine = BTreeSet::new();
        let last = loop {
            let step = settle(&batch.chunks, self.help);
            seen.step(step);
            match step {
                Settle::Mine(i) => {
                    assert!(self.help);
                    assert!(mine.insert(i));
                    let i = i as usize;
                    batch.memory[i].copy();
                    batch.chunks[i].complete(Lane::MOVER, true);
                }
                Settle::Wait(i) => {
                    assert!(!mine.contains(&i));
                    thread::yield_now();
                }
                last => break last,
            }
        };

        for (i, (chunk, memory)) in batch.chunks.iter().zip(&batch.memory).enumerate() {
            // The model checks first that no other thread accesses this memory.
            let copies = memory.copies.get();
            let dst = memory.dst.get();
            match chunk.state() {
                ChunkState::Done => {
                    assert_eq!((copies, dst), (1, content(i)));
                    // A folio whose first chunk a lane has begun is not given up.
                    let whole = i == 0 && self.help && self.poison.is_none();
                    assert!(!whole || last == Settle::AllCopied);
                }
                ChunkState::Revoked => {
                    assert_eq!((copies, dst), (0, 0));
                    // Unless a lane fails in between, the mover copies nothing of a folio that
                    // it cannot complete.
                    assert!(mine.is_empty() || self.poison.is_some());
                }
                ChunkState::Failed => assert_eq!(copies, 0),
                // This is wrong, and the memory below shows the consequence.
                ChunkState::Free | ChunkState::Claimed(_) => {}
            }
            match last {
                Settle::AllCopied => assert_eq!(dst, content(i)),
                Settle::NotStarted => assert_eq!(copies, 0),
                _ => {}
            }
            memory.let_go();
        }

        for worker in workers {
            worker.join().unwrap();
        }
        for (chunk, memory) in batch.chunks.iter().zip(&batch.memory) {
            assert_eq!(memory.src.get(), REUSED);
            assert_eq!(memory.dst.get(), REUSED);
            assert!(!matches!(
                chunk.state(),
                ChunkState::Free | ChunkState::Claimed(_)
            ));
        }
    }
}

const SMALL: Span = Span {
    chunks: 2,
    workers: 1,
    help: true,
    poison: None,
};

#[test]
fn span_one_helper() {
    let seen = explore(|seen| SMALL.run::<Sound>(settle_span, seen));
    assert_eq!(seen, STEPS_WITH_HELP);
}

#[test]
fn span_one_helper_without_help() {
    let seen = explore(|seen| {
        Span {
            help: false,
            ..SMALL
        }
        .run::<Sound>(settle_span, seen);
    });
    assert_eq!(seen, ["all copied", "not started", "partial", "wait"]);
}

#[test]
fn span_one_helper_that_fails() {
    for poison in [Some(0), Some(1)] {
        explore(move |seen| Span { poison, ..SMALL }.run::<Sound>(settle_span, seen));
    }
}

#[test]
fn span_two_helpers() {
    let seen = explore_bounded(3, |seen| {
        Span {
            workers: 2,
            ..SMALL
        }
        .run::<Sound>(settle_span, seen);
    });
    assert_eq!(seen, STEPS_WITH_HELP);
}

#[test]
fn span_two_helpers_without_help() {
    let seen = explore_bounded(3, |seen| {
        Span {
            workers: 2,
            help: false,
            ..SMALL
        }
        .run::<Sound>(settle_span, seen);
    });
    assert_eq!(seen, ["all copied", "not started", "partial", "wait"]);
}

#[test]
fn span_two_helpers_three_chunks() {
    let seen = explore_bounded(2, |seen| {
        Span {
            workers: 2,
            chunks: 3,
            ..SMALL
        }
        .run::<Sound>(settle_span, seen);
    });
    assert_eq!(seen, STEPS_WITH_HELP);
}

#[test]
fn span_two_helpers_three_chunks_one_fails() {
    let seen = explore_bounded(2, |seen| {
        Span {
            workers: 2,
            chunks: 3,
            poison: Some(1),
            ..SMALL
        }
        .run::<Sound>(settle_span, seen);
    });
    assert_eq!(seen, ["all copied", "mine", "partial", "wait"]);
}

#[test]
fn span_one_helper_four_chunks() {
    let seen = explore_bounded(2, |seen| {
        Span { chunks: 4, ..SMALL }.run::<Sound>(settle_span, seen);
    });
    assert_eq!(seen, STEPS_WITH_HELP);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_completion_without_release() {
    explore(|seen| SMALL.run::<StoreRelaxed>(settle_span, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_state_without_acquire() {
    explore(|seen| SMALL.run::<LoadRelaxed>(settle_span, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_claim_and_revoke_by_plain_store() {
    explore(|seen| SMALL.run::<ExchangeTorn>(settle_span, seen));
}

/// Mutant: a chunk in flight counts as given up.
fn settle_without_waiting<O: Orders>(chunks: &[Chunk<ModelWord<O>>], help: bool) -> Settle {
    match settle_span(chunks, help) {
        Settle::Wait(_) => Settle::Partial,
        step => step,
    }
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_settle_that_ignores_what_is_in_flight() {
    explore(|seen| {
        Span {
            help: false,
            ..SMALL
        }
        .run::<Sound>(settle_without_waiting, seen);
    });
}

/// Mutant: the answer is "all copied" although a chunk was revoked.
fn settle_blind_to_revocation<O: Orders>(chunks: &[Chunk<ModelWord<O>>], help: bool) -> Settle {
    match settle_span(chunks, help) {
        Settle::Partial if !chunks.iter().any(|c| c.state() == ChunkState::Failed) => {
            Settle::AllCopied
        }
        step => step,
    }
}

#[test]
#[should_panic(expected = "left == right")]
fn mutant_settle_that_takes_revoked_for_copied() {
    explore(|seen| {
        Span {
            help: false,
            ..SMALL
        }
        .run::<Sound>(settle_blind_to_revocation, seen);
    });
}

/// Mutant: the answer is "not started" although the chunks were not revoked.
fn settle_without_revoking<O: Orders>(chunks: &[Chunk<ModelWord<O>>], help: bool) -> Settle {
    if chunks.iter().all(|c| c.state() == ChunkState::Free) {
        return Settle::NotStarted;
    }
    settle_span(chunks, help)
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_settle_that_does_not_revoke() {
    explore(|seen| SMALL.run::<Sound>(settle_without_revoking, seen));
}

/// Models a batch that ends while workers still take chunks of it.
fn end_of_batch<O: Orders>(chunks: usize, workers: u8, close: CloseFn<O>, seen: &Seen) {
    let batch = Arc::new(Batch::<O>::new(chunks, None));
    let workers: Vec<_> = (1..=workers)
        .map(|lane| {
            let batch = batch.clone();
            thread::spawn(move || batch.help(Lane::new(lane)))
        })
        .collect();
    while let Some(i) = close(&batch.chunks) {
        assert!((i as usize) < chunks);
        seen.note("wait");
        thread::yield_now();
    }
    for (chunk, memory) in batch.chunks.iter().zip(&batch.memory) {
        memory.let_go();
        seen.note(match chunk.state() {
            ChunkState::Done => "done",
            ChunkState::Revoked => "revoked",
            _ => "not over",
        });
    }
    for worker in workers {
        worker.join().unwrap();
    }
    for (chunk, memory) in batch.chunks.iter().zip(&batch.memory) {
        assert_eq!(memory.dst.get(), REUSED);
        assert!(!chunk.try_claim(Lane::new(9)));
    }
}

#[test]
fn close_one_helper() {
    let seen = explore(|seen| end_of_batch::<Sound>(3, 1, close, seen));
    assert_eq!(seen, ["done", "revoked", "wait"]);
}

#[test]
fn close_two_helpers() {
    let seen = explore_bounded(3, |seen| end_of_batch::<Sound>(2, 2, close, seen));
    assert_eq!(seen, ["done", "revoked", "wait"]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_failed_revocation_without_acquire() {
    explore(|seen| end_of_batch::<FailureRelaxed>(2, 1, close, seen));
}

/// Mutant: waits for the lanes that hold a claim, and does not prevent further claims.
fn close_without_revoking<O: Orders>(chunks: &[Chunk<ModelWord<O>>]) -> Option<u32> {
    chunks
        .iter()
        .position(|c| matches!(c.state(), ChunkState::Claimed(_)))
        .map(|i| i as u32)
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_close_that_allows_later_claims() {
    explore(|seen| end_of_batch::<Sound>(2, 1, close_without_revoking, seen));
}

/// Mutant: does not wait for the chunks in flight.
fn close_once<O: Orders>(chunks: &[Chunk<ModelWord<O>>]) -> Option<u32> {
    let _ = close(chunks);
    None
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_close_that_does_not_wait() {
    explore(|seen| end_of_batch::<Sound>(2, 1, close_once, seen));
}

/// I13: the end of a batch does not wait for a worker that was preempted between its number and its
/// claim. That worker finds the batch closed whenever it goes on.
#[test]
fn close_does_not_wait_for_who_holds_no_claim() {
    explore(|_| {
        let batch = Arc::new(Batch::<Sound>::new(2, None));
        let go = Arc::new(loom::sync::Notify::new());
        let worker = {
            let batch = batch.clone();
            let go = go.clone();
            thread::spawn(move || {
                let i = batch.ticket.take(2).unwrap();
                go.wait();
                assert!(!batch.try_copy(i as usize, Lane::new(1)));
            })
        };
        assert_eq!(close(&batch.chunks), None);
        for memory in &batch.memory {
            memory.let_go();
        }
        go.notify();
        worker.join().unwrap();
    });
}

/// Takes numbers with each of these limits until there are none left, and returns them.
fn take_all(ticket: &ChunkCounter<ModelWord<impl Orders>>, limits: &[u32]) -> Vec<u32> {
    let mut got = Vec::new();
    for limit in limits {
        while let Some(i) = ticket.take(*limit) {
            assert!(i < *limit);
            got.push(i);
        }
    }
    got
}

/// Models two lanes that take numbers, with limits that differ and grow.
fn tickets<O: Orders>() {
    let ticket = Arc::new(ChunkCounter::<ModelWord<O>>::new(ModelWord::new(0)));
    let other = {
        let ticket = ticket.clone();
        thread::spawn(move || take_all(&ticket, &[1, 3]))
    };
    let mut got = take_all(&ticket, &[2, 3]);
    let theirs = other.join().unwrap();
    // Numbers are in order within a lane, and each number is taken once, without gaps.
    assert!(got.is_sorted() && theirs.is_sorted());
    got.extend(theirs);
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2]);
    assert_eq!(ticket.taken(), 3);
}

#[test]
fn tickets_are_handed_out_once() {
    explore(|_| tickets::<Sound>());
}

#[test]
#[should_panic(expected = "left == right")]
fn mutant_ticket_by_load_and_store() {
    explore(|_| tickets::<ExchangeTorn>());
}
