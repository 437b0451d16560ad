// SPDX-License-Identifier: GPL-2.0

//! The two measurements, each alternating between all variants: speed of the whole region, and
//! when the first folio of one batch is back.

use crate::error::{in_call, Result};
use crate::guest::{self, Ferry, Group};
use crate::interrupts::Tracer;
use crate::model::Model;
use crate::plan::Step;
use crate::probe::{Probe, Seen};
use crate::region::Region;
use crate::spin::Spinners;
use crate::sys;
use crate::tables;
use crate::variant::{Variant, BATCH_BYTES};
use ferry_results::Charge;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Calls under the probe before it is another variant's turn.
const CALLS_IN_TURN: usize = 25;

/// Calls that are not counted where variants have to settle: an engine is tried out in twelve
/// batches of each direction before anything is decided.
const SETTLING_CALLS: usize = 14;

/// Batches of each direction after which an engine has chosen its number of channels (a long batch
/// counts four times), and the limit on the wait for them.
const SETTLING_SAMPLES: u64 = 80;
const SETTLING: Duration = Duration::from_secs(6);

/// Bytes held at most on the destination node of a move, and on that of a single batch.
const HELD_BYTES: u64 = 32 << 20;
const HELD_BYTES_OF_CALL: u64 = 1 << 20;

/// A value for each direction: from the first node to the second, and back.
pub type Both<T> = [T; 2];

/// Measurements of one variant at one size.
#[derive(Clone, Debug)]
pub struct Series {
    /// Seconds of each move.
    pub seconds: Both<Vec<f64>>,
    pub bytes: u64,
    pub user_s: f64,
    pub sys_s: f64,
    pub guest_sys_s: f64,
    pub guest_busy_s: f64,
    /// Steps of the spinning threads in each move.
    pub busy_work: Both<Vec<u64>>,
    pub charge: Charge,
    pub ferry: BTreeMap<String, u64>,
    /// Channels that were held, if the migrator is an engine.
    pub channels: Option<u32>,
    pub model: Option<BTreeMap<String, u64>>,
    pub interrupts_taken: Option<u64>,
    /// Seconds in interrupts that came to idle CPUs, by the byte.
    pub idle_interrupts: Option<f64>,
    pub bad_bytes: u64,
    pub off_target: u64,
    /// The lowest share of right-sized folios in what moved.
    pub right_size_share: f64,
    /// Microseconds from the start of the call until the first folio was back.
    pub first_us: Both<Vec<f64>>,
    /// Microseconds for which the first folio could not be read.
    pub gap_us: Vec<f64>,
    /// Microseconds for which a page could not be read, over pages spread over the call.
    pub page_gap_us: Vec<f64>,
    pub unseen: u64,
}

pub struct Bench<'a> {
    pub variants: &'a [Variant],
    pub nodes: Both<i32>,
    pub ferry: Option<&'a mut Ferry>,
    /// Models of engines, by the migrators' names.
    pub models: &'a mut BTreeMap<String, Model>,
    /// Traces the time of interrupts that come to idle CPUs.
    pub tracer: Option<&'a Tracer>,
    pub spinners: Option<&'a Spinners>,
    /// The cgroup in which the CPU time of the workers is observed.
    pub group: Option<&'a Group>,
    /// The CPUs whose tables are levelled before each variant's round, and the mover's.
    pub level: Option<(&'a [usize], usize)>,
    /// CPUs of this machine.
    pub cpus: usize,
    /// Makes a variant learn anew when its turn begins: moves before its turn that do not
    /// count.
    pub settle: bool,
    /// Seed of the order of the variants.
    pub seed: u64,
    /// Moves so far.
    pub moves: u64,
}

/// CPU time so far.
struct Used {
    workers_s: f64,
    own_s: f64,
    group_s: f64,
}

/// Counters of an engine's devices.
struct Devices {
    model: Option<BTreeMap<String, u64>>,
    interrupts: Option<u64>,
}

/// Adds to `sum` what counters have gained.
fn add_gains(
    sum: &mut BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    after: BTreeMap<String, u64>,
) {
    for (name, value) in after {
        let gained = value.saturating_sub(before.get(&name).copied().unwrap_or(0));
        *sum.entry(name).or_default() += gained;
    }
}

impl Bench<'_> {
    fn select(&mut self, variant: &Variant) -> Result<()> {
        for (name, model) in self.models.iter_mut() {
            model.limit(variant.limit.filter(|_| *name == variant.migrator))?;
        }
        match &mut self.ferry {
            Some(ferry) => ferry.select(&variant.migrator, &variant.knobs),
            None => Ok(()),
        }
    }

    /// Begins a variant's turn in the state that the variant has after a while.
    fn begin_turn(
        &mut self,
        variant: &Variant,
        region: &mut Region,
        series: &mut Series,
    ) -> Result<()> {
        self.select(variant)?;
        self.level()?;
        if self.settle {
            self.settled(variant, region, series)?;
        }
        if let Some(tracer) = self.tracer.filter(|_| series.idle_interrupts.is_none()) {
            tracer.start()?;
            self.uncounted(variant, region, series)?;
            let bytes = 2.0 * region.bytes() as f64;
            series.idle_interrupts = tracer.stop()?.map(|seconds| seconds / bytes);
        }
        Ok(())
    }

    /// Moves until a migrator knows what there is to know of such batches, or a while.
    fn settled(
        &mut self,
        variant: &Variant,
        region: &mut Region,
        series: &mut Series,
    ) -> Result<()> {
        let channels = match &self.ferry {
            Some(ferry) => ferry.channels()?.unwrap_or(0),
            None => 0,
        };
        // The share of an engine is learnt unless it gets all, and so is the number of its
        // channels.
        let wanted = match (variant.knobs.all_to_engine, channels) {
            (true, 0..=1) => 0,
            (false, 0..=1) => 1,
            _ => SETTLING_SAMPLES,
        };
        let batch = variant.knobs.batch_bytes.unwrap_or(BATCH_BYTES);
        let samples = (region.bytes() / batch).max(1) * (batch / BATCH_BYTES).clamp(1, 4);
        let from = Instant::now();
        for _ in 0..wanted.div_ceil(samples) {
            self.uncounted(variant, region, series)?;
            if from.elapsed() >= SETTLING {
                break;
            }
        }
        Ok(())
    }

    fn level(&self) -> Result<()> {
        match self.level {
            Some((cpus, home)) => tables::level(cpus, home),
            None => Ok(()),
        }
    }

    /// Moves the region there and back without a measurement.
    fn uncounted(
        &mut self,
        variant: &Variant,
        region: &mut Region,
        series: &mut Series,
    ) -> Result<()> {
        let mut own = Series::default();
        for direction in 0..2 {
            self.timed_move(variant, region, direction, &mut own)?;
        }
        series.bad_bytes += own.bad_bytes;
        series.off_target += own.off_target;
        series.right_size_share = series.right_size_share.min(own.right_size_share);
        Ok(())
    }

    fn devices(&self, variant: &Variant) -> Result<Option<Devices>> {
        if !guest::is_engine(&variant.migrator) {
            return Ok(None);
        }
        let model = self.models.get(&variant.migrator);
        Ok(Some(Devices {
            model: model.map(Model::counters).transpose()?,
            interrupts: guest::interrupts_of(&variant.migrator),
        }))
    }

    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        self.ferry
            .as_ref()
            .map_or(Ok(BTreeMap::new()), |ferry| ferry.counters())
    }

    fn used(&self) -> Result<Option<Used>> {
        let Some(group) = self.group else {
            return Ok(None);
        };
        let workers_s = match &self.ferry {
            Some(ferry) => ferry.workers_s()?,
            None => 0.0,
        };
        // The process's clock first: it brings what the group was charged up to date.
        let own_s = sys::process_s().map_err(in_call("clock_gettime"))?;
        Ok(Some(Used {
            workers_s,
            own_s,
            group_s: group.used_s()?,
        }))
    }

    /// Moves the region once, takes the time, then checks place and content.
    fn timed_move(
        &mut self,
        variant: &Variant,
        region: &mut Region,
        direction: usize,
        series: &mut Series,
    ) -> Result<()> {
        let pieces = 0..region.pieces();
        let folios = region.folios(pieces.clone());
        let target = self.nodes[1 - direction];
        let nodes = vec![target; folios.len()];
        let mut status = vec![-1; folios.len()];
        self.moves += 1;
        let _held = held(target, region.folio_bytes(), HELD_BYTES, self.moves)?;

        let counters = self.counters()?;
        let devices = self.devices(variant)?;
        let used_before = self.used()?;
        let work = self.spinners.map_or(0, Spinners::work);
        let guest_sys = guest::system_s()?;
        // Both readings of the idle time follow one of the clock.
        let begin = Instant::now();
        let idle = guest::idle_s()?;
        let usage = sys::thread_usage();
        let start = Instant::now();
        sys::move_pages(folios, &nodes, &mut status).map_err(in_call("move_pages"))?;
        let seconds = start.elapsed().as_secs_f64();
        let used = sys::thread_usage();
        let passed = begin.elapsed().as_secs_f64();
        series.guest_busy_s += self.cpus as f64 * passed - (guest::idle_s()? - idle);
        series.guest_sys_s += guest::system_s()? - guest_sys;
        series.busy_work[direction].push(self.spinners.map_or(0, Spinners::work) - work);
        series.sys_s += used.sys_s - usage.sys_s;
        series.user_s += used.user_s - usage.user_s;
        series.seconds[direction].push(seconds);
        series.bytes += region.bytes();
        if let (Some(before), Some(after)) = (used_before, self.used()?) {
            series.charge.workers_s += after.workers_s - before.workers_s;
            series.charge.charged_s +=
                after.group_s - before.group_s - (after.own_s - before.own_s);
        }
        add_gains(&mut series.ferry, &counters, self.counters()?);
        if let (Some(before), Some(after)) = (devices, self.devices(variant)?) {
            if let (Some(before), Some(after)) = (before.model, after.model) {
                add_gains(series.model.get_or_insert_default(), &before, after);
            }
            if let (Some(before), Some(after)) = (before.interrupts, after.interrupts) {
                *series.interrupts_taken.get_or_insert_default() += after.saturating_sub(before);
            }
            series.channels = match &self.ferry {
                Some(ferry) => ferry.channels()?,
                None => None,
            };
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

    /// Moves the region there and back with each variant in its turn, as often as the step says.
    /// After as many rounds as are enough, and two turns, it also ends when the time is up.
    pub fn speed(
        &mut self,
        region: &mut Region,
        step: &Step,
        until: Instant,
        mut progress: impl FnMut(String),
    ) -> Result<Vec<Series>> {
        let variants = self.variants;
        let mut all = vec![Series::default(); variants.len()];
        // This move is not counted: page tables, caches and the allocator find their state.
        self.select(&variants[0])?;
        self.uncounted(&variants[0], region, &mut all[0])?;
        let mut done = 0;
        for turn in 1.. {
            // Each turn has all variants, so that slow changes of the machine affect all of them.
            for v in in_turns(variants.len(), turn, self.seed) {
                self.begin_turn(&variants[v], region, &mut all[v])?;
                for _ in 0..step.rounds_in_turn {
                    self.level()?;
                    for direction in 0..2 {
                        self.timed_move(&variants[v], region, direction, &mut all[v])?;
                    }
                }
            }
            done += step.rounds_in_turn;
            let speeds = variants.iter().zip(&all).map(|(variant, series)| {
                let speed = series.round_speeds().last().copied().unwrap_or(0.0);
                format!("  {} {speed:.3}", variant.name())
            });
            progress(format!(
                "round {done}/{}, GiB/s:{}",
                step.rounds,
                speeds.collect::<String>()
            ));
            let late = done >= step.enough && turn > 1 && Instant::now() >= until;
            if done >= step.rounds || late {
                break;
            }
        }
        Ok(all)
    }

    /// Moves single batches, or more in one call, as the step says, while another thread watches a
    /// page: the first one, or in turns with it one somewhere in the call. After the step's fewest
    /// calls it also ends when the time is up.
    pub fn latency(
        &mut self,
        region: &mut Region,
        step: &Step,
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
            let samples = self.calls(region, step, until, &probe, all);
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
                    if sample.page == 0 {
                        series.first_us[sample.direction].push(us(until - sample.call));
                        series.gap_us.push(us(until - from));
                    } else {
                        series.page_gap_us.push(us(until - from));
                    }
                }
                _ => series.unseen += 1,
            }
        }
        Ok(())
    }

    fn calls(
        &mut self,
        region: &mut Region,
        step: &Step,
        until: Instant,
        probe: &Probe,
        all: &mut [Series],
    ) -> Result<Vec<Sample>> {
        let variants = self.variants;
        let settling = if self.settle { SETTLING_CALLS } else { 0 };
        let in_turn = (CALLS_IN_TURN + settling).min(region.pieces());
        // At most half of the calls of a small region settle, so that some are left to be counted.
        let settling = settling.min(in_turn / 2);
        let mut samples = vec![];
        let (mut done, mut number) = (0, 0);
        for turn in 0.. {
            if done >= step.calls || done >= step.fewest_calls && Instant::now() >= until {
                break;
            }
            let now = in_turn.min(step.calls - done + settling);
            done += now - settling;
            for v in in_turns(variants.len(), turn, self.seed) {
                self.select(&variants[v])?;
                // A few there, then the same back again.
                for (direction, piece) in (0..2).flat_map(|d| (0..now).map(move |k| (d, k))) {
                    number += 1;
                    let page = if step.pages && (turn + direction + piece) % 2 == 1 {
                        page_at(number, region.pages_per_piece())
                    } else {
                        0
                    };
                    let to = self.nodes[1 - direction];
                    let _held = held(to, region.folio_bytes(), HELD_BYTES_OF_CALL, number)?;
                    let (call, seen) =
                        self.one_call(region, piece, direction, page, number, probe)?;
                    all[v].bad_bytes += seen.bad_bytes;
                    self.verify(region, piece..piece + 1, to, &mut all[v])?;
                    // The first call after a switch finds workers that have never run.
                    if piece >= settling && ((direction, piece) != (0, 0) || now == 1) {
                        samples.push(Sample {
                            variant: v,
                            direction,
                            page,
                            call,
                            gap: seen.gap,
                        });
                    }
                }
            }
        }
        Ok(samples)
    }

    fn one_call(
        &self,
        region: &Region,
        piece: usize,
        direction: usize,
        page: usize,
        number: u64,
        probe: &Probe,
    ) -> Result<(u64, Seen)> {
        let folios = region.folios(piece..piece + 1);
        let nodes = vec![self.nodes[1 - direction]; folios.len()];
        let mut status = vec![-1; folios.len()];
        let (index, expected) = region.word_of_page(piece, page);
        probe.start(number, index, expected);
        let call = sys::ticks();
        let moved = sys::move_pages(folios, &nodes, &mut status);
        let seen = probe.stop(number);
        moved.map_err(in_call("move_pages"))?;
        Ok((call, seen))
    }
}

/// Returns the variants in the order of a turn, drawn anew for each turn: what changes on the
/// machine in step with the turns is not one variant's alone.
fn in_turns(variants: usize, turn: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..variants).collect();
    fastrand::Rng::with_seed(seed.wrapping_add(turn as u64)).shuffle(&mut order);
    order
}

/// Folios on the node that the next move goes to, another number of them each time. Without them
/// its copies come from what the last one has left, in the same order: how far each lies from its
/// folio, which matters (see [`tables`]), would be the same for many rounds, and then another.
fn held(node: i32, folio_bytes: u64, most_bytes: u64, number: u64) -> Result<sys::Mapping> {
    let most = (most_bytes / folio_bytes).clamp(1, 256) as usize;
    let bytes = page_at(number, most) * folio_bytes as usize;
    let memory = sys::Mapping::new(bytes).map_err(in_call("mmap"))?;
    (memory.advise_huge(folio_bytes > guest::PAGE)).map_err(in_call("madvise"))?;
    sys::allocate_on(Some(node)).map_err(in_call("set_mempolicy"))?;
    let page = guest::PAGE as usize / size_of::<u64>();
    for word in memory.words().iter().step_by(page) {
        word.store(1, Relaxed);
    }
    sys::allocate_on(None).map_err(in_call("set_mempolicy"))?;
    Ok(memory)
}

/// Pages but the first, evenly spread however many there are of them: multiples of the golden
/// ratio.
fn page_at(number: u64, pages: usize) -> usize {
    let share = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    1 + ((share * (pages as u64 - 1)) >> 32) as usize
}

/// One call under the probe; time stamps in ticks.
struct Sample {
    variant: usize,
    direction: usize,
    page: usize,
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
            guest_busy_s: 0.0,
            busy_work: Default::default(),
            charge: Charge::default(),
            ferry: BTreeMap::new(),
            channels: None,
            model: None,
            interrupts_taken: None,
            idle_interrupts: None,
            bad_bytes: 0,
            off_target: 0,
            right_size_share: 1.0,
            first_us: Default::default(),
            gap_us: vec![],
            page_gap_us: vec![],
            unseen: 0,
        }
    }
}

impl Series {
    /// Returns the GiB/s of each round, there and back.
    pub fn round_speeds(&self) -> Vec<f64> {
        let bytes = self.bytes_of_a_move() * 2.0;
        self.seconds[0]
            .iter()
            .zip(&self.seconds[1])
            .map(|(there, back)| bytes / (there + back) / GIB)
            .collect()
    }

    /// Returns the GiB/s of all rounds together.
    pub fn overall_speed(&self) -> f64 {
        let seconds: f64 = self.seconds.iter().flatten().sum();
        self.bytes as f64 / seconds / GIB
    }

    /// Steps of the spinning threads in a second of each round's moves.
    pub fn round_work(&self) -> Vec<f64> {
        let both = |values: &Both<Vec<u64>>| -> Vec<u64> {
            values[0]
                .iter()
                .zip(&values[1])
                .map(|(a, b)| a + b)
                .collect()
        };
        both(&self.busy_work)
            .iter()
            .zip(self.seconds[0].iter().zip(&self.seconds[1]))
            .map(|(&work, (there, back))| work as f64 / (there + back))
            .collect()
    }

    /// Returns the GiB/s of each move in one direction.
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
        assert_eq!(series.overall_speed(), 0.5);
    }

    #[test]
    fn gains_add_up() {
        let of = |n: u64| BTreeMap::from([("bytes".to_string(), n)]);
        let mut sum = of(1);
        add_gains(&mut sum, &of(10), of(15));
        add_gains(&mut sum, &BTreeMap::new(), of(2));
        add_gains(&mut sum, &of(9), of(3));
        assert_eq!(sum["bytes"], 8, "a counter that was reset gains nothing");
    }

    #[test]
    fn each_variant_has_each_place_about_as_often() {
        let mut first = [0; 3];
        for turn in 0..300 {
            let mut order = in_turns(3, turn, 5);
            first[order[0]] += 1;
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2]);
        }
        assert!(first.iter().all(|&n| (70..=130).contains(&n)), "{first:?}");
        assert_eq!(in_turns(3, 2, 5), in_turns(3, 2, 5));
    }

    #[test]
    fn pages_are_spread_over_the_call() {
        let mut seen = [0; 8];
        for number in 0..800 {
            let page = page_at(number, 4096);
            assert!((1..4096).contains(&page));
            seen[page / 512] += 1;
        }
        assert!(seen.iter().all(|&n| (90..=110).contains(&n)), "{seen:?}");
        assert_eq!(page_at(5, 2), 1);
    }

    #[test]
    fn work_of_a_round_is_per_second() {
        let series = Series {
            seconds: [vec![1.0], vec![3.0]],
            busy_work: [vec![10], vec![30]],
            ..Series::default()
        };
        assert_eq!(series.round_work(), [10.0]);
    }
}
