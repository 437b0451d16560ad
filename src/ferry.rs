// SPDX-License-Identifier: GPL-2.0

//! Ferry copies the content of folios during page migration.
//!
//! Dependencies run one way, which `scripts/lint layers` checks: `src/layers` names the floors.
//! Unsafe code is in five modules: `kapi`, `migrate_copy`, `engine::channel`, `dmaengine::channel`
//! and `sdxi::hw`.

#![deny(unsafe_code)]
// Code that only engines use is built without engines, too.
#![cfg_attr(not(any(CONFIG_DMA_ENGINE, CONFIG_PCI)), allow(dead_code))]

mod batch;
mod control;
#[cfg(CONFIG_PCI)]
mod counters;
mod cpu;
mod dispatch;
#[cfg(CONFIG_DMA_ENGINE)]
mod dmaengine;
#[cfg(any(CONFIG_DMA_ENGINE, CONFIG_PCI))]
mod engine;
mod inject;
#[allow(unsafe_code)]
mod kapi;
mod knobs;
#[allow(unsafe_code)]
mod migrate_copy;
mod migrator;
mod mover;
mod names;
mod registry;
#[cfg(CONFIG_PCI)]
mod sdxi;
mod shared;
mod stats;

use crate::{
    batch::Pool,
    control::{
        Debug,
        Sysctls, //
    },
    kapi::sysctl::Directory,
    registry::Registry,
    shared::Shared, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

module! {
    type: Ferry,
    name: "ferry",
    authors: ["The Ferry developers"],
    description: "Copies folios during page migration",
    license: "GPL v2",
    params: {
        sdxi_bind: bool {
            default: false,
            description: "Bind every SDXI function that has no driver (default: only those whose driver_override is ferry_sdxi)",
        },
    },
}

/// The number of batch objects for each possible CPU: one for a migration, and one for a migration
/// that is nested in the allocations of the first one.
const BATCHES_PER_CPU: usize = 2;

/// The fewest batch objects. Migrations may sleep, so that more of them can run at the same time
/// than a machine of few CPUs would get objects for.
const MIN_BATCHES: usize = 8;

/// The most batch objects: each takes about 64 KiB, so that all of them take 8 MiB.
const MAX_BATCHES: usize = 128;

/// The module. Fields are dropped in this order: first the control files are removed, then no
/// migrator is selected any more, and the pool is dropped with the registry.
struct Ferry {
    #[cfg(CONFIG_PCI)]
    _sdxi: sdxi::Sdxi,
    _sysctls: Directory<Sysctls>,
    _debug: Arc<Debug>,
    _registry: Arc<Registry>,
}

impl kernel::Module for Ferry {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let cpus = kernel::cpu::nr_cpu_ids() as usize;
        let batches = cpus
            .saturating_mul(BATCHES_PER_CPU)
            .clamp(MIN_BATCHES, MAX_BATCHES);
        let shared = Arc::new(Shared::new(), GFP_KERNEL)?;
        let pool = Arc::new(Pool::new(batches, &shared)?, GFP_KERNEL)?;
        let registry = Arc::pin_init(Registry::new(shared.clone(), pool)?, GFP_KERNEL)?;
        let debug = Arc::pin_init(Debug::new(&shared, &registry)?, GFP_KERNEL)?;
        debug.show_kinds(&registry);
        let sysctls = Sysctls::register(shared, registry.clone(), debug.clone())?;
        #[cfg(CONFIG_PCI)]
        let sdxi = {
            let bind = match module_parameters::sdxi_bind.value() {
                true => sdxi::Bind::Class,
                false => sdxi::Bind::Override,
            };
            sdxi::Sdxi::new(module, debug.dir(), bind)?
        };
        #[cfg(CONFIG_PCI)]
        registry.set_sdxi(sdxi.functions().clone());
        #[cfg(not(CONFIG_PCI))]
        let _ = module;
        Ok(Self {
            #[cfg(CONFIG_PCI)]
            _sdxi: sdxi,
            _sysctls: sysctls,
            _debug: debug,
            _registry: registry,
        })
    }
}
