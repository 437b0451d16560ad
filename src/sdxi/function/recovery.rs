// SPDX-License-Identifier: GPL-2.0

//! Recovery of a function from errors and resets: activation, halt, the error log, and what the
//! thread of vector 0 does about errors.
//!
//! Part of [`Function`]. Locks: those of [`function`](super). Methods that take a [`Control`] are
//! called with its mutex held, and may sleep.

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

/// Attempts of one activation, before the PCI function is reset or given up.
const ACTIVATIONS: u32 = 3;

impl Function {
    /// Stops the function hard, and with it all contexts. Sets the mode to `Broken` with proof of
    /// the stop, and to `Lost` without.
    #[doc(alias = "STOP_HD")]
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
                "does not stop ({}): it needs a reset\n",
                self.state().name()
            );
        }
    }

    /// Records that the function and so all contexts have stopped, which frees buffers of tests.
    pub(super) fn all_stopped(&self, control: &mut Control) {
        if let Some(resources) = &mut control.resources {
            resources.admin.abandon_commands();
        }
        control.test_buffers.clear();
        for context in &self.contexts {
            context.stopped();
        }
    }

    /// Activates a function that has stopped, and starts its opened contexts. Halts it if that
    /// fails [`ACTIVATIONS`] times.
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

    /// Writes all tables and registers, and waits for the function to be active.
    #[doc(alias("CTL0", "CTL2", "fn_gsr"))]
    fn activate_once(&self, control: &mut Control) -> Result {
        let resources = control.resources.as_mut().ok_or(ENODEV)?;
        // A reset clears registers, a stop does not: all are written again. The function has
        // stopped, so a requested reset has ended, and cannot clear the values that are written
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

    /// Resets the error log, and enables it.
    #[doc(alias("ERR_CTL", "ERR_CFG"))]
    fn open_log(&self, log: &ErrorLog) -> Result {
        log.close();
        self.bars.write(WritableRegister::ErrSts, ERR_STS_ALL);
        self.bars.write(WritableRegister::ErrCtl, 1);
        self.bars.write(WritableRegister::ErrWrt, 0);
        self.bars.write(WritableRegister::ErrRd, 0);
        log.open()
    }

    /// Handles errors of the function and its contexts, and starts opened contexts. Returns `true`
    /// if the PCI function has to be reset.
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
                    dev_warn!(
                        self.dev.device(),
                        "function is {}: recovering\n",
                        state.name()
                    );
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
        // Entries up to here are about contexts before their restart.
        self.read_log(control);
        self.start_wanted(control);
        if control.mode != Mode::Active {
            return self.recover(control);
        }
        false
    }

    /// Halts the function and activates it again, unless it has failed too often. Returns `true` if
    /// the PCI function has to be reset.
    fn recover(&self, control: &mut Control) -> bool {
        if control.mode == Mode::Active {
            self.halt(control);
        }
        if control.mode == Mode::Lost && !self.dev.is_present() {
            // No recovery is possible while the device is absent, so none is counted.
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
                    "keeps failing: given up until it is reset or bound again\n"
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

    /// Reads new entries of the error log, and marks contexts that they report as stopped.
    #[doc(alias("ERR_STS", "ERR_RD", "ERR_WRT", "ERRLOG_HD_ENT"))]
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
        // Cleared before the write index is read, so that later entries raise an interrupt.
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
                // The status of the context in memory may not show the stop yet.
                context.mark_failed();
            }
            if control.logged.len() >= LOGGED {
                // The list is not empty, so an oldest entry exists.
                let _ = control.logged.remove(0);
            }
            // The list has the capacity.
            let _ = control.logged.push(words, GFP_KERNEL);
            if allowed() {
                dev_warn!(self.dev.device(), "{entry}\n");
            }
        }
        if waiting.is_none() || status & ERR_STS_ERR != 0 {
            // The indices are not plausible, or the device could not write an entry: start over.
            counters.log_failures.fetch_add(1, Relaxed);
            let _ = self.open_log(&resources.log);
        } else {
            self.bars.write(WritableRegister::ErrRd, written);
        }
    }

    /// Halts the function before the PCI core resets or suspends it, or when it is lost.
    pub(crate) fn suspend(&self) {
        let mut control = self.control.lock();
        if matches!(control.mode, Mode::Suspended | Mode::Removed) {
            return;
        }
        self.halt(&mut control);
        control.mode = Mode::Suspended;
    }

    /// Restores the configuration and activates the function, after a reset or with power again.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the function does not answer, `EIO` if it cannot be activated.
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
            // Resets the counts. The driver's own resets are part of a recovery, which is counted.
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
        // The PCI core calls suspend() and resume(). If the device is locked, the next wake of this
        // thread tries again.
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
