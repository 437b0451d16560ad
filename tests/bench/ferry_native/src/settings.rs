// SPDX-License-Identifier: GPL-2.0

//! Settings of a run: words of the form `name=value`, as the kernel takes them.

use crate::error::{Error, Result};
use ferry_results::{parse_size, size_name};

/// Help text of `ferry-native`.
pub const HELP: &str = "\
usage: ferry-native [ncpus=N] [rounds=N] [set=SIZE] [sizes=SIZE,...]

Measures Ferry's copying of folios in a kernel that runs as a process, and
prints the results as JSON; a table goes to the standard error output.

ncpus=N           CPUs of that kernel: at most those of the machine (all of them)
rounds=N          rounds, of which medians are taken (9)
set=SIZE          memory to copy when the caches shall not help
                  (twice the last-level caches, at most 1G)
sizes=SIZE,...    folio sizes, 4K to 2M (2M,1M,256K,64K,16K,4K)

Needs room for twice set= in /dev/shm, or in TMPDIR, and no privileges.
";

/// Names of the words that the guest is told too, as its environment.
const PREFIX: &str = "ferry_";

/// The settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub ncpus: Option<u32>,
    pub rounds: u32,
    pub set_bytes: Option<u64>,
    pub sizes: Vec<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            ncpus: None,
            rounds: 9,
            set_bytes: None,
            sizes: [2048, 1024, 256, 64, 16, 4].map(|k| k << 10).to_vec(),
        }
    }
}

fn folio_size(text: &str) -> std::result::Result<u64, String> {
    let bytes = parse_size(text)?;
    if !bytes.is_power_of_two() || !(4 << 10..=2 << 20).contains(&bytes) {
        return Err(format!("{text} is no size of a folio from 4K to 2M"));
    }
    Ok(bytes)
}

impl Settings {
    fn take(&mut self, word: &str) -> Result<()> {
        let wrong = |why: String| Error::Unusable(format!("{word}: {why}"));
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| wrong("not of the form name=value; try --help".into()))?;
        let number = || {
            (value.parse::<u32>().ok())
                .filter(|&n| (1..=1000).contains(&n))
                .ok_or_else(|| wrong("a number from 1 to 1000 is needed".into()))
        };
        match name {
            "ncpus" => self.ncpus = Some(number()?),
            "rounds" => self.rounds = number()?,
            "set" => {
                let bytes = parse_size(value).map_err(wrong)?;
                if !(32 << 20..=64 << 30).contains(&bytes) {
                    return Err(wrong("must be from 32M to 64G".into()));
                }
                self.set_bytes = Some(bytes);
            }
            "sizes" => {
                self.sizes = (value
                    .split(',')
                    .map(folio_size)
                    .collect::<std::result::Result<_, _>>())
                .map_err(wrong)?;
            }
            _ => return Err(wrong("no such setting; try --help".into())),
        }
        Ok(())
    }

    /// Parses the words of the command line.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Settings> {
        let mut settings = Settings::default();
        for word in words {
            settings.take(word)?;
        }
        Ok(settings)
    }

    /// Returns the words for the kernel's command line. The kernel hands on to init the words that
    /// it does not know.
    pub fn for_guest(&self, set_bytes: u64) -> Vec<String> {
        let sizes: Vec<String> = self.sizes.iter().map(|&b| size_name(b)).collect();
        vec![
            format!("{PREFIX}rounds={}", self.rounds),
            format!("{PREFIX}set={set_bytes}"),
            format!("{PREFIX}sizes={}", sizes.join(",")),
        ]
    }

    /// Parses the output of [`Settings::for_guest()`].
    pub fn from_environment(env: impl Iterator<Item = (String, String)>) -> Result<Settings> {
        let mut settings = Settings::default();
        for (name, value) in env {
            if let Some(name) = name.strip_prefix(PREFIX) {
                settings.take(&format!("{name}={value}"))?;
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_refused() {
        let settings = Settings::parse(["ncpus=4", "rounds=3", "sizes=4K,2M"].into_iter()).unwrap();
        assert_eq!(settings.ncpus, Some(4));
        assert_eq!(settings.rounds, 3);
        assert_eq!(settings.sizes, [4 << 10, 2 << 20]);
        for wrong in [
            "ncpus",
            "ncpus=",
            "ncpus=0",
            "rounds=-1",
            "sizes=4M",
            "sizes=5K",
            "sizes=",
            "set=1",
            "set=100G",
            "cpus=2",
        ] {
            assert!(
                Settings::parse([wrong].into_iter()).is_err(),
                "{wrong} was taken"
            );
        }
    }

    #[test]
    fn the_guest_gets_to_know_them() {
        let settings = Settings::parse(["rounds=3", "sizes=64K"].into_iter()).unwrap();
        let words = settings.for_guest(64 << 20);
        let env = words.iter().map(|w| {
            let (name, value) = w.split_once('=').unwrap();
            (name.to_string(), value.to_string())
        });
        let there = Settings::from_environment(env).unwrap();
        assert_eq!(there.set_bytes, Some(64 << 20));
        assert_eq!((there.rounds, there.sizes), (3, vec![64 << 10]));
    }
}
