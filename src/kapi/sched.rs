// SPDX-License-Identifier: GPL-2.0

//! Preemption, softirqs, rescheduling and the context of the caller.

use ferry_bindings as fb;
use kernel::{
    bindings,
    types::NotThreadSafe, //
};

/// Preemption is off for as long as this lives.
///
/// Between claim and done a worker may not be preempted (I13): the mover would wait for it.
pub(crate) struct NoPreempt(NotThreadSafe);

impl NoPreempt {
    /// Turns preemption off.
    #[inline]
    pub(crate) fn new() -> Self {
        // SAFETY: Always allowed; balanced by `Drop`, on the same CPU's count since the type is not
        // `Send` and a leaked guard only costs latency.
        unsafe { fb::ferry_preempt_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for NoPreempt {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Balances the call in `new()`.
        unsafe { fb::ferry_preempt_enable() };
    }
}

/// Softirqs do not run on this CPU for as long as this lives, and may run when it is dropped.
pub(crate) struct NoSoftirqs(NotThreadSafe);

impl NoSoftirqs {
    /// Turns softirqs off.
    ///
    /// # Context
    ///
    /// Interrupts are on, and no spinlock is held.
    #[inline]
    pub(crate) fn new() -> Self {
        // SAFETY: Balanced by `Drop` on the same CPU, as the type is not `Send`; a leaked guard
        // only costs latency.
        unsafe { fb::ferry_bh_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for NoSoftirqs {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Balances the call in `new()`.
        unsafe { fb::ferry_bh_enable() };
    }
}

/// Returns `true` if the scheduler wants the caller to give up the CPU.
#[inline]
pub(crate) fn need_resched() -> bool {
    // SAFETY: Reads a flag of the current task.
    unsafe { fb::ferry_need_resched() }
}

/// Returns `true` if no other task is to run on the CPU of the caller.
pub(crate) fn is_alone() -> bool {
    // SAFETY: Reads a count of the CPU.
    unsafe { fb::ferry_single_task_running() }
}

/// Gives up the CPU if any other task wants it, for threads that yield to everything.
///
/// # Context
///
/// May sleep.
#[inline]
pub(crate) fn give_way() {
    // SAFETY: Called by workers, between claims: in process context, running, and without locks.
    unsafe { fb::ferry_give_way() }
}

/// Gives up the CPU if another task should have it.
///
/// # Context
///
/// May sleep.
#[inline]
pub(crate) fn cond_resched() {
    // SAFETY: Callers are in process context without locks; the function itself warns where a
    // debug kernel finds otherwise.
    unsafe { fb::ferry_cond_resched() }
}

/// Returns `true` if the caller reclaims memory, or compacts it for an allocation (`PF_MEMALLOC`).
#[inline]
pub(crate) fn in_reclaim() -> bool {
    // SAFETY: Reads a flag of the current task.
    unsafe { fb::ferry_in_reclaim() }
}

/// Returns the nanoseconds that the caller has run, up to a constant that another CPU may change.
#[inline]
pub(crate) fn runtime() -> u64 {
    // SAFETY: Reads counters of the current task.
    unsafe { fb::ferry_runtime() }
}

/// Returns a number that no other task has while the caller lives.
#[inline]
pub(crate) fn current_id() -> usize {
    // SAFETY: Always allowed; the pointer is only compared.
    unsafe { bindings::get_current() as usize }
}

/// Returns the nanoseconds of this CPU's clock: cheap, for durations on one CPU.
#[inline]
pub(crate) fn clock() -> u64 {
    // SAFETY: Always allowed.
    unsafe { fb::ferry_clock() }
}

/// Lets `ns` nanoseconds pass on this CPU, without sleeping. For fault injection.
pub(crate) fn spin_ns(ns: u64) {
    let from = clock();
    // Bounded: the clock advances. If we are moved to a CPU whose clock is behind, by that
    // difference longer, which local_clock() keeps below a tick.
    while clock().wrapping_sub(from) < ns {
        kernel::processor::cpu_relax();
    }
}
