// SPDX-License-Identifier: GPL-2.0

//! Draws a results file of `ferry_bench`: speed by folio size, one bar for each migrator, and what
//! else it has parts for; or one of `ferry_native`.

#![deny(unsafe_code)]

mod common;
mod native;
mod panel;
mod parts;

use clap::Parser;
use common::{distinct, machine, text, COLOURS, FAINT, GRID, INK};
use ferry_results::native::{count, Native};
use ferry_results::{size_name, Part, Results, Run};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Draws the results of ferry_bench as an SVG file, or those of ferry_native as several.
#[derive(Parser, Debug)]
struct Args {
    /// The results (JSON).
    json: PathBuf,
    /// The plot; the results' name with .svg if not given. Several have a word added to the name.
    svg: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {source}")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{0}: no runs to draw")]
    Empty(PathBuf),
    #[error("{path}: {reason}")]
    Draw { path: PathBuf, reason: String },
}

fn main() -> ExitCode {
    match plot_file(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferry_plot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plot_file(args: &Args) -> Result<(), Error> {
    let path = || args.json.clone();
    let text = std::fs::read_to_string(&args.json).map_err(|source| Error::Read {
        path: path(),
        source,
    })?;
    let in_json = |source| Error::Parse {
        path: path(),
        source,
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(in_json)?;
    let svg = args
        .svg
        .clone()
        .unwrap_or_else(|| args.json.with_extension("svg"));
    let failed = |reason: String| Error::Draw {
        path: svg.clone(),
        reason,
    };
    if value["benchmark"] == ferry_results::native::NAME {
        let results: Native = serde_json::from_value(value).map_err(in_json)?;
        if results.runs.is_empty() {
            return Err(Error::Empty(path()));
        }
        let pictures = native::draw(&results).map_err(|error| failed(error.to_string()))?;
        return write_all(&svg, pictures).map_err(|error| failed(error.to_string()));
    }
    let mut results: Results = serde_json::from_value(value).map_err(in_json)?;
    if results.runs.is_empty() {
        return Err(Error::Empty(path()));
    }
    if results.runs.iter().any(|run| run.part.is_some()) {
        let mut pictures = parts::draw(&results).map_err(|error| failed(error.to_string()))?;
        results.runs.retain(|run| run.part == Some(Part::Sizes));
        if !results.runs.is_empty() {
            let picture = draw(&results).map_err(|error| failed(error.to_string()))?;
            pictures.push((Part::Sizes.name(), picture));
        }
        return write_all(&svg, pictures).map_err(|error| failed(error.to_string()));
    }
    let picture = draw(&results).map_err(|error| failed(error.to_string()))?;
    std::fs::write(&svg, picture).map_err(|error| failed(error.to_string()))
}

/// Writes each picture to a file of its own, named after the picture.
fn write_all(svg: &Path, pictures: Vec<(&str, String)>) -> std::io::Result<()> {
    let stem = svg.file_stem().unwrap_or_default().to_string_lossy();
    for (name, picture) in pictures {
        std::fs::write(svg.with_file_name(format!("{stem}-{name}.svg")), picture)?;
    }
    Ok(())
}

const SIZE: (u32, u32) = (960, 560);
fn label(run: &Run) -> String {
    match run.workers {
        Some(workers) => format!("{}, {}", run.migrator, count(workers, "worker")),
        None => run.migrator.clone(),
    }
}

fn heading(results: &Results) -> [String; 2] {
    [
        "Page migration between two NUMA nodes, by folio size".into(),
        machine(results),
    ]
}

fn draw(results: &Results) -> Result<String, Box<dyn std::error::Error>> {
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw_on(&area, results).map_err(|error| error.to_string())?;
        area.present()?;
    }
    Ok(picture)
}

fn draw_on<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    results: &Results,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let sizes = distinct(results.runs.iter().map(|run| run.folio_bytes));
    let labels = distinct(results.runs.iter().map(label));
    let top = results
        .runs
        .iter()
        .map(|run| run.gib_per_s.max)
        .fold(0.0, f64::max)
        * 1.12;

    let [title, subtitle] = heading(results);
    area.draw(&Text::new(
        title,
        (24, 18),
        text(20, &INK, HPos::Left, VPos::Top),
    ))?;
    area.draw(&Text::new(
        subtitle,
        (24, 46),
        text(13, &FAINT, HPos::Left, VPos::Top),
    ))?;
    draw_legend(area, &labels)?;

    let mut chart = ChartBuilder::on(area)
        .margin_top(112)
        .margin_right(24)
        .margin_left(12)
        .margin_bottom(32)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..sizes.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .y_labels(8)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .label_style(text(13, &INK, HPos::Left, VPos::Center))
        .y_desc("GiB/s")
        .axis_desc_style(text(14, &INK, HPos::Center, VPos::Top))
        .draw()?;

    let plot = chart.plotting_area().clone();
    let width = 0.76 / labels.len() as f64;
    for run in &results.runs {
        let group = sizes
            .iter()
            .position(|&size| size == run.folio_bytes)
            .unwrap_or(0) as f64;
        let place = labels
            .iter()
            .position(|name| *name == label(run))
            .unwrap_or(0);
        let left = group + 0.12 + place as f64 * width;
        let centre = left + width / 2.0;
        let speed = run.gib_per_s;
        plot.draw(&Rectangle::new(
            [(left + 0.015, 0.0), (left + width - 0.015, speed.median)],
            COLOURS[place % COLOURS.len()].filled(),
        ))?;
        let cap = width * 0.12;
        for line in [
            [(centre, speed.min), (centre, speed.max)],
            [(centre - cap, speed.min), (centre + cap, speed.min)],
            [(centre - cap, speed.max), (centre + cap, speed.max)],
        ] {
            plot.draw(&PathElement::new(line, INK.stroke_width(1)))?;
        }
        if run.migrator != "off" {
            let style = text(13, &INK, HPos::Center, VPos::Bottom);
            let above = EmptyElement::at((centre, speed.max))
                + Text::new(format!("×{:.2}", run.ratio_to_off), (0, -6), style);
            plot.draw(&above)?;
        }
    }
    for (group, &size) in sizes.iter().enumerate() {
        let style = text(14, &INK, HPos::Center, VPos::Top);
        let below = EmptyElement::at((group as f64 + 0.5, 0.0))
            + Text::new(size_name(size), (0, 10), style);
        plot.draw(&below)?;
    }
    let bad: u64 = results.runs.iter().map(|run| run.bad_bytes).sum();
    let rounds = results.runs.iter().map(|run| run.rounds).min().unwrap_or(0);
    let host = results
        .host_load
        .map_or(String::new(), |load| format!(" Load below: {load}."));
    let foot = format!(
        "Folio size. Bars: median of at least {rounds} rounds there and back; whiskers: slowest and fastest round; \
         ×: ratio to off in the same boot. Bad bytes: {bad}.{host}"
    );
    let (width, height) = area.dim_in_pixel();
    area.draw(&Text::new(
        foot,
        (width as i32 / 2, height as i32 - 26),
        text(13, &FAINT, HPos::Center, VPos::Center),
    ))
}

fn draw_legend<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    labels: &[String],
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let mut x = 68;
    for (place, name) in labels.iter().enumerate() {
        let shown = if name == "off" {
            "off (stock copy)"
        } else {
            name
        };
        let colour = COLOURS[place % COLOURS.len()];
        area.draw(&Rectangle::new([(x, 80), (x + 14, 94)], colour.filled()))?;
        area.draw(&Text::new(
            shown.to_string(),
            (x + 20, 87),
            text(14, &INK, HPos::Left, VPos::Center),
        ))?;
        x += 50 + 8 * shown.len() as i32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let run = |migrator: &str, bytes: u64, speed: f64| {
            format!(
                r#"{{"migrator":"{migrator}","folio_bytes":{bytes},"total_bytes":1,"gib_per_s":
                {{"min":{},"median":{speed},"max":{}}},"ratio_to_off":1.25,"first_folio_us":null,
                "sys_s":0,"user_s":0,"bad_bytes":0,"rounds":5}}"#,
                speed * 0.9,
                speed * 1.1
            )
        };
        let runs = [
            run("off", 4096, 0.4),
            run("cpu", 4096, 0.5),
            run("off", 2 << 20, 1.6),
            run("cpu", 2 << 20, 2.0),
        ]
        .join(",");
        serde_json::from_str(&format!(
            r#"{{"kernel":"7.3.4","accel":"tcg","cpus":2,"date":"2026-01-31T12:00:00Z",
            "command":"make demo","runs":[{runs}]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn plot_says_what_was_measured() {
        let svg = draw(&results()).unwrap();
        for part in [
            "Linux 7.3.4",
            "2 CPUs",
            "TCG",
            "2026-01-31",
            "4K",
            "2M",
            "off",
            "cpu",
            "×1.25",
        ] {
            assert!(svg.contains(part), "{part} is not in the plot");
        }
        assert_eq!(
            svg.matches("×1.25").count(),
            2,
            "one ratio for each run but off"
        );
    }

    #[test]
    fn a_faster_run_has_a_higher_bar() {
        let svg = draw(&results()).unwrap();
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && !line.contains("#FFFFFF"))
            .filter_map(|line| {
                line.split_once("height=\"")?
                    .1
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        // Two squares of the legend, then the bars.
        assert_eq!(heights.len(), 6);
        assert!((heights[5] / heights[2] - 5.0).abs() < 0.1, "{heights:?}");
    }
}
