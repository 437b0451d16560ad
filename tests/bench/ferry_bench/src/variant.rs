// SPDX-License-Identifier: GPL-2.0

//! The variants that a run compares: a migrator each, with the knobs it is measured at.

use crate::guest::{Knobs, PAGE};
use ferry_results::bench_tables::Label;
use ferry_results::UNLOADED;

/// Bytes of a batch of the stock kernel: `NR_MAX_BATCHED_MIGRATION` base pages.
pub const BATCH_BYTES: u64 = 512 * PAGE;

/// A migrator with the settings that it is measured at.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    pub migrator: String,
    pub knobs: Knobs,
    /// Bytes per second that each channel of the engine's model is limited to.
    pub limit: Option<u64>,
}

impl Variant {
    pub fn plain(migrator: impl Into<String>) -> Variant {
        Variant {
            migrator: migrator.into(),
            knobs: Knobs::default(),
            limit: None,
        }
    }

    /// Returns the variant in which the engine gets every batch that it can copy.
    pub fn with_all(&self) -> Variant {
        Variant {
            knobs: Knobs {
                all_to_engine: true,
                ..self.knobs.clone()
            },
            ..self.clone()
        }
    }

    /// Returns the variant with `workers` workers: exactly that many if `all`, otherwise at most.
    pub fn with_workers(&self, workers: u32, all: bool) -> Variant {
        Variant {
            knobs: Knobs {
                workers: Some(workers),
                all_workers: all && workers > 0,
                ..self.knobs.clone()
            },
            ..self.clone()
        }
    }

    pub fn is_off(&self) -> bool {
        self.migrator == "off"
    }

    /// Returns `true` if the stock kernel copies, with or without the module.
    pub fn is_stock(&self) -> bool {
        self.is_off() || self.migrator == UNLOADED
    }

    /// Returns the name in reports.
    pub fn name(&self) -> String {
        Label {
            migrator: &self.migrator,
            number: self.knobs.workers.or(self.knobs.channels),
            all: self.knobs.all_to_engine,
            batch_folios: self.knobs.batch_folios,
            batch_bytes: self.knobs.batch_bytes,
            limit: self.limit,
        }
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_have_names() {
        let cpu = Variant::plain("cpu");
        assert_eq!(cpu.name(), "cpu");
        assert_eq!(cpu.with_workers(2, true).name(), "cpu/2");
        assert!(cpu.with_workers(2, true).knobs.all_workers);
        assert!(!cpu.with_workers(0, true).knobs.all_workers);
        assert!(!cpu.is_stock() && Variant::plain("unloaded").is_stock());
        let mut limited = cpu.clone();
        limited.knobs.batch_bytes = Some(16 << 20);
        assert_eq!(limited.name(), "cpu@16M");
        limited.knobs.batch_folios = Some(4096);
        assert_eq!(limited.name(), "cpu@4096");
        let mut engine = Variant::plain("ae4dma").with_all();
        assert_eq!(engine.name(), "ae4dma+all");
        engine.knobs.channels = Some(4);
        engine.knobs.batch_bytes = Some(32 << 20);
        engine.limit = Some(16 << 20);
        assert_eq!(engine.name(), "ae4dma/4+all@32M~16M");
    }
}
