// SPDX-License-Identifier: GPL-2.0

//! Models of DMA engines for QEMU's `vfio-user-pci`: one function on one socket.
//!
//! ```text
//! ferry-devices ptdma --socket build/ptdma.sock --control build/ptdma.ctl
//! ferry-devices control build/ptdma.ctl '{"cmd":"stats"}'
//! ```

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use ferry_vfio::control;
use ferry_vfio::limit::Limit;
use ferry_vfio::server::{Function, Socket};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Models of DMA engines for QEMU's vfio-user-pci.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// AMD PTDMA, 1022:1498, one queue
    Ptdma(Serve),
    /// AMD AE4DMA, 1022:149b, 16 queues
    Ae4dma(Serve),
    /// PLX ExpressLane PEX switch DMA, 10b5:87d0, one channel
    Plx(Serve),
    /// An SDXI 1.0 function, class 0x120100
    Sdxi(Sdxi),
    /// Sends requests to a control socket and prints the answers
    Control {
        /// The control socket
        socket: PathBuf,
        /// JSON objects, see Documentation/devices.rst
        #[arg(required = true)]
        requests: Vec<String>,
    },
}

#[derive(Args)]
struct Serve {
    /// The socket that QEMU connects to
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The socket that takes requests
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// No MSI-X, so that the driver takes MSI
    #[arg(long)]
    msi: bool,
    /// Least time that a descriptor takes, on each channel
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    latency: u64,
    /// Bytes a second of each channel, 0 for no limit
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    bandwidth: u64,
    /// Ends when the first client has left
    #[arg(long)]
    once: bool,
}

#[derive(Args)]
struct Sdxi {
    #[command(flatten)]
    serve: Serve,
    /// Contexts, 1 to 1024, the administrative one included
    #[arg(long, value_name = "N", default_value_t = ferry_sdxi::Options::default().contexts)]
    contexts: u16,
    /// Function handle, for functions of one group to differ
    #[arg(long, value_name = "N", default_value_t = ferry_sdxi::Options::default().sfunc)]
    sfunc: u16,
    /// Attributes, overlaps and the read index as a forgiving device has them
    #[arg(long)]
    lenient: bool,
}

impl Sdxi {
    fn function(&self) -> io::Result<Function> {
        ferry_sdxi::function(&ferry_sdxi::Options {
            contexts: self.contexts,
            sfunc: self.sfunc,
            strict: !self.lenient,
            msix: !self.serve.msi,
        })
    }
}

fn serve(args: &Serve, function: Function) -> io::Result<()> {
    let function = Arc::new(function);
    let limit = Limit {
        latency_us: args.latency,
        bytes_per_s: args.bandwidth,
    };
    let host = Arc::clone(function.host());
    (0..host.channels()).for_each(|c| host.set_limit(c, limit));
    let socket = Socket::bind(&args.socket, Arc::clone(&function))?;
    let paths: Vec<PathBuf> = [Some(&args.socket), args.control.as_ref()]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if let Some(path) = &args.control {
        let paths = paths.clone();
        control::listen(path, function, move || {
            paths.iter().for_each(|p| remove(p));
            std::process::exit(0);
        })?;
    }
    let result = if args.once {
        socket.serve_one()
    } else {
        socket.serve()
    };
    paths.iter().for_each(|p| remove(p));
    result
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}: {error}", path.display());
        }
        _ => {}
    }
}

/// Returns `true` if every answer reports success.
fn converse(socket: &PathBuf, requests: &[String]) -> io::Result<bool> {
    let mut good = true;
    control::send(socket, requests, |answer| {
        good &= answer.contains("\"ok\":true");
        println!("{answer}");
    })?;
    Ok(good)
}

fn main() -> ExitCode {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
    let result = match Cli::parse().command {
        Command::Ptdma(args) => ferry_ptdma::function(!args.msi).and_then(|f| serve(&args, f)),
        Command::Ae4dma(args) => ferry_ae4dma::function(!args.msi).and_then(|f| serve(&args, f)),
        Command::Plx(args) => ferry_plx::function(!args.msi).and_then(|f| serve(&args, f)),
        Command::Sdxi(args) => args.function().and_then(|f| serve(&args.serve, f)),
        Command::Control { socket, requests } => match converse(&socket, &requests) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", socket.display()),
            )),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferry-devices: {error}");
            ExitCode::from(2)
        }
    }
}
