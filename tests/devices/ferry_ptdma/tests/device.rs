// SPDX-License-Identifier: GPL-2.0

//! The device as the driver uses it, through vfio-user.

use ferry_harness::{pattern, wait_for, Guest, BASE, SIZE};
use ferry_ptdma::BAR;

const Q: u64 = 0x1000;
const CONTROL: u64 = Q;
const TAIL: u64 = Q + 0x04;
const HEAD: u64 = Q + 0x08;
const ENABLE: u64 = Q + 0x0c;
const LATCHED: u64 = Q + 0x10;
const STATUS: u64 = Q + 0x100;

const COMPLETION: u32 = 1;
const ERROR: u32 = 2;
/// Ring of 32, upper address bits; without the run bit.
const RING: u32 = 4 << 3 | ((BASE >> 32) as u32) << 16;
const DW0: u32 = 0x50_0012;

const SOURCE: u64 = 0x10_0000;
const DESTINATION: u64 = 0x80_0000;

/// The steps of `pt_core_init()` and `pt_core_execute_cmd()`. The ring begins at address 0.
struct Driver {
    guest: Guest,
    index: u32,
}

fn descriptor(dw0: u32, len: u32, source: u64, destination: u64) -> [u32; 8] {
    let (s, d) = (source, destination);
    let high = |a: u64| (a >> 32) as u32;
    [dw0, len, s as u32, high(s), d as u32, high(d), 0, 0]
}

fn copy(len: u32) -> [u32; 8] {
    descriptor(DW0, len, BASE + SOURCE, BASE + DESTINATION)
}

impl Driver {
    fn new() -> Driver {
        Driver::with(true)
    }

    fn with(msix: bool) -> Driver {
        let function = ferry_ptdma::function(msix).unwrap();
        let guest = Guest::new(function, (1, if msix { 2 } else { 0 }));
        let mut driver = Driver { guest, index: 0 };
        driver.init();
        driver
    }

    fn init(&mut self) {
        self.index = 0;
        self.w(ENABLE, 0);
        self.w(CONTROL, 0);
        self.r(STATUS);
        self.w(LATCHED, COMPLETION | ERROR);
        self.w(TAIL, BASE as u32);
        self.w(HEAD, BASE as u32);
        self.w(CONTROL, RING);
        self.w(ENABLE, COMPLETION | ERROR);
    }

    fn r(&mut self, at: u64) -> u32 {
        self.guest.read32(BAR, at)
    }

    fn w(&mut self, at: u64, value: u32) {
        self.guest.write32(BAR, at, value);
    }

    fn tail(&self) -> u32 {
        BASE as u32 + self.index * 32
    }

    fn put(&mut self, words: [u32; 8]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.guest.put(u64::from(self.index) * 32, &bytes);
        self.index = (self.index + 1) % 32;
    }

    fn start(&mut self) {
        let tail = self.tail();
        self.w(TAIL, tail);
        self.w(CONTROL, RING | 1);
    }

    fn submit(&mut self, words: [u32; 8]) {
        self.put(words);
        self.start();
    }

    /// Reads the latched interrupts and the error code, as the interrupt handler does.
    fn handle(&mut self) -> (u32, u32) {
        self.w(ENABLE, 0);
        let latched = self.r(LATCHED);
        let status = self.r(STATUS);
        self.w(LATCHED, latched);
        self.w(ENABLE, COMPLETION | ERROR);
        (latched, status & 0x3f)
    }

    fn done(&mut self) -> (u32, u32) {
        self.guest.await_interrupt(0);
        self.handle()
    }

    fn flush(&mut self) {
        let tail = self.tail();
        self.w(HEAD, tail);
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
}

#[test]
fn copies_of_all_sizes() {
    let mut d = Driver::new();
    let mut bytes = 0;
    for (seed, len) in [1, 2, 3, 31, 4095, 4096, 4097, 65536, 1 << 20, (3 << 20) + 5]
        .into_iter()
        .cycle()
        .take(100)
        .enumerate()
    {
        let data = d.fill(seed as u64, len + 1);
        d.submit(copy(len as u32));
        assert_eq!(d.done(), (COMPLETION, 0));
        assert_eq!(d.copied(len), data[..len]);
        assert_eq!(d.copied(len + 1)[len], 0xee, "a byte too many");
        bytes += len as u64;
    }
    for (name, value) in [
        ("descriptors", 100),
        ("doorbells", 101),
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
    for i in 0..31 {
        let from = if i == 0 {
            SOURCE
        } else {
            DESTINATION + (i - 1) * 4096
        };
        let dw0 = if i == 30 { DW0 } else { DW0 & !2 };
        d.put(descriptor(
            dw0,
            4096,
            BASE + from,
            BASE + DESTINATION + i * 4096,
        ));
    }
    d.start();
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.guest.get(DESTINATION + 30 * 4096, 4096), pattern(1, 4096));
    assert_eq!(d.guest.interrupts(0), 0, "only the last one asked for it");
    assert_eq!(d.r(HEAD), d.tail());
}

#[test]
fn polled() {
    let mut d = Driver::new();
    let data = d.fill(7, 4096);
    d.w(ENABLE, 0);
    d.submit(copy(4096));
    wait_for("the status", || d.r(LATCHED) == COMPLETION);
    assert_eq!(d.copied(4096), data);
    assert_eq!(d.guest.interrupts(0), 0);
    // A latched interrupt is sent when it is enabled.
    d.w(ENABLE, COMPLETION | ERROR);
    d.guest.await_interrupt(0);
    d.w(LATCHED, COMPLETION);
    assert_eq!(d.r(LATCHED), 0);
}

#[test]
fn message_signalled() {
    let mut d = Driver::with(false);
    assert_eq!(d.guest.capability(0x11), None);
    assert!(d.guest.capability(0x05).is_some());
    d.submit(copy(64));
    assert_eq!(d.done(), (COMPLETION, 0));
}

#[test]
fn bad_descriptors_are_errors() {
    let mut d = Driver::new();
    let outside = BASE + SIZE;
    let change = |word: usize, value: u32| {
        let mut words = copy(4096);
        words[word] = value;
        words
    };
    let high = (BASE >> 32) as u32;
    let cases = [
        (change(0, DW0 & !(0xf << 20)), 1),
        (change(0, DW0 | 1 << 5), 3),
        (change(0, DW0 | 1 << 2), 8),
        (change(0, DW0 | 1 << 31), 8),
        (change(0, DW0 | 1 << 24), 4),
        (change(6, 1), 8),
        (change(1, 0), 9),
        (change(3, high | 1 << 16), 12),
        (change(5, high | 2 << 16), 12),
        (change(3, high | 1 << 31), 4),
        (change(5, high | 1 << 20), 8),
        (descriptor(DW0, 64, outside, BASE), 20),
        (descriptor(DW0, 64, 0, BASE + DESTINATION), 20),
        (descriptor(DW0, 64, BASE, outside - 1), 39),
        (descriptor(DW0, u32::MAX, BASE, BASE + DESTINATION), 39),
        (descriptor(DW0, u32::MAX, 0xffff_ffff_ff00, BASE), 20),
    ];
    for (i, (words, code)) in cases.into_iter().enumerate() {
        d.guest.put(DESTINATION, &[0; 16]);
        let head = d.tail();
        d.submit(words);
        assert_eq!(d.done(), (ERROR, code), "case {i}");
        assert_eq!(d.r(HEAD), head, "the head is at the descriptor that failed");
        d.w(CONTROL, RING | 1);
        assert_eq!(d.r(HEAD), head, "and waits for the driver to move the head");
        d.flush();
        let data = d.fill(i as u64, 333);
        d.submit(copy(333));
        assert_eq!(d.done(), (COMPLETION, 0), "after case {i}");
        assert_eq!(d.copied(333), data);
    }
    assert_eq!(d.guest.counter(0, "errors"), 16);
}

#[test]
fn what_comes_before_a_bus_error_is_copied() {
    let mut d = Driver::new();
    let end = SIZE - 4096;
    d.guest.put(end, &pattern(3, 4096));
    d.submit(descriptor(
        DW0,
        1 << 20,
        BASE + end - (768 << 10),
        BASE + DESTINATION,
    ));
    assert_eq!(d.done(), (ERROR, 20));
    let last = DESTINATION + (768 << 10) - 1;
    assert_eq!(d.guest.get(last, 1), d.guest.get(end - 1, 1));
}

#[test]
fn bad_rings_are_errors() {
    for (head, tail, control) in [
        (BASE as u32, BASE as u32 + 0x1000, RING | 1),
        (BASE as u32 + 4, BASE as u32 + 64, RING | 1),
        (BASE as u32, BASE as u32 + 33, RING | 1),
        (0, 64, 0xffff_0000 | RING | 1),
        (0xffff_ffe0, 0xffff_fc00, 0xffff_0000 | RING | 1),
        (0, 0x20, !2),
    ] {
        let mut d = Driver::new();
        d.w(HEAD, head);
        d.w(TAIL, tail);
        d.w(CONTROL, control);
        let (latched, code) = d.done();
        assert_eq!(latched, ERROR);
        assert!([11, 20].contains(&code), "{code}");
        d.guest.client().reset().unwrap();
        d.guest.bus_master(true);
        d.init();
        d.submit(copy(64));
        assert_eq!(d.done(), (COMPLETION, 0));
    }
}

#[test]
fn halt_and_stop() {
    let mut d = Driver::new();
    d.put(copy(64));
    let tail = d.tail();
    d.w(TAIL, tail);
    d.w(CONTROL, RING | 3);
    assert_eq!(d.r(HEAD), BASE as u32, "halted");
    d.w(CONTROL, RING);
    assert_eq!(d.r(HEAD), BASE as u32, "not running");
    d.w(CONTROL, RING | 1);
    assert_eq!(d.done(), (COMPLETION, 0));
    // Stop on completion: the second has to wait for the driver.
    let mut stop = copy(64);
    stop[0] |= 1;
    d.put(stop);
    d.put(copy(64));
    let tail = d.tail();
    d.w(TAIL, tail);
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.r(CONTROL) & 1, 0);
    assert_eq!(d.r(HEAD), BASE as u32 + 64);
    d.w(CONTROL, RING | 1);
    assert_eq!(d.done(), (COMPLETION, 0));
}

/// It keeps what it has, begun or not, and goes on with it later.
#[test]
fn no_bus_master_no_access() {
    let mut d = Driver::new();
    for begun in [false, true] {
        let data = d.fill(u64::from(begun), 64);
        if begun {
            d.guest
                .control(r#"{"cmd":"inject","fault":{"kind":"hang"}}"#);
            d.submit(copy(64));
            wait_for("the fault", || {
                d.guest.control(r#"{"cmd":"stats"}"#)["faults_fired"] == 1
            });
        }
        d.guest.bus_master(false);
        if begun {
            d.guest.control(r#"{"cmd":"release"}"#);
        } else {
            d.submit(copy(64));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(d.r(LATCHED), 0);
        assert_eq!(d.copied(64), [0xee; 64]);
        d.guest.bus_master(true);
        assert_eq!(d.done(), (COMPLETION, 0));
        assert_eq!(d.copied(64), data);
    }
}

#[test]
fn a_reset_without_bus_master_ends_it() {
    let mut d = Driver::new();
    d.fill(1, 64);
    d.guest.bus_master(false);
    d.submit(copy(64));
    d.guest.flr();
    d.guest.bus_master(true);
    d.init();
    assert_eq!(d.copied(64), [0xee; 64]);
    let data = d.fill(2, 64);
    d.submit(copy(64));
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.copied(64), data);
}

#[test]
fn narrow_writes_are_ignored() {
    let mut d = Driver::new();
    let before = d.r(TAIL);
    d.guest.client().region_write(2, TAIL, &[1]).unwrap();
    d.guest
        .client()
        .region_write(2, TAIL + 2, &[1, 2, 3, 4])
        .unwrap();
    assert_eq!(d.r(TAIL), before);
    assert_eq!(d.guest.counter(0, "bad_requests"), 2);
    assert_eq!(d.r(0x10) & 0x3f, 5, "version");
    d.w(0x6004, 0x1234);
    assert_eq!(d.r(0x6004), 0x1234);
    assert_eq!(d.r(0x7000), 0);
}

#[test]
fn error_on_the_nth_descriptor() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","nth":3,"fault":{"kind":"error","code":18}}"#);
    let data = d.fill(1, 256);
    for n in 1..=5 {
        d.guest.put(DESTINATION, &[0; 256]);
        d.submit(copy(256));
        if n == 3 {
            assert_eq!(d.done(), (ERROR, 18));
            assert_eq!(d.copied(256), [0; 256], "nothing is copied");
            d.flush();
        } else {
            assert_eq!(d.done(), (COMPLETION, 0));
            assert_eq!(d.copied(256), data);
        }
    }
}

#[test]
fn partial_copies() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"partial","bytes":100}}"#);
    let data = d.fill(1, 256);
    d.submit(copy(256));
    assert_eq!(d.done(), (ERROR, 39));
    assert_eq!(d.copied(100), data[..100]);
    assert_eq!(d.copied(256)[100..], [0xee; 156]);
    d.flush();
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"partial","bytes":100,"silent":true}}"#);
    d.guest.put(DESTINATION, &[0; 256]);
    d.submit(copy(256));
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.copied(256)[100..], [0; 156]);
}

#[test]
fn hang_until_released() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"hang"}}"#);
    let data = d.fill(1, 256);
    d.submit(copy(256));
    wait_for("the fault", || {
        d.guest.control(r#"{"cmd":"stats"}"#)["faults_fired"] == 1
    });
    assert_eq!(d.r(LATCHED), 0);
    assert_eq!(d.copied(256), [0xee; 256]);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.copied(256), data);
}

#[test]
fn hang_until_reset() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"hang"}}"#);
    d.fill(1, 256);
    d.submit(copy(256));
    wait_for("the fault", || {
        d.guest.control(r#"{"cmd":"stats"}"#)["faults_fired"] == 1
    });
    d.guest.client().reset().unwrap();
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.guest.counter(0, "aborted"), 1);
    d.guest.bus_master(true);
    d.init();
    assert_eq!(d.copied(256), [0xee; 256], "what was reset is not done");
    let data = d.fill(2, 256);
    d.submit(copy(256));
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.copied(256), data);
}

#[test]
fn interrupts_lost_late_and_twice() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"lost_interrupt"}}"#);
    d.submit(copy(64));
    wait_for("the completion", || d.r(LATCHED) == COMPLETION);
    assert_eq!(d.guest.interrupts(0), 0);
    d.handle();
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"late_interrupt","ms":200}}"#);
    d.submit(copy(64));
    wait_for("the completion", || d.r(LATCHED) == COMPLETION);
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.guest.counter(0, "interrupts"), 1, "the late one alone");
    d.guest
        .control(r#"{"cmd":"inject","fault":{"kind":"duplicate","ms":20}}"#);
    d.submit(copy(64));
    assert_eq!(d.done(), (COMPLETION, 0));
    wait_for("the second", || d.guest.counter(0, "interrupts") == 3);
    assert_eq!(d.handle(), (0, 0), "there is nothing to it");
}

/// Submits a copy whose write is late, and waits until its source has been read.
fn submit_late(d: &mut Driver, ms: u64, through_reset: bool) -> Vec<u8> {
    d.guest.control(&format!(
        r#"{{"cmd":"inject","fault":{{"kind":"late_write","ms":{ms},"through_reset":{through_reset}}}}}"#
    ));
    let old = d.fill(1, 4096);
    d.submit(copy(4096));
    wait_for("the read", || {
        d.guest.control(r#"{"cmd":"stats"}"#)["late_writes_read"] == 1
    });
    old
}

#[test]
fn late_write_has_the_old_bytes() {
    let mut d = Driver::new();
    let old = submit_late(&mut d, 100, false);
    d.guest.put(SOURCE, &pattern(2, 4096));
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.copied(4096), old);
}

#[test]
fn late_write_ends_with_a_reset() {
    let mut d = Driver::new();
    submit_late(&mut d, 3_600_000, false);
    d.guest.client().reset().unwrap();
    assert_eq!(d.guest.counter(0, "aborted"), 1);
    assert_eq!(d.copied(4096), [0xee; 4096]);
}

#[test]
fn late_write_through_a_reset() {
    let mut d = Driver::new();
    let old = submit_late(&mut d, 500, true);
    d.guest.client().reset().unwrap();
    d.guest.bus_master(true);
    wait_for("the write", || d.copied(4096) == old);
    assert_eq!(d.guest.counter(0, "descriptors"), 0, "not reported");
}

#[test]
fn surprise_removal() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","nth":2,"fault":{"kind":"disappear"}}"#);
    d.submit(copy(64));
    assert_eq!(d.done(), (COMPLETION, 0));
    d.fill(1, 64);
    d.submit(copy(64));
    wait_for("the end", || d.r(LATCHED) == u32::MAX);
    assert_eq!(d.guest.read_config::<4>(0), [0xff; 4]);
    d.submit(copy(64));
    assert_eq!(d.copied(64), [0xee; 64]);
    assert_eq!(d.guest.interrupts(0), 0);
    d.guest.control(r#"{"cmd":"restore"}"#);
    assert_eq!(d.guest.read_config::<4>(0), [0x22, 0x10, 0x98, 0x14]);
    d.guest.bus_master(true);
    assert_eq!(d.r(TAIL), 0, "as after power-on");
    d.init();
    let data = d.fill(2, 64);
    d.submit(copy(64));
    assert_eq!(d.done(), (COMPLETION, 0));
    assert_eq!(d.copied(64), data);
}

/// Submits a copy that is made at once, and completes an hour later.
fn slow(d: &mut Driver) {
    d.guest
        .control(r#"{"cmd":"limit","latency_us":3600000000}"#);
    d.submit(copy(4 << 20));
    wait_for("the copy", || d.guest.counter(0, "bytes") == 4 << 20);
}

#[test]
fn limits_hold_the_completion_back() {
    let mut d = Driver::new();
    slow(&mut d);
    assert_eq!(d.r(LATCHED), 0);
    assert_eq!(d.guest.counter(0, "descriptors"), 0);
    d.guest.control(r#"{"cmd":"limit"}"#);
    d.guest.client().reset().unwrap();
    d.guest.bus_master(true);
    d.init();
    d.submit(copy(64));
    assert_eq!(d.done(), (COMPLETION, 0));
}

#[test]
fn resets_are_quiet() {
    let reset: [fn(&mut Driver); 4] = [
        |d| d.guest.client().reset().unwrap(),
        |d| d.guest.flr(),
        |d| {
            d.guest.control(r#"{"cmd":"reset"}"#);
        },
        |d| {
            d.guest.disconnect();
            d.guest.connect();
        },
    ];
    for (i, reset) in reset.into_iter().enumerate() {
        let mut d = Driver::new();
        slow(&mut d);
        reset(&mut d);
        d.guest.control(r#"{"cmd":"limit"}"#);
        d.guest.bus_master(true);
        assert_eq!(d.r(TAIL), 0, "reset {i}");
        assert_eq!(d.r(CONTROL), 0);
        assert_eq!(d.guest.counter(0, "aborted"), 1, "reset {i}");
        assert_eq!(d.guest.interrupts(0), 0);
        d.init();
        let data = d.fill(1, 64);
        d.submit(copy(64));
        assert_eq!(d.done(), (COMPLETION, 0));
        assert_eq!(d.copied(64), data);
    }
}

#[test]
fn nothing_is_written_after_an_unmap() {
    let mut d = Driver::new();
    for seed in 0..20 {
        d.fill(seed, 4 << 20);
        d.submit(copy(4 << 20));
        d.guest.unmap();
        let then = d.copied(4 << 20);
        let (latched, code) = d.done();
        assert_eq!(d.copied(4 << 20), then);
        d.guest.map();
        match latched {
            COMPLETION => {}
            ERROR => {
                assert!([20, 39].contains(&code), "{code}");
                d.flush();
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn clients_come_and_go() {
    let mut d = Driver::new();
    for seed in 0..5 {
        d.guest.disconnect();
        d.guest.connect();
        d.init();
        let data = d.fill(seed, 4096);
        d.submit(copy(4096));
        assert_eq!(d.done(), (COMPLETION, 0));
        assert_eq!(d.copied(4096), data);
    }
    let state = d.guest.control(r#"{"cmd":"state"}"#);
    assert_eq!(state["clients_left"], 5);
    assert_eq!(state["mapped_bytes"], SIZE);
}

#[test]
fn faults_of_other_devices_are_refused() {
    let d = Driver::new();
    let why = d
        .guest
        .refused(r#"{"cmd":"inject","fault":{"kind":"stuck_stop"}}"#);
    assert!(why.contains("does not have that fault"), "{why}");
}
