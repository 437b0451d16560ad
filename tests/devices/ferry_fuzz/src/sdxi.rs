// SPDX-License-Identifier: GPL-2.0

//! A hostile driver of the whole SDXI function: registers, doorbells, and all that it reads from
//! memory. The function is stepped; after each step every byte that changed must be one that a
//! descriptor, a status or the log explains.

use crate::input::Input;
use ferry_sdxi::{Options, Sdxi, BAR, DOORBELLS, STRIDE};
use ferry_vfio::bytes::{u32_at, u64_at};
use ferry_vfio::memory::{Dma, GuestMemory};
use ferry_vfio::{Device, Host};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use vmm_sys_util::tempfile::TempFile;

const BASE: u64 = 0x2_0000_0000;
const SIZE: usize = 0x8000;
const CONTEXTS: u16 = 4;
/// Steps after each operation: a ring that never ends must not be one.
const STEPS: usize = 24;

const L2: u64 = 0;
const L1: u64 = 0x1000;
const AKEYS: u64 = 0x2000;
const LOG: u64 = 0x3000;
/// Contexts' structures: CXT_CTL, CXT_STS at 0x40, Write_Index at 0x80, CSBs from 0x100, ring.
const AREAS: u64 = 0x4000;
const AREA: u64 = 0x400;
const RING: u64 = 0x200;
const SLOTS: u64 = 8;
/// Compared at a time.
const BLOCK: usize = 256;
/// Two blocks of 4 KiB.
const DATA: u64 = 0x6000;

const CTL0: u64 = 0;
const CTL2: u64 = 0x10;
const STS0: u64 = 0x100;
const CXT_L2: u64 = 0x1_0000;
const ERR_CTL: u64 = 0x2_0000;
const ERR_STS: u64 = 0x2_0008;
const ERR_CFG: u64 = 0x2_0010;
const ERR_WRT: u64 = 0x2_0020;
const ERR_RD: u64 = 0x2_0028;
const REGISTERS: [u64; 10] = [
    CTL0, CTL2, STS0, CXT_L2, 0x1_0100, ERR_CTL, ERR_STS, ERR_CFG, ERR_WRT, ERR_RD,
];

thread_local! {
    /// Mapped anew for each input; a file each would cost more than the rest.
    static FILE: Option<File> = TempFile::new().ok().map(TempFile::into_file);
}

struct Machine {
    device: Sdxi,
    host: Arc<Host>,
    /// The same memory, as the driver sees it.
    memory: GuestMemory,
    /// Faults are at work: completions may lie.
    chaos: bool,
}

fn area(n: u16) -> u64 {
    AREAS + u64::from(n) * AREA
}

impl Machine {
    fn new(strict: bool) -> Machine {
        let options = Options {
            contexts: CONTEXTS,
            strict,
            ..Options::default()
        };
        let (device, host) = Sdxi::manual(&options).expect("a good size");
        host.set_bus_master(true);
        let file = FILE.with(|file| file.as_ref().and_then(|f| f.try_clone().ok()));
        let file = file.expect("a file");
        file.set_len(SIZE as u64).expect("a file system with room");
        let memory = GuestMemory::default();
        memory.set_bus_master(true);
        for map in [&memory, &host.memory] {
            let file = file.try_clone().ok();
            let added = map.add(BASE, SIZE as u64, file, 0, true, true);
            added.expect("a mapping");
        }
        let machine = Machine {
            device,
            host,
            memory,
            chaos: false,
        };
        machine.write(0, &[0; SIZE]);
        machine
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        self.memory.read(BASE, &mut bytes).expect("inside");
        bytes
    }

    fn write(&self, at: u64, data: &[u8]) {
        // Bytes that do not fit are not written; the driver's own memory does not matter here.
        let _ = self.memory.write(BASE.wrapping_add(at), data);
    }

    fn word(&self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    fn r(&self, register: u64) -> u64 {
        let mut data = [0; 8];
        self.device.read(BAR, register, &mut data);
        u64::from_le_bytes(data)
    }

    fn w(&self, register: u64, value: u64) {
        self.device.write(BAR, register, &value.to_le_bytes());
    }

    /// Brings the function up as a good driver does.
    fn bring_up(&self) {
        self.w(CTL2, 0x10_0003_800b);
        self.w(CXT_L2, BASE + L2);
        self.word(L2, BASE + L1 + 1);
        for akey in 0..4 {
            self.word(AKEYS + akey * 16, 3 | akey << 4);
        }
        for n in 0..CONTEXTS {
            self.make(n);
        }
        self.word(area(0) + 0x40, 1);
        self.w(ERR_CTL, 1);
        self.w(ERR_CFG, BASE + LOG + 3);
        self.w(CTL0, 0x13);
    }

    fn make(&self, n: u16) {
        let (at, entry) = (area(n), L1 + u64::from(n) * 32);
        self.word(at + 0x80, 0);
        self.word(at + 0x48, 0);
        self.word(at + 8, SLOTS);
        self.word(at + 16, BASE + at + 0x40);
        self.word(at + 24, BASE + at + 0x80);
        self.word(at, (BASE + at + RING) | 0x21);
        self.word(entry + 8, BASE + AKEYS);
        self.word(entry + 16, 0x10_00b0_0000);
        self.word(entry, (BASE + at) | 3);
    }

    fn enqueue(&self, n: u16, words: [u64; 8]) {
        let mut index = [0; 8];
        let at = area(n);
        let read = self.memory.read(BASE + at + 0x80, &mut index);
        read.expect("inside");
        let index = u64::from_le_bytes(index);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.write(at + RING + index % SLOTS * 64, &bytes);
        self.word(at + 0x80, index.wrapping_add(1));
    }

    fn ring(&self, n: u16) {
        self.device
            .write(DOORBELLS, u64::from(n) * STRIDE, &1u64.to_le_bytes());
    }
}

fn range(address: u64, len: u64) -> Range<usize> {
    let size = SIZE as u64;
    let start = address.clamp(BASE, BASE + size) - BASE;
    let end = address.saturating_add(len).clamp(BASE, BASE + size) - BASE;
    start as usize..end.max(start) as usize
}

fn whole(range: &Range<usize>, len: u64) -> bool {
    range.len() as u64 == len
}

/// The ranges that a step may change, as the test reads them from memory before the step.
#[derive(Default)]
struct Allowed(Vec<Range<usize>>);

impl Allowed {
    fn add(&mut self, address: u64, len: u64) {
        self.0.push(range(address, len));
    }

    /// Adds the ranges that the descriptor in a slot can write.
    fn descriptor(&mut self, memory: &[u8], slot: u64) {
        let at = range(slot, 64);
        if !whole(&at, 64) {
            return;
        }
        let d = &memory[at];
        if u64_at(d, 56) & 1 == 0 {
            self.add(u64_at(d, 56) & !0x1f, 16);
        }
        let len = u64::from(u32_at(d, 4)) + 1;
        match u32_at(d, 0) >> 8 & 0x7_ffff {
            0x0102 => self.add(u64_at(d, 16), len.min(32)),
            0x0103 | 0x0104 => self.add(u64_at(d, 24), len),
            _ => {}
        }
    }

    /// Adds the CXT_STS of a context, found as CXT_START finds it.
    fn status(&mut self, memory: &[u8], l2: u64, n: u16) {
        let pointer = |address: u64| {
            let at = range(address, 8);
            whole(&at, 8).then(|| u64_at(&memory[at], 0))
        };
        let found = || {
            let l1 = pointer(l2)? & !0xfff;
            let control = pointer(l1.checked_add(u64::from(n) * 32)?)? & !0x3f;
            pointer(control.checked_add(16)?)
        };
        if let Some(status) = found() {
            self.add(status, 16);
        }
    }

    fn holds(&self, i: usize) -> bool {
        self.0.iter().any(|r| r.contains(&i))
    }
}

impl Machine {
    /// Carries out one step and judges it.
    fn step(&self, memory: &mut Vec<u8>) -> bool {
        let before = std::mem::take(memory);
        let mut allowed = Allowed::default();
        let log = self.r(ERR_CFG);
        if log & 1 != 0 {
            let pages = (log >> 1 & 0x1f).max(1);
            allowed.add(log & !0xfff, pages * 4096);
        }
        let l2 = self.r(CXT_L2);
        let counts = |n| {
            let values = self.host.counters(n);
            (values.descriptors.get(), values.errors.get())
        };
        let mut slots = Vec::new();
        for n in 0..CONTEXTS {
            allowed.status(&before, l2, n);
            let view = self.device.view(n);
            if let Some(view) = view {
                allowed.add(view.status, 16);
                allowed.add(view.slot, 8);
            }
            slots.push((view, counts(n)));
        }
        // Without what descriptors name.
        let own = allowed.0.clone();
        for (view, _) in &slots {
            if let Some(view) = view {
                allowed.descriptor(&before, view.slot);
            }
        }
        let worked = self.device.turn();
        let after = self.bytes();
        // A context whose tables were forgotten may take its next descriptor anywhere.
        let known = slots.iter().all(|(view, _)| view.is_some()) || self.r(STS0) != 2;
        if known {
            let blocks = before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate();
            for (block, (old, new)) in blocks.filter(|(_, (old, new))| old != new) {
                for (i, (old, new)) in (block * BLOCK..).zip(old.iter().zip(new)) {
                    assert!(old == new || allowed.holds(i), "byte {i:#x} changed");
                }
            }
        }
        for (n, (view, then)) in (0..).zip(slots) {
            let (done, failed) = counts(n);
            assert!(done <= then.0 + 1, "two descriptors in a step");
            if let (Some(view), 1, 0) = (view, done - then.0, failed - then.1) {
                if !self.chaos {
                    judge(&before, &after, view.slot, &own);
                }
            }
        }
        *memory = after;
        worked
    }
}

/// Checks memory after a descriptor that has succeeded.
fn judge(before: &[u8], after: &[u8], slot: u64, own: &[Range<usize>]) {
    let at = range(slot, 64);
    assert!(whole(&at, 64), "a descriptor outside memory");
    let d = &before[at];
    let (head, len) = (u32_at(d, 0), u64::from(u32_at(d, 4)) + 1);
    assert_eq!(head & 1, 1, "a descriptor that is not valid");
    assert_eq!(head & 0xf800_00e8, 0, "reserved bits");
    // The device's own structures may lie across the data: then only the places are judged.
    let csb = match u64_at(d, 56) & 1 {
        0 => range(u64_at(d, 56) & !0x1f, 32),
        _ => 0..0,
    };
    let apart = |r: &Range<usize>| {
        let clear = |o: &Range<usize>| o.start >= r.end || r.start >= o.end;
        clear(&csb) && own.iter().all(clear)
    };
    let (from, to) = (range(u64_at(d, 16), len), range(u64_at(d, 24), len));
    match head >> 8 & 0x7_ffff {
        0x0101 => assert!(d[4..56].iter().all(|b| *b == 0)),
        0x0103 => {
            assert!(
                whole(&from, len) && whole(&to, len),
                "a copy outside memory"
            );
            if apart(&to) && apart(&from) {
                assert!(before[from] == after[to], "a copy that is none");
            }
        }
        0x0102 => {
            assert!(len <= 32 && whole(&from, len));
            if apart(&from) {
                assert!(d[24..24 + len as usize] == after[from], "data that is not");
            }
        }
        0x0104 => {
            let block = range(u64_at(d, 16), 4096);
            assert!(whole(&block, 4096) && whole(&to, len));
            assert_eq!((len % 4096, to.start % 4096, block.start % 4096), (0, 0, 0));
            if apart(&to) && apart(&block) {
                for copy in after[to].chunks(4096) {
                    assert!(&before[block.clone()] == copy, "a block that is none");
                }
            }
        }
        0x0400 => assert!(d[14..56].iter().all(|b| *b == 0)),
        admin => assert_eq!(admin >> 8, 2, "an unknown operation succeeded"),
    }
}

/// Returns a word near something of interest.
fn address(input: &mut Input<'_>) -> u64 {
    let places = [L2, L1, AKEYS, LOG, AREAS, AREAS + RING, DATA, DATA + 0x1000];
    match input.byte() {
        kind @ 0..=239 => {
            let place = places[usize::from(kind) % places.len()];
            BASE + place + u64::from(input.byte() & 0x7f) * u64::from(kind >> 5)
        }
        240..=247 => BASE + SIZE as u64 - u64::from(input.byte()),
        _ => u64::from_le_bytes(input.take()),
    }
}

fn descriptor(input: &mut Input<'_>, n: u16) -> [u64; 8] {
    let kind = input.byte();
    let flags = input.byte();
    let csb = match flags & 0xc0 {
        0 => BASE + area(n) + 0x100 + u64::from(flags >> 3 & 7) * 32,
        0x40 => address(input),
        _ => 1,
    };
    let head = |operation: u64| operation << 8 | u64::from(flags & 6) | 1;
    let size = u64::from(input.half() & 0x1fff);
    let range = u64::from(flags & 3) | u64::from(flags >> 2 & 3) << 16;
    let mut words = match kind % 12 {
        0 => [head(0x0101), 0, 0, 0, 0, 0, 0, csb],
        1..=3 => {
            let keys = u64::from(flags & 0x30) << 28;
            let (from, to) = (address(input), address(input));
            [head(0x0103) | size << 32, keys, from, to, 0, 0, 0, csb]
        }
        4 => {
            let data = u64::from_le_bytes(input.take());
            let size = size & 31;
            let to = address(input);
            [
                head(0x0102) | size << 32,
                0,
                to,
                data,
                data,
                !data,
                data,
                csb,
            ]
        }
        5 => {
            let size = size | 0xfff;
            let (from, to) = (address(input) & !0xfff, address(input) & !0xfff);
            [head(0x0104) | size << 32, 0, from, to, 0, 0, 0, csb]
        }
        6 => [head(0x0400), u64::from(flags & 3) << 32, 0, 0, 0, 0, 0, csb],
        7 | 8 => {
            let doorbell = u64::from(flags & 8) << 43;
            [head(0x0203) | 4 | doorbell, range, 0, 0, 0, 0, 0, csb]
        }
        9 => {
            let hard = u64::from(flags & 8) << 42;
            [head(0x0204) | 4 | hard, range, 0, 0, 0, 0, 0, csb]
        }
        10 => {
            let filter = u64::from(flags % 6) << 32;
            [head(0x0206) | filter, range, 0, 0, 0, 0, 0, csb]
        }
        _ => [head(0x0201), range, 0, 0, 0, 0, 0, csb],
    };
    if kind & 0x80 != 0 {
        let i = usize::from(input.byte() & 7);
        words[i] ^= 1 << (input.byte() & 63);
    }
    words
}

/// Faults that end by themselves.
fn fault(input: &mut Input<'_>) -> String {
    let kinds = [
        r#""kind":"error""#,
        r#""kind":"error","code":200"#,
        r#""kind":"soft_error""#,
        r#""kind":"partial","bytes":9"#,
        r#""kind":"partial","bytes":9,"silent":true"#,
        r#""kind":"lost_completion""#,
        r#""kind":"lazy_read_index","count":2"#,
        r#""kind":"lost_doorbell""#,
        r#""kind":"init_error""#,
        r#""kind":"log_full""#,
        r#""kind":"log_failure""#,
        r#""kind":"lost_log_interrupt""#,
        r#""kind":"lost_interrupt""#,
        r#""kind":"slow_sync","ms":0"#,
    ];
    let kind = kinds[usize::from(input.byte()) % kinds.len()];
    format!(r#"{{"nth":{},"fault":{{{kind}}}}}"#, input.byte() % 4 + 1)
}

/// Drives an SDXI function by these bytes.
pub fn sdxi(data: &[u8]) {
    let mut input = Input(data);
    let start = input.byte();
    let mut machine = Machine::new(start & 1 != 0);
    let fill: Vec<u8> = (0..0x2000u32).map(|i| (i ^ i >> 7) as u8).collect();
    machine.write(DATA, &fill);
    if start & 6 != 0 {
        machine.bring_up();
    }
    while !input.0.is_empty() {
        match input.byte() {
            0..=31 => {
                let register = REGISTERS[usize::from(input.byte()) % REGISTERS.len()];
                let value = match register {
                    CTL0 => u64::from(input.byte() & 0x17),
                    ERR_WRT | ERR_RD => u64::from(input.byte()),
                    _ => address(&mut input),
                };
                machine.w(register, value);
            }
            32..=47 => {
                let (at, kind) = (u64::from(input.word() & 0x3_0fff), input.byte());
                let bar = if kind & 1 == 0 { BAR } else { DOORBELLS };
                let mut data: [u8; 16] = input.take();
                let len = usize::from(kind >> 1 & 0xf);
                machine.device.write(bar, at, &data[..len]);
                machine.device.read(bar, at, &mut data[..len]);
            }
            // Its own structures, by words.
            48..=79 => {
                let at = address(&mut input).wrapping_sub(BASE) & !7;
                let value = match input.byte() {
                    0..=99 => u64::from(input.byte()),
                    100..=199 => address(&mut input) | u64::from(input.byte() & 3),
                    _ => u64::from_le_bytes(input.take()),
                };
                machine.word(at, value);
            }
            80..=199 => {
                let n = u16::from(input.byte() & 3);
                let words = descriptor(&mut input, n);
                machine.enqueue(n, words);
                machine.ring(n);
            }
            200..=215 => machine.ring(u16::from(input.byte() & 7)),
            216..=223 => machine.make(u16::from(input.byte() & 3)),
            224..=231 => machine.bring_up(),
            232..=235 => machine.device.reset(),
            236..=239 => machine.host.set_bus_master(input.byte() & 7 != 0),
            240..=247 => {
                let text = fault(&mut input);
                let fault = serde_json::from_str(&text).expect("a fault");
                // Refused when too many wait.
                let _ = machine.host.faults().arm(fault, CONTEXTS);
                machine.chaos = true;
            }
            _ => {
                let state = machine.device.state();
                assert!(state["registers"]["Sts0"].is_string());
            }
        }
        let mut memory = machine.bytes();
        for _ in 0..STEPS {
            if !machine.step(&mut memory) {
                break;
            }
        }
        machine.host.set_bus_master(true);
    }
    // A reset ends every fault, and the function can be used again.
    machine.device.reset();
    assert_eq!(machine.r(STS0), 0);
    machine.host.faults().clear();
    machine.host.set_bus_master(true);
    machine.write(0, &[0; SIZE]);
    machine.bring_up();
    while machine.step(&mut machine.bytes()) {}
    assert_eq!(machine.r(STS0), 2, "it cannot be brought up again");
    let csb = area(0) + 0x100;
    machine.word(csb, 1);
    machine.enqueue(0, [0x0001_0105, 0, 0, 0, 0, 0, 0, BASE + csb]);
    machine.ring(0);
    while machine.step(&mut machine.bytes()) {}
    assert_eq!(u64_at(&machine.bytes(), csb as usize), 0);
}
