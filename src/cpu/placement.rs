// SPDX-License-Identifier: GPL-2.0

//! The order in which workers are asked, by the scheduler's topology.
//!
//! It changes when CPUs come and go and when scheduling domains are rebuilt. Workers look for that
//! now and then, before they sleep, so that no mover has to.
//!
//! Lock order: [`Placement::scratch`] is a leaf, and only tried.

use crate::kapi::{
    sched,
    topology::Cpu, //
};
use ferry_core::placement::{
    spread,
    Place, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    },
};

/// Nanoseconds between two looks at the topology.
const REFRESH_NS: u64 = 1_000_000_000;

/// Buffers in which the order is computed.
struct Scratch {
    places: KVec<Place>,
    ranks: KVec<u16>,
    order: KVec<u16>,
}

/// The order of the CPUs that workers live on.
#[pin_data]
pub(super) struct Placement {
    cpus: KVec<Cpu>,
    /// Indices of `cpus`, first those of the lowest node, best first. A reader that runs while it
    /// is being written sees some of them twice or not at all: such workers are asked twice or not
    /// at all.
    order: KVec<Atomic<u32>>,
    /// The time of the last look in nanoseconds, and the caches then, for debugfs; as `cpus`.
    refreshed: Atomic<u64>,
    llcs: KVec<Atomic<u32>>,
    #[pin]
    scratch: Mutex<Scratch>,
}

impl Placement {
    /// Creates the placement of workers on these CPUs.
    pub(super) fn new(cpus: KVec<Cpu>) -> Result<impl PinInit<Self>> {
        let nr = cpus.len();
        let mut order = KVec::with_capacity(nr, GFP_KERNEL)?;
        let mut llcs = KVec::with_capacity(nr, GFP_KERNEL)?;
        for index in (0u32..).take(nr) {
            order.push(Atomic::new(index), GFP_KERNEL)?;
            llcs.push(Atomic::new(index), GFP_KERNEL)?;
        }
        let scratch = Scratch {
            places: KVec::from_elem(Place::default(), nr, GFP_KERNEL)?,
            ranks: KVec::from_elem(0, nr, GFP_KERNEL)?,
            order: KVec::from_elem(0, nr, GFP_KERNEL)?,
        };
        Ok(pin_init!(Self {
            cpus,
            order,
            refreshed: Atomic::new(0),
            llcs,
            scratch <- new_mutex!(scratch, "ferry::placement"),
        }))
    }

    /// Returns the indices of CPUs, best first within each node.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.order.iter().map(|i| i.load(Relaxed) as usize)
    }

    /// Returns a number for the last-level cache of the CPU with this index.
    pub(super) fn llc(&self, index: usize) -> u32 {
        self.llcs.get(index).map_or(0, |llc| llc.load(Relaxed))
    }

    /// Looks at the topology, if the last look was [`REFRESH_NS`] ago.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(super) fn refresh(&self) {
        let (now, last) = (sched::clock(), self.refreshed.load(Relaxed));
        // Clocks of CPUs differ a little.
        if last != 0 && now < last.saturating_add(REFRESH_NS) {
            return;
        }
        self.refreshed.store(now, Relaxed);
        let Some(mut scratch) = self.scratch.try_lock() else {
            return;
        };
        let Scratch {
            places,
            ranks,
            order,
        } = &mut *scratch;
        let mut changed = false;
        for (i, cpu) in self.cpus.iter().enumerate() {
            let earlier = || self.cpus.iter().take(i);
            // The first CPU of those that share a cache stands for it.
            let llc = earlier().position(|c| c.shares_cache(*cpu)).unwrap_or(i);
            let place = Place {
                node: cpu.node(),
                llc: u32::try_from(llc).unwrap_or(u32::MAX),
                sibling: earlier().any(|c| c.shares_core(*cpu)),
            };
            if let Some(old) = places.get_mut(i).filter(|old| **old != place) {
                *old = place;
                changed = true;
            }
            if let Some(shown) = self.llcs.get(i) {
                shown.store(place.llc, Relaxed);
            }
        }
        if changed || last == 0 {
            let nr = spread(places, ranks, order);
            for (to, from) in self.order.iter().zip(order.iter().take(nr)) {
                to.store((*from).into(), Relaxed);
            }
        }
    }
}
