// SPDX-License-Identifier: GPL-2.0

//! Compares the documents of the user interface with the code: each knob, counter, fault injection
//! and state of a channel is documented exactly once, with the values that the code has, and
//! nothing else is documented.

use ferry_core::knob::{self, Knob};

const GUIDE: &str = include_str!("../../../Documentation/admin-guide/ferry.rst");
const DESIGN: &str = include_str!("../../../Documentation/design.rst");
const SYSCTL: &str = include_str!("../../../Documentation/ABI/testing/sysctl-vm-ferry");
const DEBUGFS: &str = include_str!("../../../Documentation/ABI/testing/debugfs-ferry");

/// The knobs that are numbers or words, in the order of the table.
const KNOBS: [Knob; 15] = [
    knob::BATCH_FOLIOS,
    knob::BATCH_BYTES,
    knob::CHUNK_BYTES,
    knob::MIN_BATCH_BYTES,
    knob::MIN_FOLIO_BYTES,
    knob::LOOKAHEAD_BYTES,
    knob::CPU_WORKERS,
    knob::CGROUP_WORKERS,
    knob::SPREAD_WORKERS,
    knob::CPU_NODE,
    knob::COPY_ROUTINE,
    knob::ENGINE_SHARE,
    knob::DMA_CHANNELS,
    knob::DMA_UNTRUSTED,
    knob::TIMEOUT_MS,
];

/// The files that are neither, which come first in the table.
const OTHERS: [&str; 3] = ["available_migrators", "migrator", "reasons"];

/// Returns the string literals that follow `before` in the source.
fn literals<'a>(source: &'a str, before: &str) -> Vec<&'a str> {
    source
        .split(before)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

/// Returns the part of `text` between the first `from` and the next `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text
        .find(from)
        .unwrap_or_else(|| panic!("no {from:?} in the text"));
    let rest = &text[start + from.len()..];
    let end = rest
        .find(to)
        .unwrap_or_else(|| panic!("no {to:?} after {from:?}"));
    &rest[..end]
}

/// Returns the sections of an ABI file: the paths that each describes, and its text.
fn sections(abi: &str) -> Vec<(Vec<&str>, String)> {
    let mut all: Vec<(Vec<&str>, String)> = Vec::new();
    for line in abi.lines() {
        if let Some(path) = line.strip_prefix("What:") {
            match all.last_mut() {
                Some((paths, text)) if text.is_empty() => paths.push(path.trim()),
                _ => all.push((vec![path.trim()], String::new())),
            }
        } else if let Some((_, text)) = all.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    all
}

/// Returns the text of the only section that describes `path`.
fn section(abi: &str, path: &str) -> String {
    let mut found = sections(abi)
        .into_iter()
        .filter(|(paths, _)| paths.contains(&path));
    let (_, text) = found
        .next()
        .unwrap_or_else(|| panic!("{path} is not documented"));
    assert!(found.next().is_none(), "{path} is documented twice");
    text
}

/// Returns the names in the first column of the only table in `text`.
fn first_column(text: &str) -> Vec<&str> {
    let rule = |line: &&str| line.trim().starts_with("====");
    assert_eq!(text.lines().filter(rule).count(), 2, "one table: {text}");
    let rows = text.lines().skip_while(|line| !rule(line)).skip(1);
    rows.take_while(|line| !rule(line))
        .filter_map(|line| line.strip_prefix("\t\t"))
        .filter(|row| !row.starts_with(char::is_whitespace))
        .filter_map(|row| row.split_whitespace().next())
        .collect()
}

/// Returns the text with each run of white space as one space.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the range of a knob of numbers as the documents write it.
fn range(knob: &Knob) -> String {
    let to = if knob.max - knob.min == 1 { "or" } else { "to" };
    match knob.multiple_of {
        1 => format!("{} {to} {}", knob.min, knob.max),
        n => format!("{} {to} {}, a multiple of {n}", knob.min, knob.max),
    }
}

#[test]
fn every_knob_is_listed_here() {
    let registered = literals(include_str!("../../../src/knobs.rs"), ", c\"");
    assert_eq!(registered, KNOBS.map(|knob| knob.name));
}

#[test]
fn the_design_says_where_each_knob_is_read() {
    let rows = between(DESIGN, "Read by", "\n\n").lines();
    let named = rows.filter_map(|row| row.strip_prefix("``")?.split("``").next());
    let reasons = std::iter::once("reasons");
    let knobs: Vec<&str> = reasons.chain(KNOBS.map(|knob| knob.name)).collect();
    assert_eq!(named.collect::<Vec<_>>(), knobs);
}

#[test]
fn the_guide_has_the_knobs_as_they_are() {
    let rule = |line: &&str| line.starts_with("======================= =");
    let table: Vec<&str> = GUIDE.lines().skip_while(|line| !rule(line)).collect();
    let columns = table[0].split(' ').scan(0, |start, column| {
        let cell = *start..*start + column.len();
        *start = cell.end + 1;
        Some(cell)
    });
    let columns: Vec<_> = columns.collect();
    // The rule, the header and the next rule come before the rows.
    let rows = table[3..].iter().take_while(|line| !rule(line));
    let cell = |row: &str, column: &std::ops::Range<usize>| {
        let end = column.end.min(row.len());
        row.get(column.start..end).unwrap_or("").trim().to_owned()
    };
    let rows: Vec<Vec<String>> = rows
        .map(|row| columns.iter().map(|column| cell(row, column)).collect())
        .collect();
    assert_eq!(rows.len(), OTHERS.len() + KNOBS.len());
    for (row, name) in rows.iter().zip(OTHERS) {
        assert_eq!(row[0], format!("``{name}``"));
    }
    for (row, knob) in rows[OTHERS.len()..].iter().zip(&KNOBS) {
        let words: Vec<String> = knob
            .words
            .iter()
            .map(|word| format!("``{word}``"))
            .collect();
        let values = if words.is_empty() {
            range(knob)
        } else {
            words.join(", ")
        };
        let default = knob.shown(knob.default).to_string();
        assert_eq!(*row, [format!("``{}``", knob.name), values, default]);
    }
}

#[test]
fn the_abi_has_the_knobs_as_they_are() {
    let root = "/proc/sys/vm/ferry/";
    let documented: Vec<&str> = sections(SYSCTL)
        .iter()
        .flat_map(|(paths, _)| paths.clone())
        .map(|path| path.strip_prefix(root).unwrap())
        .collect();
    let names = KNOBS.iter().map(|knob| knob.name);
    let files: Vec<&str> = [""].into_iter().chain(OTHERS).chain(names).collect();
    assert_eq!(documented, files);
    for knob in &KNOBS {
        let text = section(SYSCTL, &format!("{root}{}", knob.name));
        if knob.words.is_empty() {
            let values = format!("{}, default {}", range(knob), knob.default);
            let once = flat(&text).matches(&values).count();
            assert_eq!(once, 1, "{}: not once \"{values}\"", knob.name);
        } else {
            assert_eq!(first_column(&text), knob.words, "{}", knob.name);
            // The row of the default, up to that of the next word.
            let default = knob.shown(knob.default).to_string();
            let row = between(&text, &format!("\t\t{default}\t"), "\n\t\t=");
            let row = row.split("\n\t\t").take_while(|line| {
                !knob
                    .words
                    .iter()
                    .any(|word| line.starts_with(&format!("{word}\t")))
            });
            let row = flat(&row.collect::<Vec<_>>().join(" "));
            assert!(row.contains("This is the default."), "{}: {row}", knob.name);
        }
    }
}

#[test]
fn the_abi_has_the_counters_as_they_are() {
    let counters = between(
        include_str!("../../../src/stats.rs"),
        "\ncounters! {",
        "\n}\n",
    );
    let text = section(DEBUGFS, "/sys/kernel/debug/ferry/stats");
    assert_eq!(first_column(&text), literals(counters, "=> \""));
}

#[test]
fn the_abi_has_the_injections_as_they_are() {
    let source = include_str!("../../../src/inject.rs");
    let mut injections = literals(between(source, "\ninject! {", "\n}\n"), "=> c\"");
    let text = section(DEBUGFS, "/sys/kernel/debug/ferry/inject/");
    let mut documented = first_column(&text);
    injections.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, injections);
}

#[test]
fn the_abi_has_the_states_of_channels_as_they_are() {
    let source = include_str!("../../../src/engine/manager.rs");
    let mut states = literals(between(source, "fn text(self)", "\n    }\n"), "=> \"");
    let text = section(DEBUGFS, "/sys/kernel/debug/ferry/state");
    let list = between(&text, "STATE is one of\n\n", "\n\n");
    let mut documented: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("\t\t\t"))
        .filter(|line| !line.starts_with('\t'))
        .collect();
    states.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, states);
}
