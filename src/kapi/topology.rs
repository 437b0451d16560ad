// SPDX-License-Identifier: GPL-2.0

//! CPUs: their numbers, nodes and caches, and whether they are idle.
//!
//! C: `cpu_possible_mask`, `topology_sibling_cpumask()` (`include/linux/topology.h`),
//! `housekeeping_test_cpu()`, `per_cpu_llc_id()`, and from the shim whether a CPU is idle.
//!
//! CPU numbers are those of [`possible()`]; any other one is answered as if there was nothing.

use ferry_bindings as fb;

/// A possible CPU.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpu(i32);

/// Returns all possible CPUs, in the order of their numbers.
pub(crate) fn possible() -> impl Iterator<Item = Cpu> {
    let mut n = 0;
    core::iter::from_fn(move || {
        let mut cpu = 0;
        // SAFETY: `cpu` is valid for writing.
        let found = unsafe { fb::ferry_possible_cpu(n, &mut cpu) };
        n += 1;
        found.then_some(Cpu(cpu))
    })
}

impl Cpu {
    /// Returns the CPU that the caller is on; the caller may be moved at any time.
    pub(crate) fn current() -> Self {
        // The numbers of CPUs fit.
        Self(kernel::cpu::CpuId::current().as_u32() as i32)
    }

    /// Returns its number.
    pub(crate) fn number(self) -> i32 {
        self.0
    }

    /// Returns its node.
    pub(crate) fn node(self) -> i32 {
        // SAFETY: It is a possible CPU, by construction.
        unsafe { fb::ferry_cpu_node(self.0) }
    }

    /// Returns `true` if workers may run there: it is online and not isolated.
    pub(crate) fn is_usable(self) -> bool {
        // SAFETY: As in `node()`.
        unsafe { fb::ferry_cpu_usable(self.0) }
    }

    /// Returns `true` if a worker that is woken there would run at once.
    pub(crate) fn is_idle(self) -> bool {
        // SAFETY: As in `node()`.
        unsafe { fb::ferry_cpu_usable(self.0) && fb::migrate_copy_cpu_idle(self.0) }
    }

    /// Returns `true` if the two share a last-level cache.
    pub(crate) fn shares_cache(self, other: Self) -> bool {
        // SAFETY: As in `node()`, for both.
        unsafe { fb::ferry_cpus_share_cache(self.0, other.0) }
    }

    /// Returns `true` if both are threads of one core.
    pub(crate) fn shares_core(self, other: Self) -> bool {
        // SAFETY: As in `node()`, for both.
        unsafe { fb::ferry_cpus_share_core(self.0, other.0) }
    }
}
