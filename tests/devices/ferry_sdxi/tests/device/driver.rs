// SPDX-License-Identifier: GPL-2.0

//! A driver as the datasheet asks for it (3.3, 6.2, 7.1), with memory laid out by hand.

use ferry_harness::{pattern, wait_for, Guest, BASE};
use ferry_sdxi::{Options, BAR, DOORBELLS, STRIDE};
use std::collections::BTreeMap;

pub(crate) const CTL0: u64 = 0x0;
pub(crate) const CTL2: u64 = 0x10;
pub(crate) const STS0: u64 = 0x100;
pub(crate) const CAP0: u64 = 0x200;
pub(crate) const CAP1: u64 = 0x208;
pub(crate) const VERSION: u64 = 0x210;
pub(crate) const CXT_L2: u64 = 0x10000;
pub(crate) const ERR_CTL: u64 = 0x20000;
pub(crate) const ERR_STS: u64 = 0x20008;
pub(crate) const ERR_CFG: u64 = 0x20010;
pub(crate) const ERR_WRT: u64 = 0x20020;
pub(crate) const ERR_RD: u64 = 0x20028;

pub(crate) const RESET: u64 = 0;
pub(crate) const STOP_SF: u64 = 1;
pub(crate) const STOP_HD: u64 = 2;
pub(crate) const ACTIVATE: u64 = 3;

pub(crate) const STOP: u64 = 0;
pub(crate) const INIT: u64 = 1;
pub(crate) const ACTIVE: u64 = 2;
pub(crate) const STOPG_SF: u64 = 3;
pub(crate) const STOPG_HD: u64 = 4;
pub(crate) const ERROR: u64 = 5;

pub(crate) const STOP_SW: u64 = 0;
pub(crate) const RUN: u64 = 1;
pub(crate) const STOPG_SW: u64 = 2;
pub(crate) const STOP_FN: u64 = 4;
pub(crate) const ERR_FN: u64 = 15;

// Offsets in the guest's memory.
pub(crate) const L2: u64 = 0x0000;
const L1: [u64; 2] = [0x1000, 0x2000];
pub(crate) const LOG: u64 = 0x4000;
/// The offset of the first context's area, and the bytes from one area to the next.
const AREAS: u64 = 0x8_0000;
const AREA: u64 = 0x2_0000;

/// Descriptors of a ring. No power of two, so that the slot is a true remainder.
pub(crate) const RING: u64 = 300;

/// A context's part of the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(u64);

#[allow(missing_docs)]
impl Place {
    pub(crate) fn ring(self) -> u64 {
        self.0
    }
    pub(crate) fn akeys(self) -> u64 {
        self.0 + 0x8000
    }
    pub(crate) fn control(self) -> u64 {
        self.0 + 0x9000
    }
    pub(crate) fn status(self) -> u64 {
        self.0 + 0x9100
    }
    pub(crate) fn write_index(self) -> u64 {
        self.0 + 0x9200
    }
    pub(crate) fn csb(self, i: u64) -> u64 {
        self.0 + 0xa000 + i % 128 * 32
    }
    pub(crate) fn source(self) -> u64 {
        self.0 + 0x1_0000
    }
    pub(crate) fn destination(self) -> u64 {
        self.0 + 0x1_8000
    }
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) guest: Guest,
    options: Options,
    places: BTreeMap<u16, Place>,
    tails: BTreeMap<u16, u64>,
}

// Descriptors, without and with the fence.
pub(crate) const FENCE: u64 = 4;
pub(crate) const NO_CSB: u64 = 1;

pub(crate) fn nop() -> [u64; 8] {
    [0x0001_0101, 0, 0, 0, 0, 0, 0, NO_CSB]
}

pub(crate) fn copy(source: u64, destination: u64, len: u64) -> [u64; 8] {
    let head = (len - 1) << 32 | 0x0001_0301;
    [head, 0, BASE + source, BASE + destination, 0, 0, 0, NO_CSB]
}

pub(crate) fn interrupt(akey: u64) -> [u64; 8] {
    [0x0004_0005, akey << 32, 0, 0, 0, 0, 0, NO_CSB]
}

fn range(first: u16, last: u16) -> u64 {
    u64::from(first) | u64::from(last) << 16
}

pub(crate) fn start(first: u16, last: u16) -> [u64; 8] {
    [0x0002_0305, range(first, last), 0, 0, 0, 0, 0, NO_CSB]
}

pub(crate) fn stop(first: u16, last: u16, hard: bool) -> [u64; 8] {
    let head = 0x0002_0405 | u64::from(hard) << 45;
    [head, range(first, last), 0, 0, 0, 0, 0, NO_CSB]
}

pub(crate) fn sync(filter: u64, first: u16, last: u16) -> [u64; 8] {
    let head = 0x0002_0601 | filter << 32;
    [head, range(first, last), 0, 0, 0, 0, 0, NO_CSB]
}

pub(crate) fn update(first: u16, last: u16) -> [u64; 8] {
    [0x2_0002_0101, range(first, last), 0, 0, 0, 0, 0, NO_CSB]
}

/// An entry of the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) step: u64,
    pub(crate) sub: u64,
    pub(crate) reaction: u64,
    pub(crate) context: u64,
    pub(crate) index: Option<u64>,
    pub(crate) buffer: Option<u64>,
}

impl Driver {
    pub(crate) fn new() -> Driver {
        Driver::with(Options::default())
    }

    /// Brings the function up.
    pub(crate) fn with(options: Options) -> Driver {
        let mut driver = Driver::cold(options);
        driver.bring_up();
        driver
    }

    /// Connects to a new function, and does nothing else.
    pub(crate) fn cold(options: Options) -> Driver {
        let function = ferry_sdxi::function(&options).unwrap();
        let vectors = match options.msix {
            true => (1, options.contexts + 1),
            false => (32, 0),
        };
        Driver {
            guest: Guest::new(function, vectors),
            options,
            places: BTreeMap::new(),
            tails: BTreeMap::new(),
        }
    }

    pub(crate) fn r(&mut self, register: u64) -> u64 {
        self.guest.read64(BAR, register)
    }

    pub(crate) fn w(&mut self, register: u64, value: u64) {
        self.guest.write64(BAR, register, value);
    }

    pub(crate) fn await_state(&mut self, state: u64) {
        wait_for("the function's state", || self.r(STS0) == state);
    }

    /// Steps 0 to 10 of an activation.
    pub(crate) fn bring_up(&mut self) {
        self.prepare();
        self.w(CTL0, ACTIVATE);
        self.await_state(ACTIVE);
        self.ring(0);
    }

    /// Steps 0 to 8.
    pub(crate) fn prepare(&mut self) {
        assert_eq!(self.r(STS0), STOP);
        self.w(CTL0, 0);
        assert_eq!(self.r(VERSION), 0x1_0000);
        let cap1 = self.r(CAP1);
        self.w(CTL2, cap1);
        self.places.clear();
        self.tails.clear();
        self.guest.put(0, &[0; 0x8000]);
        self.w(CXT_L2, BASE + L2);
        for (i, table) in (0..).zip(L1) {
            self.guest.put64(L2 + i * 8, BASE + table + 1);
        }
        self.make(0);
        let place = self.place(0);
        self.guest.put64(place.status(), RUN);
        self.w(ERR_CFG, 0);
        self.w(ERR_STS, 0xb);
        self.w(ERR_CTL, 1);
        self.w(CTL0, 1 << 4);
        self.w(ERR_WRT, 0);
        self.w(ERR_RD, 0);
        self.w(ERR_CFG, BASE + LOG + 3);
    }

    pub(crate) fn place(&self, n: u16) -> Place {
        self.places[&n]
    }

    pub(crate) fn l1_entry(&self, n: u16) -> u64 {
        L1[usize::from(n >> 7)] + u64::from(n & 0x7f) * 32
    }

    /// Writes a context's structures, as new.
    pub(crate) fn make(&mut self, n: u16) {
        let next = AREAS + self.places.len() as u64 * AREA;
        let place = *self.places.entry(n).or_insert(Place(next));
        self.tails.insert(n, 0);
        self.guest.put(place.0, &[0; 0x1_0000]);
        let g = &self.guest;
        // Interrupt N of context N in AKey 0, and none in AKey 1.
        g.put64(place.akeys(), 3 | u64::from(n.max(1)) << 4);
        g.put64(place.akeys() + 16, 1);
        g.put64(place.control() + 8, RING);
        g.put64(place.control() + 16, BASE + place.status());
        g.put64(place.control() + 24, BASE + place.write_index());
        g.put64(place.control(), (BASE + place.ring()) | 0x21);
        let entry = self.l1_entry(n);
        g.put(entry, &[0; 32]);
        g.put64(entry + 8, BASE + place.akeys());
        g.put64(entry + 16, 0x10_00b0_0000);
        g.put64(entry, (BASE + place.control()) | 3);
    }

    /// Makes and starts a context.
    pub(crate) fn open(&mut self, n: u16) {
        self.make(n);
        assert!(self.admin(start(n, n)), "context {n} starts");
        assert_eq!(self.state(n), RUN);
    }

    /// Returns the number of descriptors that were enqueued.
    pub(crate) fn tail(&self, n: u16) -> u64 {
        self.tails[&n]
    }

    pub(crate) fn ring(&mut self, n: u16) {
        let tail = self.tail(n);
        let at = u64::from(n) * STRIDE;
        self.guest.write64(DOORBELLS, at, tail);
    }

    /// Enqueues a descriptor without ringing the doorbell. Returns its index.
    pub(crate) fn put(&mut self, n: u16, words: [u64; 8]) -> u64 {
        let (place, index) = (self.place(n), self.tails[&n]);
        let at = place.ring() + index % RING * 64;
        for (i, word) in (0..).zip(words).skip(1) {
            self.guest.put64(at + i * 8, word);
        }
        self.guest.put64(at, words[0]);
        self.tails.insert(n, index + 1);
        self.guest.put64(place.write_index(), index + 1);
        index
    }

    pub(crate) fn submit(&mut self, n: u16, words: [u64; 8]) -> u64 {
        let index = self.put(n, words);
        self.ring(n);
        index
    }

    /// Returns the descriptor with a CSB of its own, which is made ready, and the offset of that.
    pub(crate) fn with_csb(&mut self, n: u16, mut words: [u64; 8]) -> ([u64; 8], u64) {
        let csb = self.place(n).csb(self.tails[&n]);
        self.guest.put(csb, &[0; 32]);
        self.guest.put64(csb, 1);
        words[7] = BASE + csb;
        (words, csb)
    }

    /// Waits for a CSB. Returns `true` if the descriptor has succeeded.
    pub(crate) fn done(&self, csb: u64) -> bool {
        wait_for("a completion", || self.guest.get64(csb) == 0);
        self.guest.get64(csb + 8) & 1 << 31 == 0
    }

    /// Submits with a CSB and waits: whether all went well.
    pub(crate) fn run(&mut self, n: u16, words: [u64; 8]) -> bool {
        let (words, csb) = self.with_csb(n, words);
        self.submit(n, words);
        self.done(csb)
    }

    /// Runs a descriptor on context 0. Returns `true` if it has succeeded.
    pub(crate) fn admin(&mut self, words: [u64; 8]) -> bool {
        self.run(0, words)
    }

    /// Stops contexts and waits for it.
    pub(crate) fn close(&mut self, first: u16, last: u16, hard: bool) {
        self.put(0, stop(first, last, hard));
        assert!(self.admin(sync(1, first, last)));
    }

    pub(crate) fn state(&self, n: u16) -> u64 {
        self.guest.get64(self.place(n).status()) & 0xf
    }

    pub(crate) fn await_context(&self, n: u16, state: u64) {
        wait_for("the context's state", || self.state(n) == state);
    }

    pub(crate) fn read_index(&self, n: u16) -> u64 {
        self.guest.get64(self.place(n).status() + 8)
    }

    /// Fills the source with a pattern, the destination with something else.
    pub(crate) fn fill(&self, n: u16, seed: u64, len: usize) -> Vec<u8> {
        let (place, data) = (self.place(n), pattern(seed, len));
        self.guest.put(place.source(), &data);
        self.guest.put(place.destination(), &vec![0xee; len]);
        data
    }

    pub(crate) fn copied(&self, n: u16, len: usize) -> Vec<u8> {
        self.guest.get(self.place(n).destination(), len)
    }

    /// Returns a copy from the context's source to its destination.
    pub(crate) fn own_copy(&self, n: u16, len: u64) -> [u64; 8] {
        let place = self.place(n);
        copy(place.source(), place.destination(), len)
    }

    /// Copies and compares.
    pub(crate) fn check(&mut self, n: u16, seed: u64) {
        let data = self.fill(n, seed, 5000);
        let words = self.own_copy(n, 5000);
        assert!(self.run(n, words));
        assert_eq!(self.copied(n, 5000), data);
    }

    /// Returns an entry of the log, and checks that it is valid.
    pub(crate) fn entry(&self, index: u64) -> Entry {
        let at = LOG + index % 64 * 64;
        let q = self.guest.get64(at);
        assert_eq!(q & 1, 1, "valid");
        assert_eq!(q >> 16 & 0x7ff, 0x7f7, "type");
        assert_eq!(q >> 32 & 1, 1, "of a context");
        assert_eq!(self.guest.get(at + 16, 48), [0; 48]);
        assert_eq!(q & 0x0088_f800_c0fe, 0, "reserved: {q:#x}");
        let given = |bit: u32, value: u64| (q >> bit & 1 == 1).then_some(value);
        Entry {
            step: q >> 8 & 0x3f,
            sub: q >> 40 & 0xf,
            reaction: q >> 44 & 7,
            context: q >> 48,
            index: given(33, self.guest.get64(at + 8)),
            buffer: given(34, q >> 36 & 7),
        }
    }

    /// Takes the entries that came, as the handler of vector 0 does.
    pub(crate) fn drain_log(&mut self) -> Vec<Entry> {
        let mut read = self.r(ERR_RD);
        self.w(ERR_STS, 0xb);
        let write = self.r(ERR_WRT);
        let entries = (read..write).map(|i| self.entry(i)).collect();
        while read < write {
            self.guest.put(LOG + read % 64 * 64, &[0; 64]);
            read += 1;
        }
        self.w(ERR_RD, read);
        entries
    }

    /// Waits for vector 0, and for the one entry that came.
    pub(crate) fn one_error(&mut self) -> Entry {
        self.guest.await_interrupt(0);
        let entries = self.drain_log();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0]
    }

    pub(crate) fn counter(&self, n: u16, name: &str) -> u64 {
        self.guest.counter(n.into(), name)
    }

    pub(crate) fn inject(&self, fault: &str) {
        self.guest
            .control(&format!(r#"{{"cmd":"inject",{fault}}}"#));
    }

    pub(crate) fn options(&self) -> Options {
        self.options
    }
}
