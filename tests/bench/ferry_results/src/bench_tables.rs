// SPDX-License-Identifier: GPL-2.0

//! The tables of `ferry_bench`'s results: the same ones for the terminal and for the document.

use crate::engine::{self, Cost};
use crate::table::{Table, NONE};
use crate::{size_name, Part, Quantiles, Results, Run};

/// Columns that say which run a line is about.
const KEYS: usize = 2;

/// A migrator with the settings that it is measured at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Label<'a> {
    pub migrator: &'a str,
    /// Workers, or channels of an engine.
    pub number: Option<u32>,
    /// The engine gets every batch that it can copy.
    pub all: bool,
    pub batch_folios: Option<u64>,
    pub batch_bytes: Option<u64>,
    /// Bytes per second that each channel of the engine's model is limited to.
    pub limit: Option<u64>,
}

impl std::fmt::Display for Label<'_> {
    /// Writes `cpu`, `cpu/2` with two workers, `cpu@512` and `cpu@16M` with a limit of the batch;
    /// `ptdma`, `ptdma+all` if it gets all, `ae4dma/4` with four channels, `ae4dma~32M` if each is
    /// limited.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.migrator)?;
        if let Some(number) = self.number {
            write!(f, "/{number}")?;
        }
        if self.all {
            write!(f, "+{}", engine::ALL)?;
        }
        match (self.batch_folios, self.batch_bytes) {
            (Some(folios), _) => write!(f, "@{folios}")?,
            (None, Some(bytes)) => write!(f, "@{}", size_name(bytes))?,
            (None, None) => {}
        }
        match self.limit {
            Some(limit) => write!(f, "~{}", size_name(limit)),
            None => Ok(()),
        }
    }
}

/// Returns the name of a run's migrator with its settings.
pub fn name(run: &Run) -> String {
    let engine = run.engine.as_ref();
    let by_channels = engine.filter(|_| run.part == Some(Part::Channels));
    Label {
        migrator: &run.migrator,
        number: run.workers.or(by_channels.map(|e| e.channels)),
        all: engine.is_some_and(|e| e.share == engine::ALL),
        batch_folios: run.batch_folios,
        batch_bytes: run.batch_bytes,
        limit: engine.and_then(|e| e.limit_bytes_per_s),
    }
    .to_string()
}

/// The tables of one part of the benchmark.
pub struct Section {
    /// `None` for a run without parts.
    pub part: Option<Part>,
    pub speed: Table,
    /// Descriptors, mappings, interrupts and doorbells of engines, in the part that has engines.
    pub costs: Option<Table>,
}

/// A column of a table of runs: its title and its cell.
type Column = (&'static str, fn(&Run) -> String);
/// A column of the table of costs: its title and its figure.
type CostColumn = (&'static str, fn(&Cost) -> Option<f64>);

fn pair(quantiles: Option<Quantiles>) -> String {
    quantiles.map_or(NONE.into(), |q| format!("{:.0}/{:.0}", q.p50, q.p99))
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or(NONE.into(), |r| format!("{r:.2}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or(NONE.into(), |share| format!("{:.0} %", share * 100.0))
}

fn seconds_of_a_round(run: &Run) -> f64 {
    let gib = run.total_bytes as f64 / f64::from(run.rounds.max(1)) / GIB;
    gib / run.gib_per_s.median
}

const GIB: f64 = (1u64 << 30) as f64;

/// Returns the ratio of a run to `off`. A ratio whose interval includes 1 is "no difference".
pub fn ratio(run: &Run) -> String {
    match run.ratio_interval {
        Some(interval) if interval.includes_one() => "no difference".into(),
        Some(_) => format!("{:.2}", run.ratio_paired),
        None => format!("{:.2}", run.ratio_to_off),
    }
}

fn interval(run: &Run) -> String {
    run.ratio_interval
        .map_or(NONE.into(), |i| format!("{:.2}-{:.2}", i.low, i.high))
}

const SPEED: [Column; 7] = [
    ("folio", |run| size_name(run.folio_bytes)),
    ("migrator", name),
    ("GiB/s", |run| format!("{:.3}", run.gib_per_s.median)),
    ("min-max", |run| {
        format!("{:.3}-{:.3}", run.gib_per_s.min, run.gib_per_s.max)
    }),
    ("ratio", ratio),
    ("95 %", interval),
    ("noise", |run| percent(Some(run.noise))),
];
const FIRST: [Column; 3] = [
    ("first p50/p99 us", |run| pair(run.first_folio_us)),
    ("first ratio", |run| times(run.first_folio_ratio)),
    ("first p99 ratio", |run| times(run.first_folio_p99_ratio)),
];
const FIRST_GAP: [Column; 2] = [
    ("gap p50/p99 us", |run| pair(run.first_folio_gap_us)),
    ("gap ratio", |run| times(run.first_folio_gap_ratio)),
];
const PAGE_GAP: [Column; 2] = [
    ("page gap p50/p99 us", |run| pair(run.page_gap_us)),
    ("page gap ratio", |run| times(run.page_gap_ratio)),
];
const BUSY: [Column; 4] = [
    ("s/round", |run| format!("{:.3}", seconds_of_a_round(run))),
    ("time ratio", |run| format!("{:.3}", 1.0 / run.ratio_to_off)),
    ("user work", |run| {
        run.busy_work_ratio
            .map_or(NONE.into(), |r| format!("{r:.3}"))
    }),
    ("work noise", |run| {
        percent(run.busy_work.map(|work| work.noise()))
    }),
];
const LINEAR: [Column; 2] = [
    ("x linear", |run| {
        times(run.engine.as_ref().and_then(|e| e.of_linear))
    }),
    ("engine", copied_by_engine),
];
const TIME: [Column; 3] = [
    ("sys s/GiB", |run| format!("{:.3}", run.sys_s_per_gib())),
    ("busy s/GiB", |run| format!("{:.3}", run.busy_s_per_gib())),
    ("engine", copied_by_engine),
];
const ENGINE: [CostColumn; 7] = [
    ("descs/MiB", |cost| Some(cost.descriptors_per_mib)),
    ("maps/MiB", |cost| Some(cost.mappings_per_mib)),
    ("irqs/MiB", |cost| cost.interrupts_per_mib),
    ("irqs/batch", |cost| cost.interrupts_per_batch),
    ("bells/GiB", |cost| cost.doorbells_per_gib),
    ("bells/batch", |cost| cost.doorbells_per_batch),
    ("chans/batch", |cost| cost.channels_per_batch),
];
const COST: [Column; 4] = [
    ("sys s", |run| format!("{:.2}", run.sys_s)),
    ("all sys", |run| format!("{:.2}", run.guest_sys_s)),
    ("helped", |run| percent(helped_share(run))),
    ("bad bytes", |run| run.bad_bytes.to_string()),
];

fn copied_by_engine(run: &Run) -> String {
    percent(run.engine.as_ref().map(|e| e.copied_share))
}

/// Returns the share of the chunks that others than the mover copied.
fn helped_share(run: &Run) -> Option<f64> {
    let count = |name| run.ferry.get(name).copied().unwrap_or(0);
    let (mover, others) = (count("chunks_by_mover"), count("chunks_by_others"));
    (mover + others > 0).then(|| others as f64 / (mover + others) as f64)
}

fn of_runs(columns: &[Column], runs: &[&Run]) -> Table {
    let titles = columns.iter().map(|(title, _)| title.to_string());
    let mut table = Table::new(KEYS, titles.collect());
    for run in runs {
        table.push(columns.iter().map(|(_, cell)| cell(run)).collect());
    }
    table
}

/// Returns the costs of engines by folio size. Each size begins with the computed cost of one
/// descriptor for each folio.
fn of_engines(runs: &[&Run]) -> Table {
    let line = |folio: String, name: String, cost: &Cost| -> Vec<String> {
        let cells = ENGINE.iter().map(|(_, value)| {
            value(cost).map_or(NONE.into(), |value| {
                let digits = if value >= 100.0 { 0 } else { 2 };
                format!("{value:.digits$}")
            })
        });
        [folio, name].into_iter().chain(cells).collect()
    };
    let titles = ["folio", "migrator"].into_iter();
    let titles = titles.chain(ENGINE.map(|(title, _)| title));
    let mut table = Table::new(KEYS, titles.map(String::from).collect());
    let mut last: Option<(u64, Cost)> = None;
    for run in runs {
        let Some(engine) = &run.engine else { continue };
        let size = size_name(run.folio_bytes);
        if last.is_none_or(|(folio, _)| folio != run.folio_bytes) {
            let obvious = engine.one_each;
            table.push(line(size.clone(), "one each (computed)".into(), &obvious));
            last = Some((run.folio_bytes, obvious));
        }
        table.push(line(size, name(run), &engine.cost));
    }
    table
}

/// Returns the tables of each part that has runs.
pub fn sections(results: &Results) -> Vec<Section> {
    let parts = std::iter::once(None).chain(Part::ALL.map(Some));
    let of_part = |part| -> Option<Section> {
        let runs: Vec<&Run> = results.runs.iter().filter(|run| run.part == part).collect();
        (!runs.is_empty()).then(|| Section {
            part,
            speed: of_runs(&columns(part, &runs), &runs),
            costs: (part == Some(Part::Engines)).then(|| of_engines(&runs)),
        })
    };
    parts.filter_map(of_part).collect()
}

/// Returns the columns that these runs of a part have figures for.
fn columns(part: Option<Part>, runs: &[&Run]) -> Vec<Column> {
    let has = |what: fn(&Run) -> bool| runs.iter().any(|run| what(run));
    let mut columns = SPEED.to_vec();
    if has(|run| run.busy_work.is_some()) {
        columns.extend(BUSY);
    }
    if has(|run| run.first_folio_us.is_some()) {
        columns.extend(FIRST);
        columns.extend(if has(|run| run.page_gap_us.is_some()) {
            PAGE_GAP
        } else {
            FIRST_GAP
        });
    }
    match part {
        Some(Part::Engines) => columns.extend(TIME),
        Some(Part::Channels) => columns.extend(LINEAR),
        _ => columns.extend(COST),
    }
    if matches!(part, Some(Part::Engines | Part::Channels)) {
        columns.push(("bad bytes", |run| run.bad_bytes.to_string()));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_have_names() {
        let cpu = Label {
            migrator: "cpu",
            ..Label::default()
        };
        assert_eq!(cpu.to_string(), "cpu");
        let with = |change: fn(&mut Label)| {
            let mut label = cpu;
            change(&mut label);
            label.to_string()
        };
        assert_eq!(with(|l| l.number = Some(2)), "cpu/2");
        assert_eq!(with(|l| l.batch_bytes = Some(16 << 20)), "cpu@16M");
        let folios = |l: &mut Label| (l.batch_folios, l.batch_bytes) = (Some(4096), Some(16 << 20));
        assert_eq!(with(folios), "cpu@4096");
        let engine = Label {
            migrator: "ae4dma",
            number: Some(4),
            all: true,
            batch_bytes: Some(32 << 20),
            limit: Some(16 << 20),
            ..Label::default()
        };
        assert_eq!(engine.to_string(), "ae4dma/4+all@32M~16M");
    }
}
