// SPDX-License-Identifier: GPL-2.0

//! Life as `/init`: loads Ferry and the driver, measures what the plan says, and says what came of
//! it.

use crate::error::{in_call, in_file, Error, Result};
use crate::plan;
use crate::protocol::{Line, Sample};
use crate::settings::Settings;
use ferry_results::native::{Config, How, Measured, Routine};
use ferry_results::size_name;
use rustix::mount::{mount, MountFlags};
use rustix::system::{finit_module, reboot, RebootCommand};
use rustix::thread::{sched_setaffinity, CpuSet};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::Write;

/// The path where the kernel looks for its init, and so the name of this program as that init.
pub const PATH: &str = "/init";

const RUN: &str = "/sys/kernel/debug/ferry_native/run";
const STATS: &str = "/sys/kernel/debug/ferry/stats";
const KNOBS: &str = "/proc/sys/vm/ferry";
const ALL_WORKERS: &str = "/sys/kernel/debug/ferry/inject/all_workers";

/// The driver's parameters, and what they are the addresses of.
const FUNCTIONS: [(&str, &str); 4] = [
    ("submit", "__migrate_copy_submit"),
    ("settle", "__migrate_copy_settle"),
    ("finish", "__migrate_copy_finish"),
    ("copy_folio", "__migrate_copy_folio"),
];

/// Measures, reports, and ends the kernel.
pub fn run() -> ! {
    let last = match measure() {
        Ok(()) => Line::End,
        Err(error) => Line::Error(error.to_string()),
    };
    // An error of the only channel for reports cannot be reported.
    let _ = say(&last);
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

fn say(line: &Line) -> Result<()> {
    let text = serde_json::to_string(line).map_err(in_call("serde_json"))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(in_file("the console"))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(in_file(path))
}

fn write(path: &str, text: &str) -> Result<()> {
    // In one system call, as both sysctls and the driver want it.
    let mut file = File::options()
        .write(true)
        .open(path)
        .map_err(in_file(path))?;
    file.write_all(text.as_bytes()).map_err(in_file(path))
}

fn load(path: &str, parameters: &CStr) -> Result<()> {
    let file = File::open(path).map_err(in_file(path))?;
    finit_module(&file, parameters, 0).map_err(|e| in_file(path)(e.into()))
}

/// Returns the driver's parameters: the shim's functions that it does not export.
fn addresses() -> Result<CString> {
    let symbols = read("/proc/kallsyms")?;
    let mut words = vec![];
    for (parameter, function) in FUNCTIONS {
        let address = symbols
            .lines()
            .find_map(|line| {
                let mut fields = line.split_whitespace();
                let (address, _, name) = (fields.next()?, fields.next()?, fields.next()?);
                (name == function).then_some(address)
            })
            .ok_or_else(|| Error::Unusable(format!("this kernel has no {function}()")))?;
        words.push(format!("{parameter}=0x{address}"));
    }
    CString::new(words.join(" ")).map_err(in_call("CString"))
}

fn set_up() -> Result<()> {
    for (what, on) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        fs::create_dir_all(on).map_err(in_file(on))?;
        mount(what, on, what, MountFlags::empty(), None).map_err(|e| in_file(on)(e.into()))?;
    }
    load("/ferry.ko", c"")?;
    load("/ferry_native.ko", &addresses()?)?;
    write(&format!("{KNOBS}/migrator"), "cpu")?;
    // Each run has the number of workers that is measured, whether they gain anything or not.
    write(ALL_WORKERS, "1")?;
    // The mover; workers are on the other CPUs, and it shall not run after them.
    let mut cpus = CpuSet::new();
    cpus.set(0);
    sched_setaffinity(None, &cpus).map_err(in_call("sched_setaffinity"))
}

fn counters() -> Result<BTreeMap<String, u64>> {
    Ok(read(STATS)?
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_string(), value.trim().parse().ok()?))
        })
        .collect())
}

/// Makes the driver carry out a command.
fn command(text: &str) -> Result<String> {
    write(RUN, text).map_err(|e| Error::Unusable(format!("'{text}': {e}")))?;
    read(RUN)
}

fn one(config: &Config, set_bytes: u64) -> Result<(Measured, BTreeMap<String, u64>)> {
    let (bytes, times) = plan::bytes_and_times(config, set_bytes);
    let text = match config.how {
        How::Limit => format!(
            "limit {} {} {} {bytes} {times}",
            config.routine.name(),
            config.workers + 1,
            config.batch_folios
        ),
        how => {
            write(&format!("{KNOBS}/cpu_workers"), &config.workers.to_string())?;
            let routine = match config.routine {
                Routine::Movnti => "nontemporal",
                Routine::Movsb | Routine::Memcpy => "cached",
            };
            write(&format!("{KNOBS}/copy_routine"), routine)?;
            format!(
                "copy {} {} {bytes} {times} {} {}",
                how.name(),
                config.batch_folios,
                u32::from(config.latency),
                u32::from(config.busy)
            )
        }
    };
    let before = counters()?;
    let measured =
        serde_json::from_str(&command(&text)?).map_err(in_call("the driver's result"))?;
    let mut gained = counters()?;
    for (name, value) in &mut gained {
        *value = value.saturating_sub(before.get(name).copied().unwrap_or(0));
    }
    gained.retain(|_, value| *value != 0);
    Ok((measured, gained))
}

fn measure() -> Result<()> {
    set_up()?;
    let settings = Settings::from_environment(std::env::vars())?;
    let set_bytes = settings
        .set_bytes
        .ok_or_else(|| Error::Unusable("the kernel's command line has no set=".into()))?;
    let cpus = (read("/proc/cpuinfo")?.lines())
        .filter(|line| line.starts_with("processor"))
        .count() as u32;
    say(&Line::Begin {
        kernel: read("/proc/sys/kernel/osrelease")?.trim().into(),
        cpus,
    })?;
    for &folio_bytes in &settings.sizes {
        let order = (folio_bytes >> 12).trailing_zeros();
        command(&format!("alloc {order} {set_bytes}"))?;
        let plan = plan::plan(folio_bytes, cpus);
        // A first round finds things cold that no later one does.
        for round in 0..=settings.rounds {
            // There and back, so that the order favours no configuration.
            let mut turn = plan.clone();
            if round % 2 == 1 {
                turn.reverse();
            }
            for config in turn {
                let (measured, ferry) = one(&config, set_bytes)?;
                if round > 0 {
                    say(&Line::Sample(Box::new(Sample {
                        round,
                        config,
                        measured,
                        ferry,
                    })))?;
                }
            }
            say(&Line::Progress(format!(
                "folios of {}: round {round} of {}",
                size_name(folio_bytes),
                settings.rounds
            )))?;
        }
    }
    Ok(())
}
