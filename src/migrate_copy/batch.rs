// SPDX-License-Identifier: GPL-2.0

//! The batches of the shim, and the claims under which content is copied.
//!
//! C: `struct migrate_copy_batch`, `include/linux/migrate_copy.h`.
//!
//! # Access to folios
//!
//! The shim lends the folios of a batch from [`Provider::begin()`] to [`Provider::finish()`], and
//! each of them only until it is settled. So content is copied through a [`Claim`] alone: it exists
//! while a chunk is in the state Claimed, and [`MigrateCopyBatch::settle()`] gives a final answer,
//! which the shim wants to see as a [`Settled`], only when no chunk of the folio is Claimed or can
//! be.
//! Everything else about the protocol is in `ferry_core::claim`.
//!
//! # Ownership of a batch
//!
//! A batch object is in exactly one hand while it is filled ([`UniqueArc`]), and shared ([`Arc`])
//! from submit on, so that no reader sees entries that the shim still writes.
//!
//! Takes no locks but that of the parked folios in the shim, a leaf.
//!
//! [`Claim`]: self::claim::Claim
//! [`Provider::begin()`]: super::provider::Provider::begin
//! [`Provider::finish()`]: super::provider::Provider::finish
//! [`UniqueArc`]: kernel::sync::UniqueArc

pub(crate) mod claim;
pub(crate) mod engine_claim;
pub(crate) mod folio;

use self::folio::FolioPair;
use crate::kapi::vec::filled;
use core::{
    cell::UnsafeCell,
    ptr, //
};
use ferry_bindings as fb;
use ferry_core::{
    class::Route,
    plan,
    plan::{
        ChunkRange,
        Planned, //
    },
    Chunk,
    ChunkCounter,
    ChunkState,
    EntryState,
    Lane,
    Pending, //
};
use kernel::{
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

/// The most folios that one batch covers; the stock kernel copies those beyond.
pub(crate) const MAX_ENTRIES: usize = 1024;

/// The most chunks in one batch.
pub(crate) const MAX_CHUNKS: usize = 1024;

/// The number of parked destinations, for debugfs. It orders nothing and pairs with nothing.
static PARKED: Atomic<u32> = Atomic::new(0);

/// Returns how many destination folios are kept from being reused (I7).
pub(crate) fn parked() -> u32 {
    PARKED.load(Relaxed)
}

/// A batch object, as channels hold it.
pub(crate) trait Pooled: AsRef<MigrateCopyBatch> + Send + Sync + 'static {
    /// Drops a reference.
    ///
    /// # Context
    ///
    /// Process context.
    fn put(batch: Arc<Self>);

    /// Counts bytes that an engine has copied.
    ///
    /// # Context
    ///
    /// Any.
    fn copied(&self, bytes: u64);
}

/// Words in a bitmap with a bit for each entry.
const BITMAP_WORDS: usize = MAX_ENTRIES.div_ceil(ffi::c_ulong::BITS as usize);

/// The proof that an entry is settled, and how.
///
/// Only [`MigrateCopyBatch::settle()`] and [`MigrateCopyBatch::park()`] create it.
#[must_use]
pub(crate) struct Settled {
    /// For the shim: 1 copied, 0 not, or a negative errno.
    pub(super) code: ffi::c_int,
    /// The answer of the protocol.
    pub(crate) how: SettleOutcome,
}

/// How an entry was settled.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum SettleOutcome {
    /// No lane had begun; the mover copies it.
    NotStarted,
    /// The content is in the destination.
    Copied,
    /// A lane had begun and did not succeed; the mover copies it.
    Partial,
    /// A lane may still write; the destination is parked and the folio fails.
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

/// A call of `migrate_pages()`.
#[derive(Copy, Clone)]
pub(crate) struct Call {
    /// Its `enum migrate_mode`.
    pub(crate) mode: u32,
    /// Its `enum migrate_reason`.
    pub(crate) reason: u32,
}

/// The numbers of folios that the shim has put into a batch.
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

/// The outcome of a copy in place.
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
    /// The state of each entry. The lane that copies it writes it with release, after the bytes;
    /// the mover reads it with acquire, in C too.
    states: KVec<Atomic<u32>>,
    ranges: KVec<ChunkRange>,
    chunks: KVec<Chunk<Atomic<u32>>>,
    /// For chunks that an engine has claimed.
    pending: KVec<Pending<Atomic<u32>>>,
    /// The results of engines.
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
// SAFETY: While shared, entries are only read, states are atomic, and folios are only touched under
// a claim. `header.owner` and the fields of `header.c` but for `cursor` are the mover's; the
// bitmaps are for the shim, which has a lock for them.
unsafe impl Sync for MigrateCopyBatch {}

impl MigrateCopyBatch {
    /// Allocates a batch, for a pool.
    pub(crate) fn new() -> Result<Self> {
        let entry = || Ok(Opaque::new(fb::migrate_copy_entry::default()));
        let state = || Ok(Atomic::new(EntryState::Pending as u32));
        let mut entries = filled(MAX_ENTRIES, entry)?;
        let mut states = filled(MAX_ENTRIES, state)?;
        let ranges = filled(MAX_CHUNKS, || Ok(ChunkRange::default()))?;
        let chunks = filled(MAX_CHUNKS, || Ok(Chunk::new(Atomic::new(0))))?;
        let pending = filled(MAX_CHUNKS, || Ok(Pending::new(Atomic::new(0))))?;
        let bitmap = || filled(BITMAP_WORDS, || Ok(UnsafeCell::new(0)));
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

    /// Returns the address of the batch, as its name in traces and for parked folios.
    pub(crate) fn id(&self) -> usize {
        self.header.c.get() as usize
    }

    /// Makes the shim ask for every entry. For fault injection.
    pub(crate) fn ask_always(&mut self, yes: bool) {
        // SAFETY: `&mut self`: no other reference exists.
        unsafe { (*self.header.c.get()).ask_always = yes };
    }

    /// Returns how many folios the shim has put in.
    pub(crate) fn filled(&self) -> Filled {
        let c = self.header.c.get();
        // SAFETY: These fields are valid for reading, and they are not written while the object is
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

    /// Returns the entry that the mover comes to next.
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
        // it is not written.
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
        // SAFETY: `&mut self`: no other reference exists, so the entries are not written now.
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
            // SAFETY: `&mut self`: no other reference exists.
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

    /// Returns `true` if its folios are copied before their references are checked for the last
    /// time.
    pub(crate) fn is_early(&self) -> bool {
        self.early
    }

    /// Returns the number of chunks that no lane ever claimed, after [`Self::close()`].
    pub(crate) fn revoked(&self) -> u32 {
        let revoked = |c: &&Chunk<_>| c.state() == ChunkState::Revoked;
        u32::try_from(self.chunks().iter().filter(revoked).count()).unwrap_or(u32::MAX)
    }

    /// Returns `true` if entry `i` is copied in several chunks.
    pub(crate) fn is_cut(&self, i: u32) -> bool {
        plan::span(self.ranges(), i).is_some_and(|(_, count)| count > 1)
    }

    /// Returns how it has been cut.
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

    /// Returns the chunk that the mover is at.
    pub(crate) fn mover_chunk(&self) -> u32 {
        match plan::span(self.ranges(), self.cursor()) {
            Some((first, _)) if self.early => first,
            _ => 0,
        }
    }

    /// Returns the next chunk in move order below `limit`, which no other caller gets.
    pub(crate) fn take(&self, limit: u32) -> Option<u32> {
        self.counter.take(limit.min(self.planned.chunks))
    }

    /// Returns how many chunks have not been handed out.
    pub(crate) fn left(&self) -> u32 {
        self.planned.chunks.saturating_sub(self.counter.taken())
    }

    /// Returns the lane that has claimed this chunk, if the chunk has not been completed.
    pub(crate) fn in_flight(&self, chunk: u32) -> Option<Lane> {
        match self.chunks().get(chunk as usize)?.state() {
            ChunkState::Claimed(lane) => Some(lane),
            _ => None,
        }
    }

    /// Returns `true` if no lane has claimed this chunk, and one still can.
    pub(crate) fn is_free(&self, chunk: u32) -> bool {
        matches!(
            self.chunks().get(chunk as usize).map(Chunk::state),
            Some(ChunkState::Free)
        )
    }

    /// Returns the first chunk of an entry.
    pub(crate) fn first_chunk(&self, i: u32) -> Option<u32> {
        plan::span(self.ranges(), i).map(|(first, _)| first)
    }

    /// Gives up waiting for entry `i`: its destination is kept from being reused (I7), and its
    /// source from being freed, until the last reference to this object is dropped; and the folio
    /// fails.
    pub(crate) fn park(&self, i: u32) -> Settled {
        if i < self.filled().folios {
            // SAFETY: The entry has been filled. The mover holds the locks of its folios, and has
            // them on no list while it settles or copies them, which is when this is called.
            if unsafe { fb::migrate_copy_park(self.header.c.get(), i) } {
                PARKED.add(1u32, Relaxed);
            }
        }
        Settled {
            code: EBUSY.to_errno(),
            how: SettleOutcome::NotQuiet,
        }
    }

    /// Frees the parked folios: no other reference to the object exists, so no lane touches them
    /// any more.
    pub(crate) fn unpark(&mut self) {
        // SAFETY: `&mut self`: no other reference exists.
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

    /// Returns the results of engines so far.
    pub(crate) fn by_engine(&self) -> &ByEngine {
        &self.by_engine
    }
}

/// The results of engines for a batch. Engines add to them before a chunk is completed with
/// release; the mover reads them after it has seen that with acquire.
pub(crate) struct ByEngine {
    /// Bytes copied.
    pub(crate) bytes: Atomic<u64>,
    /// Whole folios, of chunks that are shared by several, among them.
    pub(crate) folios: Atomic<u32>,
    /// Chunks copied.
    pub(crate) chunks: Atomic<u32>,
    /// Chunks failed, or with folios that were skipped.
    pub(crate) failed: Atomic<u32>,
    /// The time at which the last descriptor ended, in nanoseconds of the clock of the CPU that was
    /// told.
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

/// Returns the object that the shim holds.
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

/// Takes back a lent object, or returns `None` if the shim does not hold it.
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
