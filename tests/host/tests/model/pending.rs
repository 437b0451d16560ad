// SPDX-License-Identifier: GPL-2.0

//! Models of a chunk that an engine copies by several descriptors. They end in any order, before or
//! after the last one has been made, and some may fail.

use crate::support::*;
use ferry_core::{
    claim::Pending,
    Chunk,
    ChunkState,
    Lane, //
};
use loom::thread;
use std::sync::Arc;

/// The change that breaks the model.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Mutant {
    None,
    /// A descriptor counts only after it has been given to the engine.
    CountedLate,
    /// The maker of descriptors does not count.
    MakerDoesNotCount,
    /// A failure counts as a success.
    FailureForgotten,
}

const LANE: Lane = Lane::new(1);

struct Engine<O> {
    chunk: Chunk<ModelWord<O>>,
    pending: Pending<ModelWord<O>>,
    /// The memory of each descriptor.
    parts: Vec<Memory>,
}

impl<O: Orders> Engine<O> {
    fn end(&self, ok: bool) {
        if let Some(ok) = self.pending.end(ok) {
            self.chunk.complete(LANE, ok);
        }
    }
}

/// Models a mover that makes descriptors, for as many threads of an engine, waits for the chunk,
/// and frees its memory at once.
fn run<O: Orders>(parts: usize, poison: Option<usize>, mutant: Mutant, seen: &Seen) {
    let engine = Arc::new(Engine::<O> {
        chunk: Chunk::new(ModelWord::new(0)),
        pending: Pending::new(ModelWord::new(0)),
        parts: (0..parts).map(Memory::new).collect(),
    });
    assert!(engine.chunk.try_claim(LANE));
    if mutant != Mutant::MakerDoesNotCount {
        engine.pending.begin();
    }
    let mut channels = vec![];
    for i in 0..parts {
        if mutant != Mutant::CountedLate {
            engine.pending.add();
        }
        let its = engine.clone();
        channels.push(thread::spawn(move || {
            let fails = poison == Some(i);
            if fails {
                its.parts[i].copy_and_fail();
            } else {
                its.parts[i].copy();
            }
            its.end(!fails || mutant == Mutant::FailureForgotten);
        }));
        if mutant == Mutant::CountedLate {
            engine.pending.add();
        }
    }
    if mutant != Mutant::MakerDoesNotCount {
        engine.end(true);
    }
    let state = loop {
        match engine.chunk.state() {
            ChunkState::Claimed(_) => {
                seen.note("waits");
                thread::yield_now();
            }
            state => break state,
        }
    };
    seen.note(match state {
        ChunkState::Done => "done",
        ChunkState::Failed => "failed",
        _ => "neither",
    });
    for (i, part) in engine.parts.iter().enumerate() {
        // The model checks first that no other thread accesses this memory.
        let dst = part.dst.get();
        if state == ChunkState::Done {
            assert_eq!(dst, content(i));
        }
        part.let_go();
    }
    for channel in channels {
        channel.join().unwrap();
    }
    for part in &engine.parts {
        assert_eq!((part.src.get(), part.dst.get()), (REUSED, REUSED));
    }
}

#[test]
fn descriptors_of_a_chunk() {
    for parts in [1, 2] {
        let seen = explore(move |seen| run::<Sound>(parts, None, Mutant::None, seen));
        assert_eq!(seen, ["done", "waits"]);
    }
}

#[test]
fn one_descriptor_fails() {
    for poison in [0, 1] {
        let seen = explore(move |seen| run::<Sound>(2, Some(poison), Mutant::None, seen));
        assert_eq!(seen, ["failed", "waits"]);
    }
}

#[test]
fn three_descriptors() {
    let seen = explore_bounded(1, |seen| run::<Sound>(3, Some(1), Mutant::None, seen));
    assert_eq!(seen, ["failed", "waits"]);
}

#[test]
#[should_panic]
fn mutant_counted_late() {
    explore(|seen| run::<Sound>(2, None, Mutant::CountedLate, seen));
}

#[test]
#[should_panic]
fn mutant_maker_does_not_count() {
    explore(|seen| run::<Sound>(2, None, Mutant::MakerDoesNotCount, seen));
}

#[test]
#[should_panic]
fn mutant_failure_forgotten() {
    explore(|seen| run::<Sound>(2, Some(1), Mutant::FailureForgotten, seen));
}

#[test]
#[should_panic]
fn mutant_end_relaxed() {
    explore(|seen| run::<ExchangeRelaxed>(2, None, Mutant::None, seen));
}

#[test]
#[should_panic]
fn mutant_completion_relaxed() {
    explore(|seen| run::<StoreRelaxed>(1, None, Mutant::None, seen));
}
