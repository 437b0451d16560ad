// SPDX-License-Identifier: GPL-2.0

//! The device as the driver uses it, through vfio-user.

use ferry_ae4dma::{BAR, QUEUES, STRIDE};
use ferry_harness::{pattern, wait_for, Guest, BASE, SIZE};

const CONTROL: u64 = 0x00;
const STATUS: u64 = 0x04;
const MAX: u64 = 0x08;
const READ: u64 = 0x0c;
const WRITE: u64 = 0x10;
const INTERRUPT: u64 = 0x14;
const BASE_LOW: u64 = 0x18;
const BASE_HIGH: u64 = 0x1c;

const LENGTH: u32 = 32;
const COMPLETED: u8 = 3;
const FAILED: u8 = 4;

/// A queue's part of the memory: its ring, and from 4096 its data.
const AREA: u64 = SIZE / QUEUES as u64;
const SOURCE: u64 = 4096;
const DESTINATION: u64 = 4096 + 256 * 1024;

/// The steps of `ae4_core_init()` and `ae4_core_execute_cmd()`.
struct Driver {
    guest: Guest,
    next: [u32; QUEUES as usize],
}

impl Driver {
    fn new() -> Driver {
        Driver::with(true)
    }

    fn with(msix: bool) -> Driver {
        let function = ferry_ae4dma::function(msix).unwrap();
        let vectors = if msix { (1, QUEUES) } else { (1, 0) };
        let mut driver = Driver {
            guest: Guest::new(function, vectors),
            next: [0; QUEUES as usize],
        };
        driver.init(QUEUES.into());
        driver
    }

    fn init(&mut self, queues: u32) {
        self.next = [0; QUEUES as usize];
        self.guest.write32(BAR, 0, queues);
        for q in 0..queues.min(QUEUES.into()) as usize {
            let ring = BASE + q as u64 * AREA;
            self.w(q, MAX, LENGTH);
            self.w(q, BASE_LOW, ring as u32);
            self.w(q, BASE_HIGH, (ring >> 32) as u32);
        }
    }

    fn r(&mut self, q: usize, at: u64) -> u32 {
        self.guest.read32(BAR, (q as u64 + 1) * STRIDE + at)
    }

    fn w(&mut self, q: usize, at: u64, value: u32) {
        self.guest.write32(BAR, (q as u64 + 1) * STRIDE + at, value);
    }

    fn put(&mut self, q: usize, words: [u32; 8]) -> u32 {
        let index = self.next[q];
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.guest
            .put(q as u64 * AREA + u64::from(index) * 32, &bytes);
        self.next[q] = (index + 1) % LENGTH;
        index
    }

    fn ring(&mut self, q: usize) {
        let next = self.next[q];
        self.w(q, WRITE, next);
    }

    fn submit(&mut self, q: usize, words: [u32; 8]) -> u32 {
        let index = self.put(q, words);
        self.ring(q);
        index
    }

    /// Status and error code of a descriptor.
    fn status(&self, q: usize, index: u32) -> [u8; 2] {
        let at = q as u64 * AREA + u64::from(index) * 32 + 4;
        self.guest.get(at, 2).try_into().unwrap()
    }

    fn done(&mut self, q: usize, index: u32) -> [u8; 2] {
        self.guest.await_interrupt(q);
        assert_eq!(self.r(q, INTERRUPT), 1);
        self.w(q, INTERRUPT, 0);
        self.status(q, index)
    }

    fn fill(&self, q: usize, seed: u64, len: usize) -> Vec<u8> {
        let data = pattern(seed, len);
        self.guest.put(q as u64 * AREA + SOURCE, &data);
        self.guest
            .put(q as u64 * AREA + DESTINATION, &vec![0xee; len]);
        data
    }

    fn copied(&self, q: usize, len: usize) -> Vec<u8> {
        self.guest.get(q as u64 * AREA + DESTINATION, len)
    }
}

fn descriptor(len: u32, source: u64, destination: u64) -> [u32; 8] {
    let (s, d) = (source, destination);
    let high = |a: u64| (a >> 32) as u32;
    [2, 0, len, 0, s as u32, high(s), d as u32, high(d)]
}

fn copy(q: usize, len: u32) -> [u32; 8] {
    let area = BASE + q as u64 * AREA;
    descriptor(len, area + SOURCE, area + DESTINATION)
}

#[test]
fn every_queue_copies() {
    let mut d = Driver::new();
    for round in 0..40u32 {
        let mut sent = Vec::new();
        for q in 0..usize::from(QUEUES) {
            let len = 4 * (1 + round * 997 % 60_000 + q as u32);
            let data = d.fill(q, u64::from(round) << 8 | q as u64, len as usize);
            sent.push((d.submit(q, copy(q, len)), data));
        }
        for (q, (index, data)) in sent.into_iter().enumerate() {
            assert_eq!(d.done(q, index), [COMPLETED, 0], "queue {q}");
            assert_eq!(d.copied(q, data.len()), data);
            assert_eq!(d.r(q, READ), d.next[q]);
        }
    }
    for q in 0..usize::from(QUEUES) {
        for name in ["descriptors", "doorbells", "interrupts"] {
            assert_eq!(d.guest.counter(q, name), 40, "queue {q} {name}");
        }
    }
}

#[test]
fn one_doorbell_for_many() {
    let mut d = Driver::new();
    d.fill(3, 1, 4096);
    let indexes: Vec<u32> = (0..31).map(|_| d.put(3, copy(3, 4096))).collect();
    d.ring(3);
    wait_for("the ring to empty", || d.r(3, READ) == 31);
    for index in indexes {
        assert_eq!(d.status(3, index), [COMPLETED, 0]);
    }
    assert_eq!(d.guest.counter(3, "doorbells"), 1);
    assert_eq!(d.guest.counter(3, "interrupts"), 31, "a message for each");
    assert_eq!(d.r(3, STATUS), 0, "empty");
}

#[test]
fn one_message_for_all() {
    let mut d = Driver::with(false);
    let index = d.submit(9, copy(9, 64));
    d.guest.await_interrupt(0);
    assert_eq!(d.status(9, index), [COMPLETED, 0]);
}

#[test]
fn bad_descriptors_are_errors_and_the_queue_goes_on() {
    let mut d = Driver::new();
    let area = BASE + 2 * AREA;
    let (s, t) = (area + SOURCE, area + DESTINATION);
    let change = |word: usize, value: u32| {
        let mut words = copy(2, 4096);
        words[word] = value;
        words
    };
    let cases = [
        (change(0, 0x0102), 1),
        (change(0, 0x12), 1),
        (change(1, 1), 2),
        (change(1, 0x0300), 2),
        (change(3, 1), 7),
        (change(2, 0), 3),
        (change(2, 2), 3),
        (descriptor(64, s + 2, t), 4),
        (descriptor(64, s, t + 1), 5),
        (descriptor(64, BASE + SIZE, t), 64),
        (descriptor(64, s, 0), 65),
        (descriptor(64, u64::MAX - 3, t), 64),
        (descriptor(64, s, u64::MAX - 3), 65),
        (descriptor(u32::MAX - 3, s, t), 65),
    ];
    let count = cases.len() as u64;
    for (i, (words, code)) in cases.into_iter().enumerate() {
        let bad = d.put(2, words);
        let good = d.put(2, copy(2, 64));
        d.ring(2);
        let expected = d.next[2];
        wait_for("both", || d.r(2, READ) == expected);
        assert_eq!(d.status(2, bad), [FAILED, code], "case {i}");
        assert_eq!(d.status(2, good), [COMPLETED, 0], "after case {i}");
    }
    assert_eq!(d.guest.counter(2, "errors"), count);
}

#[test]
fn bad_rings_stop_the_queue() {
    const STOPPED: u32 = 2 << 1;
    let mut d = Driver::new();
    for bad in [LENGTH, LENGTH + 1, u32::MAX] {
        d.w(0, WRITE, bad);
        d.guest.await_interrupt(0);
        assert_eq!(d.r(0, STATUS), STOPPED);
        assert_eq!(d.r(0, WRITE), 0, "not taken");
    }
    assert_eq!(d.guest.counter(0, "bad_requests"), 3);
    // A base that is no memory, and one whose ring passes the end of the address space.
    for (low, high) in [(0, 0), (0xffff_ffe0, 0xffff_ffff), (0xffff_fff0, 0)] {
        d.w(1, BASE_LOW, low);
        d.w(1, BASE_HIGH, high);
        d.w(1, WRITE, 1);
        d.guest.await_interrupt(1);
        assert_eq!(d.r(1, STATUS), STOPPED);
        assert_eq!(d.r(1, READ), 0);
    }
    // The maximum falls below the indexes.
    d.w(2, CONTROL, 0);
    d.next[2] = 8;
    d.put(2, copy(2, 64));
    d.w(2, MAX, 0x20);
    d.guest
        .control(r#"{"cmd":"inject","channel":2,"fault":{"kind":"hang"}}"#);
    d.w(2, WRITE, 9);
    wait_for("the fault", || {
        d.guest.control(r#"{"cmd":"stats"}"#)["faults_fired"] == 1
    });
    d.w(2, MAX, 4);
    d.guest.control(r#"{"cmd":"release"}"#);
    wait_for("the stop", || d.r(2, STATUS) == STOPPED);
    d.w(2, MAX, u32::MAX);
    assert_eq!(d.guest.counter(2, "bad_requests"), 1);
    d.w(3, MAX, 0);
    d.w(3, WRITE, 0);
    assert_eq!(d.r(3, STATUS), STOPPED);
    // The others do not mind.
    let data = d.fill(4, 1, 64);
    let index = d.submit(4, copy(4, 64));
    assert_eq!(d.done(4, index), [COMPLETED, 0]);
    assert_eq!(d.copied(4, 64), data);
}

#[test]
fn queues_beyond_the_last() {
    let mut d = Driver::new();
    d.init(u32::MAX);
    assert_eq!(d.guest.read32(BAR, 0), u32::from(QUEUES));
    assert_eq!(d.guest.counter(0, "bad_requests"), 1);
    for at in [(u64::from(QUEUES) + 1) * STRIDE + WRITE, 0xfff0] {
        d.guest.write32(BAR, at, 1);
        assert_eq!(d.guest.read32(BAR, at), 0);
    }
    d.init(2);
    d.w(5, WRITE, 0);
    d.next[5] = 0;
    d.submit(5, copy(5, 64));
    let index = d.submit(1, copy(1, 64));
    assert_eq!(d.done(1, index), [COMPLETED, 0]);
    assert_eq!(d.guest.counter(5, "descriptors"), 0, "was not enabled");
}

#[test]
fn stop_and_start() {
    let mut d = Driver::new();
    d.w(0, CONTROL, 0);
    d.put(0, copy(0, 64));
    assert_eq!(d.r(0, STATUS), 2 << 1);
    d.w(0, CONTROL, 1);
    assert_eq!(d.r(0, STATUS), 0);
    d.w(0, CONTROL, 0);
    d.ring(0);
    assert_eq!(d.done(0, 0), [COMPLETED, 0], "a new index starts it");
    // While a descriptor is held, the rest waits and a stop keeps it.
    d.guest
        .control(r#"{"cmd":"inject","channel":0,"fault":{"kind":"hang"}}"#);
    let first = d.put(0, copy(0, 64));
    let second = d.put(0, copy(0, 64));
    d.ring(0);
    wait_for("the fault", || {
        d.guest.control(r#"{"cmd":"stats"}"#)["faults_fired"] == 1
    });
    d.w(0, CONTROL, 0);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.done(0, first), [COMPLETED, 0]);
    assert_eq!(d.status(0, second), [0, 0]);
    d.w(0, CONTROL, 1);
    assert_eq!(d.done(0, second), [COMPLETED, 0]);
}

#[test]
fn out_of_order_across_queues() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"inject","channel":0,"fault":{"kind":"reorder","behind":7,"count":3}}"#);
    let data = d.fill(0, 1, 64);
    let held = d.submit(0, copy(0, 64));
    wait_for("the copy", || d.copied(0, 64) == data);
    for n in 0..3 {
        assert_eq!(d.status(0, held), [0, 0], "after {n}");
        assert_eq!(d.guest.interrupts(0), 0);
        let other = d.submit(7, copy(7, 64));
        assert_eq!(d.done(7, other), [COMPLETED, 0]);
    }
    assert_eq!(d.done(0, held), [COMPLETED, 0]);
}

#[test]
fn faults_of_one_queue_leave_the_others_alone() {
    let mut d = Driver::new();
    for request in [
        r#"{"cmd":"inject","channel":1,"fault":{"kind":"error","code":70}}"#,
        r#"{"cmd":"inject","channel":2,"fault":{"kind":"hang"}}"#,
        r#"{"cmd":"inject","channel":3,"fault":{"kind":"lost_interrupt"}}"#,
    ] {
        d.guest.control(request);
    }
    for q in 0..5 {
        d.fill(q, q as u64, 64);
        d.submit(q, copy(q, 64));
    }
    assert_eq!(d.done(1, 0), [FAILED, 70]);
    wait_for("queue 3", || d.status(3, 0) == [COMPLETED, 0]);
    wait_for("its index", || d.r(3, READ) == 1);
    assert_eq!(d.guest.interrupts(3), 0);
    assert_eq!(d.done(0, 0), [COMPLETED, 0]);
    assert_eq!(d.done(4, 0), [COMPLETED, 0]);
    assert_eq!(d.status(2, 0), [0, 0]);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.done(2, 0), [COMPLETED, 0]);
}

#[test]
fn reset_while_every_queue_works() {
    let mut d = Driver::new();
    d.guest
        .control(r#"{"cmd":"limit","latency_us":3600000000}"#);
    for q in 0..usize::from(QUEUES) {
        d.submit(q, copy(q, 64));
    }
    for q in 0..usize::from(QUEUES) {
        wait_for("the copy", || d.guest.counter(q, "bytes") == 64);
    }
    d.guest.flr();
    d.guest.control(r#"{"cmd":"limit"}"#);
    d.guest.bus_master(true);
    for q in 0..usize::from(QUEUES) {
        assert_eq!(d.status(q, 0), [0, 0]);
        assert_eq!(d.r(q, MAX), 0);
        assert_eq!(d.guest.interrupts(q), 0);
        assert_eq!(d.guest.counter(q, "aborted"), 1);
    }
    d.init(QUEUES.into());
    let index = d.submit(15, copy(15, 64));
    assert_eq!(d.done(15, index), [COMPLETED, 0]);
}

#[test]
fn control_refuses_what_it_does_not_know() {
    let d = Driver::new();
    let refused = |request: &str| {
        let function = ferry_ae4dma::function(true).unwrap();
        let (answer, _) = ferry_vfio::control::answer(&function, request);
        assert_eq!(answer["ok"], false, "{request}");
        assert!(answer["error"].is_string(), "{request}");
    };
    for request in [
        "",
        "{",
        "[]",
        r#"{"cmd":"nonsense"}"#,
        r#"{"cmd":"stats","more":1}"#,
        r#"{"cmd":"limit","channel":16}"#,
        r#"{"cmd":"limit","latency_us":-1}"#,
        r#"{"cmd":"inject"}"#,
        r#"{"cmd":"inject","channel":16,"fault":{"kind":"hang"}}"#,
        r#"{"cmd":"inject","nth":0,"fault":{"kind":"hang"}}"#,
        r#"{"cmd":"inject","fault":{"kind":"error","code":256}}"#,
        r#"{"cmd":"inject","channel":1,"fault":{"kind":"reorder","behind":1,"count":1}}"#,
    ] {
        refused(request);
    }
    assert_eq!(
        d.guest.control(r#"{"cmd":"faults"}"#)["armed"],
        serde_json::json!([])
    );
    d.guest
        .control(r#"{"cmd":"inject","times":0,"fault":{"kind":"hang"}}"#);
    assert_eq!(d.guest.control(r#"{"cmd":"clear"}"#)["cleared"], 1);
}
