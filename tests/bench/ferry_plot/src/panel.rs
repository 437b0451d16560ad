// SPDX-License-Identifier: GPL-2.0

//! Plots of several panels side by side: lines over labels, with the smallest and the largest value
//! of each point.

use crate::common::{distinct, text, COLOURS, FAINT, GRID, INK};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

const SIZE: (u32, u32) = (1200, 600);

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A line: its name, and smallest, middle and largest value at each label.
pub struct Series {
    pub name: String,
    pub points: Vec<Option<[f64; 3]>>,
}

pub struct Panel {
    pub title: String,
    pub labels: Vec<String>,
    pub label_desc: &'static str,
    pub value_desc: &'static str,
    /// Powers of ten at equal distances.
    pub logarithmic: bool,
    pub series: Vec<Series>,
}

/// Text around the panels.
pub struct Words {
    pub title: String,
    pub heading: String,
    pub foot: String,
}

/// Returns the label at 10 to the power of `value`: only whole powers have one.
fn decade(value: f64) -> String {
    if (value - value.round()).abs() > 0.01 {
        return String::new();
    }
    let number = 10f64.powi(value.round() as i32);
    match number {
        _ if number >= 1e6 => format!("{}M", number / 1e6),
        _ if number >= 1e3 => format!("{}k", number / 1e3),
        _ => format!("{number}"),
    }
}

/// Draws one plot.
pub fn draw(words: &Words, panels: &[Panel]) -> Result<String> {
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw_panels(&area, words, panels).map_err(|error| error.to_string())?;
        area.present()?;
    }
    Ok(picture)
}

fn draw_panels<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    words: &Words,
    panels: &[Panel],
) -> std::result::Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    for (line, y, size, colour) in [
        (&words.title, 18, 20, &INK),
        (&words.heading, 46, 13, &FAINT),
    ] {
        let style = text(size, colour, HPos::Left, VPos::Top);
        area.draw(&Text::new(line.clone(), (24, y), style))?;
    }
    area.draw(&Text::new(
        words.foot.clone(),
        (SIZE.0 as i32 / 2, SIZE.1 as i32 - 16),
        text(13, &FAINT, HPos::Center, VPos::Center),
    ))?;
    let (_, body) = area.split_vertically(70);
    let (body, _) = body.split_vertically(SIZE.1 as i32 - 70 - 32);
    // Series with the same name have the same colour everywhere.
    let names = distinct(panels.iter().flat_map(|p| &p.series).map(|s| &s.name));
    for (panel, part) in panels.iter().zip(body.split_evenly((1, panels.len()))) {
        draw_panel(&part, panel, &names)?;
    }
    Ok(())
}

fn draw_panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    panel: &Panel,
    names: &[&String],
) -> std::result::Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let scale = |value: f64| {
        if panel.logarithmic {
            value.max(1e-3).log10()
        } else {
            value
        }
    };
    let values = || panel.series.iter().flat_map(|s| s.points.iter().flatten());
    let top = values().map(|v| scale(v[2])).fold(0.0, f64::max);
    let bottom = if panel.logarithmic {
        values().map(|v| scale(v[0])).fold(top, f64::min)
    } else {
        0.0
    };
    // The lowest point of a logarithmic plot is not to lie on the axis.
    let floor = if panel.logarithmic {
        bottom - (top - bottom).max(0.1) * 0.04
    } else {
        bottom
    };
    // A list of the series fits into what is left above them.
    let columns = (area.dim_in_pixel().0 / 290).max(1) as usize;
    let rows = panel.series.len().div_ceil(columns) as i32;
    let logarithmic = panel.logarithmic;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, text(15, &INK, HPos::Left, VPos::Top))
        .margin_top(8 + rows * 18)
        .margin_right(24)
        .margin_left(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(
            -0.3..panel.labels.len() as f64 - 0.7,
            floor..bottom + (top - bottom).max(0.1) * 1.08,
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .y_labels(8)
        .y_label_formatter(&|&value: &f64| {
            if logarithmic {
                decade(value)
            } else {
                let digits = if top < 2.0 {
                    2
                } else {
                    usize::from(top < 10.0)
                };
                format!("{value:.digits$}")
            }
        })
        .label_style(text(13, &INK, HPos::Left, VPos::Center))
        .y_desc(panel.value_desc)
        .x_desc(panel.label_desc)
        .axis_desc_style(text(14, &INK, HPos::Center, VPos::Top))
        .draw()?;
    let plot = chart.plotting_area().clone();
    for (at, label) in panel.labels.iter().enumerate() {
        let style = text(13, &INK, HPos::Center, VPos::Top);
        plot.draw(
            &(EmptyElement::at((at as f64, floor)) + Text::new(label.clone(), (0, 6), style)),
        )?;
    }
    for (index, series) in panel.series.iter().enumerate() {
        let place = names.iter().position(|name| **name == series.name);
        let colour = COLOURS[place.unwrap_or(0) % COLOURS.len()];
        let points = || {
            (series.points.iter().enumerate())
                .filter_map(|(at, values)| values.map(|values| (at as f64, values.map(scale))))
        };
        let line: Vec<(f64, f64)> = points().map(|(at, v)| (at, v[1])).collect();
        plot.draw(&PathElement::new(line.clone(), colour.stroke_width(2)))?;
        for (at, [low, _, high]) in points() {
            plot.draw(&PathElement::new(
                [(at, low), (at, high)],
                colour.stroke_width(1),
            ))?;
        }
        for point in line {
            plot.draw(&Circle::new(point, 3, colour.filled()))?;
        }
        let (column, row) = ((index % columns) as i32, (index / columns) as i32);
        let (x, y) = (68 + column * 250, 8 + row * 18);
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], colour.filled()))?;
        area.draw(&Text::new(
            series.name.clone(),
            (x + 18, y + 6),
            text(13, &INK, HPos::Left, VPos::Center),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_powers_have_labels() {
        let labels = [-1.0, 0.0, 0.5, 1.0, 3.0, 5.0, 6.0].map(decade);
        assert_eq!(labels, ["0.1", "1", "", "10", "1k", "100k", "1M"]);
    }
}
