// SPDX-License-Identifier: GPL-2.0

//! The machine under test as its files show it: nodes, CPUs, folio sizes, Ferry's knobs.

use crate::error::{in_call, Error, Result};
use crate::sys;
use ferry_results::UNLOADED;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";
const FERRY: &str = "/proc/sys/vm/ferry";
const FERRY_DEBUG: &str = "/sys/kernel/debug/ferry";
/// Prefix of the names of the workers' threads.
const WORKER_COMM: &str = "ferry/";
const CGROUP: &str = "/sys/fs/cgroup";
pub const PAGE: u64 = 4096;

pub fn read(path: impl AsRef<Path>) -> Result<String> {
    fs::read_to_string(&path)
        .map(|text| text.trim_end().to_string())
        .map_err(|source| Error::File {
            path: path.as_ref().into(),
            source,
        })
}

pub fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    fs::write(&path, value).map_err(|source| Error::File {
        path: path.as_ref().into(),
        source,
    })
}

/// Files whose values come back when this goes away.
#[derive(Default)]
pub struct Restore {
    old: Vec<(PathBuf, String)>,
}

impl Restore {
    /// Remembers what is in `path` now.
    fn remember(&mut self, path: &Path) -> Result<()> {
        if !self.old.iter().any(|(known, _)| known == path) {
            let value = read(path)?;
            self.old.push((path.into(), selected(&value).into()));
        }
        Ok(())
    }

    fn set(&mut self, path: &Path, value: &str) -> Result<()> {
        self.remember(path)?;
        write(path, value)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        for (path, value) in self.old.drain(..).rev() {
            if let Err(error) = write(path, &value) {
                eprintln!("ferry_bench: not restored: {error}");
            }
        }
    }
}

/// Returns the choice in `always [madvise] never`, or the whole text where nothing is in brackets.
fn selected(text: &str) -> &str {
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(text, |(choice, _)| choice)
}

/// Numbers in the kernel's list format, `0-3,8`.
pub fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = vec![];
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

fn read_list(path: &str) -> Result<Vec<usize>> {
    let text = read(path)?;
    parse_list(&text).ok_or_else(|| Error::Unusable(format!("{path}: '{text}' is no list")))
}

pub fn online_cpus() -> Result<Vec<usize>> {
    read_list("/sys/devices/system/cpu/online")
}

/// Nodes that have memory.
pub fn memory_nodes() -> Result<Vec<i32>> {
    let nodes = read_list("/sys/devices/system/node/has_memory")?;
    Ok(nodes.into_iter().map(|node| node as i32).collect())
}

/// Returns the free bytes of a node.
pub fn node_free(node: i32) -> Result<u64> {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    read(&path)?
        .lines()
        .find_map(|line| line.split_once("MemFree:"))
        .and_then(|(_, value)| {
            value
                .trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map(|kib| kib << 10)
        .ok_or_else(|| Error::Unusable(format!("{path}: no MemFree")))
}

/// Returns the hypervisor of this machine: `kvm`, `tcg`, `none`, or the name the hypervisor gives
/// itself.
pub fn accel() -> String {
    match sys::hypervisor() {
        None => "none".into(),
        Some(name) => match &name {
            b"TCGTCGTCGTCG" => "tcg".into(),
            b"KVMKVMKVM\0\0\0" => "kvm".into(),
            other => String::from_utf8_lossy(other).trim_end_matches('\0').into(),
        },
    }
}

pub fn cpu_model() -> String {
    read("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("model name"))
                .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_string())
        })
        .unwrap_or_default()
}

/// Returns the system, interrupt and soft interrupt time of all CPUs so far, by the task that a
/// tick met.
pub fn system_s() -> Result<f64> {
    let text = read("/proc/stat")?;
    system_ticks(&text)
        .map(|ticks| ticks as f64 / sys::clock_ticks_per_s())
        .ok_or_else(|| Error::Unusable("/proc/stat: no line of all CPUs".into()))
}

fn system_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    Some(fields.get(2)? + fields.get(5)? + fields.get(6)?)
}

/// Returns the idle time of all CPUs so far, by the clock, in steps of 10 ms. `/proc/uptime` is
/// shorter to read than `/proc/stat`, which has that time, too.
pub fn idle_s() -> Result<f64> {
    let text = read("/proc/uptime")?;
    idle_of(&text).ok_or_else(|| Error::Unusable(format!("/proc/uptime: '{text}'")))
}

fn idle_of(uptime: &str) -> Option<f64> {
    uptime.split_whitespace().nth(1)?.parse().ok()
}

/// Interrupts so far of the devices that a PCI driver is bound to; `None` if there is no such
/// driver.
pub fn interrupts_of(driver: &str) -> Option<u64> {
    let devices = fs::read_dir(Path::new("/sys/bus/pci/drivers").join(driver)).ok()?;
    let numbers = devices.flatten().flat_map(|device| {
        let vectors = fs::read_dir(device.path().join("msi_irqs"));
        vectors.into_iter().flatten().flatten()
    });
    let counts = numbers.map(|number| {
        let counts = Path::new("/sys/kernel/irq").join(number.file_name());
        // One number for each CPU.
        let counts = read(counts.join("per_cpu_count")).unwrap_or_default();
        counts
            .split(',')
            .filter_map(|n| n.parse::<u64>().ok())
            .sum::<u64>()
    });
    Some(counts.sum())
}

/// Lets anonymous memory consist of folios of one size only.
pub fn allow_folios(bytes: u64, restore: &mut Restore) -> Result<()> {
    let mut known = false;
    let entries = fs::read_dir(THP).map_err(|source| Error::File {
        path: THP.into(),
        source,
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) = name
            .strip_prefix("hugepages-")
            .and_then(|rest| rest.strip_suffix("kB"))
            .and_then(|kib| kib.parse::<u64>().ok())
        else {
            continue;
        };
        let path = entry.path().join("enabled");
        if !path.exists() {
            continue; // an order that only files can have
        }
        known |= kib << 10 == bytes;
        restore.set(
            &path,
            if kib << 10 == bytes {
                "always"
            } else {
                "never"
            },
        )?;
    }
    if !known && bytes != PAGE {
        return Err(Error::Unusable(format!(
            "this kernel has no folios of {} for anonymous memory (see {THP}/hugepages-*)",
            ferry_results::size_name(bytes)
        )));
    }
    Ok(())
}

/// Keeps the kernel from moving pages on its own, and starts with large free blocks.
pub fn calm(restore: &mut Restore) -> Result<()> {
    let balancing = Path::new("/proc/sys/kernel/numa_balancing");
    if balancing.exists() {
        restore.set(balancing, "0")?;
    }
    Ok(())
}

pub fn compact() -> Result<()> {
    let path = Path::new("/proc/sys/vm/compact_memory");
    if path.exists() {
        write(path, "1")?;
    }
    Ok(())
}

/// Knobs that differ between what is compared; what is not given is as it was at the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knobs {
    pub workers: Option<u32>,
    /// Exactly `workers` workers, not at most.
    pub all_workers: bool,
    pub batch_folios: Option<u64>,
    pub batch_bytes: Option<u64>,
    /// Engines get all that they can have, whatever they gain.
    pub all_to_engine: bool,
    /// Exact number of channels of an engine.
    pub channels: Option<u32>,
}

/// A file that the benchmark sets, and what was in it at the start.
struct Own {
    path: PathBuf,
    first: String,
}

impl Own {
    fn new(path: PathBuf, restore: &mut Restore) -> Result<Own> {
        restore.remember(&path)?;
        Ok(Own {
            first: read(&path)?,
            path,
        })
    }

    fn set(&self, value: Option<impl ToString>) -> Result<()> {
        match value {
            Some(value) => write(&self.path, &value.to_string()),
            None => write(&self.path, &self.first),
        }
    }
}

/// Ferry's knobs and counters.
pub struct Ferry {
    restore: Restore,
    workers: Option<Own>,
    batch_folios: Option<Own>,
    batch_bytes: Option<Own>,
    /// The knobs from here on are missing in some versions of the module.
    all_workers: Option<Own>,
    engine_share: Option<Own>,
    dma_channels: Option<Own>,
    /// The migrator that is selected, and the channels that it was given.
    selected: (String, Option<u32>),
    /// The path of the module, to load it again after [`UNLOADED`].
    module: Option<PathBuf>,
    loaded: bool,
}

impl Ferry {
    /// Returns `None` if the module is not loaded and no file is given.
    pub fn find(module: Option<&Path>) -> Result<Option<Ferry>> {
        let mut ferry = Ferry {
            restore: Restore::default(),
            workers: None,
            batch_folios: None,
            batch_bytes: None,
            all_workers: None,
            engine_share: None,
            dma_channels: None,
            selected: Default::default(),
            module: module.map(PathBuf::from),
            loaded: Path::new(FERRY).exists(),
        };
        if !ferry.loaded {
            if module.is_none() {
                return Ok(None);
            }
            ferry.load()?;
        }
        let restore = &mut ferry.restore;
        restore.remember(&Path::new(FERRY).join("migrator"))?;
        let mut own = |name| Own::new(Path::new(FERRY).join(name), restore).map(Some);
        ferry.workers = own("cpu_workers")?;
        ferry.batch_folios = own("batch_folios")?;
        ferry.batch_bytes = own("batch_bytes")?;
        if !Path::new(FERRY_DEBUG).join("stats").exists() {
            return Err(Error::Unusable(format!(
                "{FERRY_DEBUG}/stats is not there: mount -t debugfs debugfs /sys/kernel/debug"
            )));
        }
        let mut optional = |path: PathBuf| -> Result<Option<Own>> {
            path.exists().then(|| Own::new(path, restore)).transpose()
        };
        ferry.all_workers = optional(Path::new(FERRY_DEBUG).join("inject/all_workers"))?;
        ferry.engine_share = optional(Path::new(FERRY).join("engine_share"))?;
        ferry.dma_channels = optional(Path::new(FERRY).join("dma_channels"))?;
        Ok(Some(ferry))
    }

    fn load(&mut self) -> Result<()> {
        let path = self.module.as_ref().ok_or_else(|| {
            Error::Unusable(format!("'{UNLOADED}' needs --module, to load it again"))
        })?;
        let in_file = |source| Error::File {
            path: path.clone(),
            source,
        };
        let file = fs::File::open(path).map_err(in_file)?;
        sys::load_module(&file, c"sdxi_bind=1").map_err(in_file)?;
        self.loaded = true;
        Ok(())
    }

    pub fn migrators(&self) -> Result<Vec<String>> {
        let text = read(Path::new(FERRY).join("available_migrators"))?;
        Ok(text.split_whitespace().map(String::from).collect())
    }

    pub fn can_unload(&self) -> bool {
        self.module.is_some()
    }

    /// Returns `true` if a number of workers can be made to take part in every batch.
    pub fn can_force(&self) -> bool {
        self.all_workers.is_some()
    }

    pub fn select(&mut self, migrator: &str, knobs: &Knobs) -> Result<()> {
        if migrator == UNLOADED {
            if self.loaded {
                write(Path::new(FERRY).join("migrator"), "off")?;
                sys::unload_module(c"ferry").map_err(in_call("delete_module"))?;
                self.loaded = false;
                self.selected = Default::default();
            }
            return Ok(());
        }
        if !self.loaded {
            self.load()?;
        }
        let (selected, channels) = &self.selected;
        if selected == migrator && *channels != knobs.channels {
            // Channels are requested when it is selected.
            write(Path::new(FERRY).join("migrator"), "off")?;
        }
        if let Some(own) = &self.workers {
            own.set(knobs.workers)?;
        }
        if let Some(own) = &self.batch_folios {
            own.set(knobs.batch_folios)?;
        }
        if let Some(own) = &self.batch_bytes {
            own.set(knobs.batch_bytes)?;
        }
        if let Some(own) = &self.all_workers {
            own.set(knobs.all_workers.then_some(1))?;
        }
        if let Some(own) = &self.engine_share {
            own.set(knobs.all_to_engine.then_some(ferry_results::engine::ALL))?;
        }
        if let Some(own) = &self.dma_channels {
            own.set(knobs.channels)?;
        }
        self.restore
            .set(&Path::new(FERRY).join("migrator"), migrator)?;
        self.selected = (migrator.into(), knobs.channels);
        match (knobs.channels, self.channels()?) {
            (Some(wanted), held) if held != Some(wanted) => Err(Error::Unusable(format!(
                "{migrator} has {} channels to give, {wanted} are to be measured",
                held.unwrap_or(0)
            ))),
            _ => Ok(()),
        }
    }

    /// Channels of the engine that is selected; `None` if it is no engine.
    pub fn channels(&self) -> Result<Option<u32>> {
        Ok(parse_channels(&read(Path::new(FERRY_DEBUG).join("state"))?))
    }

    /// Returns the migrators that are drivers of engines.
    pub fn engines(&self) -> Result<Vec<String>> {
        let mut names = self.migrators()?;
        names.retain(|name| is_engine(name));
        Ok(names)
    }

    /// Returns the CPU time of the workers' threads so far. The threads are new after each
    /// selection.
    pub fn workers_s(&self) -> Result<f64> {
        let entries = fs::read_dir("/proc").map_err(|source| Error::File {
            path: "/proc".into(),
            source,
        })?;
        let mut sum = 0.0;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // It may have ended meanwhile.
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if comm.starts_with(WORKER_COMM) {
                sum += sys::cpu_s_of(pid).unwrap_or(0.0);
            }
        }
        Ok(sum)
    }

    /// Returns all knobs except the knobs that the benchmark sets itself.
    pub fn knobs(&self) -> BTreeMap<String, String> {
        let mut knobs = BTreeMap::new();
        for entry in fs::read_dir(FERRY).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "migrator" && name != "available_migrators" {
                if let Ok(value) = read(entry.path()) {
                    knobs.insert(name, value);
                }
            }
        }
        knobs
    }

    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        if !self.loaded {
            return Ok(BTreeMap::new());
        }
        Ok(parse_counters(&read(Path::new(FERRY_DEBUG).join("stats"))?))
    }
}

/// Returns `true` if the migrator is not one of Ferry's own.
pub fn is_engine(migrator: &str) -> bool {
    !["off", "cpu", "auto", UNLOADED].contains(&migrator)
}

/// Returns N from a text with a line `channels N`.
fn parse_channels(state: &str) -> Option<u32> {
    let mut lines = state.lines();
    lines.find_map(|line| line.strip_prefix("channels ")?.trim().parse().ok())
}

/// Lines of `NAME VALUE`.
fn parse_counters(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_string(), value.trim().parse().ok()?))
        })
        .collect()
}

/// A control group that this process is in, alone.
pub struct Group {
    dir: PathBuf,
    old: PathBuf,
}

impl Group {
    pub fn enter() -> Result<Group> {
        let mine = read("/proc/self/cgroup")?;
        let Some(old) = mine.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return Err(Error::Unusable(
                "/proc/self/cgroup: not in a group of cgroup v2".into(),
            ));
        };
        let group = Group {
            dir: Path::new(CGROUP).join(format!("ferry_bench.{}", std::process::id())),
            old: Path::new(CGROUP).join(old),
        };
        fs::create_dir(&group.dir).map_err(|source| Error::File {
            path: group.dir.clone(),
            source,
        })?;
        write(group.dir.join("cgroup.procs"), "0")?;
        Ok(group)
    }

    /// Returns the CPU time that was charged to the group so far.
    pub fn used_s(&self) -> Result<f64> {
        let path = self.dir.join("cpu.stat");
        let counters = parse_counters(&read(&path)?);
        (counters.get("usage_usec"))
            .map(|&us| us as f64 / 1e6)
            .ok_or_else(|| Error::Unusable(format!("{}: no usage_usec", path.display())))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left = write(self.old.join("cgroup.procs"), "0");
        let removed = fs::remove_dir(&self.dir);
        if left.is_err() || removed.is_err() {
            eprintln!("ferry_bench: {} stays", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse_list("0"), Some(vec![0]));
        assert_eq!(parse_list("\n"), Some(vec![]));
        assert_eq!(parse_list("x"), None);
    }

    #[test]
    fn choices() {
        assert_eq!(selected("always inherit [madvise] never"), "madvise");
        assert_eq!(selected("off"), "off");
    }

    #[test]
    fn stat_of_all_cpus() {
        let text = "cpu  10 2 300 4000 5 60 7 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0\n";
        assert_eq!(system_ticks(text), Some(367));
        assert_eq!(system_ticks("intr 5"), None);
        assert_eq!(idle_of("1234.56 2100.25\n"), Some(2100.25));
        assert_eq!(idle_of("1234.56"), None);
    }

    #[test]
    fn counters() {
        let counters = parse_counters("batches 12\nbytes_early 4096\nheading\nstate idle\n");
        assert_eq!(counters.len(), 2);
        assert_eq!(counters["bytes_early"], 4096);
    }

    #[test]
    fn channels_of_engines() {
        let state = "migrator ae4dma\nparked 0\nchannels 16\nlost 0\nchannel 1 live node 0\n";
        assert_eq!(parse_channels(state), Some(16));
        assert_eq!(parse_channels("migrator cpu\nworkers 2\n"), None);
        assert!(is_engine("ptdma") && !is_engine("cpu") && !is_engine(UNLOADED));
    }

    #[test]
    fn values_come_back() {
        let path = std::env::temp_dir().join(format!("ferry_bench.{}", std::process::id()));
        fs::write(&path, "always [madvise] never\n").unwrap();
        {
            let mut restore = Restore::default();
            restore.set(&path, "never").unwrap();
            restore.set(&path, "always").unwrap();
            assert_eq!(read(&path).unwrap(), "always");
        }
        assert_eq!(read(&path).unwrap(), "madvise");
        fs::remove_file(&path).unwrap();
    }
}
