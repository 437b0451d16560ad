// SPDX-License-Identifier: GPL-2.0

//! Identity, registers, the state machine, resets.

use crate::driver::*;
use ferry_harness::{wait_for, BASE, SIZE};
use ferry_sdxi::{function, Options, BAR, DOORBELLS, MOST_CONTEXTS, STRIDE};

#[test]
fn identity() {
    let mut d = Driver::cold(Options::default());
    assert_eq!(d.guest.read_config::<4>(8), [0, 0x00, 0x01, 0x12]);
    for (slot, size) in [(0x10, 512u64 << 10), (0x18, 512 << 10)] {
        d.guest.write_config(slot, &[0xff; 8]);
        let found = u64::from_le_bytes(d.guest.read_config(slot));
        assert_eq!(found, !(size - 1) | 0xc, "64 bits, prefetchable");
    }
    for id in [0x01, 0x05, 0x10, 0x11] {
        assert!(d.guest.capability(id).is_some(), "{id:#x}");
    }
    let msix = d.guest.capability(0x11).unwrap();
    assert_eq!(d.guest.read_config::<2>(msix + 2), [64, 0], "65 vectors");
    // The datasheet's default configuration (11).
    assert_eq!(d.r(CAP0), 0x0600_0001);
    assert_eq!(d.r(CAP1), 0x10_003f_800b);
    assert_eq!(d.r(VERSION), 0x1_0000);
    assert_eq!(d.r(STS0), STOP);
    assert_eq!((d.r(8), d.r(0x300), d.r(0x20018)), (0, 0, 0));
}

#[test]
fn sizes_that_cannot_be() {
    for contexts in [0, MOST_CONTEXTS + 1] {
        let options = Options {
            contexts,
            ..Options::default()
        };
        assert!(function(&options).is_err());
    }
}

#[test]
fn bring_up_and_shut_down() {
    let mut d = Driver::new();
    assert_eq!(d.r(CTL0) & 3, ACTIVATE);
    d.open(1);
    d.check(1, 1);
    d.close(1, 1, false);
    assert_eq!(d.state(1), STOP_SW);
    d.w(CTL0, STOP_SF);
    d.await_state(STOP);
    assert_eq!(d.state(0), STOP_FN);
    assert_eq!(d.r(ERR_STS), 0);
    assert_eq!(d.guest.interrupts(0), 0);
    // The function can be brought up again.
    d.bring_up();
    d.open(1);
    d.check(1, 2);
}

#[test]
fn function_stops_take_the_contexts_with_them() {
    for request in [STOP_SF, STOP_HD] {
        let mut d = Driver::new();
        d.open(1);
        d.open(2);
        d.check(2, 7);
        d.w(CTL0, request);
        d.await_state(STOP);
        for n in 0..3 {
            assert_eq!(d.state(n), STOP_FN, "context {n}");
        }
        // Nothing is done any more.
        d.fill(1, 3, 64);
        let words = d.own_copy(1, 64);
        d.submit(1, words);
        assert_eq!(d.counter(0, "bad_requests"), 1, "a doorbell while stopped");
        d.bring_up();
        d.open(1);
        d.check(1, 4);
    }
}

#[test]
fn a_soft_stop_finishes_what_is_in_work_and_a_hard_stop_does_not() {
    for (request, ms, finished) in [(STOP_SF, 50, true), (STOP_HD, 3_600_000, false)] {
        let mut d = Driver::new();
        d.open(1);
        d.inject(&format!(
            r#""channel":1,"fault":{{"kind":"late_write","ms":{ms}}}"#
        ));
        let data = d.fill(1, 1, 4096);
        let words = d.own_copy(1, 4096);
        let (words, csb) = d.with_csb(1, words);
        d.put(1, words);
        // The second descriptor has not begun, and stays where it is.
        d.put(1, nop());
        d.ring(1);
        d.guest.await_faults(1);
        d.w(CTL0, request);
        d.await_state(STOP);
        assert_eq!(d.state(1), STOP_FN);
        assert_eq!(d.guest.get64(csb), u64::from(!finished));
        assert_eq!(d.copied(1, 4096) == data, finished);
        assert_eq!(d.read_index(1), 1);
        assert_eq!(d.guest.get64(d.place(1).ring() + 64) & 1, 1);
        assert_eq!(d.counter(1, "aborted"), u64::from(!finished));
    }
}

#[test]
fn reset_in_every_state() {
    let mut d = Driver::cold(Options::default());
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP, "shrugged off");
    d.inject(r#""fault":{"kind":"init_delay","ms":3600000}"#);
    d.prepare();
    d.w(CTL0, ACTIVATE);
    d.guest.await_faults(1);
    assert_eq!(d.r(STS0), INIT);
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP);
    d.bring_up();
    d.open(1);
    d.inject(r#""channel":1,"fault":{"kind":"hang"}"#);
    d.fill(1, 1, 64);
    let words = d.own_copy(1, 64);
    d.submit(1, words);
    d.guest.await_faults(2);
    // First a soft stop that cannot end.
    d.w(CTL0, STOP_SF);
    assert_eq!(d.r(STS0), STOPG_SF);
    d.w(CTL0, ACTIVATE);
    assert_eq!(d.r(STS0), STOPG_SF);
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.copied(1, 64), [0xee; 64]);
    d.bring_up();
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP, "from ACTIVE");
    d.inject(r#""fault":{"kind":"init_error"}"#);
    d.prepare();
    d.w(CTL0, ACTIVATE);
    d.await_state(ERROR);
    for ignored in [STOP_SF, STOP_HD, ACTIVATE] {
        d.w(CTL0, ignored);
        assert_eq!(d.r(STS0), ERROR);
    }
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP);
    d.guest.interrupts(0);
    d.bring_up();
    d.open(1);
    d.check(1, 9);
}

#[test]
fn activation_finds_what_is_wrong() {
    type Break = fn(&mut Driver);
    let cases: [(&str, Break, u64, u64); 15] = [
        ("CTL2 beyond CAP1", |d| d.w(CTL2, 0x10_0040_800b), 1, 3),
        ("a PASID", |d| d.w(CTL0, 4), 2, 3),
        ("L2 unaligned", |d| d.w(CXT_L2, BASE + 8), 2, 3),
        ("L2 unreadable", |d| d.w(CXT_L2, BASE + SIZE), 2, 2),
        ("L2 entry", |d| d.guest.put64(L2, 0), 2, 3),
        ("L2 reserved", |d| d.guest.put64(L2, BASE + 0x1003), 2, 3),
        (
            "L1 unreadable",
            |d| d.guest.put64(L2, BASE + SIZE + 1),
            3,
            2,
        ),
        ("L1 entry", |d| d.guest.put64(0x1000, 0), 3, 3),
        ("L1 reserved", |d| d.guest.put64(0x1018, 1), 3, 3),
        (
            "CXT_CTL unreadable",
            |d| d.guest.put64(0x1000, BASE + SIZE + 3),
            4,
            2,
        ),
        (
            "CXT_CTL entry",
            |d| d.guest.put64(d.place(0).control(), 0),
            4,
            3,
        ),
        (
            "no ring",
            |d| d.guest.put64(d.place(0).control() + 8, 0),
            4,
            3,
        ),
        (
            "a ring too long",
            |d| d.guest.put64(d.place(0).control() + 8, 65537),
            4,
            3,
        ),
        (
            "CXT_CTL reserved",
            |d| d.guest.put64(d.place(0).control() + 40, 1),
            4,
            3,
        ),
        (
            "CXT_STS unreadable",
            |d| d.guest.put64(d.place(0).control() + 16, BASE + SIZE),
            5,
            2,
        ),
    ];
    for (what, harm, step, sub) in cases {
        let mut d = Driver::cold(Options::default());
        d.prepare();
        harm(&mut d);
        let ctl0 = d.r(CTL0);
        d.w(CTL0, ctl0 | ACTIVATE);
        d.await_state(ERROR);
        let expected = Entry {
            step,
            sub,
            reaction: 2,
            context: 0,
            index: None,
            buffer: None,
        };
        assert_eq!(d.one_error(), expected, "{what}");
        d.w(CTL0, RESET);
        assert_eq!(d.r(STS0), STOP, "{what}");
        d.bring_up();
        d.open(1);
        d.check(1, 1);
    }
}

#[test]
fn context_0_runs_only_if_software_says_so() {
    let mut d = Driver::cold(Options::default());
    d.prepare();
    let status = d.place(0).status();
    d.guest.put64(status, STOP_SW);
    d.w(CTL0, ACTIVATE);
    d.await_state(ACTIVE);
    let (words, csb) = d.with_csb(0, nop());
    d.submit(0, words);
    wait_for("the doorbell", || d.counter(0, "doorbells") == 1);
    assert_eq!(d.guest.get64(csb), 1);
    d.guest.put64(status, RUN);
    d.ring(0);
    assert!(d.done(csb));
}

#[test]
fn what_is_queued_before_runs_at_the_jump_start() {
    let mut d = Driver::cold(Options::default());
    d.prepare();
    let (words, csb) = d.with_csb(0, nop());
    d.put(0, words);
    d.w(CTL0, ACTIVATE);
    d.await_state(ACTIVE);
    assert_eq!(d.guest.get64(csb), 1);
    d.ring(0);
    assert!(d.done(csb));
}

#[test]
fn halves_and_odd_accesses() {
    let mut d = Driver::cold(Options::default());
    d.prepare();
    d.guest.write32(BAR, CXT_L2, 0);
    d.guest.write32(BAR, CXT_L2 + 4, 0);
    assert_eq!(d.r(CXT_L2), 0);
    d.guest.write32(BAR, CXT_L2, (BASE + L2) as u32);
    d.guest.write32(BAR, CXT_L2 + 4, (BASE >> 32) as u32);
    assert_eq!(d.guest.read32(BAR, CXT_L2 + 4), (BASE >> 32) as u32);
    d.guest.write32(BAR, CTL0 + 4, 0xabcd);
    assert_eq!(d.r(STS0), STOP);
    d.guest.write32(BAR, CTL0, ACTIVATE as u32);
    d.await_state(ACTIVE);
    assert_eq!(d.r(CTL0), 0xabcd << 32 | ACTIVATE, "the group is kept");
    let (words, csb) = d.with_csb(0, nop());
    d.put(0, words);
    let bar = DOORBELLS;
    d.guest.write32(bar, 4, 0);
    d.guest.write64(bar, 8, 1);
    assert_eq!(d.counter(0, "doorbells"), 0);
    d.guest.write32(bar, 0, 1);
    assert!(d.done(csb));
    assert_eq!(d.guest.read64(bar, 0), 0);
    for (bar, at, len) in [(BAR, CTL2, 2), (BAR, CTL2 + 2, 4), (bar, 1, 8)] {
        let client = d.guest.client();
        client.region_write(bar.into(), at, &[1; 8][..len]).unwrap();
    }
    assert_eq!(d.counter(0, "bad_requests"), 3);
    // Beyond what software uses.
    d.guest.write64(bar, 64 * STRIDE, 1);
    assert_eq!(d.counter(0, "bad_requests"), 4);
}

#[test]
fn fewer_contexts_than_there_are() {
    let mut d = Driver::cold(Options::default());
    d.prepare();
    d.w(CTL2, 0x10_0003_800b);
    d.w(CTL0, ACTIVATE);
    d.await_state(ACTIVE);
    d.open(3);
    d.check(3, 1);
    d.make(4);
    d.ring(4);
    assert_eq!(d.counter(0, "bad_requests"), 1);
    assert!(!d.admin(start(4, 4)), "an error of context 0");
    d.await_context(0, ERR_FN);
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub, entry.context), (7, 3, 0));
    d.check(3, 2);
}

#[test]
fn message_signalled() {
    let mut d = Driver::with(Options {
        msix: false,
        ..Options::default()
    });
    assert_eq!(d.guest.capability(0x11), None);
    d.open(5);
    d.submit(5, interrupt(0));
    d.guest.await_interrupt(5);
    // More than there are.
    d.guest.put64(d.place(5).akeys(), 3 | 32 << 4);
    d.submit(5, interrupt(0));
    assert_eq!(d.one_error().step, 11);
}

/// Submits a copy that is made at once, and completes an hour later.
fn slow(d: &mut Driver) {
    d.guest
        .control(r#"{"cmd":"limit","latency_us":3600000000,"channel":1}"#);
    d.fill(1, 1, 4096);
    let words = d.own_copy(1, 4096);
    d.submit(1, words);
    wait_for("the copy", || d.counter(1, "bytes") == 4096);
}

#[test]
fn resets_are_quiet() {
    let resets: [fn(&mut Driver); 5] = [
        |d| d.guest.client().reset().unwrap(),
        |d| d.guest.flr(),
        |d| {
            d.guest.control(r#"{"cmd":"reset"}"#);
        },
        |d| {
            d.guest.disconnect();
            d.guest.connect();
        },
        |d| d.w(CTL0, RESET),
    ];
    for (i, reset) in resets.into_iter().enumerate() {
        let mut d = Driver::new();
        d.open(1);
        slow(&mut d);
        reset(&mut d);
        d.guest.control(r#"{"cmd":"limit"}"#);
        d.guest.bus_master(true);
        assert_eq!(d.counter(1, "aborted"), 1, "reset {i}");
        assert_eq!(d.r(STS0), STOP);
        let kept = if i == 4 { BASE + L2 } else { 0 };
        assert_eq!(d.r(CXT_L2), kept, "reset {i}");
        d.bring_up();
        d.open(1);
        d.check(1, 3);
    }
}

/// A reset clears the configuration, and the function does not answer before it is restored.
#[test]
fn registers_are_gone_until_memory_is_enabled() {
    let mut d = Driver::new();
    d.guest.flr();
    assert_eq!(d.guest.read_config::<2>(4), [0, 0]);
    for register in [STS0, CTL0, VERSION] {
        assert_eq!(d.r(register), u64::MAX);
    }
    d.w(CXT_L2, 0x1000);
    d.guest.bus_master(true);
    assert_eq!((d.r(STS0), d.r(CXT_L2)), (STOP, 0));
    d.bring_up();
    d.open(1);
    d.check(1, 1);
}

#[test]
fn surprise_removal() {
    let mut d = Driver::new();
    d.open(1);
    d.inject(r#""channel":1,"fault":{"kind":"disappear"}"#);
    d.fill(1, 1, 64);
    let words = d.own_copy(1, 64);
    d.submit(1, words);
    wait_for("the end", || d.r(STS0) == u64::MAX);
    assert_eq!(d.copied(1, 64), [0xee; 64]);
    d.guest.control(r#"{"cmd":"restore"}"#);
    d.guest.bus_master(true);
    d.bring_up();
    d.open(1);
    d.check(1, 2);
    d.guest.control(r#"{"cmd":"remove"}"#);
    assert_eq!(d.r(STS0), u64::MAX);
    d.w(CTL0, RESET);
    d.guest.control(r#"{"cmd":"restore"}"#);
    d.guest.bus_master(true);
    assert_eq!(d.r(STS0), STOP);
}

#[test]
fn no_bus_master_no_access() {
    let mut d = Driver::cold(Options::default());
    d.prepare();
    d.guest.bus_master(false);
    d.w(CTL0, ACTIVATE);
    d.await_state(ERROR);
    assert_eq!(d.r(ERR_STS), 9, "the log cannot be written either");
    assert_eq!(d.guest.interrupts(0), 0);
}

#[test]
fn nothing_is_written_after_an_unmap() {
    let mut d = Driver::new();
    for seed in 0..10 {
        d.open(1);
        d.fill(1, seed, 0x8000);
        for _ in 0..20 {
            let words = d.own_copy(1, 0x8000);
            d.put(1, words);
        }
        d.ring(1);
        d.guest.unmap();
        let then = d.guest.get(0, 1 << 20);
        d.guest.control(r#"{"cmd":"stats"}"#);
        assert!(d.guest.get(0, 1 << 20) == then);
        d.guest.map();
        d.w(CTL0, RESET);
        d.guest.interrupts(0);
        d.bring_up();
    }
}

#[test]
fn several_functions() {
    let mut all: Vec<Driver> = (1..4)
        .map(|sfunc| {
            Driver::with(Options {
                sfunc,
                contexts: 8,
                ..Options::default()
            })
        })
        .collect();
    for (sfunc, d) in (1..).zip(&mut all) {
        assert_eq!(d.r(CAP0) & 0xffff, sfunc);
        assert_eq!(d.options().contexts, 8);
        d.open(1);
        d.open(7);
    }
    // At once, and none knows of the others.
    let mut sent = Vec::new();
    for (i, d) in (0..).zip(&mut all) {
        for n in [1, 7] {
            let data = d.fill(n, i << 8 | u64::from(n), 4096);
            let words = d.own_copy(n, 4096);
            let (words, csb) = d.with_csb(n, words);
            d.submit(n, words);
            sent.push((i as usize, n, data, csb));
        }
    }
    for (i, n, data, csb) in sent {
        assert!(all[i].done(csb));
        assert_eq!(all[i].copied(n, 4096), data);
    }
    all[1].w(CTL0, STOP_HD);
    all[1].await_state(STOP);
    all[0].check(1, 1);
    all[2].check(7, 1);
}
