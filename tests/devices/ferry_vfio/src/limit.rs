// SPDX-License-Identifier: GPL-2.0

//! How fast a channel is. Pure: time is handed in.

use serde::{Deserialize, Serialize};
use std::time::Duration;

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
    /// Least time that a descriptor of `bytes` bytes takes.
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

#[cfg(test)]
mod tests {
    use super::*;

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
