// SPDX-License-Identifier: GPL-2.0

//! The guest's memory, as the client maps it, and what a device does with it.
//!
//! An access holds the map for reading, and an unmap takes it for writing: when the client has its
//! answer, nothing of a device touches that memory any more. Accesses are therefore cut into pieces
//! of at most [`PIECE`] bytes by their callers ([`crate::lane`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use thiserror::Error;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Longest single copy.
pub const PIECE: u64 = 256 << 10;

/// An access that the bus does not carry out.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// There is no memory, or the address space ends.
    #[error("no memory at {0:#x}")]
    Decode(u64),
    /// The mapping does not allow it.
    #[error("access to {0:#x} is not allowed")]
    Denied(u64),
    /// An atomic access must be aligned to its size.
    #[error("{0:#x} is not aligned")]
    Unaligned(u64),
}

/// The half of a copy that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Reading.
    Source(Fault),
    /// Writing.
    Destination(Fault),
}

/// Memory as a device sees it. A failed access may have been carried out in part.
pub trait Dma: Send + Sync {
    /// Reads.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Fault>;
    /// Writes.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), Fault>;
    /// Copies. Overlap is served as if the source were read first.
    fn copy(&self, source: u64, destination: u64, len: u64) -> Result<(), Side> {
        let size = usize::try_from(len).map_err(|_| Side::Source(Fault::Decode(source)))?;
        let mut data = vec![0; size];
        self.read(source, &mut data).map_err(Side::Source)?;
        self.write(destination, &data).map_err(Side::Destination)
    }
    /// Reads an aligned 64-bit word in one piece; what is read later is not read before it.
    fn load64(&self, address: u64) -> Result<u64, Fault> {
        aligned(address)?;
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
    /// Writes an aligned 64-bit word in one piece; what was written before can be seen first.
    fn store64(&self, address: u64, value: u64) -> Result<(), Fault> {
        aligned(address)?;
        self.write(address, &value.to_le_bytes())
    }
    /// Applies `change` to the 64-bit word at `address` atomically; the old value.
    fn update64(&self, address: u64, change: &mut dyn FnMut(u64) -> u64) -> Result<u64, Fault>;
}

fn aligned(address: u64) -> Result<(), Fault> {
    match address % 8 {
        0 => Ok(()),
        _ => Err(Fault::Unaligned(address)),
    }
}

struct Mapping {
    region: MmapRegion,
    readable: bool,
    writable: bool,
}

impl Mapping {
    fn size(&self) -> u64 {
        self.region.size() as u64
    }
}

/// See the module.
#[derive(Default)]
pub struct GuestMemory {
    map: RwLock<BTreeMap<u64, Mapping>>,
    /// Without bus mastering there is no access.
    master: AtomicBool,
    /// Ranges that the client keeps to itself: it gave no file for them.
    unbacked: AtomicU64,
}

type Map = BTreeMap<u64, Mapping>;

impl GuestMemory {
    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows accesses, or not. When it returns, none that is not allowed goes on.
    pub fn set_bus_master(&self, on: bool) {
        self.master.store(on, Ordering::SeqCst);
        if !on {
            drop(self.map_mut());
        }
    }

    /// Returns `true` if accesses are allowed.
    pub fn bus_master(&self) -> bool {
        self.master.load(Ordering::SeqCst)
    }

    /// Ranges mapped without a file so far.
    pub fn unbacked(&self) -> u64 {
        self.unbacked.load(Ordering::Relaxed)
    }

    /// Bytes mapped.
    pub fn mapped(&self) -> u64 {
        self.map().values().map(Mapping::size).sum()
    }

    /// Maps `size` bytes of `file` from `offset` at `address`.
    pub fn add(
        &self,
        address: u64,
        size: u64,
        file: Option<File>,
        offset: u64,
        readable: bool,
        writable: bool,
    ) -> io::Result<()> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let len = usize::try_from(size).map_err(|_| invalid("too large"))?;
        let last = size.checked_sub(1).and_then(|s| address.checked_add(s));
        let last = last.ok_or(invalid("empty, or beyond the address space"))?;
        let Some(file) = file else {
            // It wants messages for these (option ROMs and the like), which are no source of
            // copies.
            self.unbacked.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let end = offset
            .checked_add(size)
            .ok_or(invalid("offset overflows"))?;
        let meta = file.metadata()?;
        // Beyond the end of a file an access would be a signal.
        if meta.is_file() && meta.len() < end {
            return Err(invalid("the file is shorter than the mapping"));
        }
        let mut map = self.map_mut();
        if let Some((base, before)) = map.range(..=last).next_back() {
            if base.saturating_add(before.size() - 1) >= address {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
        }
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let region = MmapRegion::build(
            Some(FileOffset::new(file, offset)),
            len,
            protection,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(io::Error::other)?;
        let mapping = Mapping {
            region,
            readable,
            writable,
        };
        map.insert(address, mapping);
        Ok(())
    }

    /// Unmaps all that lies in a range, which must not cut a mapping.
    pub fn remove(&self, address: u64, size: u64) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let last = size.checked_sub(1).and_then(|s| address.checked_add(s));
        let last = last.ok_or_else(invalid)?;
        let mut map = self.map_mut();
        let inside: Vec<u64> = map.range(address..=last).map(|(base, _)| *base).collect();
        let cut = |(base, m): (&u64, &Mapping)| {
            let end = base.saturating_add(m.size() - 1);
            end >= address && (*base < address || end > last)
        };
        if map.range(..=last).next_back().is_some_and(cut)
            || map.range(..address).next_back().is_some_and(cut)
        {
            return Err(invalid());
        }
        for base in inside {
            map.remove(&base);
        }
        Ok(())
    }

    /// Unmaps everything.
    pub fn clear(&self) {
        self.map_mut().clear();
    }

    /// Access to the aligned 64-bit word at `address`.
    fn word<R>(
        &self,
        address: u64,
        write: bool,
        access: impl FnOnce(&AtomicU64) -> R,
    ) -> Result<R, Fault> {
        aligned(address)?;
        let map = self.map();
        let slice = self.piece(&map, address, 8, write)?;
        let word = slice.get_atomic_ref::<AtomicU64>(0);
        word.map(access).map_err(|_| Fault::Decode(address))
    }

    /// Returns the longest piece of memory at `address`, at most `len` bytes.
    fn piece<'a>(
        &self,
        map: &'a Map,
        address: u64,
        len: u64,
        write: bool,
    ) -> Result<VolatileSlice<'a>, Fault> {
        let decode = Fault::Decode(address);
        if !self.master.load(Ordering::SeqCst) {
            return Err(Fault::Denied(address));
        }
        let (base, mapping) = map.range(..=address).next_back().ok_or(decode)?;
        let offset = address - base;
        let rest = mapping.size().checked_sub(offset).filter(|r| *r > 0);
        let rest = rest.ok_or(decode)?;
        if !(if write {
            mapping.writable
        } else {
            mapping.readable
        }) {
            return Err(Fault::Denied(address));
        }
        let bounds = (usize::try_from(offset), usize::try_from(rest.min(len)));
        let (Ok(offset), Ok(count)) = bounds else {
            return Err(decode);
        };
        mapping.region.get_slice(offset, count).map_err(|_| decode)
    }
}

/// Returns `address` + `done`, which must lie in the address space.
fn step(address: u64, done: u64) -> Result<u64, Fault> {
    address.checked_add(done).ok_or(Fault::Decode(u64::MAX))
}

impl Dma for GuestMemory {
    fn read(&self, address: u64, mut data: &mut [u8]) -> Result<(), Fault> {
        let map = self.map();
        let mut at = address;
        while !data.is_empty() {
            let slice = self.piece(&map, at, data.len() as u64, false)?;
            let done = slice.copy_to(data).max(1).min(data.len());
            data = &mut data[done..];
            if !data.is_empty() {
                at = step(at, done as u64)?;
            }
        }
        Ok(())
    }

    fn write(&self, address: u64, mut data: &[u8]) -> Result<(), Fault> {
        let map = self.map();
        let mut at = address;
        while !data.is_empty() {
            let slice = self.piece(&map, at, data.len() as u64, true)?;
            let done = slice.len().max(1).min(data.len());
            slice.copy_from(&data[..done]);
            data = &data[done..];
            if !data.is_empty() {
                at = step(at, done as u64)?;
            }
        }
        Ok(())
    }

    fn copy(&self, source: u64, destination: u64, len: u64) -> Result<(), Side> {
        let map = self.map();
        let mut done = 0;
        while done < len {
            let from = step(source, done).map_err(Side::Source)?;
            let to = step(destination, done).map_err(Side::Destination)?;
            let left = len - done;
            let read = self.piece(&map, from, left, false).map_err(Side::Source)?;
            let write = self
                .piece(&map, to, read.len() as u64, true)
                .map_err(Side::Destination)?;
            read.copy_to_volatile_slice(write);
            done += (write.len() as u64).max(1);
        }
        Ok(())
    }

    fn load64(&self, address: u64) -> Result<u64, Fault> {
        let load = |word: &AtomicU64| word.load(Ordering::Acquire);
        self.word(address, false, load).map(u64::from_le)
    }

    fn store64(&self, address: u64, value: u64) -> Result<(), Fault> {
        self.word(address, true, |word| {
            word.store(value.to_le(), Ordering::Release);
        })
    }

    fn update64(&self, address: u64, change: &mut dyn FnMut(u64) -> u64) -> Result<u64, Fault> {
        let mut changed = |old| Some(change(u64::from_le(old)).to_le());
        self.word(address, true, |word| {
            let update = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &mut changed);
            u64::from_le(update.unwrap_or_else(|old| old))
        })
    }
}

/// A block of bytes as a device's memory, for queues that run without a guest.
pub struct Block {
    base: u64,
    bytes: Mutex<Vec<u8>>,
}

impl Block {
    /// Creates a memory with `bytes` at `base`.
    pub fn new(base: u64, bytes: Vec<u8>) -> Block {
        Block {
            base,
            bytes: Mutex::new(bytes),
        }
    }

    /// Returns a copy of the bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(
        &self,
        address: u64,
        len: usize,
        act: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R, Fault> {
        let start = address.checked_sub(self.base).map(usize::try_from);
        let mut bytes = self.lock();
        match start {
            Some(Ok(start)) => start
                .checked_add(len)
                .and_then(|end| bytes.get_mut(start..end))
                .map(act),
            _ => None,
        }
        .ok_or(Fault::Decode(address))
    }
}

impl Dma for Block {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.with(address, data.len(), |bytes| data.copy_from_slice(bytes))
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Fault> {
        self.with(address, data.len(), |bytes| bytes.copy_from_slice(data))
    }

    fn update64(&self, address: u64, change: &mut dyn FnMut(u64) -> u64) -> Result<u64, Fault> {
        aligned(address)?;
        self.with(address, 8, |bytes| {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            let old = u64::from_le_bytes(word);
            bytes.copy_from_slice(&change(old).to_le_bytes());
            old
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vmm_sys_util::tempfile::TempFile;

    fn file(len: u64) -> File {
        let file = TempFile::new().unwrap().into_file();
        file.set_len(len).unwrap();
        file
    }

    /// Returns memory of two pages that touch, and one that cannot be written.
    fn memory() -> GuestMemory {
        let memory = GuestMemory::default();
        memory.set_bus_master(true);
        let add = |at, w| memory.add(at, 0x1000, Some(file(0x2000)), 0x1000, true, w);
        add(0x1000, true).unwrap();
        add(0x2000, true).unwrap();
        add(0x8000, false).unwrap();
        memory
    }

    #[test]
    fn across_mappings() {
        let memory = memory();
        let data: Vec<u8> = (0..64).collect();
        memory.write(0x1fe0, &data).unwrap();
        memory.copy(0x1fe0, 0x1ff0, 64).unwrap();
        let mut back = vec![0; 16];
        memory.read(0x1ff0, &mut back).unwrap();
        assert_eq!(back, data[..16]);
        memory.copy(0x1000, 0x1000, 0).unwrap();
    }

    #[test]
    fn outside_is_a_fault() {
        let memory = memory();
        let mut eight = [0; 8];
        for at in [0, 0xfff, 0x2ff9, 0x3000, u64::MAX - 3] {
            assert!(matches!(memory.read(at, &mut eight), Err(Fault::Decode(_))));
            assert!(matches!(memory.write(at, &eight), Err(Fault::Decode(_))));
        }
        assert_eq!(memory.write(0x8000, &eight), Err(Fault::Denied(0x8000)));
        memory.read(0x8000, &mut eight).unwrap();
        let copied = memory.copy(0x1000, 0x2800, 0x1000);
        assert_eq!(copied, Err(Side::Destination(Fault::Decode(0x3000))));
        let copied = memory.copy(0x2800, 0x1000, u64::MAX);
        assert_eq!(copied, Err(Side::Source(Fault::Decode(0x3000))));
    }

    #[test]
    fn last_byte_of_the_address_space() {
        let memory = memory();
        let top = u64::MAX - 0xfff;
        memory
            .add(top, 0x1000, Some(file(0x1000)), 0, true, true)
            .unwrap();
        memory.write(u64::MAX - 7, &[7; 8]).unwrap();
        let copied = memory.copy(u64::MAX - 7, 0x1000, 8);
        assert_eq!(copied, Ok(()));
        let copied = memory.copy(u64::MAX - 7, 0x1000, 9);
        assert_eq!(copied, Err(Side::Source(Fault::Decode(u64::MAX))));
        memory.remove(top, 0x1000).unwrap();
    }

    #[test]
    fn bus_master() {
        let memory = memory();
        memory.set_bus_master(false);
        assert_eq!(memory.read(0x1000, &mut [0]), Err(Fault::Denied(0x1000)));
    }

    #[test]
    fn bad_mappings_are_refused() {
        let memory = memory();
        let add = |at, size, offset| memory.add(at, size, Some(file(0x1000)), offset, true, true);
        assert!(add(0x10000, 0x2000, 0).is_err(), "longer than the file");
        assert!(add(0x10000, 0x1000, u64::MAX).is_err());
        assert!(add(0x10000, 0, 0).is_err());
        assert!(add(u64::MAX, 0x1000, 0).is_err());
        for at in [0x1000, 0x2fff, 0x800, 0x0fff] {
            assert!(add(at, 0x1000, 0).is_err(), "{at:#x} overlaps");
        }
        assert!(memory.add(0x10000, 0x1000, None, 0, true, true).is_ok());
        assert_eq!(memory.unbacked(), 1);
        assert!(memory.read(0x10000, &mut [0]).is_err());
    }

    #[test]
    fn unmapping() {
        let memory = memory();
        for (at, size) in [
            (0x1000, 0x800),
            (0x1800, 0x800),
            (0x1800, 0x1800),
            (0, 0),
            (2, u64::MAX),
        ] {
            assert!(memory.remove(at, size).is_err(), "{at:#x} {size:#x}");
        }
        assert_eq!(memory.mapped(), 0x3000);
        memory.remove(0, 0x3000).unwrap();
        assert_eq!(memory.mapped(), 0x1000);
        assert!(memory.read(0x1000, &mut [0]).is_err());
        memory.clear();
        assert_eq!(memory.mapped(), 0);
    }

    #[test]
    fn atomics() {
        let memory = memory();
        memory.write(0x1008, &5u64.to_le_bytes()).unwrap();
        assert_eq!(memory.update64(0x1008, &mut |v| v - 1), Ok(5));
        assert_eq!(memory.update64(0x1008, &mut |v| v), Ok(4));
        assert_eq!(
            memory.update64(0x100c, &mut |v| v),
            Err(Fault::Unaligned(0x100c))
        );
        assert!(memory.update64(0x9000, &mut |v| v).is_err());
        memory.store64(0x1010, 0x0102_0304_0506_0708).unwrap();
        let mut first = [0];
        memory.read(0x1010, &mut first).unwrap();
        assert_eq!(
            (memory.load64(0x1010), first),
            (Ok(0x0102_0304_0506_0708), [8])
        );
        assert_eq!(memory.load64(0x1014), Err(Fault::Unaligned(0x1014)));
        assert_eq!(memory.load64(0x3000), Err(Fault::Decode(0x3000)));
        assert_eq!(memory.load64(0x8000), Ok(0));
        assert_eq!(memory.store64(0x8000, 1), Err(Fault::Denied(0x8000)));
        assert_eq!(
            memory.update64(0x8000, &mut |v| v),
            Err(Fault::Denied(0x8000))
        );
    }

    proptest! {
        /// Against a model: bytes of an address space of four pages, of which two are there.
        #[test]
        fn copies_are_memmove(
            ops in proptest::collection::vec((0u64..0x4000, 0u64..0x4000, 0u64..0x1800), 1..20)
        ) {
            let memory = GuestMemory::default();
            memory.set_bus_master(true);
            memory.add(0x1000, 0x2000, Some(file(0x2000)), 0, true, true).unwrap();
            let mut model: Vec<u8> = (0..0x2000u32).map(|i| ((i * 31) >> 3) as u8).collect();
            memory.write(0x1000, &model).unwrap();
            for (from, to, len) in ops {
                let inside = |at| at >= 0x1000 && at + len <= 0x3000;
                let result = memory.copy(from, to, len);
                if len == 0 || inside(from) && inside(to) {
                    prop_assert_eq!(result, Ok(()));
                    if len > 0 {
                        let (from, to) = ((from - 0x1000) as usize, (to - 0x1000) as usize);
                        model.copy_within(from..from + len as usize, to);
                    }
                } else {
                    prop_assert!(result.is_err());
                    // In part is allowed; take what there is.
                    memory.read(0x1000, &mut model).unwrap();
                }
            }
            let mut all = vec![0; model.len()];
            memory.read(0x1000, &mut all).unwrap();
            prop_assert_eq!(all, model);
        }
    }
}
