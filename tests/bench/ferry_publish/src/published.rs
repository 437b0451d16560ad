// SPDX-License-Identifier: GPL-2.0

//! Result files, and what one needs to be published.

use crate::error::{in_file, Error, Result};
use ferry_results::native::{self, Native};
use ferry_results::Results;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The results of one of the two benchmarks.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    Bench(Box<Results>),
    Native(Box<Native>),
}

/// A result file that has what a reader needs to measure again.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The file's name without `.json`.
    pub name: String,
    pub measured: Measured,
}

/// The fields that tell a reader what was measured, by which command and on which machine.
pub struct Origin<'a> {
    pub command: &'a str,
    pub date: &'a str,
    pub commit: &'a str,
    /// CPU of the machine that ran the benchmark, with its guest if it was in one.
    pub cpu: &'a str,
    /// Release of the kernel that was measured.
    pub kernel: &'a str,
    pub cpus: u32,
}

impl Measured {
    fn parse(name: &str, value: Value) -> Result<Measured> {
        let format = |source| Error::Format {
            name: name.into(),
            source,
        };
        if value["benchmark"] == native::NAME {
            let results = serde_json::from_value(value).map_err(format)?;
            return Ok(Measured::Native(Box::new(results)));
        }
        let results = serde_json::from_value(value).map_err(format)?;
        Ok(Measured::Bench(Box::new(results)))
    }

    fn json(&self) -> serde_json::Result<Value> {
        match self {
            Measured::Bench(results) => serde_json::to_value(results),
            Measured::Native(results) => serde_json::to_value(results),
        }
    }

    fn failures(&self) -> &[String] {
        match self {
            Measured::Bench(results) => &results.failures,
            Measured::Native(results) => &results.failures,
        }
    }

    /// Returns the bytes that were wrong in each run.
    fn bad_bytes(&self) -> Vec<u64> {
        match self {
            Measured::Bench(results) => results.runs.iter().map(|run| run.bad_bytes).collect(),
            Measured::Native(results) => results.runs.iter().map(|run| run.bad_bytes).collect(),
        }
    }
}

impl Published {
    /// Takes the text of a result file.
    ///
    /// # Errors
    ///
    /// Refuses results that failed, results without a field that [`Origin`] needs, and those that
    /// have a path of a machine in them.
    pub fn parse(name: &str, text: &str) -> Result<Published> {
        let refused = |reason: String| Error::Refused {
            name: name.into(),
            reason,
        };
        let value = serde_json::from_str(text).map_err(|source| Error::Format {
            name: name.into(),
            source,
        })?;
        let published = Published {
            name: name.into(),
            measured: Measured::parse(name, value)?,
        };
        published.check().map_err(refused)?;
        Ok(published)
    }

    /// Takes a file that a benchmark has written.
    ///
    /// # Errors
    ///
    /// Fails like [`Published::parse()`], or if the file cannot be read.
    pub fn take(path: &Path) -> Result<Published> {
        let text = fs::read_to_string(path).map_err(in_file(path))?;
        let name = stem(path);
        let format = |source| Error::Format {
            name: name.clone(),
            source,
        };
        let mut value: Value = serde_json::from_str(&text).map_err(format)?;
        // The program's own command line has paths of the machine. `command` is enough to measure
        // again.
        if let Some(fields) = value.as_object_mut() {
            fields.remove("bench_command");
        }
        Published::parse(&name, &value.to_string())
    }

    /// Returns the text of the published file.
    ///
    /// # Errors
    ///
    /// Fails if a figure is not a number, because JSON cannot hold it.
    pub fn text(&self) -> Result<String> {
        let format = |source| Error::Format {
            name: self.name.clone(),
            source,
        };
        let value = self.measured.json().map_err(format)?;
        Ok(serde_json::to_string_pretty(&value).map_err(format)? + "\n")
    }

    pub fn origin(&self) -> Origin<'_> {
        match &self.measured {
            Measured::Bench(results) => Origin {
                command: &results.command,
                date: &results.date,
                commit: results.commit.as_deref().unwrap_or_default(),
                // Without a host that the command named, the benchmark ran on the machine itself.
                cpu: (results.host_cpu_model.as_deref()).unwrap_or(&results.cpu_model),
                kernel: &results.kernel,
                cpus: results.cpus,
            },
            Measured::Native(results) => Origin {
                command: &results.command,
                date: &results.date,
                commit: results.commit.as_deref().unwrap_or_default(),
                cpu: &results.machine.cpu_model,
                kernel: &results.kernel,
                cpus: results.cpus,
            },
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err("its name is not of a-z, 0-9 and '-'".into());
        }
        if let Some(failure) = self.measured.failures().first() {
            return Err(format!("the benchmark failed: {failure}"));
        }
        let bad_bytes = self.measured.bad_bytes();
        if bad_bytes.is_empty() {
            return Err("it has no run".into());
        }
        if bad_bytes.iter().any(|&bytes| bytes > 0) {
            return Err("bytes were bad".into());
        }
        let origin = self.origin();
        for (field, value) in [
            ("command", origin.command),
            ("date", origin.date),
            ("commit", origin.commit),
            ("CPU model", origin.cpu),
            ("kernel", origin.kernel),
        ] {
            if value.trim().is_empty() {
                return Err(format!(
                    "it has no {field}; measure again with this tree's scripts"
                ));
            }
            if value.contains(|c: char| c.is_control() || c == '`' || c == '|') {
                return Err(format!("its {field} does not fit into a table: {value:?}"));
            }
        }
        if let Measured::Bench(results) = &self.measured {
            if results.accel == "tcg" && results.host_cpu_model.is_none() {
                return Err("a guest's results need the CPU of the machine that ran it".into());
            }
        }
        let value = self.measured.json().map_err(|error| error.to_string())?;
        match path_of_machine(&value) {
            Some(text) => Err(format!("a path of a machine is in it: {text:?}")),
            None => Ok(()),
        }
    }
}

/// Returns the name of a result file.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into()
}

/// Returns a text, in whichever field, that has an absolute path in it.
fn path_of_machine(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => {
            let absolute = text.match_indices('/').any(|(at, _)| {
                let before = text[..at].chars().next_back();
                let after = text[at + 1..].chars().next();
                before.is_none_or(|c| c.is_whitespace() || "=:,'\"~".contains(c))
                    && after.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.')
            });
            absolute.then_some(text)
        }
        Value::Array(values) => values.iter().find_map(path_of_machine),
        Value::Object(fields) => fields.values().find_map(path_of_machine),
        _ => None,
    }
}

/// Reads the published files of a folder, by name. No folder has no files.
///
/// # Errors
///
/// Fails if [`Published::parse()`] refuses a file, or if a file cannot be read.
pub fn read_all(folder: &Path) -> Result<Vec<Published>> {
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let mut paths = vec![];
    for entry in fs::read_dir(folder).map_err(in_file(folder))? {
        let path = entry.map_err(in_file(folder))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    (paths.iter())
        .map(|path| {
            let text = fs::read_to_string(path).map_err(in_file(path))?;
            Published::parse(&stem(path), &text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use serde_json::json;

    /// Returns the refusal of results in which one field is another.
    fn refusal(mut value: Value, field: &str, other: Value) -> String {
        value[field] = other;
        match Published::parse("sample", &value.to_string()) {
            Ok(_) => panic!("{field} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn good_results_are_taken_and_written_alike() {
        for value in [samples::bench(), samples::native()] {
            let published = Published::parse("sample", &value.to_string()).unwrap();
            let text = published.text().unwrap();
            assert_eq!(Published::parse("sample", &text).unwrap(), published);
        }
    }

    #[test]
    fn results_without_an_origin_are_refused() {
        for value in [samples::bench(), samples::native()] {
            for field in ["command", "date", "kernel"] {
                assert!(refusal(value.clone(), field, json!("")).contains(field));
            }
            assert!(refusal(value.clone(), "commit", Value::Null).contains("no commit"));
            assert!(refusal(value, "command", json!("a `b`")).contains("does not fit"));
        }
        let mut native = samples::native();
        native["machine"]["cpu_model"] = json!("");
        assert!(refusal(native, "rounds", json!(9)).contains("no CPU model"));
        let bench = samples::bench();
        assert!(refusal(bench, "host_cpu_model", Value::Null).contains("machine that ran it"));
    }

    #[test]
    fn a_benchmark_on_the_machine_itself_has_one_cpu() {
        let mut bench = samples::bench();
        bench["accel"] = json!("none");
        bench["host_cpu_model"] = Value::Null;
        assert!(Published::parse("sample", &bench.to_string()).is_ok());
        assert!(refusal(bench, "cpu_model", json!("")).contains("no CPU model"));
    }

    #[test]
    fn failed_results_are_refused() {
        let failed = json!(["4K cpu: something"]);
        for value in [samples::bench(), samples::native()] {
            assert!(refusal(value.clone(), "failures", failed.clone()).contains("something"));
            assert!(refusal(value.clone(), "runs", json!([])).contains("no run"));
            let mut bad = value.clone();
            bad["runs"][0]["bad_bytes"] = json!(1);
            assert!(refusal(bad, "wall_s", json!(2.0)).contains("bytes were bad"));
        }
        assert!(Published::parse("sample", "{}").is_err());
        for name in ["", "Bench", "a_b", "a.b"] {
            assert!(Published::parse(name, &samples::bench().to_string()).is_err());
        }
    }

    #[test]
    fn paths_of_a_machine_are_refused() {
        for command in [
            "scripts/demo --kernel /mnt/bzImage",
            "/usr/bin/ferry_bench",
            "scripts/demo --kernel=/boot/vmlinuz",
            "scripts/demo --kernel ~/linux",
        ] {
            let text = refusal(samples::bench(), "command", json!(command));
            assert!(text.contains("path of a machine"), "{text}");
        }
        let knobs = json!({"a_knob": "/dev/x"});
        assert!(refusal(samples::bench(), "knobs", knobs).contains("/dev/x"));
        let relative = json!("scripts/demo --kernel build/kernel-base/bzImage -- --rounds 5");
        let mut bench = samples::bench();
        bench["command"] = relative;
        assert!(Published::parse("sample", &bench.to_string()).is_ok());
    }

    #[test]
    fn a_file_of_the_benchmark_loses_its_own_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.json");
        let mut value = samples::bench();
        value["bench_command"] = json!("/somewhere/ferry_bench --json /somewhere/bench.json");
        fs::write(&path, value.to_string()).unwrap();
        assert!(Published::parse("bench", &value.to_string()).is_err());
        let published = Published::take(&path).unwrap();
        assert!(!published.text().unwrap().contains("somewhere"));
        fs::write(&path, published.text().unwrap()).unwrap();
        fs::write(folder.path().join("another.txt"), "no JSON").unwrap();
        assert_eq!(read_all(folder.path()).unwrap(), [published]);
        assert_eq!(read_all(&folder.path().join("none")).unwrap(), []);
    }
}
