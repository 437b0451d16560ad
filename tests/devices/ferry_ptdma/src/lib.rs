// SPDX-License-Identifier: GPL-2.0

//! A model of AMD PTDMA (PCI 1022:1498), one queue a function.
//!
//! Registers, bits and descriptors are those of the in-tree driver (`drivers/dma/amd/ptdma`). What
//! the driver does not say is as the driver needs it, or as its parent, the CCP driver, has it:
//!
//! * The queue runs while `CMD_Q_RUN` is set, `CMD_Q_HALT` is not, and head and tail differ. Its
//!   ring is the naturally aligned block of `CMD_Q_SIZE` descriptors around the head; address bits
//!   32 to 47 are the upper half of `CMD_Q_CONTROL`.
//! * A descriptor whose interrupt-on-completion bit is set latches `INT_COMPLETION`, one whose
//!   stop-on-completion bit is set stops the queue. An error latches `INT_ERROR`, puts its code
//!   into `CMD_Q_STATUS` and stops the queue with the head at the failed descriptor. It does not
//!   run until the head has been written, as the driver does to flush it: the driver sets the run
//!   bit after the tail, so that without this a descriptor that fails fast would run twice. Bytes
//!   before a bus error have been copied.
//! * `INT_COMPLETION` and `INT_ERROR` latch whether they are enabled or not (the driver polls with
//!   interrupts off); `INT_QUEUE_STOPPED` and `INT_EMPTY_QUEUE` latch only where they are enabled.
//!   The message is sent when `status & enable` becomes non-zero, so that enabling an interrupt
//!   that is latched sends it.
//! * The error codes are the numbers in the driver's texts (`ERR 09: ILLEGAL_BUFFER_LENGTH` is 9),
//!   not the texts' places in its table, which has only 26 of them: the unmodified driver reads
//!   beyond it for codes above 25.
//!
//! * Without bus mastering the queue stands still, in the middle of a copy too, and goes on when it
//!   is allowed again: a function that loses it forgets nothing.
//!
//! Only the pass-through engine without bit or byte operations is there, on system memory.

#![forbid(unsafe_code)]

pub mod queue;

use ferry_vfio::config::{Bar, ConfigSpace, Error, Identity};
use ferry_vfio::lane::Lane;
use ferry_vfio::mmio;
use ferry_vfio::server::Function;
use ferry_vfio::{Device, Host};
use queue::{Register, Ring};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// BAR of the registers.
pub const BAR: u8 = 2;
/// Bytes of it.
const BAR_SIZE: u64 = 1 << 20;
/// BAR of the MSI-X structures.
const MSIX_BAR: u8 = 5;
/// The offset of the queue's registers.
pub const QUEUE: u64 = 0x1000;

/// `CMD_PT_VERSION`: version 5, one queue in bits 15 to 18.
const VERSION: (u64, u32) = (0x10, 5 | 1 << 15);
/// Registers of the whole device, which the model only keeps: priority, request ID, timeout,
/// interrupt mask, configuration, clock gating.
const KEPT: [u64; 6] = [0x00, 0x04, 0x08, 0x40, 0x1120, 0x6004];

const IDENTITY: Identity = Identity {
    vendor: 0x1022,
    device: 0x1498,
    subsystem_vendor: 0x1022,
    subsystem: 0x1498,
    class: 0x10_80_00,
    revision: 0,
};

struct Ptdma {
    lane: Lane<Ring>,
    host: Arc<Host>,
    kept: Mutex<[u32; KEPT.len()]>,
}

/// Creates the function. Without MSI-X the driver takes MSI.
pub fn function(msix: bool) -> io::Result<Function> {
    let config = config(msix).map_err(io::Error::other)?;
    let host = Arc::new(Host::new(1, config.vectors()));
    let device = Ptdma {
        lane: Lane::new(Ring::default(), 0, Arc::clone(&host))?,
        host: Arc::clone(&host),
        kept: Mutex::default(),
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
    ConfigSpace::usual(IDENTITY, bars, 1, msix.then_some((MSIX_BAR, 2)))
}

impl Ptdma {
    fn kept(&self, offset: u64, act: impl FnOnce(&mut u32)) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, _)) = kept.iter_mut().zip(KEPT).find(|(_, at)| *at == offset) {
            act(value);
        }
    }
}

impl Device for Ptdma {
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar != BAR {
            data.fill(0);
            return;
        }
        mmio::read32(offset, data, |at| {
            let queue = at.checked_sub(QUEUE).and_then(Register::at);
            if let Some(register) = queue {
                return self.lane.with(|ring| ring.read(register));
            }
            let mut value = 0;
            if at == VERSION.0 {
                value = VERSION.1;
            }
            self.kept(at, |v| value = *v);
            value
        });
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        let counters = self.host.counters(0);
        let whole = bar == BAR
            && mmio::write32(offset, data, |at, value| {
                let queue = at.checked_sub(QUEUE).and_then(Register::at);
                match queue {
                    Some(register) => {
                        if register == Register::Tail {
                            counters.doorbells.bump();
                        }
                        self.lane.with(|ring| ring.write(register, value));
                    }
                    None => self.kept(at, |v| *v = value),
                }
            });
        if !whole {
            counters.bad_requests.bump();
        }
    }

    fn reset(&self) {
        self.lane.reset();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    fn bus_master_changed(&self) {
        self.lane.with(|_| ());
    }

    fn state(&self) -> serde_json::Value {
        self.lane.with(|ring| Register::dump(|r| ring.read(r)))
    }
}
