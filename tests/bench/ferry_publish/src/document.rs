// SPDX-License-Identifier: GPL-2.0

//! The sections of Documentation/results.rst that result files give.

use crate::published::{Measured, Origin, Published};
use ferry_results::bench_tables::sections;
use ferry_results::native::Native;
use ferry_results::{native_tables, size_name, Part, Results};

/// The comment before the sections.
pub const BEGIN: &str =
    "..\n   Begin of what scripts/results writes from Documentation/results/NAME.json.\n";

/// The comment after the sections.
pub const END: &str = "..\n   End of what scripts/results writes.\n";

/// Most characters in a line of a paragraph.
const COLUMNS: usize = 90;

/// Least time of workers, in seconds, that a charge is compared with: below it the time is that
/// of reading the clocks.
const LEAST_WORK: f64 = 0.01;

/// Returns the document with the sections of these files between the two comments.
///
/// # Errors
///
/// Returns the reason if there is not one pair of comments.
pub fn with_sections(text: &str, published: &[Published]) -> Result<String, String> {
    let one = |comment: &str| match text.matches(comment).count() {
        1 => Ok(text.find(comment).unwrap_or_default()),
        count => Err(format!(
            "{count} in place of one of the comment {comment:?}"
        )),
    };
    let (begin, end) = (one(BEGIN)? + BEGIN.len(), one(END)?);
    if begin > end {
        return Err("the two comments are in the wrong order".into());
    }
    let mut sections = String::new();
    for one in published {
        sections += &section(one);
    }
    if published.is_empty() {
        sections += "\nNo result file is published.\n";
    }
    Ok(format!("{}{sections}\n{}", &text[..begin], &text[end..]))
}

/// Returns the plots that a published file has, by the file's name in Documentation/figures.
pub fn figures(published: &Published) -> Vec<String> {
    let name = &published.name;
    let words: Vec<&str> = match &published.measured {
        Measured::Native(_) => vec!["size", "workers", "latency"],
        Measured::Bench(results) => (Part::ALL.into_iter())
            .filter(|&part| results.runs.iter().any(|run| run.part == Some(part)))
            .map(Part::name)
            .collect(),
    };
    match words[..] {
        [] => vec![format!("{name}.svg")],
        _ => words
            .iter()
            .map(|word| format!("{name}-{word}.svg"))
            .collect(),
    }
}

fn section(published: &Published) -> String {
    let origin = published.origin();
    let (title, machine, tables) = match &published.measured {
        Measured::Native(results) => (
            "Copying alone",
            native_machine(results, &origin),
            native_tables(results, &origin),
        ),
        Measured::Bench(results) => (
            "Migration",
            bench_machine(results, &origin),
            bench_tables(results, &origin),
        ),
    };
    let title = format!("{title}: {}", published.name);
    let from = format!(
        "``{}``, {}, commit ``{}``: {machine} All bytes were checked, and none was bad.",
        origin.command, origin.date, origin.commit
    );
    let mut out = format!(
        "\n{title}\n{}\n\n{}",
        "=".repeat(title.len()),
        wrapped(&from)
    );
    out += &tables;
    for figure in figures(published) {
        out += &format!("\n.. image:: figures/{figure}\n   :alt: {title}, {figure}\n");
    }
    out
}

fn native_machine(results: &Native, origin: &Origin<'_>) -> String {
    let machine = &results.machine;
    let hypervisor = if machine.hypervisor {
        ", a virtual machine"
    } else {
        ""
    };
    format!(
        "Linux {} as a process with {} CPUs, on {}, {} CPUs{hypervisor}, Linux {}, load {:.1} at \
         the start and {:.1} at the end, {:.1} % of the CPUs' time stolen. The figures are medians \
         of {} rounds; ratios are to the same rounds of the stock loop.",
        escaped(origin.kernel),
        origin.cpus,
        escaped(origin.cpu),
        machine.cpus,
        escaped(&machine.kernel),
        machine.load_begin,
        machine.load_end,
        machine.steal * 100.0,
        results.rounds,
    )
}

/// Returns the words for the machine that a benchmark saw.
pub fn guest(accel: &str) -> String {
    match accel {
        "none" => "without a guest".into(),
        "tcg" | "kvm" => format!("a guest under {}", accel.to_uppercase()),
        other => format!("a guest under {}", escaped(other)),
    }
}

fn bench_machine(results: &Results, origin: &Origin<'_>) -> String {
    let mut text = format!(
        "Linux {} with {} CPUs, {}, on {}",
        escaped(origin.kernel),
        origin.cpus,
        guest(&results.accel),
        escaped(origin.cpu),
    );
    if let Some(cpus) = results.host_cpus {
        text += &format!(", {cpus} CPUs");
    }
    if let Some(kernel) = &results.host_kernel {
        text += &format!(", Linux {}", escaped(kernel));
    }
    if let Some(load) = results.host_load {
        text += &format!(", load {load:.1} at the start");
    }
    text += &format!(". One move is {}.", size_name(results.region_bytes));
    if let Some(overcommit) = results.overcommit() {
        text += &format!(" {overcommit}.");
    }
    let model = |run: &ferry_results::Run| run.engine.as_ref().is_some_and(|e| e.model.is_some());
    if results.runs.iter().any(model) {
        text += " Engines are models, processes beside QEMU on the same CPUs.";
    }
    text
}

/// Returns the end of the caption of each table: command, date and machine.
fn measured_by(origin: &Origin<'_>) -> String {
    let date = origin.date.split('T').next().unwrap_or_default();
    format!("``{}``, {date}, {}", origin.command, escaped(origin.cpu))
}

fn native_tables(results: &Native, origin: &Origin<'_>) -> String {
    (native_tables::tables(results).iter())
        .map(|(what, table)| table.rst(&format!("{what}: {}", measured_by(origin))))
        .collect()
}

fn bench_tables(results: &Results, origin: &Origin<'_>) -> String {
    let mut out = String::new();
    for section in sections(results) {
        let what = match section.part {
            Some(part) => format!("Part ``{}``", part.name()),
            None => "By folio size".into(),
        };
        let by = measured_by(origin);
        out += &section.speed.rst(&format!("{what}: {by}"));
        if let Some(costs) = section.costs {
            out += &costs.rst(&format!("What engines needed: {by}"));
        }
    }
    if let Some((low, high)) = charged(results) {
        out += "\n";
        out += &wrapped(&format!(
            "Of the workers' CPU time, {:.0} to {:.0} % was charged to the cgroup of the mover.",
            low * 100.0,
            high * 100.0
        ));
    }
    out
}

/// Returns the least and the largest share of the workers' time that the cgroup was charged for.
fn charged(results: &Results) -> Option<(f64, f64)> {
    let charges = results.runs.iter().filter_map(|run| run.charge);
    let shares = charges.filter(|charge| charge.workers_s > LEAST_WORK);
    let range = ferry_results::Range::of(
        &shares
            .map(|charge| charge.charged_s / charge.workers_s)
            .collect::<Vec<_>>(),
    )?;
    Some((range.min, range.max))
}

/// Returns a text in which no character begins markup.
fn escaped(text: &str) -> String {
    let markup = |c: char| matches!(c, '*' | '_' | '\\');
    text.chars().fold(String::new(), |mut out, c| {
        if markup(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// Returns a paragraph in lines of at most [`COLUMNS`] characters, where its words allow that.
fn wrapped(text: &str) -> String {
    let (mut out, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > COLUMNS {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out += word;
        width += length;
    }
    out + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use serde_json::{json, Value};

    fn published(name: &str, value: Value) -> Published {
        Published::parse(name, &value.to_string()).unwrap()
    }

    fn document(published: &[Published]) -> String {
        with_sections(&format!("Before\n\n{BEGIN}old\n{END}\nAfter\n"), published).unwrap()
    }

    #[test]
    fn only_what_is_between_the_comments_changes() {
        let empty = document(&[]);
        assert!(empty.starts_with(&format!("Before\n\n{BEGIN}")), "{empty}");
        assert!(empty.ends_with(&format!("{END}\nAfter\n")), "{empty}");
        assert!(!empty.contains("old") && empty.contains("No result file"));
        let full = document(&[published("bench", samples::bench())]);
        assert_eq!(with_sections(&full, &[]).unwrap(), empty);
        for wrong in [
            "nothing".to_string(),
            BEGIN.into(),
            format!("{END}{BEGIN}"),
            format!("{BEGIN}{BEGIN}{END}"),
        ] {
            assert!(with_sections(&wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_table_has_its_command_date_and_machine() {
        let text = document(&[
            published("bench", samples::bench()),
            published("native", samples::native()),
        ]);
        let captions: Vec<&str> = text
            .lines()
            .filter(|l| l.starts_with(".. table::"))
            .collect();
        assert!(captions.len() >= 4, "{text}");
        for caption in captions {
            assert!(
                caption
                    .ends_with(": ``scripts/bench --parts sizes,engines``, 2026-01-31, Some CPU")
                    || caption
                        .ends_with(": ``scripts/bench-native rounds=9``, 2026-01-30, Some CPU"),
                "{caption}"
            );
        }
    }

    #[test]
    fn a_section_tells_what_was_measured() {
        let text = document(&[published("bench", samples::bench())]);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Migration: bench ================ ``scripts/bench --parts sizes,engines``, \
             2026-01-31T12:00:00Z, commit ``0123abcd4567``: Linux 7.3.4 with 2 CPUs, a guest under \
             TCG, on Some CPU, 2 CPUs, Linux 6.1.0, load 0.5 at the start. One move is 128M. \
             Engines are models,",
            "4K cpu 0.625 0.312-1.250 1.25",
            "2M ptdma 0.750 0.375-1.500 1.50",
            "2M one each (computed) 0.50 1.00",
            "75 to 75 % was charged",
            ".. image:: figures/bench-sizes.svg",
            ".. image:: figures/bench-engines.svg",
        ] {
            assert!(words.contains(part), "{part} is not in\n{text}");
        }
        let text = document(&[published("native", samples::native())]);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Copying alone: native ===================== ``scripts/bench-native rounds=9``, \
             2026-01-30T12:00:00Z, commit ``89ab89ab89ab``: Linux 7.3.4 as a process with 2 CPUs, on \
             Some CPU, 4 CPUs, a virtual machine, Linux 6.1.0, load 0.5 at the start and 1.5 at the \
             end, 3.1 % of the CPUs' time stolen.",
            "1 x 2M 2.00 50 % 2.25",
            ".. image:: figures/native-workers.svg",
        ] {
            assert!(words.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_run_without_parts_has_one_figure() {
        let mut value = samples::bench();
        for run in value["runs"].as_array_mut().unwrap() {
            run["part"] = Value::Null;
        }
        value["cpus"] = json!(4);
        let demo = published("demo", value);
        assert_eq!(figures(&demo), ["demo.svg"]);
        let text = document(&[demo]);
        assert!(text.contains(".. table:: By folio size: "), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("4 virtual CPUs on 2: overcommitted"),
            "{text}"
        );
    }

    #[test]
    fn paragraphs_are_wrapped_and_markup_is_escaped() {
        let text = wrapped(&"word ".repeat(50));
        assert!(text.lines().all(|line| line.len() <= COLUMNS));
        assert_eq!(text.split_whitespace().count(), 50);
        assert_eq!(wrapped(&"x".repeat(200)), "x".repeat(200) + "\n");
        assert_eq!(escaped("a*b_ c"), "a\\*b\\_ c");
    }
}
