// SPDX-License-Identifier: GPL-2.0

//! A model of AMD AE4DMA (PCI 1022:149b), 16 queues a function.
//!
//! Registers and descriptors are those of the in-tree driver (`drivers/dma/amd/ae4dma`). What the
//! driver does not say:
//!
//! * The first register of the BAR enables the queues below the number written to it. A queue runs
//!   while read and write index differ; both count below the maximum index.
//! * A queue's first register holds its enable bit. The driver never sets it before its first
//!   descriptor, clears it in terminate and pause, and sets it in resume: here the queue stops when
//!   it is cleared, after the descriptor in work, and starts again when it is set or the write
//!   index is written. So a terminate does stop the queue, but what was left in the ring is done
//!   when the next descriptor comes.
//! * Length and addresses must be multiples of 4 (the driver's error texts say so).
//! * A descriptor completes by its status byte (3: completed, 4: error, with the error code beside
//!   it), then the read index, then its interrupt if it asked for one: a message for each, whatever
//!   the interrupt status register still holds. An error does not stop the queue.
//! * A ring that cannot be read, or an index beyond the maximum, stops the queue with an interrupt:
//!   the status register's field says 2 (stopped).
//! * Without bus mastering queues stand still, in the middle of a copy too, and go on when it is
//!   allowed again: a function that loses it forgets nothing.

#![forbid(unsafe_code)]

pub mod queue;

use ferry_vfio::config::{Bar, ConfigSpace, Error, Identity};
use ferry_vfio::lane::Lane;
use ferry_vfio::mmio;
use ferry_vfio::server::Function;
use ferry_vfio::{Device, Host};
use queue::{Register, Ring};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// BAR of the registers.
pub const BAR: u8 = 0;
const BAR_SIZE: u64 = 64 << 10;
/// BAR of the MSI-X structures.
const MSIX_BAR: u8 = 4;
/// Queues of a function.
pub const QUEUES: u16 = 16;
/// From one queue's registers to the next; the first come after the device's own.
pub const STRIDE: u64 = 0x20;

const IDENTITY: Identity = Identity {
    vendor: 0x1022,
    device: 0x149b,
    subsystem_vendor: 0x1022,
    subsystem: 0x149b,
    class: 0x08_80_00,
    revision: 0,
};

struct Ae4dma {
    lanes: Vec<Lane<Ring>>,
    enabled: AtomicU32,
    host: Arc<Host>,
}

/// Creates the function. Without MSI-X the driver takes one MSI for all queues.
pub fn function(msix: bool) -> io::Result<Function> {
    let config = config(msix).map_err(io::Error::other)?;
    let host = Arc::new(Host::new(QUEUES, config.vectors()));
    let lane = |channel| Lane::new(Ring::new(channel), channel, Arc::clone(&host));
    let device = Ae4dma {
        lanes: (0..QUEUES).map(lane).collect::<io::Result<_>>()?,
        enabled: AtomicU32::new(0),
        host: Arc::clone(&host),
    };
    Ok(Function::new(config, Box::new(device), host))
}

fn config(msix: bool) -> Result<ConfigSpace, Error> {
    let mut bars = [None; 6];
    bars[usize::from(BAR)] = Some(Bar {
        size: BAR_SIZE,
        wide: true,
        prefetchable: false,
    });
    ConfigSpace::usual(IDENTITY, bars, 1, msix.then_some((MSIX_BAR, QUEUES)))
}

impl Ae4dma {
    /// Returns the queue whose register is at an offset.
    fn queue(&self, at: u64) -> Option<(u16, &Lane<Ring>, Register)> {
        let index = (at / STRIDE).checked_sub(1)?;
        let register = Register::at(at % STRIDE)?;
        let lane = self.lanes.get(usize::try_from(index).ok()?)?;
        Some((u16::try_from(index).ok()?, lane, register))
    }

    fn enable(&self, queues: u32) {
        if queues > QUEUES.into() {
            self.host.counters(0).bad_requests.bump();
        }
        let queues = queues.min(QUEUES.into());
        self.enabled.store(queues, Ordering::SeqCst);
        for (i, lane) in (0u32..).zip(&self.lanes) {
            lane.with(|ring| ring.enable(i < queues));
        }
    }
}

impl Device for Ae4dma {
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar != BAR {
            data.fill(0);
            return;
        }
        mmio::read32(offset, data, |at| match self.queue(at) {
            Some((_, lane, register)) => lane.with(|ring| ring.read(register)),
            None if at == 0 => self.enabled.load(Ordering::SeqCst),
            None => 0,
        });
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        let whole = bar == BAR
            && mmio::write32(offset, data, |at, value| match self.queue(at) {
                Some((index, lane, register)) => {
                    let counters = self.host.counters(index);
                    if register == Register::WriteIndex {
                        counters.doorbells.bump();
                    }
                    if !lane.with(|ring| ring.write(register, value)) {
                        counters.bad_requests.bump();
                    }
                }
                None if at == 0 => self.enable(value),
                None => {}
            });
        if !whole {
            self.host.counters(0).bad_requests.bump();
        }
    }

    fn reset(&self) {
        self.enabled.store(0, Ordering::SeqCst);
        self.lanes.iter().for_each(Lane::reset);
    }

    fn bus_master_changed(&self) {
        self.lanes.iter().for_each(|lane| lane.with(|_| ()));
    }

    fn state(&self) -> serde_json::Value {
        let queue = |lane: &Lane<Ring>| lane.with(|ring| Register::dump(|r| ring.read(r)));
        let queues: Vec<_> = self.lanes.iter().map(queue).collect();
        serde_json::json!({"enabled": self.enabled.load(Ordering::SeqCst), "queues": queues})
    }
}
