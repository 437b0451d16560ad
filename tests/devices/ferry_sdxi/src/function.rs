// SPDX-License-Identifier: GPL-2.0

//! The state that the contexts of a function share: registers, error log, and the thread that
//! activates and stops it.
//!
//! One mutex owns the registers and what the thread is to do. Lock order: a context's lane, then
//! this mutex, then the host's leaves. The thread takes lanes without it. A command that overtakes
//! the one in work begins a new generation, in which the old one does nothing more.

use crate::layout::{log_entry, Failure, Limits, Reaction};
use crate::registers::{Action, LogPlace, Register, Registers, State, LOG_ERROR, OVERFLOW};
use ferry_vfio::fault::Kind;
use ferry_vfio::lane::{Peer, Queue, DAY};
use ferry_vfio::memory::Dma;
use ferry_vfio::Host;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at what no condition variable tells.
const TICK: Duration = Duration::from_millis(1);

struct Inner {
    registers: Registers,
    todo: Option<Todo>,
    generation: u64,
    busy: bool,
    quit: bool,
}

/// A task of the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Activate,
    Stop {
        hard: bool,
    },
    /// The function has failed: end what its contexts do.
    Fail,
}

/// A context as the function sees it when it starts, stops or fails.
pub trait Member: Queue {
    /// Starts running as context 0 of a function that is being activated. Software has set the
    /// context's state in memory.
    ///
    /// # Errors
    ///
    /// The step at which reading the context's tables failed, and why.
    fn activate(&mut self, dma: &dyn Dma) -> Result<(), Failure>;

    /// Begins to stop on behalf of the function.
    fn stop_with_function(&mut self, dma: &dyn Dma);

    /// Returns `true` if a stop has begun and has not ended.
    fn stopping(&self) -> bool;
}

/// The state that all contexts of a function share. `C` is the type of the contexts, which refer
/// to their function in turn.
pub struct Function<C: Member> {
    /// The host.
    pub host: Arc<Host>,
    /// Attributes, overlaps and the read index as the strictest device has them.
    pub strict: bool,
    /// Interrupt vectors.
    pub vectors: u16,
    inner: Mutex<Inner>,
    changed: Condvar,
    contexts: OnceLock<Vec<Peer<C>>>,
}

impl<C: Member> Function<C> {
    /// Creates a function in its state after power-on.
    pub fn new(host: Arc<Host>, registers: Registers, strict: bool, vectors: u16) -> Self {
        let inner = Inner {
            registers,
            todo: None,
            generation: 0,
            busy: false,
            quit: false,
        };
        Self {
            host,
            strict,
            vectors,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            contexts: OnceLock::new(),
        }
    }

    /// Makes the contexts known, once.
    pub fn set_contexts(&self, contexts: Vec<Peer<C>>) {
        if self.contexts.set(contexts).is_err() {
            log::error!("contexts set twice");
        }
    }

    /// Returns the contexts, by number.
    pub fn contexts(&self) -> &[Peer<C>] {
        self.contexts.get().map_or(&[], Vec::as_slice)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let woken = self.changed.wait(inner);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `look` with the registers, under their lock.
    pub fn registers<R>(&self, look: impl FnOnce(&Registers) -> R) -> R {
        look(&self.lock().registers)
    }

    /// Returns the limits that the function sets for its contexts.
    pub fn limits(&self) -> Result<Limits, Failure> {
        self.registers(Registers::limits)
    }

    /// Carries out a write to a register.
    pub fn write(&self, register: Register, value: u64, mask: u64) {
        let mut inner = self.lock();
        let Some(action) = inner.registers.write(register, value, mask) else {
            return;
        };
        let lost = |k: &Kind| matches!(k, Kind::LostReset {});
        if action == Action::Reset && !self.strike(lost).is_empty() {
            return;
        }
        inner.todo = match action {
            Action::Activate => Some(Todo::Activate),
            Action::StopSoft => Some(Todo::Stop { hard: false }),
            Action::StopHard => Some(Todo::Stop { hard: true }),
            Action::Reset => None,
        };
        inner.generation += 1;
        drop(inner);
        self.changed.notify_all();
        if action == Action::Reset {
            self.abandon(|registers| registers.set_state(State::Stop));
        }
    }

    /// Resets the function to its state after power-on.
    pub fn reset(&self) {
        self.abandon(Registers::reset);
    }

    /// Abandons everything at once; then nothing is in flight.
    fn abandon(&self, then: impl FnOnce(&mut Registers)) {
        let mut inner = self.lock();
        inner.generation += 1;
        inner.todo = None;
        self.changed.notify_all();
        while inner.busy {
            inner = self.wait(inner);
        }
        drop(inner);
        self.contexts().iter().for_each(Peer::reset);
        then(&mut self.lock().registers);
    }

    /// Runs the loop of the thread until [`Self::quit()`].
    pub fn work(&self) {
        while !self.lock().quit {
            if !self.turn() {
                let inner = self.lock();
                if inner.todo.is_none() && !inner.quit {
                    drop(self.wait(inner));
                }
            }
        }
    }

    /// Ends the loop of [`Self::work()`].
    pub fn quit(&self) {
        let mut inner = self.lock();
        inner.quit = true;
        inner.generation += 1;
        drop(inner);
        self.changed.notify_all();
    }

    /// Carries out the pending task. Returns `false` if there was none.
    pub fn turn(&self) -> bool {
        let mut inner = self.lock();
        let Some(todo) = inner.todo.take() else {
            return false;
        };
        let generation = inner.generation;
        inner.busy = true;
        drop(inner);
        let done = match todo {
            Todo::Activate => self.activate(generation),
            Todo::Stop { hard } => self.stop(generation, hard),
            Todo::Fail => {
                self.contexts().iter().for_each(Peer::reset);
                None
            }
        };
        let mut inner = self.lock();
        inner.busy = false;
        if let Some(state) = done.filter(|_| inner.generation == generation) {
            inner.registers.set_state(state);
        }
        drop(inner);
        self.changed.notify_all();
        true
    }

    /// Waits until `ready`, or until the time `until`. Returns `false` if the generation ended.
    fn pause(&self, generation: u64, until: Option<Instant>, ready: impl Fn() -> bool) -> bool {
        loop {
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            let inner = self.lock();
            if inner.generation != generation || self.host.gone() {
                return false;
            }
            if left.is_some_and(|l| l.is_zero()) {
                return true;
            }
            drop(inner);
            if ready() {
                return true;
            }
            let waited = self
                .changed
                .wait_timeout(self.lock(), left.unwrap_or(TICK).min(TICK));
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn strike(&self, meets: impl Fn(&Kind) -> bool) -> Vec<Kind> {
        self.host.strike(0, meets)
    }

    /// Activates the function. Returns the state that it reaches; `None` if another command came
    /// first, or if the state was set already.
    fn activate(&self, generation: u64) -> Option<State> {
        let meets = |k: &Kind| matches!(k, Kind::InitDelay { .. } | Kind::InitError {});
        let mut fails = false;
        for fault in self.strike(meets) {
            match fault {
                Kind::InitDelay { ms } => {
                    let until = Instant::now() + Duration::from_millis(ms).min(DAY);
                    if !self.pause(generation, Some(until), || false) {
                        return None;
                    }
                }
                _ => fails = true,
            }
        }
        self.contexts().iter().for_each(Peer::reset);
        let admin = self.contexts().first()?;
        let result = match fails {
            true => Err(Failure::INTERNAL),
            false => admin.with(|context| context.activate(&self.host.memory))?,
        };
        match result {
            Ok(()) => Some(State::Active),
            Err(failure) => {
                self.fail(generation, failure);
                None
            }
        }
    }

    fn stop(&self, generation: u64, hard: bool) -> Option<State> {
        let meets = |k: &Kind| match *k {
            Kind::StuckStop { hard: stuck } => stuck || !hard,
            _ => false,
        };
        // Before the fault strikes, or it could be released before it is looked for.
        let released = self.host.released();
        let stuck = !self.strike(meets).is_empty();
        for context in self.contexts() {
            let stop = |c: &mut C| c.stop_with_function(&self.host.memory);
            match hard {
                true => context.cancel(stop),
                false => context.with(stop),
            };
        }
        let stopped = |p: &Peer<C>| p.idle() && p.with(|c| !c.stopping()).unwrap_or(true);
        let quiet = || self.contexts().iter().all(stopped);
        let ready = || quiet() && (!stuck || self.host.released() != released);
        self.pause(generation, None, ready).then_some(State::Stop)
    }

    /// Puts the function into its error state, unless another command came first.
    fn fail(&self, generation: u64, failure: Failure) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        let mut told = self.log_with(&mut inner, failure, 0, None, Reaction::FunctionStopped);
        told |= !inner.registers.error_interrupt();
        inner.registers.set_state(State::Error);
        inner.generation += 1;
        inner.todo = Some(Todo::Fail);
        if !told {
            self.host.interrupt(0, 0);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Puts the function into its error state in the middle of its work.
    pub fn fail_now(&self) {
        let generation = self.lock().generation;
        self.fail(generation, Failure::INTERNAL);
    }

    /// Makes an entry in the error log.
    pub fn log(&self, failure: Failure, context: u16, index: Option<u64>, reaction: Reaction) {
        self.log_with(&mut self.lock(), failure, context, index, reaction);
    }

    /// Makes an entry in the error log. Returns `true` if that sent an interrupt.
    fn log_with(
        &self,
        inner: &mut Inner,
        failure: Failure,
        context: u16,
        index: Option<u64>,
        reaction: Reaction,
    ) -> bool {
        let registers = &mut inner.registers;
        let place = registers.log_place();
        if place == LogPlace::Off {
            return false;
        }
        let meets = |k: &Kind| {
            matches!(
                k,
                Kind::LogFull {} | Kind::LogFailure {} | Kind::LostLogInterrupt {}
            )
        };
        let faults = self.host.strike(context, meets);
        let entry = log_entry(failure, context, index, reaction);
        let lost = match place {
            _ if faults.contains(&Kind::LogFull {}) => OVERFLOW,
            LogPlace::At(at) => {
                let broken = faults.contains(&Kind::LogFailure {});
                match broken || self.put_entry(at, entry).is_none() {
                    true => LOG_ERROR,
                    false => 0,
                }
            }
            _ => OVERFLOW,
        };
        let tell = registers.logged(lost) && !faults.contains(&Kind::LostLogInterrupt {});
        if tell {
            self.host.interrupt(context, 0);
        }
        tell
    }

    /// Writes an entry of the error log. The first word comes last, because it makes the entry
    /// valid.
    fn put_entry(&self, at: u64, entry: [u64; 2]) -> Option<()> {
        let memory = &self.host.memory;
        let mut rest = [0; 56];
        rest[..8].copy_from_slice(&entry[1].to_le_bytes());
        memory.write(at.checked_add(8)?, &rest).ok()?;
        memory.store64(at, entry[0]).ok()
    }
}
