// SPDX-License-Identifier: GPL-2.0

//! From series to the results file and the table.

use crate::guest::is_engine;
use crate::measure::Series;
use crate::plan::Step;
use crate::variant::{Variant, BATCH_BYTES};
use ferry_results::bench_tables::{name, ratio, sections};
use ferry_results::engine::{self, Cost, Counted, Engine};
use ferry_results::stats::{interval_of_median, median, percentile};
use ferry_results::{size_name, Direction, Part, Quantiles, Range, Results, Run, UNLOADED};
use std::collections::BTreeMap;

/// Returns one run for each variant of a step; ratios are to the variant that is off, else to the
/// first.
/// `right_size_share` is that of the whole region, before and after all moves.
pub fn runs(
    step: &Step,
    nodes: [i32; 2],
    right_size_share: f64,
    charged: bool,
    seed: u64,
    all: &[Series],
) -> Vec<Run> {
    let off = &all[step.variants.iter().position(Variant::is_off).unwrap_or(0)];
    let mut runs: Vec<Run> = (step.variants.iter().zip(all))
        .map(|(variant, series)| Run {
            right_size_share: series.right_size_share.min(right_size_share),
            charge: charged.then_some(series.charge),
            ..run(step, nodes, seed, variant, series, off)
        })
        .collect();
    if step.part == Some(Part::Channels) {
        compare_with_linear(&mut runs);
    }
    runs
}

/// Compares each run whose bytes are all the engine's with the run that has one channel and the
/// same limit.
fn compare_with_linear(runs: &mut [Run]) {
    let speeds: Vec<_> = (runs.iter())
        .filter_map(|run| {
            let engine = run.engine.as_ref().filter(|e| e.share == engine::ALL)?;
            Some((
                engine.channels,
                engine.limit_bytes_per_s,
                run.gib_per_s.median,
            ))
        })
        .collect();
    for run in runs {
        let Some(engine) = run.engine.as_mut().filter(|e| e.share == engine::ALL) else {
            continue;
        };
        let one = |s: &&(u32, Option<u64>, f64)| s.0 == 1 && s.1 == engine.limit_bytes_per_s;
        engine.of_linear = speeds.iter().find(one).and_then(|&(_, _, of_one)| {
            engine::of_linear(run.gib_per_s.median, of_one, engine.channels)
        });
    }
}

fn engine_of(step: &Step, variant: &Variant, series: &Series) -> Option<Engine> {
    let counted = Counted {
        bytes: series.bytes,
        ferry: &series.ferry,
        model: series.model.as_ref(),
        interrupts_taken: series.interrupts_taken,
    };
    let share = if variant.knobs.all_to_engine {
        engine::ALL
    } else {
        "auto"
    };
    is_engine(&variant.migrator).then(|| Engine {
        share: share.into(),
        channels: series.channels.unwrap_or(0),
        limit_bytes_per_s: variant.limit,
        model: series.model.clone(),
        interrupts_taken: series.interrupts_taken,
        copied_share: counted.copied_share(),
        cost: counted.cost(),
        one_each: Cost::one_each(
            step.folio_bytes,
            variant.knobs.batch_bytes.unwrap_or(BATCH_BYTES),
        ),
        of_linear: None,
    })
}

fn range(values: &[f64]) -> Range {
    Range::of(values).expect("at least one round")
}

/// Returns the ratio of the statistic `of` of both, such as their medians, if both were measured.
fn over(of: fn(&[f64]) -> Option<f64>, values: &[f64], off: &[f64]) -> Option<f64> {
    Some(of(values)? / of(off)?)
}

fn run(
    step: &Step,
    nodes: [i32; 2],
    seed: u64,
    variant: &Variant,
    series: &Series,
    off: &Series,
) -> Run {
    let (speeds, off_speeds) = (series.round_speeds(), off.round_speeds());
    let (speed, off_speed) = (range(&speeds), range(&off_speeds));
    let pairs: Vec<f64> = speeds.iter().zip(&off_speeds).map(|(a, b)| a / b).collect();
    let directions = (0..2)
        .map(|d| {
            let speed = range(&series.direction_speeds(d));
            Direction {
                from: nodes[d],
                to: nodes[1 - d],
                gib_per_s: speed,
                ratio_to_off: speed.median / range(&off.direction_speeds(d)).median,
                first_folio_us: Quantiles::of(&series.first_us[d]),
            }
        })
        .collect();
    let (first, off_first) = (series.first_us.concat(), off.first_us.concat());
    let work = Range::of(&series.round_work()).filter(|_| step.busy);
    let off_work = Range::of(&off.round_work());
    let idle_interrupts_s = series.idle_interrupts.map(|s| s * series.bytes as f64);
    Run {
        migrator: variant.migrator.clone(),
        folio_bytes: step.folio_bytes,
        total_bytes: series.bytes,
        gib_per_s: speed,
        ratio_to_off: speed.median / off_speed.median,
        first_folio_us: Quantiles::of(&first),
        sys_s: series.sys_s,
        user_s: series.user_s,
        bad_bytes: series.bad_bytes,
        workers: variant.knobs.workers,
        part: step.part,
        all_workers: variant.knobs.all_workers,
        batch_folios: variant.knobs.batch_folios,
        batch_bytes: variant.knobs.batch_bytes,
        rounds: speeds.len() as u32,
        noise: speed.noise(),
        noise_of_off: off_speed.noise(),
        ratio_paired: median(&pairs).expect("at least one round"),
        ratio_interval: interval_of_median(&pairs, seed).filter(|_| !std::ptr::eq(series, off)),
        ratio_of_sums: Some(series.overall_speed() / off.overall_speed()),
        rounds_gib_per_s: speeds.clone(),
        directions,
        first_folio_gap_us: Quantiles::of(&series.gap_us),
        first_folio_ratio: over(median, &first, &off_first),
        first_folio_p99_ratio: over(|values| percentile(values, 99.0), &first, &off_first),
        first_folio_gap_ratio: over(median, &series.gap_us, &off.gap_us),
        first_folio_samples: series.gap_us.len() as u64,
        first_folio_unseen: series.unseen,
        call_bytes: step.pages.then_some(step.call_bytes),
        page_gap_us: Quantiles::of(&series.page_gap_us),
        page_gap_ratio: over(median, &series.page_gap_us, &off.page_gap_us),
        guest_sys_s: series.guest_sys_s,
        guest_busy_s: series.guest_busy_s + idle_interrupts_s.unwrap_or(0.0),
        idle_interrupts_s,
        right_size_share: series.right_size_share,
        pages_off_target: series.off_target,
        busy_work_per_s: work.map(|work| work.median),
        busy_work: work,
        busy_work_ratio: work
            .zip(off_work)
            .map(|(work, off)| work.median / off.median),
        charge: None,
        engine: engine_of(step, variant, series),
        ferry: series.ferry.clone(),
    }
}

/// Bytes that the migrator brought to their new place, early or now; of an engine, without those
/// that the mover copied.
pub fn copied_bytes(run: &Run) -> u64 {
    let names: &[&str] = match run.engine {
        Some(_) => &["engine_bytes"],
        None => &["bytes_early", "bytes_in_place"],
    };
    names.iter().filter_map(|name| run.ferry.get(*name)).sum()
}

/// Bytes that the engine says it copied, and the model does not know of.
fn unknown_to_model(run: &Run) -> Option<u64> {
    let model = run.engine.as_ref()?.model.as_ref()?;
    let copied = |counters: &BTreeMap<String, u64>, name| counters.get(name).copied().unwrap_or(0);
    let unknown = copied(&run.ferry, "engine_bytes").saturating_sub(copied(model, "bytes"));
    (unknown > 0).then_some(unknown)
}

/// Returns the reasons why the results are unusable; empty if they are usable.
pub fn failures(results: &Results) -> Vec<String> {
    let mut failures = vec![];
    for run in &results.runs {
        let part = run
            .part
            .map_or(String::new(), |part| format!("{} ", part.name()));
        let name = format!("{part}{} {}", size_name(run.folio_bytes), name(run));
        if run.bad_bytes > 0 {
            failures.push(format!("{name}: {} bad bytes", run.bad_bytes));
        }
        if run.pages_off_target > 0 {
            failures.push(format!(
                "{name}: {} pages were not on the node they were moved to",
                run.pages_off_target
            ));
        }
        if run.right_size_share < 0.9 {
            failures.push(format!(
                "{name}: only {:.1} % of the memory was in folios of this size",
                run.right_size_share * 100.0
            ));
        }
        if let Some(bytes) = unknown_to_model(run) {
            failures.push(format!(
                "{name}: {bytes} bytes were copied by the engine, but not by its model"
            ));
        }
        let of_all = |alike: &dyn Fn(&&Run) -> bool| -> u64 {
            let same = |other: &&Run| other.migrator == run.migrator && alike(other);
            results.runs.iter().filter(same).map(copied_bytes).sum()
        };
        let copied = match run.migrator.as_str() {
            "off" | UNLOADED => continue,
            // With every CPU busy or without workers, stepping aside is what is wanted.
            _ if run.busy_work.is_some() || run.workers == Some(0) => continue,
            // `auto` may leave a size to the kernel, but not all of them.
            "auto" => of_all(&|_| true),
            // Other migrators may do so with some limit of a batch.
            _ if run.part == Some(Part::Batch) => of_all(&|other| other.part == run.part),
            // An engine that brings nothing is left alone, unless it is to have all.
            _ if run.engine.as_ref().is_some_and(|e| e.share != engine::ALL) => {
                of_all(&|other| other.part == run.part)
            }
            _ => copied_bytes(run),
        };
        if copied == 0 {
            failures.push(format!("{name}: the migrator copied nothing"));
        }
    }
    failures
}

fn has_models(results: &Results) -> bool {
    let engines = results.runs.iter().filter_map(|run| run.engine.as_ref());
    engines.into_iter().any(|engine| engine.model.is_some())
}

/// Returns the results as text.
pub fn table(results: &Results) -> String {
    let mut out = String::new();
    for section in sections(results) {
        if let Some(part) = section.part {
            out += &format!(
                "{}{}:\n",
                if out.is_empty() { "" } else { "\n" },
                part.name()
            );
        }
        out += &section.speed.text();
        if let Some(costs) = section.costs {
            out += &format!("\nWhat engines needed:\n{}", costs.text());
        }
    }
    if has_models(results) {
        out += "\nEngines are models: what they copy, other CPUs of the machine below copy.\n";
    }
    if let Some(overcommit) = results.overcommit() {
        out += &format!("\n{overcommit}.\n");
    }
    if results.runs.iter().any(|run| run.part.is_some()) {
        out += &summary(results);
    }
    out
}

/// Returns the promised figures beside the measured ones. A timing is no condition of success.
fn summary(results: &Results) -> String {
    let mut out = String::from("\nMeasured, and what is wanted:\n");
    let mut line = |what: String, value: String, wanted: &str, how: String| {
        out += &format!("  {what:<54} {value:>13}  {wanted:<8} {how}\n");
    };
    let noise = |noise: f64| format!("noise of off {:.0} %", noise * 100.0);
    // Policies, not what a number of workers or a limit does.
    let own = results.runs.iter().filter(|run| {
        let stock = ["off", UNLOADED].contains(&run.migrator.as_str());
        !stock && run.workers.is_none() && run.batch_bytes.is_none()
    });
    for run in own {
        let what = |what: &str| format!("{} {}: {what}", size_name(run.folio_bytes), run.migrator);
        match run.part {
            Some(Part::Sizes) => {
                line(
                    what("speed against off"),
                    ratio(run),
                    ">= 1",
                    noise(run.noise_of_off),
                );
                if let Some(ratio) = run.first_folio_p99_ratio {
                    let text = what("first folio p99 against off");
                    let how = format!("{} calls", run.first_folio_samples);
                    line(text, format!("{ratio:.2}"), "<= 1.10", how);
                }
            }
            Some(Part::Busy) => {
                let time = format!("{:.3}", 1.0 / run.ratio_to_off);
                let text = what("busy machine, time against off");
                line(text, time, "<= 1.03", noise(run.noise_of_off));
                if let Some(ratio) = run.busy_work_ratio {
                    let text = what("busy machine, user work against off");
                    let how = noise(busy_noise_of_off(results, run));
                    line(text, format!("{ratio:.3}"), ">= 0.97", how);
                }
            }
            Some(Part::Channels) if run.engine.is_some() => {
                let text = format!(
                    "{} {}: speed against off",
                    size_name(run.folio_bytes),
                    name(run)
                );
                let rounds = run.ratio_of_sums.unwrap_or(run.ratio_to_off);
                let how = format!("all rounds {rounds:.2}, {}", noise(run.noise_of_off));
                line(text, format!("{:.2}", run.ratio_to_off), ">= 1", how);
            }
            _ => {}
        }
    }
    for run in &results.runs {
        let Some(engine) = &run.engine else { continue };
        let what = |what: &str| format!("{} {}: {what}", size_name(run.folio_bytes), name(run));
        match run.part {
            Some(Part::Channels) => {
                let Some(of_linear) = engine.of_linear.filter(|_| engine.channels > 1) else {
                    continue;
                };
                let how = format!("noise {:.0} %", run.noise * 100.0);
                line(
                    what("speed against linear"),
                    format!("{of_linear:.2}"),
                    ">= 0.90",
                    how,
                );
            }
            Some(Part::Engines) => {
                let all = engine.share == engine::ALL;
                if !all && run.folio_bytes == 4096 {
                    let how = noise(run.noise_of_off);
                    line(
                        what("speed against off"),
                        format!("{:.2}", run.ratio_to_off),
                        ">= 1",
                        how,
                    );
                }
                if let Some(ratio) = run.first_folio_p99_ratio {
                    let how = format!("{} calls", run.first_folio_samples);
                    line(
                        what("first folio p99 against off"),
                        format!("{ratio:.2}"),
                        "<= 1.10",
                        how,
                    );
                }
                for (text, wanted, each) in CONTEXT {
                    if let Some(n) = of_a_context(run, each).filter(|_| all) {
                        let how = "for each context and batch".into();
                        line(what(text), format!("{n:.2}"), wanted, how);
                    }
                }
                if let Some((sys, busy)) = time_of_cpu(results, run).filter(|_| all) {
                    let how = format!("the mover's own {sys:.2}");
                    let wanted = wanted_time(&run.migrator);
                    line(
                        what("busy CPUs against cpu"),
                        format!("{busy:.2}"),
                        wanted,
                        how,
                    );
                }
            }
            _ => {}
        }
    }
    for run in &results.runs {
        // Below a hundredth of a second it is what reading the clocks takes.
        if let Some(charge) = run.charge.filter(|charge| charge.workers_s > 0.01) {
            out += &format!(
                "  {} {} {}: workers ran {:.3} s, {:.3} s were charged: {:.2}\n",
                run.part.map_or("", Part::name),
                size_name(run.folio_bytes),
                name(run),
                charge.workers_s,
                charge.charged_s,
                charge.charged_s / charge.workers_s
            );
        }
    }
    out
}

/// Returns how many of the operations that `each` selects an SDXI context needs for its part of a
/// batch.
fn of_a_context(run: &Run, each: fn(&Cost) -> Option<f64>) -> Option<f64> {
    let cost = &run.engine.as_ref().filter(|_| run.migrator == SDXI)?.cost;
    Some(each(cost)? / cost.channels_per_batch.filter(|&n| n > 0.0)?)
}

const SDXI: &str = "ferry_sdxi";
type Promise = (&'static str, &'static str, fn(&Cost) -> Option<f64>);
const CONTEXT: [Promise; 2] = [
    ("doorbells", "1", |cost| cost.doorbells_per_batch),
    ("interrupts", "<= 1", |cost| cost.interrupts_per_batch),
];

/// Returns the time of all CPUs by the GiB that an engine may need, against the migrator `cpu` at
/// 2M.
fn wanted_time(engine: &str) -> &'static str {
    match engine {
        SDXI => "<= 0.20",
        _ => "<= 0.25",
    }
}

/// Returns the mover's system time and that of all CPUs against those of `cpu`, at the largest
/// size.
fn time_of_cpu(results: &Results, run: &Run) -> Option<(f64, f64)> {
    let alike = || results.runs.iter().filter(|other| other.part == run.part);
    if alike().any(|other| other.folio_bytes > run.folio_bytes) {
        return None;
    }
    let cpu = alike().find(|o| o.migrator == "cpu" && o.folio_bytes == run.folio_bytes)?;
    Some((
        run.sys_s_per_gib() / cpu.sys_s_per_gib(),
        run.busy_s_per_gib() / cpu.busy_s_per_gib(),
    ))
}

fn busy_noise_of_off(results: &Results, run: &Run) -> f64 {
    let off = results.runs.iter().find(|other| {
        other.migrator == "off" && other.part == run.part && other.folio_bytes == run.folio_bytes
    });
    off.and_then(|off| off.busy_work)
        .map_or(0.0, |work| work.noise())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use crate::plan;
    use clap::Parser;
    use ferry_results::Charge;

    fn series(there: f64, back: f64, copied: u64) -> Series {
        Series {
            seconds: [vec![there; 3], vec![back; 3]],
            bytes: 6 << 30,
            first_us: [vec![10.0; 3], vec![30.0; 3]],
            gap_us: vec![5.0; 6],
            ferry: BTreeMap::from([("bytes_early".into(), copied)]),
            ..Series::default()
        }
    }

    fn results(all: &[Series]) -> Results {
        let args = Args::try_parse_from(["ferry_bench", "--sizes", "64K"]).unwrap();
        let mut steps = plan::steps(&args, None, 2, &BTreeMap::new()).unwrap();
        let mut step = steps.remove(0);
        step.variants = vec![Variant::plain("off"), Variant::plain("cpu")];
        Results {
            kernel: String::new(),
            accel: String::new(),
            cpus: 2,
            date: String::new(),
            command: String::new(),
            runs: runs(&step, [0, 1], 1.0, false, 1, all),
            bench_command: String::new(),
            cpu_model: String::new(),
            nodes: vec![],
            region_bytes: 0,
            busy: false,
            knobs: BTreeMap::new(),
            commit: None,
            host_cpu_model: None,
            host_kernel: None,
            host_cpus: None,
            host_load: None,
            seed: 1,
            wall_s: 0.0,
            failures: vec![],
        }
    }

    #[test]
    fn ratios_are_to_off() {
        let results = results(&[series(1.0, 3.0, 0), series(0.5, 1.5, 1)]);
        let [off, cpu] = &results.runs[..] else {
            panic!()
        };
        assert_eq!((off.ratio_to_off, off.gib_per_s.median), (1.0, 0.5));
        assert_eq!((cpu.ratio_to_off, cpu.ratio_paired), (2.0, 2.0));
        assert_eq!((cpu.directions[0].from, cpu.directions[0].to), (0, 1));
        assert_eq!(cpu.directions[1].ratio_to_off, 2.0);
        assert_eq!(
            cpu.first_folio_us,
            Some(Quantiles {
                p50: 20.0,
                p99: 30.0
            })
        );
        assert!(failures(&results).is_empty());
        assert!(table(&results)
            .lines()
            .any(|line| line.contains("cpu") && line.contains("2.00")));
    }

    #[test]
    fn the_table_of_the_demo_is_not_wider_than_a_terminal() {
        let demo = table(&results(&[series(1.0, 3.0, 0), series(0.5, 1.5, 1)]));
        assert!(demo.lines().all(|line| line.len() <= 100), "{demo}");
    }

    #[test]
    fn bad_results_fail() {
        let good = series(1.0, 1.0, 1);
        let bad = |change: fn(&mut Series)| {
            let mut series = good.clone();
            change(&mut series);
            failures(&results(&[good.clone(), series])).join("\n")
        };
        assert!(bad(|s| s.bad_bytes = 1).contains("1 bad bytes"));
        assert!(bad(|s| s.off_target = 3).contains("3 pages"));
        assert!(bad(|s| s.ferry.clear()).contains("copied nothing"));
        let mut busy = results(&[good.clone(), series(1.0, 1.0, 0)]);
        assert_eq!(failures(&busy).len(), 1);
        busy.runs[1].busy_work = Some(Range::default());
        assert!(failures(&busy).is_empty(), "a migrator may step aside");
        let mut wrong_size = results(&[good.clone(), good.clone()]);
        wrong_size.runs[0].right_size_share = 0.5;
        assert!(failures(&wrong_size)[0].contains("50.0 %"));
    }

    #[test]
    fn some_limit_may_be_too_low_but_not_all() {
        let mut results = results(&[series(1.0, 1.0, 0), series(1.0, 1.0, 0)]);
        results.runs[1].part = Some(Part::Batch);
        assert!(failures(&results)[0].contains("batch 64K cpu: the migrator copied nothing"));
        let mut other = results.runs[1].clone();
        other.ferry.insert("bytes_early".into(), 4096);
        results.runs.push(other);
        assert!(failures(&results).is_empty());
        results.runs[2].part = None;
        assert_eq!(failures(&results).len(), 1, "another part is no excuse");
        results.runs[1].workers = Some(0);
        assert!(failures(&results).is_empty());
    }

    #[test]
    fn what_is_wanted_is_beside_what_was_measured() {
        let mut results = results(&[series(1.0, 3.0, 0), series(0.5, 1.5, 1)]);
        assert!(!table(&results).contains("wanted"), "not in the demo's");
        for run in &mut results.runs {
            run.part = Some(Part::Sizes);
            run.charge = Some(Charge {
                workers_s: 2.0,
                charged_s: 1.5,
            });
        }
        let mut busy = results.runs.clone();
        for run in &mut busy {
            run.part = Some(Part::Busy);
            run.busy_work_ratio = Some(0.98);
        }
        results.runs.extend(busy);
        let table = table(&results);
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "64K cpu: speed against off 2.00",
            "first folio p99 against off 1.00 <= 1.10",
            "busy machine, time against off 0.500 <= 1.03",
            "busy machine, user work against off 0.980 >= 0.97",
            "were charged: 0.75",
        ] {
            assert!(words.contains(part), "{part} is not in\n{table}");
        }
    }

    /// Results of a part with these variants of 64K.
    fn results_of(part: Part, variants: &[Variant], all: &[Series]) -> Results {
        let args = Args::try_parse_from(["ferry_bench", "--sizes", "64K"]).unwrap();
        let mut step = plan::steps(&args, None, 2, &BTreeMap::new())
            .unwrap()
            .remove(0);
        step.part = Some(part);
        step.variants = variants.to_vec();
        Results {
            runs: runs(&step, [0, 1], 1.0, false, 1, all),
            ..results(&[series(1.0, 1.0, 1), series(1.0, 1.0, 1)])
        }
    }

    /// Returns a series whose engine copied `copied` bytes and its model `by_model`.
    fn with_engine(of: Series, channels: u32, copied: u64, by_model: u64) -> Series {
        let count = |name: &str, n: u64| (name.to_string(), n);
        Series {
            guest_busy_s: 1.5,
            idle_interrupts: Some(1.5 / (6u64 << 30) as f64),
            channels: Some(channels),
            model: Some(BTreeMap::from([
                count("bytes", by_model),
                count("interrupts", 12),
                count("doorbells", 6),
            ])),
            ferry: BTreeMap::from([
                count("engine_bytes", copied),
                count("batches", 6),
                count("engine_submits", 6),
            ]),
            ..of
        }
    }

    #[test]
    fn engines_have_a_table_of_their_own() {
        let cpu = Series {
            guest_busy_s: 12.0,
            ..series(1.0, 1.0, 1)
        };
        let engine = with_engine(series(1.0, 1.0, 0), 1, 6 << 30, 6 << 30);
        let sdxi = Variant::plain(SDXI).with_all();
        let variants = [Variant::plain("off"), Variant::plain("cpu"), sdxi];
        let mut results = results_of(Part::Engines, &variants, &[cpu.clone(), cpu, engine]);
        assert!(failures(&results).is_empty(), "{:?}", failures(&results));
        let table = table(&results);
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "64K one each (computed) 16.00 32.00 16.00 32.00 16384 32.00 -",
            "64K ferry_sdxi+all 0.00 0.00 0.00 2.00 1.00 1.00 1.00",
            "64K ferry_sdxi+all: busy CPUs against cpu 0.25 <= 0.20",
            "64K ferry_sdxi+all: doorbells 1.00 1 for each",
            "64K ferry_sdxi+all: interrupts 2.00 <= 1 for each",
            "Engines are models",
        ] {
            assert!(words.contains(part), "{part} is not in\n{table}");
        }
        let lied = with_engine(series(1.0, 1.0, 0), 1, 4096, 4095);
        let engine = results_of(Part::Engines, &variants[2..], &[lied])
            .runs
            .remove(0);
        results.runs[2] = engine;
        assert!(failures(&results)[0].contains("1 bytes were copied"));
    }

    #[test]
    fn an_engine_may_be_left_alone_but_not_if_it_is_to_have_all() {
        let plain = Variant::plain("ptdma");
        let variants = [plain.clone(), plain.with_all()];
        let nothing = with_engine(series(1.0, 1.0, 0), 1, 0, 0);
        let all = with_engine(series(1.0, 1.0, 0), 1, 6 << 30, 6 << 30);
        let good = results_of(Part::Engines, &variants, &[nothing.clone(), all.clone()]);
        assert!(failures(&good).is_empty());
        let bad = results_of(Part::Engines, &variants, &[all, nothing]);
        assert!(failures(&bad)[0].contains("ptdma+all: the migrator copied nothing"));
    }

    #[test]
    fn channels_are_compared_with_one() {
        let of = |channels: u32, limit: Option<u64>| {
            let mut variant = Variant::plain("ae4dma").with_all();
            variant.knobs.channels = Some(channels);
            Variant { limit, ..variant }
        };
        let variants = [of(1, None), of(1, Some(1 << 20)), of(4, Some(1 << 20))];
        let took = |s: f64, channels| with_engine(series(s, s, 0), channels, 6 << 30, 6 << 30);
        let all = [took(0.5, 1), took(8.0, 1), took(2.5, 4)];
        let results = results_of(Part::Channels, &variants, &all);
        let linear: Vec<_> = (results.runs.iter())
            .map(|run| run.engine.as_ref().unwrap().of_linear)
            .collect();
        assert_eq!(linear, [Some(1.0), Some(1.0), Some(0.8)]);
        let table = table(&results);
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("ae4dma/4+all~1M: speed against linear 0.80 >= 0.90"),
            "{table}"
        );
    }

    #[test]
    fn auto_may_leave_one_size_alone() {
        let mut results = results(&[series(1.0, 1.0, 0), series(1.0, 1.0, 0)]);
        results.runs[1].migrator = "auto".into();
        assert_eq!(failures(&results).len(), 1);
        let mut other = results.runs[1].clone();
        other.ferry.insert("bytes_in_place".into(), 4096);
        results.runs.push(other);
        assert!(failures(&results).is_empty());
    }
}
