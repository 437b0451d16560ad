// SPDX-License-Identifier: GPL-2.0

//! The device as the driver uses it, through vfio-user.

use ferry_harness::{pattern, wait_for, Guest, BASE, SIZE};
use ferry_plx::BAR;

const RING_ADDRESS: u64 = 0x214;
const RING_ADDRESS_HIGH: u64 = 0x218;
const RING_NEXT: u64 = 0x21c;
const RING_COUNT: u64 = 0x220;
const PREFETCH: u64 = 0x234;
const CONTROL: u64 = 0x238;
const INTERRUPT_CONTROL: u64 = 0x23c;
const INTERRUPT_STATUS: u64 = 0x23e;

const PAUSE: u32 = 1;
const ABORT: u32 = 1 << 1;
const PAUSE_DONE: u32 = 1 << 9;
const ABORT_DONE: u32 = 1 << 10;
const IN_PROGRESS: u32 = 1 << 30;
/// `PLX_REG_CTRL_RESET_VAL`, `PLX_REG_CTRL_START_VAL`
const RESET: u32 = 0x1700;
const START: u16 = 0x174c;
const ERROR: u16 = 1;
const DONE: u16 = 1 << 2;

const VALID: u32 = 1 << 31;
const INTERRUPT: u32 = 1 << 30;
const SUCCESS: u32 = 1 << 30;
const READ_FAILED: u32 = 1 << 29;
const WRITE_FAILED: u32 = 1 << 28;

const COUNT: u64 = 64;
const SOURCE: u64 = 0x10_0000;
const DESTINATION: u64 = 0x80_0000;

/// The steps of `plx_dma_alloc_chan_resources()`, `plx_dma_prep_memcpy()` and
/// `plx_dma_issue_pending()`.
/// The ring is at the memory's beginning.
struct Driver {
    guest: Guest,
    head: u64,
}

impl Driver {
    fn new() -> Driver {
        Driver::with(true)
    }

    fn with(msix: bool) -> Driver {
        let function = ferry_plx::function(msix).unwrap();
        let guest = Guest::new(function, (1, u16::from(msix)));
        let mut driver = Driver { guest, head: 0 };
        driver.init();
        driver
    }

    fn init(&mut self) {
        self.head = 0;
        self.guest.put(0, &[0; 16 * COUNT as usize]);
        self.w(CONTROL, RESET);
        self.w(RING_ADDRESS, BASE as u32);
        self.w(RING_ADDRESS_HIGH, (BASE >> 32) as u32);
        self.w(RING_NEXT, BASE as u32);
        self.w(RING_COUNT, COUNT as u32);
        self.w(PREFETCH, 8);
    }

    fn r(&mut self, at: u64) -> u32 {
        self.guest.read32(BAR, at)
    }

    fn w(&mut self, at: u64, value: u32) {
        self.guest.write32(BAR, at, value);
    }

    fn read16(&mut self, at: u64) -> u16 {
        let mut data = [0; 2];
        let region = BAR.into();
        self.guest
            .client()
            .region_read(region, at, &mut data)
            .unwrap();
        u16::from_le_bytes(data)
    }

    fn write16(&mut self, at: u64, value: u16) {
        let data = value.to_le_bytes();
        let region = BAR.into();
        self.guest.client().region_write(region, at, &data).unwrap();
    }

    fn put(&mut self, flags: u32, source: u64, destination: u64) {
        let high = |a: u64| ((a >> 32) as u16).to_le_bytes();
        let low = |a: u64| (a as u32).to_le_bytes();
        let mut bytes = (VALID | flags).to_le_bytes().to_vec();
        bytes.extend(high(destination));
        bytes.extend(high(source));
        bytes.extend(low(destination));
        bytes.extend(low(source));
        self.guest.put(self.head % COUNT * 16, &bytes);
        self.head += 1;
    }

    fn start(&mut self) {
        self.write16(CONTROL, START);
    }

    fn submit(&mut self, len: u32) {
        self.put(INTERRUPT | len, BASE + SOURCE, BASE + DESTINATION);
        self.start();
    }

    /// Returns the first word of the last descriptor.
    fn word(&self) -> u32 {
        let word = self.guest.get((self.head - 1) % COUNT * 16, 4);
        u32::from_le_bytes(word.try_into().unwrap())
    }

    /// Reads and clears the latched interrupts, as the interrupt handler does.
    fn handle(&mut self) -> u16 {
        let status = self.read16(INTERRUPT_STATUS);
        self.write16(INTERRUPT_STATUS, status);
        status
    }

    /// Waits for the interrupt of the last descriptor. Returns the descriptor's first word.
    fn done(&mut self) -> u32 {
        self.guest.await_interrupt(0);
        assert_ne!(self.handle() & DONE, 0);
        self.word()
    }

    fn fill(&self, seed: u64, len: usize) -> Vec<u8> {
        let data = pattern(seed, len);
        self.guest.put(SOURCE, &data);
        self.guest.put(DESTINATION, &vec![0xee; len]);
        data
    }

    fn copied(&self, len: usize) -> Vec<u8> {
        self.guest.get(DESTINATION, len)
    }

    fn inject(&self, fault: &str) {
        self.guest
            .control(&format!(r#"{{"cmd":"inject","fault":{{{fault}}}}}"#));
    }

    /// Checks that a copy works as on a new device.
    fn works(&mut self) {
        let data = self.fill(99, 256);
        self.submit(256);
        assert_eq!(self.done(), SUCCESS | 256);
        assert_eq!(self.copied(256), data);
    }

    /// Pauses the engine as `__plx_dma_stop()` does before it waits.
    fn pause(&mut self) {
        self.w(CONTROL, RESET | PAUSE);
    }
}

#[test]
fn copies_of_all_sizes() {
    let mut d = Driver::new();
    let mut bytes = 0;
    for (seed, len) in [1, 2, 3, 31, 4095, 4096, 4097, 65536, (3 << 20) + 5]
        .into_iter()
        .cycle()
        .take(100)
        .enumerate()
    {
        let data = d.fill(seed as u64, len + 1);
        d.submit(len as u32);
        assert_eq!(d.done(), SUCCESS | len as u32);
        assert_eq!(d.copied(len), data[..len]);
        assert_eq!(d.copied(len + 1)[len], 0xee, "a byte too many");
        bytes += len as u64;
    }
    wait_for("the end of what is valid", || {
        d.r(CONTROL) & IN_PROGRESS == 0
    });
    for (name, value) in [
        ("descriptors", 100),
        ("doorbells", 100),
        ("interrupts", 100),
        ("bytes", bytes),
        ("errors", 0),
        ("bad_requests", 0),
    ] {
        assert_eq!(d.guest.counter(0, name), value, "{name}");
    }
}

#[test]
fn many_at_a_time_in_order() {
    let mut d = Driver::new();
    d.guest.put(SOURCE, &pattern(1, 4096));
    // Each takes what the one before it wrote.
    for i in 0..40 {
        let from = if i == 0 {
            SOURCE
        } else {
            DESTINATION + (i - 1) * 4096
        };
        let flags = if i == 39 { INTERRUPT } else { 0 } | 4096;
        d.put(flags, BASE + from, BASE + DESTINATION + i * 4096);
    }
    d.start();
    assert_eq!(d.done(), SUCCESS | 4096);
    assert_eq!(d.guest.get(DESTINATION + 39 * 4096, 4096), pattern(1, 4096));
    assert_eq!(d.guest.interrupts(0), 0, "only the last one asked for it");
    wait_for("the end of what is valid", || {
        d.r(CONTROL) & IN_PROGRESS == 0
    });
    assert_eq!(d.guest.counter(0, "fetches"), 41, "one in vain");
}

#[test]
fn message_signalled() {
    let mut d = Driver::with(false);
    assert_eq!(d.guest.capability(0x11), None);
    assert_eq!(d.guest.read_config::<4>(0), [0xb5, 0x10, 0xd0, 0x87]);
    assert_eq!(d.guest.read_config::<4>(8)[1..], [0x00, 0x80, 0x08]);
    d.works();
}

#[test]
fn failures() {
    let mut d = Driver::new();
    let (inside, outside) = (BASE + DESTINATION, BASE + SIZE);
    for (flags, source, destination, word) in [
        (0, BASE, inside, 0),
        (64 | 1 << 27, BASE, inside, 0),
        (64, outside, inside, READ_FAILED),
        (64, 0xffff_ffff_ffff, inside, READ_FAILED),
        (64, BASE, outside - 1, WRITE_FAILED),
        (0x7ff_ffff, BASE, 0, WRITE_FAILED),
    ] {
        d.put(INTERRUPT | flags, source, destination);
        d.start();
        assert_eq!(d.done(), word);
        d.works();
    }
    assert_eq!(d.guest.counter(0, "errors"), 6);
    // The bytes before the end of the source have been copied.
    d.put(INTERRUPT | 3 << 20, BASE + SIZE - (2 << 20), inside);
    d.start();
    assert_eq!(d.done(), READ_FAILED | 2 << 20);
}

#[test]
fn no_bus_master_no_access() {
    let mut d = Driver::new();
    d.guest.bus_master(false);
    d.submit(64);
    wait_for("the error", || d.read16(INTERRUPT_STATUS) == ERROR);
    assert_eq!(d.word(), VALID | INTERRUPT | 64);
    d.guest.bus_master(true);
    d.handle();
    d.start();
    assert_eq!(d.done(), SUCCESS | 64);
}

#[test]
fn registers_of_two_widths() {
    let mut d = Driver::new();
    let before = d.r(RING_COUNT);
    for (at, data) in [(RING_COUNT, &[1][..]), (RING_COUNT + 1, &[1, 2])] {
        d.guest.client().region_write(BAR.into(), at, data).unwrap();
    }
    assert_eq!(d.r(RING_COUNT), before);
    d.w(RING_COUNT, u32::MAX);
    assert_eq!(d.guest.counter(0, "bad_requests"), 3);
    d.write16(INTERRUPT_CONTROL, 0x3b);
    assert_eq!(d.r(INTERRUPT_CONTROL), 0x3b);
    d.w(0x300, 0x1234);
    assert_eq!(d.r(0x300), 0);
}

#[test]
fn errors_and_partial_copies() {
    let mut d = Driver::new();
    let data = d.fill(1, 256);
    for (fault, word, copied) in [
        (r#""kind":"error""#, WRITE_FAILED, 0),
        (r#""kind":"error","code":29"#, READ_FAILED, 0),
        (r#""kind":"error","code":0"#, 0, 0),
        (r#""kind":"partial","bytes":100"#, WRITE_FAILED | 100, 100),
        (
            r#""kind":"partial","bytes":100,"silent":true"#,
            SUCCESS | 256,
            100,
        ),
    ] {
        d.guest.put(DESTINATION, &[0xee; 256]);
        d.inject(fault);
        d.submit(256);
        assert_eq!(d.done(), word, "{fault}");
        assert_eq!(d.copied(copied), data[..copied]);
        assert!(d.copied(256)[copied..].iter().all(|b| *b == 0xee));
    }
    d.works();
}

#[test]
fn paused_when_it_has_nothing_in_work() {
    let mut d = Driver::new();
    d.works();
    d.pause();
    assert_ne!(d.r(CONTROL) & PAUSE_DONE, 0);
    d.pause();
    assert_eq!(d.r(CONTROL), PAUSE, "as the driver takes it to be");
    d.start();
    d.w(CONTROL, 0);
    d.works();
    d.inject(r#""kind":"hang""#);
    let data = d.fill(1, 256);
    d.submit(256);
    d.guest.await_faults(1);
    d.pause();
    assert_eq!(d.r(CONTROL) & (PAUSE_DONE | IN_PROGRESS), IN_PROGRESS);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.done(), SUCCESS | 256);
    wait_for("the pause", || d.r(CONTROL) & PAUSE_DONE != 0);
    assert_eq!(d.copied(256), data);
}

#[test]
fn abort_ends_what_hangs() {
    let mut d = Driver::new();
    d.inject(r#""kind":"hang""#);
    d.fill(1, 256);
    d.submit(256);
    d.guest.await_faults(1);
    d.w(CONTROL, RESET | ABORT);
    wait_for("the abort", || d.r(CONTROL) & ABORT_DONE != 0);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.guest.counter(0, "aborted"), 1);
    assert_eq!(d.r(CONTROL) & IN_PROGRESS, 0);
    assert_eq!(d.word(), VALID | INTERRUPT | 256);
    assert_eq!(d.copied(256), [0xee; 256]);
    d.start();
    assert_eq!(d.done(), SUCCESS | 256);
}

#[test]
fn resets_are_quiet() {
    let reset: [fn(&mut Driver); 3] = [
        |d| d.guest.client().reset().unwrap(),
        |d| d.guest.flr(),
        |d| {
            d.guest.disconnect();
            d.guest.connect();
        },
    ];
    for reset in reset {
        let mut d = Driver::new();
        d.inject(r#""kind":"late_write","ms":3600000"#);
        d.fill(1, 4096);
        d.submit(4096);
        wait_for("the read", || {
            d.guest.control(r#"{"cmd":"stats"}"#)["late_writes_read"] == 1
        });
        reset(&mut d);
        assert_eq!(d.guest.counter(0, "aborted"), 1);
        d.guest.bus_master(true);
        assert_eq!(d.r(RING_COUNT), 0);
        assert_eq!(d.copied(4096), [0xee; 4096]);
        d.init();
        d.works();
    }
}

#[test]
fn late_write_has_the_old_bytes() {
    let mut d = Driver::new();
    d.inject(r#""kind":"late_write","ms":100"#);
    let old = d.fill(1, 4096);
    d.submit(4096);
    wait_for("the read", || {
        d.guest.control(r#"{"cmd":"stats"}"#)["late_writes_read"] == 1
    });
    d.guest.put(SOURCE, &pattern(2, 4096));
    assert_eq!(d.done(), SUCCESS | 4096);
    assert_eq!(d.copied(4096), old);
}

#[test]
fn lost_interrupt() {
    let mut d = Driver::new();
    d.inject(r#""kind":"lost_interrupt""#);
    d.submit(64);
    wait_for("the completion", || d.read16(INTERRUPT_STATUS) & DONE != 0);
    assert_eq!(d.guest.interrupts(0), 0);
    assert_eq!(d.word(), SUCCESS | 64);
    d.handle();
    d.works();
}

#[test]
fn surprise_removal() {
    let mut d = Driver::new();
    d.inject(r#""kind":"disappear""#);
    d.fill(1, 64);
    d.submit(64);
    wait_for("the end", || d.r(CONTROL) == u32::MAX);
    assert_eq!(d.copied(64), [0xee; 64]);
    assert_eq!(d.guest.interrupts(0), 0);
    d.guest.control(r#"{"cmd":"restore"}"#);
    d.guest.bus_master(true);
    assert_eq!(d.r(RING_COUNT), 0, "as after power-on");
    d.init();
    d.works();
}
