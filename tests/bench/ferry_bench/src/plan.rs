// SPDX-License-Identifier: GPL-2.0

//! The measurements and their order: one step for each folio size of each part.

use crate::args::Args;
use crate::error::{Error, Result};
use crate::guest::{is_engine, Ferry, Knobs, PAGE};
use crate::model::Model;
use crate::variant::{Variant, BATCH_BYTES};
use ferry_results::{size_name, Part, UNLOADED};
use std::collections::BTreeMap;

/// Rounds below which a median says little.
const ENOUGH_ROUNDS: u32 = 5;
/// The same where a limit decides, and nothing else.
const ENOUGH_LIMITED: u32 = 3;
/// Batches in each direction that are watched for first-folio latency, however long it takes.
const FEWEST_BATCHES: usize = 25;
/// The same for the limits of a batch, where one call has many batches.
const FEWEST_CALLS: usize = 10;
/// With more parts than one there is time for a 99th percentile that is not the maximum.
const MANY_BATCHES: usize = 400;
/// Rounds of a busy machine: what its scheduler does differs more between rounds than the rest.
const BUSY_ROUNDS: u32 = 41;
/// In the part `engines` between the smallest and the largest size.
const BETWEEN: u64 = 64 << 10;
/// Rounds counted in a turn of an engine that decides by itself.
const ENGINE_ROUNDS: u32 = 3;
/// Moved at once where engines decide by themselves: with [`TRIED_ROUNDS`] there and back, 256
/// batches in each direction, in which an engine that brings nothing is tried again once.
const TRIED_BYTES: u64 = 64 << 20;
const TRIED_ROUNDS: u32 = 8;

/// One folio size in one part.
pub struct Step {
    pub part: Option<Part>,
    pub folio_bytes: u64,
    /// `off` comes first, if it is there at all.
    pub variants: Vec<Variant>,
    pub busy: bool,
    pub rounds: u32,
    /// Rounds that are run even if the time is over.
    pub enough: u32,
    pub rounds_in_turn: u32,
    /// Moves that are not counted at the beginning of a turn.
    pub settle: bool,
    pub region_bytes: u64,
    /// Bytes of one call under the probe.
    pub call_bytes: u64,
    /// Calls under the probe in each direction, and how many of them in any case.
    pub calls: usize,
    pub fewest_calls: usize,
    /// Watch pages all over the call, too.
    pub pages: bool,
    /// Share of the time, and of that the share for speed.
    pub weight: u32,
    pub speed_share: f64,
}

impl Step {
    /// Returns the name for reports: the part, if there is one, and the folio size.
    pub fn name(&self) -> String {
        let size = size_name(self.folio_bytes);
        self.part
            .map_or(size.clone(), |part| format!("{} {size}", part.name()))
    }
}

fn unusable<T>(text: String) -> Result<T> {
    Err(Error::Unusable(text))
}

/// Returns `off` and the migrators: those given, or all.
fn migrators(args: &Args, ferry: Option<&Ferry>) -> Result<Vec<String>> {
    let available = match ferry {
        Some(ferry) => ferry.migrators()?,
        None => vec!["off".into()],
    };
    let mut wanted = if args.migrators.is_empty() {
        available.clone()
    } else {
        args.migrators.clone()
    };
    let exists = |name: &String| {
        available.contains(name) || name == UNLOADED && ferry.is_some_and(Ferry::can_unload)
    };
    if let Some(missing) = wanted.iter().find(|name| !exists(name)) {
        return unusable(format!(
            "migrator '{missing}' is not there; available: {}{}",
            available.join(" "),
            if ferry.is_none() {
                " (ferry.ko is not loaded)"
            } else {
                ""
            }
        ));
    }
    wanted.sort_by_key(|name| name != "off");
    Ok(wanted)
}

fn check_size(size: u64) -> Result<()> {
    if !size.is_power_of_two() || !(PAGE..=BATCH_BYTES).contains(&size) {
        return unusable(format!(
            "{} is not a folio size from 4K to 2M",
            size_name(size)
        ));
    }
    Ok(())
}

/// Returns all steps. Without parts they are those of the demo: every size, once.
pub fn steps(
    args: &Args,
    ferry: Option<&Ferry>,
    cpus: usize,
    models: &BTreeMap<String, Model>,
) -> Result<Vec<Step>> {
    args.sizes.iter().try_for_each(|&size| check_size(size))?;
    if args.region % BATCH_BYTES != 0 {
        return unusable("the region must be a multiple of 2M".into());
    }
    let mut migrators = migrators(args, ferry)?;
    let all_of_them = migrators.clone();
    if !args.parts.is_empty() && args.migrators.is_empty() {
        // They have parts of their own.
        migrators.retain(|name| !is_engine(name));
    }
    let engines = (all_of_them.iter())
        .filter(|name| is_engine(name))
        .map(|name| (name.clone(), models.get(name).map(Model::channels)))
        .collect();
    let planner = Planner {
        args,
        migrators: &migrators,
        engines,
        cpus,
        can_force: ferry.is_some_and(Ferry::can_force),
    };
    if args.parts.is_empty() {
        return Ok(args.sizes.iter().map(|&size| planner.demo(size)).collect());
    }
    let (Some(&small), Some(&large)) = (args.sizes.iter().min(), args.sizes.iter().max()) else {
        return unusable("no folio size given".into());
    };
    let mut ends = vec![small, large];
    ends.dedup();
    let mut steps = vec![];
    for &part in &args.parts {
        match part {
            Part::Sizes => steps.extend((args.sizes.iter()).map(|size| {
                let thorough = ends.contains(size);
                Step {
                    part: Some(part),
                    calls: (args.latency_batches).unwrap_or(if thorough {
                        MANY_BATCHES
                    } else {
                        100
                    }),
                    weight: if thorough { 4 } else { 2 },
                    speed_share: if thorough { 0.5 } else { 0.8 },
                    ..planner.demo(*size)
                }
            })),
            Part::Workers => steps.extend(ends.iter().map(|&size| planner.workers(size))),
            Part::Batch => {
                for &size in &ends {
                    steps.push(planner.batch(size, size == small)?);
                }
            }
            Part::Busy => steps.extend(ends.iter().map(|&size| planner.busy(size))),
            Part::Engines => {
                let sizes = (args.sizes.iter().copied())
                    .filter(|size| ends.contains(size) || *size == BETWEEN);
                for size in sizes {
                    steps.push(planner.engines(size, size == large)?);
                }
            }
            Part::Channels => {
                for (engine, channels) in planner.scalable()? {
                    steps.push(planner.channels_all(large, engine, &channels)?);
                    steps.push(planner.channels_auto(small, engine, &channels));
                }
            }
        }
    }
    Ok(steps)
}

struct Planner<'a> {
    args: &'a Args,
    migrators: &'a [String],
    /// Drivers of engines, and the channels of their models.
    engines: Vec<(String, Option<u32>)>,
    cpus: usize,
    can_force: bool,
}

impl Planner<'_> {
    fn plain(&self) -> Vec<Variant> {
        self.migrators.iter().map(Variant::plain).collect()
    }

    /// Returns a step of the migrators as they are, or with the numbers of workers that were given.
    fn demo(&self, folio_bytes: u64) -> Step {
        let variants = (self.plain().into_iter())
            .flat_map(|plain| {
                if plain.is_stock() || self.args.workers.is_empty() {
                    return vec![plain];
                }
                let with = |&workers| plain.with_workers(workers, false);
                self.args.workers.iter().map(with).collect()
            })
            .collect();
        Step {
            part: None,
            folio_bytes,
            variants,
            busy: self.args.busy,
            rounds: self.args.rounds,
            enough: ENOUGH_ROUNDS,
            rounds_in_turn: 1,
            settle: false,
            region_bytes: self.args.region,
            call_bytes: BATCH_BYTES,
            calls: self
                .args
                .latency_batches
                .unwrap_or(if self.args.busy { 0 } else { 100 }),
            fewest_calls: FEWEST_BATCHES,
            pages: false,
            weight: 1,
            speed_share: 0.8,
        }
    }

    /// Plans the migrators' own policy, then none, one, two and more workers in any case.
    fn workers(&self, folio_bytes: u64) -> Step {
        let counts: Vec<u32> = if self.args.workers.is_empty() {
            (0..=self.cpus as u32).collect()
        } else {
            self.args.workers.clone()
        };
        let mut variants = self.plain();
        for plain in self.plain().iter().filter(|plain| !plain.is_stock()) {
            variants.extend(
                counts
                    .iter()
                    .map(|&n| plain.with_workers(n, self.can_force)),
            );
        }
        Step {
            part: Some(Part::Workers),
            variants,
            weight: 4,
            speed_share: 0.7,
            ..self.demo(folio_bytes)
        }
    }

    /// Limits in folios for the smallest size, in bytes for the largest.
    fn batch(&self, folio_bytes: u64, in_folios: bool) -> Result<Step> {
        let limits = if in_folios {
            &self.args.batch_folios
        } else {
            &self.args.batch_bytes
        };
        let bytes = |limit: u64| {
            if in_folios {
                limit * folio_bytes
            } else {
                limit
            }
        };
        let Some(largest) = limits.iter().map(|&limit| bytes(limit)).max() else {
            return unusable("no limit of a batch given".into());
        };
        let call_bytes = largest.next_multiple_of(BATCH_BYTES);
        if !call_bytes.is_power_of_two() || call_bytes > 256 << 20 {
            return unusable(format!(
                "a batch of {} is not a power of two up to 256M",
                size_name(largest)
            ));
        }
        let mut variants: Vec<Variant> = (self.plain().into_iter())
            .filter(Variant::is_stock)
            .collect();
        for plain in self.plain().iter().filter(|plain| !plain.is_stock()) {
            variants.extend(limits.iter().map(|&limit| Variant {
                migrator: plain.migrator.clone(),
                knobs: Knobs {
                    batch_folios: in_folios.then_some(limit),
                    // The other limit must not be the one that ends a batch.
                    batch_bytes: Some(bytes(limit).max(BATCH_BYTES)),
                    ..Knobs::default()
                },
                limit: None,
            }));
        }
        Ok(Step {
            part: Some(Part::Batch),
            variants,
            region_bytes: self.args.region.max(2 * call_bytes),
            call_bytes,
            fewest_calls: FEWEST_CALLS,
            pages: true,
            weight: 6,
            speed_share: 0.5,
            ..self.demo(folio_bytes)
        })
    }

    /// Plans the migrators that are no engines, and each engine twice: choosing its share by itself
    /// and with every batch that it can copy.
    fn engines(&self, folio_bytes: u64, batches: bool) -> Result<Step> {
        if self.engines.is_empty() {
            return unusable("no engine to measure: no driver of one is there".into());
        }
        let others = self.plain().into_iter();
        let mut variants: Vec<_> = others.filter(|v| !is_engine(&v.migrator)).collect();
        for (engine, _) in &self.engines {
            let plain = Variant::plain(engine);
            let all = plain.with_all();
            variants.extend([plain, all.clone()]);
            if batches {
                let knobs = Knobs {
                    batch_bytes: Some(self.args.engine_batch),
                    ..all.knobs.clone()
                };
                variants.push(Variant { knobs, ..all });
            }
        }
        let thorough = folio_bytes != BETWEEN;
        Ok(Step {
            part: Some(Part::Engines),
            variants,
            rounds_in_turn: ENGINE_ROUNDS,
            settle: true,
            region_bytes: self.args.region.min(TRIED_BYTES),
            calls: (self.args.latency_batches).unwrap_or(if thorough { 150 } else { 0 }),
            weight: if thorough { 5 } else { 3 },
            speed_share: if thorough { 0.7 } else { 1.0 },
            ..self.demo(folio_bytes)
        })
    }

    /// Engines of more than one channel, and the numbers of channels to compare.
    fn scalable(&self) -> Result<Vec<(&str, Vec<u32>)>> {
        let found: Vec<_> = (self.engines.iter())
            .map(|(engine, there)| {
                let counts = self.args.channels.iter().copied();
                let counts = counts.filter(|&n| there.is_none_or(|there| n <= there));
                (engine.as_str(), counts.collect::<Vec<_>>())
            })
            .filter(|(_, counts)| counts.len() > 1)
            .collect();
        if found.is_empty() {
            return unusable("no engine with several channels to measure".into());
        }
        Ok(found)
    }

    fn of_channels(&self, engine: &str, channels: u32) -> Variant {
        let mut variant = Variant::plain(engine);
        variant.knobs.channels = Some(channels);
        if self
            .engines
            .iter()
            .any(|(e, model)| e == engine && model.is_some())
        {
            variant.limit = Some(self.args.channel_limit);
        }
        variant
    }

    /// Returns a step of long batches that the engine copies as a whole: on one channel without a
    /// limit, then on more and more channels with a limit.
    fn channels_all(&self, folio_bytes: u64, engine: &str, channels: &[u32]) -> Result<Step> {
        let batch_bytes = self.args.engine_batch;
        if batch_bytes % BATCH_BYTES != 0 {
            return unusable(format!(
                "a batch of {} for engines is no multiple of 2M",
                size_name(batch_bytes)
            ));
        }
        let variant = |n: u32| {
            let mut variant = self.of_channels(engine, n).with_all();
            variant.knobs.batch_bytes = Some(batch_bytes);
            variant
        };
        let mut variants = vec![Variant::plain("off")];
        let unlimited = Variant {
            limit: None,
            ..variant(1)
        };
        variants.extend(variant(1).limit.is_some().then_some(unlimited));
        variants.extend(channels.iter().map(|&n| variant(n)));
        Ok(Step {
            part: Some(Part::Channels),
            variants,
            enough: ENOUGH_LIMITED,
            region_bytes: batch_bytes,
            calls: 0,
            weight: 3,
            speed_share: 1.0,
            ..self.demo(folio_bytes)
        })
    }

    /// Returns the same step with the engine's own choice: it is left out where it brings nothing.
    fn channels_auto(&self, folio_bytes: u64, engine: &str, channels: &[u32]) -> Step {
        let mut variants = vec![Variant::plain("off")];
        variants.extend(channels.iter().map(|&n| self.of_channels(engine, n)));
        Step {
            part: Some(Part::Channels),
            variants,
            rounds_in_turn: TRIED_ROUNDS,
            settle: true,
            region_bytes: self.args.region.min(TRIED_BYTES),
            calls: 0,
            weight: 4,
            speed_share: 1.0,
            ..self.demo(folio_bytes)
        }
    }

    fn busy(&self, folio_bytes: u64) -> Step {
        Step {
            part: Some(Part::Busy),
            busy: true,
            rounds: self.args.rounds.max(BUSY_ROUNDS),
            calls: self.args.latency_batches.unwrap_or(0),
            variants: self.plain(),
            weight: 4,
            ..self.demo(folio_bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(line: &str) -> Args {
        Args::try_parse_from(std::iter::once("ferry_bench").chain(line.split_whitespace())).unwrap()
    }

    fn planned(line: &str) -> Vec<(String, Vec<String>)> {
        let args = args(line);
        let migrators = ["off".to_string(), "cpu".to_string()];
        let planner = Planner {
            args: &args,
            migrators: &migrators,
            engines: vec![],
            cpus: 2,
            can_force: true,
        };
        [
            planner.workers(4096),
            planner.batch(4096, true).unwrap(),
            planner.batch(2 << 20, false).unwrap(),
            planner.busy(4096),
        ]
        .iter()
        .map(|step| {
            let names = step.variants.iter().map(Variant::name).collect();
            (step.name(), names)
        })
        .collect()
    }

    #[test]
    fn parts_have_their_variants() {
        let steps = planned("--batch-folios 32,512 --batch-bytes 2M,64M");
        let expected = [
            ("workers 4K", vec!["off", "cpu", "cpu/0", "cpu/1", "cpu/2"]),
            ("batch 4K", vec!["off", "cpu@32", "cpu@512"]),
            ("batch 2M", vec!["off", "cpu@2M", "cpu@64M"]),
            ("busy 4K", vec!["off", "cpu"]),
        ];
        for ((name, variants), (expected_name, expected)) in steps.iter().zip(expected) {
            assert_eq!(name, expected_name);
            assert_eq!(variants, &expected);
        }
    }

    #[test]
    fn a_call_has_room_for_the_largest_batch() {
        let args = args("--batch-folios 32,4096 --region 16M");
        let planner = Planner {
            args: &args,
            migrators: &["off".into(), "cpu".into()],
            engines: vec![],
            cpus: 2,
            can_force: false,
        };
        let step = planner.batch(4096, true).unwrap();
        assert_eq!((step.call_bytes, step.region_bytes), (16 << 20, 32 << 20));
        assert_eq!(step.variants[2].knobs.batch_bytes, Some(16 << 20));
        assert_eq!(step.variants[1].knobs.batch_bytes, Some(2 << 20));
        assert!(!planner.workers(4096).variants[3].knobs.all_workers);
    }

    #[test]
    fn without_parts_it_is_the_demo() {
        let steps = |line: &str| super::steps(&args(line), None, 2, &BTreeMap::new());
        let demo = steps("--sizes 4K,2M").unwrap();
        assert_eq!(demo.len(), 2);
        assert!(demo.iter().all(|s| s.part.is_none() && s.calls == 100));
        assert!(steps("--sizes 3K").is_err());
        assert!(steps("--region 1M").is_err());
        assert!(steps("--migrators cpu").is_err());
        assert!(steps("--parts engines").is_err(), "there is none");
        assert!(steps("--parts channels").is_err());
    }

    #[test]
    fn engines_have_parts_of_their_own() {
        let args = args("--channels 1,4,16,64 --engine-batch 16M --channel-limit 8M");
        let planner = Planner {
            args: &args,
            migrators: &["off".into(), "cpu".into()],
            engines: vec![
                ("ptdma".into(), Some(1)),
                ("ae4dma".into(), Some(16)),
                ("hardware".into(), None),
            ],
            cpus: 2,
            can_force: true,
        };
        let names = |step: &Step| step.variants.iter().map(Variant::name).collect::<Vec<_>>();
        let small = planner.engines(4096, false).unwrap();
        let expected = ["off", "cpu", "ptdma", "ptdma+all", "ae4dma", "ae4dma+all"];
        assert_eq!(names(&small)[..6], expected);
        assert!(small.settle);
        let large = planner.engines(2 << 20, true).unwrap();
        assert_eq!(names(&large)[4], "ptdma+all@16M");
        let scalable = planner.scalable().unwrap();
        let counts: Vec<_> = scalable.iter().map(|(name, n)| (*name, n.len())).collect();
        assert_eq!(counts, [("ae4dma", 3), ("hardware", 4)]);
        let all = planner.channels_all(2 << 20, "ae4dma", &[1, 16]).unwrap();
        let expected = [
            "off",
            "ae4dma/1+all@16M",
            "ae4dma/1+all@16M~8M",
            "ae4dma/16+all@16M~8M",
        ];
        assert_eq!(names(&all), expected);
        assert_eq!(all.region_bytes, 16 << 20);
        let auto = planner.channels_auto(4096, "hardware", &[1, 64]);
        assert_eq!(names(&auto), ["off", "hardware/1", "hardware/64"]);
    }
}
