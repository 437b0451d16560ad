// SPDX-License-Identifier: GPL-2.0

//! The results of the native benchmark: speed and latency of copying folios in a kernel that is a
//! user process.

use crate::{size_name, Quantiles, Range};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The value of [`Native::benchmark`].
pub const NAME: &str = "native";

/// The routine or migrator that copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The loop of the stock kernel: `folio_mc_copy()`, folio by folio.
    Stock,
    /// Ferry, each large folio in parallel when its turn has come.
    Now,
    /// Ferry, the folios of a batch before their turn.
    Early,
    /// Threads that copy their own parts at the same time and do nothing else: the machine's limit.
    Limit,
}

impl How {
    /// Returns the name in the driver's commands and in reports.
    pub fn name(self) -> &'static str {
        match self {
            How::Stock => "stock",
            How::Now => "now",
            How::Early => "early",
            How::Limit => "limit",
        }
    }
}

/// The instructions that copy, for [`How::Limit`] and for Ferry, which have a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routine {
    /// `rep movsb`, as the stock loop: `vm.ferry.copy_routine` is "cached".
    Movsb,
    /// The kernel's `memcpy()`, which moves words. The limit only.
    Memcpy,
    /// Non-temporal stores of words: `vm.ferry.copy_routine` is "nontemporal".
    Movnti,
}

impl Routine {
    /// Returns the name in the driver's commands and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Routine::Movsb => "movsb",
            Routine::Memcpy => "memcpy",
            Routine::Movnti => "movnti",
        }
    }
}

/// Kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub how: How,
    pub folio_bytes: u64,
    /// Folios in one batch of `migrate_pages()`.
    pub batch_folios: u64,
    /// `vm.ferry.cpu_workers`, or threads besides the first one.
    pub workers: u32,
    pub routine: Routine,
    /// `true` if the same batch is copied again and again, `false` if more memory is copied than
    /// the caches hold.
    pub warm: bool,
    /// `true` if the time of each folio is taken, which slows the copy down a little.
    pub latency: bool,
    /// `true` if a thread on each CPU has work of its own meanwhile.
    #[serde(default)]
    pub busy: bool,
}

impl Config {
    /// Returns `true` if two runs are compared with one another.
    pub fn comparable(&self, other: &Config) -> bool {
        (self.folio_bytes, self.warm, self.busy) == (other.folio_bytes, other.warm, other.busy)
    }

    /// Returns a label for reports.
    pub fn label(&self) -> String {
        match self.how {
            How::Stock => "stock".into(),
            How::Limit if self.routine == Routine::Movsb => {
                format!("limit of {}", count(self.workers + 1, "thread"))
            }
            How::Limit => format!(
                "limit of {}, {}",
                count(self.workers + 1, "thread"),
                self.routine.name()
            ),
            how if self.routine == Routine::Movsb => {
                format!("{}, {}", how.name(), count(self.workers, "worker"))
            }
            how => format!(
                "{}, {}, {}",
                how.name(),
                count(self.workers, "worker"),
                self.routine.name()
            ),
        }
    }
}

/// The driver's quantiles of a latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    pub p10: f64,
    pub p50: f64,
    pub p99: f64,
}

/// One measurement, as the driver gives it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub ns: u64,
    pub bytes: u64,
    pub bad_bytes: u64,
    /// Folios whose content was there when their turn came.
    #[serde(default)]
    pub settled: u64,
    /// Folios that failed, with whatever error.
    #[serde(default)]
    pub failed: u64,
    pub first_ns: Option<Tail>,
    pub turn_ns: Option<Tail>,
    pub batch_ns: Option<Tail>,
    #[serde(default)]
    pub touch_ns: Option<Tail>,
    #[serde(default)]
    pub neighbour_ns: Option<Tail>,
    /// Work of the other threads meanwhile, and the time that it took.
    #[serde(default)]
    pub work: u64,
    #[serde(default)]
    pub work_ns: u64,
}

impl Measured {
    pub fn gib_per_s(&self) -> f64 {
        self.bytes as f64 / (1u64 << 30) as f64 / (self.ns.max(1) as f64 / 1e9)
    }
}

/// All rounds of one [`Config`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    #[serde(flatten)]
    pub config: Config,
    pub total_bytes: u64,
    pub gib_per_s: Range,
    /// Each round, in GiB/s; the rounds of all runs of a folio size took turns.
    pub samples: Vec<f64>,
    /// (max - min) / median.
    pub noise: f64,
    /// Median over the rounds of the ratio to the stock loop in the same round.
    pub ratio_to_stock: Option<f64>,
    /// Median over the rounds of the ratio between the median batches of a round.
    pub batch_ratio_to_stock: Option<f64>,
    /// Median over the rounds of the ratio between batches that are slower than just a tenth of
    /// their round. Other work of the machine hardly slows these batches down.
    pub quiet_ratio_to_stock: Option<f64>,
    /// Median over the rounds of the ratio to the limit of as many threads in the same round, with
    /// `rep movsb`.
    pub ratio_to_limit: Option<f64>,
    pub quiet_ratio_to_limit: Option<f64>,
    /// Time from the begin of a batch until its first folio was settled and copied.
    pub first_us: Option<Quantiles>,
    /// Time from a folio's turn until the folio was settled and copied.
    pub turn_us: Option<Quantiles>,
    /// Time from the begin of a batch to its end, for which its last folio cannot be reached.
    pub batch_us: Option<Quantiles>,
    /// Time that the mover takes to read the moved folios after a batch.
    #[serde(default)]
    pub touch_us: Option<Quantiles>,
    /// Time that the mover takes to read half a megabyte that was in its cache before the batch.
    #[serde(default)]
    pub neighbour_us: Option<Quantiles>,
    /// Work of the other threads per second, as a ratio to the stock loop in the same round.
    #[serde(default)]
    pub work_ratio_to_stock: Option<f64>,
    /// Share of the folios whose content was there when their turn came.
    pub settled_share: f64,
    pub failed: u64,
    pub bad_bytes: u64,
    /// Increase of Ferry's own counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ferry: BTreeMap<String, u64>,
}

/// The machine that the kernel is a process of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu_model: String,
    pub cpus: u32,
    pub kernel: String,
    /// Last-level caches together.
    pub llc_bytes: u64,
    /// `true` if the machine is a virtual machine itself.
    pub hypervisor: bool,
    /// Load average before the run. Other work makes figures worse and noisier.
    pub load_begin: f64,
    /// Load average after the run.
    pub load_end: f64,
    /// Share of the time of its CPUs that a hypervisor gave to others.
    pub steal: f64,
}

/// A whole run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Native {
    /// [`NAME`].
    pub benchmark: String,
    pub machine: Machine,
    /// Release of the kernel that was measured.
    pub kernel: String,
    /// CPUs of the kernel that was measured.
    pub cpus: u32,
    /// Start of the run, UTC.
    pub date: String,
    pub command: String,
    /// The commit of the tree that was measured, as `git describe` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub rounds: u32,
    /// Sources of a measurement that is not warm; as many destinations come on top.
    pub set_bytes: u64,
    pub wall_s: f64,
    pub runs: Vec<Run>,
    /// Reasons why the benchmark failed; empty if it succeeded.
    pub failures: Vec<String>,
}

impl Native {
    /// Returns the table for the terminal.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, {} CPUs, Linux {} as a process with {} CPUs, load {} to {}, {}\n\
             folio  batch      where mode                             GiB/s  noise  x stock  batch  quiet  \
             x limit  quiet  first us turn us (p99), then touch, neighbour us\n",
            self.machine.cpu_model,
            self.machine.cpus,
            self.kernel,
            self.cpus,
            self.machine.load_begin,
            self.machine.load_end,
            self.date
        );
        let ratio = |r: Option<f64>| r.map_or("-".into(), |r| format!("{r:.3}"));
        for run in &self.runs {
            let c = &run.config;
            let mut latency = String::new();
            if let (Some(first), Some(turn)) = (run.first_us, run.turn_us) {
                latency += &format!("{:8.1} {:7.2} ({:.1})", first.p50, turn.p50, turn.p99);
            }
            if let Some(work) = run.work_ratio_to_stock {
                latency += &format!(" busy: others' work x {work:.3}");
            }
            for after in [run.touch_us, run.neighbour_us].into_iter().flatten() {
                latency += &format!(" {:.1}", after.p50);
            }
            let line = format!(
                "{:6} {:>5} x {:4}{} {:30} {:7.2}  {:4.0}%  {:>7}  {:>5}  {:>5}  {:>7}  {:>5}  {latency}",
                size_name(c.folio_bytes),
                c.batch_folios,
                size_name(c.folio_bytes),
                match (c.warm, c.busy) {
                    (true, _) => " warm",
                    (_, true) => " busy",
                    _ => " cold",
                },
                c.label(),
                run.gib_per_s.median,
                run.noise * 100.0,
                ratio(run.ratio_to_stock),
                ratio(run.batch_ratio_to_stock),
                ratio(run.quiet_ratio_to_stock),
                ratio(run.ratio_to_limit),
                ratio(run.quiet_ratio_to_limit),
            );
            text += line.trim_end();
            text += "\n";
        }
        for failure in &self.failures {
            text += &format!("FAILED: {failure}\n");
        }
        text
    }
}

/// Returns a count with its noun.
pub fn count(number: u32, name: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {name}{plural}")
}
