// SPDX-License-Identifier: GPL-2.0

//! Life as a program: starts the kernel, listens to it, and prints what came of it.

use crate::bundle;
use crate::error::{in_call, in_file, Error, Result};
use crate::machine::Watched;
use crate::protocol::{Line, Sample};
use crate::report;
use crate::settings::{Settings, HELP};
use ferry_results::native::{Native, NAME};
use ferry_results::time::iso8601;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

/// Silence after which the kernel counts as dead. One measurement takes about a second.
const SILENCE: Duration = Duration::from_secs(300);

/// Most memory for what is to be cold, unless told otherwise.
const MAX_SET_BYTES: u64 = 1 << 30;

/// The kernel, its page tables and pages, and init.
const OTHER_BYTES: u64 = 256 << 20;

/// Runs the benchmark with the words of the command line. Returns `true` if it succeeded.
pub fn run(args: &[String]) -> Result<bool> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["--help" | "-h"] => {
            print!("{HELP}");
            Ok(true)
        }
        ["--bundle", kernel, initramfs, out] => {
            bundle::make(Path::new(kernel), Path::new(initramfs), Path::new(out))?;
            Ok(true)
        }
        _ => measure(&Settings::parse(words.iter().copied())?, args),
    }
}

/// The kernel that runs; killed when dropped.
struct Kernel {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Kernel {
    fn start(program: &Path, args: &[String], log: &Path) -> Result<Kernel> {
        let log = File::create(log).map_err(in_file(log))?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(in_file(program))?;
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).split(b'\n').map_while(|l| l.ok()) {
                    if sender.send(String::from_utf8_lossy(&line).into()).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Kernel { child, lines })
    }
}

/// Messages of the kernel's init.
#[derive(Default)]
struct Heard {
    kernel: String,
    cpus: u32,
    samples: Vec<Sample>,
    /// Lines of the kernel's own log.
    log: Vec<String>,
}

fn listen(kernel: &Kernel, heard: &mut Heard) -> Result<()> {
    loop {
        let text = match kernel.lines.recv_timeout(SILENCE) {
            Ok(text) => text,
            Err(RecvTimeoutError::Timeout) => {
                let seconds = SILENCE.as_secs();
                return Err(Error::Unusable(format!(
                    "the kernel has said nothing for {seconds} s"
                )));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Unusable("the kernel ended before its time".into()))
            }
        };
        match Line::parse(&text) {
            None => heard.log.push(text.trim_end().into()),
            Some(Line::Begin { kernel, cpus }) => (heard.kernel, heard.cpus) = (kernel, cpus),
            Some(Line::Sample(sample)) => heard.samples.push(*sample),
            Some(Line::Progress(text)) => eprintln!("ferry-native: {text}"),
            Some(Line::Error(text)) => return Err(Error::Unusable(text)),
            Some(Line::End) => return Ok(()),
        }
    }
}

/// Returns the command that produces the results again: that of the script that runs this program,
/// which the environment has, or this program's own.
fn command(of_script: Option<String>, args: &[String]) -> String {
    of_script
        .filter(|command| !command.is_empty())
        .unwrap_or_else(|| {
            let own = std::iter::once("ferry-native").chain(args.iter().map(String::as_str));
            own.collect::<Vec<_>>().join(" ")
        })
}

/// Returns the commit that this program and the kernel in it were built from. The build has it,
/// because the program may run on a machine without the tree.
fn commit(at_build: Option<&str>) -> Option<String> {
    at_build
        .filter(|commit| !commit.is_empty())
        .map(String::from)
}

fn measure(settings: &Settings, args: &[String]) -> Result<bool> {
    let (begin, date) = (Instant::now(), iso8601(SystemTime::now()));
    let watched = Watched::begin();
    let machine = watched.machine();
    let ncpus = settings.ncpus.unwrap_or(machine.cpus);
    if ncpus > machine.cpus {
        return Err(Error::Unusable(format!(
            "ncpus={ncpus}: this machine has {} CPUs for it",
            machine.cpus
        )));
    }
    let set_bytes = settings
        .set_bytes
        .unwrap_or((2 * machine.llc_bytes).clamp(64 << 20, MAX_SET_BYTES))
        .next_multiple_of(32 << 20);
    // Both sets, and the kernel's page structures for them.
    let bytes = 2 * (set_bytes + set_bytes / 32) + OTHER_BYTES;

    let dir = tempfile::tempdir().map_err(in_call("a temporary directory"))?;
    let (program, initramfs) = bundle::unpack(dir.path())?;
    let log = dir.path().join("log");
    let mut kernel_args = vec![
        format!("mem={}M", bytes >> 20),
        format!("ncpus={ncpus}"),
        // The only way in which it can have several CPUs.
        "seccomp=on".into(),
        format!("initrd={}", initramfs.display()),
        // Not in the home directory, which may not be there.
        format!("uml_dir={}/", dir.path().display()),
        "con=null".into(),
        "con0=null,fd:1".into(),
        "console=tty0".into(),
        "panic=-1".into(),
    ];
    kernel_args.extend(settings.for_guest(set_bytes));
    let kernel = Kernel::start(&program, &kernel_args, &log)?;
    let mut heard = Heard::default();
    if let Err(error) = listen(&kernel, &mut heard) {
        drop(kernel);
        eprintln!("{}", fs::read_to_string(&log).unwrap_or_default());
        eprintln!("{}", heard.log.join("\n"));
        return Err(error);
    }
    drop(kernel);

    let runs = report::runs(&heard.samples);
    let mut failures = report::failures(&runs);
    let reports = [
        "BUG:",
        "WARNING:",
        "Oops",
        "rcu: INFO",
        "blocked for more than",
    ];
    failures.extend(
        (heard.log.iter())
            .filter(|line| reports.iter().any(|report| line.contains(report)))
            .map(|line| format!("the kernel says: {line}")),
    );
    let results = Native {
        benchmark: NAME.into(),
        machine: watched.end(),
        kernel: heard.kernel,
        cpus: heard.cpus,
        date,
        command: command(std::env::var("FERRY_COMMAND").ok(), args),
        commit: commit(option_env!("FERRY_COMMIT")),
        rounds: settings.rounds,
        set_bytes,
        wall_s: begin.elapsed().as_secs_f64(),
        runs,
        failures,
    };
    eprint!("{}", results.table());
    let text = serde_json::to_string_pretty(&results).map_err(in_call("serde_json"))?;
    println!("{text}");
    Ok(results.failures.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_the_script_comes_first() {
        let args = ["rounds=5".to_string()];
        assert_eq!(command(None, &args), "ferry-native rounds=5");
        assert_eq!(command(Some(String::new()), &[]), "ferry-native");
        let script = Some("scripts/bench-native rounds=5".to_string());
        assert_eq!(command(script, &args), "scripts/bench-native rounds=5");
    }

    #[test]
    fn an_empty_commit_is_none() {
        assert_eq!(commit(None), None);
        assert_eq!(commit(Some("")), None);
        assert_eq!(commit(Some("0123abcd")), Some("0123abcd".into()));
    }
}
