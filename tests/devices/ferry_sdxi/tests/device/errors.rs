// SPDX-License-Identifier: GPL-2.0

//! Every class of malformed structures and descriptors, and the error log itself.

use crate::driver::*;
use ferry_harness::{wait_for, BASE, SIZE};
use ferry_sdxi::Options;

/// The first address after the guest's memory.
const NOWHERE: u64 = BASE + SIZE;

fn entry(step: u64, sub: u64, index: Option<u64>, buffer: Option<u64>) -> Entry {
    Entry {
        step,
        sub,
        reaction: 1,
        context: 1,
        index,
        buffer,
    }
}

/// Descriptors that fail, and how.
fn bad_descriptors(d: &Driver) -> Vec<([u64; 8], u64, u64, Option<u64>)> {
    let place = d.place(1);
    let good = copy(place.source(), place.destination(), 4096);
    let write = |i: usize, value: u64| {
        let mut words = good;
        words[i] = value;
        words
    };
    let head = |value: u64| {
        let mut words = nop();
        words[0] = value;
        words
    };
    let flip = |i: usize, bit: u64| {
        let mut words = good;
        words[i] ^= bit;
        words
    };
    let far = BASE + SIZE - 100;
    let (s, t) = (good[2], good[3]);
    vec![
        // Opcodes: reserved, unknown, vendor, atomic, administrative outside context 0.
        (head(0x0000_0001), 7, 3, None),
        (head(0x0001_0001), 7, 3, None),
        (head(0x0001_0501), 7, 3, None),
        (head(0x0003_0201), 7, 3, None),
        (head(0x0004_0101), 7, 3, None),
        (head(0x07f7_0001), 7, 3, None),
        (start(2, 2), 7, 3, None),
        (sync(1, 2, 2), 7, 3, None),
        // Reserved bits; attributes.
        (flip(0, 1 << 3), 7, 3, None),
        (flip(0, 1 << 5), 7, 3, None),
        (flip(0, 1 << 27), 7, 3, None),
        (flip(1, 1), 7, 3, None),
        (flip(1, 1 << 8), 7, 3, None),
        (flip(4, 1), 7, 3, None),
        (flip(6, 1 << 63), 7, 3, None),
        ([0x0001_0103, 0, 0, 0, 0, 0, 0, 1], 7, 3, None),
        ([0x0001_0101, 0, 0, 0, 0, 0, 1, 1], 7, 3, None),
        ([0x1_0004_0001, 0, 0, 0, 0, 0, 0, 1], 7, 3, None),
        // AKeys: not valid, out of the table, of another function, no interrupt or a bad one.
        (flip(1, 7 << 32), 11, 3, None),
        (flip(1, 7 << 48), 11, 3, None),
        (flip(1, 256 << 32), 11, 3, None),
        (flip(1, 2 << 48), 11, 3, None),
        (interrupt(1), 11, 3, None),
        (interrupt(3), 11, 3, None),
        (interrupt(4), 11, 3, None),
        (interrupt(0xffff), 11, 3, None),
        // Buffers: not there, there in part, beyond the end of all addresses.
        (write(2, NOWHERE), 10, 1, Some(0)),
        (write(3, NOWHERE), 10, 1, Some(1)),
        (write(2, far), 10, 1, Some(0)),
        (write(3, far), 10, 1, Some(1)),
        (write(2, u64::MAX - 10), 10, 1, Some(0)),
        (write(3, u64::MAX - 10), 10, 1, Some(1)),
        ([0x1f_0001_0201, 0, NOWHERE, 0, 0, 0, 0, 1], 10, 1, Some(1)),
        // Overlap, size.
        (write(3, s + 4095), 10, 3, Some(1)),
        (write(2, t), 10, 3, Some(1)),
        ([0x20_0001_0201, 0, t, 0, 0, 0, 0, 1], 10, 3, Some(1)),
        ([0xffe_0001_0401, 0, s, t, 0, 0, 0, 1], 10, 3, Some(1)),
        ([0xfff_0001_0401, 0, s + 64, t, 0, 0, 0, 1], 10, 3, Some(0)),
        ([0xfff_0001_0401, 0, s, t + 64, 0, 0, 0, 1], 10, 3, Some(1)),
    ]
}

#[test]
fn bad_descriptors_stop_their_context_alone() {
    let mut d = Driver::new();
    d.open(1);
    d.open(2);
    let akeys = d.place(1).akeys();
    let cases = bad_descriptors(&d);
    // Twice, so that the log of 64 entries wraps.
    let all = cases.len() * 2;
    for (i, (words, step, sub, buffer)) in cases.into_iter().cycle().take(all).enumerate() {
        let what = format!("case {i}: {words:x?}");
        // Another function; interrupt 0, which is the log's; one beyond the table.
        d.guest.put64(akeys + 2 * 16, 1 | 1 << 16);
        d.guest.put64(akeys + 3 * 16, 3);
        d.guest.put64(akeys + 4 * 16, 3 | 65 << 4);
        d.fill(1, 1, 4096);
        let mut ahead = d.tail(1);
        for _ in 0..i % 3 {
            d.put(1, nop());
            ahead += 1;
        }
        let (words, csb) = d.with_csb(1, words);
        d.put(1, words);
        let (after, untouched) = d.with_csb(1, nop());
        d.put(1, after);
        d.ring(1);
        assert!(!d.done(csb), "{what}");
        d.await_context(1, ERR_FN);
        assert_eq!(d.read_index(1), ahead, "{what}");
        let expected = entry(step, sub, Some(ahead), buffer);
        assert_eq!(d.one_error(), expected, "{what}");
        // Dead, until it is started again; others live.
        d.ring(1);
        d.check(2, i as u64);
        assert_eq!(d.guest.get64(untouched), 1, "{what}");
        d.open(1);
        d.check(1, i as u64);
    }
    assert_eq!(d.counter(1, "errors"), all as u64);
    assert_eq!(d.r(ERR_WRT), all as u64);
}

#[test]
fn what_comes_before_a_bus_error_is_copied() {
    let mut d = Driver::new();
    d.open(1);
    let end = SIZE - (300 << 10);
    d.guest.put(end, &ferry_harness::pattern(1, 300 << 10));
    assert!(!d.run(1, copy(end, 0x80_0000, 1 << 20)));
    let data = d.guest.get(0x80_0000, 256 << 10);
    assert!(data == d.guest.get(end, 256 << 10));
}

#[test]
fn sizes_and_groups_of_the_context() {
    let mut d = Driver::new();
    d.make(1);
    let l1 = d.l1_entry(1);
    // 2 MiB, and no group.
    d.guest.put64(l1 + 16, 0);
    assert!(d.admin(start(1, 1)));
    assert!(d.run(1, copy(0x80_0000, 0xc0_0000, 2 << 20)));
    assert!(!d.run(1, copy(0x80_0000, 0xc0_0000, (2 << 20) + 1)));
    assert_eq!(d.one_error(), entry(10, 3, Some(1), Some(0)));
    d.make(1);
    d.guest.put64(l1 + 16, 0x0f_00b0_0000);
    assert!(d.admin(start(1, 1)));
    d.submit(1, interrupt(0));
    assert_eq!(d.one_error(), entry(7, 3, Some(0), None));
}

#[test]
fn completion_status_blocks_that_are_none() {
    let mut d = Driver::new();
    for (csb, sub, copied) in [
        (NOWHERE, 2, true),
        (BASE + 0x5008, 3, false),
        (BASE + 0x5010, 3, false),
    ] {
        d.open(1);
        let data = d.fill(1, 1, 64);
        let mut words = d.own_copy(1, 64);
        words[7] = csb;
        d.submit(1, words);
        d.await_context(1, ERR_FN);
        assert_eq!(d.one_error(), entry(8, sub, Some(0), None));
        assert_eq!(d.copied(1, 64) == data, copied);
        assert_eq!(d.read_index(1), 0);
    }
    // Across a buffer.
    for (akey, buffer) in [(2, 0), (3, 1)] {
        d.open(1);
        let mut words = d.own_copy(1, 4096);
        words[7] = words[akey] + 4064;
        d.submit(1, words);
        d.await_context(1, ERR_FN);
        let expected = entry(10, 3, Some(0), Some(buffer));
        assert_eq!(d.one_error(), expected);
    }
}

#[test]
fn a_start_with_bad_tables_is_that_contexts_error() {
    type Break = fn(&mut Driver);
    let cases: [(&str, Break, u64, u64); 20] = [
        ("L2 unreadable", |d| d.w(CXT_L2, NOWHERE), 2, 2),
        ("L2 entry", |d| d.guest.put64(L2, 0), 2, 3),
        ("L2 reserved", |d| d.guest.put64(L2, BASE + 0x1101), 2, 3),
        ("L1 unreadable", |d| d.guest.put64(L2, NOWHERE + 1), 3, 2),
        ("L1 entry", |d| d.guest.put64(d.l1_entry(1), 0), 3, 3),
        ("a PASID", |d| d.guest.put64(d.l1_entry(1), BASE + 7), 3, 3),
        (
            "L1 reserved",
            |d| d.guest.put64(d.l1_entry(1), BASE + 0xb),
            3,
            3,
        ),
        (
            "L1 reserved",
            |d| d.guest.put64(d.l1_entry(1) + 8, BASE + 0x10),
            3,
            3,
        ),
        (
            "AKeys too many",
            |d| d.guest.put64(d.l1_entry(1) + 8, BASE + 9),
            3,
            3,
        ),
        (
            "L1 reserved",
            |d| d.guest.put64(d.l1_entry(1) + 16, 1 << 24),
            3,
            3,
        ),
        (
            "L1 reserved",
            |d| d.guest.put64(d.l1_entry(1) + 24, 1),
            3,
            3,
        ),
        (
            "CXT_CTL unreadable",
            |d| d.guest.put64(d.l1_entry(1), NOWHERE + 3),
            4,
            2,
        ),
        (
            "CXT_CTL entry",
            |d| d.guest.put64(d.place(1).control(), 0),
            4,
            3,
        ),
        (
            "CXT_CTL reserved",
            |d| d.guest.put64(d.place(1).control() + 56, 1),
            4,
            3,
        ),
        (
            "no ring",
            |d| d.guest.put64(d.place(1).control() + 8, 0),
            4,
            3,
        ),
        (
            "a ring too long",
            |d| d.guest.put64(d.place(1).control() + 8, 65537),
            4,
            3,
        ),
        (
            "a ring at the end",
            |d| d.guest.put64(d.place(1).control(), u64::MAX << 8 | 1),
            4,
            3,
        ),
        (
            "CXT_STS unaligned",
            |d| d.guest.put64(d.place(1).control() + 16, BASE + 8),
            4,
            3,
        ),
        (
            "write index unaligned",
            |d| d.guest.put64(d.place(1).control() + 24, BASE + 4),
            4,
            3,
        ),
        (
            "CXT_STS unreadable",
            |d| d.guest.put64(d.place(1).control() + 16, NOWHERE),
            5,
            2,
        ),
    ];
    let mut d = Driver::new();
    d.open(2);
    for (what, harm, step, sub) in cases {
        d.make(1);
        harm(&mut d);
        assert!(!d.admin(start(1, 1)), "{what}");
        assert_eq!(d.one_error(), entry(step, sub, None, None), "{what}");
        assert_eq!(d.state(1), STOP_SW);
        d.w(CXT_L2, BASE + L2);
        d.guest.put64(L2, BASE + 0x1001);
        d.make(1);
        // A range goes on behind the bad one, and context 0 too.
        assert!(d.admin(start(1, 2)), "{what}");
        d.check(1, 1);
        d.check(2, 1);
        d.close(1, 1, false);
    }
}

#[test]
fn a_range_goes_on_behind_a_bad_context() {
    let mut d = Driver::new();
    for n in 1..4 {
        d.make(n);
    }
    d.guest.put64(d.l1_entry(2), 0);
    assert!(!d.admin(start(1, 3)));
    let mut expected = entry(3, 3, None, None);
    expected.context = 2;
    assert_eq!(d.one_error(), expected);
    d.check(1, 1);
    d.check(3, 1);
}

#[test]
fn indices_and_rings_that_cannot_be() {
    type Break = fn(&mut Driver);
    let cases: [(&str, Break, u64, u64, Option<u64>); 6] = [
        (
            "W unreadable",
            |d| d.guest.put64(d.place(1).control() + 24, NOWHERE),
            6,
            2,
            None,
        ),
        (
            "W behind R",
            |d| d.guest.put64(d.place(1).status() + 8, 10),
            6,
            3,
            None,
        ),
        (
            "W too far",
            |d| d.guest.put64(d.place(1).write_index(), RING + 1),
            6,
            3,
            None,
        ),
        (
            "W at the end",
            |d| d.guest.put64(d.place(1).write_index(), u64::MAX),
            6,
            3,
            None,
        ),
        (
            "ring unreadable",
            |d| d.guest.put64(d.place(1).control(), NOWHERE + 1),
            7,
            2,
            Some(0),
        ),
        (
            "ring at the end",
            |d| {
                d.guest
                    .put64(d.place(1).control(), (BASE + SIZE - 64 * (RING - 1)) | 1);
                d.guest.put64(d.place(1).status() + 8, RING - 1);
                d.guest.put64(d.place(1).write_index(), RING);
            },
            7,
            2,
            Some(RING - 1),
        ),
    ];
    let mut d = Driver::new();
    for (what, harm, step, sub, index) in cases {
        d.make(1);
        harm(&mut d);
        assert!(d.admin(start(1, 1)), "{what}");
        let writes = d.guest.get64(d.place(1).write_index());
        if writes == 0 {
            d.put(1, nop());
        }
        d.ring(1);
        assert_eq!(d.one_error(), entry(step, sub, index, None), "{what}");
        d.await_context(1, ERR_FN);
    }
    d.open(1);
    d.check(1, 1);
}

#[test]
fn errors_of_context_0_leave_the_function_active() {
    for words in [
        start(2, 1),
        stop(1, 64, false),
        {
            let mut words = start(1, 1);
            words[0] &= !FENCE;
            words
        },
        {
            let mut words = stop(1, 1, false);
            words[0] |= 1 << 47;
            words
        },
        sync(5, 1, 1),
        [0x0002_0901, 0, 0, 0, 0, 0, 0, NO_CSB],
    ] {
        let mut d = Driver::new();
        d.open(1);
        assert!(!d.admin(words), "{words:x?}");
        d.await_context(0, ERR_FN);
        let found = d.one_error();
        assert_eq!((found.step, found.sub, found.context), (7, 3, 0));
        assert_eq!(d.r(STS0), ACTIVE);
        d.check(1, 1);
        d.w(CTL0, STOP_SF);
        d.await_state(STOP);
        assert_eq!((d.state(0), d.state(1)), (ERR_FN, STOP_FN));
        d.bring_up();
        d.open(1);
        d.check(1, 2);
    }
}

/// Makes an error in a fresh context.
fn fail(d: &mut Driver) {
    d.open(1);
    assert!(!d.run(1, [1, 0, 0, 0, 0, 0, 0, NO_CSB]));
    d.await_context(1, ERR_FN);
}

#[test]
fn a_full_log_drops_and_says_so() {
    let mut d = Driver::new();
    for _ in 0..66 {
        fail(&mut d);
    }
    assert_eq!(d.guest.interrupts(0), 1, "only the first is an edge");
    assert_eq!(d.r(ERR_STS), 3);
    assert_eq!(d.r(ERR_WRT), 64);
    assert_eq!(d.drain_log().len(), 64);
    fail(&mut d);
    assert_eq!(d.one_error(), entry(7, 3, Some(0), None));
    assert_eq!(d.r(ERR_WRT), 65);
}

#[test]
fn a_log_that_cannot_be_written() {
    let mut d = Driver::new();
    d.w(ERR_CFG, NOWHERE + 3);
    fail(&mut d);
    assert_eq!(d.guest.await_interrupt(0), 1);
    assert_eq!(d.r(ERR_STS), 9);
    assert_eq!(d.r(ERR_WRT), 0);
    d.w(ERR_STS, 0xb);
    d.w(ERR_CFG, BASE + LOG + 3);
    fail(&mut d);
    d.one_error();
}

#[test]
fn logging_off_and_without_interrupt() {
    let mut d = Driver::new();
    d.w(ERR_CFG, BASE + LOG + 2);
    fail(&mut d);
    assert_eq!((d.r(ERR_STS), d.r(ERR_WRT)), (0, 0));
    d.w(ERR_CTL, 0);
    d.w(ERR_CFG, BASE + LOG + 3);
    fail(&mut d);
    assert_eq!((d.r(ERR_STS), d.r(ERR_WRT)), (1, 1));
    assert_eq!(d.guest.interrupts(0), 0);
    assert_eq!(d.drain_log(), [entry(7, 3, Some(0), None)]);
}

#[test]
fn larger_logs() {
    let mut d = Driver::with(Options::default());
    // Two pages.
    d.w(ERR_CFG, BASE + LOG + 5);
    for _ in 0..129 {
        fail(&mut d);
    }
    assert_eq!(d.r(ERR_WRT), 128);
    assert_eq!(d.r(ERR_STS), 3);
    let last = d.guest.get64(LOG + 127 * 64);
    assert_eq!(last, 0x0001_1303_07f7_0701);
    wait_for("nothing more", || d.guest.get64(LOG + 128 * 64) == 0);
}
