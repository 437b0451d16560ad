// SPDX-License-Identifier: GPL-2.0

//! PCI configuration space: a type 0 header, BARs, and a chain of real capabilities.
//!
//! Pure: bytes, a mask of the bits that software can write, and one of those it clears by writing
//! ones. What a write means beyond that is handed to the caller as [`Effects`].

use thiserror::Error;

/// Bytes of the configuration space of a PCI Express function.
pub const SIZE: usize = 4096;
/// The offset at which the conventional space ends and the extended capabilities begin.
const EXTENDED: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// Capabilities go here and upwards.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_BUS_MASTER: u8 = 1 << 2;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Writable bits of the command register: I/O, memory, bus master, parity, SERR, INTx disable.
const COMMAND_MASK: u16 = 0x0547;
const DEVCTL_FLR: u8 = 1 << 7;

/// Identity of a function.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Bytes, a power of two, at least 16.
    pub size: u64,
    /// Takes two slots, and can lie above 4 GiB.
    pub wide: bool,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

/// The place of a structure of MSI-X.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// BAR.
    pub bar: u8,
    /// Offset in it, a multiple of 8.
    pub offset: u32,
}

/// A capability of the conventional space.
#[derive(Clone, Debug)]
pub enum Capability {
    /// Power management, version 3, D0 and D3hot.
    PowerManagement,
    /// PCI Express endpoint, version 2.
    Express {
        /// With function level reset.
        flr: bool,
    },
    /// MSI with 64-bit addresses.
    Msi {
        /// Vectors: 1, 2, 4, 8, 16 or 32.
        vectors: u16,
    },
    /// MSI-X.
    MsiX {
        /// Vectors, 1 to 2048.
        vectors: u16,
        /// The table.
        table: Place,
        /// The pending bits.
        pba: Place,
    },
}

/// An extended capability, as bytes after its header.
#[derive(Clone, Debug)]
pub struct Extended {
    /// Capability ID.
    pub id: u16,
    /// Version, 4 bits.
    pub version: u8,
    /// Contents after the header.
    pub body: Vec<u8>,
    /// Bits of it that software can write; what is missing at the end is read only.
    pub writable: Vec<u8>,
}

/// Reason for which a configuration space cannot be built.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// Wrong size or slot.
    #[error("BAR {0} cannot be had: wrong size, no such slot, or taken by the BAR before it")]
    Bar(usize),
    /// Out of room.
    #[error("the capabilities do not fit into configuration space")]
    Room,
    /// Wrong number of vectors.
    #[error("{0} interrupt vectors cannot be had")]
    Vectors(u16),
    /// Outside its BAR.
    #[error("the MSI-X structures do not fit into their BAR")]
    Place,
}

/// Side effect of a write to the configuration space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// A function level reset.
    pub flr: bool,
}

/// See the module.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    initial: Vec<u8>,
    writable: Vec<u8>,
    bars: [Option<Bar>; 6],
    vectors: (u16, u16),
    devctl: Option<usize>,
    next: usize,
    link: usize,
    next_extended: usize,
}

impl ConfigSpace {
    /// Creates a function with these BARs, and with these capabilities in this order.
    pub fn new(
        identity: Identity,
        bars: [Option<Bar>; 6],
        capabilities: &[Capability],
        extended: &[Extended],
    ) -> Result<ConfigSpace, Error> {
        let mut space = ConfigSpace {
            bytes: vec![0; SIZE],
            initial: Vec::new(),
            writable: vec![0; SIZE],
            bars,
            vectors: (0, 0),
            devctl: None,
            next: FIRST_CAPABILITY,
            link: CAPABILITIES,
            next_extended: EXTENDED,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.mask(COMMAND, &COMMAND_MASK.to_le_bytes());
        space.put(0x08, &[identity.revision]);
        space.put(0x09, &identity.class.to_le_bytes()[..3]);
        // Cache line size and interrupt line are scratch for software.
        space.mask(0x0c, &[0xff]);
        space.mask(0x3c, &[0xff]);
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        space.add_bars()?;
        for capability in capabilities {
            space.add(capability)?;
        }
        for capability in extended {
            space.add_extended(capability)?;
        }
        space.initial = space.bytes.clone();
        Ok(space)
    }

    /// Creates a function with these BARs, power management, PCI Express with function level reset,
    /// MSI, and MSI-X in a BAR of its own if it is given one.
    pub fn usual(
        identity: Identity,
        mut bars: [Option<Bar>; 6],
        msi: u16,
        msix: Option<(u8, u16)>,
    ) -> Result<ConfigSpace, Error> {
        let mut capabilities = vec![
            Capability::PowerManagement,
            Capability::Express { flr: true },
            Capability::Msi { vectors: msi },
        ];
        if let Some((bar, vectors)) = msix {
            let table = (u32::from(vectors) * 16).next_power_of_two().max(0x1000);
            let slot = bars.get_mut(usize::from(bar));
            *slot.ok_or(Error::Bar(bar.into()))? = Some(Bar {
                size: u64::from(table) * 2,
                wide: false,
                prefetchable: false,
            });
            let place = |offset| Place { bar, offset };
            capabilities.push(Capability::MsiX {
                vectors,
                table: place(0),
                pba: place(table),
            });
        }
        ConfigSpace::new(identity, bars, &capabilities, &[])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn mask(&mut self, at: usize, bytes: &[u8]) {
        self.writable[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn add_bars(&mut self) -> Result<(), Error> {
        for (i, bar) in self.bars.into_iter().enumerate() {
            let Some(bar) = bar else { continue };
            let limit = if bar.wide { 1 << 62 } else { 1 << 31 };
            let taken = i > 0 && self.bars[i - 1].is_some_and(|b| b.wide);
            if !bar.size.is_power_of_two()
                || !(16..=limit).contains(&bar.size)
                || taken
                || (bar.wide && i == 5)
            {
                return Err(Error::Bar(i));
            }
            let at = BARS + 4 * i;
            self.put(
                at,
                &[u8::from(bar.wide) << 2 | u8::from(bar.prefetchable) << 3],
            );
            let mask = !(bar.size - 1);
            let width = if bar.wide { 8 } else { 4 };
            self.mask(at, &mask.to_le_bytes()[..width]);
        }
        Ok(())
    }

    fn add(&mut self, capability: &Capability) -> Result<(), Error> {
        match *capability {
            Capability::PowerManagement => {
                let mut body = [0; 6];
                body[0] = 3;
                // No_Soft_Reset: D3hot keeps the state.
                body[2] = 1 << 3;
                self.append(0x01, &body, &[0, 0, 3])?;
            }
            Capability::Express { flr } => {
                let mut body = [0; 0x3a];
                let devcap = 1u32 << 15 | u32::from(flr) << 28;
                body[0] = 2;
                body[2..6].copy_from_slice(&devcap.to_le_bytes());
                // 2.5 GT/s, one lane: capabilities and status of the link.
                body[0x0a..0x0e].copy_from_slice(&0x11u32.to_le_bytes());
                body[0x10..0x12].copy_from_slice(&0x11u16.to_le_bytes());
                let mut writable = [0; 0x3a];
                // Device control, without the reset, which always reads as 0.
                writable[6..8].copy_from_slice(&0x7fffu16.to_le_bytes());
                let at = self.append(0x10, &body, &writable)?;
                self.devctl = flr.then_some(at + 8);
            }
            Capability::Msi { vectors } => {
                if !vectors.is_power_of_two() || vectors > 32 {
                    return Err(Error::Vectors(vectors));
                }
                let mut body = [0; 0x0c];
                // 64-bit addresses, and how many vectors there are.
                let control = 1u16 << 7 | (vectors.trailing_zeros() as u16) << 1;
                body[..2].copy_from_slice(&control.to_le_bytes());
                let mut writable = [0xff; 0x0c];
                writable[..3].copy_from_slice(&[0x71, 0, 0xfc]);
                self.append(0x05, &body, &writable)?;
                self.vectors.0 = vectors;
            }
            Capability::MsiX {
                vectors,
                table,
                pba,
            } => {
                if !(1..=2048).contains(&vectors) {
                    return Err(Error::Vectors(vectors));
                }
                let table_size = u64::from(vectors) * 16;
                let pba_size = u64::from(vectors).div_ceil(64) * 8;
                let fits = |p: Place, size: u64| {
                    let bar = self.bars.get(usize::from(p.bar)).copied().flatten();
                    p.offset % 8 == 0 && bar.is_some_and(|b| u64::from(p.offset) + size <= b.size)
                };
                if !fits(table, table_size) || !fits(pba, pba_size) {
                    return Err(Error::Place);
                }
                let mut body = [0; 0x0a];
                body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
                let place = |p: Place| (p.offset | u32::from(p.bar)).to_le_bytes();
                body[2..6].copy_from_slice(&place(table));
                body[6..10].copy_from_slice(&place(pba));
                self.append(0x11, &body, &[0, 0xc0])?;
                self.vectors.1 = vectors;
            }
        }
        Ok(())
    }

    /// Appends a capability and returns where it begins.
    fn append(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<usize, Error> {
        let at = self.next;
        let end = at + 2 + body.len();
        if end > EXTENDED {
            return Err(Error::Room);
        }
        // Below 256, as just checked.
        self.put(self.link, &[at as u8]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.mask(at + 2, writable);
        self.link = at + 1;
        self.next = end.next_multiple_of(4);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        Ok(at)
    }

    fn add_extended(&mut self, capability: &Extended) -> Result<(), Error> {
        let at = self.next_extended;
        let end = at + 4 + capability.body.len();
        if end > SIZE || capability.writable.len() > capability.body.len() {
            return Err(Error::Room);
        }
        let header = u32::from(capability.id) | u32::from(capability.version & 0xf) << 16;
        self.put(at, &header.to_le_bytes());
        self.put(at + 4, &capability.body);
        self.mask(at + 4, &capability.writable);
        if self.link >= EXTENDED {
            let before = u16::from_le_bytes([self.bytes[self.link + 2], self.bytes[self.link + 3]]);
            let linked = before & 0xf | (at as u16) << 4;
            self.put(self.link + 2, &linked.to_le_bytes());
        }
        self.link = at;
        self.next_extended = end.next_multiple_of(4);
        Ok(())
    }

    /// Returns the BARs.
    pub fn bars(&self) -> &[Option<Bar>; 6] {
        &self.bars
    }

    /// Vectors of MSI and of MSI-X.
    pub fn vectors(&self) -> (u16, u16) {
        self.vectors
    }

    /// Returns `true` if the function answers to accesses to its BARs.
    pub fn memory(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MEMORY != 0
    }

    /// Returns `true` if the function may access memory and send interrupts.
    pub fn bus_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_BUS_MASTER != 0
    }

    /// Fills `data`; what lies outside reads as ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in (0u64..).zip(data.iter_mut()) {
            let at = offset.checked_add(i).and_then(|a| usize::try_from(a).ok());
            *byte = at.and_then(|a| self.bytes.get(a).copied()).unwrap_or(0xff);
        }
    }

    /// Writes what can be written; what lies outside is dropped.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effects {
        let mut effects = Effects::default();
        for (i, value) in (0u64..).zip(data.iter().copied()) {
            let at = offset.checked_add(i).and_then(|a| usize::try_from(a).ok());
            let Some(at) = at.filter(|a| *a < SIZE) else {
                break;
            };
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | value & mask;
            effects.flr |= self.devctl.is_some_and(|d| d + 1 == at) && value & DEVCTL_FLR != 0;
        }
        effects
    }

    /// Restores the values that the function has after a reset.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.initial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1022,
        device: 0x1498,
        subsystem_vendor: 0x1022,
        subsystem: 0x1498,
        class: 0x10_80_00,
        revision: 1,
    };
    const NARROW: Bar = Bar {
        size: 0x2000,
        wide: false,
        prefetchable: false,
    };
    const WIDE: Bar = Bar {
        size: 1 << 33,
        wide: true,
        prefetchable: true,
    };

    fn all() -> Vec<Capability> {
        let (table, pba) = (
            Place { bar: 5, offset: 0 },
            Place {
                bar: 5,
                offset: 0x1000,
            },
        );
        vec![
            Capability::PowerManagement,
            Capability::Express { flr: true },
            Capability::Msi { vectors: 4 },
            Capability::MsiX {
                vectors: 16,
                table,
                pba,
            },
        ]
    }

    fn space() -> ConfigSpace {
        let bars = [None, None, Some(WIDE), None, None, Some(NARROW)];
        let extended = [0x0001, 0x000b].map(|id| Extended {
            id,
            version: 1,
            body: vec![0; 16],
            writable: vec![],
        });
        ConfigSpace::new(IDENTITY, bars, &all(), &extended).unwrap()
    }

    fn get(space: &ConfigSpace, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        space.read(offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    #[test]
    fn header() {
        let space = space();
        assert_eq!(get(&space, 0, 4), 0x1498_1022);
        assert_eq!(get(&space, 8, 4), 0x1080_0001);
        assert_eq!(get(&space, 0x2c, 4), 0x1498_1022);
        assert_eq!(get(&space, 0x0e, 1), 0, "type 0, single function");
    }

    #[test]
    fn capabilities_are_found_by_walking() {
        let space = space();
        assert_eq!(get(&space, STATUS as u64, 2) & 0x10, 0x10);
        let (mut at, mut ids) = (get(&space, 0x34, 1), Vec::new());
        while at != 0 {
            assert_eq!(at % 4, 0);
            ids.push(get(&space, at, 1));
            at = get(&space, at + 1, 1);
        }
        assert_eq!(ids, [0x01, 0x10, 0x05, 0x11]);
        let (mut at, mut ids) = (0x100, Vec::new());
        while at != 0 {
            ids.push(get(&space, at, 2));
            at = get(&space, at + 2, 2) >> 4;
        }
        assert_eq!(ids, [0x01, 0x0b]);
        assert_eq!(space.vectors(), (4, 16));
    }

    #[test]
    fn bars_say_their_size() {
        let mut space = space();
        assert_eq!(space.write(0x18, &[0xff; 8]), Effects::default());
        assert_eq!(get(&space, 0x18, 8), !((1 << 33) - 1) | 0xc);
        space.write(0x24, &[0xff; 4]);
        assert_eq!(get(&space, 0x24, 4), 0xffff_e000);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(get(&space, 0x10, 4), 0, "a BAR that is none");
    }

    #[test]
    fn reset_forgets_and_flr_is_seen() {
        let mut space = space();
        assert!(!space.bus_master() && !space.memory());
        space.write(4, &[0xff, 0xff]);
        assert!(space.bus_master() && space.memory());
        assert_eq!(get(&space, 4, 2), u64::from(COMMAND_MASK));
        let devctl = 0x48 + 8;
        assert_eq!(get(&space, 0x48, 1), 0x10);
        assert_eq!(space.write(devctl, &[0, 0x7f]), Effects::default());
        assert_eq!(space.write(devctl, &[0, 0x80]), Effects { flr: true });
        assert_eq!(get(&space, devctl, 2) & 0x8000, 0);
        space.reset();
        assert!(!space.bus_master() && !space.memory());
        assert_eq!(get(&space, 0, 4), 0x1498_1022);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let build = |i: usize, bar: Bar| {
            let mut bars = [None; 6];
            bars[i] = Some(bar);
            ConfigSpace::new(IDENTITY, bars, &[], &[]).err()
        };
        assert_eq!(build(5, WIDE), Some(Error::Bar(5)));
        for size in [0, 8, 0x1001, 1 << 32] {
            assert_eq!(build(0, Bar { size, ..NARROW }), Some(Error::Bar(0)));
        }
        let bars = [Some(WIDE), Some(NARROW), None, None, None, None];
        let built = ConfigSpace::new(IDENTITY, bars, &[], &[]);
        assert_eq!(built.err(), Some(Error::Bar(1)));
        let built = ConfigSpace::new(IDENTITY, [None; 6], &all(), &[]);
        assert_eq!(
            built.err(),
            Some(Error::Place),
            "MSI-X in a BAR that is not there"
        );
        let many = vec![Capability::Msi { vectors: 1 }; 20];
        let built = ConfigSpace::new(IDENTITY, [None; 6], &many, &[]);
        assert_eq!(built.err(), Some(Error::Room));
        for vectors in [0, 3, 64] {
            let built = ConfigSpace::new(IDENTITY, [None; 6], &[Capability::Msi { vectors }], &[]);
            assert_eq!(built.err(), Some(Error::Vectors(vectors)));
        }
    }

    proptest! {
        /// Checks that no write changes the identity of the function and the chain of its
        /// capabilities.
        #[test]
        fn read_only_stays(
            writes in proptest::collection::vec(
                (prop_oneof![0u64..0x120, any::<u64>()], proptest::collection::vec(any::<u8>(), 0..16)),
                0..64,
            )
        ) {
            let fresh = space();
            let mut space = space();
            for (offset, data) in writes {
                space.write(offset, &data);
                space.read(offset, &mut vec![0; data.len()]);
            }
            for (at, len) in [(0, 4), (8, 4), (0x2c, 4), (0x34, 1), (0x40, 2), (0x48, 2), (0x100, 4)] {
                prop_assert_eq!(get(&space, at, len), get(&fresh, at, len));
            }
        }
    }
}
