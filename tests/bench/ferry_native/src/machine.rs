// SPDX-License-Identifier: GPL-2.0

//! The machine that the kernel is a process of.

use ferry_results::native::Machine;
use std::collections::BTreeMap;
use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().into()
}

fn load() -> f64 {
    let text = read("/proc/loadavg");
    (text.split_whitespace().next())
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0)
}

/// Bytes of the largest caches, each counted once though several CPUs share it.
fn llc_bytes() -> u64 {
    let mut caches = BTreeMap::new();
    let Ok(cpus) = fs::read_dir("/sys/devices/system/cpu") else {
        return 0;
    };
    for cpu in cpus.flatten() {
        let Ok(indices) = fs::read_dir(cpu.path().join("cache")) else {
            continue;
        };
        for index in indices.flatten() {
            let of = |name| read(&index.path().join(name).to_string_lossy());
            let (Ok(level), Ok(bytes)) = (
                of("level").parse::<u32>(),
                ferry_results::parse_size(&of("size")),
            ) else {
                continue;
            };
            caches.insert((level, of("type"), of("shared_cpu_list")), bytes);
        }
    }
    let last = caches.keys().map(|(level, ..)| *level).max();
    (caches.iter())
        .filter(|((level, ..), _)| Some(*level) == last)
        .map(|(_, bytes)| bytes)
        .sum()
}

/// Returns, in ticks, the time of all CPUs, and the part of it that a hypervisor gave to others.
fn ticks() -> (u64, u64) {
    let text = read("/proc/stat");
    let fields: Vec<u64> = (text.lines().next().unwrap_or_default())
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // The first eight do not contain each other.
    let all = fields.iter().take(8).sum();
    (all, fields.get(7).copied().unwrap_or(0))
}

/// The machine while it is being used.
pub struct Watched {
    machine: Machine,
    ticks: (u64, u64),
}

impl Watched {
    pub fn begin() -> Watched {
        let info = read("/proc/cpuinfo");
        let field = |name: &str| {
            (info.lines())
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_string())
        };
        Watched {
            machine: Machine {
                cpu_model: field("model name").unwrap_or_else(|| "unknown CPU".into()),
                cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
                kernel: read("/proc/sys/kernel/osrelease"),
                llc_bytes: llc_bytes(),
                hypervisor: field("flags")
                    .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
                load_begin: load(),
                ..Machine::default()
            },
            ticks: ticks(),
        }
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn end(mut self) -> Machine {
        let (all, steal) = ticks();
        let all = all.saturating_sub(self.ticks.0).max(1);
        self.machine.steal = steal.saturating_sub(self.ticks.1) as f64 / all as f64;
        self.machine.load_end = load();
        self.machine
    }
}
