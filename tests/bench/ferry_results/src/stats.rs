// SPDX-License-Identifier: GPL-2.0

//! Medians, quantiles and spread of small series.

use crate::{Interval, Quantiles, Range};

/// Resamples of a bootstrap: enough for the ends of an interval to be stable in the second digit.
const RESAMPLES: usize = 2000;

/// Fewest values that a bootstrap says anything about: the median of fewer has hardly any
/// resamples that differ.
const FEWEST: usize = 5;

/// Share of the resamples, in percent, that the interval leaves out at each end.
const TAIL: f64 = 2.5;

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Returns the middle value; of an even number of values the mean of the middle two. `None` for no
/// values.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

/// Returns the smallest value that at least `percent` of the values do not exceed (nearest rank).
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(values);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Returns the interval that holds the median with 95 % confidence, by the percentiles of a
/// bootstrap. The same seed gives the same interval. `None` for fewer than five values.
pub fn interval_of_median(values: &[f64], seed: u64) -> Option<Interval> {
    if values.len() < FEWEST {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let resample: Vec<f64> = (0..values.len())
                .filter_map(|_| random.choice(values).copied())
                .collect();
            median(&resample)
        })
        .collect();
    Some(Interval {
        low: percentile(&medians, TAIL)?,
        high: percentile(&medians, 100.0 - TAIL)?,
    })
}

impl Interval {
    /// Returns `true` if a ratio with this interval may as well be 1.
    pub fn includes_one(&self) -> bool {
        self.low <= 1.0 && self.high >= 1.0
    }
}

impl Range {
    /// Returns `None` for no values.
    pub fn of(values: &[f64]) -> Option<Range> {
        let sorted = sorted(values);
        Some(Range {
            min: *sorted.first()?,
            median: median(values)?,
            max: *sorted.last()?,
        })
    }

    /// Returns the whole spread, relative to the median.
    pub fn noise(&self) -> f64 {
        (self.max - self.min) / self.median
    }
}

impl Quantiles {
    /// Returns `None` for no values.
    pub fn of(values: &[f64]) -> Option<Quantiles> {
        Some(Quantiles {
            p50: median(values)?,
            p99: percentile(values, 99.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 99.0), Some(99.0));
        assert_eq!(percentile(&values, 100.0), Some(100.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[3.0, 8.0], 99.0), Some(8.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn interval_holds_the_median() {
        assert_eq!(interval_of_median(&[1.0, 2.0, 3.0, 4.0], 1), None);
        let same = interval_of_median(&[1.2; 9], 1).unwrap();
        assert_eq!((same.low, same.high), (1.2, 1.2));
        assert!(!same.includes_one());
        let wide: Vec<f64> = (0..21).map(|i| 0.5 + f64::from(i) / 20.0).collect();
        let interval = interval_of_median(&wide, 7).unwrap();
        assert!(interval.low < 1.0 && interval.high > 1.0 && interval.includes_one());
        assert!(interval.low > 0.5 && interval.high < 1.5, "{interval:?}");
        assert_eq!(interval_of_median(&wide, 7), Some(interval));
    }

    #[test]
    fn interval_misses_the_median_as_rarely_as_it_says() {
        let mut random = fastrand::Rng::with_seed(3);
        let missed = (0..200u64)
            .filter(|&seed| {
                let values: Vec<f64> = (0..21).map(|_| 0.5 + random.f64()).collect();
                !interval_of_median(&values, seed).unwrap().includes_one()
            })
            .count();
        // 10 of 200 are expected; twice as many are as improbable as one test in a thousand.
        assert!((1..=22).contains(&missed), "{missed} of 200");
    }

    #[test]
    fn range_and_noise() {
        assert_eq!(Range::of(&[]), None);
        let range = Range::of(&[2.0, 1.0, 4.0]).unwrap();
        assert_eq!(
            range,
            Range {
                min: 1.0,
                median: 2.0,
                max: 4.0
            }
        );
        assert_eq!(range.noise(), 1.5);
        assert_eq!(Range::of(&[3.0, 3.0]).unwrap().noise(), 0.0);
    }

    #[test]
    fn quantiles_of_a_series() {
        let values: Vec<f64> = (0..200).map(f64::from).collect();
        assert_eq!(
            Quantiles::of(&values),
            Some(Quantiles {
                p50: 99.5,
                p99: 197.0
            })
        );
        assert_eq!(Quantiles::of(&[]), None);
    }
}
