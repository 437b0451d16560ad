// SPDX-License-Identifier: GPL-2.0

//! The measurements and their order.

use ferry_results::native::{Config, How, Routine};

/// The stock limit of a batch, in bytes.
const BATCH_BYTES: u64 = 2 << 20;

/// Bytes that one warm measurement copies, in rounds of one batch.
const WARM_BYTES: u64 = 64 << 20;

/// The number of times that all is copied where others run: the scheduler's shares are even over a
/// while.
const BUSY_TIMES: u64 = 4;

/// Folios in a batch for latency: of the smallest size, and of the largest.
const SMALL_BATCHES: [u64; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];
const LARGE_BATCHES: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// Numbers of workers: none, one, two, four, and so on, and all.
pub fn workers(cpus: u32) -> Vec<u32> {
    let all = cpus.saturating_sub(1);
    let doubled = std::iter::successors(Some(1u32), |n| n.checked_mul(2));
    let mut found = vec![0];
    found.extend(doubled.take_while(|&n| n < all));
    if all > 0 {
        found.push(all);
    }
    found
}

/// Returns all configurations that are measured at one folio size.
pub fn plan(folio_bytes: u64, cpus: u32) -> Vec<Config> {
    let workers = workers(cpus);
    let most = workers.last().copied().unwrap_or(0);
    let base = Config {
        how: How::Stock,
        folio_bytes,
        batch_folios: (BATCH_BYTES / folio_bytes).max(1),
        workers: 0,
        routine: Routine::Movsb,
        warm: false,
        latency: false,
        busy: false,
    };
    let large = folio_bytes > 4 << 10;
    let mut plan = vec![];
    for warm in [false, true] {
        let base = Config { warm, ..base };
        plan.push(base);
        for &workers in &workers {
            let with = |how| Config {
                how,
                workers,
                ..base
            };
            plan.push(with(How::Early));
            // A single folio is copied at once anyway, and a small one never in parallel.
            if large && base.batch_folios > 1 {
                plan.push(with(How::Now));
            }
            plan.push(with(How::Limit));
            if folio_bytes == BATCH_BYTES && (workers == 0 || workers == most) {
                for (routine, how) in [
                    (Routine::Memcpy, How::Limit),
                    (Routine::Movnti, How::Limit),
                    (Routine::Movnti, How::Early),
                ] {
                    plan.push(Config {
                        routine,
                        ..with(how)
                    });
                }
            }
        }
    }
    if folio_bytes == BATCH_BYTES || !large {
        let busy = Config { busy: true, ..base };
        plan.push(busy);
        plan.push(Config {
            how: How::Early,
            workers: most,
            ..busy
        });
    }
    let batches: &[u64] = match folio_bytes {
        4096 => &SMALL_BATCHES,
        BATCH_BYTES => &LARGE_BATCHES,
        _ => &[],
    };
    let mut counts = vec![0, 1, most];
    counts.retain(|&n| n <= most);
    counts.dedup();
    for &batch_folios in batches {
        let base = Config {
            batch_folios,
            latency: true,
            ..base
        };
        plan.push(base);
        for &workers in &counts {
            let early = Config {
                how: How::Early,
                workers,
                ..base
            };
            plan.push(early);
            if batch_folios * folio_bytes == BATCH_BYTES {
                plan.push(Config {
                    routine: Routine::Movnti,
                    ..early
                });
            }
        }
    }
    plan
}

/// Returns the bytes that one measurement copies at a time, and how many times.
pub fn bytes_and_times(config: &Config, set_bytes: u64) -> (u64, u64) {
    let batch = config.batch_folios * config.folio_bytes;
    if config.warm {
        (batch, (WARM_BYTES / batch).max(1))
    } else {
        // Whole batches, so that a short one does not count as one.
        let times = if config.busy { BUSY_TIMES } else { 1 };
        ((set_bytes / batch * batch).max(config.folio_bytes), times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_go_from_none_to_all() {
        assert_eq!(workers(1), [0]);
        assert_eq!(workers(2), [0, 1]);
        assert_eq!(workers(4), [0, 1, 2, 3]);
        assert_eq!(workers(16), [0, 1, 2, 4, 8, 15]);
    }

    #[test]
    fn nothing_is_measured_twice() {
        for cpus in [1, 2, 3, 16] {
            for bytes in [4096, 65536, 2 << 20] {
                let plan = plan(bytes, cpus);
                for (i, config) in plan.iter().enumerate() {
                    assert!(!plan[..i].contains(config), "{config:?} with {cpus} CPUs");
                }
            }
        }
    }

    #[test]
    fn all_has_something_to_compare_with() {
        for config in plan(2 << 20, 4).iter().chain(&plan(4096, 4)) {
            let stock = Config {
                how: How::Stock,
                workers: 0,
                routine: Routine::Movsb,
                ..*config
            };
            assert!(plan(config.folio_bytes, 4).contains(&stock), "{config:?}");
        }
    }

    #[test]
    fn a_set_is_whole_batches() {
        let config = plan(2 << 20, 2)[0];
        assert_eq!(bytes_and_times(&config, (64 << 20) + 4096), (64 << 20, 1));
        let warm = Config {
            warm: true,
            ..config
        };
        assert_eq!(bytes_and_times(&warm, 1 << 30), (2 << 20, 32));
    }
}
