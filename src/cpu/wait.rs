// SPDX-License-Identifier: GPL-2.0

//! How the mover waits for a worker.

use crate::{
    batch::Batch,
    kapi::sched, //
};
use kernel::prelude::*;

/// The number of looks at the chunk before the mover offers its CPU to other tasks.
const POLLS: u32 = 256;

/// Polls until the chunk, or entry `i` of it, is done.
///
/// # Errors
///
/// `ETIMEDOUT` if that takes longer than `timeout_ns` nanoseconds.
///
/// A worker with a claim is running and cannot be preempted (I13), so this is over after the rest
/// of one chunk, less than the mover would need for it (I15); sleeping would take longer. The
/// timeout is for a worker whose CPU has been taken away below us, by a hypervisor or firmware.
pub(super) fn poll(batch: &Batch, i: u32, chunk: u32, timeout_ns: u64) -> Result {
    let from = sched::clock();
    let mut polls = 0;
    while batch.raw().waiting(i, chunk) {
        kernel::processor::cpu_relax();
        polls += 1;
        if polls == POLLS {
            polls = 0;
            if sched::clock().saturating_sub(from) > timeout_ns {
                return Err(ETIMEDOUT);
            }
            sched::cond_resched();
        }
    }
    Ok(())
}
