// SPDX-License-Identifier: GPL-2.0

//! The options of the benchmark.

use clap::Parser;
use ferry_results::{parse_size, Part};
use std::path::PathBuf;

/// Measures page migration between two NUMA nodes: GiB/s, first-folio latency, system time.
///
/// Needs root. Without ferry.ko only the stock kernel (`off`) is measured.
#[derive(Parser, Debug)]
pub struct Args {
    /// Parts of the long benchmark: sizes, workers, batch, busy, engines, channels. Without, every
    /// size once, as the options say.
    #[arg(long, value_delimiter = ',', value_parser = parse_part, conflicts_with = "busy")]
    pub parts: Vec<Part>,
    /// Folio sizes; all parts but `sizes` take the smallest and the largest of them.
    #[arg(long, value_delimiter = ',', value_parser = parse_size,
          default_value = "4K,16K,64K,256K,1M,2M")]
    pub sizes: Vec<u64>,
    /// Migrators to compare; all that the module offers if not given, but engines only in the parts
    /// `engines` and `channels`.
    #[arg(long, value_delimiter = ',')]
    pub migrators: Vec<String>,
    /// ferry.ko: loaded if it is not, and unloaded for the migrator `unloaded`, which is the
    /// kernel without the module.
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// Values of vm.ferry.cpu_workers to compare for each migrator; left alone if not given. In the
    /// part `workers` from 0 to the number of CPUs if not given.
    #[arg(long, value_delimiter = ',')]
    pub workers: Vec<u32>,
    /// Limits for the smallest size in the part `batch`: values of vm.ferry.batch_folios.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=4096),
          default_value = "32,128,512,1024,2048,4096")]
    pub batch_folios: Vec<u64>,
    /// Limits for the largest size in the part `batch`: values of vm.ferry.batch_bytes.
    #[arg(long, value_delimiter = ',', value_parser = parse_size,
          default_value = "2M,4M,8M,16M,32M,64M")]
    pub batch_bytes: Vec<u64>,
    /// Numbers of an engine's channels in the part `channels`: values of vm.ferry.dma_channels.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=64),
          default_value = "1,2,4,8,16")]
    pub channels: Vec<u32>,
    /// Bytes in a second of each channel there, if the engine is a model.
    #[arg(long, default_value = "16M", value_parser = parse_size)]
    pub channel_limit: u64,
    /// Batches there, and the longer ones in the part `engines`: a value of vm.ferry.batch_bytes.
    #[arg(long, default_value = "64M", value_parser = parse_size)]
    pub engine_batch: u64,
    /// Runs in a control group of its own, and reports how much of the workers' time was charged to
    /// it.
    #[arg(long)]
    pub charge: bool,
    /// Rounds: in each one every migrator moves the region there and back.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// About how long all may take: past a size's share of it, no more rounds are begun than the
    /// five that medians need, and no more batches than 25 in each direction.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
    /// Bytes that move at once.
    #[arg(long, default_value = "128M", value_parser = parse_size)]
    pub region: u64,
    /// Batches in each direction for first-folio latency; 0 for none. 100 if not given, none with
    /// --busy.
    #[arg(long)]
    pub latency_batches: Option<usize>,
    /// CPU of the thread that moves.
    #[arg(long, default_value_t = 0)]
    pub cpu: usize,
    /// The two nodes; the first two with memory if not given.
    #[arg(long, value_delimiter = ',', num_args = 1)]
    pub nodes: Vec<i32>,
    /// One spinning thread on each CPU meanwhile.
    #[arg(long)]
    pub busy: bool,
    /// Seed of the order of the variants; the time if not given. The results contain it.
    #[arg(long)]
    pub seed: Option<u64>,
    /// File for the results as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// File for the table; standard output if not given.
    #[arg(long)]
    pub table: Option<PathBuf>,
    /// Commit of the tree that the kernel and the module are built from, for the results.
    #[arg(long)]
    pub commit: Option<String>,
    /// CPU model of the machine below this virtual machine, for the results.
    #[arg(long)]
    pub host_cpu_model: Option<String>,
    /// Kernel release of the machine below this virtual machine, for the results.
    #[arg(long)]
    pub host_kernel: Option<String>,
    /// CPUs of the machine below this virtual machine, for the results.
    #[arg(long)]
    pub host_cpus: Option<u32>,
    /// Load average of the machine below this virtual machine, for the results.
    #[arg(long)]
    pub host_load: Option<f64>,
    /// Command to record in the results; this program's own command line if not given.
    #[arg(long)]
    pub command: Option<String>,
}

fn parse_part(text: &str) -> std::result::Result<Part, String> {
    (Part::ALL.into_iter())
        .find(|part| part.name() == text)
        .ok_or_else(|| format!("there are {}", Part::ALL.map(Part::name).join(", ")))
}
