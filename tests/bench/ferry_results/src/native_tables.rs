// SPDX-License-Identifier: GPL-2.0

//! The tables of the native benchmark's results for the document; [`Native::table()`] is that for
//! the terminal, with every run.

use crate::native::{count, Config, How, Native, Routine, Run};
use crate::size_name;
use crate::table::{Table, NONE};

/// Returns the tables that have figures, each with its subject.
pub fn tables(results: &Native) -> Vec<(&'static str, Table)> {
    let all = [
        (
            "Copying of folios from cold memory, ratio to the stock loop",
            by_size(results, false),
        ),
        (
            "Copying of folios from warm memory, ratio to the stock loop",
            by_size(results, true),
        ),
        (
            "Copying with a thread of work on each CPU, ratio to the stock loop",
            busy(results),
        ),
        (
            "Copy routines, and the time to read memory after a batch",
            routines(results),
        ),
        ("Latency by the limit of a batch, in us", latency(results)),
    ];
    (all.into_iter())
        .filter(|(_, table)| !table.is_empty())
        .collect()
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or(NONE.into(), |ratio| format!("{ratio:.2}"))
}

fn micros(time: Option<f64>) -> String {
    time.map_or(NONE.into(), |us| format!("{us:.1}"))
}

fn batch(config: &Config) -> String {
    format!(
        "{} x {}",
        config.batch_folios,
        size_name(config.folio_bytes)
    )
}

/// Returns the numbers, smallest first, each once.
fn in_order<T: Ord>(numbers: impl Iterator<Item = T>) -> Vec<T> {
    let mut numbers: Vec<T> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Returns the title of a column for `workers` workers beside the mover.
fn helped(workers: u32) -> String {
    match workers {
        0 => "mover alone".into(),
        workers => format!("with {}", count(workers, "worker")),
    }
}

/// Returns the run that copies a stock batch of folios, without a time for each folio.
fn speed(results: &Native, config: Config) -> Option<&Run> {
    (results.runs.iter()).find(|run| {
        let batch_folios = run.config.batch_folios;
        run.config
            == Config {
                batch_folios,
                ..config
            }
    })
}

fn by_size(results: &Native, warm: bool) -> Table {
    let plain = |how, folio_bytes, workers| Config {
        how,
        folio_bytes,
        batch_folios: 0,
        workers,
        routine: Routine::Movsb,
        warm,
        latency: false,
        busy: false,
    };
    let sizes = in_order(results.runs.iter().map(|run| run.config.folio_bytes));
    let of = |how| (results.runs.iter()).filter(move |run| run.config.how == how);
    let workers = in_order(of(How::Early).map(|run| run.config.workers));
    let most = of(How::Limit).map(|run| run.config.workers).max();
    let mut titles = vec!["batch".into(), "stock GiB/s".into(), "noise".into()];
    titles.extend(workers.iter().map(|&workers| helped(workers)));
    titles.extend(most.map(|most| format!("limit of {}", count(most + 1, "thread"))));
    let mut table = Table::new(1, titles);
    for size in sizes {
        let Some(stock) = speed(results, plain(How::Stock, size, 0)) else {
            continue;
        };
        let to_stock = |how, workers| {
            ratio(speed(results, plain(how, size, workers)).and_then(|run| run.ratio_to_stock))
        };
        let mut line = vec![
            batch(&stock.config),
            format!("{:.2}", stock.gib_per_s.median),
            format!("{:.0} %", stock.noise * 100.0),
        ];
        line.extend((workers.iter()).map(|&workers| to_stock(How::Early, workers)));
        line.extend(most.map(|most| to_stock(How::Limit, most)));
        table.push(line);
    }
    table
}

fn busy(results: &Native) -> Table {
    let titles = ["batch", "copied by", "time", "others' work"];
    let mut table = Table::new(2, titles.map(String::from).to_vec());
    let runs = results
        .runs
        .iter()
        .filter(|run| run.config.busy && run.config.how == How::Early);
    for run in runs {
        table.push(vec![
            batch(&run.config),
            helped(run.config.workers),
            ratio(run.ratio_to_stock.map(|ratio| 1.0 / ratio)),
            run.work_ratio_to_stock
                .map_or(NONE.into(), |work| format!("{work:.3}")),
        ]);
    }
    table
}

/// Returns the batches that were copied with each routine.
fn routines(results: &Native) -> Table {
    let titles = [
        "batch",
        "copied by",
        "routine",
        "x stock",
        "read after us",
        "cached before us",
    ];
    let mut table = Table::new(3, titles.map(String::from).to_vec());
    let early = |run: &&Run| run.config.how == How::Early && !run.config.warm && run.config.latency;
    for run in results.runs.iter().filter(early) {
        let routine = |routine| Config {
            routine,
            ..run.config
        };
        let measured = |config| results.runs.iter().any(|other| other.config == config);
        if ![Routine::Movsb, Routine::Movnti]
            .map(routine)
            .into_iter()
            .all(measured)
        {
            continue;
        }
        table.push(vec![
            batch(&run.config),
            helped(run.config.workers),
            run.config.routine.name().into(),
            ratio(run.ratio_to_stock),
            micros(run.touch_us.map(|us| us.p50)),
            micros(run.neighbour_us.map(|us| us.p50)),
        ]);
    }
    table
}

/// Returns the latencies of the stock loop and of the mover with the most workers.
fn latency(results: &Native) -> Table {
    let titles = [
        "batch",
        "copied by",
        "first p50",
        "turn p50",
        "turn p99",
        "last p50",
    ];
    let mut table = Table::new(2, titles.map(String::from).to_vec());
    let timed = |run: &&Run| run.config.latency && run.config.routine == Routine::Movsb;
    let timed = || results.runs.iter().filter(timed);
    let most = timed().map(|run| run.config.workers).max();
    let mut runs: Vec<&Run> = timed()
        .filter(|run| run.config.how == How::Stock || Some(run.config.workers) == most)
        .collect();
    runs.sort_by_key(|run| (run.config.folio_bytes, run.config.batch_folios));
    for run in runs {
        table.push(vec![
            batch(&run.config),
            match run.config.how {
                How::Stock => How::Stock.name().into(),
                _ => helped(run.config.workers),
            },
            micros(run.first_us.map(|us| us.p50)),
            micros(run.turn_us.map(|us| us.p50)),
            micros(run.turn_us.map(|us| us.p99)),
            micros(run.batch_us.map(|us| us.p50)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::{Machine, NAME};
    use crate::{Quantiles, Range};

    const STOCK: Config = Config {
        how: How::Stock,
        folio_bytes: 2 << 20,
        batch_folios: 1,
        workers: 0,
        routine: Routine::Movsb,
        warm: false,
        latency: false,
        busy: false,
    };

    fn run(config: Config, ratio: f64) -> Run {
        let us = config.latency.then_some(Quantiles { p50: 3.0, p99: 7.0 });
        Run {
            config,
            total_bytes: 1,
            gib_per_s: Range {
                min: 1.0,
                median: 4.5,
                max: 5.0,
            },
            samples: vec![],
            noise: 0.25,
            ratio_to_stock: Some(ratio),
            batch_ratio_to_stock: None,
            quiet_ratio_to_stock: None,
            ratio_to_limit: None,
            quiet_ratio_to_limit: None,
            first_us: us,
            turn_us: us,
            batch_us: us,
            touch_us: us,
            neighbour_us: us,
            work_ratio_to_stock: config.busy.then_some(0.99),
            settled_share: 1.0,
            failed: 0,
            bad_bytes: 0,
            ferry: Default::default(),
        }
    }

    fn results(runs: Vec<Run>) -> Native {
        Native {
            benchmark: NAME.into(),
            machine: Machine::default(),
            kernel: String::new(),
            cpus: 2,
            date: String::new(),
            command: String::new(),
            commit: None,
            rounds: 9,
            set_bytes: 1,
            wall_s: 1.0,
            runs,
            failures: vec![],
        }
    }

    fn text(results: &Native) -> Vec<(&'static str, Vec<String>)> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        (tables(results).into_iter())
            .map(|(name, table)| (name, table.text().lines().map(words).collect()))
            .collect()
    }

    #[test]
    fn sizes_are_in_order_and_beside_the_limit() {
        let early = |workers| Config {
            how: How::Early,
            workers,
            ..STOCK
        };
        let small = Config {
            folio_bytes: 4096,
            batch_folios: 512,
            ..STOCK
        };
        let found = text(&results(vec![
            run(STOCK, 1.0),
            run(early(0), 1.2),
            run(early(1), 2.04),
            run(
                Config {
                    how: How::Limit,
                    workers: 1,
                    ..STOCK
                },
                2.13,
            ),
            run(small, 1.0),
        ]));
        assert_eq!(
            found,
            [(
                "Copying of folios from cold memory, ratio to the stock loop",
                [
                    "batch stock GiB/s noise mover alone with 1 worker limit of 2 threads",
                    "512 x 4K 4.50 25 % - - -",
                    "1 x 2M 4.50 25 % 1.20 2.04 2.13",
                ]
                .map(String::from)
                .to_vec()
            )]
        );
    }

    #[test]
    fn other_measurements_have_tables_of_their_own() {
        let early = Config {
            how: How::Early,
            workers: 1,
            ..STOCK
        };
        let timed = Config {
            latency: true,
            ..early
        };
        let found = text(&results(vec![
            run(
                Config {
                    busy: true,
                    ..STOCK
                },
                1.0,
            ),
            run(
                Config {
                    busy: true,
                    ..early
                },
                1.25,
            ),
            run(
                Config {
                    latency: true,
                    ..STOCK
                },
                1.0,
            ),
            run(timed, 1.5),
            run(
                Config {
                    routine: Routine::Movnti,
                    ..timed
                },
                1.75,
            ),
            run(
                Config {
                    batch_folios: 2,
                    ..timed
                },
                1.5,
            ),
        ]));
        let lines = |name: &str| {
            let table = found.iter().find(|(title, _)| title.starts_with(name));
            table.unwrap_or_else(|| panic!("no {name} in {found:?}")).1[1..].to_vec()
        };
        assert_eq!(found.len(), 3);
        assert_eq!(
            lines("Copying with a thread"),
            ["1 x 2M with 1 worker 0.80 0.990"]
        );
        assert_eq!(
            lines("Copy routines"),
            [
                "1 x 2M with 1 worker movsb 1.50 3.0 3.0",
                "1 x 2M with 1 worker movnti 1.75 3.0 3.0",
            ],
            "a batch of one routine is compared with nothing"
        );
        assert_eq!(
            lines("Latency"),
            [
                "1 x 2M stock 3.0 3.0 7.0 3.0",
                "1 x 2M with 1 worker 3.0 3.0 7.0 3.0",
                "2 x 2M with 1 worker 3.0 3.0 7.0 3.0",
            ]
        );
    }
}
