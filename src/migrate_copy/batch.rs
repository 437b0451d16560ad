// SPDX-License-Identifier: GPL-2.0

//! Batches as the shim knows them, and the claims under which content is copied.
//!
//! C: `struct migrate_copy_batch`, `include/linux/migrate_copy.h`.
//!
//! # Who may touch a folio
//!
//! The shim lends the folios of a batch from [`Provider::begin()`] to [`Provider::finish()`], and
//! each of them only until it is settled. So content is copied through a [`Claim`] alone: it exists
//! while a chunk is in the state Claimed, and [`MigrateCopyBatch::settle()`] gives a final answer, which
//! the shim wants to see as a [`Settled`], only when no chunk of the folio is Claimed or can be.
//! Everything else about the protocol is in `ferry_core::claim`.
//!
//! # Who owns a batch
//!
//! A batch object is in exactly one hand while it is filled ([`UniqueArc`]), and shared
//! ([`Arc`]) from submit on, so that nobody reads entries that the shim still writes.
//!
//! Takes no locks but that of the parked folios in the shim, a leaf.
//!
//! [`Provider::begin()`]: super::provider::Provider::begin
//! [`Provider::finish()`]: super::provider::Provider::finish
//! [`UniqueArc`]: kernel::sync::UniqueArc

use crate::kapi::sched;
use core::{
    cell::UnsafeCell,
    ops::Range,
    ptr, //
};
use ferry_bindings as fb;
use ferry_core::{
    claim,
    class::Route,
    extent::{
        Extent,
        Segment, //
    },
    plan,
    plan::{
        ChunkRange,
        Planned, //
    },
    policy::Routine,
    Chunk,
    ChunkCounter,
    ChunkState,
    EntryState,
    Lane,
    Pending,
    Settle, //
};
use kernel::{
    bindings,
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
    types::Opaque, //
};

/// Most folios that one batch covers; those beyond are the stock kernel's.
pub(crate) const MAX_ENTRIES: usize = 1024;

/// Most chunks in one batch.
pub(crate) const MAX_CHUNKS: usize = 1024;

/// Bytes in a page.
const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

/// How many destinations are parked. For people; orders nothing.
static PARKED: Atomic<u32> = Atomic::new(0);

/// Returns how many destination folios are kept from being reused (I7).
pub(crate) fn parked() -> u32 {
    PARKED.load(Relaxed)
}

/// A batch object, as channels hold it.
pub(crate) trait Pooled: AsRef<MigrateCopyBatch> + Send + Sync + 'static {
    /// Lets go of it, in process context.
    fn put(batch: Arc<Self>);

    /// So many bytes have been copied. In any context.
    fn copied(&self, bytes: u64);
}

/// Words in a bitmap with a bit for each entry.
const BITMAP_WORDS: usize = MAX_ENTRIES.div_ceil(ffi::c_ulong::BITS as usize);

/// Says that an entry is settled, and how.
///
/// Made by [`MigrateCopyBatch::settle()`] and [`MigrateCopyBatch::park()`] only.
#[must_use]
pub(crate) struct Settled {
    /// For the shim: 1 copied, 0 not, or a negative errno.
    pub(super) code: ffi::c_int,
    /// What the protocol said.
    pub(crate) how: SettleOutcome,
}

/// How an entry was settled.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum SettleOutcome {
    /// Nobody had begun; the mover copies it.
    NotStarted,
    /// The content is in the destination.
    Copied,
    /// Somebody had begun and did not succeed; the mover copies it.
    Partial,
    /// Somebody may still write; the destination is parked and the folio fails.
    NotQuiet,
}

impl Settled {
    fn new(how: SettleOutcome) -> Self {
        Self {
            code: (how == SettleOutcome::Copied).into(),
            how,
        }
    }

    /// Fails the folio with `error`, though it is settled. For fault injection.
    pub(crate) fn fail(self, error: Error) -> Self {
        Self {
            code: if self.how == SettleOutcome::NotQuiet {
                self.code
            } else {
                error.to_errno()
            },
            how: self.how,
        }
    }
}

/// One step towards a settled entry.
pub(crate) enum Step<'a> {
    /// Done.
    Final(Settled),
    /// This chunk is in flight: wait, and ask again.
    Wait(u32),
    /// The mover got this claim: copy, drop it, and ask again.
    Mine(Claim<'a>),
}

/// A folio and its destination, both locked: lent by the shim for one call of [`Provider::begin()`] or
/// [`Provider::copy_now()`]. For the latter the stock code has just checked the references.
pub(crate) struct FolioPair {
    pub(super) dst: *mut bindings::folio,
    pub(super) src: *mut bindings::folio,
}

impl FolioPair {
    /// Size of the folio in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        // SAFETY: The shim's caller holds a reference to `src` and its lock for the call that
        // lends `self`.
        unsafe { fb::ferry_folio_size(self.src) as u64 }
    }

    /// Returns the nodes of source and destination.
    pub(crate) fn route(&self) -> Route {
        // SAFETY: As in `bytes()`, for both folios.
        let (from, to) = unsafe { (fb::ferry_folio_nid(self.src), fb::ferry_folio_nid(self.dst)) };
        Route { from, to }
    }

    /// Copies all of it, offering the CPU to others after each `step` bytes. False if poison was met.
    ///
    /// For [`Provider::copy_now()`], instead of a batch.
    pub(crate) fn copy_alone(&self, step: u64, routine: Routine) -> bool {
        let bytes = self.bytes();
        let step = (step & !(PAGE - 1)).max(PAGE);
        let mut offset = 0;
        while offset < bytes {
            let len = step.min(bytes - offset);
            // SAFETY: As in `bytes()`, for both folios, which have the same size; nobody else copies
            // what no batch has. Both are multiples of a page.
            if unsafe { copy_mc(self.dst, self.src, offset, len, routine) } != 0 {
                return false;
            }
            offset += len;
            if offset < bytes {
                sched::cond_resched();
            }
        }
        true
    }
}

/// Copies a part of a folio and returns how many bytes of it were not, because of a machine check.
///
/// What is copied is visible to who sees a later release by this CPU (I11).
///
/// # Safety
///
/// Both folios live, have the same size, and are the caller's to read and to write; `offset` and `len`
/// are multiples of a page, and `offset + len` is within the folio.
unsafe fn copy_mc(
    dst: *mut bindings::folio,
    src: *mut bindings::folio,
    offset: u64,
    len: u64,
    routine: Routine,
) -> u64 {
    let (offset, len) = (offset as usize, len as usize);
    // SAFETY: By the requirements of this function, for either.
    let left = unsafe {
        match routine {
            Routine::Cached => fb::ferry_copy_mc(dst, src, offset, len),
            Routine::NonTemporal => fb::ferry_copy_mc_nt(dst, src, offset, len),
        }
    };
    left as u64
}

/// A call of `migrate_pages()`.
#[derive(Copy, Clone)]
pub(crate) struct Call {
    /// Its `enum migrate_mode`.
    pub(crate) mode: u32,
    /// Its `enum migrate_reason`.
    pub(crate) reason: u32,
}

/// How many folios the shim has put into a batch.
#[derive(Copy, Clone)]
pub(crate) struct Filled {
    /// All of them.
    pub(crate) folios: u32,
    /// Anonymous ones that may be copied early.
    pub(crate) anon: u32,
    /// Those of shmem that may be copied early.
    pub(crate) shmem: u32,
}

impl Filled {
    /// Returns how many may be copied early.
    pub(crate) fn eligible(self) -> u32 {
        self.anon.saturating_add(self.shmem)
    }
}

/// What became of a folio that was to be copied at once.
pub(crate) struct CopyOutcome(pub(super) ffi::c_int);

impl CopyOutcome {
    /// All of it is in the destination.
    pub(crate) const COPIED: Self = Self(0);
    /// The stock copy follows.
    pub(crate) const NOT: Self = Self(1);

    /// Its destination has been parked: the folio fails.
    pub(crate) fn parked(_: Settled) -> Self {
        Self(EBUSY.to_errno())
    }
}

/// The part of a batch that C knows, at a stable address.
#[repr(C)]
struct Header {
    /// First, so that the pointer that C has is a pointer to the header.
    c: Opaque<fb::migrate_copy_batch>,
    /// The `Arc<P::Batch>` that the shim holds, as a pointer; null while it holds none.
    ///
    /// Written and read by the mover alone.
    owner: UnsafeCell<*const ffi::c_void>,
}

/// Folios, chunks, and the state of their copying.
///
/// # Invariants
///
/// * `entries` and `states` have [`MAX_ENTRIES`] elements, and the bitmaps as many bits, at stable
///   addresses, which `header.c` points to.
/// * The first `header.c.nr` of them hold folios that are lent (see the module) from when the
///   object is shared until they are settled.
/// * The first `planned.chunks` of `ranges` and `chunks` belong together, and every range lies in
///   folios of those entries.
pub(crate) struct MigrateCopyBatch {
    header: KBox<Header>,
    entries: KVec<Opaque<fb::migrate_copy_entry>>,
    /// What became of each entry. Written by who copies it with release, after the bytes, read by the
    /// mover with acquire, in C too.
    states: KVec<Atomic<u32>>,
    ranges: KVec<ChunkRange>,
    chunks: KVec<Chunk<Atomic<u32>>>,
    /// For chunks that an engine has claimed.
    pending: KVec<Pending<Atomic<u32>>>,
    /// What engines did.
    by_engine: ByEngine,
    planned: Planned,
    counter: ChunkCounter<Atomic<u32>>,
    /// Folios may change until they are claimed, so their references count (I1).
    early: bool,
    /// The shim's: which entries are parked, and of which of them the migration has failed.
    _bitmaps: [KVec<UnsafeCell<ffi::c_ulong>>; 2],
}

// SAFETY: The raw pointers in it are to folios, which are not tied to a thread, to `entries` and to
// `states`.
unsafe impl Send for MigrateCopyBatch {}
// SAFETY: While shared, entries are only read, states are atomic, and folios are only touched under a claim. `header.owner` and the fields of `header.c` but for `cursor` are the
// mover's; the bitmaps are for the shim, which has a lock for them.
unsafe impl Sync for MigrateCopyBatch {}

impl MigrateCopyBatch {
    /// Allocates a batch, for a pool.
    pub(crate) fn new() -> Result<Self> {
        let mut entries = KVec::with_capacity(MAX_ENTRIES, GFP_KERNEL)?;
        let mut ranges = KVec::with_capacity(MAX_CHUNKS, GFP_KERNEL)?;
        let mut chunks = KVec::with_capacity(MAX_CHUNKS, GFP_KERNEL)?;
        let mut states = KVec::with_capacity(MAX_ENTRIES, GFP_KERNEL)?;
        let mut pending = KVec::with_capacity(MAX_CHUNKS, GFP_KERNEL)?;
        for _ in 0..MAX_ENTRIES {
            entries.push(Opaque::new(fb::migrate_copy_entry::default()), GFP_KERNEL)?;
            states.push(Atomic::new(EntryState::Pending as u32), GFP_KERNEL)?;
        }
        for _ in 0..MAX_CHUNKS {
            ranges.push(ChunkRange::default(), GFP_KERNEL)?;
            chunks.push(Chunk::new(Atomic::new(0)), GFP_KERNEL)?;
            pending.push(Pending::new(Atomic::new(0)), GFP_KERNEL)?;
        }
        let bitmap = || -> Result<KVec<UnsafeCell<ffi::c_ulong>>> {
            let mut words = KVec::with_capacity(BITMAP_WORDS, GFP_KERNEL)?;
            for _ in 0..BITMAP_WORDS {
                words.push(UnsafeCell::new(0), GFP_KERNEL)?;
            }
            Ok(words)
        };
        let (mut parked, mut left) = (bitmap()?, bitmap()?);
        let header = KBox::new(
            Header {
                c: Opaque::new(fb::migrate_copy_batch {
                    entries: entries.as_mut_ptr().cast(),
                    state: states.as_mut_ptr().cast(),
                    parked: parked.as_mut_ptr().cast(),
                    left: left.as_mut_ptr().cast(),
                    max: MAX_ENTRIES as u32,
                    ..Default::default()
                }),
                owner: UnsafeCell::new(ptr::null()),
            },
            GFP_KERNEL,
        )?;
        Ok(Self {
            header,
            entries,
            states,
            ranges,
            chunks,
            pending,
            by_engine: ByEngine::default(),
            planned: Planned::default(),
            counter: ChunkCounter::new(Atomic::new(0)),
            early: false,
            _bitmaps: [parked, left],
        })
    }

    /// Where the batch is, as its name in traces and for parked folios.
    pub(crate) fn id(&self) -> usize {
        self.header.c.get() as usize
    }

    /// Makes the shim ask for every entry. For fault injection.
    pub(crate) fn ask_always(&mut self, yes: bool) {
        // SAFETY: We are the only one who has the object.
        unsafe { (*self.header.c.get()).ask_always = yes };
    }

    /// Returns how many folios the shim has put in.
    pub(crate) fn filled(&self) -> Filled {
        let c = self.header.c.get();
        // SAFETY: These fields are valid for reading, and nobody writes to them while the object is
        // shared. There is no reference to the whole: C writes `cursor` of it meanwhile.
        unsafe {
            Filled {
                folios: ptr::addr_of!((*c).nr).read(),
                anon: ptr::addr_of!((*c).nr_anon).read(),
                shmem: ptr::addr_of!((*c).nr_shmem).read(),
            }
        }
    }

    /// Returns the call of `migrate_pages()` that the batch is of.
    pub(crate) fn call(&self) -> Call {
        let c = self.header.c.get();
        // SAFETY: As in `filled()`.
        unsafe {
            Call {
                mode: ptr::addr_of!((*c).mode).read(),
                reason: ptr::addr_of!((*c).reason).read(),
            }
        }
    }

    /// The entry that the mover comes to next.
    fn cursor(&self) -> u32 {
        // SAFETY: The field is valid for reading and written with WRITE_ONCE().
        unsafe { ptr::addr_of!((*self.header.c.get()).cursor).read_volatile() }
    }

    fn entry(&self, i: u32) -> Option<&fb::migrate_copy_entry> {
        if i >= self.filled().folios {
            return None;
        }
        let entry = self.entries.get(i as usize)?;
        // SAFETY: By the type invariant the entry has been filled, and while the object is shared
        // nobody writes to it.
        Some(unsafe { &*entry.get() })
    }

    fn state(&self, i: u32) -> Option<&Atomic<u32>> {
        self.states.get(i as usize)
    }

    /// Returns the nodes of source and destination of the first folio.
    pub(crate) fn route(&self) -> Route {
        self.entry(0).map_or(Route::UNKNOWN, |e| {
            FolioPair {
                dst: e.dst,
                src: e.src,
            }
            .route()
        })
    }

    fn reset_chunks(&mut self, planned: Planned) {
        self.planned = planned;
        for chunk in self.chunks.iter().take(planned.chunks as usize) {
            chunk.reset();
        }
        self.counter.reset();
        self.by_engine = ByEngine::default();
    }

    /// Cuts the folios that the shim has put in into chunks.
    pub(crate) fn plan_early(&mut self, chunk_bytes: u64) -> Planned {
        let nr = self.filled().folios as usize;
        // SAFETY: `&mut self`: nobody writes to the entries now.
        let sizes = (self.entries.iter().take(nr)).map(|e| unsafe { (*e.get()).bytes as u64 });
        let planned = plan::plan(sizes, chunk_bytes, &mut self.ranges);
        self.early = true;
        self.reset_chunks(planned);
        planned
    }

    /// Makes this a batch of one folio, of which `[offset, offset + len)` is copied.
    pub(crate) fn plan_in_place(
        &mut self,
        folio: &FolioPair,
        offset: u64,
        len: u64,
        chunk_bytes: u64,
    ) -> Planned {
        let bytes = folio.bytes();
        let len = len.min(bytes.saturating_sub(offset));
        let planned = plan::plan_window(offset, len, chunk_bytes, &mut self.ranges);
        if let (Some(entry), Some(state)) = (self.entries.first(), self.states.first()) {
            state.store(EntryState::Pending as u32, Relaxed);
            // SAFETY: `&mut self`: we are the only one who has the object.
            unsafe {
                *entry.get() = fb::migrate_copy_entry {
                    src: folio.src,
                    dst: folio.dst,
                    bytes: bytes as usize,
                };
                let c = &mut *self.header.c.get();
                c.nr = 1;
                c.cursor = 0;
            }
        }
        self.early = false;
        self.reset_chunks(planned);
        planned
    }

    /// Are its folios copied before their references are checked for the last time?
    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    /// How many chunks nobody ever claimed, after [`Self::close()`].
    pub(crate) fn revoked(&self) -> u32 {
        let revoked = |c: &&Chunk<_>| c.state() == ChunkState::Revoked;
        u32::try_from(self.chunks().iter().filter(revoked).count()).unwrap_or(u32::MAX)
    }

    /// Is entry `i` copied in several chunks?
    pub(crate) fn is_cut(&self, i: u32) -> bool {
        plan::span(self.ranges(), i).is_some_and(|(_, count)| count > 1)
    }

    /// How it has been cut.
    pub(crate) fn planned(&self) -> Planned {
        self.planned
    }

    fn chunks(&self) -> &[Chunk<Atomic<u32>>] {
        self.chunks
            .get(..self.planned.chunks as usize)
            .unwrap_or(&[])
    }

    fn ranges(&self) -> &[ChunkRange] {
        self.ranges
            .get(..self.planned.chunks as usize)
            .unwrap_or(&[])
    }

    /// The chunk that the mover is at.
    pub(crate) fn mover_chunk(&self) -> u32 {
        match plan::span(self.ranges(), self.cursor()) {
            Some((first, _)) if self.early => first,
            _ => 0,
        }
    }

    /// The next chunk in move order below `limit`, which nobody else gets.
    pub(crate) fn take(&self, limit: u32) -> Option<u32> {
        self.counter.take(limit.min(self.planned.chunks))
    }

    /// Returns how many chunks have not been handed out.
    pub(crate) fn left(&self) -> u32 {
        self.planned.chunks.saturating_sub(self.counter.taken())
    }

    /// Claims a chunk.
    ///
    /// A worker has turned preemption off before, and leaves it off until the claim is dropped.
    pub(crate) fn claim(&self, chunk: u32, lane: Lane) -> Option<Claim<'_>> {
        if !self.chunks().get(chunk as usize)?.try_claim(lane) {
            return None;
        }
        Some(Claim::new(self, chunk, lane))
    }

    /// Has this chunk been claimed, and not been completed?
    pub(crate) fn in_flight(&self, chunk: u32) -> Option<Lane> {
        match self.chunks().get(chunk as usize)?.state() {
            ChunkState::Claimed(lane) => Some(lane),
            _ => None,
        }
    }

    /// Has nobody claimed this chunk yet, and can somebody?
    pub(crate) fn is_free(&self, chunk: u32) -> bool {
        matches!(
            self.chunks().get(chunk as usize).map(Chunk::state),
            Some(ChunkState::Free)
        )
    }

    /// The first chunk of an entry.
    pub(crate) fn first_chunk(&self, i: u32) -> Option<u32> {
        plan::span(self.ranges(), i).map(|(first, _)| first)
    }

    /// One step towards settling entry `i`; to be repeated until it is final.
    pub(crate) fn settle(&self, i: u32, help: bool) -> Step<'_> {
        let not = Step::Final(Settled::new(SettleOutcome::NotStarted));
        // Not covered by any chunk: nobody can have touched it.
        let Some((first, count)) = plan::span(self.ranges(), i) else {
            return not;
        };
        let Some(entry) = self.entry(i) else {
            return not;
        };
        let span = first as usize..(first as usize).saturating_add(count as usize);
        let Some(chunks) = self.chunks().get(span) else {
            return not;
        };
        let shared =
            (self.ranges().get(first as usize)).is_some_and(|p| p.len >= entry.bytes as u64);
        let settle = match chunks {
            [chunk] if shared => match self.state(i) {
                Some(state) => claim::settle_shared(chunk, state),
                None => return not,
            },
            _ => claim::settle_span(chunks, help),
        };
        match settle {
            Settle::NotStarted => not,
            Settle::AllCopied => Step::Final(Settled::new(SettleOutcome::Copied)),
            Settle::Partial => Step::Final(Settled::new(SettleOutcome::Partial)),
            Settle::Wait(c) => Step::Wait(first.saturating_add(c)),
            Settle::Mine(c) => Step::Mine(Claim::new(self, first.saturating_add(c), Lane::MOVER)),
        }
    }

    /// Must the mover still wait for entry `i`, which this chunk is part of?
    pub(crate) fn waiting(&self, i: u32, chunk: u32) -> bool {
        self.in_flight(chunk).is_some()
            && self
                .state(i)
                .is_none_or(|s| claim::entry_state(s) == EntryState::Pending)
    }

    /// Gives up waiting for entry `i`: its destination is kept from being reused (I7), and its source
    /// from being freed, until the last one who has this object lets it go; and the folio fails.
    pub(crate) fn park(&self, i: u32) -> Settled {
        if i < self.filled().folios {
            // SAFETY: The entry has been filled. The mover holds the locks of its folios, and has them
            // on no list while it settles or copies them, which is when this is called.
            if unsafe { fb::migrate_copy_park(self.header.c.get(), i) } {
                PARKED.add(1u32, Relaxed);
            }
        }
        Settled {
            code: EBUSY.to_errno(),
            how: SettleOutcome::NotQuiet,
        }
    }

    /// Frees what was parked: nobody else has the object, so nobody touches that any more.
    pub(crate) fn unpark(&mut self) {
        // SAFETY: We are the only one who has the object.
        let nr = unsafe { fb::migrate_copy_unpark(self.header.c.get()) };
        if nr != 0 {
            PARKED.fetch_sub(nr, Relaxed);
        }
    }

    /// Spoils the destination of an entry that is settled. For fault injection.
    pub(crate) fn scribble(&self, i: u32, settled: &Settled) {
        if settled.how == SettleOutcome::NotQuiet {
            return;
        }
        if let Some(entry) = self.entry(i) {
            // SAFETY: The entry is settled and its turn to move has come, so the mover, which calls
            // this, has both folios to itself.
            unsafe { fb::ferry_scribble(entry.dst) };
        }
    }

    /// Calls `f` with each folio of a claimed chunk that may be copied at this moment (I1), and marks
    /// the others as skipped.
    ///
    /// # Safety
    ///
    /// The caller has claimed the chunk, and the claim lasts until this returns.
    unsafe fn for_each_copyable(&self, chunk: u32, mut f: impl FnMut(Copyable<'_>)) -> Walked {
        let mut walked = Walked::default();
        let Some(range) = self.ranges().get(chunk as usize) else {
            return walked;
        };
        walked.complete = true;
        for index in range.first..range.first.saturating_add(range.count) {
            let (Some(entry), Some(state)) = (self.entry(index), self.state(index)) else {
                walked.complete = false;
                break;
            };
            let bytes = entry.bytes as u64;
            if bytes == 0 {
                continue;
            }
            // One of several chunks of a folio, or all of it.
            let whole = range.len >= bytes;
            // SAFETY: The chunk is claimed, so the entry is not settled and its folios are lent.
            if self.early && !unsafe { fb::ferry_may_claim(entry) } {
                walked.referenced += 1;
                walked.complete = false;
                if whole {
                    claim::entry_mark(state, EntryState::Skipped);
                }
                continue;
            }
            let (offset, len) = if whole {
                (0, bytes)
            } else {
                (range.offset, range.len)
            };
            f(Copyable {
                index,
                entry,
                state,
                whole,
                offset,
                len,
            });
        }
        walked
    }

    /// Revokes what is free; returns a chunk that is still in flight.
    pub(crate) fn close(&self) -> Option<u32> {
        claim::close(self.chunks())
    }
}

/// A folio of a claimed chunk, or the part of it that the chunk has.
struct Copyable<'a> {
    index: u32,
    entry: &'a fb::migrate_copy_entry,
    state: &'a Atomic<u32>,
    /// The chunk has all of the folio.
    whole: bool,
    offset: u64,
    len: u64,
}

/// What [`MigrateCopyBatch::for_each_copyable()`] has met.
#[derive(Copy, Clone, Default)]
struct Walked {
    /// Every folio of the chunk may be copied.
    complete: bool,
    /// Folios that may not, because of a reference that is not expected (I1).
    referenced: u32,
}

/// What engines did for a batch. Added to before a chunk is completed with release, read by the mover
/// after it has seen that with acquire.
pub(crate) struct ByEngine {
    /// Bytes copied.
    pub(crate) bytes: Atomic<u64>,
    /// Whole folios, of chunks that are shared by several, among them.
    pub(crate) folios: Atomic<u32>,
    /// Chunks copied.
    pub(crate) chunks: Atomic<u32>,
    /// Chunks failed, or with folios that were skipped.
    pub(crate) failed: Atomic<u32>,
    /// When the last descriptor ended, by the clock of the CPU that was told.
    pub(crate) ended: Atomic<u64>,
}

impl Default for ByEngine {
    fn default() -> Self {
        Self {
            bytes: Atomic::new(0),
            folios: Atomic::new(0),
            chunks: Atomic::new(0),
            failed: Atomic::new(0),
            ended: Atomic::new(0),
        }
    }
}

/// What engines do with chunks.
///
/// A chunk that an engine has is referenced by the [`EngineClaims`] of the maker of its descriptors, and
/// by each descriptor that has a segment of it, from [`EngineClaims::reference()`] on. It is complete when
/// all of these have let it go.
impl MigrateCopyBatch {
    /// What engines have done so far.
    pub(crate) fn by_engine(&self) -> &ByEngine {
        &self.by_engine
    }

    /// How many entries a chunk is made of, eligible or not: it takes no more descriptors.
    pub(crate) fn entries_of(&self, chunk: u32) -> u32 {
        self.ranges().get(chunk as usize).map_or(0, |p| p.count)
    }

    /// Records that the engine does not access the memory of its descriptor for this extent any more.
    /// If `ok`, all bytes were copied and are visible to the caller; otherwise the destination is
    /// undefined.
    ///
    /// # Safety
    ///
    /// [`EngineClaims::reference()`] was called with this extent for this descriptor, and the engine does not
    /// access its memory any more, nor will it.
    pub(crate) unsafe fn release_extent(&self, extent: &Extent, lane: Lane, ok: bool) {
        self.by_engine.ended.store(sched::clock(), Relaxed);
        if ok {
            self.by_engine.bytes.add(extent.len, Relaxed);
        }
        for chunk in extent.chunks.0..=extent.chunks.1 {
            if ok {
                self.mark_copied(extent, chunk);
            }
            self.release_chunk(chunk, lane, ok);
        }
    }

    /// Marks folios of this extent and chunk that have no other chunk: the mover can take them.
    fn mark_copied(&self, extent: &Extent, chunk: u32) {
        let Some(range) = self.ranges().get(chunk as usize) else {
            return;
        };
        let last = range.first.saturating_add(range.count).saturating_sub(1);
        for i in range.first.max(extent.entries.0)..=last.min(extent.entries.1) {
            let (Some(entry), Some(state)) = (self.entry(i), self.state(i)) else {
                return;
            };
            // One that was skipped (I1) may lie between two that adjoin.
            if entry.bytes != 0
                && range.len >= entry.bytes as u64
                && claim::entry_state(state) == EntryState::Pending
            {
                self.by_engine.folios.add(1u32, Relaxed);
                claim::entry_mark(state, EntryState::Copied);
            }
        }
    }

    /// Lets go of one reference to a chunk that an engine has; the last one completes it.
    fn release_chunk(&self, chunk: u32, lane: Lane, ok: bool) {
        let (Some(c), Some(p)) = (
            self.chunks().get(chunk as usize),
            self.pending.get(chunk as usize),
        ) else {
            return;
        };
        if let Some(ok) = p.end(ok) {
            let counter = if ok {
                &self.by_engine.chunks
            } else {
                &self.by_engine.failed
            };
            counter.add(1u32, Relaxed);
            // The last touch: the batch may be gone as soon as the last chunk is complete.
            c.complete(lane, ok);
        }
    }
}

/// The chunks that the maker of an engine's descriptors has claimed. They are let go when it is dropped,
/// and complete when each descriptor that references them has ended, too.
pub(crate) struct EngineClaims<'a> {
    batch: &'a MigrateCopyBatch,
    lane: Lane,
    claimed: Range<u32>,
}

impl<'a> EngineClaims<'a> {
    /// Begins with none, for the channel with this lane; the first one claimed is to be `first`.
    pub(crate) fn new(batch: &'a MigrateCopyBatch, lane: Lane, first: u32) -> Self {
        Self {
            batch,
            lane,
            claimed: first..first,
        }
    }

    /// Claims the next chunk. Returns `None` if there is none, or another lane has claimed it.
    pub(crate) fn claim_next(&mut self) -> Option<u32> {
        let chunk = self.claimed.end;
        let (Some(c), Some(p)) = (
            self.batch.chunks().get(chunk as usize),
            self.batch.pending.get(chunk as usize),
        ) else {
            return None;
        };
        if !c.try_claim(self.lane) {
            return None;
        }
        p.begin();
        self.claimed.end = chunk.saturating_add(1);
        Some(chunk)
    }

    /// Calls `f` with the segments of a claimed chunk: those of folios that may be copied, at this
    /// moment (I1); `referenced` counts the others. Returns `false` if the chunk cannot be copied as a
    /// whole.
    pub(crate) fn segments(
        &self,
        chunk: u32,
        referenced: &mut u32,
        mut f: impl FnMut(Segment),
    ) -> bool {
        if !self.claimed.contains(&chunk) {
            return false;
        }
        let segment = |c: Copyable<'_>| {
            // SAFETY: The chunk is claimed, so the entry is not settled and its folios are lent.
            let (src, dst) = unsafe {
                (
                    fb::ferry_folio_phys(c.entry.src),
                    fb::ferry_folio_phys(c.entry.dst),
                )
            };
            f(Segment {
                chunk,
                entry: c.index,
                src: src.saturating_add(c.offset),
                dst: dst.saturating_add(c.offset),
                len: c.len,
            });
        };
        // SAFETY: It is one of those that are claimed until `self` is dropped.
        let walked = unsafe { self.batch.for_each_copyable(chunk, segment) };
        *referenced = referenced.saturating_add(walked.referenced);
        walked.complete
    }

    /// Adds a reference to the chunks of this extent, for a descriptor.
    /// [`MigrateCopyBatch::release_extent()`] lets go of it, or [`Self::unmake()`].
    pub(crate) fn reference(&self, extent: &Extent) {
        for chunk in extent.chunks.0..=extent.chunks.1 {
            if let Some(p) = self.batch.pending.get(chunk as usize) {
                p.add();
            }
        }
    }

    /// Lets go of the reference of a descriptor that was not made: its chunks have failed.
    ///
    /// # Safety
    ///
    /// [`Self::reference()`] was called with this extent, and no engine has it.
    pub(crate) unsafe fn unmake(&self, extent: &Extent) {
        for chunk in extent.chunks.0..=extent.chunks.1 {
            self.batch.release_chunk(chunk, self.lane, false);
        }
    }

    /// Lets a claimed chunk fail, whatever becomes of the descriptors that it has.
    pub(crate) fn fail(&self, chunk: u32) {
        let (true, Some(p)) = (
            self.claimed.contains(&chunk),
            self.batch.pending.get(chunk as usize),
        ) else {
            return;
        };
        p.add();
        self.batch.release_chunk(chunk, self.lane, false);
    }
}

impl Drop for EngineClaims<'_> {
    fn drop(&mut self) {
        for chunk in self.claimed.clone() {
            self.batch.release_chunk(chunk, self.lane, true);
        }
    }
}

/// The right to copy one chunk. Completes it when dropped.
pub(crate) struct Claim<'a> {
    batch: &'a MigrateCopyBatch,
    chunk: u32,
    lane: Lane,
    ok: bool,
}

/// What was copied under a claim.
#[derive(Copy, Clone, Default)]
pub(crate) struct Copied {
    /// Bytes that are in the destination.
    pub(crate) bytes: u64,
    /// Whole folios among them.
    pub(crate) folios: u32,
    /// Folios that may not be copied early, because somebody else has a reference (I1).
    pub(crate) referenced: u32,
    /// Pieces that met poison.
    pub(crate) poisoned: u32,
}

impl<'a> Claim<'a> {
    fn new(batch: &'a MigrateCopyBatch, chunk: u32, lane: Lane) -> Self {
        if lane != Lane::MOVER {
            // SAFETY: Only tells lockdep.
            unsafe { fb::ferry_lockdep_claim() };
        }
        Self {
            batch,
            chunk,
            lane,
            ok: false,
        }
    }

    /// Will the chunk be done, and not failed?
    pub(crate) fn is_ok(&self) -> bool {
        self.ok
    }

    /// Copies the chunk.
    ///
    /// Lets `delay_ns` pass where it hurts most, between the look at the references of the first
    /// folio and its first byte. For fault injection.
    pub(crate) fn copy(&mut self, routine: Routine, mut delay_ns: u64) -> Copied {
        let mut copied = Copied::default();
        let mut ok = true;
        let copy = |c: Copyable<'_>| {
            if delay_ns != 0 {
                sched::spin_ns(delay_ns);
                delay_ns = 0;
            }
            // SAFETY: The chunk is claimed, so the entry is not settled and its folios are lent; claims
            // of other chunks cover other bytes. The plan keeps `offset + len` within the folio and
            // cuts at pages. Source and destination have the same size.
            let left = unsafe { copy_mc(c.entry.dst, c.entry.src, c.offset, c.len, routine) };
            let state = if left == 0 {
                copied.bytes = copied.bytes.saturating_add(c.len);
                copied.folios += u32::from(c.whole);
                EntryState::Copied
            } else {
                // The mover's stock copy meets the poison again and reports it, once (I10).
                copied.poisoned += 1;
                ok = false;
                EntryState::Skipped
            };
            if c.whole {
                claim::entry_mark(c.state, state);
            }
        };
        // SAFETY: `self` is the claim.
        let walked = unsafe { self.batch.for_each_copyable(self.chunk, copy) };
        copied.referenced = walked.referenced;
        self.ok = ok && walked.complete;
        copied
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(chunk) = self.batch.chunks().get(self.chunk as usize) {
            chunk.complete(self.lane, self.ok);
        }
        if self.lane != Lane::MOVER {
            // SAFETY: Only tells lockdep.
            unsafe { fb::ferry_lockdep_release() };
        }
    }
}

/// Lends an object to the shim.
pub(super) fn lend<B: AsRef<MigrateCopyBatch>>(batch: Arc<B>) -> *mut fb::migrate_copy_batch {
    let header: *const Header = &raw const *(*batch).as_ref().header;
    let owner = Arc::into_raw(batch).cast();
    // SAFETY: The header lives as long as the object, to which `owner` is now a reference. Only the
    // mover, which we are, accesses `owner`.
    unsafe {
        *(*header).owner.get() = owner;
        (*header).c.get()
    }
}

/// The object that the shim holds on to.
///
/// # Safety
///
/// `batch` is from `lend::<B>()`, and has not been taken back.
pub(super) unsafe fn borrow<'a, B: AsRef<MigrateCopyBatch>>(
    batch: *mut fb::migrate_copy_batch,
) -> ArcBorrow<'a, B> {
    let header = batch.cast::<Header>();
    // SAFETY: `c` is the first field of `Header`, and `owner` is what `lend::<B>()` stored: a
    // reference that is still held.
    unsafe { ArcBorrow::from_raw((*(*header).owner.get()).cast()) }
}

/// Takes back what was lent; None if the shim does not hold it.
///
/// # Safety
///
/// `batch` is from `lend::<B>()`.
pub(super) unsafe fn take_back<B: AsRef<MigrateCopyBatch>>(
    batch: *mut fb::migrate_copy_batch,
) -> Option<Arc<B>> {
    let header = batch.cast::<Header>();
    // SAFETY: As in `borrow()`; the reference is ours from here on, and we say so in `owner`.
    unsafe {
        let owner = *(*header).owner.get();
        if owner.is_null() {
            return None;
        }
        *(*header).owner.get() = ptr::null();
        Some(Arc::from_raw(owner.cast()))
    }
}
