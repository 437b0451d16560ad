// SPDX-License-Identifier: GPL-2.0

//! Colours, text and labels of all plots.

use ferry_results::Results;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub const INK: RGBColor = RGBColor(40, 44, 52);
pub const FAINT: RGBColor = RGBColor(120, 126, 136);
pub const GRID: RGBColor = RGBColor(226, 229, 234);
/// The stock kernel is grey, the migrators have colours that the colour-blind can tell apart.
pub const COLOURS: [RGBColor; 12] = [
    RGBColor(170, 176, 186),
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(94, 60, 153),
    RGBColor(153, 107, 61),
    RGBColor(40, 44, 52),
    RGBColor(128, 128, 0),
    RGBColor(0, 102, 102),
];

/// Returns the distinct values in the order of their first appearance.
pub fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = vec![];
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

pub fn text(size: i32, colour: &RGBColor, across: HPos, down: VPos) -> TextStyle<'_> {
    TextStyle::from(("sans-serif", size).into_font())
        .color(colour)
        .pos(Pos::new(across, down))
}

/// Returns the machine that was measured and the command that repeats the measurement.
pub fn machine(results: &Results) -> String {
    let cpus = if results.cpus == 1 { "CPU" } else { "CPUs" };
    let load = if results.busy { ", every CPU busy" } else { "" };
    let accel = match results.accel.as_str() {
        "none" => "no virtual machine".into(),
        "tcg" => "TCG (emulated CPU)".into(),
        "kvm" => "KVM".into(),
        other => other.to_string(),
    };
    let overcommit = results
        .overcommit()
        .map_or(String::new(), |text| format!(" ({text})"));
    format!(
        "Linux {}, {} {cpus}{overcommit}, {accel}{load}, {}   ·   {}",
        results.kernel, results.cpus, results.date, results.command
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_order() {
        assert_eq!(distinct(["b", "a", "b"].into_iter()), ["b", "a"]);
    }
}
