// SPDX-License-Identifier: GPL-2.0

//! Models of the ring of an SDXI context, with concurrent producers, a device that takes any valid
//! descriptor with or without a doorbell, and slots that are used again.

use crate::support::*;
use ferry_core::sdxi::{
    descriptor::{
        Descriptor,
        VALID, //
    },
    ring::{
        Memory as RingMemory,
        Report,
        Ring,
        RingSlot, //
    },
};
use loom::{
    sync::{
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{
                Acquire,
                Relaxed,
                Release, //
            },
        },
        Mutex,
    },
    thread, //
};
use std::sync::Arc;

/// The change that breaks the model.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Mutant {
    None,
    /// No barrier orders a descriptor before its valid bit.
    ValidUnordered,
    /// The valid bit is written with the first word, before the others.
    ValidFirst,
    /// No barrier orders later reads after the signal.
    SignalUnordered,
    /// The error is read before the signal.
    ErrorFirst,
    /// A block that was used is not armed again.
    NotArmed,
    /// A descriptor that the device has begun counts as done, as `read_index` would have it.
    BegunIsDone,
    /// Producers have no lock in common.
    NoLock,
}

/// The memory of a ring as the checker sees it. The tag stands for the body of a descriptor.
struct Shared {
    mutant: Mutant,
    words: Vec<AtomicU64>,
    bodies: Vec<Bytes>,
    signals: Vec<AtomicU64>,
    errors: Vec<AtomicBool>,
    /// The error that was read too early, with [`Mutant::ErrorFirst`].
    early: AtomicBool,
    begun: AtomicU64,
    doorbell: AtomicU64,
    copies: Vec<Memory>,
    /// The copy that fails.
    bad: Option<usize>,
    /// A bit for each of [`NOTES`] that happened; the checker does not watch it.
    notes: [std::sync::atomic::AtomicBool; 3],
}

/// The events that a model notes.
const NOTES: [&str; 3] = ["not rung for", "full", "wait"];

/// Returns the copy of a tag: the tag stands for the address.
fn copy(tag: usize) -> Descriptor {
    let at = (tag as u64 + 1) << 12;
    Descriptor::copy(0, at, at | 1 << 40, 64).unwrap()
}

impl RingMemory for Shared {
    fn write(&self, slot: usize, descriptor: &Descriptor) {
        let words = descriptor.words();
        let valid = match self.mutant {
            Mutant::ValidFirst => VALID,
            _ => 0,
        };
        self.words[slot].store(words[0] | valid, Relaxed);
        self.bodies[slot].set((words[3] >> 12) as u32 - 1);
        self.errors[slot].store(false, Relaxed);
        if self.mutant != Mutant::NotArmed {
            self.signals[slot].store(1, Relaxed);
        }
    }

    fn validate(&self, slot: usize, word0: u64) {
        let order = match self.mutant {
            Mutant::ValidUnordered => Relaxed,
            _ => Release,
        };
        self.words[slot].store(word0, order);
    }

    /// Does nothing: the device looks at the valid bit only.
    fn set_write_index(&self, _index: u64) {}

    fn ring(&self, index: u64) {
        self.doorbell.store(index, Release);
    }

    fn signal(&self, slot: usize) -> u64 {
        match self.mutant {
            Mutant::SignalUnordered => self.signals[slot].load(Relaxed),
            Mutant::BegunIsDone => u64::from(self.begun.load(Acquire) == 0),
            Mutant::ErrorFirst => {
                let early = self.errors[slot].load(Relaxed);
                self.early.store(early, Relaxed);
                self.signals[slot].load(Acquire)
            }
            _ => self.signals[slot].load(Acquire),
        }
    }

    fn failed(&self, slot: usize) -> bool {
        match self.mutant {
            Mutant::ErrorFirst => self.early.load(Relaxed),
            _ => self.errors[slot].load(Relaxed),
        }
    }
}

impl Shared {
    fn new(slots: usize, copies: usize, bad: Option<usize>, mutant: Mutant) -> Self {
        Self {
            mutant,
            words: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            bodies: (0..slots).map(|_| Bytes::new(0)).collect(),
            signals: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            errors: (0..slots).map(|_| AtomicBool::new(false)).collect(),
            early: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            doorbell: AtomicU64::new(0),
            copies: (0..copies).map(Memory::new).collect(),
            bad,
            notes: Default::default(),
        }
    }

    /// Runs the device until it has carried out as many descriptors as there are copies.
    fn device(&self) {
        for index in 0..self.copies.len() {
            let slot = index % self.words.len();
            let word0 = loop {
                let word0 = self.words[slot].load(Acquire);
                if word0 & VALID != 0 {
                    break word0;
                }
                thread::yield_now();
            };
            if self.doorbell.load(Relaxed) <= index as u64 {
                self.notes[0].store(true, Relaxed);
            }
            let tag = self.bodies[slot].get() as usize;
            // The valid bit is cleared first, so that the slot is free when the copy is done.
            self.words[slot].store(word0 & !VALID, Relaxed);
            self.begun.fetch_add(1, Release);
            if self.bad == Some(tag) {
                self.copies[tag].copy_and_fail();
                self.errors[slot].store(true, Relaxed);
            } else {
                self.copies[tag].copy();
            }
            self.signals[slot].store(0, Release);
        }
    }
}

/// The data that a lock protects.
struct Locked {
    ring: Ring<Vec<RingSlot>>,
    reported: Vec<Option<bool>>,
}

impl Locked {
    fn new(slots: usize, copies: usize) -> Self {
        Self {
            ring: Ring::new(vec![RingSlot::EMPTY; slots]).unwrap(),
            reported: vec![None; copies],
        }
    }

    fn reap(&mut self, shared: &Shared) {
        let reported = &mut self.reported;
        self.ring.reap(shared, |tag, good| {
            let before = reported[tag as usize].replace(good);
            assert_eq!(before, None, "reported twice");
        });
    }
}

/// Hands one copy over once there is room.
fn submit(shared: &Shared, locked: &Mutex<Locked>, tag: usize) {
    loop {
        let mut guard = locked.lock().unwrap();
        let pushed = (guard.ring).push(shared, &copy(tag), Report::Tag(tag as u32));
        if pushed.is_ok() {
            assert!(guard.ring.publish(shared));
            return;
        }
        shared.notes[1].store(true, Relaxed);
        guard.reap(shared);
        drop(guard);
        thread::yield_now();
    }
}

/// Waits for the report of a copy, and at once uses its memory for another purpose.
fn wait(shared: &Shared, locked: &Mutex<Locked>, tag: usize) {
    let good = loop {
        let mut guard = locked.lock().unwrap();
        guard.reap(shared);
        if let Some(good) = guard.reported[tag] {
            break good;
        }
        drop(guard);
        shared.notes[2].store(true, Relaxed);
        thread::yield_now();
    };
    let memory = &shared.copies[tag];
    // The model checks first that no other thread accesses this memory.
    memory.let_go();
    let copied = memory.copies.get() == 1;
    assert_eq!(
        (good, copied),
        (shared.bad != Some(tag), good),
        "a wrong report"
    );
}

fn finish(shared: &Shared, device: thread::JoinHandle<()>, seen: &Seen) {
    device.join().unwrap();
    for (note, happened) in NOTES.iter().zip(&shared.notes) {
        if happened.load(Relaxed) {
            seen.note(note);
        }
    }
}

/// Models copies one after the other: the memory of a reported copy is used for another purpose
/// while the next copy runs.
fn one_producer(slots: usize, bad: Option<usize>, mutant: Mutant, seen: &Seen) {
    let shared = Arc::new(Shared::new(slots, 2, bad, mutant));
    let locked = Mutex::new(Locked::new(slots, 2));
    let device = {
        let shared = shared.clone();
        thread::spawn(move || shared.device())
    };
    submit(&shared, &locked, 0);
    submit(&shared, &locked, 1);
    wait(&shared, &locked, 0);
    wait(&shared, &locked, 1);
    finish(&shared, device, seen);
}

/// Models copies by concurrent producers with a lock in common.
fn two_producers(mutant: Mutant, seen: &Seen) {
    let shared = Arc::new(Shared::new(2, 2, None, mutant));
    let lock = || Arc::new(Mutex::new(Locked::new(2, 2)));
    let first = lock();
    let second = match mutant {
        Mutant::NoLock => lock(),
        _ => first.clone(),
    };
    let device = {
        let shared = shared.clone();
        thread::spawn(move || shared.device())
    };
    let other = {
        let (shared, first) = (shared.clone(), first.clone());
        thread::spawn(move || submit(&shared, &first, 0))
    };
    submit(&shared, &second, 1);
    other.join().unwrap();
    wait(&shared, &first, 0);
    wait(&shared, &second, 1);
    finish(&shared, device, seen);
}

#[test]
fn ring_of_two() {
    let seen = explore_bounded(3, |seen| one_producer(2, None, Mutant::None, seen));
    assert_eq!(seen, ["not rung for", "wait"]);
}

#[test]
fn ring_that_is_full() {
    let seen = explore_bounded(3, |seen| one_producer(1, None, Mutant::None, seen));
    assert_eq!(seen, ["full", "not rung for", "wait"]);
}

#[test]
fn ring_with_a_copy_that_fails() {
    for bad in 0..2 {
        explore_bounded(3, move |seen| {
            one_producer(2, Some(bad), Mutant::None, seen)
        });
        explore_bounded(3, move |seen| {
            one_producer(1, Some(bad), Mutant::None, seen)
        });
    }
}

#[test]
fn producers_side_by_side() {
    let seen = explore_bounded(2, |seen| two_producers(Mutant::None, seen));
    assert_eq!(seen, ["not rung for", "wait"]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_valid_without_barrier() {
    explore_bounded(2, |seen| {
        one_producer(2, None, Mutant::ValidUnordered, seen)
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_valid_before_the_rest() {
    explore_bounded(2, |seen| one_producer(2, None, Mutant::ValidFirst, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_signal_without_barrier() {
    explore_bounded(2, |seen| {
        one_producer(2, None, Mutant::SignalUnordered, seen)
    });
}

#[test]
#[should_panic(expected = "a wrong report")]
fn mutant_error_read_before_the_signal() {
    explore_bounded(2, |seen| one_producer(2, Some(0), Mutant::ErrorFirst, seen));
}

/// The second copy in a slot counts as done as soon as it is handed over.
#[test]
#[should_panic(expected = "a wrong report")]
fn mutant_block_not_armed() {
    explore_bounded(2, |seen| one_producer(1, None, Mutant::NotArmed, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_begun_is_done() {
    explore_bounded(2, |seen| one_producer(1, None, Mutant::BegunIsDone, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_producers_without_a_lock() {
    explore_bounded(2, |seen| two_producers(Mutant::NoLock, seen));
}
