// SPDX-License-Identifier: GPL-2.0

//! Ferry's copying at the machine's own speed: in a kernel that is a user process.
//!
//! One program with two lives. As `ferry-native`, on the machine, it holds the kernel and its
//! initramfs, starts the one with the other, gathers what it says and prints one JSON document.
//! As `/init` of that kernel it loads Ferry and the driver and measures.

#![deny(unsafe_code)]

mod bundle;
mod error;
mod guest;
mod host;
mod machine;
mod plan;
mod protocol;
mod report;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    if args.next().as_deref() == Some(guest::PATH) {
        guest::run();
    }
    match host::run(&args.collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ferry-native: {error}");
            ExitCode::FAILURE
        }
    }
}
