// SPDX-License-Identifier: GPL-2.0

//! Bindings of the functions and types that Ferry uses and `kernel::bindings` does not have.
//!
//! `bindgen` generates them from `bindings_helper.h`. Types that `kernel::bindings` has are taken
//! from there, so that they are the same types. Only the modules with unsafe code use this crate.

#![allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::{
    bindings::*,
    ffi, //
};

include!(concat!(env!("FERRY_BINDINGS"), "/bindings_generated.rs"));
