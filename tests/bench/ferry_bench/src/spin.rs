// SPDX-License-Identifier: GPL-2.0

//! A busy machine: one thread on each CPU that does nothing but count its own steps.

use crate::error::{in_call, Result};
use crate::sys;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread::JoinHandle;

/// One cache line each, so that the threads do not disturb each other.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicU64);

pub struct Spinners {
    counters: Arc<Vec<Counter>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Spinners {
    pub fn start(cpus: &[usize]) -> Spinners {
        let counters: Arc<Vec<Counter>> =
            Arc::new(cpus.iter().map(|_| Counter::default()).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let threads = cpus
            .iter()
            .enumerate()
            .map(|(index, &cpu)| {
                let (counters, stop) = (counters.clone(), stop.clone());
                std::thread::spawn(move || {
                    sys::bind_to_cpu(cpu)?;
                    let mut value = 1u64;
                    while !stop.load(Relaxed) {
                        for _ in 0..64 {
                            value = black_box(value.wrapping_mul(0x5851_f42d_4c95_7f2d) + 1);
                        }
                        counters[index].0.fetch_add(1, Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        Spinners {
            counters,
            stop,
            threads,
        }
    }

    /// Steps of all threads so far.
    pub fn work(&self) -> u64 {
        self.counters
            .iter()
            .map(|counter| counter.0.load(Relaxed))
            .sum()
    }

    pub fn stop(mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .expect("spinners do not panic")
                .map_err(in_call("sched_setaffinity"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinners_work_until_stopped() {
        let spinners = Spinners::start(&[0]);
        let before = spinners.work();
        while spinners.work() == before {
            std::thread::yield_now();
        }
        spinners.stop().unwrap();
    }
}
