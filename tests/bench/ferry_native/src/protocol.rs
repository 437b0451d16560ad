// SPDX-License-Identifier: GPL-2.0

//! The messages of the kernel's init to the program that started the kernel: one JSON object a
//! line, on a console on which the kernel writes, too.

use ferry_results::native::{Config, Measured};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The kernel's release and its CPUs.
    Begin { kernel: String, cpus: u32 },
    /// One measurement.
    Sample(Box<Sample>),
    /// Progress, printed on the terminal.
    Progress(String),
    /// It cannot go on.
    Error(String),
    /// All has been measured.
    End,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub round: u32,
    pub config: Config,
    pub measured: Measured,
    /// Increase of each of Ferry's counters.
    pub ferry: BTreeMap<String, u64>,
}

impl Line {
    /// Parses a line; `None` for a message of the kernel.
    pub fn parse(text: &str) -> Option<Line> {
        serde_json::from_str(text.trim()).ok()
    }
}
