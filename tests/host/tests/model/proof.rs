// SPDX-License-Identifier: GPL-2.0

//! Models of an engine that does not answer: a party that has proof that the engine is quiet ends
//! its descriptors as failed, and the mover copies into the same destinations.
//!
//! The engine may answer all the same, at any time, so two parties may end the descriptor. The slot
//! of the descriptor, a word that goes from busy to ended by compare-and-exchange, decides which
//! one does, as in `src/engine/channel.rs`. The chunk and its count are the code of the module.

use crate::support::*;
use ferry_core::{
    claim::Pending,
    Chunk,
    ChunkState,
    Lane,
    Word, //
};
use loom::thread;
use std::sync::Arc;

/// The change that breaks the model.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Mutant {
    None,
    /// Descriptors are ended without proof.
    NoProof,
}

const LANE: Lane = Lane::new(1);
const BUSY: u32 = 0;
const ENDED: u32 = 1;

/// A chunk of two descriptors, the second of which is answered late or never.
struct Engine<O> {
    chunk: Chunk<ModelWord<O>>,
    pending: Pending<ModelWord<O>>,
    slots: [ModelWord<O>; 2],
    parts: [Memory; 2],
    /// Stored with release when the hardware does not access memory any more, which a proof shows.
    quiet: ModelWord<O>,
    mutant: Mutant,
}

impl<O: Orders> Engine<O> {
    fn end(&self, i: usize, ok: bool) {
        if self.slots[i].compare_exchange(BUSY, ENDED).is_err() {
            return;
        }
        if let Some(ok) = self.pending.end(ok) {
            self.chunk.complete(LANE, ok);
        }
    }

    /// Runs the hardware, and its driver, which reports the first descriptor and, if `answers`, the
    /// second one.
    fn work(&self, answers: bool) {
        self.parts[0].copy();
        self.end(0, true);
        self.parts[1].copy();
        self.quiet.store_release(1);
        if answers {
            self.end(1, true);
        }
    }

    /// Asks for proof and, if there is one, ends the descriptors that have not ended.
    fn prove(&self) {
        if self.mutant == Mutant::NoProof || self.quiet.load_acquire() != 0 {
            self.end(0, false);
            self.end(1, false);
        }
    }
}

fn run<O: Orders>(answers: bool, mutant: Mutant, seen: &Seen) {
    let engine = Arc::new(Engine::<O> {
        chunk: Chunk::new(ModelWord::new(0)),
        pending: Pending::new(ModelWord::new(0)),
        slots: [ModelWord::new(BUSY), ModelWord::new(BUSY)],
        parts: [Memory::new(0), Memory::new(1)],
        quiet: ModelWord::new(0),
        mutant,
    });
    assert!(engine.chunk.try_claim(LANE));
    engine.pending.begin();
    engine.pending.add();
    engine.pending.add();
    assert_eq!(engine.pending.end(true), None);
    let hardware = engine.clone();
    let hardware = thread::spawn(move || hardware.work(answers));
    // `claim` models that the mover sees the writes of a thread that completes a chunk.
    let state = loop {
        match engine.chunk.state() {
            ChunkState::Claimed(_) => {
                engine.prove();
                thread::yield_now();
            }
            state => break state,
        }
    };
    match state {
        ChunkState::Done => seen.note("done"),
        // The stock code copies the whole folio.
        ChunkState::Failed => {
            seen.note("failed");
            engine.parts.iter().for_each(Memory::copy);
        }
        _ => {}
    }
    for (i, part) in engine.parts.iter().enumerate() {
        // The model checks first that no other thread accesses this memory.
        assert_eq!(part.dst.get(), content(i));
        part.let_go();
    }
    hardware.join().unwrap();
    for part in &engine.parts {
        assert_eq!((part.src.get(), part.dst.get()), (REUSED, REUSED));
    }
}

#[test]
fn one_that_never_answers() {
    let seen = explore(|seen| run::<Sound>(false, Mutant::None, seen));
    assert_eq!(seen, ["failed"]);
}

#[test]
fn one_that_answers_late() {
    let seen = explore(|seen| run::<Sound>(true, Mutant::None, seen));
    assert_eq!(seen, ["done", "failed"]);
}

#[test]
#[should_panic]
fn mutant_no_proof() {
    explore(|seen| run::<Sound>(false, Mutant::NoProof, seen));
}

#[test]
#[should_panic]
fn mutant_proof_relaxed() {
    explore(|seen| run::<LoadRelaxed>(false, Mutant::None, seen));
}
