// SPDX-License-Identifier: GPL-2.0

//! The state that all migrators share, for as long as the module is loaded.
//!
//! Takes no locks.

use crate::{
    inject::Inject,
    knobs::Knobs, //
};
use ferry_core::pace::CopyPace;
use kernel::sync::atomic::Atomic;

/// Knobs, fault injection, and the pace at which this machine copies.
pub(crate) struct Shared {
    pub(crate) knobs: Knobs,
    pub(crate) inject: Inject,
    /// The pace at which movers copy.
    pub(crate) pace: CopyPace<Atomic<u32>>,
}

impl Shared {
    /// Returns the defaults: nothing is injected, and nothing has been learnt.
    pub(crate) fn new() -> Self {
        Self {
            knobs: Knobs::new(),
            inject: Inject::new(),
            pace: CopyPace::new(Atomic::new(0)),
        }
    }
}
