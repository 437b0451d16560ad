// SPDX-License-Identifier: GPL-2.0

//! Speed limits of channels. Pure: the caller passes the time.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Limits of one channel; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// From when a descriptor is taken until it can complete, in microseconds.
    pub latency_us: u64,
    /// Bytes in a second.
    pub bytes_per_s: u64,
}

/// Longest time that one descriptor can be told to take.
const LONGEST: Duration = Duration::from_secs(3600);

impl Limit {
    /// Returns the least time that a descriptor of `bytes` bytes takes.
    pub fn time(&self, bytes: u64) -> Duration {
        let moving = match self.bytes_per_s {
            0 => Duration::ZERO,
            rate => {
                let ns = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
                Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
            }
        };
        Duration::from_micros(self.latency_us)
            .saturating_add(moving)
            .min(LONGEST)
    }
}

/// The times at which the descriptors of a channel begin: a channel that always has something to do
/// is as fast as its limit, however late its thread runs.
///
/// A descriptor that was waiting begins when the one before it was due. It is known not to have
/// waited if the channel had nothing to do, or was told of more meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// The time at which the last descriptor was due, and the doorbells when it began.
    last: Option<(Instant, u64)>,
}

impl Pace {
    /// Returns when a descriptor that is taken now begins, after the given number of doorbells.
    pub fn begin(&self, now: Instant, doorbells: u64) -> Instant {
        match self.last {
            Some((due, rung)) if rung == doorbells => due.min(now),
            _ => now,
        }
    }

    /// Notes that a descriptor was due, and that another one may be waiting.
    pub fn end(&mut self, due: Instant, doorbells: u64) {
        self.last = Some((due, doorbells));
    }

    /// Notes that nothing waits, or that the last descriptor does not tell when the next one could
    /// begin.
    pub fn pause(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_begins_in_time() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.begin(start, 7), start, "it was idle");
        pace.end(start + ms(10), 7);
        // Its thread woke up late, and still has to wait for the next one, or does not.
        assert_eq!(pace.begin(start + ms(13), 7), start + ms(10));
        assert_eq!(
            pace.begin(start + ms(9), 7),
            start + ms(9),
            "never later than now"
        );
        assert_eq!(
            pace.begin(start + ms(13), 8),
            start + ms(13),
            "it may be new"
        );
        pace.pause();
        assert_eq!(pace.begin(start + ms(13), 7), start + ms(13));
    }

    #[test]
    fn times() {
        let limit = |latency_us, bytes_per_s| Limit {
            latency_us,
            bytes_per_s,
        };
        assert_eq!(limit(0, 0).time(u64::MAX), Duration::ZERO);
        assert_eq!(limit(5, 0).time(4096), Duration::from_micros(5));
        assert_eq!(
            limit(5, 1 << 30).time(1 << 30),
            Duration::from_micros(1_000_005)
        );
        assert_eq!(limit(u64::MAX, 1).time(u64::MAX), LONGEST);
    }
}
