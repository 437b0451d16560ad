// SPDX-License-Identifier: GPL-2.0

//! The function's registers and its state machine. Pure.

use crate::choices;
use crate::layout::{step, Failure, Limits, LOG_ENTRY};

ferry_vfio::registers! {
    /// Registers of BAR 0.
    pub enum Register {
        Ctl0 = 0x0_0000,
        GrpEnum = 0x0_0008,
        Ctl2 = 0x0_0010,
        Sts0 = 0x0_0100,
        Cap0 = 0x0_0200,
        Cap1 = 0x0_0208,
        Version = 0x0_0210,
        CxtL2 = 0x1_0000,
        Rkey = 0x1_0100,
        ErrCtl = 0x2_0000,
        ErrSts = 0x2_0008,
        ErrCfg = 0x2_0010,
        ErrWrt = 0x2_0020,
        ErrRd = 0x2_0028,
    }
}

/// State of the function, as STS0 says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped.
    Stop = 0,
    /// Being activated.
    Init = 1,
    /// At work.
    Active = 2,
    /// Stops softly.
    StoppingSoft = 3,
    /// Stops hard.
    StoppingHard = 4,
    /// Failed.
    Error = 5,
}

/// Command to the function in a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Initialise, and begin.
    Activate,
    /// Let what is in work finish, and stop.
    StopSoft,
    /// Abandon what is in work, and stop.
    StopHard,
    /// Abandon everything at once.
    Reset,
}

/// 1.0.
const VERSION: u64 = 1 << 16;

const CTL0_PASID_VALID: u64 = 1 << 2;
const CTL0_ERROR_INTERRUPT: u64 = 1 << 4;
/// Without bit 31, which SDXI 1.1 has.
const CTL0_MASK: u64 = !0 << 32 | 0x0fff_ff17;
const CTL2_MASK: u64 = !0 << 16 | 0xf00f;
const RKEY_MASK: u64 = !0 << 12 | 0x1f;
const ERR_CFG_MASK: u64 = !0 << 12 | 0x3f;
const LOGGING: u64 = 1;

/// ERR_STS: an error was to be logged.
pub const LOGGED: u64 = 1 << 0;
/// ERR_STS: the log was full.
pub const OVERFLOW: u64 = 1 << 1;
/// ERR_STS: the log could not be written.
pub const LOG_ERROR: u64 = 1 << 3;

/// The place of the next entry of the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// Logging is off.
    Off,
    /// There is no room.
    Full,
    /// The entry goes to this address.
    At(u64),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Registers {
    cap0: u64,
    cap1: u64,
    ctl0: u64,
    ctl2: u64,
    l2: u64,
    rkey: u64,
    err_ctl: u64,
    err_sts: u64,
    err_cfg: u64,
    err_wrt: u64,
    err_rd: u64,
    state: State,
}

impl Registers {
    /// Creates the registers with the given capabilities, in their state after power-on.
    pub fn new(cap0: u64, cap1: u64) -> Registers {
        Registers {
            cap0,
            cap1,
            ctl0: 0,
            ctl2: 0,
            l2: 0,
            rkey: 0,
            err_ctl: 0,
            err_sts: 0,
            err_cfg: 0,
            err_wrt: 0,
            err_rd: 0,
            state: State::Stop,
        }
    }

    /// Resets the registers to their values after power-on.
    pub fn reset(&mut self) {
        *self = Registers::new(self.cap0, self.cap1);
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Changes it, as the function does when it has done what it was asked for.
    pub fn set_state(&mut self, state: State) {
        self.state = state;
    }

    /// Returns the value of a register.
    pub fn read(&self, register: Register) -> u64 {
        match register {
            Register::Ctl0 => self.ctl0,
            Register::GrpEnum => 0,
            Register::Ctl2 => self.ctl2,
            Register::Sts0 => self.state as u64,
            Register::Cap0 => self.cap0,
            Register::Cap1 => self.cap1,
            Register::Version => VERSION,
            Register::CxtL2 => self.l2,
            Register::Rkey => self.rkey,
            Register::ErrCtl => self.err_ctl,
            Register::ErrSts => self.err_sts,
            Register::ErrCfg => self.err_cfg,
            Register::ErrWrt => self.err_wrt,
            Register::ErrRd => self.err_rd,
        }
    }

    /// Writes the bits of `mask`.
    pub fn write(&mut self, register: Register, value: u64, mask: u64) -> Option<Action> {
        let put = |old: &mut u64, writable: u64| {
            let mask = mask & writable;
            *old = *old & !mask | value & mask;
        };
        match register {
            Register::Ctl0 => {
                put(&mut self.ctl0, CTL0_MASK);
                // The command is in the low half.
                return if mask & 3 == 3 { self.command() } else { None };
            }
            Register::Ctl2 => put(&mut self.ctl2, CTL2_MASK),
            Register::CxtL2 => put(&mut self.l2, u64::MAX),
            Register::Rkey => put(&mut self.rkey, RKEY_MASK),
            Register::ErrCtl => put(&mut self.err_ctl, 1),
            Register::ErrSts => self.err_sts &= !(value & mask),
            Register::ErrCfg => put(&mut self.err_cfg, ERR_CFG_MASK),
            Register::ErrWrt => put(&mut self.err_wrt, u64::MAX),
            Register::ErrRd => put(&mut self.err_rd, u64::MAX),
            Register::GrpEnum
            | Register::Sts0
            | Register::Cap0
            | Register::Cap1
            | Register::Version => {}
        }
        None
    }

    fn command(&mut self) -> Option<Action> {
        let (state, action) = match (self.state, self.ctl0 & 3) {
            (State::Stop, 3) => (State::Init, Action::Activate),
            (State::Stop, _) => return None,
            // The state changes when it is done.
            (state, 0) => (state, Action::Reset),
            (State::Init | State::Active, 1) => (State::StoppingSoft, Action::StopSoft),
            (State::Init | State::Active | State::StoppingSoft, 2) => {
                (State::StoppingHard, Action::StopHard)
            }
            _ => return None,
        };
        self.state = state;
        Some(action)
    }

    /// Returns the limits of the function, or the reason why it cannot be activated.
    pub fn limits(&self) -> Result<Limits, Failure> {
        let (cap, used) = (self.cap1, self.ctl2);
        let field = |value: u64, at: u32, bits: u32| value >> at & ((1 << bits) - 1);
        let within = |at, bits| field(used, at, bits) <= field(cap, at, bits);
        let groups = (used >> 32) as u32;
        let sizes = within(0, 4) && within(12, 4) && within(16, 16);
        if !sizes || groups & !((cap >> 32) as u32) != 0 {
            return Err(Failure::invalid(step::INTERNAL));
        }
        if self.l2 & 0xfff != 0 || self.ctl0 & CTL0_PASID_VALID != 0 {
            return Err(Failure::invalid(step::L2));
        }
        Ok(Limits {
            l2: self.l2,
            buffer: choices::buffer_bytes(field(used, 0, 4)),
            akeys: field(used, 12, 4),
            ring: 1024 << field(self.cap0, 24, 5),
            context: field(used, 16, 16) as u16,
            groups,
        })
    }

    /// Returns the highest context that software uses.
    pub fn max_context(&self) -> u16 {
        (self.ctl2 >> 16) as u16
    }

    /// Returns `true` if the function reports its failure by an interrupt.
    pub fn error_interrupt(&self) -> bool {
        self.ctl0 & CTL0_ERROR_INTERRUPT != 0
    }

    /// Returns the place of the next entry of the error log.
    pub fn log_place(&self) -> LogPlace {
        if self.err_cfg & LOGGING == 0 {
            return LogPlace::Off;
        }
        let entries = choices::log_entries(self.err_cfg >> 1 & 0x1f);
        // A read index beyond the write index leaves no room either.
        if self.err_wrt.wrapping_sub(self.err_rd) >= entries {
            return LogPlace::Full;
        }
        let offset = self.err_wrt % entries * LOG_ENTRY;
        match (self.err_cfg & !0xfff).checked_add(offset) {
            Some(at) => LogPlace::At(at),
            None => LogPlace::Full,
        }
    }

    /// Records that an entry was written, or with the bits of `lost`, which are set besides
    /// [`LOGGED`], that it was not. Returns `true` if there is an interrupt.
    pub fn logged(&mut self, lost: u64) -> bool {
        let first = self.err_sts & LOGGED == 0;
        self.err_sts |= LOGGED | lost;
        if lost == 0 {
            self.err_wrt = self.err_wrt.wrapping_add(1);
        }
        first && self.err_ctl & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAP1: u64 = 0x10_003f_800b;

    fn registers() -> Registers {
        Registers::new(1 | 6 << 24, CAP1)
    }

    fn write(r: &mut Registers, register: Register, value: u64) -> Option<Action> {
        r.write(register, value, u64::MAX)
    }

    #[test]
    fn every_command_in_every_state() {
        use State::*;
        let states = [Stop, Init, Active, StoppingSoft, StoppingHard, Error];
        // By command: reset, soft stop, hard stop, activate.
        let reset = |s| (s, Some(Action::Reset));
        let soft = (StoppingSoft, Some(Action::StopSoft));
        let hard = (StoppingHard, Some(Action::StopHard));
        let none = |s| (s, None);
        let table = [
            [
                none(Stop),
                none(Stop),
                none(Stop),
                (Init, Some(Action::Activate)),
            ],
            [reset(Init), soft, hard, none(Init)],
            [reset(Active), soft, hard, none(Active)],
            [
                reset(StoppingSoft),
                none(StoppingSoft),
                hard,
                none(StoppingSoft),
            ],
            [
                reset(StoppingHard),
                none(StoppingHard),
                none(StoppingHard),
                none(StoppingHard),
            ],
            [reset(Error), none(Error), none(Error), none(Error)],
        ];
        for (state, row) in states.into_iter().zip(table) {
            for (command, (after, action)) in (0..).zip(row) {
                let mut r = registers();
                r.set_state(state);
                let got = write(&mut r, Register::Ctl0, 0xabcd << 32 | command);
                assert_eq!((r.state(), got), (after, action), "{state:?} {command}");
                assert_eq!(r.read(Register::Sts0), after as u64);
                assert_eq!(r.read(Register::Ctl0), 0xabcd << 32 | command);
            }
        }
    }

    #[test]
    fn halves() {
        let mut r = registers();
        let (low, high) = (u64::MAX >> 32, u64::MAX << 32);
        assert_eq!(r.write(Register::Ctl0, 7 << 32 | 3, high), None);
        assert_eq!(r.state(), State::Stop);
        let acted = r.write(Register::Ctl0, 3, low);
        assert_eq!(acted, Some(Action::Activate));
        assert_eq!(r.read(Register::Ctl0), 7 << 32 | 3);
    }

    #[test]
    fn capabilities() {
        let mut r = registers();
        for register in [
            Register::Cap0,
            Register::Cap1,
            Register::Version,
            Register::Sts0,
        ] {
            let before = r.read(register);
            assert_eq!(write(&mut r, register, !before), None);
            assert_eq!(r.read(register), before);
        }
        assert_eq!(r.read(Register::Version), 0x10000);
        assert_eq!(r.read(Register::Cap0), 0x0600_0001);
    }

    #[test]
    fn limits_in_use() {
        let mut r = registers();
        write(&mut r, Register::CxtL2, 0x5000);
        write(&mut r, Register::Ctl2, 0x10_0007_2003);
        let limits = Limits {
            l2: 0x5000,
            buffer: 16 << 20,
            akeys: 2,
            ring: 65536,
            context: 7,
            groups: 0x10,
        };
        assert_eq!(r.limits(), Ok(limits));
        assert_eq!(r.max_context(), 7);
        for bad in [
            0x18_003f_800b,
            0x10_0040_800b,
            0x10_003f_900b,
            0x10_003f_800c,
        ] {
            write(&mut r, Register::Ctl2, bad);
            assert_eq!(r.limits(), Err(Failure::invalid(1)), "{bad:#x}");
        }
        write(&mut r, Register::Ctl2, CAP1);
        assert!(r.limits().is_ok());
        write(&mut r, Register::CxtL2, 0x5800);
        assert_eq!(r.limits(), Err(Failure::invalid(2)));
        write(&mut r, Register::CxtL2, 0x5000);
        write(&mut r, Register::Ctl0, 4);
        assert_eq!(r.limits(), Err(Failure::invalid(2)));
    }

    #[test]
    fn error_log() {
        let mut r = registers();
        assert_eq!(r.log_place(), LogPlace::Off);
        // Golden: 64 entries, enabled.
        write(&mut r, Register::ErrCfg, 0x7000 | 3);
        write(&mut r, Register::ErrCtl, 1);
        for i in 0..64 {
            assert_eq!(r.log_place(), LogPlace::At(0x7000 + i * 64));
            assert_eq!(r.logged(0), i == 0, "an interrupt on the edge alone");
        }
        assert_eq!(r.log_place(), LogPlace::Full);
        assert!(!r.logged(OVERFLOW));
        assert_eq!(r.read(Register::ErrSts), 3);
        write(&mut r, Register::ErrSts, 0x1);
        assert_eq!(r.read(Register::ErrSts), 2);
        assert!(r.logged(LOG_ERROR));
        write(&mut r, Register::ErrSts, 0xb);
        assert_eq!(r.read(Register::ErrSts), 0);
        write(&mut r, Register::ErrRd, 1);
        assert_eq!(r.log_place(), LogPlace::At(0x7000), "it wraps");
        assert!(r.logged(0));
        assert_eq!(r.read(Register::ErrWrt), 65);
        write(&mut r, Register::ErrRd, 66);
        assert_eq!(r.log_place(), LogPlace::Full, "software ran ahead");
        write(&mut r, Register::ErrCtl, 0);
        write(&mut r, Register::ErrSts, 1);
        assert!(!r.logged(OVERFLOW), "disabled");
    }

    proptest! {
        /// Checks that no write changes bits that are read only or reserved.
        #[test]
        fn any_writes(writes in proptest::collection::vec(
            (0..Register::ALL.len(), any::<u64>(), any::<u64>()), 0..64,
        )) {
            let mut r = registers();
            for (i, value, mask) in writes {
                r.write(Register::ALL[i], value, mask);
                let _ = (r.limits(), r.log_place());
                r.logged(value & OVERFLOW);
            }
            prop_assert_eq!(r.read(Register::Cap1), CAP1);
            prop_assert_eq!(r.read(Register::Ctl0) & !CTL0_MASK, 0);
            prop_assert_eq!(r.read(Register::Ctl2) & !CTL2_MASK, 0);
            prop_assert_eq!(r.read(Register::ErrSts) & !0xb, 0);
            r.reset();
            prop_assert_eq!(r.read(Register::ErrWrt), 0);
        }
    }
}
