// SPDX-License-Identifier: GPL-2.0

//! Counters with names.

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident: $($field:ident,)*) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $(pub(super) $field: ::kernel::sync::atomic::Atomic<u64>,)*
        }

        impl $name {
            /// All 0.
            pub(super) fn new() -> Self {
                Self { $($field: ::kernel::sync::atomic::Atomic::new(0),)* }
            }

            /// All of them, with their names.
            pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                use ::kernel::sync::atomic::Relaxed;
                [$((stringify!($field), self.$field.load(Relaxed)),)*].into_iter()
            }
        }
    };
}
pub(super) use counters;
