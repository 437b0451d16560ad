// SPDX-License-Identifier: GPL-2.0

//! A context: its indices and its life, its descriptors at work.
//!
//! Owned by its lane's mutex. Nothing here takes another lane's lock but [`Queue::execute`], which
//! runs without one.

use crate::choices::signal;
use crate::descriptor::{
    decode, Descriptor, Operation, Rules, Side, Wait, BLOCK, DESCRIPTOR, VALID,
};
use crate::function::{Function, Member};
use crate::layout::{self, state, step, sub, Failure, Limits, Reaction, AKEY};
use ferry_vfio::fault::{Encoding, Kind};
use ferry_vfio::lane::{Halt, Io, Peer, Queue};
use ferry_vfio::memory::{self, Dma, Fault};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Bit of a CSB's second word that says that a descriptor failed.
const ERROR: u64 = 1 << 31;

/// The contents of a context's L2 and L1 entries and its CXT_CTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    ring: u64,
    entries: u64,
    status: u64,
    write_index: u64,
    akeys: u64,
    akey_entries: u64,
    rules: Rules,
}

impl Tables {
    /// Reads them.
    pub fn read(
        number: u16,
        limits: &Limits,
        strict: bool,
        dma: &dyn Dma,
    ) -> Result<Tables, Failure> {
        let entry = |table: u64, index: u16, size: u64, step| {
            let at = table.checked_add(u64::from(index) * size);
            at.ok_or(Failure::access(step))
        };
        let at = entry(limits.l2, number >> 7, 8, step::L2)?;
        let l2 = dma.load64(at).map_err(|_| Failure::access(step::L2))?;
        let at = entry(layout::l2_entry(l2)?, number & 0x7f, 32, step::L1)?;
        let l1 = fetch(at, step::L1, dma)?;
        let l1 = layout::l1_entry(&l1, limits)?;
        let control = fetch(l1.control, step::CONTROL, dma)?;
        let control = layout::control(&control, limits)?;
        Ok(Tables {
            ring: control.ring,
            entries: control.entries,
            status: control.status,
            write_index: control.write_index,
            akeys: l1.akeys,
            akey_entries: l1.akey_entries,
            rules: Rules {
                admin: number == 0,
                buffer: l1.buffer,
                groups: l1.groups,
                context: limits.context,
                strict,
            },
        })
    }

    fn slot(&self, index: u64) -> u64 {
        self.ring + index % self.entries * DESCRIPTOR
    }

    fn state(&self, dma: &dyn Dma) -> Result<u64, Failure> {
        let word = dma.load64(self.status);
        Ok(word.map_err(|_| Failure::access(step::STATUS))? & 0xf)
    }

    fn set_state(&self, state: u64, dma: &dyn Dma) -> Result<(), Failure> {
        let stored = dma.store64(self.status, state);
        stored.map_err(|_| Failure::access(step::STATUS))
    }

    fn read_index(&self, dma: &dyn Dma) -> Result<u64, Failure> {
        let word = dma.load64(self.status | 8);
        word.map_err(|_| Failure::access(step::STATUS))
    }

    fn set_read_index(&self, index: u64, dma: &dyn Dma) -> Result<(), Failure> {
        let stored = dma.store64(self.status | 8, index);
        stored.map_err(|_| Failure::access(step::STATUS))
    }

    /// Returns the interrupt of an AKey.
    fn akey(&self, index: u16, dma: &dyn Dma) -> Result<Option<u16>, Failure> {
        if u64::from(index) >= self.akey_entries {
            return Err(Failure::invalid(step::AKEY));
        }
        let at = self.akeys.checked_add(u64::from(index) * AKEY);
        let at = at.ok_or(Failure::access(step::AKEY))?;
        layout::akey(&fetch(at, step::AKEY, dma)?)
    }
}

fn fetch<const N: usize>(at: u64, step: u8, dma: &dyn Dma) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    dma.read(at, &mut bytes)
        .map_err(|_| Failure::access(step))?;
    Ok(bytes)
}

/// Addresses that a context uses, for tests that know what may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The next descriptor.
    pub slot: u64,
    /// CXT_STS.
    pub status: u64,
}

/// On whose behalf a context stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Software,
    Function,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Stopped,
    Running,
    Stopping(By),
    Failed,
}

/// See the module.
pub struct Context {
    number: u16,
    function: Arc<Function<Context>>,
    run: Run,
    tables: Option<Tables>,
    /// The next descriptor to take.
    read: u64,
    /// The first that has not begun.
    begun: u64,
    /// Write_Index when last looked at; less if a descriptor below it was not valid yet.
    write: u64,
    /// There was a doorbell since.
    kicked: bool,
    /// Descriptors read since last asked.
    fetches: u64,
    /// Taken, and not completed.
    outstanding: BTreeSet<u64>,
    /// read_index is not published below this.
    lazy: u64,
}

/// A descriptor, and what has become of it.
pub struct Job {
    function: Arc<Function<Context>>,
    context: u16,
    index: u64,
    tables: Tables,
    descriptor: Descriptor,
    /// It fails with this, and its context goes on if so said.
    forced: Option<(Failure, Reaction)>,
    silent: bool,
    delay: Duration,
    vector: Option<u16>,
}

/// Reason for which a descriptor failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// For the error log; none if it has been told.
    failure: Option<Failure>,
    reaction: Reaction,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error {
            failure: Some(failure),
            reaction: Reaction::ContextStopped,
        }
    }
}

impl Context {
    /// Creates a context in its state after power-on.
    pub fn new(number: u16, function: Arc<Function<Context>>) -> Context {
        Context {
            number,
            function,
            run: Run::Stopped,
            tables: None,
            read: 0,
            begun: 0,
            write: 0,
            kicked: false,
            fetches: 0,
            outstanding: BTreeSet::new(),
            lazy: 0,
        }
    }

    /// Rings the doorbell.
    pub fn kick(&mut self) {
        self.kicked = true;
    }

    /// Starts the context on CXT_START.
    pub fn start(&mut self, doorbell: bool, dma: &dyn Dma) -> Result<(), Failure> {
        match self.run {
            Run::Running => {}
            Run::Stopping(_) => return Err(Failure::invalid(step::STATUS)),
            Run::Stopped | Run::Failed => {
                let tables = self.set_up(dma)?;
                tables.set_state(state::RUN, dma)?;
                self.run = Run::Running;
            }
        }
        self.kicked |= doorbell;
        Ok(())
    }

    fn set_up(&mut self, dma: &dyn Dma) -> Result<Tables, Failure> {
        self.reset();
        let tables = self.look_up(dma)?;
        let index = tables.read_index(dma)?;
        (self.read, self.begun, self.write) = (index, index, index);
        Ok(tables)
    }

    fn look_up(&mut self, dma: &dyn Dma) -> Result<Tables, Failure> {
        if let Some(tables) = self.tables {
            return Ok(tables);
        }
        let limits = self.function.limits()?;
        let tables = Tables::read(self.number, &limits, self.function.strict, dma)?;
        self.tables = Some(tables);
        Ok(tables)
    }

    /// Stops the context on CXT_STOP.
    pub fn stop(&mut self, dma: &dyn Dma) {
        self.stop_by(By::Software, dma);
    }

    fn stop_by(&mut self, by: By, dma: &dyn Dma) {
        if self.run == Run::Running {
            self.run = Run::Stopping(by);
            let state = match by {
                By::Software => state::STOPG_SW,
                By::Function => state::STOPG_FN,
            };
            self.say(state, dma);
        }
    }

    /// Returns the index of the first descriptor that the context has not taken.
    pub fn taken(&self) -> u64 {
        self.read
    }

    /// Returns `true` if every descriptor below `then` is done.
    pub fn settled(&self, then: u64) -> bool {
        self.outstanding.first().is_none_or(|first| *first >= then)
    }

    /// Forgets the context's tables, which have changed.
    pub fn forget(&mut self) {
        self.tables = None;
    }

    /// Returns the places where the device takes the next descriptor and writes the status, if it
    /// knows them.
    pub fn view(&self) -> Option<View> {
        self.tables.map(|tables| View {
            slot: tables.slot(self.read),
            status: tables.status,
        })
    }

    /// Returns the state for reports: the phase, the next index, and the first that has not begun.
    pub fn state(&self) -> Option<serde_json::Value> {
        if self.run == Run::Stopped {
            return None;
        }
        Some(serde_json::json!({
            "context": self.number,
            "run": format!("{:?}", self.run),
            "read": self.read,
            "begun": self.begun,
            "write": self.write,
            "outstanding": self.outstanding.len(),
        }))
    }

    /// Writes the state; an error if that cannot be.
    fn say(&mut self, state: u64, dma: &dyn Dma) {
        let said = self.look_up(dma).and_then(|t| t.set_state(state, dma));
        if let Err(failure) = said {
            let reaction = Reaction::ContextStopped;
            self.function.log(failure, self.number, None, reaction);
        }
    }

    /// Publishes read_index as far as it may be known.
    fn publish(&mut self, dma: &dyn Dma) -> Result<(), Failure> {
        let index = if self.function.strict {
            self.begun
        } else {
            self.outstanding.first().copied().unwrap_or(self.read)
        };
        let tables = self.look_up(dma)?;
        match index >= self.lazy {
            true => tables.set_read_index(index, dma),
            false => Ok(()),
        }
    }

    /// Puts the context into its error state, after a failure at a descriptor or before one.
    fn fail(&mut self, failure: Option<Failure>, index: Option<u64>, dma: &dyn Dma) {
        if let Some(failure) = failure {
            let index = index.filter(|_| failure.step >= step::DESCRIPTOR);
            let reaction = Reaction::ContextStopped;
            self.function.log(failure, self.number, index, reaction);
        }
        self.end(index, dma);
    }

    /// Writes read_index and the state after a failure.
    fn end(&mut self, index: Option<u64>, dma: &dyn Dma) {
        self.run = Run::Failed;
        self.outstanding.clear();
        if let Ok(tables) = self.look_up(dma) {
            // The failure is in the error log already; an error here has no further reader.
            let _ = tables.set_read_index(index.unwrap_or(self.begun), dma);
            let _ = tables.set_state(state::ERR_FN, dma);
        }
    }

    /// Returns `true` if there are more descriptors after a kick. Only this function reads
    /// Write_Index.
    fn look(&mut self, dma: &dyn Dma) -> Result<bool, Failure> {
        let tables = self.look_up(dma)?;
        if tables.state(dma)? != state::RUN {
            return Ok(false);
        }
        let unreadable = |_| Failure::access(step::WRITE_INDEX);
        let write = dma.load64(tables.write_index).map_err(unreadable)?;
        let ahead = write.checked_sub(self.read);
        if ahead.is_none_or(|n| n > tables.entries) {
            return Err(Failure::invalid(step::WRITE_INDEX));
        }
        self.write = write;
        Ok(self.read < write)
    }

    /// Takes the descriptor at the read index, if it is valid.
    fn take(&mut self, dma: &dyn Dma) -> Result<Option<Job>, Failure> {
        let unreadable = |_| Failure::access(step::DESCRIPTOR);
        let tables = self.look_up(dma)?;
        let (index, at) = (self.read, tables.slot(self.read));
        self.fetches += 1;
        let head = dma.load64(at).map_err(unreadable)?;
        if head & VALID == 0 {
            return Ok(None);
        }
        let mut bytes: [u8; DESCRIPTOR as usize] = fetch(at, step::DESCRIPTOR, dma)?;
        bytes[..8].copy_from_slice(&head.to_le_bytes());
        // Before the read index says that the slot is free.
        dma.store64(at, head & !VALID).map_err(unreadable)?;
        self.read += 1;
        self.outstanding.insert(index);
        Ok(Some(Job {
            function: Arc::clone(&self.function),
            context: self.number,
            index,
            tables,
            descriptor: decode(&bytes, &tables.rules),
            forced: None,
            silent: false,
            delay: Duration::ZERO,
            vector: None,
        }))
    }
}

impl Job {
    fn akey(&self, side: Side, io: &Io<'_>) -> Result<(), Halt<Error>> {
        let found = self.tables.akey(side.akey, io.dma());
        found.map_err(failed).map(|_| ())
    }

    fn peers(&self, range: &RangeInclusive<u16>) -> &[Peer<Context>] {
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        self.function.contexts().get(first..=last).unwrap_or(&[])
    }

    /// Writes the CSB.
    fn tell(&self, good: bool, dma: &dyn Dma) -> Result<(), Failure> {
        let Some(at) = self.descriptor.csb.filter(|_| !self.silent) else {
            return Ok(());
        };
        let bad = |_| Failure::access(step::CSB);
        if !good {
            dma.update64(at | 8, &mut |flags| flags | ERROR)
                .map_err(bad)?;
        }
        let simple = self.descriptor.simple;
        dma.update64(at, &mut |old| signal(simple, old))
            .map_err(bad)?;
        Ok(())
    }

    fn interrupt(&self, akey: u16, io: &Io<'_>) -> Result<u16, Failure> {
        let number = self.tables.akey(akey, io.dma())?;
        let number = number.filter(|n| (1..self.function.vectors).contains(n));
        number.ok_or(Failure::invalid(step::AKEY))
    }

    fn start(&self, range: &RangeInclusive<u16>, doorbell: bool) -> Result<(), Halt<Error>> {
        let memory = &self.function.host.memory;
        let mut good = true;
        for (number, peer) in range.clone().zip(self.peers(range)) {
            let started = peer.with(|context| context.start(doorbell, memory));
            if let Some(Err(failure)) = started {
                let reaction = Reaction::ContextStopped;
                self.function.log(failure, number, None, reaction);
                good = false;
            }
        }
        match good {
            true => Ok(()),
            false => Err(Halt::Failed(Error {
                failure: None,
                reaction: Reaction::Informative,
            })),
        }
    }

    fn stop(&self, range: &RangeInclusive<u16>, hard: bool) {
        let memory = &self.function.host.memory;
        for (number, peer) in range.clone().zip(self.peers(range)) {
            let stop = |context: &mut Context| context.stop(memory);
            match hard && number != self.context {
                true => peer.cancel(stop),
                false => peer.with(stop),
            };
        }
    }

    /// Waits for other contexts only: the context itself cannot stop meanwhile.
    fn sync(
        &self,
        wait: Wait,
        range: &RangeInclusive<u16>,
        io: &Io<'_>,
    ) -> Result<(), Halt<Error>> {
        let others = range.clone().zip(self.peers(range));
        let others = others.filter(|(number, _)| *number != self.context);
        let marked = others.map(|(_, peer)| (peer, peer.with(|context| context.taken())));
        let marked: Vec<_> = marked.collect();
        let ready = |(peer, mark): &(&Peer<Context>, Option<u64>)| {
            let done = peer.with(|context| match wait {
                Wait::Stops => !context.stopping(),
                Wait::Updates => context.settled(mark.unwrap_or(0)),
            });
            done.unwrap_or(true)
        };
        io.wait_for(|| marked.iter().all(ready))
    }
}

fn failed(failure: Failure) -> Halt<Error> {
    Halt::Failed(failure.into())
}

/// Returns the failure of a data buffer that the bus did not give.
fn bus(fault: Fault, buffer: u8) -> Failure {
    let sub = match fault {
        Fault::Decode(_) => sub::TRANSLATION,
        Fault::Denied(_) | Fault::Unaligned(_) => sub::ACCESS,
    };
    Failure::buffer(sub, buffer)
}

fn bus_side(side: memory::Side) -> Error {
    match side {
        memory::Side::Source(fault) => bus(fault, 0).into(),
        memory::Side::Destination(fault) => bus(fault, 1).into(),
    }
}

impl Member for Context {
    fn activate(&mut self, dma: &dyn Dma) -> Result<(), Failure> {
        self.set_up(dma)?;
        self.run = Run::Running;
        Ok(())
    }

    fn stop_with_function(&mut self, dma: &dyn Dma) {
        self.stop_by(By::Function, dma);
    }

    fn stopping(&self) -> bool {
        matches!(self.run, Run::Stopping(_))
    }
}

impl Queue for Context {
    type Job = Job;
    type Error = Error;

    fn next(&mut self, dma: &dyn Dma) -> Option<Job> {
        while self.run == Run::Running {
            let result = if self.read < self.write {
                self.take(dma)
            } else if std::mem::take(&mut self.kicked) {
                match self.look(dma) {
                    Ok(true) => continue,
                    Ok(false) => Ok(None),
                    Err(failure) => Err(failure),
                }
            } else {
                return None;
            };
            match result {
                Ok(Some(job)) => return Some(job),
                // Until the next kick.
                Ok(None) => self.write = self.read,
                Err(failure) => self.fail(Some(failure), Some(self.read), dma),
            }
        }
        None
    }

    fn fetches(&mut self, _taken: bool) -> u64 {
        std::mem::take(&mut self.fetches)
    }

    fn meets(job: &Job, fault: &Kind) -> bool {
        let operation = job.descriptor.operation.as_ref();
        match fault {
            Kind::Partial { .. } | Kind::LateWrite { .. } => matches!(
                operation,
                Ok(Operation::Copy { .. } | Operation::Repeat { .. })
            ),
            Kind::LostInterrupt {} | Kind::LateInterrupt { .. } | Kind::Duplicate { .. } => {
                matches!(operation, Ok(Operation::Interrupt { .. }))
            }
            Kind::SlowSync { .. } => matches!(operation, Ok(Operation::Sync { .. })),
            Kind::LostCompletion {} => job.descriptor.csb.is_some(),
            Kind::OutOfOrder { .. } => !job.descriptor.fenced,
            Kind::InitDelay { .. } | Kind::InitError {} | Kind::StuckStop { .. } => false,
            Kind::LogFull {} | Kind::LogFailure {} | Kind::LostLogInterrupt {} => false,
            Kind::LostDoorbell {} | Kind::LostReset {} | Kind::LostFlr {} => false,
            Kind::Unknown { what } => match operation {
                Ok(Operation::Update { .. }) => *what == Encoding::Update,
                Ok(Operation::Sync { wait, .. }) => {
                    *what == Encoding::SyncUpdate && *wait == Wait::Updates
                }
                Ok(Operation::Stop { hard, .. }) => *what == Encoding::HardStop && *hard,
                _ => false,
            },
            _ => true,
        }
    }

    fn fenced(job: &Job) -> bool {
        job.descriptor.fenced
    }

    fn begin(&mut self, job: &mut Job, faults: &[Kind], dma: &dyn Dma) {
        self.begun = job.index + 1;
        for fault in faults {
            match *fault {
                Kind::SoftError { code } => {
                    job.forced = Some((Failure::from_code(code), Reaction::Informative));
                }
                Kind::Unknown { .. } => {
                    let invalid = Failure::invalid(step::DESCRIPTOR);
                    job.forced = Some((invalid, Reaction::ContextStopped));
                }
                Kind::LostCompletion {} => job.silent = true,
                Kind::SlowSync { ms } => job.delay = Duration::from_millis(ms),
                Kind::LazyReadIndex { count } => {
                    self.lazy = self.begun.saturating_add(count);
                }
                Kind::FunctionError {} => {
                    self.function.fail_now();
                    // It is abandoned before.
                    job.delay = Duration::MAX;
                }
                _ => {}
            }
        }
        if let Err(failure) = self.publish(dma) {
            job.forced = Some((failure, Reaction::ContextStopped));
        }
    }

    fn execute(job: &mut Job, io: &mut Io<'_>) -> Result<(), Halt<Error>> {
        if let Some((failure, reaction)) = job.forced {
            return Err(Halt::Failed(Error {
                failure: Some(failure),
                reaction,
            }));
        }
        if !job.delay.is_zero() {
            io.sleep(job.delay)?;
        }
        match job.descriptor.operation.as_ref().map_err(|f| failed(*f))? {
            Operation::Nop | Operation::Forget => Ok(()),
            Operation::Write { to, data, len } => {
                job.akey(*to, io)?;
                let data = data.get(..*len).unwrap_or(data);
                io.write(to.address, data).map_err(|f| failed(bus(f, 1)))
            }
            Operation::Copy { from, to, len } => {
                job.akey(*from, io)?;
                job.akey(*to, io)?;
                io.copy(from.address, to.address, *len)
                    .map_err(|stop| stop.halt(bus_side))
            }
            Operation::Repeat { from, to, len } => {
                job.akey(*from, io)?;
                job.akey(*to, io)?;
                for done in (0..*len).step_by(BLOCK as usize) {
                    let beyond = failed(bus(Fault::Decode(u64::MAX), 1));
                    let to = to.address.checked_add(done).ok_or(beyond)?;
                    io.copy(from.address, to, BLOCK)
                        .map_err(|stop| stop.halt(bus_side))?;
                }
                Ok(())
            }
            Operation::Interrupt { akey } => {
                let vector = job.interrupt(*akey, io).map_err(failed)?;
                job.vector = Some(vector);
                Ok(())
            }
            Operation::Start { contexts, doorbell } => job.start(contexts, *doorbell),
            Operation::Stop { contexts, hard } => {
                job.stop(contexts, *hard);
                Ok(())
            }
            Operation::Sync { wait, contexts } => job.sync(*wait, contexts, io),
            Operation::Update { contexts } => {
                for peer in job.peers(contexts) {
                    peer.with(Context::forget);
                }
                Ok(())
            }
        }
    }

    fn forced(code: Option<u8>) -> Error {
        Failure::from_code(code).into()
    }

    fn message(job: &Job) -> Option<u16> {
        job.vector
    }

    fn complete(&mut self, job: Job, result: Result<(), Error>, dma: &dyn Dma) {
        self.outstanding.remove(&job.index);
        let told = |failure: Failure| failure.step == step::CSB;
        let mut error = result.err();
        if let Some(Error {
            failure: Some(failure),
            reaction,
        }) = error
        {
            let index = (failure.step >= step::DESCRIPTOR).then_some(job.index);
            self.function.log(failure, self.number, index, reaction);
        }
        let csb_failed = error.and_then(|e| e.failure).is_some_and(told);
        if !csb_failed {
            if let Err(failure) = job.tell(error.is_none(), dma) {
                let reaction = Reaction::ContextStopped;
                let index = Some(job.index);
                self.function.log(failure, self.number, index, reaction);
                error = Some(failure.into());
            }
        }
        match error {
            Some(Error {
                reaction: Reaction::ContextStopped,
                ..
            }) => self.end(Some(job.index), dma),
            _ if self.function.strict => {}
            _ => {
                if let Err(failure) = self.publish(dma) {
                    self.fail(Some(failure), Some(job.index), dma);
                }
            }
        }
    }

    fn ended(&self) -> bool {
        self.run == Run::Failed
    }

    fn quiet(&mut self, dma: &dyn Dma) {
        let Run::Stopping(by) = self.run else {
            return;
        };
        self.outstanding.clear();
        self.lazy = 0;
        if let Err(failure) = self.publish(dma) {
            let reaction = Reaction::ContextStopped;
            self.function.log(failure, self.number, None, reaction);
        }
        let state = match by {
            By::Software => state::STOP_SW,
            By::Function => state::STOP_FN,
        };
        self.say(state, dma);
        self.run = Run::Stopped;
    }

    fn interrupt(&mut self) -> Option<u16> {
        None
    }

    fn reset(&mut self) {
        *self = Context::new(self.number, Arc::clone(&self.function));
    }
}
