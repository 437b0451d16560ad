// SPDX-License-Identifier: GPL-2.0

//! The lines of results in README.md. A line without a published run stays as it is.

use crate::document::guest;
use crate::published::{Measured, Origin, Published};
use ferry_results::bench_tables::ratio;
use ferry_results::native::{Config, How, Native, Routine};
use ferry_results::{engine, Part, Results, Run, UNLOADED};

const SMALL: u64 = 4 << 10;
const LARGE: u64 = 2 << 20;

/// A ratio and the conditions that it was measured in.
type Figure = (String, String);

/// The lines by their first cell, with what finds their figure in a result file.
type Find = fn(&Measured, &Origin<'_>) -> Option<Figure>;
const LINES: [(&str, Find); 6] = [
    ("512 x 4K, mover and one worker", |m, o| native(m, o, SMALL)),
    ("1 x 2M, mover and one worker", |m, o| native(m, o, LARGE)),
    ("4K, `cpu`", |m, o| cpu(m, o, SMALL)),
    ("2M, `cpu`", |m, o| cpu(m, o, LARGE)),
    ("2M, `ptdma`", ptdma),
    ("4K, module loaded, `off`", unselected),
];

/// Returns the text with the newest published figure in each of the lines.
///
/// # Errors
///
/// Returns the reason if a line is not there, or there twice.
pub fn with_lines(text: &str, published: &[Published]) -> Result<String, String> {
    let mut newest: Vec<&Published> = published.iter().collect();
    newest.sort_by_key(|one| std::cmp::Reverse(one.origin().date));
    let mut lines: Vec<String> = text.split('\n').map(String::from).collect();
    for (key, find) in LINES {
        let begin = format!("| {key} |");
        let mut found = lines.iter_mut().filter(|line| line.starts_with(&begin));
        let (Some(line), None) = (found.next(), found.next()) else {
            return Err(format!("not one line begins with '{begin}'"));
        };
        let figure = newest
            .iter()
            .find_map(|one| find(&one.measured, &one.origin()));
        if let Some((value, conditions)) = figure {
            *line = format!("{begin} {value} | {conditions} |");
        }
    }
    Ok(lines.join("\n"))
}

fn of_native(measured: &Measured) -> Option<&Native> {
    match measured {
        Measured::Native(results) => Some(results),
        Measured::Bench(_) => None,
    }
}

fn of_bench(measured: &Measured) -> Option<&Results> {
    match measured {
        Measured::Bench(results) => Some(results),
        Measured::Native(_) => None,
    }
}

fn native(measured: &Measured, origin: &Origin<'_>, folio_bytes: u64) -> Option<Figure> {
    let run = of_native(measured)?.runs.iter().find(|run| {
        let wanted = Config {
            how: How::Early,
            folio_bytes,
            batch_folios: LARGE / folio_bytes,
            workers: 1,
            routine: Routine::Movsb,
            warm: false,
            latency: false,
            busy: false,
        };
        run.config == wanted
    })?;
    let conditions = format!(
        "copying alone, Linux as a process on {} CPUs of {}, cold memory",
        origin.cpus, origin.cpu
    );
    Some((format!("{:.2}", run.ratio_to_stock?), conditions))
}

/// Returns the figure of a run of the benchmark, with the machine and what else is to be known.
fn of_run(results: &Results, origin: &Origin<'_>, run: &Run, more: &str) -> Figure {
    let conditions = format!(
        "{} on {} CPUs of {}{more}, noise {:.0} %",
        guest(&results.accel),
        origin.cpus,
        origin.cpu,
        run.noise_of_off * 100.0
    );
    (ratio(run), conditions)
}

fn cpu(measured: &Measured, origin: &Origin<'_>, folio_bytes: u64) -> Option<Figure> {
    let results = of_bench(measured)?;
    let run = results.runs.iter().find(|run| {
        run.migrator == "cpu"
            && run.folio_bytes == folio_bytes
            && matches!(run.part, None | Some(Part::Sizes))
            && run.workers.is_none()
            && run.busy_work.is_none()
    })?;
    Some(of_run(results, origin, run, ""))
}

fn ptdma(measured: &Measured, origin: &Origin<'_>) -> Option<Figure> {
    let results = of_bench(measured)?;
    let wanted = |run: &&Run| {
        run.migrator == "ptdma"
            && run.folio_bytes == LARGE
            && run.part == Some(Part::Engines)
            && run.batch_bytes.is_none()
    };
    let (run, engine) = (results.runs.iter().filter(wanted))
        .find_map(|run| Some((run, run.engine.as_ref().filter(|e| e.share != engine::ALL)?)))?;
    let more = match engine.model {
        Some(_) => ", against a model of the engine",
        None => "",
    };
    Some(of_run(results, origin, run, more))
}

/// Returns the speed with the module loaded and nothing selected over that without the module.
fn unselected(measured: &Measured, origin: &Origin<'_>) -> Option<Figure> {
    let results = of_bench(measured)?;
    let of = |migrator: &str| {
        (results.runs.iter()).find(|run| {
            run.migrator == migrator
                && run.folio_bytes == SMALL
                && matches!(run.part, None | Some(Part::Sizes))
                && run.busy_work.is_none()
        })
    };
    let (off, unloaded) = (of("off")?, of(UNLOADED)?);
    let conditions = format!(
        "{:.3} and {:.3} GiB/s in one boot, {} on {} CPUs of {}, noise {:.0} %",
        off.gib_per_s.median,
        unloaded.gib_per_s.median,
        guest(&results.accel),
        origin.cpus,
        origin.cpu,
        off.noise_of_off * 100.0
    );
    let ratio = off.gib_per_s.median / unloaded.gib_per_s.median;
    Some((format!("{ratio:.2}"), conditions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use serde_json::{json, Value};

    const README: &str = "# Ferry

| Ratio | Speed | Conditions |
|---|---|---|
| 512 x 4K, mover and one worker | 1 | old |
| 1 x 2M, mover and one worker | 2 | old |
| 4K, `cpu` | 3 | old |
| 2M, `cpu` | 4 | old |
| 2M, `ptdma` | 5 | old |
| 4K, module loaded, `off` | 6 | old |
";

    fn published(name: &str, value: Value) -> Published {
        Published::parse(name, &value.to_string()).unwrap()
    }

    #[test]
    fn a_line_without_a_published_run_stays() {
        assert_eq!(with_lines(README, &[]).unwrap(), README);
        let files = [
            published("bench", samples::bench()),
            published("native", samples::native()),
        ];
        let text = with_lines(README, &files).unwrap();
        assert_eq!(with_lines(&text, &files).unwrap(), text);
        let lines: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "| 512 x 4K, mover and one worker | 1 | old |",
                "| 1 x 2M, mover and one worker | 2.25 | copying alone, Linux as a process on 2 \
                 CPUs of Some CPU, cold memory |",
                "| 4K, `cpu` | 1.25 | a guest under TCG on 2 CPUs of Some CPU, noise 25 % |",
                "| 2M, `cpu` | 1.75 | a guest under TCG on 2 CPUs of Some CPU, noise 25 % |",
                "| 2M, `ptdma` | 1.50 | a guest under TCG on 2 CPUs of Some CPU, against a model \
                 of the engine, noise 25 % |",
                "| 4K, module loaded, `off` | 6 | old |",
            ]
        );
    }

    #[test]
    fn the_newest_file_gives_the_line() {
        let mut newer = samples::bench();
        newer["date"] = json!("2026-02-01T00:00:00Z");
        newer["runs"][1]["ratio_to_off"] = json!(1.5);
        let mut unloaded = newer["runs"][0].clone();
        unloaded["migrator"] = json!(UNLOADED);
        unloaded["gib_per_s"]["median"] = json!(0.4);
        newer["runs"].as_array_mut().unwrap().push(unloaded);
        let files = [published("a", newer), published("b", samples::bench())];
        let text = with_lines(README, &files).unwrap();
        assert!(text.contains("| 4K, `cpu` | 1.50 |"), "{text}");
        assert!(
            text.contains("| 4K, module loaded, `off` | 1.25 | 0.500 and 0.400 GiB/s in one boot"),
            "{text}"
        );
    }

    #[test]
    fn a_line_that_is_lost_is_an_error() {
        let without = README.replace("| 2M, `ptdma` | 5 | old |\n", "");
        assert!(with_lines(&without, &[]).unwrap_err().contains("ptdma"));
        let twice = format!("{README}| 2M, `cpu` | 4 | old |\n");
        assert!(with_lines(&twice, &[]).is_err());
    }
}
