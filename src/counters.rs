// SPDX-License-Identifier: GPL-2.0

//! Counters with names.

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident: $($field:ident,)*) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $(pub(crate) $field: ::kernel::sync::atomic::Atomic<u64>,)*
        }

        impl $name {
            /// Creates counters that are all 0.
            pub(crate) fn new() -> Self {
                Self { $($field: ::kernel::sync::atomic::Atomic::new(0),)* }
            }

            /// Returns the counters with their names.
            pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                use ::kernel::sync::atomic::Relaxed;
                [$((stringify!($field), self.$field.load(Relaxed)),)*].into_iter()
            }
        }
    };
}
pub(crate) use counters;
