// SPDX-License-Identifier: GPL-2.0

//! The two measurements, each alternating between all variants: speed of the whole region, and
//! when the first folio of one batch is back.

use crate::error::{in_call, Result};
use crate::guest::{self, Ferry};
use crate::probe::{Probe, Seen};
use crate::region::Region;
use crate::spin::Spinners;
use crate::sys;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

/// Base pages in a batch, `NR_MAX_BATCHED_MIGRATION` of the stock kernel.
pub const BATCH_BYTES: u64 = 512 * guest::PAGE;

/// So many in each direction are watched however long it takes.
const FEWEST_BATCHES: usize = 25;

/// One thing to compare: a migrator, with a number of workers if that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    pub migrator: String,
    pub workers: Option<u32>,
}

impl Variant {
    pub fn is_off(&self) -> bool {
        self.migrator == "off"
    }

    pub fn name(&self) -> String {
        match self.workers {
            Some(workers) => format!("{}/{workers}", self.migrator),
            None => self.migrator.clone(),
        }
    }
}

/// A value for each direction: from the first node to the second, and back.
pub type Both<T> = [T; 2];

/// What was measured of one variant at one size.
#[derive(Clone, Debug)]
pub struct Series {
    /// Seconds of each move.
    pub seconds: Both<Vec<f64>>,
    pub bytes: u64,
    pub user_s: f64,
    pub sys_s: f64,
    pub guest_sys_s: f64,
    pub busy_work: u64,
    pub ferry: BTreeMap<String, u64>,
    pub bad_bytes: u64,
    pub off_target: u64,
    /// The lowest share of right-sized folios in what moved.
    pub right_size_share: f64,
    /// Microseconds from the start of the call until the first folio was back.
    pub first_us: Both<Vec<f64>>,
    /// Microseconds it could not be read.
    pub gap_us: Vec<f64>,
    pub unseen: u64,
}

pub struct Bench<'a> {
    pub variants: &'a [Variant],
    pub nodes: Both<i32>,
    pub ferry: Option<&'a mut Ferry>,
    pub spinners: Option<&'a Spinners>,
}

impl Bench<'_> {
    fn select(&mut self, variant: &Variant) -> Result<()> {
        match &mut self.ferry {
            Some(ferry) => ferry.select(&variant.migrator, variant.workers),
            None => Ok(()),
        }
    }

    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        self.ferry
            .as_ref()
            .map_or(Ok(BTreeMap::new()), |ferry| ferry.counters())
    }

    /// Moves the region once, takes the time, then checks place and content.
    fn timed_move(
        &mut self,
        region: &mut Region,
        direction: usize,
        series: &mut Series,
    ) -> Result<()> {
        let pieces = 0..region.pieces();
        let folios = region.folios(pieces.clone());
        let target = self.nodes[1 - direction];
        let nodes = vec![target; folios.len()];
        let mut status = vec![-1; folios.len()];

        let counters = self.counters()?;
        let work = self.spinners.map_or(0, Spinners::work);
        let guest_sys = guest::system_s()?;
        let usage = sys::thread_usage();
        let start = Instant::now();
        sys::move_pages(folios, &nodes, &mut status).map_err(in_call("move_pages"))?;
        let seconds = start.elapsed().as_secs_f64();
        let used = sys::thread_usage();
        series.guest_sys_s += guest::system_s()? - guest_sys;
        series.busy_work += self.spinners.map_or(0, Spinners::work) - work;
        series.sys_s += used.sys_s - usage.sys_s;
        series.user_s += used.user_s - usage.user_s;
        series.seconds[direction].push(seconds);
        series.bytes += region.bytes();
        for (name, value) in self.counters()? {
            let gained = value.saturating_sub(counters.get(&name).copied().unwrap_or(0));
            *series.ferry.entry(name).or_default() += gained;
        }
        self.verify(region, pieces, target, series)
    }

    fn verify(
        &self,
        region: &mut Region,
        pieces: Range<usize>,
        target: i32,
        series: &mut Series,
    ) -> Result<()> {
        series.off_target += region.pages_not_on(target, pieces.clone())?;
        // Migration splits folios but never joins them: what is whole now was whole before. Base
        // pages stay what they are, and looking at each one takes long.
        if region.folio_bytes() > guest::PAGE {
            series.right_size_share = series
                .right_size_share
                .min(region.right_size_share(pieces.clone())?);
        }
        series.bad_bytes += region.check(pieces.clone());
        region.prepare(pieces, target)
    }

    /// `rounds` times: each variant moves the region there and back. After `enough` rounds it also
    /// ends when the time is up.
    pub fn speed(
        &mut self,
        region: &mut Region,
        rounds: u32,
        enough: u32,
        until: Instant,
        mut progress: impl FnMut(String),
    ) -> Result<Vec<Series>> {
        let variants = self.variants;
        let mut all = vec![Series::default(); variants.len()];
        // Not counted: page tables, caches and the allocator find their state.
        self.select(&variants[0])?;
        let mut warm_up = Series::default();
        for direction in 0..2 {
            self.timed_move(region, direction, &mut warm_up)?;
        }
        all[0].bad_bytes += warm_up.bad_bytes;
        all[0].off_target += warm_up.off_target;
        all[0].right_size_share = warm_up.right_size_share;
        for round in 1..=rounds {
            let mut line = format!("round {round}/{rounds}");
            for (variant, series) in variants.iter().zip(&mut all) {
                self.select(variant)?;
                for direction in 0..2 {
                    self.timed_move(region, direction, series)?;
                }
                let speeds = series.round_speeds();
                line += &format!("  {} {:.3} GiB/s", variant.name(), speeds[speeds.len() - 1]);
            }
            progress(line);
            if round >= enough && Instant::now() >= until {
                break;
            }
        }
        Ok(all)
    }

    /// Moves single batches, `count` of them in each direction for each variant, while another
    /// thread watches the first page. After [`FEWEST_BATCHES`] it also ends when the time is up.
    pub fn latency(
        &mut self,
        region: &mut Region,
        count: usize,
        until: Instant,
        probe_cpu: usize,
        all: &mut [Series],
    ) -> Result<()> {
        let probe = Probe::new(region.mapping());
        let clock = (sys::ticks(), Instant::now());
        let samples = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let bound = sys::bind_to_cpu(probe_cpu);
                probe.run();
                bound
            });
            let samples = self.batches(region, count, until, &probe, all);
            probe.quit();
            thread
                .join()
                .expect("the probe does not panic")
                .map_err(in_call("sched_setaffinity"))?;
            samples
        })?;
        let ticks_per_us = (sys::ticks() - clock.0) as f64 / clock.1.elapsed().as_secs_f64() / 1e6;
        for sample in samples {
            let series = &mut all[sample.variant];
            match sample.gap {
                Some((from, until)) if from >= sample.call => {
                    let us = |ticks: u64| ticks as f64 / ticks_per_us;
                    series.first_us[sample.direction].push(us(until - sample.call));
                    series.gap_us.push(us(until - from));
                }
                _ => series.unseen += 1,
            }
        }
        Ok(())
    }

    fn batches(
        &mut self,
        region: &mut Region,
        count: usize,
        until: Instant,
        probe: &Probe,
        all: &mut [Series],
    ) -> Result<Vec<Sample>> {
        let variants = self.variants;
        // A few there, then the same back again.
        let in_turn = (region.pieces() / variants.len()).min(FEWEST_BATCHES);
        let mut samples = Vec::with_capacity(2 * count * variants.len());
        let mut done = 0;
        while done < count && (done < FEWEST_BATCHES || Instant::now() < until) {
            let now = in_turn.min(count - done);
            done += now;
            for (direction, k) in (0..2).flat_map(|d| (0..now).map(move |k| (d, k))) {
                for (v, variant) in variants.iter().enumerate() {
                    let piece = k * variants.len() + v;
                    self.select(variant)?;
                    let number = samples.len() as u64 + 1;
                    let (call, seen) = self.one_batch(region, piece, direction, number, probe)?;
                    all[v].bad_bytes += seen.bad_bytes;
                    self.verify(
                        region,
                        piece..piece + 1,
                        self.nodes[1 - direction],
                        &mut all[v],
                    )?;
                    samples.push(Sample {
                        variant: v,
                        direction,
                        call,
                        gap: seen.gap,
                    });
                }
            }
        }
        Ok(samples)
    }

    fn one_batch(
        &self,
        region: &Region,
        piece: usize,
        direction: usize,
        number: u64,
        probe: &Probe,
    ) -> Result<(u64, Seen)> {
        let folios = region.folios(piece..piece + 1);
        let nodes = vec![self.nodes[1 - direction]; folios.len()];
        let mut status = vec![-1; folios.len()];
        let (index, expected) = region.first_word(piece);
        probe.start(number, index, expected);
        let call = sys::ticks();
        let moved = sys::move_pages(folios, &nodes, &mut status);
        let seen = probe.stop(number);
        moved.map_err(in_call("move_pages"))?;
        Ok((call, seen))
    }
}

/// One batch under the probe; time stamps in ticks.
struct Sample {
    variant: usize,
    direction: usize,
    call: u64,
    gap: Option<(u64, u64)>,
}

impl Default for Series {
    fn default() -> Self {
        Series {
            seconds: Default::default(),
            bytes: 0,
            user_s: 0.0,
            sys_s: 0.0,
            guest_sys_s: 0.0,
            busy_work: 0,
            ferry: BTreeMap::new(),
            bad_bytes: 0,
            off_target: 0,
            right_size_share: 1.0,
            first_us: Default::default(),
            gap_us: vec![],
            unseen: 0,
        }
    }
}

impl Series {
    /// GiB/s of each round, there and back.
    pub fn round_speeds(&self) -> Vec<f64> {
        let bytes = self.bytes_of_a_move() * 2.0;
        self.seconds[0]
            .iter()
            .zip(&self.seconds[1])
            .map(|(there, back)| bytes / (there + back) / GIB)
            .collect()
    }

    /// GiB/s of each move in one direction.
    pub fn direction_speeds(&self, direction: usize) -> Vec<f64> {
        let bytes = self.bytes_of_a_move();
        self.seconds[direction]
            .iter()
            .map(|s| bytes / s / GIB)
            .collect()
    }

    fn bytes_of_a_move(&self) -> f64 {
        self.bytes as f64 / (self.seconds[0].len() + self.seconds[1].len()) as f64
    }
}

const GIB: f64 = (1u64 << 30) as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_of_rounds_and_directions() {
        let series = Series {
            seconds: [vec![1.0, 2.0], vec![3.0, 2.0]],
            bytes: 4 << 30,
            ..Series::default()
        };
        assert_eq!(series.round_speeds(), [0.5, 0.5]);
        assert_eq!(series.direction_speeds(0), [1.0, 0.5]);
        assert_eq!(series.direction_speeds(1)[1], 0.5);
    }

    #[test]
    fn variants_have_names() {
        let mut variant = Variant {
            migrator: "cpu".into(),
            workers: None,
        };
        assert_eq!(variant.name(), "cpu");
        variant.workers = Some(2);
        assert_eq!(variant.name(), "cpu/2");
        assert!(!variant.is_off());
    }
}
