// SPDX-License-Identifier: GPL-2.0

//! Model checking of the claim protocol of `ferry_core` with loom.
//!
//! The code under test is that of the kernel module, only its atomic word is the checker's. Memory
//! that migration moves is made of cells the checker watches: two accesses of which one writes and
//! that nothing orders fail the model, in every interleaving and for every stale value that the
//! memory model allows a load to return.
//!
//! Each property comes with mutants, the same model with one thing broken, which have to fail. A
//! model that cannot fail proves nothing.
//!
//! Models run to their end; where one bounds the number of preemptions, it says so by
//! `explore_bounded()`.

mod aborted;
mod claim;
mod handoff;
mod order;
mod pending;
mod proof;
mod sdxi;
mod shared;
mod support;
