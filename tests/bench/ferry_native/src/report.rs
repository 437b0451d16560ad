// SPDX-License-Identifier: GPL-2.0

//! From measurements to results.

use crate::protocol::Sample;
use ferry_results::native::{Config, How, Measured, Routine, Run, Tail};
use ferry_results::stats::median;
use ferry_results::{size_name, Quantiles, Range};
use std::collections::BTreeMap;

/// Returns the runs in the order in which they were measured first.
pub fn runs(samples: &[Sample]) -> Vec<Run> {
    let mut configs: Vec<Config> = vec![];
    for sample in samples {
        if !configs.contains(&sample.config) {
            configs.push(sample.config);
        }
    }
    // The first round that counts went backwards.
    configs.reverse();
    configs.sort_by_key(|c| std::cmp::Reverse(c.folio_bytes));
    configs
        .iter()
        .filter_map(|config| run(config, samples))
        .collect()
}

fn of<'a>(samples: &'a [Sample], config: &Config) -> Vec<&'a Sample> {
    (samples.iter())
        .filter(|sample| sample.config == *config)
        .collect()
}

/// Returns the median of the ratios of the same rounds.
fn paired(
    these: &[&Sample],
    samples: &[Sample],
    to: &Config,
    speed: fn(&Sample) -> Option<f64>,
) -> Option<f64> {
    let those = of(samples, to);
    let ratios: Vec<f64> = (these.iter())
        .filter_map(|this| {
            let that = those.iter().find(|that| that.round == this.round)?;
            Some(speed(this)? / speed(that)?)
        })
        .collect();
    median(&ratios)
}

fn overall(sample: &Sample) -> Option<f64> {
    Some(sample.measured.gib_per_s())
}

/// Returns the speed of the median batch.
fn by_batch(sample: &Sample) -> Option<f64> {
    sample
        .measured
        .batch_ns
        .map(|q| batch_bytes(sample) / q.p50.max(1.0))
}

/// Returns the speed of a batch that was not interrupted.
fn by_quiet_batch(sample: &Sample) -> Option<f64> {
    sample
        .measured
        .batch_ns
        .map(|q| batch_bytes(sample) / q.p10.max(1.0))
}

/// Returns the work of the other threads per second.
fn work(sample: &Sample) -> Option<f64> {
    let m = &sample.measured;
    (m.work > 0).then(|| m.work as f64 / m.work_ns.max(1) as f64)
}

fn batch_bytes(sample: &Sample) -> f64 {
    (sample.config.batch_folios * sample.config.folio_bytes) as f64
}

fn latency(these: &[&Sample], which: impl Fn(&Measured) -> Option<Tail>) -> Option<Quantiles> {
    let all: Vec<Tail> = (these.iter())
        .filter_map(|this| which(&this.measured))
        .collect();
    let of = |q: fn(&Tail) -> f64| median(&all.iter().map(q).collect::<Vec<_>>());
    Some(Quantiles {
        p50: of(|q| q.p50)? / 1e3,
        p99: of(|q| q.p99)? / 1e3,
    })
}

fn run(config: &Config, samples: &[Sample]) -> Option<Run> {
    let these = of(samples, config);
    let speeds: Vec<f64> = these.iter().map(|s| s.measured.gib_per_s()).collect();
    let gib_per_s = Range::of(&speeds)?;
    let sum = |which: fn(&Measured) -> u64| these.iter().map(|s| which(&s.measured)).sum::<u64>();
    let total_bytes = sum(|m| m.bytes);
    let mut ferry = BTreeMap::new();
    for (name, value) in these.iter().flat_map(|s| &s.ferry) {
        *ferry.entry(name.clone()).or_default() += value;
    }
    let stock = Config {
        how: How::Stock,
        workers: 0,
        routine: Routine::Movsb,
        ..*config
    };
    // The limit has batches of one size only, and no latencies.
    let limit = (samples.iter().map(|s| &s.config)).find(|c| {
        c.how == How::Limit
            && c.routine == Routine::Movsb
            && c.workers == config.workers
            && c.comparable(config)
    });
    let to_limit = |speed| {
        limit
            .filter(|_| config.how != How::Limit)
            .and_then(|limit| paired(&these, samples, limit, speed))
    };
    let to_stock =
        |speed| paired(&these, samples, &stock, speed).filter(|_| config.how != How::Stock);
    Some(Run {
        config: *config,
        total_bytes,
        gib_per_s,
        noise: gib_per_s.noise(),
        ratio_to_stock: to_stock(overall),
        batch_ratio_to_stock: to_stock(by_batch),
        quiet_ratio_to_stock: to_stock(by_quiet_batch),
        ratio_to_limit: to_limit(overall),
        quiet_ratio_to_limit: to_limit(by_quiet_batch),
        first_us: latency(&these, |m| m.first_ns),
        turn_us: latency(&these, |m| m.turn_ns),
        batch_us: latency(&these, |m| m.batch_ns),
        work_ratio_to_stock: to_stock(work),
        touch_us: latency(&these, |m| m.touch_ns),
        neighbour_us: latency(&these, |m| m.neighbour_ns),
        settled_share: sum(|m| m.settled) as f64
            / (total_bytes as f64 / config.folio_bytes as f64).max(1.0),
        failed: sum(|m| m.failed),
        bad_bytes: sum(|m| m.bad_bytes),
        samples: speeds,
        ferry,
    })
}

/// Returns the faults that make a run fail.
pub fn failures(runs: &[Run]) -> Vec<String> {
    let mut found = vec![];
    for run in runs {
        let mut bad = |what: String| {
            found.push(format!(
                "{} of {}: {what}",
                run.config.label(),
                size_name(run.config.folio_bytes)
            ));
        };
        if run.bad_bytes > 0 {
            bad(format!("{} bad bytes", run.bad_bytes));
        }
        if run.failed > 0 {
            bad(format!("{} folios failed", run.failed));
        }
        let helped = run.ferry.get("chunks_by_others").copied().unwrap_or(0) > 0;
        // A smaller batch may be one chunk, which is not shared.
        let shared = match run.config.how {
            How::Early => run.config.batch_folios * run.config.folio_bytes >= 1 << 20,
            How::Now => run.config.folio_bytes >= 256 << 10,
            How::Stock | How::Limit => false,
        };
        // No worker helps where no CPU is idle.
        if shared && run.config.workers > 0 && !helped && !run.config.busy {
            bad("no worker copied anything".into());
        }
        if run.config.workers == 0 && helped {
            bad("workers copied though there were to be none".into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, how: How, workers: u32, ns: u64) -> Sample {
        Sample {
            round,
            config: Config {
                how,
                folio_bytes: 4096,
                batch_folios: 512,
                workers,
                routine: Routine::Movsb,
                warm: false,
                latency: false,
                busy: false,
            },
            measured: Measured {
                ns,
                bytes: 1 << 30,
                bad_bytes: 0,
                settled: 1 << 17,
                failed: 0,
                first_ns: None,
                turn_ns: None,
                batch_ns: match how {
                    How::Early => Some(Tail {
                        p10: 1e3,
                        p50: 1e3,
                        p99: 1e4,
                    }),
                    How::Stock => Some(Tail {
                        p10: 2e3,
                        p50: 4e3,
                        p99: 4e3,
                    }),
                    _ => None,
                },
                touch_ns: None,
                neighbour_ns: None,
                work: 0,
                work_ns: 0,
            },
            ferry: BTreeMap::from([("chunks_by_others".to_string(), u64::from(workers))]),
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let samples = [
            sample(1, How::Early, 1, 500_000_000),
            sample(1, How::Limit, 1, 400_000_000),
            sample(1, How::Stock, 0, 1_000_000_000),
            sample(2, How::Stock, 0, 2_000_000_000),
            sample(2, How::Early, 1, 1_000_000_000),
        ];
        let runs = runs(&samples);
        let of = |how| runs.iter().find(|run| run.config.how == how).unwrap();
        assert_eq!(of(How::Stock).gib_per_s.median, 0.75);
        assert_eq!(of(How::Early).ratio_to_stock, Some(2.0));
        assert_eq!(of(How::Early).batch_ratio_to_stock, Some(4.0));
        assert_eq!(of(How::Early).quiet_ratio_to_stock, Some(2.0));
        assert_eq!(of(How::Limit).batch_ratio_to_stock, None);
        assert_eq!(of(How::Early).ratio_to_limit, Some(0.8));
        assert_eq!(of(How::Early).settled_share, 0.5);
        assert_eq!(of(How::Stock).ratio_to_stock, None);
        assert!(failures(&runs).is_empty());
    }

    #[test]
    fn what_must_not_be_is_found() {
        let mut bad = sample(1, How::Stock, 0, 1);
        bad.measured.bad_bytes = 3;
        let mut idle = sample(1, How::Early, 2, 1);
        idle.ferry.clear();
        let found = failures(&runs(&[bad, idle]));
        assert!(found.iter().any(|f| f.contains("3 bad bytes")), "{found:?}");
        assert!(found.iter().any(|f| f.contains("no worker")), "{found:?}");
    }
}
