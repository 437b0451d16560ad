// SPDX-License-Identifier: GPL-2.0

//! Draws the results of the native benchmark: speed by folio size, speed by workers, and latency by
//! the limit of a batch; two panels each.

use crate::common::distinct;
use crate::panel::{self, Panel, Series, Words};
use ferry_results::native::{How, Native, Routine, Run};
use ferry_results::size_name;

const LARGEST: u64 = 2 << 20;
const SMALLEST: u64 = 4 << 10;

/// Returns the plots, each with the word that its file's name has beside that of the results.
pub fn draw(results: &Native) -> panel::Result<Vec<(&'static str, String)>> {
    let plots = [
        ("size", "Copying of folios, by folio size", by_size(results)),
        (
            "workers",
            "Copying of folios, by workers",
            by_workers(results),
        ),
        (
            "latency",
            "Latency of a folio, by the limit of a batch",
            by_batch(results),
        ),
    ];
    (plots.into_iter())
        .map(|(name, title, panels)| {
            let words = Words {
                title: title.into(),
                heading: heading(results),
                foot: foot(results),
            };
            Ok((name, panel::draw(&words, &panels)?))
        })
        .collect()
}

fn speed(run: &Run) -> [f64; 3] {
    let speed = run.gib_per_s;
    [speed.min, speed.median, speed.max]
}

fn where_cold(warm: bool) -> &'static str {
    if warm {
        "warm: the same 2M again and again"
    } else {
        "cold: more than the caches hold"
    }
}

fn speeds(results: &Native) -> impl Iterator<Item = &Run> + Clone {
    (results.runs.iter()).filter(|run| {
        !run.config.latency && !run.config.busy && run.config.routine == Routine::Movsb
    })
}

fn by_size(results: &Native) -> Vec<Panel> {
    let most = speeds(results).map(|run| run.config.workers).max();
    let mut sizes = distinct(speeds(results).map(|run| run.config.folio_bytes));
    sizes.sort_unstable();
    let panel = |warm: bool| {
        let runs = speeds(results).filter(move |run| run.config.warm == warm);
        let shown = |run: &&Run| {
            let c = &run.config;
            c.how != How::Now && (c.workers == 0 || Some(c.workers) == most)
        };
        let names = distinct(runs.clone().filter(shown).map(|run| run.config.label()));
        let series = names.into_iter().map(|name| Series {
            points: (sizes.iter())
                .map(|&size| {
                    (runs.clone())
                        .find(|r| r.config.folio_bytes == size && r.config.label() == name)
                        .map(speed)
                })
                .collect(),
            name,
        });
        Panel {
            title: where_cold(warm).into(),
            labels: sizes.iter().map(|&size| size_name(size)).collect(),
            label_desc: "folio size",
            value_desc: "GiB/s",
            logarithmic: false,
            series: series.collect(),
        }
    };
    vec![panel(false), panel(true)]
}

fn by_workers(results: &Native) -> Vec<Panel> {
    let mut workers = distinct(speeds(results).map(|run| run.config.workers));
    workers.sort_unstable();
    let panel = |size: u64| {
        let of = |how: How, warm: bool, workers: Option<u32>| {
            speeds(results).find(|run| {
                let c = &run.config;
                (c.how, c.warm, c.folio_bytes) == (how, warm, size)
                    && workers.is_none_or(|w| c.workers == w)
            })
        };
        let mut series = vec![];
        for warm in [false, true] {
            let where_ = if warm { "warm" } else { "cold" };
            for (how, name) in [
                (How::Stock, "stock loop"),
                (How::Early, "mover and workers"),
                (How::Limit, "limit of as many threads"),
            ] {
                series.push(Series {
                    name: format!("{name}, {where_}"),
                    points: (workers.iter())
                        .map(|&w| of(how, warm, (how != How::Stock).then_some(w)).map(speed))
                        .collect(),
                });
            }
        }
        Panel {
            title: format!("folios of {}", size_name(size)),
            labels: workers.iter().map(u32::to_string).collect(),
            label_desc: "workers besides the mover",
            value_desc: "GiB/s",
            logarithmic: false,
            series,
        }
    };
    vec![panel(SMALLEST), panel(LARGEST)]
}

fn by_batch(results: &Native) -> Vec<Panel> {
    let panel = |size: u64| {
        let runs = (results.runs.iter()).filter(move |run| {
            run.config.latency
                && run.config.folio_bytes == size
                && run.config.routine == Routine::Movsb
        });
        let most = runs.clone().map(|run| run.config.workers).max();
        let mut batches = distinct(runs.clone().map(|run| run.config.batch_folios));
        batches.sort_unstable();
        let mut series = vec![];
        for (how, name) in [(How::Stock, "stock"), (How::Early, "Ferry")] {
            let value = |which: fn(&Run) -> Option<f64>| {
                (batches.iter())
                    .map(|&batch| {
                        let run = runs.clone().find(|run| {
                            let c = &run.config;
                            c.how == how
                                && c.batch_folios == batch
                                && (how == How::Stock || Some(c.workers) == most)
                        })?;
                        which(run).map(|value| [value; 3])
                    })
                    .collect()
            };
            series.extend([
                Series {
                    name: format!("{name}: first folio (p50)"),
                    points: value(|run| run.first_us.map(|q| q.p50)),
                },
                Series {
                    name: format!("{name}: a folio's turn (p99)"),
                    points: value(|run| run.turn_us.map(|q| q.p99)),
                },
                Series {
                    name: format!("{name}: last folio (p50)"),
                    points: value(|run| run.batch_us.map(|q| q.p50)),
                },
            ]);
        }
        Panel {
            title: format!("folios of {}, {}", size_name(size), where_cold(false)),
            labels: batches.iter().map(u64::to_string).collect(),
            label_desc: "folios in a batch",
            value_desc: "µs",
            logarithmic: true,
            series,
        }
    };
    vec![panel(SMALLEST), panel(LARGEST)]
}

fn heading(results: &Native) -> String {
    let machine = &results.machine;
    let guest = if machine.hypervisor {
        ", a virtual machine"
    } else {
        ""
    };
    format!(
        "{}, {} CPUs{guest}   ·   Linux {} as a process with {} CPUs   ·   load {:.1} to {:.1}   ·   {}",
        machine.cpu_model,
        machine.cpus,
        results.kernel,
        results.cpus,
        machine.load_begin,
        machine.load_end,
        results.date
    )
}

fn foot(results: &Native) -> String {
    let bad: u64 = results.runs.iter().map(|run| run.bad_bytes).sum();
    format!(
        "Median, smallest and largest of {} rounds that took turns. No pages are mapped: copying alone, \
         not migration. Bad bytes: {bad}.",
        results.rounds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Native {
        let range = r#"{"min":1.0,"median":2.5,"max":3.0}"#;
        let latency = r#"{"p50":1.0,"p99":2.0}"#;
        let run = |how: &str, folio: u64, batch: u64, workers: u32, warm: bool, timed: bool| {
            let latency = if timed { latency } else { "null" };
            format!(
                r#"{{"how":"{how}","folio_bytes":{folio},"batch_folios":{batch},"workers":{workers},
                "routine":"movsb","warm":{warm},"latency":{timed},"total_bytes":1,"gib_per_s":{range},
                "samples":[2.5],"noise":0.1,"ratio_to_stock":null,"batch_ratio_to_stock":null,"quiet_ratio_to_stock":null,"ratio_to_limit":null,"quiet_ratio_to_limit":null,
                "first_us":{latency},"turn_us":{latency},"batch_us":{latency},
                "settled_share":1.0,"failed":0,"bad_bytes":7}}"#
            )
        };
        let mut runs = vec![];
        for (folio, batch) in [(SMALLEST, 512), (LARGEST, 1)] {
            for warm in [false, true] {
                runs.push(run("stock", folio, batch, 0, warm, false));
                runs.push(run("early", folio, batch, 1, warm, false));
                runs.push(run("limit", folio, batch, 1, warm, false));
            }
            runs.push(run("stock", folio, batch, 0, false, true));
            runs.push(run("early", folio, batch, 1, false, true));
        }
        serde_json::from_str(&format!(
            r#"{{"benchmark":"native","machine":{{"cpu_model":"Some CPU","cpus":2,"kernel":"k",
            "llc_bytes":1,"hypervisor":true,"load_begin":0.5,"load_end":1.5,"steal":0.0}},
            "kernel":"7.3.4","cpus":2,"date":"2026-01-31T12:00:00Z","command":"c","rounds":9,
            "set_bytes":1,"wall_s":1.0,"runs":[{}],"failures":[]}}"#,
            runs.join(",")
        ))
        .unwrap()
    }

    #[test]
    fn plots_say_what_was_measured() {
        let plots = draw(&results()).unwrap();
        let names: Vec<_> = plots.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["size", "workers", "latency"]);
        for (name, svg) in &plots {
            for part in [
                "Some CPU",
                "a virtual machine",
                "7.3.4",
                "load 0.5 to 1.5",
                "Bad bytes: 112",
            ] {
                assert!(svg.contains(part), "{part} is not in {name}");
            }
        }
        assert!(plots[0].1.contains("early, 1 worker"));
        assert!(plots[1].1.contains("limit of as many threads, warm"));
        assert!(plots[2].1.contains("Ferry: last folio (p50)"));
    }
}
