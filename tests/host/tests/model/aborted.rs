// SPDX-License-Identifier: GPL-2.0

//! Models of a descriptor that its driver has given up, while its engine may still write.
//!
//! Behind an IOMMU, the device is cut off from the memory and the descriptor has failed: the mover
//! copies. Without one, the slot says that the descriptor was given up; the mover parks the folio
//! and goes on, and a proof that the engine is quiet ends the descriptor later. The slot has the
//! states of `src/engine/channel/slot.rs`; the chunk and its count are the code of the module.

use crate::support::*;
use ferry_core::{
    claim::Pending,
    Chunk,
    ChunkState,
    Lane,
    Word, //
};
use loom::{
    sync::Mutex,
    thread, //
};
use std::sync::Arc;

/// The change that breaks the model.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Mutant {
    None,
    /// A descriptor that was given up counts as ended.
    EndBelieved,
    /// The IOMMU forgets a mapping that it may be using.
    NoFlush,
    /// The address is mapped to other memory afterwards.
    AddressGivenBack,
    /// A proof ends only descriptors that were not given up.
    ProofPassesOver,
}

const LANE: Lane = Lane::new(1);
const BUSY: u32 = 0;
const ENDING: u32 = 1;
const ENDED: u32 = 2;
const GIVEN_UP: u32 = 3;

/// The content that a late write leaves.
const LATE: u32 = 0xdb;

/// The translation of the destination's address that an IOMMU has stored.
enum Iommu<O> {
    /// An access holds the lock, and so does a flush that is waited for.
    Flushes(Mutex<Option<usize>>),
    /// The value is not 0 while the address is mapped to the first memory.
    DoesNotFlush(ModelWord<O>),
}

struct Engine<O> {
    chunk: Chunk<ModelWord<O>>,
    pending: Pending<ModelWord<O>>,
    slot: ModelWord<O>,
    /// The memory of the descriptor, and memory that is mapped after it.
    memory: [Memory; 2],
    iommu: Option<Iommu<O>>,
    /// Stored with release when the hardware does not access memory any more, which a proof shows.
    quiet: ModelWord<O>,
    mutant: Mutant,
}

impl<O: Orders> Engine<O> {
    fn new(translated: bool, mutant: Mutant) -> Arc<Self> {
        let engine = Arc::new(Self {
            chunk: Chunk::new(ModelWord::new(0)),
            pending: Pending::new(ModelWord::new(0)),
            slot: ModelWord::new(BUSY),
            memory: [Memory::new(0), Memory::new(1)],
            iommu: translated.then(|| match mutant {
                Mutant::NoFlush => Iommu::DoesNotFlush(ModelWord::new(1)),
                _ => Iommu::Flushes(Mutex::new(Some(0))),
            }),
            quiet: ModelWord::new(0),
            mutant,
        });
        assert!(engine.chunk.try_claim(LANE));
        engine.pending.begin();
        engine.pending.add();
        assert_eq!(engine.pending.end(true), None);
        engine
    }

    /// Runs the descriptor as the hardware does, whatever its driver believes.
    fn write_late(&self) {
        match &self.iommu {
            None => self.memory[0].dst.set(LATE),
            Some(Iommu::Flushes(leads)) => {
                let leads = leads.lock().unwrap();
                if let Some(i) = *leads {
                    self.memory[i].dst.set(LATE);
                }
            }
            Some(Iommu::DoesNotFlush(leads)) => {
                if leads.load_acquire() != 0 {
                    self.memory[0].dst.set(LATE);
                }
            }
        }
        self.quiet.store_release(1);
    }

    /// Returns `true` if there is an IOMMU, which has then cut the device off.
    fn cut(&self) -> bool {
        match &self.iommu {
            None => return false,
            Some(Iommu::Flushes(leads)) => *leads.lock().unwrap() = None,
            Some(Iommu::DoesNotFlush(leads)) => leads.store_release(0),
        }
        true
    }

    fn give_up(&self) {
        if self.slot.compare_exchange(BUSY, ENDING).is_err() {
            return;
        }
        if self.cut() || self.mutant == Mutant::EndBelieved {
            self.finish(false);
        } else {
            self.slot.store_release(GIVEN_UP);
        }
    }

    fn finish(&self, ok: bool) {
        if let Some(ok) = self.pending.end(ok) {
            self.chunk.complete(LANE, ok);
        }
        self.slot.store_release(ENDED);
    }

    /// Asks for proof and, if there is one, ends the descriptor unless it has ended. Returns `true`
    /// if it has ended.
    fn prove(&self) -> bool {
        if self.quiet.load_acquire() == 0 {
            return false;
        }
        let taken = self.slot.compare_exchange(BUSY, ENDING).is_ok()
            || self.mutant != Mutant::ProofPassesOver
                && self.slot.compare_exchange(GIVEN_UP, ENDING).is_ok();
        if taken {
            self.finish(false);
        }
        self.slot.load_acquire() == ENDED
    }
}

/// Runs the hardware, its driver, and a mover, for one chunk behind an IOMMU.
fn translated<O: Orders>(mutant: Mutant, seen: &Seen) {
    let engine = Engine::<O>::new(true, mutant);
    let hardware = {
        let engine = engine.clone();
        thread::spawn(move || engine.write_late())
    };
    let driver = {
        let engine = engine.clone();
        thread::spawn(move || engine.give_up())
    };
    while let ChunkState::Claimed(_) = engine.chunk.state() {
        seen.note("waits");
        thread::yield_now();
    }
    assert_eq!(engine.chunk.state(), ChunkState::Failed);
    let [first, second] = &engine.memory;
    first.copy();
    assert_eq!(first.dst.get(), content(0));
    first.let_go();
    // The next copy is mapped, made, and unmapped.
    second.copy();
    if let (Mutant::AddressGivenBack, Some(Iommu::Flushes(leads))) = (mutant, &engine.iommu) {
        *leads.lock().unwrap() = Some(1);
        thread::yield_now();
        *leads.lock().unwrap() = None;
    }
    assert_eq!(second.dst.get(), content(1));
    for thread in [hardware, driver] {
        thread.join().unwrap();
    }
    assert_eq!(first.dst.get(), REUSED);
}

/// Runs the same where nothing translates, with a keeper that asks for proof.
fn not_translated<O: Orders>(mutant: Mutant, seen: &Seen) {
    let engine = Engine::<O>::new(false, mutant);
    let hardware = {
        let engine = engine.clone();
        thread::spawn(move || engine.write_late())
    };
    let driver = {
        let engine = engine.clone();
        thread::spawn(move || engine.give_up())
    };
    let first = &engine.memory[0];
    // The mover copies if the chunk has ended, and parks the folio if it has been given up.
    let parked = loop {
        match engine.chunk.state() {
            ChunkState::Claimed(_) if engine.slot.load_acquire() == GIVEN_UP => break true,
            ChunkState::Claimed(_) => {
                engine.prove();
                thread::yield_now();
            }
            _ => break false,
        }
    };
    if parked {
        seen.note("parked");
        driver.join().unwrap();
        while engine.quiet.load_acquire() == 0 {
            thread::yield_now();
        }
        assert!(engine.prove(), "never ends");
    } else {
        seen.note("failed");
        first.copy();
        assert_eq!(first.dst.get(), content(0));
        driver.join().unwrap();
    }
    assert_eq!(engine.chunk.state(), ChunkState::Failed);
    first.let_go();
    hardware.join().unwrap();
    assert_eq!(first.dst.get(), REUSED);
}

#[test]
fn behind_an_iommu() {
    let seen = explore(|seen| translated::<Sound>(Mutant::None, seen));
    assert_eq!(seen, ["waits"]);
}

#[test]
fn without_an_iommu() {
    let seen = explore(|seen| not_translated::<Sound>(Mutant::None, seen));
    assert_eq!(seen, ["failed", "parked"]);
}

#[test]
#[should_panic]
fn mutant_no_flush() {
    explore(|seen| translated::<Sound>(Mutant::NoFlush, seen));
}

#[test]
#[should_panic]
fn mutant_address_given_back() {
    explore(|seen| translated::<Sound>(Mutant::AddressGivenBack, seen));
}

#[test]
#[should_panic]
fn mutant_end_believed() {
    explore(|seen| not_translated::<Sound>(Mutant::EndBelieved, seen));
}

#[test]
#[should_panic = "never ends"]
fn mutant_proof_passes_over() {
    explore(|seen| not_translated::<Sound>(Mutant::ProofPassesOver, seen));
}

#[test]
#[should_panic]
fn mutant_proof_relaxed() {
    explore(|seen| not_translated::<LoadRelaxed>(Mutant::None, seen));
}
