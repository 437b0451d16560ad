// SPDX-License-Identifier: GPL-2.0

//! The time of interrupts that come to CPUs without work, which the kernel counts as idle: without
//! `CONFIG_IRQ_TIME_ACCOUNTING` a CPU whose tick has stopped is idle until it schedules.
//!
//! It is taken from a trace: handlers of interrupts and the tasklets after them, by the task that
//! they came upon. Tracing takes time itself, so this is done in moves of their own.

use crate::error::{Error, Result};
use crate::guest;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const INSTANCES: &str = "/sys/kernel/tracing/instances";
const BUFFER_KIB: &str = "16384";
/// The filter for the soft interrupt that dmaengine's callbacks come from: `TASKLET_SOFTIRQ`.
const TASKLETS: &str = "vec==6";

/// A trace instance of this program, separate from all other users of tracefs.
pub struct Tracer {
    dir: PathBuf,
}

impl Tracer {
    /// Creates a trace; `None` without tracefs.
    pub fn new() -> Result<Option<Tracer>> {
        if !Path::new(INSTANCES).exists() {
            return Ok(None);
        }
        let dir = Path::new(INSTANCES).join(format!("ferry_bench.{}", std::process::id()));
        fs::create_dir(&dir).map_err(|source| Error::File {
            path: dir.clone(),
            source,
        })?;
        let tracer = Tracer { dir };
        tracer.set("tracing_on", "0")?;
        tracer.set("buffer_size_kb", BUFFER_KIB)?;
        for event in ["softirq_entry", "softirq_exit"] {
            tracer.set(&format!("events/irq/{event}/filter"), TASKLETS)?;
        }
        for event in [
            "irq_handler_entry",
            "irq_handler_exit",
            "softirq_entry",
            "softirq_exit",
        ] {
            tracer.set(&format!("events/irq/{event}/enable"), "1")?;
        }
        Ok(Some(tracer))
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        guest::write(self.dir.join(file), value)
    }

    pub fn start(&self) -> Result<()> {
        self.set("trace", "")?;
        self.set("tracing_on", "1")
    }

    /// Seconds since the start; `None` if there was no room for all events.
    pub fn stop(&self) -> Result<Option<f64>> {
        self.set("tracing_on", "0")?;
        let text = guest::read(self.dir.join("trace"))?;
        self.set("trace", "")?;
        Ok(idle_us(&text).map(|us| us / 1e6))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if fs::remove_dir(&self.dir).is_err() {
            eprintln!("ferry_bench: {} stays", self.dir.display());
        }
    }
}

/// Parses one line of a trace: task, CPU, time in microseconds, event.
fn event(line: &str) -> Option<(&str, &str, f64, &str)> {
    let (task, rest) = line.split_once('[')?;
    let (cpu, rest) = rest.split_once(']')?;
    let mut words = rest.split_whitespace().skip(1);
    let seconds: f64 = words.next()?.strip_suffix(':')?.parse().ok()?;
    Some((
        task.trim(),
        cpu,
        seconds * 1e6,
        words.next()?.strip_suffix(':')?,
    ))
}

/// Microseconds in interrupts upon the idle task; `None` if the trace is not whole.
fn idle_us(trace: &str) -> Option<f64> {
    let mut open: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut sum = 0.0;
    for line in trace.lines() {
        if line.contains("LOST") && line.contains("EVENTS") {
            return None;
        }
        let Some((task, cpu, us, event)) = event(line).filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let begun = open.entry(cpu).or_default();
        if event.ends_with("_entry") {
            begun.push(us);
        } else if let Some(from) = begun.pop() {
            // The time of an interrupt within another one is part of that one's time.
            if begun.is_empty() && task.starts_with("<idle>") {
                sum += us - from;
            }
        }
    }
    let whole = trace.lines().find_map(|line| {
        let counts = line.strip_prefix("# entries-in-buffer/entries-written: ")?;
        let (there, written) = counts.split_whitespace().next()?.split_once('/')?;
        Some(there == written)
    });
    (whole == Some(true)).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
#
# entries-in-buffer/entries-written: 10/10   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
          <idle>-0       [001] d.h1.    10.000010: irq_handler_entry: irq=30 name=0000:01:00.0
          <idle>-0       [001] d.h1.    10.000030: irq_handler_exit: irq=30 ret=handled
          <idle>-0       [001] ..s1.    10.000040: softirq_entry: vec=6 [action=TASKLET]
          <idle>-0       [001] d.h1.    10.000050: irq_handler_entry: irq=30 name=0000:01:00.0
     ferry_bench-283     [000] d.h1.    10.000052: irq_handler_entry: irq=31 name=0000:01:00.0
          <idle>-0       [001] d.h1.    10.000060: irq_handler_exit: irq=30 ret=handled
          <idle>-0       [001] ..s1.    10.000100: softirq_exit: vec=6 [action=TASKLET]
     ferry_bench-283     [000] d.h1.    10.000152: irq_handler_exit: irq=31 ret=handled
";

    #[test]
    fn interrupts_of_idle_cpus_add_up() {
        let us = idle_us(TRACE).unwrap();
        assert!((us - 80.0).abs() < 0.5, "{us}");
    }

    #[test]
    fn a_trace_that_is_not_whole_is_none() {
        assert_eq!(idle_us(&TRACE.replace("10/10", "10/12")), None);
        assert_eq!(idle_us(&format!("{TRACE}CPU:1 [LOST 7 EVENTS]\n")), None);
        assert_eq!(idle_us("no trace"), None);
    }
}
