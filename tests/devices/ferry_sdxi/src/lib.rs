// SPDX-License-Identifier: GPL-2.0

//! A model of an SDXI 1.0 function (class 0x120100).
//!
//! ```text
//!   BAR 0 ── registers ── Function ── thread: activates, stops ─┐ start, stop
//!   BAR 2 ── doorbells ─────────────────── lane ── Context ◄────┘ of all by the function,
//!                                          lane ── Context ◄──┐   of others by context 0
//!                                          ...     CXT_START ─┘
//! ```
//!
//! [`registers`], [`layout`] and [`descriptor`] are pure, and written from the datasheet alone;
//! [`context`] works on any memory; [`choices`] says what was decided where the datasheet is
//! silent. One lane (a thread) runs each context, as many at once as there are.

#![forbid(unsafe_code)]

pub mod choices;
pub mod context;
pub mod descriptor;
pub mod function;
pub mod layout;
pub mod registers;

use context::{Context, View};
use ferry_vfio::config::{self, Bar, ConfigSpace, Identity};
use ferry_vfio::fault::Kind;
use ferry_vfio::lane::Lane;
use ferry_vfio::{mmio, server, Device, Host};
use function::Function;
use registers::{Register, Registers, State};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use thiserror::Error;

/// BAR of the registers.
pub const BAR: u8 = 0;
const BAR_SIZE: u64 = 512 << 10;
/// BAR of the doorbells.
pub const DOORBELLS: u8 = 2;
/// From one doorbell to the next.
pub const STRIDE: u64 = 4096;
const DOORBELLS_LEAST: u64 = 512 << 10;
/// BAR of the MSI-X structures.
const MSIX_BAR: u8 = 4;

/// Any pair would do that no driver asks for: drivers go by the class.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x5d71,
    subsystem_vendor: 0x1b36,
    subsystem: 0x5d71,
    class: 0x12_01_00,
    revision: 0,
};

/// Most contexts: each is a thread.
pub const MOST_CONTEXTS: u16 = 1024;

/// Properties of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Contexts, context 0 included.
    pub contexts: u16,
    /// Function handle, for functions of one group to differ.
    pub sfunc: u16,
    /// The behaviour that [`choices`] calls strict.
    pub strict: bool,
    /// MSI-X, with a vector for each context and one for errors; else MSI, with at most 32.
    pub msix: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            contexts: 64,
            sfunc: 1,
            strict: true,
            msix: true,
        }
    }
}

/// Reason for which a function cannot be built.
#[derive(Debug, Error)]
pub enum Refused {
    /// Too many or none.
    #[error("a function has 1 to {MOST_CONTEXTS} contexts")]
    Contexts,
    /// Configuration space.
    #[error(transparent)]
    Config(#[from] config::Error),
}

impl Options {
    fn vectors(&self) -> (u16, u16) {
        let wanted = self.contexts + 1;
        match self.msix {
            true => (1, wanted),
            false => (wanted.next_power_of_two().min(32), 0),
        }
    }

    fn registers(&self) -> Registers {
        let cap0 = u64::from(self.sfunc) | choices::RING << 24;
        let groups = u64::from(choices::group_bit(4));
        let highest = u64::from(self.contexts - 1);
        let cap1 = choices::BUFFER | choices::AKEYS << 12 | highest << 16 | groups << 32;
        Registers::new(cap0, cap1)
    }

    fn config(&self) -> Result<ConfigSpace, Refused> {
        if !(1..=MOST_CONTEXTS).contains(&self.contexts) {
            return Err(Refused::Contexts);
        }
        let bar = |size| {
            Some(Bar {
                size,
                wide: true,
                prefetchable: true,
            })
        };
        let mut bars = [None; 6];
        bars[usize::from(BAR)] = bar(BAR_SIZE);
        let doorbells = (u64::from(self.contexts) * STRIDE).next_power_of_two();
        bars[usize::from(DOORBELLS)] = bar(doorbells.max(DOORBELLS_LEAST));
        let (msi, msix) = self.vectors();
        let msix = (msix > 0).then_some((MSIX_BAR, msix));
        Ok(ConfigSpace::usual(IDENTITY, bars, msi, msix)?)
    }
}

/// The device: see the module.
pub struct Sdxi {
    function: Arc<Function<Context>>,
    lanes: Vec<Lane<Context>>,
    thread: Option<JoinHandle<()>>,
    host: Arc<Host>,
}

/// Creates the function.
pub fn function(options: &Options) -> io::Result<server::Function> {
    let config = options.config().map_err(io::Error::other)?;
    let host = Arc::new(Host::new(options.contexts, config.vectors()));
    let lane = |number, context| Lane::new(context, number, Arc::clone(&host));
    let mut device = Sdxi::new(options, &host, lane)?;
    let function = Arc::clone(&device.function);
    let thread = thread::Builder::new()
        .name("function".into())
        .spawn(move || function.work())?;
    device.thread = Some(thread);
    Ok(server::Function::new(config, Box::new(device), host))
}

impl Sdxi {
    fn new(
        options: &Options,
        host: &Arc<Host>,
        lane: impl Fn(u16, Context) -> io::Result<Lane<Context>>,
    ) -> io::Result<Sdxi> {
        let (msi, msix) = options.vectors();
        let vectors = if options.msix { msix } else { msi };
        let registers = options.registers();
        let function = Function::new(Arc::clone(host), registers, options.strict, vectors);
        let function = Arc::new(function);
        let context = |number| lane(number, Context::new(number, Arc::clone(&function)));
        let lanes = (0..options.contexts).map(context);
        let lanes = lanes.collect::<io::Result<Vec<_>>>()?;
        function.set_contexts(lanes.iter().map(Lane::peer).collect());
        Ok(Sdxi {
            function,
            lanes,
            thread: None,
            host: Arc::clone(host),
        })
    }

    /// Creates a device without threads, for tests that step it.
    pub fn manual(options: &Options) -> Result<(Sdxi, Arc<Host>), Refused> {
        let config = options.config()?;
        let host = Arc::new(Host::new(options.contexts, config.vectors()));
        let lane = |number, context| Ok(Lane::manual(context, number, Arc::clone(&host)));
        // Only threads can fail.
        let device = Sdxi::new(options, &host, lane).map_err(|_| Refused::Contexts)?;
        Ok((device, host))
    }

    /// Lets the function, or else the first context that has a descriptor, do one thing; `false`
    /// if nothing is left to do.
    pub fn turn(&self) -> bool {
        self.function.turn() || self.lanes.iter().any(Lane::turn)
    }

    /// Returns the addresses that a context uses.
    pub fn view(&self, number: u16) -> Option<View> {
        self.lanes.get(usize::from(number))?.with(|c| c.view())
    }

    /// Carries out a write to a doorbell.
    fn ring(&self, number: u64) {
        let rings = self
            .function
            .registers(|r| r.state() == State::Active && number <= r.max_context().into());
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let Some(lane) = self.lanes.get(usize::from(number)).filter(|_| rings) else {
            self.host.counters(0).bad_requests.bump();
            return;
        };
        self.host.counters(number).doorbells.bump();
        let lost = |fault: &Kind| matches!(fault, Kind::LostDoorbell {});
        if self.host.strike(number, lost).is_empty() {
            lane.with(Context::kick);
        }
    }
}

impl Device for Sdxi {
    fn read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar != BAR {
            data.fill(0);
            return;
        }
        mmio::read64(offset, data, |at| {
            let register = Register::at(at);
            register.map_or(0, |r| self.function.registers(|all| all.read(r)))
        });
    }

    fn write(&self, bar: u8, offset: u64, data: &[u8]) {
        let written = match bar {
            BAR => mmio::write64(offset, data, |at, value, mask| {
                if let Some(register) = Register::at(at) {
                    self.function.write(register, value, mask);
                }
            }),
            DOORBELLS => mmio::write64(offset, data, |at, _, mask| {
                if at % STRIDE == 0 && mask & 1 != 0 {
                    self.ring(at / STRIDE);
                }
            }),
            _ => true,
        };
        if !written {
            self.host.counters(0).bad_requests.bump();
        }
    }

    fn reset(&self) {
        self.function.reset();
    }

    fn idle(&self) -> bool {
        self.function.registers(Registers::state) == State::Stop
    }

    fn state(&self) -> serde_json::Value {
        let contexts: Vec<_> = self
            .lanes
            .iter()
            .filter_map(|lane| lane.with(|context| context.state()))
            .collect();
        let registers = self
            .function
            .registers(|all| Register::dump(|register| all.read(register)));
        let state = self.function.registers(Registers::state);
        serde_json::json!({
            "registers": registers,
            "state": format!("{state:?}"),
            "contexts": contexts,
        })
    }

    fn can(&self, _fault: &Kind) -> bool {
        true
    }
}

impl Drop for Sdxi {
    fn drop(&mut self) {
        self.function.quit();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the function's thread panicked");
        }
    }
}
