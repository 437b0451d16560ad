// SPDX-License-Identifier: GPL-2.0

//! Work of an engine in the timed moves of a run, and work of the kernel for it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The value of `vm.ferry.engine_share` with which an engine gets all that it can have.
pub const ALL: &str = "all";

const MIB: f64 = (1u64 << 20) as f64;
const GIB: f64 = (1u64 << 30) as f64;

/// The figures of a run whose migrator is an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// Value of `vm.ferry.engine_share`.
    pub share: String,
    /// Channels that were held.
    pub channels: u32,
    /// Bytes in a second that each channel of the model was limited to, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_s: Option<u64>,
    /// Increase of the model's counters; `None` if the engine is no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<BTreeMap<String, u64>>,
    /// Interrupts of the engine's device that CPUs took, if they can be told from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts_taken: Option<u64>,
    /// Share of the bytes moved that the engine copied; the mover copied the rest.
    pub copied_share: f64,
    /// The measured cost.
    pub cost: Cost,
    /// The cost with a descriptor for each folio. Computed, not measured.
    pub one_each: Cost,
    /// Speed over that of the run with one channel and this limit, times the number of channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_linear: Option<f64>,
}

/// Cost of copying by an engine, by the MiB or GiB that moved, including bytes that CPUs copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub descriptors_per_mib: f64,
    /// DMA mappings made.
    pub mappings_per_mib: f64,
    /// Interrupts, as the model counts them, or without a model as CPUs took them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts_per_mib: Option<f64>,
    /// Interrupts for each batch that was handed to the engine, as the model counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts_per_batch: Option<f64>,
    /// Writes to the device that tell a channel of descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doorbells_per_gib: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doorbells_per_batch: Option<f64>,
    /// Channels that were given a part of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels_per_batch: Option<f64>,
}

/// Counters over the timed moves.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// Bytes that moved.
    pub bytes: u64,
    /// Ferry's counters.
    pub ferry: &'a BTreeMap<String, u64>,
    pub model: Option<&'a BTreeMap<String, u64>>,
    pub interrupts_taken: Option<u64>,
}

impl Counted<'_> {
    fn ferry(&self, name: &str) -> f64 {
        self.ferry.get(name).copied().unwrap_or(0) as f64
    }

    fn model(&self, name: &str) -> Option<f64> {
        Some(*self.model?.get(name)? as f64)
    }

    /// Returns the share of the bytes that the engine copied.
    pub fn copied_share(&self) -> f64 {
        self.ferry("engine_bytes") / self.bytes as f64
    }

    pub fn cost(&self) -> Cost {
        let (mib, gib) = (self.bytes as f64 / MIB, self.bytes as f64 / GIB);
        // A folio that is copied in place is a batch of its own to the engine.
        let batches = self.ferry("batches") + self.ferry("folios_in_place");
        let of_batches = |count: Option<f64>| count.filter(|_| batches > 0.0).map(|n| n / batches);
        let interrupts = self.model("interrupts");
        let doorbells = self.model("doorbells");
        Cost {
            descriptors_per_mib: self.ferry("engine_descriptors") / mib,
            mappings_per_mib: self.ferry("engine_mappings") / mib,
            interrupts_per_mib: interrupts
                .or(self.interrupts_taken.map(|n| n as f64))
                .map(|n| n / mib),
            interrupts_per_batch: of_batches(interrupts),
            doorbells_per_gib: doorbells.map(|n| n / gib),
            doorbells_per_batch: of_batches(doorbells),
            channels_per_batch: of_batches(Some(self.ferry("engine_submits"))),
        }
    }
}

impl Cost {
    /// Returns the cost of the obvious way: for each folio a descriptor, two mappings, a doorbell
    /// and an interrupt.
    /// A batch is one of the stock kernel, of `batch_bytes`.
    pub fn one_each(folio_bytes: u64, batch_bytes: u64) -> Cost {
        let of_mib = MIB / folio_bytes as f64;
        let of_batch = batch_bytes as f64 / folio_bytes as f64;
        Cost {
            descriptors_per_mib: of_mib,
            mappings_per_mib: 2.0 * of_mib,
            interrupts_per_mib: Some(of_mib),
            interrupts_per_batch: Some(of_batch),
            doorbells_per_gib: Some(GIB / folio_bytes as f64),
            doorbells_per_batch: Some(of_batch),
            channels_per_batch: None,
        }
    }
}

/// Returns the speed of `channels` channels as a share of `channels` times the speed of one.
pub fn of_linear(speed: f64, of_one: f64, channels: u32) -> Option<f64> {
    let linear = of_one * f64::from(channels);
    (linear > 0.0).then(|| speed / linear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_by_what_moved() {
        let ferry = BTreeMap::from([
            ("engine_bytes".to_string(), 1 << 29),
            ("engine_descriptors".to_string(), 2048),
            ("engine_mappings".to_string(), 4096),
            ("engine_submits".to_string(), 256),
            ("batches".to_string(), 96),
            ("folios_in_place".to_string(), 32),
        ]);
        let model = BTreeMap::from([
            ("interrupts".to_string(), 512),
            ("doorbells".to_string(), 128),
        ]);
        let counted = Counted {
            bytes: 1 << 30,
            ferry: &ferry,
            model: Some(&model),
            interrupts_taken: Some(256),
        };
        assert_eq!(counted.copied_share(), 0.5);
        let cost = counted.cost();
        assert_eq!(cost.descriptors_per_mib, 2.0);
        assert_eq!(cost.mappings_per_mib, 4.0);
        assert_eq!(cost.interrupts_per_mib, Some(0.5), "as the model says");
        assert_eq!(cost.interrupts_per_batch, Some(4.0));
        assert_eq!(cost.doorbells_per_gib, Some(128.0));
        assert_eq!(cost.doorbells_per_batch, Some(1.0));
        assert_eq!(cost.channels_per_batch, Some(2.0));
        let hardware = Counted {
            model: None,
            ..counted
        };
        let cost = hardware.cost();
        assert_eq!(cost.interrupts_per_mib, Some(0.25));
        assert_eq!(cost.doorbells_per_gib, None);
    }

    #[test]
    fn nothing_by_nothing_is_no_number() {
        let (ferry, model) = (
            BTreeMap::new(),
            BTreeMap::from([("interrupts".to_string(), 0)]),
        );
        let cost = Counted {
            bytes: 1 << 20,
            ferry: &ferry,
            model: Some(&model),
            interrupts_taken: None,
        }
        .cost();
        assert_eq!(cost.interrupts_per_mib, Some(0.0));
        assert_eq!(cost.interrupts_per_batch, None);
        assert_eq!(of_linear(1.0, 0.0, 4), None);
    }

    #[test]
    fn the_obvious_way() {
        let small = Cost::one_each(4096, 2 << 20);
        assert_eq!(small.descriptors_per_mib, 256.0);
        assert_eq!(small.mappings_per_mib, 512.0);
        assert_eq!(small.interrupts_per_batch, Some(512.0));
        let large = Cost::one_each(2 << 20, 2 << 20);
        assert_eq!(large.interrupts_per_mib, Some(0.5));
        assert_eq!(large.doorbells_per_gib, Some(512.0));
        assert_eq!(large.doorbells_per_batch, Some(1.0));
    }

    #[test]
    fn linear_is_one() {
        assert_eq!(of_linear(4.0, 1.0, 4), Some(1.0));
        assert_eq!(of_linear(3.0, 1.0, 4), Some(0.75));
    }
}
