// SPDX-License-Identifier: GPL-2.0

//! The part of Ferry that needs no kernel: claims, plans, policy and the parsers of its knobs.
//!
//! The code here does not allocate, block or touch a page, and none of it is unsafe. The same
//! source is compiled into `ferry.ko` and, by `tests/host/Cargo.toml`, into a library for the host.
//! Its `#[test]`s run as KUnit suites in the kernel and under `cargo test` on the host, where the
//! examples in its documentation run, too. The claim protocol is generic over its atomic word
//! ([`Word`]), so that the model checker runs it as it is.
//!
//! | Module | Subject |
//! |---|---|
//! | [`word`] | the one atomic type that all shared state consists of |
//! | [`claim`] | which lane copies which chunk, and when a folio is settled |
//! | [`plan`] | how the bytes of a batch are cut into chunks |
//! | [`extent`] | which bytes make one descriptor of an engine |
//! | [`placement`] | in which order the CPUs of a node become workers |
//! | [`policy`] | whether a batch is submitted, its look-ahead, its routine, and its most workers |
//! | [`pace`] | how long movers wait |
//! | [`pauses`] | when a channel that was quarantined is tried again |
//! | [`class`] | which batches are alike |
//! | [`workers`] | how many workers a class of batches has, learnt from their gain |
//! | [`engine_share`] | which share an engine has, learnt from its gain, and on which channels |
//! | [`sdxi`] | encodings, ring and state machine of SDXI functions |
//! | [`reasons`] | which migration reasons take part |
//! | [`knob`] | the knobs, their ranges, and the messages for values that are refused |
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
