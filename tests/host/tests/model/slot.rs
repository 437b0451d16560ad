// SPDX-License-Identifier: GPL-2.0

//! A slot is used again only after the last one has left it.

use crate::support::*;
use ferry_core::Slot;
use loom::{
    sync::atomic::{
        AtomicU32,
        Ordering::Relaxed, //
    },
    thread, //
};
use std::sync::Arc;

/// A slot of a pool with what a batch keeps in it.
struct Place<O> {
    slot: Slot<ModelWord<O>>,
    /// Written by who owns the slot, read by who is inside.
    payload: Bytes,
    /// How often it went back to the pool. Counts only, orders nothing.
    given_back: AtomicU32,
}

impl<O: Orders> Place<O> {
    fn new() -> Self {
        Self {
            slot: Slot::new(ModelWord::new(0)),
            payload: Bytes::new(0),
            given_back: AtomicU32::new(0),
        }
    }

    /// The pool's side: the slot belongs to the caller, who uses it up.
    fn give_back(&self) {
        self.payload.set(REUSED);
        self.given_back.fetch_add(1, Relaxed);
    }

    /// A helper that found the slot in the pool's array.
    fn visit(&self) {
        if self.slot.enter() {
            assert_eq!(self.payload.get(), 7);
            if self.slot.leave() {
                self.give_back();
            }
        }
    }
}

/// Helpers come and go while the mover opens, shuts and lets go.
fn visits<O: Orders>(helpers: u8, seen: &Seen) {
    let place = Arc::new(Place::<O>::new());
    let helpers: Vec<_> = (0..helpers)
        .map(|_| {
            let place = place.clone();
            thread::spawn(move || place.visit())
        })
        .collect();
    place.payload.set(7);
    place.slot.open();
    if place.slot.shut() {
        seen.note("mover last");
        place.give_back();
    } else {
        seen.note("helper last");
    }
    for helper in helpers {
        helper.join().unwrap();
    }
    assert_eq!(place.given_back.load(Relaxed), 1);
    assert_eq!(place.slot.inside(), 0);
    assert_eq!(place.payload.get(), REUSED);
    assert!(!place.slot.enter());
}

#[test]
fn slot_one_helper() {
    let seen = explore(|seen| visits::<Sound>(1, seen));
    assert_eq!(seen, ["helper last", "mover last"]);
}

#[test]
fn slot_two_helpers() {
    let seen = explore_bounded(3, |seen| visits::<Sound>(2, seen));
    assert_eq!(seen, ["helper last", "mover last"]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_slot_opened_without_release() {
    explore(|seen| visits::<StoreRelaxed>(1, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_slot_counted_without_order() {
    explore(|seen| visits::<ExchangeRelaxed>(1, seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_slot_counted_by_plain_store() {
    explore_bounded(3, |seen| visits::<ExchangeTorn>(2, seen));
}

/// Mutant: the mover gives the slot back when it is through, not the last one.
#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_slot_used_again_too_early() {
    explore(|_| {
        let place = Arc::new(Place::<Sound>::new());
        let helper = {
            let place = place.clone();
            thread::spawn(move || {
                if place.slot.enter() {
                    assert_eq!(place.payload.get(), 7);
                    let _ = place.slot.leave();
                }
            })
        };
        place.payload.set(7);
        place.slot.open();
        let _ = place.slot.shut();
        place.give_back();
        helper.join().unwrap();
    });
}

/// A slot that goes back to the pool serves the next batch: a helper is in the one or the other
/// with all of it, or in none.
#[test]
fn slot_serves_two_batches() {
    let seen = explore(|seen| {
        let place = Arc::new(Place::<Sound>::new());
        place.payload.set(1);
        place.slot.open();
        let helper = {
            let place = place.clone();
            thread::spawn(move || {
                if !place.slot.enter() {
                    return;
                }
                let seen = place.payload.get();
                assert!(seen == 1 || seen == 2);
                // The same batch as long as it is inside.
                assert_eq!(place.payload.get(), seen);
                if place.slot.leave() {
                    place.payload.set(REUSED);
                }
            })
        };
        if place.slot.shut() {
            seen.note("opened again");
            place.payload.set(2);
            place.slot.open();
            if place.slot.shut() {
                place.payload.set(REUSED);
            }
        }
        helper.join().unwrap();
        assert_eq!(place.payload.get(), REUSED);
    });
    assert_eq!(seen, ["opened again"]);
}
