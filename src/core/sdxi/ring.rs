// SPDX-License-Identifier: GPL-2.0

//! A descriptor ring: the owner of each slot, and when a copy is done.
//!
//! Indices are 64 bits and never wrap; the slot of an index is the index modulo the size of the
//! ring. There is one producer at a time (the caller holds a lock), which makes the order of
//! section 6.2 of the standard simple: whole descriptors that are not valid, their valid bits, the
//! write index, the doorbell. No descriptor below the write index is ever incomplete.
//!
//! Every descriptor has a completion status block of its own, that of its slot. A slot is used
//! again when its block says that the descriptor is done, in the order of the ring; `read_index`
//! proves nothing. So the device decides only when a slot becomes free: it cannot make software use
//! a slot that is taken, or a slot that does not exist.
//!
//! A descriptor may have a tag that is reported when it is done. The report covers all copies since
//! the last report: it is good if each of them was.

use super::descriptor::{
    Descriptor,
    VALID, //
};
use core::ops::DerefMut;

/// The memory of a ring, its completion status blocks, and the doorbell.
pub trait Memory {
    /// Writes a whole descriptor, which is not valid, with the address of its slot's block, and
    /// arms the block. Orders nothing.
    fn write(&self, slot: usize, descriptor: &Descriptor);

    /// Writes word 0 of a descriptor, after all earlier writes.
    fn validate(&self, slot: usize, word0: u64);

    /// Writes the write index, after all earlier writes.
    #[doc(alias = "Write_Index")]
    fn set_write_index(&self, index: u64);

    /// Writes the doorbell, after all earlier writes.
    #[doc(alias = "doorbell")]
    fn ring(&self, index: u64);

    /// Returns the signal of a block, and orders this read before all later reads.
    fn signal(&self, slot: usize) -> u64;

    /// Returns `true` if the block says that the descriptor failed. The caller has read the signal
    /// before.
    #[doc(alias = "er")]
    fn failed(&self, slot: usize) -> bool;
}

/// The report that a descriptor leads to when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// There is no report, and the descriptor belongs to no copy: it is an interrupt.
    None,
    /// The next report covers the descriptor, too.
    Later,
    /// The descriptor is reported with this tag.
    Tag(u32),
}

/// The software state of a slot: the descriptor in it, if any.
#[derive(Clone, Copy, Debug)]
pub struct RingSlot {
    word0: u64,
    report: Report,
}

impl RingSlot {
    /// The state of a slot without a descriptor.
    pub const EMPTY: Self = Self {
        word0: 0,
        report: Report::None,
    };
}

/// The error of a ring without a free slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A ring with as many slots as `S` has.
#[derive(Debug)]
pub struct Ring<S> {
    slots: S,
    /// The index of the first descriptor that is not known to be done.
    head: u64,
    /// The index of the first descriptor that the device does not know of.
    published: u64,
    /// The index of the next descriptor.
    tail: u64,
    /// `true` if all copies since the last report were good.
    good: bool,
}

impl<S: DerefMut<Target = [RingSlot]>> Ring<S> {
    /// Creates an empty ring. Returns `None` if there are no slots.
    pub fn new(slots: S) -> Option<Self> {
        if slots.is_empty() {
            return None;
        }
        Some(Self {
            slots,
            head: 0,
            published: 0,
            tail: 0,
            good: true,
        })
    }

    fn size(&self) -> u64 {
        self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> usize {
        (index % self.size()) as usize
    }

    /// Returns the number of free slots.
    pub fn free(&self) -> usize {
        (self.size() - (self.tail - self.head)) as usize
    }

    /// Returns the number of descriptors that are not known to be done, including descriptors that
    /// the device does not know of.
    pub fn outstanding(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Returns the number of descriptors that the device does not know of.
    pub fn unpublished(&self) -> usize {
        (self.tail - self.published) as usize
    }

    /// Returns two indices for debugfs: that of the first descriptor that is not known to be done,
    /// and that of the first one that the device does not know of.
    pub fn indices(&self) -> (u64, u64) {
        (self.head, self.published)
    }

    /// Reserves the next slot and writes the descriptor, with the block of its slot. The device
    /// does not see the descriptor yet.
    ///
    /// # Errors
    ///
    /// Returns [`Full`] if no slot is free. Nothing is written then.
    pub fn push<M: Memory>(
        &mut self,
        memory: &M,
        descriptor: &Descriptor,
        report: Report,
    ) -> Result<(), Full> {
        if self.free() == 0 {
            return Err(Full);
        }
        let at = self.slot(self.tail);
        let slot = self.slots.get_mut(at).ok_or(Full)?;
        *slot = RingSlot {
            word0: descriptor.words()[0] | VALID,
            report,
        };
        memory.write(at, descriptor);
        self.tail += 1;
        Ok(())
    }

    /// Hands the descriptors that were pushed to the device, with one doorbell. Returns `false` if
    /// there were none.
    pub fn publish<M: Memory>(&mut self, memory: &M) -> bool {
        if self.published == self.tail {
            return false;
        }
        for index in self.published..self.tail {
            let at = self.slot(index);
            if let Some(slot) = self.slots.get(at) {
                memory.validate(at, slot.word0);
            }
        }
        self.published = self.tail;
        memory.set_write_index(self.tail);
        memory.ring(self.tail);
        true
    }

    /// Reports the descriptors that are done, in order. Returns how many slots became free.
    pub fn reap<M: Memory>(&mut self, memory: &M, mut report: impl FnMut(u32, bool)) -> usize {
        let before = self.head;
        while self.head < self.published {
            let at = self.slot(self.head);
            if memory.signal(at) != 0 {
                break;
            }
            let failed = memory.failed(at);
            self.settle(at, !failed, &mut report);
        }
        (self.head - before) as usize
    }

    /// Reports all outstanding descriptors, as failed unless they are done, and begins anew from
    /// index 0. Returns how many there were.
    ///
    /// The caller has proof that the device has stopped and does not touch the memory of any of
    /// them.
    pub fn abandon<M: Memory>(&mut self, memory: &M, mut report: impl FnMut(u32, bool)) -> usize {
        let before = self.head;
        while self.head < self.tail {
            let at = self.slot(self.head);
            let done = self.head < self.published && memory.signal(at) == 0;
            let good = done && !memory.failed(at);
            self.settle(at, good, &mut report);
        }
        let n = (self.head - before) as usize;
        (self.head, self.published, self.tail) = (0, 0, 0);
        self.good = true;
        n
    }

    /// Ends the descriptor at the head.
    fn settle(&mut self, at: usize, good: bool, report: &mut impl FnMut(u32, bool)) {
        self.head += 1;
        match self.slots.get(at).map_or(Report::None, |slot| slot.report) {
            Report::None => {}
            Report::Later => self.good &= good,
            Report::Tag(tag) => {
                report(tag, self.good && good);
                self.good = true;
            }
        }
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_sdxi_ring))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::sdxi::descriptor::WORDS;
    use core::cell::Cell;

    const SLOTS: usize = 3;

    /// Memory, and a device that does what a test asks for.
    struct Device {
        words: [Cell<[u64; WORDS]>; SLOTS],
        signal: [Cell<u64>; SLOTS],
        failed: [Cell<bool>; SLOTS],
        write_index: Cell<u64>,
        doorbell: Cell<u64>,
        doorbells: Cell<u32>,
    }

    impl Device {
        fn new() -> Self {
            Self {
                words: [const { Cell::new([0; WORDS]) }; SLOTS],
                signal: [const { Cell::new(0) }; SLOTS],
                failed: [const { Cell::new(true) }; SLOTS],
                write_index: Cell::new(0),
                doorbell: Cell::new(0),
                doorbells: Cell::new(0),
            }
        }

        /// Carries out the descriptor of this index.
        fn run(&self, index: u64, good: bool) {
            assert!(index < self.doorbell.get());
            let at = index as usize % SLOTS;
            let mut words = self.words[at].get();
            assert!(words[0] & VALID != 0);
            words[0] &= !VALID;
            self.words[at].set(words);
            self.failed[at].set(!good);
            assert_eq!(self.signal[at].replace(0), 1);
        }
    }

    impl Memory for Device {
        fn write(&self, slot: usize, descriptor: &Descriptor) {
            let words = descriptor.words();
            assert!(words[0] & VALID == 0);
            assert!(self.words[slot].get()[0] & VALID == 0);
            self.words[slot].set(*words);
            self.signal[slot].set(1);
            self.failed[slot].set(false);
        }

        fn validate(&self, slot: usize, word0: u64) {
            let mut words = self.words[slot].get();
            assert_eq!(words[0] | VALID, word0);
            words[0] = word0;
            self.words[slot].set(words);
        }

        fn set_write_index(&self, index: u64) {
            assert!(index > self.write_index.get());
            self.write_index.set(index);
        }

        fn ring(&self, index: u64) {
            assert_eq!(index, self.write_index.get());
            self.doorbell.set(index);
            self.doorbells.set(self.doorbells.get() + 1);
        }

        fn signal(&self, slot: usize) -> u64 {
            self.signal[slot].get()
        }

        fn failed(&self, slot: usize) -> bool {
            self.failed[slot].get()
        }
    }

    /// The reports, as numbers: 10 * tag + good.
    #[derive(Default)]
    struct Reports {
        all: [u32; 8],
        n: usize,
    }

    impl Reports {
        fn add(&mut self, tag: u32, good: bool) {
            self.all[self.n] = 10 * tag + u32::from(good);
            self.n += 1;
        }

        fn are(&self, expected: &[u32]) -> bool {
            self.all[..self.n] == *expected
        }
    }

    fn ring(slots: &mut [RingSlot; SLOTS]) -> Ring<&mut [RingSlot]> {
        match Ring::new(&mut slots[..]) {
            Some(ring) => ring,
            None => panic!("no slots"),
        }
    }

    const NOP: Descriptor = Descriptor::nop();

    #[test]
    fn no_ring_without_slots() {
        let none: &mut [RingSlot] = &mut [];
        assert!(Ring::new(none).is_none());
    }

    #[test]
    fn wraps_many_times() {
        let device = Device::new();
        let mut slots = [RingSlot::EMPTY; SLOTS];
        let mut ring = ring(&mut slots);
        for round in 0..100u64 {
            for i in 0..SLOTS as u32 {
                assert_eq!(ring.push(&device, &NOP, Report::Tag(i)), Ok(()));
            }
            assert_eq!(ring.push(&device, &NOP, Report::Tag(9)), Err(Full));
            assert_eq!(ring.unpublished(), SLOTS);
            assert!(ring.publish(&device));
            assert!(!ring.publish(&device));
            assert_eq!(u64::from(device.doorbells.get()), round + 1);
            let mut reports = Reports::default();
            // The device carries them out in another order.
            device.run(3 * round + 2, true);
            device.run(3 * round + 1, true);
            assert_eq!(ring.reap(&device, |t, g| reports.add(t, g)), 0);
            assert_eq!(ring.free(), 0);
            device.run(3 * round, true);
            assert_eq!(ring.reap(&device, |t, g| reports.add(t, g)), 3);
            assert!(reports.are(&[1, 11, 21]));
            assert_eq!(ring.free(), SLOTS);
        }
        assert_eq!(ring.indices(), (300, 300));
    }

    #[test]
    fn a_report_covers_those_before() {
        let device = Device::new();
        let mut slots = [RingSlot::EMPTY; SLOTS];
        let mut ring = ring(&mut slots);
        let mut reports = Reports::default();
        for bad in 0..4 {
            let first = 3 * bad;
            for report in [Report::Later, Report::Tag(bad as u32), Report::None] {
                assert_eq!(ring.push(&device, &NOP, report), Ok(()));
            }
            ring.publish(&device);
            for i in 0..3 {
                device.run(first + i, i != bad);
            }
            ring.reap(&device, |t, g| reports.add(t, g));
        }
        // The interrupt is not a copy, and a failed report does not affect the next one.
        assert!(reports.are(&[0, 10, 21, 31]));
    }

    #[test]
    fn reaps_only_what_was_published() {
        let device = Device::new();
        let mut slots = [RingSlot::EMPTY; SLOTS];
        let mut ring = ring(&mut slots);
        assert_eq!(ring.push(&device, &NOP, Report::Tag(1)), Ok(()));
        device.signal[0].set(0);
        let mut reports = Reports::default();
        assert_eq!(ring.reap(&device, |t, g| reports.add(t, g)), 0);
        assert!(reports.are(&[]));
    }

    #[test]
    fn abandons() {
        let device = Device::new();
        let mut slots = [RingSlot::EMPTY; SLOTS];
        let mut ring = ring(&mut slots);
        let mut reports = Reports::default();
        assert_eq!(ring.push(&device, &NOP, Report::Tag(1)), Ok(()));
        assert_eq!(ring.push(&device, &NOP, Report::Tag(2)), Ok(()));
        ring.publish(&device);
        assert_eq!(ring.push(&device, &NOP, Report::Tag(3)), Ok(()));
        // The second descriptor is done, the first one hangs, and the third was not handed over.
        device.run(1, true);
        assert_eq!(ring.abandon(&device, |t, g| reports.add(t, g)), 3);
        assert!(reports.are(&[10, 21, 30]));
        assert_eq!(ring.indices(), (0, 0));
        assert_eq!(ring.free(), SLOTS);
    }
}
