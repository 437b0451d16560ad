// SPDX-License-Identifier: GPL-2.0

//! Logarithmic histogram buckets: bucket 0 is for 0, bucket n for 2^(n-1) up to below 2^n, and the
//! last one for all larger values. The caller has the counters.

/// The number of buckets. The last one begins at 2^38 ns, more than four minutes; the largest
/// `timeout_ms` is one minute.
pub const BUCKETS: usize = 40;

/// Returns the bucket that a value falls into, always below [`BUCKETS`].
#[inline]
pub const fn bucket(ns: u64) -> usize {
    let bits = (u64::BITS - ns.leading_zeros()) as usize;
    if bits < BUCKETS {
        bits
    } else {
        BUCKETS - 1
    }
}

/// Returns the smallest and the largest value of a bucket.
///
/// An index beyond the last bucket stands for the last bucket.
pub const fn bounds(i: usize) -> (u64, u64) {
    if i == 0 {
        (0, 0)
    } else if i < BUCKETS - 1 {
        (1 << (i - 1), (1 << i) - 1)
    } else {
        (1 << (BUCKETS - 2), u64::MAX)
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_hist))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_all_values() {
        let mut next = 0;
        for i in 0..BUCKETS {
            let (lo, hi) = bounds(i);
            assert_eq!(lo, next);
            assert!(lo <= hi);
            assert_eq!(bucket(lo), i);
            assert_eq!(bucket(hi), i);
            next = hi.wrapping_add(1);
        }
        // The last bucket ends at the largest number.
        assert_eq!(next, 0);
    }

    #[test]
    fn known_values() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 1);
        assert_eq!(bucket(1000), 10);
        assert_eq!(bounds(10), (512, 1023));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bounds(usize::MAX), bounds(BUCKETS - 1));
    }
}
