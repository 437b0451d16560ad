// SPDX-License-Identifier: GPL-2.0

//! Draws the parts of the long benchmark in a virtual machine that have more to show than bars: by
//! number of workers, by the limit of a batch, on a busy machine, with engines, and by number of an
//! engine's channels.

use crate::common::{distinct, machine};
use crate::panel::{self, Panel, Series, Words};
use ferry_results::engine::{Cost, Engine, ALL};
use ferry_results::{size_name, Part, Range, Results, Run};

/// Returns the plots, each with the word that its file's name has beside that of the results.
pub fn draw(results: &Results) -> panel::Result<Vec<(&'static str, String)>> {
    let mut drawn = vec![];
    for (part, title, panels) in [
        (
            Part::Workers,
            "Page migration between two NUMA nodes, by number of workers",
            by_workers as fn(&[&Run]) -> Vec<Panel>,
        ),
        (
            Part::Batch,
            "Page migration between two NUMA nodes, by the limit of a batch",
            by_limit,
        ),
        (
            Part::Busy,
            "Page migration on a busy machine: a spinning thread on each CPU",
            busy,
        ),
        (
            Part::Engines,
            "Page migration with engines, by folio size",
            engines,
        ),
        (
            Part::Channels,
            "Page migration by number of channels of an engine",
            channels,
        ),
    ] {
        let runs: Vec<&Run> = (results.runs.iter())
            .filter(|run| run.part == Some(part))
            .collect();
        if runs.is_empty() {
            continue;
        }
        let rounds = runs.iter().map(|run| run.rounds).min().unwrap_or(0);
        let bad: u64 = runs.iter().map(|run| run.bad_bytes).sum();
        let model = |run: &&Run| run.engine.as_ref().is_some_and(|e| e.model.is_some());
        let models = if runs.iter().any(model) {
            " Engines are models, not hardware."
        } else {
            ""
        };
        let words = Words {
            title: title.into(),
            heading: machine(results),
            foot: format!(
                "Median, smallest and largest of at least {rounds} rounds that took turns. Bad bytes: {bad}.{models}"
            ),
        };
        drawn.push((part.name(), panel::draw(&words, &panels(&runs))?));
    }
    Ok(drawn)
}

fn values(range: Range) -> [f64; 3] {
    [range.min, range.median, range.max]
}

/// Returns a panel for each folio size.
fn panels(runs: &[&Run], panel: impl Fn(u64, &[&Run]) -> Panel) -> Vec<Panel> {
    distinct(runs.iter().map(|run| run.folio_bytes))
        .into_iter()
        .map(|size| {
            let runs: Vec<&Run> = (runs.iter().copied())
                .filter(|run| run.folio_bytes == size)
                .collect();
            panel(size, &runs)
        })
        .collect()
}

/// Returns a series with the same value at each label, for a figure that no label changes.
fn level(name: String, value: Option<[f64; 3]>, labels: usize) -> Series {
    Series {
        name,
        points: vec![value; labels],
    }
}

fn by_workers(runs: &[&Run]) -> Vec<Panel> {
    panels(runs, |size, runs| {
        let mut counts = distinct(runs.iter().filter_map(|run| run.workers));
        counts.sort_unstable();
        let mut series = vec![];
        for migrator in distinct(runs.iter().map(|run| &run.migrator)) {
            let of = |workers| {
                let run = (runs.iter())
                    .find(|run| run.migrator == *migrator && run.workers == workers)?;
                Some(values(run.gib_per_s))
            };
            let counted: Vec<_> = counts.iter().map(|&count| of(Some(count))).collect();
            if counted.iter().any(Option::is_some) {
                series.push(Series {
                    name: format!("{migrator}, as many workers"),
                    points: counted,
                });
                let name = format!("{migrator}, by its own policy");
                series.push(level(name, of(None), counts.len()));
            } else {
                series.push(level(migrator.clone(), of(None), counts.len()));
            }
        }
        Panel {
            title: format!("folios of {}", size_name(size)),
            labels: counts.iter().map(u32::to_string).collect(),
            label_desc: "workers besides the mover",
            value_desc: "GiB/s",
            logarithmic: false,
            series,
        }
    })
}

/// Bytes of one batch that has reached its limit.
fn limit(run: &Run) -> Option<u64> {
    (run.batch_folios.map(|folios| folios * run.folio_bytes)).or(run.batch_bytes)
}

fn by_limit(runs: &[&Run]) -> Vec<Panel> {
    panels(runs, |size, runs| {
        let mut limits = distinct(runs.iter().filter_map(|run| limit(run)));
        limits.sort_unstable();
        let in_folios = runs.iter().any(|run| run.batch_folios.is_some());
        let mut series = vec![];
        type Value = fn(&Run) -> Option<[f64; 3]>;
        let shown: [(&str, Value); 3] = [
            ("the whole region", |run| {
                let us = run.total_bytes as f64 / f64::from(run.rounds.max(1) * 2) * 1e6;
                let of = |speed: f64| us / (speed * (1u64 << 30) as f64);
                let speed = run.gib_per_s;
                Some([of(speed.max), of(speed.median), of(speed.min)])
            }),
            ("first folio (p50)", |run| {
                run.first_folio_us.map(|q| [q.p50; 3])
            }),
            ("page unreachable (p50)", |run| {
                run.page_gap_us.map(|q| [q.p50; 3])
            }),
        ];
        for migrator in distinct(runs.iter().map(|run| &run.migrator)) {
            for (what, value) in shown {
                let mine = || runs.iter().filter(|run| run.migrator == *migrator);
                let name = format!("{migrator}: {what}");
                series.push(if mine().any(|run| limit(run).is_some()) {
                    Series {
                        name,
                        points: (limits.iter())
                            .map(|&bytes| {
                                mine()
                                    .find(|run| limit(run) == Some(bytes))
                                    .and_then(|run| value(run))
                            })
                            .collect(),
                    }
                } else {
                    level(name, mine().find_map(|run| value(run)), limits.len())
                });
            }
        }
        Panel {
            title: format!("folios of {}; off has the stock limit", size_name(size)),
            labels: (limits.iter())
                .map(|&bytes| {
                    if in_folios {
                        (bytes / size).to_string()
                    } else {
                        size_name(bytes)
                    }
                })
                .collect(),
            label_desc: if in_folios {
                "vm.ferry.batch_folios"
            } else {
                "vm.ferry.batch_bytes"
            },
            value_desc: "µs",
            logarithmic: true,
            series,
        }
    })
}

/// Returns both panels relative to the median of `off`, by folio size.
fn busy(runs: &[&Run]) -> Vec<Panel> {
    let sizes = distinct(runs.iter().map(|run| run.folio_bytes));
    let panel = |title: &str, value: fn(&Run) -> Option<[f64; 3]>| {
        let series = distinct(runs.iter().map(|run| &run.migrator))
            .into_iter()
            .map(|migrator| Series {
                name: migrator.clone(),
                points: (sizes.iter())
                    .map(|&size| {
                        let of = |migrator: &str| {
                            (runs.iter())
                                .find(|run| run.folio_bytes == size && run.migrator == migrator)
                                .and_then(|run| value(run))
                        };
                        let [_, off, _] = of("off")?;
                        of(migrator).map(|values| values.map(|value| value / off))
                    })
                    .collect(),
            });
        Panel {
            title: title.into(),
            labels: sizes.iter().map(|&size| size_name(size)).collect(),
            label_desc: "folio size",
            value_desc: "against the median of off",
            logarithmic: false,
            series: series.collect(),
        }
    };
    vec![
        panel("time of a move", |run| {
            let speed = run.gib_per_s;
            Some([1.0 / speed.max, 1.0 / speed.median, 1.0 / speed.min])
        }),
        panel("work of the spinning threads per second", |run| {
            run.busy_work.map(values)
        }),
    ]
}

/// Returns the label of a run with an engine.
fn engine_name(run: &Run, engine: &Engine) -> String {
    let all = if engine.share == ALL {
        ", all of it"
    } else {
        ""
    };
    match run.batch_bytes {
        Some(bytes) => format!("{}{all}, batches of {}", run.migrator, size_name(bytes)),
        None => format!("{}{all}", run.migrator),
    }
}

/// Returns the panels of speed, time and interrupts, by folio size.
fn engines(runs: &[&Run]) -> Vec<Panel> {
    let sizes = distinct(runs.iter().map(|run| run.folio_bytes));
    let name = |run: &Run| match &run.engine {
        Some(engine) => engine_name(run, engine),
        None => run.migrator.clone(),
    };
    let names = distinct(runs.iter().map(|run| name(run)));
    type Value = fn(&Run) -> Option<[f64; 3]>;
    let by_size = |wanted: &str, value: Value| Series {
        name: wanted.into(),
        points: (sizes.iter())
            .map(|&size| {
                let run = runs
                    .iter()
                    .find(|r| r.folio_bytes == size && name(r) == wanted);
                run.and_then(|run| value(run))
            })
            .collect(),
    };
    let panel = |title: &str, value_desc, logarithmic, series| Panel {
        title: title.into(),
        labels: sizes.iter().map(|&size| size_name(size)).collect(),
        label_desc: "folio size",
        value_desc,
        logarithmic,
        series,
    };
    // Batches of another size are another question.
    let usual = names.iter().filter(|wanted| {
        let limited = |run: &&&Run| run.batch_bytes.is_some() && name(run) == **wanted;
        !runs.iter().any(|run| limited(&run))
    });
    let usual: Vec<_> = usual.collect();
    let all = |value: Value| usual.iter().map(|name| by_size(name, value)).collect();
    // Bytes that are left to the CPU need nothing of an engine, and tell nothing of it.
    let whole = |run: &&&Run| run.engine.as_ref().is_some_and(|e| e.share == ALL);
    let interrupts = |cost: &Cost| cost.interrupts_per_mib.map(|n| [n; 3]);
    let mut needed = vec![Series {
        name: "a descriptor for each folio (computed)".into(),
        points: (sizes.iter())
            .map(|size| {
                let run = runs
                    .iter()
                    .filter(whole)
                    .find(|run| run.folio_bytes == *size)?;
                interrupts(&run.engine.as_ref()?.one_each)
            })
            .collect(),
    }];
    let named = distinct(runs.iter().filter(whole).map(|run| name(run)));
    needed.extend(named.iter().map(|name| {
        by_size(name, |run| {
            let cost = &run.engine.as_ref()?.cost;
            cost.interrupts_per_mib.map(|n| [n; 3])
        })
    }));
    vec![
        panel(
            "speed",
            "GiB/s",
            false,
            all(|run| Some(values(run.gib_per_s))),
        ),
        panel(
            "busy time of all CPUs",
            "s/GiB",
            true,
            all(|run| Some([run.busy_s_per_gib(); 3])),
        ),
        panel("interrupts", "per MiB", true, needed),
    ]
}

const LINEAR: &str = ": N times one channel";

/// Returns a panel for each folio size: the speed with more and more channels.
fn channels(runs: &[&Run]) -> Vec<Panel> {
    panels(runs, |size, runs| {
        let limited =
            |run: &&&Run| (run.engine.as_ref()).is_some_and(|e| e.limit_bytes_per_s.is_some());
        let any_limit = runs.iter().any(|run| limited(&run));
        let counted = |run: &&&Run| run.engine.is_some() && (!any_limit || limited(run));
        let held = |run: &&Run| run.engine.as_ref().map_or(0, |e| e.channels);
        let mut counts = distinct(runs.iter().filter(counted).map(held));
        counts.sort_unstable();
        let mut series = vec![];
        if let Some(off) = runs.iter().find(|run| run.migrator == "off") {
            series.push(level(
                "off".into(),
                Some(values(off.gib_per_s)),
                counts.len(),
            ));
        }
        let mut limit = None;
        for migrator in distinct(runs.iter().filter(counted).map(|run| &run.migrator)) {
            let mine = || runs.iter().filter(|run| run.migrator == *migrator);
            let of = |count: u32| mine().filter(counted).find(|run| held(run) == count);
            limit = limit.or(mine().find_map(|r| r.engine.as_ref()?.limit_bytes_per_s));
            series.push(Series {
                name: migrator.clone(),
                points: (counts.iter())
                    .map(|&count| of(count).map(|run| values(run.gib_per_s)))
                    .collect(),
            });
            let all = |run: &&Run| run.engine.as_ref().is_some_and(|e| e.share == ALL);
            if let Some(one) = of(1).filter(|run| all(run)) {
                series.push(Series {
                    name: format!("{migrator}{LINEAR}"),
                    points: (counts.iter())
                        .map(|&n| Some([one.gib_per_s.median * f64::from(n); 3]))
                        .collect(),
                });
            }
            if let Some(free) = mine().find(|run| !counted(run)) {
                let name = format!("{migrator}: one channel without a limit");
                series.push(level(name, Some(values(free.gib_per_s)), counts.len()));
            }
        }
        let each = limit.map_or(String::new(), |bytes| {
            format!("; {} a second and channel", size_name(bytes))
        });
        Panel {
            title: format!("folios of {}{each}", size_name(size)),
            labels: counts.iter().map(u32::to_string).collect(),
            label_desc: "channels",
            value_desc: "GiB/s",
            // With logarithmic axes, linear growth is a straight line.
            logarithmic: series.iter().any(|s| s.name.ends_with(LINEAR)),
            series,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(part: &str, migrator: &str, bytes: u64, more: &str) -> String {
        format!(
            r#"{{"migrator":"{migrator}","folio_bytes":{bytes},"total_bytes":1073741824,"gib_per_s":
            {{"min":0.5,"median":1.0,"max":2.0}},"ratio_to_off":1.0,"first_folio_us":{{"p50":1,"p99":2}},
            "sys_s":0,"user_s":0,"bad_bytes":3,"rounds":5,"part":"{part}"{more}}}"#
        )
    }

    fn results() -> Results {
        let mut runs = vec![];
        for size in [4096, 2 << 20] {
            runs.push(run("workers", "off", size, ""));
            runs.push(run("workers", "cpu", size, ""));
            runs.push(run("workers", "cpu", size, r#","workers":1"#));
            runs.push(run("batch", "off", size, ""));
            for migrator in ["off", "cpu"] {
                let more = r#","busy_work":{"min":90,"median":100,"max":110}"#;
                runs.push(run("busy", migrator, size, more));
            }
        }
        let engine = |share: &str, channels: u32, more: &str| {
            format!(
                r#","guest_busy_s":0.5,"engine":{{"share":"{share}","channels":{channels},"copied_share":1,
                "model":{{}},"cost":{{"descriptors_per_mib":1,"mappings_per_mib":2,"interrupts_per_mib":4}},
                "one_each":{{"descriptors_per_mib":1,"mappings_per_mib":2,"interrupts_per_mib":256}}{more}}}"#
            )
        };
        runs.push(run("engines", "off", 4096, ""));
        runs.push(run("engines", "ptdma", 4096, &engine("auto", 1, "")));
        runs.push(run("engines", "ptdma", 4096, &engine("all", 1, "")));
        let limited = r#","limit_bytes_per_s":16777216"#;
        runs.push(run("channels", "off", 4096, ""));
        runs.push(run("channels", "ae4dma", 4096, &engine("all", 1, "")));
        for channels in [1, 4] {
            let more = engine("all", channels, limited);
            runs.push(run("channels", "ae4dma", 4096, &more));
        }
        let page = r#","page_gap_us":{"p50":70,"p99":90}"#;
        let limit = format!(r#","batch_folios":4096,"batch_bytes":16777216{page}"#);
        runs.push(run("batch", "cpu", 4096, &limit));
        let limit = format!(r#","batch_bytes":67108864{page}"#);
        runs.push(run("batch", "cpu", 2 << 20, &limit));
        serde_json::from_str(&format!(
            r#"{{"kernel":"7.3.4","accel":"tcg","cpus":4,"host_cpus":2,"date":"2026-01-31T12:00:00Z",
            "command":"make bench","runs":[{}]}}"#,
            runs.join(",")
        ))
        .unwrap()
    }

    #[test]
    fn each_part_has_its_plot() {
        let plots = draw(&results()).unwrap();
        let names: Vec<_> = plots.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["workers", "batch", "busy", "engines", "channels"]);
        for (name, svg) in &plots {
            for part in ["7.3.4", "make bench", "4 virtual CPUs on 2", "Bad bytes"] {
                assert!(svg.contains(part), "{part} is not in {name}");
            }
        }
        assert!(plots[0].1.contains("cpu, by its own policy"));
        assert!(plots[1].1.contains("cpu: page unreachable (p50)"));
        assert!(plots[1].1.contains(">\n4096\n<") && plots[1].1.contains(">\n64M\n<"));
        assert!(plots[2].1.contains("work of the spinning threads"));
        assert!(plots[3].1.contains("ptdma, all of it"));
        assert!(plots[3]
            .1
            .contains("a descriptor for each folio (computed)"));
        assert!(plots[4].1.contains("N times one channel"));
        assert!(plots[4].1.contains("16M a second and channel"));
        assert!(plots[4].1.contains("Engines are models"));
    }

    #[test]
    fn channels_are_beside_what_would_be_linear() {
        let results = results();
        let runs: Vec<&Run> = (results.runs.iter())
            .filter(|run| run.part == Some(Part::Channels))
            .collect();
        let panels = channels(&runs);
        assert_eq!(panels[0].labels, ["1", "4"]);
        let names: Vec<_> = panels[0].series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names[1], "ae4dma");
        assert_eq!(panels[0].series[2].points[1], Some([4.0; 3]));
        assert!(names[3].contains("without a limit"));
    }

    #[test]
    fn interrupts_are_those_of_engines_that_have_all() {
        let results = results();
        let runs: Vec<&Run> = (results.runs.iter())
            .filter(|run| run.part == Some(Part::Engines))
            .collect();
        let panels = engines(&runs);
        assert_eq!(panels[0].series.len(), 3);
        assert_eq!(panels[1].series[1].points, [Some([0.5; 3])]);
        let interrupts: Vec<_> = panels[2].series.iter().map(|s| s.points[0]).collect();
        assert_eq!(interrupts, [Some([256.0; 3]), Some([4.0; 3])]);
    }

    #[test]
    fn busy_values_are_against_off() {
        let results = results();
        let runs: Vec<&Run> = results.runs.iter().collect();
        let busy = busy(&runs[4..6]);
        assert_eq!(busy[0].series[1].points, [Some([0.5, 1.0, 2.0])]);
        assert_eq!(busy[1].series[0].points, [Some([0.9, 1.0, 1.1])]);
    }
}
