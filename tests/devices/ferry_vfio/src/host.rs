// SPDX-License-Identifier: GPL-2.0

//! The interface of a model to its server, and the model's access to memory and interrupts.

use crate::counters::{Counters, Values};
use crate::fault::{Kind, Plan};
use crate::irq::{Interrupts, Sent};
use crate::limit::Limit;
use crate::memory::GuestMemory;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A model of a device. Called from the server's thread, and `state` and `reset` from control's.
pub trait Device: Send + Sync {
    /// Reads from a BAR.
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes to a BAR.
    fn write(&self, bar: u8, offset: u64, data: &[u8]);
    /// Resets the device to its state after power-on. When this returns, the device touches no
    /// memory and sends no interrupt until it is told to.
    fn reset(&self);
    /// Bus mastering has been turned on or off: what waits for it looks again.
    fn bus_master_changed(&self) {}
    /// Returns `true` if the device would access no memory even if it could.
    fn idle(&self) -> bool {
        true
    }
    /// Registers and the like, for people.
    fn state(&self) -> serde_json::Value;
    /// Returns `true` if the device can show a fault.
    fn can(&self, fault: &Kind) -> bool {
        fault.usual()
    }
}

struct Channel {
    counters: Counters,
    limit: Mutex<Limit>,
}

/// See the module. One per function, shared by its server, its lanes and control.
pub struct Host {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The client's interrupts.
    pub irq: Interrupts,
    faults: Mutex<Plan>,
    channels: Vec<Channel>,
    gone: AtomicBool,
    released: AtomicU64,
    resets: AtomicU64,
    connections: AtomicU64,
    held: AtomicU64,
    mastered_at_work: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// Creates the host of a device with the given numbers of channels, MSI and MSI-X vectors.
    pub fn new(channels: u16, vectors: (u16, u16)) -> Host {
        let channel = || Channel {
            counters: Counters::default(),
            limit: Mutex::default(),
        };
        Host {
            memory: GuestMemory::default(),
            irq: Interrupts::new(vectors),
            faults: Mutex::default(),
            // One at least: what belongs to no channel is counted with the first.
            channels: (0..channels.max(1)).map(|_| channel()).collect(),
            gone: AtomicBool::new(false),
            released: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            held: AtomicU64::new(0),
            mastered_at_work: AtomicU64::new(0),
        }
    }

    fn channel(&self, channel: u16) -> &Channel {
        let index = usize::from(channel).min(self.channels.len() - 1);
        &self.channels[index]
    }

    /// Returns the number of channels.
    pub fn channels(&self) -> u16 {
        self.channels.len() as u16
    }

    /// Counters of a channel.
    pub fn counters(&self, channel: u16) -> &Counters {
        &self.channel(channel).counters
    }

    /// Counters of every channel.
    pub fn values(&self) -> Vec<Values> {
        self.channels.iter().map(|c| c.counters.values()).collect()
    }

    /// Limits of a channel.
    pub fn limit(&self, channel: u16) -> Limit {
        *lock(&self.channel(channel).limit)
    }

    /// Changes them.
    pub fn set_limit(&self, channel: u16, limit: Limit) {
        *lock(&self.channel(channel).limit) = limit;
    }

    /// Returns the faults that wait.
    pub fn faults(&self) -> MutexGuard<'_, Plan> {
        lock(&self.faults)
    }

    /// Returns the faults that befall a descriptor of a channel, see [`Plan::strike`].
    pub fn strike(&self, channel: u16, meets: impl Fn(&Kind) -> bool) -> Vec<Kind> {
        self.faults().strike(channel, meets)
    }

    /// Sends an interrupt on behalf of a channel.
    pub fn interrupt(&self, channel: u16, vector: u16) {
        let counters = self.counters(channel);
        match if self.gone() {
            Sent::Dropped
        } else {
            self.irq.send(vector)
        } {
            Sent::Yes => counters.interrupts.bump(),
            Sent::Dropped => counters.interrupts_dropped.bump(),
        }
    }

    /// Returns `true` if the function has been taken away.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Takes it away, or puts it back.
    pub fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::SeqCst);
    }

    /// Lets channels go on that hang.
    pub fn release(&self) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of releases.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::SeqCst)
    }

    /// Counts a reset.
    pub fn count_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of resets.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Counts a late write that has read its source.
    pub fn count_held(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of late writes that have read their source.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    /// Counts that bus mastering came while the device was at work.
    pub fn count_mastered_at_work(&self) {
        self.mastered_at_work.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often bus mastering came while the device was at work.
    pub fn mastered_at_work(&self) -> u64 {
        self.mastered_at_work.load(Ordering::Relaxed)
    }

    /// Counts a client that has left.
    pub fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bus mastering, of memory and interrupts.
    pub fn set_bus_master(&self, on: bool) {
        self.irq.set_bus_master(on);
        self.memory.set_bus_master(on);
    }
}
