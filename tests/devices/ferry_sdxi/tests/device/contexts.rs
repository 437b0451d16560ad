// SPDX-License-Identifier: GPL-2.0

//! Contexts at work: copies, completion, order, the administrative group.

use crate::driver::*;
use ferry_harness::{pattern, wait_for, BASE};
use ferry_sdxi::Options;

#[test]
fn copies_of_all_sizes() {
    let mut d = Driver::new();
    d.open(1);
    let mut bytes = 0;
    // Half of the memory, away from the contexts' areas.
    let (from, to) = (0x80_0000, 0xc0_0000);
    for (seed, len) in [1, 2, 31, 4095, 4096, 4097, 65536, 1 << 20, (3 << 20) + 5]
        .into_iter()
        .enumerate()
    {
        let data = pattern(seed as u64, len);
        d.guest.put(from + seed as u64, &data);
        d.guest.put(to, &vec![0xee; len + 1]);
        assert!(d.run(1, copy(from + seed as u64, to, len as u64)));
        assert!(d.guest.get(to, len) == data, "{len} bytes");
        assert_eq!(d.guest.get(to + len as u64, 1), [0xee], "a byte too many");
        bytes += len as u64;
    }
    for (name, value) in [
        ("descriptors", 9),
        ("doorbells", 9),
        ("fetches", 9),
        ("bytes", bytes),
        ("errors", 0),
        ("interrupts", 0),
    ] {
        assert_eq!(d.counter(1, name), value, "{name}");
    }
    assert_eq!(d.counter(0, "bytes"), 0);
}

#[test]
fn one_doorbell_for_many_and_an_interrupt() {
    let mut d = Driver::new();
    d.open(3);
    d.guest.put(d.place(3).source(), &pattern(1, 64));
    // Each takes what the one before it wrote.
    let at = |i: u64| d.place(3).source() + i * 64;
    let all: Vec<_> = (0..200).map(|i| copy(at(i), at(i + 1), 64)).collect();
    let last = at(200);
    for mut words in all {
        words[0] |= FENCE;
        d.put(3, words);
    }
    let (mut words, csb) = d.with_csb(3, nop());
    words[0] |= FENCE;
    d.put(3, words);
    d.put(3, interrupt(0));
    d.ring(3);
    assert_eq!(d.guest.await_interrupt(3), 1);
    assert_eq!(d.guest.get64(csb), 0, "what comes before the fence is done");
    assert_eq!(d.guest.get(last, 64), pattern(1, 64));
    wait_for("the counters", || d.counter(3, "descriptors") == 202);
    assert_eq!(d.counter(3, "doorbells"), 1);
    assert_eq!(d.counter(3, "fetches"), 202);
    assert_eq!(d.counter(3, "interrupts"), 1);
    assert_eq!(d.read_index(3), 202);
    // The valid bits were given back.
    let ring = d.place(3).ring();
    assert!((0..202).all(|i| d.guest.get64(ring + i * 64) & 1 == 0));
}

#[test]
fn the_ring_wraps_where_it_ends() {
    let mut d = Driver::new();
    d.open(1);
    for round in 0..4 {
        // A full ring: software may use every slot.
        let mut csbs = Vec::new();
        for i in 0..RING {
            if i % 10 == 0 {
                let (words, csb) = d.with_csb(1, nop());
                d.put(1, words);
                csbs.push(csb);
            } else {
                d.put(1, nop());
            }
        }
        d.ring(1);
        assert!(csbs.into_iter().all(|csb| d.done(csb)));
        wait_for("the end of the ring", || {
            d.read_index(1) == (round + 1) * RING
        });
    }
    d.check(1, 5);
}

#[test]
fn every_context_at_once() {
    let mut d = Driver::new();
    for n in 1..64 {
        d.make(n);
    }
    assert!(d.admin(start(1, 63)));
    for round in 0..3 {
        let mut sent = Vec::new();
        for n in 1..64 {
            let len = 1000 + usize::from(n) * 37 + round;
            let data = d.fill(n, (round as u64) << 8 | u64::from(n), len);
            let words = d.own_copy(n, len as u64);
            let (words, csb) = d.with_csb(n, words);
            d.put(n, words);
            d.put(n, interrupt(0));
            d.ring(n);
            sent.push((n, csb, data));
        }
        for (n, csb, data) in sent {
            assert_eq!(d.guest.await_interrupt(n.into()), 1);
            assert_eq!(d.guest.get64(csb), 0);
            assert_eq!(d.copied(n, data.len()), data, "context {n}");
        }
    }
    d.close(1, 63, false);
    assert!((1..64).all(|n| d.state(n) == STOP_SW));
}

#[test]
fn contexts_do_not_wait_for_each_other() {
    let mut d = Driver::new();
    d.open(1);
    d.open(2);
    d.inject(r#""channel":1,"fault":{"kind":"hang"}"#);
    d.submit(1, nop());
    d.guest.await_faults(1);
    d.check(2, 1);
    d.guest.control(r#"{"cmd":"release"}"#);
    d.check(1, 1);
}

#[test]
fn two_levels_of_tables() {
    let mut d = Driver::with(Options {
        contexts: 256,
        ..Options::default()
    });
    for n in [1, 127, 128, 255] {
        d.open(n);
        d.check(n, n.into());
        d.submit(n, interrupt(0));
        d.guest.await_interrupt(n.into());
    }
    d.close(100, 255, true);
    for (n, state) in [(1, RUN), (127, STOP_SW), (128, STOP_SW), (255, STOP_SW)] {
        assert_eq!(d.state(n), state);
    }
}

#[test]
fn completion_status_blocks() {
    let mut d = Driver::new();
    d.open(1);
    let csb = d.place(1).csb(100);
    let to = |csr: bool| {
        let mut words = nop();
        words[0] |= u64::from(csr) << 4;
        words[7] = BASE + csb;
        words
    };
    // One for three descriptors.
    d.guest.put64(csb, 3);
    d.put(1, to(false));
    d.put(1, to(false));
    d.ring(1);
    wait_for("two", || d.guest.get64(csb) == 1);
    d.submit(1, to(false));
    assert!(d.done(csb));
    // Never below 0.
    d.submit(1, to(false));
    d.check(1, 1);
    assert_eq!(d.guest.get64(csb), 0);
    // The simple mode.
    d.guest.put64(csb, 3);
    d.submit(1, to(true));
    assert!(d.done(csb));
    assert_eq!(d.guest.get(csb + 8, 24), [0; 24]);
}

#[test]
fn immediate_data_and_repeated_blocks() {
    let mut d = Driver::new();
    d.open(1);
    d.fill(1, 1, 64);
    let to = BASE + d.place(1).destination();
    let data = [0x0102_0304_0506_0708, 1, 2, 3];
    let write = |len: u64| {
        let head = (len - 1) << 32 | 0x0001_0201;
        [
            head,
            1 << 32,
            to,
            data[0],
            data[1],
            data[2],
            data[3],
            NO_CSB,
        ]
    };
    assert!(d.run(1, write(5)));
    assert_eq!(d.copied(1, 8), [8, 7, 6, 5, 4, 0xee, 0xee, 0xee]);
    assert!(d.run(1, write(32)));
    assert_eq!(d.copied(1, 33)[24..], [3, 0, 0, 0, 0, 0, 0, 0, 0xee]);
    assert_eq!(d.counter(1, "bytes"), 37);
    let block = d.fill(1, 2, 4096);
    let mut repeat = d.own_copy(1, 5 * 4096);
    repeat[0] ^= 0x0700;
    assert!(d.run(1, repeat));
    assert_eq!(d.copied(1, 5 * 4096), block.repeat(5));
}

#[test]
fn unfenced_descriptors_can_be_overtaken() {
    let mut d = Driver::new();
    d.open(1);
    d.inject(r#""channel":1,"times":0,"fault":{"kind":"out_of_order","count":1000}"#);
    // All write the same word: the last one wins, and that is the first submitted.
    let to = BASE + d.place(1).destination();
    let write = |value| [7 << 32 | 0x0001_0201, 0, to, value, 0, 0, 0, NO_CSB];
    let value = |d: &Driver| d.guest.get64(to - BASE);
    for i in 1..6 {
        d.put(1, write(i));
    }
    let mut fence = nop();
    fence[0] |= FENCE;
    assert!(d.run(1, fence));
    assert_eq!(value(&d), 1, "in reverse");
    // Fences keep them in order; se does, too.
    for flag in [FENCE, 2] {
        for i in 1..6 {
            let mut words = write(i);
            words[0] |= flag;
            d.put(1, words);
        }
        assert!(d.run(1, fence));
        assert_eq!(value(&d), 5, "flag {flag}");
        assert!(d.run(1, write(0)));
    }
    // A driver that forgets the fence sees an interrupt before the copy.
    d.guest.control(r#"{"cmd":"clear"}"#);
    d.inject(r#""channel":1,"fault":{"kind":"out_of_order","count":1}"#);
    d.inject(r#""channel":1,"nth":3,"fault":{"kind":"hang"}"#);
    let (words, csb) = d.with_csb(1, write(9));
    d.put(1, words);
    let mut early = interrupt(0);
    early[0] &= !FENCE;
    d.put(1, early);
    d.put(1, nop());
    d.ring(1);
    d.guest.await_interrupt(1);
    assert!(d.done(csb), "overtaken by one, and then it is its turn");
    d.guest.control(r#"{"cmd":"release"}"#);
    d.check(1, 1);
}

#[test]
fn a_slot_that_is_not_valid_stalls_until_the_next_kick() {
    let mut d = Driver::new();
    d.open(1);
    let (first, csb) = d.with_csb(1, nop());
    let at = d.place(1).ring();
    // Two producers: the second is faster, and rings with 2.
    d.put(1, first);
    d.guest.put64(at, first[0] & !1);
    let (second, other) = d.with_csb(1, nop());
    d.submit(1, second);
    wait_for("a look", || d.counter(1, "fetches") == 1);
    assert_eq!(d.read_index(1), 0);
    d.guest.put64(at, first[0]);
    // The first comes late, with a lower value, and is the only wake-up.
    d.guest.write64(2, 4096, 1);
    assert!(d.done(csb));
    assert!(d.done(other));
    assert_eq!(d.read_index(1), 2);
    assert_eq!(d.counter(1, "fetches"), 3, "one of them in vain");
    // Nothing new.
    d.ring(1);
    d.check(1, 1);
}

#[test]
fn starting() {
    let mut d = Driver::new();
    // With a doorbell of its own.
    d.make(5);
    let (words, csb) = d.with_csb(5, nop());
    d.put(5, words);
    let mut with = start(5, 5);
    with[0] |= 1 << 46;
    with[2] = 1;
    assert!(d.admin(with));
    assert!(d.done(csb));
    assert_eq!(d.counter(5, "doorbells"), 0);
    // Again: nothing happens.
    assert!(d.admin(start(5, 5)));
    d.check(5, 1);
    // Without a doorbell nothing begins, and one before the start is not remembered.
    d.make(6);
    let (words, csb) = d.with_csb(6, nop());
    d.submit(6, words);
    assert!(d.admin(start(6, 6)));
    d.check(5, 2);
    assert_eq!(d.guest.get64(csb), 1);
    d.ring(6);
    assert!(d.done(csb));
    // From the indices in memory, and with the resuming kind.
    d.close(6, 6, false);
    d.make(6);
    let place = d.place(6);
    for _ in 0..1000 {
        d.put(6, nop());
    }
    for i in 0..RING {
        d.guest.put64(place.ring() + i * 64, 0);
    }
    d.guest.put64(place.status() + 8, 1000);
    let mut resume = start(6, 6);
    resume[0] ^= 0x0b00;
    assert!(d.admin(resume));
    d.check(6, 3);
    assert_eq!(d.read_index(6), 1001);
}

#[test]
fn stopping() {
    let mut d = Driver::new();
    for n in 1..4 {
        d.open(n);
    }
    d.inject(r#""channel":2,"fault":{"kind":"hang"}"#);
    let data = d.fill(2, 1, 4096);
    let words = d.own_copy(2, 4096);
    let (words, copied) = d.with_csb(2, words);
    d.submit(2, words);
    d.guest.await_faults(1);
    // STOP completes when it is accepted, SYNC when it is done.
    assert!(d.admin(stop(1, 3, false)));
    d.await_context(1, STOP_SW);
    d.await_context(3, STOP_SW);
    assert_eq!(d.state(2), STOPG_SW);
    let (words, csb) = d.with_csb(0, sync(1, 1, 3));
    d.submit(0, words);
    wait_for("the SYNC", || d.read_index(0) == 5);
    assert_eq!(d.guest.get64(csb), 1);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert!(d.done(csb));
    assert_eq!(d.state(2), STOP_SW);
    assert_eq!(d.guest.get64(copied), 0, "what was in work is done");
    assert_eq!(d.copied(2, 4096), data);
    // Stopped ones, and those that never ran.
    d.close(1, 60, true);
    d.open(2);
    d.check(2, 1);
    // Hard: abandoned at once, and not touched again.
    d.inject(r#""channel":2,"fault":{"kind":"hang"}"#);
    d.fill(2, 1, 4096);
    let words = d.own_copy(2, 4096);
    let (words, copied) = d.with_csb(2, words);
    d.submit(2, words);
    d.guest.await_faults(2);
    d.close(2, 2, true);
    assert_eq!(d.state(2), STOP_SW);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert_eq!(d.guest.get64(copied), 1);
    assert_eq!(d.copied(2, 4096), [0xee; 4096]);
    assert_eq!(d.counter(2, "aborted"), 1);
    d.open(2);
    d.check(2, 2);
}

#[test]
fn context_0_can_stop_itself() {
    for hard in [false, true] {
        let mut d = Driver::new();
        d.open(1);
        let (words, csb) = d.with_csb(0, stop(0, 1, hard));
        d.submit(0, words);
        assert!(d.done(csb));
        d.await_context(0, STOP_SW);
        d.await_context(1, STOP_SW);
        d.w(CTL0, STOP_SF);
        d.await_state(STOP);
        d.bring_up();
        d.open(1);
        d.check(1, 1);
    }
}

#[test]
fn what_is_cached_and_what_is_not() {
    let mut d = Driver::new();
    d.open(1);
    d.check(1, 1);
    // AKeys are looked up by each descriptor.
    let place = d.place(1);
    d.guest.put64(place.akeys(), 3 | 9 << 4);
    d.submit(1, interrupt(0));
    assert_eq!(d.guest.await_interrupt(9), 1);
    // Tables are kept: a ring that moved is found after CXT_UPD.
    d.make(2);
    let other = d.place(2).ring();
    let (words, csb) = d.with_csb(1, nop());
    let index = d.put(1, words);
    for i in 0..8 {
        let word = d.guest.get64(place.ring() + index * 64 + i * 8);
        d.guest.put64(other + index * 64 + i * 8, word);
    }
    d.guest.put64(place.ring() + index * 64, 0);
    d.guest.put64(place.control(), (BASE + other) | 0x21);
    let fetches = d.counter(1, "fetches");
    d.ring(1);
    wait_for("a look at the old ring", || {
        d.counter(1, "fetches") > fetches
    });
    assert_eq!(d.guest.get64(csb), 1);
    d.put(0, update(1, 1));
    assert!(d.admin(sync(0, 1, 1)));
    d.ring(1);
    assert!(d.done(csb));
    // After it, what is wrong is found at the next descriptor.
    d.guest.put64(d.l1_entry(1), 0);
    assert!(d.admin(update(1, 1)));
    d.ring(1);
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub, entry.context), (3, 3, 1));
    assert_eq!(entry.reaction, 1);
    // The address of its state is not known any more.
    assert_eq!(d.state(1), RUN);
    d.open(1);
    d.check(1, 1);
}

#[test]
fn updates_and_admin_interrupts() {
    let mut d = Driver::new();
    d.open(1);
    // FN_UPD, AKEY_UPD, RKEY_UPD; the SYNCs that go with them.
    for kind in [0, 2, 7] {
        assert!(d.admin([0x0002_0001 | kind << 8, 0x0003_0001, 0, 0, 0, 0, 0, NO_CSB]));
    }
    for filter in 0..5 {
        assert!(d.admin(sync(filter, 0, 63)));
    }
    // A SYNC of updates waits for what was in work.
    d.inject(r#""channel":1,"fault":{"kind":"hang"}"#);
    d.submit(1, nop());
    d.guest.await_faults(1);
    let (words, csb) = d.with_csb(0, sync(2, 1, 1));
    d.submit(0, words);
    wait_for("the SYNC", || d.read_index(0) == 10);
    assert_eq!(d.guest.get64(csb), 1);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert!(d.done(csb));
    d.submit(0, [0x0002_0505, 0, 0, 0, 0, 0, 0, NO_CSB]);
    assert_eq!(d.guest.await_interrupt(1), 1);
    assert_eq!(d.counter(0, "interrupts"), 1);
}

#[test]
fn the_akey_can_come_after_the_context() {
    let mut d = Driver::new();
    d.make(1);
    let akeys = d.place(1).akeys();
    d.guest.put(akeys, &[0; 4096]);
    assert!(d.admin(start(1, 1)));
    d.guest.put64(akeys, 0x13);
    d.check(1, 1);
    // The last of the table.
    d.guest.put64(akeys + 255 * 16, 0x43);
    d.submit(1, interrupt(255));
    assert_eq!(d.guest.await_interrupt(4), 1);
}

#[test]
fn limits_hold_the_completion_back() {
    let mut d = Driver::new();
    d.open(1);
    d.open(2);
    for limit in [r#""bytes_per_s":1"#, r#""latency_us":3600000000"#] {
        let bytes = d.counter(1, "bytes");
        d.guest
            .control(&format!(r#"{{"cmd":"limit","channel":1,{limit}}}"#));
        let data = d.fill(1, bytes, 20_000);
        let words = d.own_copy(1, 20_000);
        let (words, csb) = d.with_csb(1, words);
        d.submit(1, words);
        wait_for("the copy", || d.counter(1, "bytes") == bytes + 20_000);
        d.check(2, 1);
        assert_eq!(d.copied(1, 20_000), data);
        assert_eq!(d.guest.get64(csb), 1);
        d.guest.control(r#"{"cmd":"limit"}"#);
        d.close(1, 1, true);
        d.open(1);
        d.check(1, 1);
    }
}

#[test]
fn lenient() {
    let mut d = Driver::with(Options {
        strict: false,
        ..Options::default()
    });
    d.open(1);
    // Overlap is as memmove(), attributes are ignored.
    let data = d.fill(1, 1, 4096);
    let at = d.place(1).source();
    let mut words = copy(at, at + 100, 3000);
    words[1] |= 0x11;
    assert!(d.run(1, words));
    assert_eq!(d.guest.get(at + 100, 3000), data[..3000]);
    // The read index moves when it is done.
    d.inject(r#""channel":1,"nth":2,"fault":{"kind":"hang"}"#);
    d.put(1, nop());
    let (words, csb) = d.with_csb(1, nop());
    d.submit(1, words);
    d.guest.await_faults(1);
    assert_eq!(d.read_index(1), 2);
    d.guest.control(r#"{"cmd":"release"}"#);
    assert!(d.done(csb));
    wait_for("the read index", || d.read_index(1) == 3);
    // The read index does not pass a descriptor that was overtaken.
    d.inject(r#""channel":1,"fault":{"kind":"out_of_order","count":2}"#);
    d.inject(r#""channel":1,"nth":3,"fault":{"kind":"hang"}"#);
    for _ in 0..3 {
        d.put(1, nop());
    }
    d.ring(1);
    d.guest.await_faults(3);
    assert_eq!(d.read_index(1), 3);
    d.guest.control(r#"{"cmd":"release"}"#);
    wait_for("the read index", || d.read_index(1) == 6);
}

#[test]
fn strict_moves_the_read_index_first() {
    let mut d = Driver::new();
    d.open(1);
    d.inject(r#""channel":1,"fault":{"kind":"hang"}"#);
    let (words, csb) = d.with_csb(1, nop());
    d.submit(1, words);
    d.guest.await_faults(1);
    wait_for("the read index", || d.read_index(1) == 1);
    assert_eq!(d.guest.get64(csb), 1, "which says nothing of completion");
    d.guest.control(r#"{"cmd":"release"}"#);
    assert!(d.done(csb));
}
