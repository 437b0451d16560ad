// SPDX-License-Identifier: GPL-2.0

//! Models of engines, as a guest reaches them: each has a port of the guest, on which it takes
//! requests and answers, a line each (Documentation/devices.rst).

use crate::error::{Error, Result};
use crate::guest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PORTS: &str = "/sys/class/virtio-ports";
/// A model answers at once, but what carries the answer may have to wait for a CPU.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// One function.
struct Port {
    path: PathBuf,
    file: File,
}

/// All functions of one kind of engine.
pub struct Model {
    ports: Vec<Port>,
    channels: u32,
    limit: Option<u64>,
}

/// Returns the kind of engine that a port is for: `ferry.dev0.ptdma` is for a `ptdma`.
fn kind_of(port: &str) -> Option<&str> {
    let (number, kind) = port.strip_prefix("ferry.dev")?.split_once('.')?;
    number.bytes().all(|b| b.is_ascii_digit()).then_some(kind)
}

impl Model {
    /// Finds the models of the engines of the driver `kind`; `None` if there are none, as on
    /// hardware.
    pub fn find(kind: &str) -> Result<Option<Model>> {
        let mut ports = vec![];
        for entry in fs::read_dir(PORTS).into_iter().flatten().flatten() {
            let name = guest::read(entry.path().join("name")).unwrap_or_default();
            if kind_of(&name) != Some(kind) {
                continue;
            }
            let path = Path::new("/dev").join(entry.file_name());
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .map_err(|source| Error::File {
                    path: path.clone(),
                    source,
                })?;
            ports.push(Port { path, file });
        }
        if ports.is_empty() {
            return Ok(None);
        }
        let mut model = Model {
            ports,
            channels: 0,
            limit: None,
        };
        for port in &model.ports {
            let answer = port.ask(r#"{"cmd":"stats"}"#)?;
            model.channels += answer["channels"].as_array().map_or(0, Vec::len) as u32;
        }
        Ok(Some(model))
    }

    /// Channels of all functions.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// Returns the counters of all channels.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut sum = BTreeMap::new();
        for port in &self.ports {
            add_counters(&mut sum, &port.ask(r#"{"cmd":"stats"}"#)?);
        }
        Ok(sum)
    }

    /// Limits each channel to `bytes_per_s`, or removes the limit.
    pub fn limit(&mut self, bytes_per_s: Option<u64>) -> Result<()> {
        if self.limit != bytes_per_s {
            let request = format!(
                r#"{{"cmd":"limit","bytes_per_s":{}}}"#,
                bytes_per_s.unwrap_or(0)
            );
            for port in &self.ports {
                port.ask(&request)?;
            }
            self.limit = bytes_per_s;
        }
        Ok(())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if let Err(error) = self.limit(None) {
            eprintln!("ferry_bench: a model keeps its limit: {error}");
        }
    }
}

fn add_counters(sum: &mut BTreeMap<String, u64>, answer: &Value) {
    for (name, value) in answer["sum"].as_object().into_iter().flatten() {
        *sum.entry(name.clone()).or_default() += value.as_u64().unwrap_or(0);
    }
}

/// Returns an answer if it says that the request was carried out.
fn accepted(line: &str) -> Option<Value> {
    let answer: Value = serde_json::from_str(line).ok()?;
    (answer["ok"] == true).then_some(answer)
}

impl Port {
    fn ask(&self, request: &str) -> Result<Value> {
        let failed = |source| Error::File {
            path: self.path.clone(),
            source,
        };
        let until = Instant::now() + PATIENCE;
        let mut line = format!("{request}\n").into_bytes();
        while !line.is_empty() {
            match (&self.file).write(&line) {
                Ok(n) => drop(line.drain(..n)),
                Err(error) => wait(until, error).map_err(failed)?,
            }
        }
        let mut answer = vec![];
        let mut some = [0; 4096];
        while answer.last() != Some(&b'\n') {
            match (&self.file).read(&mut some) {
                Ok(0) => return Err(failed(ErrorKind::UnexpectedEof.into())),
                Ok(n) => answer.extend_from_slice(&some[..n]),
                Err(error) => wait(until, error).map_err(failed)?,
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        accepted(&answer).ok_or_else(|| {
            Error::Unusable(format!(
                "{}: the model answers {request} with {}",
                self.path.display(),
                answer.trim_end()
            ))
        })
    }
}

/// Returns when it is worth another attempt.
fn wait(until: Instant, error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock if Instant::now() < until => {
            std::thread::sleep(LOOK_AGAIN);
            Ok(())
        }
        ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_kinds() {
        assert_eq!(kind_of("ferry.dev0.ptdma"), Some("ptdma"));
        assert_eq!(kind_of("ferry.dev12.ae4dma"), Some("ae4dma"));
        assert_eq!(kind_of("ferry.qmp"), None);
        assert_eq!(kind_of("ferry.devx.ptdma"), None);
    }

    #[test]
    fn answers() {
        let good = r#"{"ok":true,"channels":[{},{}],"sum":{"bytes":4096,"interrupts":2}}"#;
        let answer = accepted(good).unwrap();
        let mut sum = BTreeMap::new();
        add_counters(&mut sum, &answer);
        add_counters(&mut sum, &answer);
        assert_eq!(sum["bytes"], 8192);
        assert_eq!(sum["interrupts"], 4);
        assert!(accepted(r#"{"ok":false,"error":"no"}"#).is_none());
        assert!(accepted("ok").is_none());
    }
}
