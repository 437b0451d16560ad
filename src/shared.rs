// SPDX-License-Identifier: GPL-2.0

//! The state that all migrators share, for as long as the module is loaded. It has no locks.

use crate::{
    inject::Inject,
    knobs::Knobs, //
};
use ferry_core::pace::CopyPace;
use kernel::sync::atomic::Atomic;

/// The knobs, the fault injection, and the pace at which this machine copies.
pub(crate) struct Shared {
    pub(crate) knobs: Knobs,
    pub(crate) inject: Inject,
    /// The pace at which movers copy.
    pub(crate) pace: CopyPace<Atomic<u32>>,
}

impl Shared {
    /// Creates the state at load: the knobs have their defaults, and nothing is injected or learnt.
    pub(crate) fn new() -> Self {
        Self {
            knobs: Knobs::new(),
            inject: Inject::new(),
            pace: CopyPace::new(Atomic::new(0)),
        }
    }
}
