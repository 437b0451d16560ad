// SPDX-License-Identifier: GPL-2.0

//! Every fault on command.

use crate::driver::*;
use ferry_harness::{pattern, wait_for};
use ferry_sdxi::Options;

fn opened() -> Driver {
    let mut d = Driver::new();
    d.open(1);
    d
}

#[test]
fn an_error_on_the_nth_descriptor() {
    let mut d = opened();
    // Address translation (1) of a data buffer (10).
    d.inject(r#""channel":1,"nth":3,"fault":{"kind":"error","code":74}"#);
    d.fill(1, 1, 64);
    assert!(d.run(1, nop()));
    assert!(d.run(1, nop()));
    let words = d.own_copy(1, 64);
    assert!(!d.run(1, words));
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub, entry.reaction), (10, 1, 1));
    assert_eq!((entry.index, entry.buffer), (Some(2), Some(1)));
    d.await_context(1, ERR_FN);
    assert_eq!(d.copied(1, 64), [0xee; 64], "nothing is copied");
    // A CSB that cannot be trusted is not touched.
    d.open(1);
    d.inject(r#""channel":1,"fault":{"kind":"error","code":136}"#);
    let (words, csb) = d.with_csb(1, nop());
    d.submit(1, words);
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub), (8, 2));
    d.await_context(1, ERR_FN);
    assert_eq!(d.guest.get(csb, 32)[..9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_error_that_does_not_stop_the_context() {
    let mut d = opened();
    d.inject(r#""channel":1,"fault":{"kind":"soft_error"}"#);
    d.fill(1, 1, 64);
    let words = d.own_copy(1, 64);
    let (words, csb) = d.with_csb(1, words);
    d.put(1, words);
    let (next, good) = d.with_csb(1, nop());
    d.put(1, next);
    d.ring(1);
    assert!(!d.done(csb));
    assert!(d.done(good));
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub, entry.reaction), (10, 2, 0));
    assert_eq!(d.state(1), RUN);
    assert_eq!(d.copied(1, 64), [0xee; 64]);
    assert_eq!(d.counter(1, "errors"), 1);
    d.check(1, 2);
}

#[test]
fn partial_copies() {
    let mut d = opened();
    d.inject(r#""channel":1,"fault":{"kind":"partial","bytes":100,"silent":true}"#);
    // The fault does not befall a descriptor that copies nothing.
    assert!(d.run(1, nop()));
    let data = d.fill(1, 1, 256);
    let words = d.own_copy(1, 256);
    assert!(d.run(1, words));
    assert_eq!(d.copied(1, 256)[..100], data[..100]);
    assert_eq!(d.copied(1, 256)[100..], [0xee; 156]);
    d.inject(r#""channel":1,"fault":{"kind":"partial","bytes":100}"#);
    assert!(!d.run(1, words));
    assert_eq!(d.one_error().step, 10);
}

#[test]
fn a_completion_that_is_not_told() {
    let mut d = opened();
    d.inject(r#""channel":1,"fault":{"kind":"lost_completion"}"#);
    // One without a CSB has none to lose.
    d.submit(1, nop());
    let data = d.fill(1, 1, 64);
    let words = d.own_copy(1, 64);
    let (words, csb) = d.with_csb(1, words);
    d.submit(1, words);
    assert!(d.run(1, nop()));
    assert_eq!(d.copied(1, 64), data);
    assert_eq!(d.guest.get64(csb), 1);
}

#[test]
fn interrupts_lost_late_and_twice() {
    let mut d = opened();
    d.inject(r#""fault":{"kind":"lost_interrupt"}"#);
    d.put(1, nop());
    d.put(1, interrupt(0));
    assert!(d.run(1, nop()));
    assert_eq!(d.guest.interrupts(1), 0);
    d.inject(r#""fault":{"kind":"late_interrupt","ms":200}"#);
    d.put(1, interrupt(0));
    assert!(d.run(1, nop()));
    assert_eq!(d.guest.await_interrupt(1), 1);
    assert_eq!(d.counter(1, "interrupts"), 1, "the late one alone");
    d.inject(r#""fault":{"kind":"duplicate","ms":20}"#);
    d.submit(1, interrupt(0));
    wait_for("the second", || d.counter(1, "interrupts") == 3);
    // A vector without a listener sends no interrupt.
    assert_eq!(d.counter(1, "interrupts_dropped"), 0);
}

#[test]
fn a_lost_doorbell() {
    let mut d = opened();
    d.inject(r#""channel":1,"nth":2,"fault":{"kind":"lost_doorbell"}"#);
    assert!(d.run(1, nop()));
    let (words, csb) = d.with_csb(1, nop());
    d.submit(1, words);
    assert_eq!(d.counter(1, "doorbells"), 2);
    d.check_others(1);
    assert_eq!(d.guest.get64(csb), 1);
    assert_eq!(d.read_index(1), 1);
    d.ring(1);
    assert!(d.done(csb));
}

impl Driver {
    /// Checks that another context works meanwhile.
    fn check_others(&mut self, than: u16) {
        self.open(than + 1);
        self.check(than + 1, 1);
    }
}

#[test]
fn a_read_index_that_lags() {
    let mut d = opened();
    d.inject(r#""channel":1,"nth":2,"fault":{"kind":"lazy_read_index","count":3}"#);
    let seen: Vec<u64> = (0..6)
        .map(|_| {
            assert!(d.run(1, nop()));
            d.read_index(1)
        })
        .collect();
    assert_eq!(seen, [1, 1, 1, 1, 5, 6]);
    // The read index that a stop leaves behind is true.
    d.inject(r#""channel":1,"fault":{"kind":"lazy_read_index","count":1000}"#);
    assert!(d.run(1, nop()));
    assert_eq!(d.read_index(1), 6);
    d.close(1, 1, false);
    assert_eq!(d.read_index(1), 7);
}

#[test]
fn a_slow_activation_and_one_that_fails() {
    let mut d = Driver::cold(Options::default());
    d.inject(r#""fault":{"kind":"init_delay","ms":300}"#);
    d.prepare();
    d.w(CTL0, ACTIVATE);
    d.await_state(ACTIVE);
    d.guest.await_faults(1);
    d.ring(0);
    d.open(1);
    d.check(1, 1);
    d.w(CTL0, STOP_SF);
    d.await_state(STOP);
    d.inject(r#""fault":{"kind":"init_error"}"#);
    d.prepare();
    let ctl0 = d.r(CTL0);
    d.w(CTL0, ctl0 | ACTIVATE);
    d.await_state(ERROR);
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub, entry.reaction), (1, 0, 2));
    d.w(CTL0, RESET);
    d.bring_up();
    d.open(1);
    d.check(1, 2);
}

#[test]
fn a_function_that_fails_in_its_work() {
    let mut d = opened();
    d.open(2);
    d.inject(r#""channel":1,"nth":2,"fault":{"kind":"function_error"}"#);
    assert!(d.run(1, nop()));
    d.fill(1, 1, 64);
    let words = d.own_copy(1, 64);
    let (words, csb) = d.with_csb(1, words);
    d.submit(1, words);
    d.await_state(ERROR);
    let entry = d.one_error();
    assert_eq!((entry.step, entry.sub, entry.reaction), (1, 0, 2));
    // No context works any more.
    wait_for("the end of it", || d.counter(1, "aborted") == 1);
    d.submit(2, nop());
    assert_eq!(d.counter(0, "bad_requests"), 1);
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP);
    assert_eq!(d.guest.get64(csb), 1);
    assert_eq!(d.copied(1, 64), [0xee; 64]);
    d.bring_up();
    d.open(1);
    d.check(1, 2);
    // Without the log, by the other enable.
    d.w(ERR_CFG, 0);
    d.inject(r#""channel":1,"fault":{"kind":"function_error"}"#);
    let ctl0 = d.r(CTL0);
    d.w(CTL0, ctl0 | 1 << 4);
    d.submit(1, nop());
    assert_eq!(d.guest.await_interrupt(0), 1);
    assert_eq!((d.r(STS0), d.r(ERR_STS)), (ERROR, 0));
}

#[test]
fn stops_that_do_not_end() {
    let mut d = opened();
    d.inject(r#""fault":{"kind":"stuck_stop"}"#);
    d.w(CTL0, STOP_SF);
    d.await_context(1, STOP_FN);
    assert_eq!(d.r(STS0), STOPG_SF);
    d.w(CTL0, STOP_HD);
    d.await_state(STOP);
    d.bring_up();
    // Released.
    d.inject(r#""fault":{"kind":"stuck_stop"}"#);
    d.w(CTL0, STOP_SF);
    d.guest.await_faults(2);
    assert_eq!(d.r(STS0), STOPG_SF);
    d.guest.control(r#"{"cmd":"release"}"#);
    d.await_state(STOP);
    d.bring_up();
    // Hard ones, too: a reset is what is left.
    d.inject(r#""times":2,"fault":{"kind":"stuck_stop","hard":true}"#);
    d.w(CTL0, STOP_SF);
    d.guest.await_faults(3);
    d.w(CTL0, STOP_HD);
    d.guest.await_faults(4);
    assert_eq!(d.r(STS0), STOPG_HD);
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP);
    d.bring_up();
    d.open(1);
    d.check(1, 1);
}

/// Asked for in its own registers, and of the PCI function.
#[test]
fn lost_resets() {
    let mut d = opened();
    d.inject(r#""fault":{"kind":"lost_reset"}"#);
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), ACTIVE);
    d.check(1, 1);
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), STOP);
    // One in STOP has nothing to lose.
    d.inject(r#""fault":{"kind":"lost_reset"}"#);
    d.w(CTL0, RESET);
    d.bring_up();
    d.w(CTL0, RESET);
    assert_eq!(d.r(STS0), ACTIVE);
    d.guest.flr();
    d.guest.bus_master(true);
    assert_eq!(d.r(STS0), STOP);
    let at_work = |d: &Driver| d.guest.control(r#"{"cmd":"state"}"#)["mastered_at_work"].clone();
    assert_eq!(at_work(&d), 0);
    d.bring_up();
    d.inject(r#""fault":{"kind":"lost_flr"}"#);
    d.guest.flr();
    assert_eq!(d.guest.read_config::<2>(4), [0, 0]);
    d.guest.bus_master(true);
    assert_eq!(d.r(STS0), ACTIVE);
    assert_eq!(at_work(&d), 1);
}

/// The administrative context fails at what it does not know, and at nothing else.
#[test]
fn unknown_encodings() {
    let unknown = [
        ("update", update(1, 1)),
        ("sync_update", sync(0, 1, 1)),
        ("hard_stop", stop(1, 1, true)),
    ];
    for (i, (what, _)) in unknown.iter().enumerate() {
        let mut d = opened();
        d.inject(&format!(
            r#""times":0,"fault":{{"kind":"unknown","what":"{what}"}}"#
        ));
        for (j, (_, words)) in unknown.iter().enumerate() {
            if i != j {
                assert!(d.admin(*words));
            }
        }
        assert!(d.admin(stop(1, 1, false)));
        assert!(d.admin(sync(1, 1, 1)));
        assert!(!d.admin(unknown[i].1));
        let entry = d.one_error();
        assert_eq!((entry.step, entry.sub), (7, 3));
        d.await_context(0, ERR_FN);
        assert_eq!(d.r(STS0), ACTIVE);
    }
}

#[test]
fn a_slow_sync() {
    let mut d = opened();
    d.inject(r#""channel":0,"fault":{"kind":"slow_sync","ms":3600000}"#);
    // Only descriptors that synchronise are slow.
    assert!(d.admin(stop(1, 1, false)));
    let (words, csb) = d.with_csb(0, sync(1, 1, 1));
    d.submit(0, words);
    d.guest.await_faults(1);
    d.await_context(1, STOP_SW);
    assert_eq!(d.guest.get64(csb), 1);
    // The function's own stop is not held up by it.
    d.w(CTL0, STOP_HD);
    d.await_state(STOP);
    assert_eq!(d.guest.get64(csb), 1);
    d.bring_up();
    d.open(1);
    d.inject(r#""fault":{"kind":"slow_sync","ms":50}"#);
    d.close(1, 1, false);
    d.guest.await_faults(2);
}

/// Makes an error in context 1.
fn fail(d: &mut Driver) {
    d.open(1);
    assert!(!d.run(1, [1, 0, 0, 0, 0, 0, 0, NO_CSB]));
    d.await_context(1, ERR_FN);
}

#[test]
fn faults_of_the_log() {
    let mut d = Driver::new();
    d.inject(r#""nth":2,"fault":{"kind":"log_full"}"#);
    d.inject(r#""nth":3,"fault":{"kind":"log_failure"}"#);
    d.inject(r#""nth":4,"fault":{"kind":"lost_log_interrupt"}"#);
    for (status, written, interrupts) in [(1, 1, 1), (3, 1, 1), (9, 1, 1), (1, 2, 0), (1, 3, 1)] {
        d.w(ERR_STS, 0xb);
        fail(&mut d);
        assert_eq!((d.r(ERR_STS), d.r(ERR_WRT)), (status, written));
        assert_eq!(d.guest.interrupts(0), interrupts);
    }
}

#[test]
fn late_writes() {
    let mut d = opened();
    d.inject(r#""channel":1,"fault":{"kind":"late_write","ms":200}"#);
    let old = d.fill(1, 1, 4096);
    let words = d.own_copy(1, 4096);
    let (words, csb) = d.with_csb(1, words);
    d.submit(1, words);
    d.await_late(1);
    d.guest.put(d.place(1).source(), &pattern(2, 4096));
    assert!(d.done(csb));
    assert_eq!(d.copied(1, 4096), old);
    // A device that writes after it was proven quiet: a broken one, on command.
    d.inject(r#""channel":1,"fault":{"kind":"late_write","ms":400,"through_reset":true}"#);
    let old = d.fill(1, 3, 4096);
    d.submit(1, words);
    d.await_late(2);
    d.close(1, 1, true);
    assert_eq!(d.counter(1, "aborted"), 1);
    wait_for("the write", || d.copied(1, 4096) == old);
}

impl Driver {
    fn await_late(&self, count: u64) {
        wait_for("the read", || {
            self.guest.control(r#"{"cmd":"stats"}"#)["late_writes_read"] == count
        });
    }
}

#[test]
fn a_context_behind_another() {
    let mut d = opened();
    d.open(2);
    d.inject(r#""channel":1,"fault":{"kind":"reorder","behind":2,"count":2}"#);
    let (words, csb) = d.with_csb(1, nop());
    d.submit(1, words);
    d.guest.await_faults(1);
    assert!(d.run(2, nop()));
    assert_eq!(d.guest.get64(csb), 1);
    assert!(d.run(2, nop()));
    assert!(d.done(csb));
}

#[test]
fn what_the_other_models_have_not() {
    let d = Driver::new();
    let far = d
        .guest
        .refused(r#"{"cmd":"inject","channel":64,"fault":{"kind":"hang"}}"#);
    assert!(far.contains("channels 0 to 63"), "{far}");
    for bad in [
        r#"{"kind":"stuck_stop","hard":1}"#,
        r#"{"kind":"out_of_order"}"#,
        r#"{"kind":"lost_doorbell","more":1}"#,
    ] {
        d.guest
            .refused(&format!(r#"{{"cmd":"inject","fault":{bad}}}"#));
    }
    let state = d.guest.control(r#"{"cmd":"state"}"#);
    assert_eq!(state["device"]["state"], "Active");
    assert_eq!(state["device"]["contexts"][0]["context"], 0);
    assert_eq!(state["device"]["registers"]["Version"], "0x10000");
}
