// SPDX-License-Identifier: GPL-2.0

//! Recovery of a function from errors and resets: activation, halt, the error log, and what the
//! thread of vector 0 does about errors.
//!
//! Part of [`Function`]. Locks: those of [`function`](super); all methods that take a [`Control`]
//! have its mutex held.

use super::{
    poll_delay,
    stop,
    Control,
    Elapsed,
    Function,
    Mode,
    Resetter,
    LOGGED, //
};
use crate::{
    kapi::{
        log::allowed,
        pci, //
    },
    sdxi::hw::tables::ErrorLog,
};
use ferry_core::sdxi::{
    life::{
        activating,
        Action,
        Recoveries,
        StartSequence,
        StopFallback,
        Verdict, //
    },
    log,
    registers::{
        ControlRequest,
        FunctionState,
        Register,
        WritableRegister,
        ERR_STS_ALL,
        ERR_STS_ERR,
        ERR_STS_OVF,
        ERR_STS_STS,
        GONE, //
    },
};
use kernel::{
    dev_err,
    dev_warn,
    prelude::*,
    sync::atomic::Relaxed, //
};

/// Attempts of one activation.
const ACTIVATIONS: u32 = 3;

impl Function {
    /// Stops the function, and so all contexts, without regard to what they do.
    pub(super) fn halt(&self, control: &mut Control) {
        for context in &self.contexts {
            context.fail();
        }
        let quiet = stop(&self.bars, true);
        control.mode = match quiet {
            true => Mode::Broken,
            false => Mode::Lost,
        };
        if quiet {
            self.all_stopped(control);
        } else if allowed() {
            dev_warn!(
                self.dev.device(),
                "does not stop ({})\n",
                self.state().name()
            );
        }
    }

    pub(super) fn all_stopped(&self, control: &mut Control) {
        if let Some(resources) = &mut control.resources {
            resources.admin.abandon_commands();
        }
        control.test_buffers.clear();
        for context in &self.contexts {
            context.stopped();
        }
    }

    /// Brings a function that has stopped to run, and its contexts. It has stopped again if that
    /// fails.
    pub(super) fn activate(&self, control: &mut Control) -> Result {
        for _ in 0..ACTIVATIONS {
            if !self.bars.prove_quiet() && !stop(&self.bars, true) {
                control.mode = Mode::Lost;
                return Err(EIO);
            }
            self.all_stopped(control);
            control.mode = Mode::Broken;
            if self.activate_once(control).is_ok() {
                self.counters.activations.fetch_add(1, Relaxed);
                control.mode = Mode::Active;
                self.start_wanted(control);
                if control.mode == Mode::Active {
                    return Ok(());
                }
            }
            self.counters.failed_activations.fetch_add(1, Relaxed);
        }
        self.halt(control);
        if allowed() {
            dev_err!(self.dev.device(), "cannot be activated\n");
        }
        Err(EIO)
    }

    fn activate_once(&self, control: &mut Control) -> Result {
        let resources = control.resources.as_mut().ok_or(ENODEV)?;
        // Of a reset nothing is left, of a stop everything: all is written again. It has stopped,
        // and a reset that was asked for has ended: one that has not would undo what is written
        // now.
        self.bars.write(WritableRegister::Ctl2, self.limits.ctl2());
        resources.tables.install();
        resources.admin.prepare()?;
        resources.tables.publish(&resources.admin, &self.limits)?;
        resources.admin.set_running();
        self.open_log(&resources.log)?;
        self.bars.request(ControlRequest::Active);
        let clock = Elapsed::start();
        loop {
            match activating(self.state(), clock.ms_u32()) {
                Action::Wait => poll_delay(),
                Action::Done => break,
                Action::Ask(_) | Action::GiveUp => return Err(EIO),
            }
        }
        resources.admin.jump_start();
        Ok(())
    }

    fn open_log(&self, log: &ErrorLog) -> Result {
        log.close();
        self.bars.write(WritableRegister::ErrSts, ERR_STS_ALL);
        self.bars.write(WritableRegister::ErrCtl, 1);
        self.bars.write(WritableRegister::ErrWrt, 0);
        self.bars.write(WritableRegister::ErrRd, 0);
        log.open()
    }

    /// What interrupts and others have woken the thread for. Returns whether the PCI function has
    /// to be reset.
    fn handle_errors(&self, control: &mut Control) -> bool {
        match control.mode {
            Mode::Suspended | Mode::Removed => return false,
            Mode::Lost | Mode::Broken => return self.recover(control),
            Mode::Active => {}
        }
        match self.state() {
            FunctionState::Active => {}
            state => {
                self.counters.function_errors.fetch_add(1, Relaxed);
                if allowed() {
                    dev_warn!(self.dev.device(), "function is {}\n", state.name());
                }
                self.read_log(control);
                return self.recover(control);
            }
        }
        self.read_log(control);
        for context in &self.contexts {
            if !context.has_failed() {
                continue;
            }
            self.counters.context_errors.fetch_add(1, Relaxed);
            if self.stop_context(control, context).is_err() {
                return self.recover(control);
            }
        }
        // What has been logged meanwhile is about contexts as they were.
        self.read_log(control);
        self.start_wanted(control);
        if control.mode != Mode::Active {
            return self.recover(control);
        }
        false
    }

    /// Stops the function and brings it to run again, unless it has failed too often. Returns
    /// whether it has to be reset.
    fn recover(&self, control: &mut Control) -> bool {
        if control.mode == Mode::Active {
            self.halt(control);
        }
        if control.mode == Mode::Lost && !self.dev.is_present() {
            // Nothing can be tried before it is back, which is no fault of it.
            return false;
        }
        let good = (self.contexts.iter())
            .map(|c| c.counters.good.load(Relaxed))
            .fold(0, u64::wrapping_add);
        match control.recoveries.failed(good) {
            Verdict::Recover => {}
            Verdict::GiveUp => {
                dev_err!(
                    self.dev.device(),
                    "fails again and again: given up until it is reset or bound again\n"
                );
                return false;
            }
            Verdict::GivenUp => return false,
        }
        match control.mode {
            Mode::Lost => true,
            _ => self.activate(control).is_err() && self.dev.is_present(),
        }
    }

    /// Takes what is in the error log.
    fn read_log(&self, control: &mut Control) {
        let Some(resources) = &control.resources else {
            return;
        };
        let status = self.bars.read(Register::ErrSts);
        if status == GONE || status & ERR_STS_STS == 0 {
            return;
        }
        let counters = &self.counters;
        let read = self.bars.read(Register::ErrRd);
        // Before the write index is read, so that what comes later raises an interrupt.
        self.bars.write(WritableRegister::ErrSts, ERR_STS_ALL);
        let written = self.bars.read(Register::ErrWrt);
        if status & ERR_STS_OVF != 0 {
            counters.log_overflows.fetch_add(1, Relaxed);
        }
        let waiting = log::waiting(read, written);
        for index in (read..).take(waiting.unwrap_or(0)) {
            let words = resources.log.take(index);
            let Some(entry) = log::Entry::decode(&words) else {
                counters.log_invalid.fetch_add(1, Relaxed);
                continue;
            };
            counters.log_entries.fetch_add(1, Relaxed);
            if let (log::Reaction::ContextStopped, Some(Ok(context))) =
                (entry.reaction, entry.context.map(|n| self.context(n)))
            {
                // Its status may not say so yet.
                context.mark_failed();
            }
            if control.logged.len() >= LOGGED {
                // There is one, and what it was is not of interest.
                let _ = control.logged.remove(0);
            }
            // Has the capacity.
            let _ = control.logged.push(words, GFP_KERNEL);
            if allowed() {
                dev_warn!(self.dev.device(), "{entry}\n");
            }
        }
        if waiting.is_none() || status & ERR_STS_ERR != 0 {
            // What it says is not to be trusted, or it could not be written: from the beginning.
            counters.log_failures.fetch_add(1, Relaxed);
            let _ = self.open_log(&resources.log);
        } else {
            self.bars.write(WritableRegister::ErrRd, written);
        }
    }

    /// The PCI core is about to reset it, to put it to sleep, or has lost it.
    pub(crate) fn suspend(&self) {
        let mut control = self.control.lock();
        if matches!(control.mode, Mode::Suspended | Mode::Removed) {
            return;
        }
        self.halt(&mut control);
        control.mode = Mode::Suspended;
    }

    /// It has been reset, or has power again.
    pub(crate) fn resume(&self) -> Result {
        let mut control = self.control.lock();
        if control.mode != Mode::Suspended {
            return Ok(());
        }
        self.counters.resets.fetch_add(1, Relaxed);
        if let Some(saved) = &control.saved {
            saved.restore_if_lost();
        }
        if control.resetter == Resetter::Others {
            // Begins anew. The driver's own resets are part of a recovery, which has been counted.
            control.recoveries = Recoveries::NONE;
            control.starting = StartSequence::Updated;
            control.stopper = StopFallback::Hard;
        }
        control.mode = Mode::Lost;
        if self.state() == FunctionState::Gone {
            dev_warn!(self.dev.device(), "does not answer\n");
            return Err(ENODEV);
        }
        self.activate(&mut control)
    }
}

impl pci::Handler for Function {
    fn interrupt(&self) -> bool {
        self.counters.interrupts.fetch_add(1, Relaxed);
        true
    }

    fn thread(&self) {
        let mut control = self.control.lock();
        if !self.handle_errors(&mut control) {
            return;
        }
        control.resetter = Resetter::Driver;
        drop(control);
        // The core calls suspend() and resume(). If somebody else is busy with the device, the next
        // who needs it tries again.
        let reset = self.dev.try_reset();
        let mut control = self.control.lock();
        control.resetter = Resetter::Others;
        match reset {
            Err(e) if e == EAGAIN && control.mode == Mode::Lost => control.recoveries.untried(),
            Err(e) if e != EAGAIN && allowed() => {
                dev_err!(self.dev.device(), "cannot be reset: {:?}\n", e);
            }
            _ => {}
        }
    }
}
