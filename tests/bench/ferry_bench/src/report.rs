// SPDX-License-Identifier: GPL-2.0

//! From series to the results file and the table.

use crate::guest::UNLOADED;
use crate::measure::{Series, Variant};
use ferry_results::stats::median;
use ferry_results::{size_name, Direction, Quantiles, Range, Results, Run};

/// What holds for all runs at one folio size.
pub struct Size {
    pub folio_bytes: u64,
    /// Of the whole region, before and after all moves.
    pub right_size_share: f64,
    pub nodes: [i32; 2],
    pub busy: bool,
}

/// One run for each variant; ratios are to the variant that is off, else to the first.
pub fn runs(size: &Size, variants: &[Variant], all: &[Series]) -> Vec<Run> {
    let off = &all[variants.iter().position(Variant::is_off).unwrap_or(0)];
    variants
        .iter()
        .zip(all)
        .map(|(variant, series)| run(size, variant, series, off))
        .collect()
}

fn range(values: &[f64]) -> Range {
    Range::of(values).expect("at least one round")
}

/// Ratio of the medians, if both were measured.
fn over(values: &[f64], off: &[f64]) -> Option<f64> {
    Some(median(values)? / median(off)?)
}

fn run(size: &Size, variant: &Variant, series: &Series, off: &Series) -> Run {
    let (speeds, off_speeds) = (series.round_speeds(), off.round_speeds());
    let (speed, off_speed) = (range(&speeds), range(&off_speeds));
    let pairs: Vec<f64> = speeds.iter().zip(&off_speeds).map(|(a, b)| a / b).collect();
    let directions = (0..2)
        .map(|d| {
            let speed = range(&series.direction_speeds(d));
            Direction {
                from: size.nodes[d],
                to: size.nodes[1 - d],
                gib_per_s: speed,
                ratio_to_off: speed.median / range(&off.direction_speeds(d)).median,
                first_folio_us: Quantiles::of(&series.first_us[d]),
            }
        })
        .collect();
    let work_per_s =
        |series: &Series| series.busy_work as f64 / series.seconds.iter().flatten().sum::<f64>();
    Run {
        migrator: variant.migrator.clone(),
        folio_bytes: size.folio_bytes,
        total_bytes: series.bytes,
        gib_per_s: speed,
        ratio_to_off: speed.median / off_speed.median,
        first_folio_us: Quantiles::of(&series.first_us.concat()),
        sys_s: series.sys_s,
        user_s: series.user_s,
        bad_bytes: series.bad_bytes,
        workers: variant.workers,
        rounds: speeds.len() as u32,
        noise: speed.noise(),
        noise_of_off: off_speed.noise(),
        ratio_paired: median(&pairs).expect("at least one round"),
        directions,
        first_folio_gap_us: Quantiles::of(&series.gap_us),
        first_folio_ratio: over(&series.first_us.concat(), &off.first_us.concat()),
        first_folio_gap_ratio: over(&series.gap_us, &off.gap_us),
        first_folio_samples: series.gap_us.len() as u64,
        first_folio_unseen: series.unseen,
        guest_sys_s: series.guest_sys_s,
        right_size_share: series.right_size_share.min(size.right_size_share),
        pages_off_target: series.off_target,
        busy_work_per_s: size.busy.then(|| work_per_s(series)),
        busy_work_ratio: size.busy.then(|| work_per_s(series) / work_per_s(off)),
        ferry: series.ferry.clone(),
    }
}

/// Bytes that the migrator brought to their new place, early or now.
pub fn copied_bytes(run: &Run) -> u64 {
    ["bytes_early", "bytes_now"]
        .iter()
        .filter_map(|name| run.ferry.get(*name))
        .sum()
}

/// The migrator, with its number of workers if that was set.
fn name(run: &Run) -> String {
    Variant {
        migrator: run.migrator.clone(),
        workers: run.workers,
    }
    .name()
}

/// The share of the chunks that others than the mover copied.
pub fn helped_share(run: &Run) -> Option<f64> {
    let count = |name| run.ferry.get(name).copied().unwrap_or(0);
    let (mover, others) = (count("chunks_by_mover"), count("chunks_by_others"));
    (mover + others > 0).then(|| others as f64 / (mover + others) as f64)
}

/// Why these results are no good; empty if they are.
pub fn failures(results: &Results) -> Vec<String> {
    let mut failures = vec![];
    for run in &results.runs {
        let name = format!("{} {}", size_name(run.folio_bytes), name(run));
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
        // `auto` may leave a size to the kernel, but not all of them.
        let copied = match run.migrator.as_str() {
            "off" | UNLOADED => continue,
            // With every CPU busy, stepping aside is what is wanted.
            _ if results.busy => continue,
            "auto" => results
                .runs
                .iter()
                .filter(|other| other.migrator == run.migrator)
                .map(copied_bytes)
                .sum(),
            _ => copied_bytes(run),
        };
        if copied == 0 {
            failures.push(format!("{name}: the migrator copied nothing"));
        }
    }
    failures
}

/// The results for people.
pub fn table(results: &Results) -> String {
    let mut out = String::new();
    let mut line = |cells: &[String]| {
        const WIDTHS: [usize; 13] = [5, 8, 6, 12, 5, 6, 16, 5, 14, 5, 6, 7, 9];
        let cells: Vec<String> = cells
            .iter()
            .zip(WIDTHS)
            .map(|(cell, width)| format!("{cell:>width$}"))
            .collect();
        out += cells.join(" ").trim_end();
        out.push('\n');
    };
    line(
        &[
            "folio",
            "migrator",
            "GiB/s",
            "min-max",
            "ratio",
            "noise",
            "first p50/p99 us",
            "ratio",
            "gap p50/p99 us",
            "ratio",
            "sys s",
            "all sys",
            "bad bytes",
        ]
        .map(String::from),
    );
    for run in &results.runs {
        let pair = |quantiles: Option<Quantiles>| {
            quantiles.map_or("-".into(), |q| format!("{:.0}/{:.0}", q.p50, q.p99))
        };
        let times = |ratio: Option<f64>| ratio.map_or("-".into(), |r| format!("{r:.2}"));
        line(&[
            size_name(run.folio_bytes),
            run.workers
                .map_or(run.migrator.clone(), |n| format!("{}/{n}", run.migrator)),
            format!("{:.3}", run.gib_per_s.median),
            format!("{:.3}-{:.3}", run.gib_per_s.min, run.gib_per_s.max),
            format!("{:.2}", run.ratio_to_off),
            format!("{:.0} %", run.noise * 100.0),
            pair(run.first_folio_us),
            times(run.first_folio_ratio),
            pair(run.first_folio_gap_us),
            times(run.first_folio_gap_ratio),
            format!("{:.2}", run.sys_s),
            format!("{:.2}", run.guest_sys_s),
            run.bad_bytes.to_string(),
        ]);
    }
    if results.busy {
        out += "\nWork of the spinning threads per second, against off:";
        for run in &results.runs {
            if let Some(ratio) = run.busy_work_ratio {
                out += &format!(
                    "  {} {} {ratio:.3}",
                    size_name(run.folio_bytes),
                    run.migrator
                );
            }
        }
        out.push('\n');
    }
    let helped: Vec<String> = results
        .runs
        .iter()
        .filter_map(|run| {
            let share = helped_share(run)?;
            Some(format!(
                "{} {} {:.0} %",
                size_name(run.folio_bytes),
                name(run),
                share * 100.0
            ))
        })
        .collect();
    if !helped.is_empty() {
        out += &format!(
            "\nChunks copied by others than the mover: {}\n",
            helped.join(", ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn variant(name: &str) -> Variant {
        Variant {
            migrator: name.into(),
            workers: None,
        }
    }

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
        let size = Size {
            folio_bytes: 65536,
            right_size_share: 1.0,
            nodes: [0, 1],
            busy: false,
        };
        Results {
            kernel: String::new(),
            accel: String::new(),
            cpus: 2,
            date: String::new(),
            command: String::new(),
            runs: runs(&size, &[variant("off"), variant("cpu")], all),
            bench_command: String::new(),
            cpu_model: String::new(),
            nodes: vec![],
            region_bytes: 0,
            busy: false,
            knobs: BTreeMap::new(),
            host_load: None,
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
        busy.busy = true;
        assert!(failures(&busy).is_empty(), "a migrator may step aside");
        let mut wrong_size = results(&[good.clone(), good.clone()]);
        wrong_size.runs[0].right_size_share = 0.5;
        assert!(failures(&wrong_size)[0].contains("50.0 %"));
    }

    #[test]
    fn auto_may_leave_one_size_alone() {
        let mut results = results(&[series(1.0, 1.0, 0), series(1.0, 1.0, 0)]);
        results.runs[1].migrator = "auto".into();
        assert_eq!(failures(&results).len(), 1);
        let mut other = results.runs[1].clone();
        other.ferry.insert("bytes_now".into(), 4096);
        results.runs.push(other);
        assert!(failures(&results).is_empty());
    }
}
