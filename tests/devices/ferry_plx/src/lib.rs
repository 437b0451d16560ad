// SPDX-License-Identifier: GPL-2.0

//! A model of the DMA engine of PLX ExpressLane PEX switches (PCI 10b5:87d0), one channel a
//! function.
//!
//! Registers, bits and descriptors are those of the in-tree driver (`drivers/dma/plx_dma.c`). What
//! the driver does not say is as the driver needs it:
//!
//! * The control registers are 16 bits wide, and two of them can be read and written at once: the
//!   driver sees `IN_PROGRESS` in the upper half of both.
//! * `START` runs the ring from its next address until a descriptor is not valid, which sets
//!   `DESC_INVALID`; the driver starts it again after each submission. Only descriptors in memory
//!   (`DESC_MODE_OFF_CHIP`) are there.
//! * A descriptor completes by what is written over its first word: the bytes copied, `SUCCESS`,
//!   `RD_FAIL` or `WR_FAIL`, and no valid bit. If `WRITE_BACK_EN` was not set when it was begun
//!   (the driver takes it away as it pauses), it stays as it is. Then `DESC_DONE` is latched if it
//!   asked for an interrupt, whether it has failed or not. A failure does not stop the ring: the
//!   driver never looks for one there, so that what is behind it would wait for the next start.
//! * A length of 0 and bits that mean nothing make an invalid descriptor: `INV_DESC` is latched,
//!   and what is written back is neither a success nor one of the two failures.
//! * A descriptor that cannot be read or written back, and registers that describe no ring, latch
//!   `ERROR` and stop the ring.
//! * `GRACEFUL_PAUSE` stops the ring after the descriptor in work, `ABORT` abandons that one, which
//!   stays valid; their `DONE` bits come when nothing is in work. The pause that the bits have
//!   another `DONE` for (`IMM_PAUSE`) has no bit in the driver, and is not there.
//! * The message is sent when `DESC_DONE`, or anything else that is enabled, becomes latched and
//!   nothing of that kind was before.
//!
//! On-chip descriptors, block mode and the prefetching of descriptors are not there.

#![forbid(unsafe_code)]

pub mod queue;

use ferry_vfio::config::{Bar, ConfigSpace, Error, Identity};
use ferry_vfio::lane::Lane;
use ferry_vfio::mmio;
use ferry_vfio::server::Function;
use ferry_vfio::{Device, Host};
use queue::{Doorbell, Register, Ring};
use std::io;
use std::sync::Arc;

/// BAR of the registers.
pub const BAR: u8 = 0;
/// Bytes of it.
const BAR_SIZE: u64 = 16 << 10;
/// BAR of the MSI-X structures.
const MSIX_BAR: u8 = 2;

const IDENTITY: Identity = Identity {
    vendor: 0x10b5,
    device: 0x87d0,
    subsystem_vendor: 0x10b5,
    subsystem: 0x87d0,
    class: 0x08_80_00,
    revision: 0,
};

struct Plx {
    lane: Lane<Ring>,
    host: Arc<Host>,
}

/// Creates the function. Without MSI-X the driver takes MSI.
pub fn function(msix: bool) -> io::Result<Function> {
    let config = config(msix).map_err(io::Error::other)?;
    let host = Arc::new(Host::new(1, config.vectors()));
    let device = Plx {
        lane: Lane::new(Ring::default(), 0, Arc::clone(&host))?,
        host: Arc::clone(&host),
    };
    Ok(Function::new(config, Box::new(device), host))
}

fn config(msix: bool) -> Result<ConfigSpace, Error> {
    let mut bars = [None; 6];
    bars[usize::from(BAR)] = Some(Bar {
        size: BAR_SIZE,
        wide: false,
        prefetchable: false,
    });
    ConfigSpace::usual(IDENTITY, bars, 1, msix.then_some((MSIX_BAR, 1)))
}

impl Device for Plx {
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar != BAR {
            data.fill(0);
            return;
        }
        mmio::read32(offset, data, |at| match Register::at(at) {
            Some(register) => self.lane.with(|ring| ring.read(register)),
            None => 0,
        });
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        let counters = self.host.counters(0);
        let whole = bar == BAR
            && mmio::write32_or_16(offset, data, |at, value, mask| {
                let Some(register) = Register::at(at) else {
                    return;
                };
                let act = |ring: &mut Ring| ring.write(register, value, mask);
                let good = match Doorbell::of(register, value & mask) {
                    Doorbell::None => self.lane.with(act),
                    Doorbell::Start => {
                        counters.doorbells.bump();
                        self.lane.with(act)
                    }
                    // The lane lives as long as this.
                    Doorbell::Abort => self.lane.peer().cancel(act).unwrap_or(true),
                };
                if !good {
                    counters.bad_requests.bump();
                }
            });
        if !whole {
            counters.bad_requests.bump();
        }
    }

    fn reset(&self) {
        self.lane.reset();
    }

    fn state(&self) -> serde_json::Value {
        self.lane.with(|ring| Register::dump(|r| ring.read(r)))
    }
}
