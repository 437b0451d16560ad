// SPDX-License-Identifier: GPL-2.0

//! The format that Ferry's benchmarks write and its plots read: one JSON document per run.
//! [`native`] has that of the native benchmark; the rest is about the one in a virtual machine.
//!
//! The fields that every reader may rely on are `kernel`, `accel`, `cpus`, `date`, `command` and
//! `runs`, and in each run `migrator`, `folio_bytes`, `total_bytes`, `gib_per_s`, `ratio_to_off`,
//! `first_folio_us`, `sys_s`, `user_s` and `bad_bytes`. Everything else comes on top of them.

#![deny(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub mod bench_tables;
pub mod engine;
pub mod native;
pub mod native_tables;
pub mod stats;
pub mod table;
pub mod time;

/// The migrator's name for a kernel without the module.
pub const UNLOADED: &str = "unloaded";

/// Smallest, median and largest value of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// The interval that holds a value with 95 % confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Two quantiles of a series of latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

/// One direction between the two nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    pub from: i32,
    pub to: i32,
    pub gib_per_s: Range,
    /// Median of this direction over the median of `off` in the same direction.
    pub ratio_to_off: f64,
    /// Time from the start of the system call, as `Run::first_folio_us`, for this direction alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_folio_us: Option<Quantiles>,
}

/// The part of the benchmark that a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Every migrator at every folio size, as the demo does it.
    Sizes,
    /// The smallest and the largest size, by number of workers.
    Workers,
    /// The smallest and the largest size, by the limit of a batch.
    Batch,
    /// The smallest and the largest size, with a spinning thread on each CPU.
    Busy,
    /// Engines beside the stock copy and the CPUs, with what they cost.
    Engines,
    /// The smallest and the largest size, by number of channels of an engine.
    Channels,
}

impl Part {
    pub const ALL: [Part; 6] = [
        Part::Sizes,
        Part::Workers,
        Part::Batch,
        Part::Busy,
        Part::Engines,
        Part::Channels,
    ];

    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Part::Sizes => "sizes",
            Part::Workers => "workers",
            Part::Batch => "batch",
            Part::Busy => "busy",
            Part::Engines => "engines",
            Part::Channels => "channels",
        }
    }
}

/// Time of workers, and how much of it the cgroup of the process that moves was charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    /// CPU time of the workers' threads in the timed moves.
    pub workers_s: f64,
    /// CPU time of the cgroup in the timed moves beyond that of its own threads.
    pub charged_s: f64,
}

/// One migrator at one folio size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub migrator: String,
    pub folio_bytes: u64,
    /// Bytes moved in the timed part, all rounds and both directions.
    pub total_bytes: u64,
    /// Speed of a round: the region there and back over the time of both moves.
    pub gib_per_s: Range,
    /// Ratio of the medians over all rounds.
    pub ratio_to_off: f64,
    /// Time from the start of `move_pages(2)` on one batch of 512 base pages until its first folio
    /// can be read at its new place. Absent (`null`) when it was not measured.
    pub first_folio_us: Option<Quantiles>,
    /// Returns the system time of the process that moves, by the GiB.
    pub sys_s: f64,
    /// User time of the process in the timed moves.
    pub user_s: f64,
    /// Bytes that were not what they had to be, after any move.
    pub bad_bytes: u64,

    /// Value of `vm.ferry.cpu_workers` of this run, if the benchmark set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// The part that the run belongs to, if the benchmark has more than one part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// `true` if all `workers` were made to take part (`ferry/inject/all_workers`), whatever they
    /// gain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_workers: bool,
    /// Value of `vm.ferry.batch_folios` of this run, if the benchmark set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_folios: Option<u64>,
    /// Value of `vm.ferry.batch_bytes` of this run, if the benchmark set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_bytes: Option<u64>,
    /// There-and-back rounds.
    #[serde(default)]
    pub rounds: u32,
    /// (max - min) / median of this run's rounds.
    #[serde(default)]
    pub noise: f64,
    /// (max - min) / median of the rounds of `off` at this size.
    #[serde(default)]
    pub noise_of_off: f64,
    /// Median over the rounds of (this migrator's speed / speed of `off` in the same round).
    #[serde(default)]
    pub ratio_paired: f64,
    /// Interval that holds `ratio_paired` with 95 % confidence, by a bootstrap over the rounds.
    /// Absent if there were fewer than five rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_interval: Option<Interval>,
    /// Bytes of all rounds over the time of all rounds, over that of `off`: unlike a median it has
    /// rare rounds in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_of_sums: Option<f64>,
    /// GiB/s of each round, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds_gib_per_s: Vec<f64>,
    #[serde(default)]
    pub directions: Vec<Direction>,
    /// Time for which the first page of the batch could not be read, the part of `first_folio_us`
    /// that is left without the system call's preparation.
    #[serde(default)]
    pub first_folio_gap_us: Option<Quantiles>,
    /// Median of `first_folio_us` over that of `off`.
    #[serde(default)]
    pub first_folio_ratio: Option<f64>,
    /// 99th percentile of `first_folio_us` over that of `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_folio_p99_ratio: Option<f64>,
    /// Median of `first_folio_gap_us` over that of `off`.
    #[serde(default)]
    pub first_folio_gap_ratio: Option<f64>,
    /// Batches whose first folio was seen to go and come back.
    #[serde(default)]
    pub first_folio_samples: u64,
    /// Batches where the probe did not run at the moment of the move, so nothing was seen.
    #[serde(default)]
    pub first_folio_unseen: u64,
    /// Bytes of one call under the probe, where that is not a batch of 512 base pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_bytes: Option<u64>,
    /// Time for which a page could not be read, over pages spread evenly over the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_gap_us: Option<Quantiles>,
    /// Median of `page_gap_us` over that of `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_gap_ratio: Option<f64>,
    /// System, interrupt and soft interrupt time of all CPUs in the timed moves (10 ms steps).
    #[serde(default)]
    pub guest_sys_s: f64,
    /// Time in the timed moves that CPUs were not idle, all of them together: the mover's, that of
    /// workers, interrupts and soft interrupts, and of whatever else ran. Interrupts that came to
    /// idle CPUs are in it only if `idle_interrupts_s` is there.
    #[serde(default)]
    pub guest_busy_s: f64,
    /// The part of it that interrupts to idle CPUs took, as traced in other moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_interrupts_s: Option<f64>,
    /// Share of the region's bytes that lay in folios of the wanted size, the lowest seen.
    #[serde(default)]
    pub right_size_share: f64,
    /// Base pages that were not on the node they were moved to.
    #[serde(default)]
    pub pages_off_target: u64,
    /// Steps of work per second that the spinning threads did during the moves of a round, if
    /// there were such threads: the median over the rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_work_per_s: Option<f64>,
    /// Steps of work per second in the slowest, the median and the fastest round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_work: Option<Range>,
    /// Ratio of the medians to `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_work_ratio: Option<f64>,
    /// CPU time charged for the workers, if the benchmark was in a cgroup of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge: Option<Charge>,
    /// Work of the engine, if the migrator is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<engine::Engine>,
    /// Increase of Ferry's own counters in the timed moves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ferry: BTreeMap<String, u64>,
}

impl Run {
    fn gib(&self) -> f64 {
        self.total_bytes as f64 / (1u64 << 30) as f64
    }

    /// System time of the process that moves, by the GiB.
    pub fn sys_s_per_gib(&self) -> f64 {
        self.sys_s / self.gib()
    }

    /// Returns the busy time of all CPUs, by the GiB.
    pub fn busy_s_per_gib(&self) -> f64 {
        self.guest_busy_s / self.gib()
    }
}

/// A whole run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub kernel: String,
    /// `kvm`, `tcg`, another hypervisor's name, or `none`.
    pub accel: String,
    pub cpus: u32,
    /// Start of the run, UTC, as `2026-01-31T12:00:00Z`.
    pub date: String,
    /// Command that produces this file again.
    pub command: String,
    pub runs: Vec<Run>,

    /// The benchmark's own command line.
    #[serde(default)]
    pub bench_command: String,
    #[serde(default)]
    pub cpu_model: String,
    /// The nodes the memory moved between.
    #[serde(default)]
    pub nodes: Vec<i32>,
    /// Bytes moved by one timed move.
    #[serde(default)]
    pub region_bytes: u64,
    /// One thread spinning on each CPU meanwhile.
    #[serde(default)]
    pub busy: bool,
    /// `vm.ferry.*` as it was during the run, `migrator` and what the benchmark set left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub knobs: BTreeMap<String, String>,
    /// The commit of the tree that was measured, as `git describe` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// CPU of the machine that ran the virtual machine; `cpu_model` is the CPU that the benchmark
    /// saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cpu_model: Option<String>,
    /// Release of the kernel of the machine that ran the virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_kernel: Option<String>,
    /// CPUs of the machine that ran the virtual machine: fewer than `cpus` are overcommitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cpus: Option<u32>,
    /// Load average, when it began, of the machine that ran the virtual machine: what else there
    /// was to do makes figures worse and noisier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_load: Option<f64>,
    /// Seed of the order of the variants in each turn and of the bootstrap.
    #[serde(default)]
    pub seed: u64,
    /// Seconds the benchmark took.
    #[serde(default)]
    pub wall_s: f64,
    /// Reasons why the benchmark failed; empty if it succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

impl Results {
    /// Returns a note that the virtual CPUs outnumber `host_cpus`; `None` if they do not.
    pub fn overcommit(&self) -> Option<String> {
        let host = self.host_cpus.filter(|&host| host < self.cpus)?;
        Some(format!(
            "{} virtual CPUs on {host}: overcommitted, they take turns",
            self.cpus
        ))
    }
}

/// Returns the common name of a folio's size, such as `4K`, `64K` or `2M`.
pub fn size_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b % (1 << 30) == 0 => format!("{}G", b >> 30),
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{}M", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{}K", b >> 10),
        b => format!("{b}"),
    }
}

/// Parses a size in the format of [`size_name`].
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        unit => return Err(format!("unknown unit '{unit}' (K, M or G)")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is no size (such as 64K or 2M)"))?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("'{text}' is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    fn keys(value: &Value) -> Vec<&str> {
        value
            .as_object()
            .unwrap()
            .keys()
            .map(|k| k.as_str())
            .collect()
    }

    fn run() -> Run {
        Run {
            migrator: "cpu".into(),
            folio_bytes: 65536,
            total_bytes: 1 << 30,
            gib_per_s: Range {
                min: 1.0,
                median: 2.0,
                max: 3.0,
            },
            ratio_to_off: 1.5,
            first_folio_us: Some(Quantiles {
                p50: 10.0,
                p99: 20.0,
            }),
            sys_s: 0.5,
            user_s: 0.25,
            bad_bytes: 0,
            workers: None,
            part: None,
            all_workers: false,
            batch_folios: None,
            batch_bytes: None,
            rounds: 5,
            noise: 1.0,
            noise_of_off: 0.5,
            ratio_paired: 1.4,
            ratio_interval: None,
            ratio_of_sums: None,
            rounds_gib_per_s: vec![],
            directions: vec![],
            first_folio_gap_us: None,
            first_folio_ratio: None,
            first_folio_p99_ratio: None,
            first_folio_gap_ratio: None,
            first_folio_samples: 0,
            first_folio_unseen: 0,
            call_bytes: None,
            page_gap_us: None,
            page_gap_ratio: None,
            guest_sys_s: 0.75,
            guest_busy_s: 0.875,
            idle_interrupts_s: None,
            right_size_share: 1.0,
            pages_off_target: 0,
            busy_work_per_s: None,
            busy_work: None,
            busy_work_ratio: None,
            charge: None,
            engine: None,
            ferry: BTreeMap::new(),
        }
    }

    fn results() -> Results {
        Results {
            kernel: "7.3.4".into(),
            accel: "tcg".into(),
            cpus: 2,
            date: "2026-01-31T12:00:00Z".into(),
            command: "make demo".into(),
            runs: vec![run()],
            bench_command: "ferry_bench".into(),
            cpu_model: String::new(),
            nodes: vec![0, 1],
            region_bytes: 1 << 28,
            busy: false,
            knobs: BTreeMap::new(),
            commit: None,
            host_cpu_model: None,
            host_kernel: None,
            host_cpus: None,
            host_load: None,
            seed: 1,
            wall_s: 1.0,
            failures: vec![],
        }
    }

    #[test]
    fn too_many_cpus_are_said() {
        let mut results = results();
        assert_eq!(results.overcommit(), None, "no CPUs of the host");
        results.host_cpus = Some(2);
        assert_eq!(results.overcommit(), None);
        results.cpus = 4;
        assert!(results
            .overcommit()
            .unwrap()
            .contains("4 virtual CPUs on 2"));
    }

    #[test]
    fn what_only_the_long_benchmark_has_is_optional() {
        let value = serde_json::to_value(results()).unwrap();
        for key in [
            "part",
            "batch_folios",
            "page_gap_us",
            "charge",
            "engine",
            "all_workers",
        ] {
            assert!(!keys(&value["runs"][0]).contains(&key), "{key}");
        }
        let mut results = results();
        results.runs[0].part = Some(Part::Batch);
        results.runs[0].charge = Some(Charge::default());
        let value = serde_json::to_value(&results).unwrap();
        assert_eq!(value["runs"][0]["part"], "batch");
        assert_eq!(serde_json::from_value::<Results>(value).unwrap(), results);
    }

    #[test]
    fn a_file_names_the_tree_and_the_machine_below() {
        let mut results = results();
        let value = serde_json::to_value(&results).unwrap();
        for key in ["commit", "host_cpu_model", "host_kernel"] {
            assert!(
                !keys(&value).contains(&key),
                "{key} is there without a value"
            );
        }
        results.commit = Some("0123abcd".into());
        results.host_cpu_model = Some("Some CPU".into());
        results.host_kernel = Some("6.1".into());
        let value = serde_json::to_value(&results).unwrap();
        assert_eq!(value["commit"], "0123abcd");
        assert_eq!(value["host_cpu_model"], "Some CPU");
        assert_eq!(value["host_kernel"], "6.1");
        assert_eq!(serde_json::from_value::<Results>(value).unwrap(), results);
    }

    #[test]
    fn times_by_the_gib() {
        let run = Run {
            total_bytes: 2 << 30,
            ..run()
        };
        assert_eq!((run.sys_s_per_gib(), run.busy_s_per_gib()), (0.25, 0.4375));
    }

    #[test]
    fn schema_has_the_agreed_names() {
        let value = serde_json::to_value(results()).unwrap();
        for key in ["kernel", "accel", "cpus", "date", "command", "runs"] {
            assert!(keys(&value).contains(&key), "{key} is missing");
        }
        let run = &value["runs"][0];
        for key in [
            "migrator",
            "folio_bytes",
            "total_bytes",
            "gib_per_s",
            "ratio_to_off",
            "first_folio_us",
            "sys_s",
            "user_s",
            "bad_bytes",
        ] {
            assert!(keys(run).contains(&key), "{key} is missing");
        }
        assert_eq!(
            run["gib_per_s"],
            json!({"min": 1.0, "median": 2.0, "max": 3.0})
        );
        assert_eq!(run["first_folio_us"], json!({"p50": 10.0, "p99": 20.0}));
        assert!(value["cpus"].is_u64() && run["folio_bytes"].is_u64() && run["bad_bytes"].is_u64());
    }

    #[test]
    fn results_survive_the_round_trip() {
        let before = results();
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), before);
    }

    #[test]
    fn the_agreed_fields_are_enough_for_a_reader() {
        let text = r#"{"kernel":"k","accel":"tcg","cpus":2,"date":"d","command":"c","runs":[
            {"migrator":"off","folio_bytes":4096,"total_bytes":1,"gib_per_s":{"min":1,"median":2,"max":3},
             "ratio_to_off":1.0,"first_folio_us":{"p50":1,"p99":2},"sys_s":0.1,"user_s":0.0,"bad_bytes":0}]}"#;
        let results: Results = serde_json::from_str(text).unwrap();
        assert_eq!(results.runs[0].gib_per_s.median, 2.0);
        let missing = text.replace(r#""bad_bytes":0"#, r#""rounds":0"#);
        assert!(serde_json::from_str::<Results>(&missing).is_err());
    }

    #[test]
    fn sizes_have_names() {
        for (bytes, name) in [
            (4096, "4K"),
            (65536, "64K"),
            (1 << 20, "1M"),
            (2 << 20, "2M"),
            (1 << 30, "1G"),
            (1000, "1000"),
        ] {
            assert_eq!(size_name(bytes), name);
            assert_eq!(parse_size(name), Ok(bytes));
        }
        for wrong in ["", "K", "4X", "-4K", "0", "99999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong} was taken");
        }
    }
}
