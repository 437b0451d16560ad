// SPDX-License-Identifier: GPL-2.0

//! Publishes results: takes files of the benchmarks into Documentation/results, and writes the
//! tables of Documentation/results.rst and the lines of README.md from the files there.

#![deny(unsafe_code)]

mod document;
mod error;
mod published;
mod readme;
#[cfg(test)]
mod samples;

use clap::{Parser, Subcommand};
use error::{in_file, Error, Result};
use ferry_results::native::count;
use published::{read_all, Published};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Publishes results of ferry_bench and ferry_native in the documents.
#[derive(Parser, Debug)]
struct Args {
    /// Root of the tree.
    #[arg(long, default_value = ".")]
    top: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Takes result files into Documentation/results, without paths of the machine.
    Take {
        /// The results (JSON). The name of each file becomes a title in the document.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Writes results.rst and the lines of README.md from the files in Documentation/results.
    Write {
        /// Writes nothing, and fails if a document is not what the files give.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.action {
        Action::Take { files } => take(&args.top, files),
        Action::Write { check } => write(&args.top, *check),
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ferry_publish: {error}");
            ExitCode::FAILURE
        }
    }
}

fn results_of(top: &Path) -> PathBuf {
    top.join("Documentation/results")
}

/// Takes the files: all of them or none.
fn take(top: &Path, files: &[PathBuf]) -> Result<String> {
    let folder = results_of(top);
    let taken: Vec<Published> = (files.iter())
        .map(|path| Published::take(path))
        .collect::<Result<_>>()?;
    let texts: Vec<String> = taken.iter().map(Published::text).collect::<Result<_>>()?;
    fs::create_dir_all(&folder).map_err(in_file(&folder))?;
    for (published, text) in taken.iter().zip(texts) {
        let path = folder.join(format!("{}.json", published.name));
        fs::write(&path, text).map_err(in_file(&path))?;
    }
    Ok(format!("took {}", count(taken.len() as u32, "result file")))
}

/// Returns the first line in which a document differs from the generated text, with its number.
fn first_difference(is: &str, has_to_be: &str) -> String {
    let (is, has_to_be): (Vec<_>, Vec<_>) = (is.lines().collect(), has_to_be.lines().collect());
    let number = (is.iter().zip(&has_to_be))
        .take_while(|(a, b)| a == b)
        .count();
    let line = |lines: &[&str]| {
        lines
            .get(number)
            .map_or("nothing".into(), |l| format!("'{l}'"))
    };
    format!(
        "line {} has {} where the result files give {}; run scripts/results",
        number + 1,
        line(&is),
        line(&has_to_be)
    )
}

fn write(top: &Path, check: bool) -> Result<String> {
    let published = read_all(&results_of(top))?;
    let figures = top.join("Documentation/figures");
    for figure in published.iter().flat_map(document::figures) {
        let path = figures.join(figure);
        if !path.is_file() {
            let reason = "no such figure; run scripts/results with the name of its results".into();
            return Err(Error::Document { path, reason });
        }
    }
    type Update = fn(&str, &[Published]) -> std::result::Result<String, String>;
    let documents: [(&str, Update); 2] = [
        ("Documentation/results.rst", document::with_sections),
        ("README.md", readme::with_lines),
    ];
    // Both are made before one is written.
    let mut changed = vec![];
    for (name, update) in documents {
        let path = top.join(name);
        let is = fs::read_to_string(&path).map_err(in_file(&path))?;
        let wrong = |reason| Error::Document {
            path: name.into(),
            reason,
        };
        let has_to_be = update(&is, &published).map_err(wrong)?;
        if is == has_to_be {
            continue;
        }
        if check {
            return Err(wrong(first_difference(&is, &has_to_be)));
        }
        changed.push((path, has_to_be));
    }
    for (path, text) in changed {
        fs::write(&path, text).map_err(in_file(&path))?;
    }
    let files = count(published.len() as u32, "result file");
    Ok(format!(
        "results.rst and README.md have the figures of {files}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{BEGIN, END};

    /// Returns a tree with documents and a file of each benchmark.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let put = |name: &str, text: &str| {
            let path = top.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(
            "Documentation/results.rst",
            &format!("Results\n\n{BEGIN}\nold\n\n{END}\nRest\n"),
        );
        put(
            "README.md",
            "| 512 x 4K, mover and one worker | 1 | old |\n| 1 x 2M, mover and one worker | 2 | old |\n\
             | 4K, `cpu` | 3 | old |\n| 2M, `cpu` | 4 | old |\n| 2M, `ptdma` | 5 | old |\n\
             | 4K, module loaded, `off` | 6 | old |\n",
        );
        put("build/results/bench.json", &samples::bench().to_string());
        put("build/results/native.json", &samples::native().to_string());
        for figure in [
            "bench-sizes",
            "bench-engines",
            "native-size",
            "native-workers",
            "native-latency",
        ] {
            put(&format!("Documentation/figures/{figure}.svg"), "");
        }
        dir
    }

    fn files(top: &Path) -> Vec<PathBuf> {
        ["bench", "native"]
            .map(|name| top.join(format!("build/results/{name}.json")))
            .to_vec()
    }

    #[test]
    fn a_document_that_was_edited_by_hand_is_found() {
        let dir = tree();
        let top = dir.path();
        take(top, &files(top)).unwrap();
        let error = write(top, true).unwrap_err().to_string();
        assert!(error.contains("Documentation/results.rst: line"), "{error}");
        assert!(write(top, false).unwrap().contains("2 result files"));
        write(top, true).unwrap();
        for (name, from, to) in [
            ("Documentation/results.rst", "1.25", "1.52"),
            ("Documentation/results.rst", "Some CPU", "Another CPU"),
            ("README.md", "1.75", "1.76"),
        ] {
            let path = top.join(name);
            let good = fs::read_to_string(&path).unwrap();
            fs::write(&path, good.replacen(from, to, 1)).unwrap();
            let error = write(top, true).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(to), "{error}");
            assert!(error.ends_with("run scripts/results"), "{error}");
            fs::write(&path, good).unwrap();
        }
        // The text outside the comments is written by hand, so it may change.
        let path = top.join("Documentation/results.rst");
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("Rest", "Another rest");
        fs::write(&path, text).unwrap();
        write(top, true).unwrap();
    }

    #[test]
    fn a_changed_result_file_is_found() {
        let dir = tree();
        let top = dir.path();
        take(top, &files(top)).unwrap();
        write(top, false).unwrap();
        let path = results_of(top).join("bench.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("\"ratio_to_off\": 1.25", "\"ratio_to_off\": 1.5"),
        )
        .unwrap();
        assert!(write(top, true).is_err());
        fs::remove_file(&path).unwrap();
        assert!(write(top, true).is_err(), "a file that is gone");
    }

    #[test]
    fn files_are_taken_all_or_none() {
        let dir = tree();
        let top = dir.path();
        let mut files = files(top);
        files.push(top.join("build/results/none.json"));
        assert!(take(top, &files).is_err());
        assert!(!results_of(top).exists());
    }

    #[test]
    fn a_missing_figure_is_an_error() {
        let dir = tree();
        let top = dir.path();
        take(top, &files(top)).unwrap();
        let figure = "Documentation/figures/native-latency.svg";
        fs::remove_file(top.join(figure)).unwrap();
        assert!(write(top, false).unwrap_err().to_string().contains(figure));
    }
}
