// SPDX-License-Identifier: GPL-2.0

//! The checker's word, sound and broken, and memory that it watches.
//!
//! Models share data by the standard `Arc`, not the checker's: references are not under test, and
//! the checker's `Arc` cannot be dropped when a mutant fails.

use ferry_core::{
    Chunk,
    ChunkCounter,
    Lane,
    Settle,
    Word, //
};
use loom::sync::atomic::{
    AtomicU32,
    Ordering::{
        self,
        AcqRel,
        Acquire,
        Relaxed,
        Release, //
    },
};
use std::{
    collections::BTreeSet,
    marker::PhantomData,
    sync::{
        atomic::AtomicU64,
        Arc, //
    },
};

/// The orderings of a word. The defaults are those that [`Word`] requires; each mutant changes one.
pub(crate) trait Orders: Send + Sync + 'static {
    const LOAD_ACQUIRE: Ordering = Acquire;
    const STORE_RELEASE: Ordering = Release;
    const EXCHANGE_FAILS: Ordering = Acquire;
    const EXCHANGE_SUCCEEDS: Ordering = AcqRel;
    /// `false` if compare-and-exchange is a load and a plain store.
    const EXCHANGE_IS_ATOMIC: bool = true;
}

/// The orderings that the protocol requires.
pub(crate) struct Sound;
impl Orders for Sound {}

/// Mutant: a completion does not release.
pub(crate) struct StoreRelaxed;
impl Orders for StoreRelaxed {
    const STORE_RELEASE: Ordering = Relaxed;
}

/// Mutant: reading a state does not acquire.
pub(crate) struct LoadRelaxed;
impl Orders for LoadRelaxed {
    const LOAD_ACQUIRE: Ordering = Relaxed;
}

/// Mutant: a compare-and-exchange that fails does not acquire, as the kernel's without the barrier
/// in `kernel_glue`.
pub(crate) struct FailureRelaxed;
impl Orders for FailureRelaxed {
    const EXCHANGE_FAILS: Ordering = Relaxed;
}

/// Mutant: a compare-and-exchange that succeeds orders nothing.
pub(crate) struct ExchangeRelaxed;
impl Orders for ExchangeRelaxed {
    const EXCHANGE_SUCCEEDS: Ordering = Relaxed;
}

/// Mutant: claims and revocations load, then store.
pub(crate) struct ExchangeTorn;
impl Orders for ExchangeTorn {
    const EXCHANGE_IS_ATOMIC: bool = false;
}

/// The checker's atomic as a word of the protocol.
pub(crate) struct ModelWord<O>(AtomicU32, PhantomData<O>);

impl<O: Orders> ModelWord<O> {
    pub(crate) fn new(v: u32) -> Self {
        Self(AtomicU32::new(v), PhantomData)
    }
}

impl<O: Orders> Word for ModelWord<O> {
    fn load_relaxed(&self) -> u32 {
        self.0.load(Relaxed)
    }

    fn load_acquire(&self) -> u32 {
        self.0.load(O::LOAD_ACQUIRE)
    }

    fn store_relaxed(&self, v: u32) {
        self.0.store(v, Relaxed);
    }

    fn store_release(&self, v: u32) {
        self.0.store(v, O::STORE_RELEASE);
    }

    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        if O::EXCHANGE_IS_ATOMIC {
            let (good, bad) = (O::EXCHANGE_SUCCEEDS, O::EXCHANGE_FAILS);
            return self.0.compare_exchange(old, new, good, bad);
        }
        let seen = self.0.load(Acquire);
        if seen != old {
            return Err(seen);
        }
        self.0.store(new, Release);
        Ok(seen)
    }
}

/// Memory of the size of a chunk or a folio; the checker watches the accesses to it.
pub(crate) struct Bytes(loom::cell::UnsafeCell<u32>);

// SAFETY: The checker fails the model at the first access that is not ordered with another one,
// and threads of a model run one at a time.
unsafe impl Sync for Bytes {}

impl Bytes {
    pub(crate) fn new(v: u32) -> Self {
        Self(loom::cell::UnsafeCell::new(v))
    }

    pub(crate) fn get(&self) -> u32 {
        // SAFETY: The pointer is to the cell itself, and no other access happens meanwhile, which
        // the checker verifies.
        self.0.with(|p| unsafe { *p })
    }

    pub(crate) fn set(&self, v: u32) {
        // SAFETY: As in `get()`.
        self.0.with_mut(|p| unsafe { *p = v });
    }
}

/// Returns the content of the source of chunk `i` before it is moved.
pub(crate) fn content(i: usize) -> u32 {
    100 + i as u32
}

/// The content of memory that was freed and has another user.
pub(crate) const REUSED: u32 = 0xdead;

/// Source and destination of one chunk or one folio, and how often it was copied.
pub(crate) struct Memory {
    pub(crate) src: Bytes,
    pub(crate) dst: Bytes,
    pub(crate) copies: Bytes,
}

impl Memory {
    pub(crate) fn new(i: usize) -> Self {
        Self {
            src: Bytes::new(content(i)),
            dst: Bytes::new(0),
            copies: Bytes::new(0),
        }
    }

    /// Copies, as a lane does between a claim and its end.
    pub(crate) fn copy(&self) {
        self.dst.set(self.src.get());
        self.copies.set(self.copies.get() + 1);
    }

    /// Copies as a lane does that fails in the middle.
    pub(crate) fn copy_and_fail(&self) {
        let _ = self.src.get();
        self.dst.set(!0);
    }

    /// Accesses the memory as the mover may once the folio is settled: the source is freed and gets
    /// another user, the destination is mapped and written by its user.
    pub(crate) fn let_go(&self) {
        self.src.set(REUSED);
        self.dst.set(REUSED);
    }
}

/// The chunks of a batch, with memory of their own.
pub(crate) struct Batch<O> {
    pub(crate) ticket: ChunkCounter<ModelWord<O>>,
    pub(crate) chunks: Vec<Chunk<ModelWord<O>>>,
    pub(crate) memory: Vec<Memory>,
    /// The chunk that every lane but the mover fails to copy.
    pub(crate) poison: Option<usize>,
}

impl<O: Orders> Batch<O> {
    pub(crate) fn new(chunks: usize, poison: Option<usize>) -> Self {
        Self {
            ticket: ChunkCounter::new(ModelWord::new(0)),
            chunks: (0..chunks).map(|_| Chunk::new(ModelWord::new(0))).collect(),
            memory: (0..chunks).map(Memory::new).collect(),
            poison,
        }
    }

    /// Runs a worker, which takes numbers of chunks as long as there are any.
    pub(crate) fn help(&self, lane: Lane) {
        while let Some(i) = self.ticket.take(self.chunks.len() as u32) {
            self.try_copy(i as usize, lane);
        }
    }

    /// Claims one chunk, copies and completes it. Returns `false` if it was not free.
    pub(crate) fn try_copy(&self, i: usize, lane: Lane) -> bool {
        let claimed = self.chunks[i].try_claim(lane);
        if claimed {
            let ok = self.poison != Some(i);
            if ok {
                self.memory[i].copy();
            } else {
                self.memory[i].copy_and_fail();
            }
            self.chunks[i].complete(lane, ok);
        }
        claimed
    }
}

/// The notes of all interleavings of a model.
///
/// A model that never reaches the situation that it is about would pass, too; its notes show that
/// it did reach it.
#[derive(Default)]
pub(crate) struct Seen(std::sync::Mutex<BTreeSet<&'static str>>);

impl Seen {
    pub(crate) fn note(&self, what: &'static str) {
        self.0.lock().unwrap().insert(what);
    }

    /// Notes a step of settling.
    pub(crate) fn step(&self, step: Settle) {
        self.note(match step {
            Settle::AllCopied => "all copied",
            Settle::Mine(_) => "mine",
            Settle::NotStarted => "not started",
            Settle::Partial => "partial",
            Settle::Wait(_) => "wait",
        });
    }
}

/// Runs every interleaving of `f`, and returns its notes in alphabetical order.
pub(crate) fn explore(f: impl Fn(&Seen) + Sync + Send + 'static) -> Vec<&'static str> {
    run(None, f)
}

/// Runs every interleaving of `f` with at most `preemptions` switches away from a thread that could
/// have gone on, and returns its notes.
pub(crate) fn explore_bounded(
    preemptions: usize,
    f: impl Fn(&Seen) + Sync + Send + 'static,
) -> Vec<&'static str> {
    run(Some(preemptions), f)
}

fn run(preemptions: Option<usize>, f: impl Fn(&Seen) + Sync + Send + 'static) -> Vec<&'static str> {
    let mut builder = loom::model::Builder::new();
    // The settings do not come from the environment, so a model proves the same wherever it runs.
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.max_duration = None;
    builder.max_permutations = None;
    let seen = Arc::new(Seen::default());
    let runs = Arc::new(AtomicU64::new(0));
    {
        let (seen, runs) = (seen.clone(), runs.clone());
        builder.check(move || {
            runs.fetch_add(1, Relaxed);
            f(&seen);
        });
    }
    let runs = runs.load(Relaxed);
    let seen = Vec::from_iter(seen.0.lock().unwrap().iter().copied());
    println!("{runs} interleavings, preemptions {preemptions:?}, seen {seen:?}");
    // A single interleaving would mean that the model has no concurrency.
    assert!(runs > 1);
    seen
}
