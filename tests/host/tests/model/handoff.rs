// SPDX-License-Identifier: GPL-2.0

//! Models of a batch on its way to a worker and back into the pool: the mailbox, the reference
//! count that identifies the last user, and the barriers between posting and sleeping.
//!
//! The module does this with the kernel's `SpinLock`, `Arc` and `set_current_state()`, which no
//! host can run; these models restate it with the checker's primitives and the same orderings.

use crate::support::*;
use ferry_core::{
    close,
    Lane,
    Word, //
};
use loom::{
    sync::{
        atomic::{
            fence, AtomicU32,
            Ordering::{
                self,
                Acquire,
                Relaxed,
                Release,
                SeqCst, //
            },
        },
        Mutex,
        Notify, //
    },
    thread, //
};
use std::sync::Arc;

/// A batch object of the pool, and the mailbox of the one worker.
struct Shared {
    batch: Batch<Sound>,
    /// Content that is only valid while the object belongs to this batch.
    payload: Bytes,
    /// The number of references, as in a `refcount_t`.
    refs: AtomicU32,
    /// The orderings of dropping a reference: that of each drop, and whether the last one acquires.
    put: (Ordering, bool),
    mailbox: Mutex<bool>,
    /// The number of times that the object went back to the pool. Orders nothing.
    given_back: AtomicU32,
}

const OF_THIS_BATCH: u32 = 7;

impl Shared {
    fn new(put: (Ordering, bool)) -> Self {
        Self {
            batch: Batch::new(1, None),
            payload: Bytes::new(OF_THIS_BATCH),
            refs: AtomicU32::new(1),
            put,
            mailbox: Mutex::new(false),
            given_back: AtomicU32::new(0),
        }
    }

    fn post(&self) {
        self.refs.fetch_add(1, Relaxed);
        *self.mailbox.lock().unwrap() = true;
    }

    /// Takes the batch out of the mailbox, with its reference.
    fn take(&self) -> bool {
        core::mem::take(&mut *self.mailbox.lock().unwrap())
    }

    /// Drops a reference. The last drop gives the object back to the pool, which uses it again.
    fn put(&self) {
        let (order, acquire) = self.put;
        if self.refs.fetch_sub(1, order) == 1 {
            if acquire {
                fence(Acquire);
            }
            self.give_back();
        }
    }

    fn give_back(&self) {
        self.payload.set(REUSED);
        self.given_back.fetch_add(1, Relaxed);
    }

    /// Works on the batch as a worker does.
    fn work(&self) {
        assert_eq!(self.payload.get(), OF_THIS_BATCH);
        self.batch.help(Lane::new(1));
        // The worker still uses the object after its last claim, for its accounts.
        assert_eq!(self.payload.get(), OF_THIS_BATCH);
    }
}

fn batch_comes_back(order: (Ordering, bool), seen: &Seen) {
    let all = Arc::new(Shared::new(order));
    all.post();
    let worker = {
        let all = all.clone();
        thread::spawn(move || {
            if all.take() {
                all.work();
                all.put();
            }
        })
    };
    // The mover ends the batch: no chunk can be claimed or is in flight, and no worker gets it any
    // more.
    while close(&all.batch.chunks).is_some() {
        thread::yield_now();
    }
    all.batch.memory[0].let_go();
    if all.take() {
        seen.note("retracted");
        all.put();
    }
    let left = all.refs.load(Relaxed);
    assert!((1..=2).contains(&left));
    seen.note(if left == 1 { "alone" } else { "worker inside" });
    all.put();
    worker.join().unwrap();
    assert_eq!(all.given_back.load(Relaxed), 1);
    assert_eq!(all.payload.get(), REUSED);
}

#[test]
fn last_one_gives_the_batch_back() {
    let seen = explore(|seen| batch_comes_back((Release, true), seen));
    assert_eq!(seen, ["alone", "retracted", "worker inside"]);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_put_without_release() {
    explore(|seen| batch_comes_back((Relaxed, true), seen));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_last_put_without_acquire() {
    explore(|seen| batch_comes_back((Release, false), seen));
}

/// Mutant: the mover reuses the object when it has finished, whether or not a worker still uses it.
#[test]
#[should_panic(expected = "Causality violation")]
fn mutant_batch_reused_too_early() {
    explore(|_| {
        let all = Arc::new(Shared::new((Release, true)));
        all.post();
        let worker = {
            let all = all.clone();
            thread::spawn(move || {
                if all.take() {
                    all.work();
                }
            })
        };
        while close(&all.batch.chunks).is_some() {
            thread::yield_now();
        }
        all.take();
        all.give_back();
        worker.join().unwrap();
    });
}

/// A batch object serves the next batch when it comes back: a chunk that its only owner resets can
/// be claimed again, and no state of the batch before is seen.
#[test]
fn batch_object_serves_twice() {
    explore(|_| {
        let all = Arc::new(Shared::new((Release, true)));
        all.post();
        let worker = {
            let all = all.clone();
            thread::spawn(move || {
                if all.take() {
                    all.work();
                    all.put();
                }
            })
        };
        while close(&all.batch.chunks).is_some() {
            thread::yield_now();
        }
        if all.take() {
            all.put();
        }
        all.put();
        // The pool's lock orders giving back before taking; here the join does.
        worker.join().unwrap();
        let (chunk, memory) = (&all.batch.chunks[0], &all.batch.memory[0]);
        assert!(!chunk.try_claim(Lane::MOVER));
        chunk.reset();
        all.batch.ticket.reset();
        memory.copies.set(0);
        all.payload.set(OF_THIS_BATCH);
        let again = {
            let all = all.clone();
            thread::spawn(move || all.work())
        };
        while close(&all.batch.chunks).is_some() {
            thread::yield_now();
        }
        memory.let_go();
        again.join().unwrap();
        assert!(memory.copies.get() <= 1);
    });
}

const BUSY: u32 = 0;
const ASLEEP: u32 = 1;

/// Models a worker that goes to sleep while a batch is posted to it: either it is woken, or it sees
/// the batch.
fn post_and_sleep(barriers: (bool, bool), seen: &Seen) {
    let state = Arc::new(ModelWord::<Sound>::new(BUSY));
    let posted = Arc::new(ModelWord::<Sound>::new(0));
    let wake = Arc::new(Notify::new());
    let worker = {
        let (state, posted, wake) = (state.clone(), posted.clone(), wake.clone());
        thread::spawn(move || {
            state.store_relaxed(ASLEEP);
            if barriers.0 {
                fence(SeqCst);
            }
            while posted.load_acquire() == 0 {
                wake.wait();
            }
        })
    };
    posted.store_release(1);
    if barriers.1 {
        fence(SeqCst);
    }
    if state.load_relaxed() == ASLEEP {
        seen.note("woken");
        wake.notify();
    } else {
        seen.note("awake");
    }
    worker.join().unwrap();
}

#[test]
fn post_is_never_lost() {
    let seen = explore(|seen| post_and_sleep((true, true), seen));
    assert_eq!(seen, ["awake", "woken"]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn mutant_post_without_barrier() {
    explore(|seen| post_and_sleep((true, false), seen));
}

#[test]
#[should_panic(expected = "deadlock")]
fn mutant_sleep_without_barrier() {
    explore(|seen| post_and_sleep((false, true), seen));
}
