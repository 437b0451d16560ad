// SPDX-License-Identifier: GPL-2.0

//! Counters of a channel, readable while it runs.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one channel.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// Their values at a moment; each is exact, together they may be a moment apart.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Values {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Returns the current values.
            pub fn values(&self) -> Values {
                Values { $($name: self.$name.get(),)* }
            }
        }

        impl std::ops::AddAssign for Values {
            fn add_assign(&mut self, other: Values) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Descriptors completed, with errors or without.
    descriptors,
    /// Reads of descriptors; one that was not valid yet is read again.
    fetches,
    /// Bytes copied by them, those of failed ones included.
    bytes,
    /// Writes that tell the channel of new descriptors: doorbells, tail or write indexes.
    doorbells,
    /// Interrupts given to the client.
    interrupts,
    /// Interrupts that were lost: no vector, or no bus mastering.
    interrupts_dropped,
    /// Descriptors that failed.
    errors,
    /// Requests that are no descriptor's fault: bad indexes, accesses of a wrong size.
    bad_requests,
    /// Descriptors taken and abandoned: by a reset, a hard stop, the error of another one.
    aborted,
}

/// One counter. Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn bump(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Returns the value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
