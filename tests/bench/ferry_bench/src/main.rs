// SPDX-License-Identifier: GPL-2.0

//! Measures page migration between two NUMA nodes with each of Ferry's migrators, against the
//! stock kernel's copy (`off`) in the same boot, and checks every byte after every move.

#![deny(unsafe_code)]

mod error;
mod guest;
mod measure;
mod pattern;
mod probe;
mod region;
mod report;
mod spin;
#[allow(unsafe_code)]
mod sys;

use clap::Parser;
use error::{in_call, Error, Result};
use ferry_results::{parse_size, size_name, Results};
use guest::{Ferry, Restore, UNLOADED};
use measure::{Bench, Variant, BATCH_BYTES};
use region::Region;
use spin::Spinners;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Rounds below which a median says little.
const ENOUGH_ROUNDS: u32 = 5;

/// Measures page migration between two NUMA nodes: GiB/s, first-folio latency, system time.
///
/// Needs root. Without ferry.ko only the stock kernel (`off`) is measured.
#[derive(Parser, Debug)]
struct Args {
    /// Folio sizes.
    #[arg(long, value_delimiter = ',', value_parser = parse_size,
          default_value = "4K,16K,64K,256K,1M,2M")]
    sizes: Vec<u64>,
    /// Migrators to compare; all that the module offers if not given.
    #[arg(long, value_delimiter = ',')]
    migrators: Vec<String>,
    /// ferry.ko: loaded if it is not, and unloaded for the migrator `unloaded`, which is the
    /// kernel without the module.
    #[arg(long)]
    module: Option<PathBuf>,
    /// Values of vm.ferry.cpu_workers to compare for each migrator; left alone if not given.
    #[arg(long, value_delimiter = ',')]
    workers: Vec<u32>,
    /// Rounds: in each one every migrator moves the region there and back.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// About how long all may take: past a size's share of it, no more rounds are begun than the
    /// five that medians need, and no more batches than 25 in each direction.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Bytes that move at once.
    #[arg(long, default_value = "128M", value_parser = parse_size)]
    region: u64,
    /// Batches in each direction for first-folio latency; 0 for none. 100 if not given, none with
    /// --busy.
    #[arg(long)]
    latency_batches: Option<usize>,
    /// CPU of the thread that moves.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The two nodes; the first two with memory if not given.
    #[arg(long, value_delimiter = ',', num_args = 1)]
    nodes: Vec<i32>,
    /// One spinning thread on each CPU meanwhile.
    #[arg(long)]
    busy: bool,
    /// Where the results go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the table goes; to standard output if not given.
    #[arg(long)]
    table: Option<PathBuf>,
    /// Load average of the machine below this virtual machine, for the results.
    #[arg(long)]
    host_load: Option<f64>,
    /// What to write into the results as the command; this program's own line if not given.
    #[arg(long)]
    command: Option<String>,
}

fn main() -> ExitCode {
    match measure_all(&Args::parse()) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            for failure in failures {
                eprintln!("ferry_bench: FAILED: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("ferry_bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn unusable<T>(text: String) -> Result<T> {
    Err(Error::Unusable(text))
}

fn two_nodes(args: &Args) -> Result<[i32; 2]> {
    let found = guest::memory_nodes()?;
    let wanted = if args.nodes.is_empty() {
        &found
    } else {
        &args.nodes
    };
    match wanted[..] {
        [a, b, ..] if a != b && found.contains(&a) && found.contains(&b) => Ok([a, b]),
        _ => unusable(format!(
            "two different nodes with memory are needed; there are {found:?}"
        )),
    }
}

fn variants(args: &Args, ferry: Option<&Ferry>) -> Result<Vec<Variant>> {
    let available = match ferry {
        Some(ferry) => ferry.migrators()?,
        None => vec!["off".into()],
    };
    let wanted = if args.migrators.is_empty() {
        &available
    } else {
        &args.migrators
    };
    let exists = |name: &String| {
        available.contains(name) || name == UNLOADED && ferry.is_some_and(Ferry::can_unload)
    };
    if let Some(missing) = wanted.iter().find(|name| !exists(name)) {
        return unusable(format!(
            "migrator '{missing}' is not there; available: {}{}",
            available.join(" "),
            if ferry.is_none() {
                " (ferry.ko is not loaded)"
            } else {
                ""
            }
        ));
    }
    let mut variants = vec![];
    for migrator in wanted {
        let plain = Variant {
            migrator: migrator.clone(),
            workers: None,
        };
        if plain.is_off() {
            variants.insert(0, plain);
        } else if args.workers.is_empty() || plain.migrator == UNLOADED {
            variants.push(plain);
        } else {
            variants.extend(args.workers.iter().map(|&workers| Variant {
                workers: Some(workers),
                ..plain.clone()
            }));
        }
    }
    Ok(variants)
}

fn check_sizes(args: &Args) -> Result<()> {
    for &size in &args.sizes {
        if !size.is_power_of_two() || !(guest::PAGE..=BATCH_BYTES).contains(&size) {
            return unusable(format!(
                "{} is not a folio size from 4K to 2M",
                size_name(size)
            ));
        }
    }
    if args.region % BATCH_BYTES != 0 {
        return unusable("the region must be a multiple of 2M".into());
    }
    Ok(())
}

fn check_room(nodes: [i32; 2], region: u64) -> Result<()> {
    const SPARE: u64 = 64 << 20;
    for node in nodes {
        let free = guest::node_free(node)?;
        if free < region + SPARE {
            return unusable(format!(
                "node {node} has {} MiB free, the region needs {} MiB and some room",
                free >> 20,
                region >> 20
            ));
        }
    }
    Ok(())
}

fn measure_all(args: &Args) -> Result<Vec<String>> {
    let begin = Instant::now();
    let date = ferry_results::time::iso8601(SystemTime::now());
    let progress = |text: String| println!("[{:7.1} s] {text}", begin.elapsed().as_secs_f64());

    check_sizes(args)?;
    let nodes = two_nodes(args)?;
    check_room(nodes, args.region)?;
    let mut ferry = Ferry::find(args.module.as_deref())?;
    let variants = variants(args, ferry.as_ref())?;
    let cpus = guest::online_cpus()?;
    let batches = args
        .latency_batches
        .unwrap_or(if args.busy { 0 } else { 100 });
    let probe_cpu = cpus.iter().rev().copied().find(|&cpu| cpu != args.cpu);
    if batches > 0 && probe_cpu.is_none() {
        progress("first-folio latency is not measured: it needs a second CPU".into());
    }
    if args.region / BATCH_BYTES < variants.len() as u64 {
        return unusable(format!(
            "{} variants need a region of as many batches of 2M",
            variants.len()
        ));
    }
    let mut restore = Restore::default();
    guest::calm(&mut restore)?;
    sys::bind_to_cpu(args.cpu).map_err(in_call("sched_setaffinity"))?;
    let bench_command = std::env::args().collect::<Vec<_>>().join(" ");
    let mut results = Results {
        kernel: guest::read("/proc/sys/kernel/osrelease")?,
        accel: guest::accel(),
        cpus: cpus.len() as u32,
        date,
        command: args
            .command
            .clone()
            .unwrap_or_else(|| bench_command.clone()),
        runs: vec![],
        bench_command,
        cpu_model: guest::cpu_model(),
        nodes: nodes.to_vec(),
        region_bytes: args.region,
        busy: args.busy,
        knobs: ferry.as_ref().map(Ferry::knobs).unwrap_or_default(),
        host_load: args.host_load,
        wall_s: 0.0,
        failures: vec![],
    };
    progress(format!(
        "Linux {}, {} CPUs, accel {}, nodes {} and {}, {} MiB a move, migrators: {}",
        results.kernel,
        results.cpus,
        results.accel,
        nodes[0],
        nodes[1],
        args.region >> 20,
        variants
            .iter()
            .map(Variant::name)
            .collect::<Vec<_>>()
            .join(" ")
    ));

    let spinners = args.busy.then(|| Spinners::start(&cpus));
    for (index, &folio_bytes) in args.sizes.iter().enumerate() {
        let name = size_name(folio_bytes);
        // A size may take what is left, divided by the sizes left; most of it for speed.
        let left = Duration::from_secs(args.seconds).saturating_sub(begin.elapsed());
        let share_of_time = left / (args.sizes.len() - index) as u32;
        let (speed_until, until) = (
            Instant::now() + share_of_time * 4 / 5,
            Instant::now() + share_of_time,
        );
        guest::compact()?;
        guest::allow_folios(folio_bytes, &mut restore)?;
        let mut region = Region::new(args.region, folio_bytes, BATCH_BYTES, nodes[0])?;
        let whole = 0..region.pieces();
        let mut share = region.right_size_share(whole.clone())?;
        progress(format!(
            "{name}: {:.1} % in folios of this size",
            share * 100.0
        ));
        let mut bench = Bench {
            variants: &variants,
            nodes,
            ferry: ferry.as_mut(),
            spinners: spinners.as_ref(),
        };
        let mut all = bench.speed(
            &mut region,
            args.rounds,
            ENOUGH_ROUNDS,
            speed_until,
            |line| progress(format!("{name}: {line}")),
        )?;
        if let Some(probe_cpu) = probe_cpu.filter(|_| batches > 0) {
            bench.latency(&mut region, batches, until, probe_cpu, &mut all)?;
            let seen: usize = all.iter().map(|series| series.gap_us.len()).sum();
            let unseen: u64 = all.iter().map(|series| series.unseen).sum();
            progress(format!(
                "{name}: first folio of {seen} batches, {unseen} went unseen"
            ));
        }
        share = share.min(region.right_size_share(whole)?);
        let size = report::Size {
            folio_bytes,
            right_size_share: share,
            nodes,
            busy: args.busy,
        };
        results.runs.extend(report::runs(&size, &variants, &all));
    }
    if let Some(spinners) = spinners {
        spinners.stop()?;
    }
    if let Some(ferry) = &mut ferry {
        ferry.select("off", None)?;
    }

    results.wall_s = begin.elapsed().as_secs_f64();
    results.failures = report::failures(&results);
    match &args.table {
        Some(path) => guest::write(path, &report::table(&results))?,
        None => println!("\n{}", report::table(&results)),
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&results).expect("plain data");
        guest::write(path, &(text + "\n"))?;
    }
    Ok(results.failures)
}
