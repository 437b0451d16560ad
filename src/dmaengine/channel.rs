// SPDX-License-Identifier: GPL-2.0

//! The client side of dmaengine: providers that can copy, and their channels.
//!
//! C: `drivers/dma/dmaengine.c`, `Documentation/driver-api/dmaengine/client.rst`.
//!
//! A [`DmaChannel`] is held exclusively, so that there is one submitter: others would come between
//! prepare and submit. Results are believed if the provider has shown that it tells of failures
//! ([`DmaChannel::self_test()`]); its answer to a terminate is taken for proof of quiet only if the
//! driver says that it is one ([`Trust`]).
//!
//! Takes no locks but those of dmaengine and the provider.

use crate::{
    engine::channel::Queue,
    kapi::bus::{
        Bus,
        DeviceId, //
    },
    names::{
        DmaDrivers,
        Name, //
    },
};
use core::ptr::NonNull;
use ferry_bindings as fb;
use kernel::{
    bindings,
    error::to_result,
    ffi,
    prelude::*,
    str::CStrExt,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::msecs_to_jiffies,
    types::Opaque, //
};

impl DmaDrivers {
    /// Looks around, now, for names that are wanted.
    pub(crate) fn find_all(wanted: fn(&str) -> bool) -> Self {
        /// The names so far, and which are wanted.
        struct Found(DmaDrivers, fn(&str) -> bool);
        /// # Safety
        ///
        /// `data` is a `Found`, and `driver` a string.
        unsafe extern "C" fn add(data: *mut ffi::c_void, driver: *const ffi::c_char) {
            // SAFETY: By the requirements of this function.
            let (found, driver) =
                unsafe { (&mut *data.cast::<Found>(), CStr::from_char_ptr(driver)) };
            let Some(name) = Name::new(driver.to_bytes()) else {
                return;
            };
            if (found.1)(name.as_str()) {
                found.0.add(name);
            }
        }
        let mut found = Found(Self::default(), wanted);
        // SAFETY: `add()` gets what it expects, for the time of the call.
        unsafe { fb::ferry_dma_providers(Some(add), (&raw mut found).cast()) };
        found.0
    }
}

/// Returns whether a device, which may be any, has free channels of a provider. May sleep.
///
/// To be asked with the lock of the device held, so that it does not go meanwhile.
pub(crate) fn offers(device: DeviceId, name: &Name) -> bool {
    // SAFETY: The device is only compared; the name is a string, for the time of the call.
    unsafe { fb::ferry_dma_offers(device.as_ptr(), name.as_c_str().as_char_ptr()) }
}

/// What is believed of a provider.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    /// It tells of failures: it has passed the self-test.
    pub(crate) reports_failures: bool,
    /// Its driver says that it proves quiet (`quiet_on_terminate` of `struct dma_device`), and it
    /// tells of failures: a terminate that succeeds is proof, and what has been aborted has ended.
    /// A name is no proof: drivers of one name differ from kernel to kernel.
    pub(crate) terminate_is_proof: bool,
}

/// What the self-test has found.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It copies, and tells of a failure.
    Good,
    /// A copy that cannot be made was said to be good.
    FalseSuccess,
    /// It takes no copy that cannot be made, so that one does not know.
    RefusesTest,
    /// There is no copy that could be tried on it, so that one does not know.
    Untestable,
    /// A plain copy failed, or its content is wrong.
    Broken,
    /// It did not answer in time.
    NoAnswer,
}

/// Drivers that can be asked for a copy of no bytes. They check lengths for the upper limit only
/// and pass it on to their engines, which refuse it without further harm, as seen with the models
/// of these: PTDMA and AE4DMA report an error of the queue, and PLX writes the descriptor back
/// without the bit that says that it is good. A driver has every right to object to being asked, or
/// to warn. The list says that asking is safe; what they answer is seen then.
const EMPTY_COPY_IS_SAFE: [&str; 3] = ["ptdma", "ae4dma", "plx_dma"];

/// A copy that a channel is tested with.
enum TestCopy {
    /// One that can be made.
    Valid,
    /// One of no bytes.
    Empty,
    /// One from where the device reads nothing.
    FromUnmapped(UnmappedRange),
}

/// Addresses that lead the device nowhere, as an IOMMU translates them: taken, so that nothing else
/// is mapped there, and with nothing behind them.
struct UnmappedRange {
    /// Outlives this, as that of the channel that is tested.
    device: NonNull<bindings::device>,
    dma: u64,
}

impl UnmappedRange {
    /// Takes as many as a copy of a self-test has bytes. None without an IOMMU that translates.
    fn new(device: NonNull<bindings::device>) -> Option<Self> {
        let mut dma = 0;
        // SAFETY: The caller holds a channel of the device.
        let taken = unsafe { fb::ferry_dma_take_hole(device.as_ptr(), TEST_BYTES, &mut dma) };
        // Made only if it was taken, as dropping it gives it back.
        taken.then(|| Self { device, dma })
    }
}

impl Drop for UnmappedRange {
    fn drop(&mut self) {
        // SAFETY: Taken by `new()` for the same length, and nothing was ever mapped there.
        unsafe { fb::ferry_dma_free_hole(self.device.as_ptr(), self.dma, TEST_BYTES) };
    }
}

/// A channel that is held exclusively.
pub(crate) struct DmaChannel {
    chan: NonNull<fb::ferry_dma_chan>,
    /// The device to map for, with a reference of ours: a channel whose driver has gone does not
    /// lead there any more.
    device: NonNull<bindings::device>,
    trust: Trust,
    /// The last one submitted.
    cookie: i32,
}

// SAFETY: A channel is tied to no thread.
unsafe impl Send for DmaChannel {}

impl DmaChannel {
    /// A free channel of a provider. May sleep.
    pub(crate) fn request(name: &Name) -> Option<Self> {
        // SAFETY: The name is a string, for the time of the call.
        let chan = unsafe { fb::ferry_dma_request(name.as_c_str().as_char_ptr()) };
        let chan = NonNull::new(chan)?;
        // SAFETY: We hold the channel. Its driver does not go meanwhile: the caller would be asked
        // before.
        let device = NonNull::new(unsafe { fb::ferry_dma_get_device(chan.as_ptr()) });
        let Some(device) = device else {
            // SAFETY: We hold the channel, which is not used any more.
            unsafe { fb::ferry_dma_release(chan.as_ptr()) };
            return None;
        };
        let mut channel = Self {
            chan,
            device,
            trust: Trust {
                reports_failures: false,
                terminate_is_proof: false,
            },
            cookie: 0,
        };
        // For the self-test: without results nothing of it is believed after that.
        channel.trust.terminate_is_proof = channel.declares_quiet();
        Some(channel)
    }

    /// Returns whether its driver says that it proves quiet.
    fn declares_quiet(&self) -> bool {
        // SAFETY: We hold the channel.
        unsafe { fb::ferry_dma_says_quiet(self.chan.as_ptr()) }
    }

    /// Its name, as in /sys/class/dma.
    pub(crate) fn name(&self) -> Name {
        // SAFETY: We hold the channel; its name lives as long.
        let name = unsafe { CStr::from_char_ptr(fb::ferry_dma_name(self.chan.as_ptr())) };
        Name::new(name.to_bytes()).unwrap_or_default()
    }

    /// Would mappings for it copy: all of them (`swiotlb=force`), or those of memory out of its
    /// reach?
    pub(crate) fn bounces(&self) -> bool {
        // SAFETY: We hold the channel.
        unsafe { fb::ferry_dma_bounces(self.device().as_ptr()) }
    }

    /// The bus that it can come and go on.
    pub(crate) fn bus(&self) -> Bus {
        // SAFETY: We hold the channel.
        let bus = unsafe { fb::ferry_dma_bus(self.chan.as_ptr()) };
        // SAFETY: The device has a driver, as the channel is held, so it is on a bus that lives as
        // long as the kernel or the module that the driver depends on.
        unsafe { Bus::new(bus) }
    }

    /// Sets what is believed of it.
    pub(crate) fn set_trust(&mut self, reports_failures: bool) {
        self.trust = Trust {
            reports_failures,
            terminate_is_proof: reports_failures && self.declares_quiet(),
        };
    }

    /// Finds out whether the provider of this name tells of failures, and copies. Sleeps.
    pub(crate) fn self_test(&mut self, driver: &Name) -> Result<Verdict> {
        // Reading, as a device is not told of a write that the IOMMU has not let through.
        let failing = match UnmappedRange::new(self.device()) {
            Some(range) => Some(self.run_test(TestCopy::FromUnmapped(range))?),
            None if EMPTY_COPY_IS_SAFE.contains(&driver.as_str()) => {
                Some(self.run_test(TestCopy::Empty)?)
            }
            None => None,
        };
        if matches!(failing, Some(TestOutcome::NoAnswer)) {
            return Ok(Verdict::NoAnswer);
        }
        // Afterwards: a channel that does not go on after a failure is of no use.
        let plain = self.run_test(TestCopy::Valid)?;
        Ok(match (plain, failing) {
            (TestOutcome::NoAnswer, _) => Verdict::NoAnswer,
            (TestOutcome::Good, Some(TestOutcome::Failed)) => Verdict::Good,
            (TestOutcome::Good, Some(TestOutcome::Good)) => Verdict::FalseSuccess,
            (TestOutcome::Good, Some(TestOutcome::Refused)) => Verdict::RefusesTest,
            (TestOutcome::Good, None) => Verdict::Untestable,
            _ => Verdict::Broken,
        })
    }

    /// Makes one copy.
    fn run_test(&mut self, test: TestCopy) -> Result<TestOutcome> {
        let completion = TestCompletion::new()?;
        let from = KVec::from_elem(0x5au8, TEST_BYTES, GFP_KERNEL)?;
        let mut to = KVec::from_elem(0xa5u8, TEST_BYTES, GFP_KERNEL)?;
        let device = self.device().as_ptr();
        let (mut src, mut dst) = (0, 0);
        // SAFETY: The device lives, and the buffers until they are unmapped, or for ever. They are
        // pages of their own, as kmalloc() aligns powers of two.
        unsafe {
            let phys = fb::ferry_virt_phys(from.as_ptr().cast());
            to_result(fb::ferry_dma_map(device, phys, TEST_BYTES, false, &mut src))?;
            let phys = fb::ferry_virt_phys(to.as_mut_ptr().cast());
            if let Err(e) = to_result(fb::ferry_dma_map(device, phys, TEST_BYTES, true, &mut dst)) {
                fb::ferry_dma_unmap(device, src, TEST_BYTES, false);
                return Err(e);
            }
        }
        let (from_dma, len) = match &test {
            TestCopy::Valid => (src, TEST_BYTES as u64),
            TestCopy::Empty => (src, 0),
            TestCopy::FromUnmapped(range) => (range.dma, TEST_BYTES as u64),
        };
        let mut silent = false;
        // SAFETY: Mapped above for at least `len` bytes, but for a hole, where nothing is read; the
        // completion lives until it has been told, or the queue is quiet, or for ever.
        let made = unsafe { self.copy(dst, from_dma, len, true, &raw const completion.end) };
        if made.is_ok() {
            self.issue();
            if !completion.wait() {
                if !(self.trust.terminate_is_proof && self.quiesce()) {
                    // It may still be at it: none of this is ever used again.
                    core::mem::forget((completion, from, to, test));
                    return Ok(TestOutcome::NoAnswer);
                }
                silent = true;
            }
            if completion.result.load(Relaxed) == RESULT_GIVEN_UP {
                // The hole stays taken as well: the engine may still read there.
                core::mem::forget(test);
                // SAFETY: Both were mapped above, and are not unmapped after this.
                if !unsafe { fb::ferry_dma_cut(device, src, dst, TEST_BYTES) } {
                    core::mem::forget((from, to));
                }
                return Ok(TestOutcome::Failed);
            }
        }
        // SAFETY: Mapped above; the engine is through with it, or is quiet, or never got it.
        unsafe {
            fb::ferry_dma_unmap(device, src, TEST_BYTES, false);
            fb::ferry_dma_unmap(device, dst, TEST_BYTES, true);
        }
        // What is to fail leaves nothing to compare.
        let right = !matches!(test, TestCopy::Valid) || *to == *from;
        Ok(match (made, completion.result.load(Relaxed)) {
            _ if silent => TestOutcome::NoAnswer,
            (Err(_), _) => TestOutcome::Refused,
            (Ok(()), RESULT_GOOD) if right => TestOutcome::Good,
            _ => TestOutcome::Failed,
        })
    }
}

/// Bytes of the copy of a self-test.
const TEST_BYTES: usize = 4096;

/// How long a self-test waits for a copy.
const TEST_TIMEOUT_MS: u32 = 2_000;

const RESULT_GOOD: u32 = 1;
const RESULT_FAILED: u32 = 2;
const RESULT_GIVEN_UP: u32 = 3;

/// What became of the copy of a self-test.
enum TestOutcome {
    Good,
    Failed,
    Refused,
    NoAnswer,
}

/// A copy of a self-test.
#[repr(C)]
struct TestCompletion {
    /// First, so that a pointer to it is one to the completion.
    end: fb::ferry_end,
    /// Stored before `done` is, read after it was waited for, which orders them.
    result: Atomic<u32>,
    /// Who waits for it frees the completion: that is why it is not a wait queue, which its waker still
    /// uses when the waiter has seen all it wants to see.
    done: Opaque<bindings::completion>,
}

impl TestCompletion {
    fn new() -> Result<Pin<KBox<Self>>> {
        let completion = KBox::pin(
            Self {
                end: fb::ferry_end {
                    fn_: Some(test_ended),
                    given_up: Some(test_given_up),
                },
                result: Atomic::new(0),
                done: Opaque::new(Default::default()),
            },
            GFP_KERNEL,
        )?;
        // SAFETY: Pinned, and not used by anybody yet.
        unsafe { bindings::init_completion(completion.done.get()) };
        Ok(completion)
    }

    /// Says what has become of the copy, once. Nothing of the completion is used after this.
    fn complete(&self, result: u32) {
        self.result.store(result, Relaxed);
        // SAFETY: Initialised by `new()`.
        unsafe { bindings::complete(self.done.get()) };
    }

    /// Returns whether something was told in time. If so, `complete()` uses the completion no more:
    /// `complete()` keeps the completion's lock until it is through with it, and this takes it.
    fn wait(&self) -> bool {
        let limit = msecs_to_jiffies(TEST_TIMEOUT_MS);
        // SAFETY: Initialised by `new()`; callers can sleep.
        unsafe { bindings::wait_for_completion_timeout(self.done.get(), limit) != 0 }
    }
}

/// The copy of a self-test has ended.
///
/// # Safety
///
/// `end` is the first field of a `TestCompletion` that lives until it has been told, or the queue is quiet.
unsafe extern "C" fn test_ended(end: *const fb::ferry_end, ok: bool) {
    // SAFETY: By the requirement of this function.
    let completion = unsafe { &*end.cast::<TestCompletion>() };
    completion.complete(if ok { RESULT_GOOD } else { RESULT_FAILED });
}

/// Takes note that the driver has given up the copy of a self-test.
///
/// # Safety
///
/// As for [`test_ended()`].
unsafe extern "C" fn test_given_up(end: *const fb::ferry_end) {
    // SAFETY: By the requirement of this function.
    let completion = unsafe { &*end.cast::<TestCompletion>() };
    completion.complete(RESULT_GIVEN_UP);
}

// SAFETY: dmaengine calls back once for each descriptor, when the engine is through with it, or the
// provider has given it up; the latter is told as an end only of providers that have waited for the
// engine, or reset it, which their drivers say. That a terminate is proof is said only of the same
// ones. After a channel was released there are no callbacks, by the contract of dmaengine. What
// failed is not said to be good by providers that have passed the self-test; who selects another
// one has been told what that means.
unsafe impl Queue for DmaChannel {
    fn device(&self) -> NonNull<bindings::device> {
        self.device
    }

    fn align(&self) -> u64 {
        // SAFETY: We hold the channel.
        unsafe { fb::ferry_dma_align(self.chan.as_ptr()).into() }
    }

    unsafe fn copy(
        &mut self,
        dst: u64,
        src: u64,
        len: u64,
        interrupt: bool,
        end: *const fb::ferry_end,
    ) -> Result {
        let len = usize::try_from(len).map_err(|_| EINVAL)?;
        // Other providers have been seen to forget the interrupt of one descriptor for the sake of
        // the next one.
        let interrupt = interrupt || !self.trust.terminate_is_proof;
        // SAFETY: By the requirements of this function; we are the only one who submits.
        to_result(unsafe {
            fb::ferry_dma_copy(
                self.chan.as_ptr(),
                dst,
                src,
                len,
                interrupt,
                self.trust.terminate_is_proof,
                end,
                &mut self.cookie,
            )
        })
    }

    fn issue(&mut self) {
        // SAFETY: We hold the channel.
        unsafe { fb::ferry_dma_issue(self.chan.as_ptr()) };
    }

    fn poll(&mut self) {
        // With others, polling may complete the wrong descriptor.
        if self.trust.reports_failures {
            // SAFETY: We hold the channel.
            unsafe { fb::ferry_dma_poll(self.chan.as_ptr(), self.cookie) };
        }
    }

    fn quiesce(&mut self) -> bool {
        if !self.trust.terminate_is_proof {
            return false;
        }
        // SAFETY: We hold the channel, and are allowed to sleep.
        unsafe { fb::ferry_dma_quiesce(self.chan.as_ptr()) == 0 }
    }

    fn can_prove(&self) -> bool {
        self.trust.terminate_is_proof
    }

    fn is_bound(&self) -> bool {
        // SAFETY: We have a reference to the device.
        unsafe { fb::ferry_device_is_bound(self.device().as_ptr()) }
    }

    fn belongs_to(&self, device: DeviceId) -> bool {
        // SAFETY: We hold the channel; the other pointer is only compared.
        unsafe { fb::ferry_dma_is_of(self.chan.as_ptr(), device.as_ptr()) }
    }
}

impl Drop for DmaChannel {
    fn drop(&mut self) {
        // SAFETY: We hold the channel, which is not used any more.
        unsafe { fb::ferry_dma_release(self.chan.as_ptr()) };
        // SAFETY: The reference is that of `request()`, and is not used any more.
        unsafe { fb::ferry_dma_put_device(self.device.as_ptr()) };
    }
}
