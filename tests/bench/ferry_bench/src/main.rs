// SPDX-License-Identifier: GPL-2.0

//! Measures page migration between two NUMA nodes with each of Ferry's migrators, against the
//! stock kernel's copy (`off`) in the same boot, and checks every byte after every move.

#![deny(unsafe_code)]

mod args;
mod error;
mod guest;
mod interrupts;
mod measure;
mod model;
mod pattern;
mod plan;
mod probe;
mod region;
mod report;
mod spin;
#[allow(unsafe_code)]
mod sys;
mod tables;
mod variant;

use args::Args;
use clap::Parser;
use error::{in_call, Error, Result};
use ferry_results::{Part, Results};
use guest::{Ferry, Group, Restore};
use interrupts::Tracer;
use measure::Bench;
use model::Model;
use plan::Step;
use region::Region;
use spin::Spinners;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use variant::Variant;

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

/// State that all steps share.
struct Machine<'a> {
    nodes: [i32; 2],
    cpus: &'a [usize],
    /// The mover's.
    cpu: usize,
    probe_cpu: Option<usize>,
    ferry: Option<&'a mut Ferry>,
    models: &'a mut BTreeMap<String, Model>,
    tracer: Option<&'a Tracer>,
    group: Option<&'a Group>,
    /// Seed of the order of the variants.
    seed: u64,
}

fn measure_step(
    step: &Step,
    machine: Machine<'_>,
    share_of_time: Duration,
    restore: &mut Restore,
    mut progress: impl FnMut(String),
) -> Result<Vec<ferry_results::Run>> {
    let (now, nodes) = (Instant::now(), machine.nodes);
    let speed_until = now + share_of_time.mul_f64(step.speed_share);
    let until = now + share_of_time;
    guest::compact()?;
    guest::allow_folios(step.folio_bytes, restore)?;
    let mut region = Region::new(
        step.region_bytes,
        step.folio_bytes,
        step.call_bytes,
        nodes[0],
    )?;
    let whole = 0..region.pieces();
    let mut right_size_share = region.right_size_share(whole.clone())?;
    let names = step.variants.iter().map(Variant::name);
    progress(format!(
        "{:.1} % in folios of this size; {}{}",
        right_size_share * 100.0,
        names.collect::<Vec<_>>().join(" "),
        if step.busy { "; every CPU busy" } else { "" }
    ));
    let spinners = step.busy.then(|| Spinners::start(machine.cpus));
    let level = !step.busy && tables::matter(&guest::accel(), step.folio_bytes);
    let mut bench = Bench {
        variants: &step.variants,
        nodes,
        ferry: machine.ferry,
        models: machine.models,
        tracer: machine.tracer.filter(|_| step.part == Some(Part::Engines)),
        spinners: spinners.as_ref(),
        group: machine.group,
        level: level.then_some((machine.cpus, machine.cpu)),
        cpus: machine.cpus.len(),
        settle: step.settle,
        seed: machine.seed,
        moves: 0,
    };
    let mut all = bench.speed(&mut region, step, speed_until, &mut progress)?;
    if let Some(probe_cpu) = machine.probe_cpu.filter(|_| step.calls > 0) {
        bench.latency(&mut region, step, until, probe_cpu, &mut all)?;
        let first: usize = all.iter().map(|series| series.gap_us.len()).sum();
        let pages: usize = all.iter().map(|series| series.page_gap_us.len()).sum();
        let unseen: u64 = all.iter().map(|series| series.unseen).sum();
        progress(format!(
            "first folio of {first} calls, other pages of {pages}; {unseen} went unseen"
        ));
    }
    if let Some(spinners) = spinners {
        spinners.stop()?;
    }
    right_size_share = right_size_share.min(region.right_size_share(whole)?);
    Ok(report::runs(
        step,
        nodes,
        right_size_share,
        machine.group.is_some(),
        machine.seed,
        &all,
    ))
}

fn measure_all(args: &Args) -> Result<Vec<String>> {
    let begin = Instant::now();
    let date = ferry_results::time::iso8601(SystemTime::now());
    let progress = |text: String| println!("[{:7.1} s] {text}", begin.elapsed().as_secs_f64());

    let nodes = two_nodes(args)?;
    let cpus = guest::online_cpus()?;
    let mut ferry = Ferry::find(args.module.as_deref())?;
    let mut models = BTreeMap::new();
    if let Some(ferry) = &ferry {
        for engine in ferry.engines()? {
            if let Some(model) = Model::find(&engine)? {
                models.insert(engine, model);
            }
        }
    }
    let steps = plan::steps(args, ferry.as_ref(), cpus.len(), &models)?;
    let largest = steps.iter().map(|step| step.region_bytes).max();
    check_room(nodes, largest.unwrap_or(0))?;
    let probe_cpu = cpus.iter().rev().copied().find(|&cpu| cpu != args.cpu);
    if probe_cpu.is_none() {
        progress("first-folio latency is not measured: it needs a second CPU".into());
    }
    if args.parts.contains(&Part::Workers) && !ferry.as_ref().is_some_and(Ferry::can_force) {
        progress(
            "workers: no ferry/inject/all_workers, so they are numbers at most, not exact".into(),
        );
    }
    let tracer = match args.parts.contains(&Part::Engines) {
        true => Tracer::new()?,
        false => None,
    };
    let group = args.charge.then(Group::enter).transpose()?;
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
        busy: steps.iter().all(|step| step.busy),
        knobs: ferry.as_ref().map(Ferry::knobs).unwrap_or_default(),
        commit: args.commit.clone().filter(|commit| !commit.is_empty()),
        host_cpu_model: args.host_cpu_model.clone(),
        host_kernel: args.host_kernel.clone(),
        host_cpus: args.host_cpus,
        host_load: args.host_load,
        seed: args.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(0, |now| now.as_secs())
        }),
        wall_s: 0.0,
        failures: vec![],
    };
    progress(format!(
        "Linux {}, {} CPUs, accel {}, nodes {} and {}, {} MiB a move",
        results.kernel,
        results.cpus,
        results.accel,
        nodes[0],
        nodes[1],
        args.region >> 20,
    ));
    if let Some(overcommit) = results.overcommit() {
        progress(overcommit);
    }

    for (index, step) in steps.iter().enumerate() {
        // A step may take its share of what is left.
        let left = Duration::from_secs(args.seconds).saturating_sub(begin.elapsed());
        let weights: u32 = steps[index..].iter().map(|step| step.weight).sum();
        let share = left * step.weight / weights;
        let name = step.name();
        let runs = measure_step(
            step,
            Machine {
                nodes,
                cpus: &cpus,
                cpu: args.cpu,
                probe_cpu,
                ferry: ferry.as_mut(),
                models: &mut models,
                tracer: tracer.as_ref(),
                group: group.as_ref(),
                seed: results.seed,
            },
            share,
            &mut restore,
            |line| progress(format!("{name}: {line}")),
        )?;
        results.runs.extend(runs);
    }
    if let Some(ferry) = &mut ferry {
        ferry.select("off", &guest::Knobs::default())?;
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
