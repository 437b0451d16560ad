// SPDX-License-Identifier: GPL-2.0

//! The control socket: one JSON object a line, one line in answer.
//!
//! An answer is `{"ok":true, ...}` or `{"ok":false,"error":"..."}`. Requests:
//!
//! ```text
//! {"cmd":"stats"}                      counters of each channel and their sums
//! {"cmd":"state"}                      registers, memory, clients
//! {"cmd":"inject","channel":0,"nth":3,"times":1,"fault":{"kind":"error","code":9}}
//! {"cmd":"faults"}                     what waits
//! {"cmd":"clear"}                      nothing waits any more
//! {"cmd":"release"}                    channels that hang go on
//! {"cmd":"limit","channel":0,"latency_us":50,"bytes_per_s":1000000000}
//! {"cmd":"reset"}                      a reset that the driver did not ask for
//! {"cmd":"remove"}  {"cmd":"restore"}  surprise removal, and back
//! {"cmd":"quit"}                       the process ends
//! ```
//!
//! `inject` without a channel is for any, `limit` without one is for all. The kinds of faults are
//! those of [`crate::fault::Kind`]. A request that is not understood changes nothing.

use crate::counters::Values;
use crate::fault::{Fault, Refused};
use crate::limit::Limit;
use crate::server::{free_path, Function};
use serde::Deserialize;
use serde_json::{json, Value};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

/// Longest line.
const LINE: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Stats {},
    State {},
    Inject(Fault),
    Faults {},
    Clear {},
    Release {},
    Limit {
        #[serde(default)]
        channel: Option<u16>,
        #[serde(default)]
        latency_us: u64,
        #[serde(default)]
        bytes_per_s: u64,
    },
    Reset {},
    Remove {},
    Restore {},
    Quit {},
}

/// The next step of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Takes the next line.
    Line,
    /// Ends the process.
    Quit,
}

fn handle(function: &Function, request: Request) -> Result<Value, String> {
    let host = function.host();
    let channels = host.channels();
    Ok(match request {
        Request::Stats {} => {
            let values = host.values();
            let mut sum = Values::default();
            values.iter().for_each(|v| sum += *v);
            json!({
                "channels": values,
                "sum": sum,
                "faults_fired": host.faults().fired,
                "late_writes_read": host.held(),
            })
        }
        Request::State {} => json!({
            "device": function.device().state(),
            "gone": host.gone(),
            "resets": host.resets(),
            "mastered_at_work": host.mastered_at_work(),
            "clients_left": host.connections(),
            "mapped_bytes": host.memory.mapped(),
            "unbacked_ranges": host.memory.unbacked(),
        }),
        Request::Inject(fault) if !function.device().can(&fault.fault) => {
            return Err(Refused::Kind.to_string());
        }
        Request::Inject(fault) => {
            let id = host.faults().arm(fault, channels);
            json!({"id": id.map_err(|e| e.to_string())?})
        }
        Request::Faults {} => {
            let plan = host.faults();
            json!({"armed": plan.armed(), "fired": plan.fired})
        }
        Request::Clear {} => json!({"cleared": host.faults().clear()}),
        Request::Release {} => {
            host.release();
            json!({})
        }
        Request::Limit {
            channel,
            latency_us,
            bytes_per_s,
        } => {
            if channel.is_some_and(|c| c >= channels) {
                return Err(format!("this device has {channels} channels"));
            }
            let limit = Limit {
                latency_us,
                bytes_per_s,
            };
            for c in channel.map_or(0..channels, |c| c..c + 1) {
                host.set_limit(c, limit);
            }
            json!({})
        }
        Request::Reset {} => {
            host.count_reset();
            function.device().reset();
            json!({})
        }
        Request::Remove {} => {
            function.remove();
            json!({})
        }
        Request::Restore {} => {
            function.restore();
            json!({})
        }
        Request::Quit {} => json!({}),
    })
}

/// Returns the answer to one line.
pub fn answer(function: &Function, line: &str) -> (Value, Next) {
    let request = serde_json::from_str::<Request>(line).map_err(|e| e.to_string());
    let next = match request {
        Ok(Request::Quit {}) => Next::Quit,
        _ => Next::Line,
    };
    match request.and_then(|r| handle(function, r)) {
        Ok(mut value) => {
            value["ok"] = Value::Bool(true);
            (value, next)
        }
        Err(error) => (json!({"ok": false, "error": error}), next),
    }
}

fn converse(function: &Function, stream: &UnixStream) -> io::Result<Next> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = Vec::new();
    loop {
        line.clear();
        let got = (&mut reader).take(LINE).read_until(b'\n', &mut line)?;
        if got == 0 {
            return Ok(Next::Line);
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        let (value, next) = if line.last() != Some(&b'\n') && line.len() as u64 == LINE {
            (
                json!({"ok": false, "error": "the line is too long"}),
                Next::Line,
            )
        } else {
            answer(function, text.trim())
        };
        writer.write_all(format!("{value}\n").as_bytes())?;
        if next == Next::Quit {
            return Ok(next);
        }
    }
}

/// Listens at `path`, each connection with a thread of its own. `quit` is called at the request to.
pub fn listen(
    path: &Path,
    function: Arc<Function>,
    quit: impl Fn() + Clone + Send + 'static,
) -> io::Result<()> {
    free_path(path)?;
    let listener = UnixListener::bind(path)?;
    thread::Builder::new()
        .name("control".into())
        .spawn(move || loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::error!("control: {error}");
                    return;
                }
            };
            let (function, quit) = (Arc::clone(&function), quit.clone());
            let started =
                thread::Builder::new().spawn(move || match converse(&function, &stream) {
                    Ok(Next::Quit) => quit(),
                    Ok(Next::Line) => {}
                    Err(error) => log::info!("control: {error}"),
                });
            if let Err(error) = started {
                log::error!("control: {error}");
            }
        })?;
    Ok(())
}

/// Sends lines to a control socket and hands each answer to `seen`.
pub fn send(path: &PathBuf, lines: &[String], mut seen: impl FnMut(&str)) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
    let mut reader = BufReader::new(&stream);
    for line in lines {
        (&stream).write_all(format!("{}\n", line.replace('\n', " ")).as_bytes())?;
        let mut answer = String::new();
        if reader.read_line(&mut answer)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        seen(answer.trim_end());
    }
    Ok(())
}
