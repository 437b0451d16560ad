// SPDX-License-Identifier: GPL-2.0

//! The part of Ferry that needs no kernel: claims, plans, policy and the parsers of its knobs.
//!
//! Nothing here allocates, blocks or touches a page, and there is no unsafe code. The same source
//! is compiled into `ferry.ko` and, by `tests/host/Cargo.toml`, into a library for the host, and
//! the same `#[test]`s run as KUnit suites there and under `cargo test` here. The claim protocol
//! is generic over its atomic word ([`Word`]), so that the model checker runs it as it is.
//!
//! | Module | What it decides |
//! |---|---|
//! | [`word`] | the one atomic type that everything shared is made of |
//! | [`claim`] | who copies which chunk, and when a folio is settled |
//! | [`plan`] | how the bytes of a batch are cut into chunks |
//! | [`extent`] | which bytes make one descriptor of an engine |
//! | [`placement`] | in which order CPUs are asked to help |
//! | [`policy`] | how many workers at most, how far ahead, which routine, and whether at all |
//! | [`pace`] | how long movers wait |
//! | [`pauses`] | when a channel that was quarantined is tried again |
//! | [`class`] | which batches are alike |
//! | [`workers`] | how many workers, by what they have gained |
//! | [`engine_share`] | how much engines get, by what they have gained, and on which channels |
//! | [`sdxi`] | encodings, ring and state machine of SDXI functions |
//! | [`reasons`] | which migration reasons take part |
//! | [`knob`] | numeric knobs, their ranges and what is wrong with a value |
//! | [`hist`] | logarithmic histogram buckets |

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

#[cfg(all(test, not(CONFIG_RUST)))]
extern crate std;

pub mod claim;
pub mod class;
pub mod engine_share;
pub mod extent;
pub mod hist;
#[cfg(CONFIG_RUST)]
mod kernel_glue;
pub mod knob;
pub mod pace;
pub mod pauses;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod reasons;
pub mod sdxi;
pub mod word;
pub mod workers;

pub use claim::{
    close,
    entry_mark,
    entry_state,
    settle_shared,
    settle_span,
    Chunk,
    ChunkCounter, //
    ChunkState,
    EntryState,
    Lane,
    Pending,
    Settle,
};
pub use word::Word;
