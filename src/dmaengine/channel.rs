// SPDX-License-Identifier: GPL-2.0

//! The client side of dmaengine: drivers that can copy, and their channels.
//!
//! C: `drivers/dma/dmaengine.c`, `Documentation/driver-api/dmaengine/client.rst`.
//!
//! A [`DmaChannel`] is held exclusively, so that there is one submitter between prepare and submit.
//! Results are believed if the driver has shown that it reports failures
//! ([`DmaChannel::self_test()`]). A terminate that succeeds is taken for proof of quiet only if the
//! driver declares that it is one ([`Trust`]).
//!
//! Takes no locks but those of dmaengine and of the driver.

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
    /// Finds the names of all drivers with channels that can copy, for which `wanted` returns
    /// `true`.
    pub(crate) fn find_all(wanted: fn(&str) -> bool) -> Self {
        /// The names so far, and the filter.
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
        // SAFETY: `add()` gets a `Found` that lives for the time of the call.
        unsafe { fb::ferry_dma_providers(Some(add), (&raw mut found).cast()) };
        found.0
    }
}

/// Returns `true` if a device, which may be of any kind, has free channels of the driver `name`.
///
/// # Context
///
/// May sleep. The lock of the device is held, so that it does not go meanwhile.
pub(crate) fn offers(device: DeviceId, name: &Name) -> bool {
    // SAFETY: The device is only compared; the name is a string, for the time of the call.
    unsafe { fb::ferry_dma_offers(device.as_ptr(), name.as_c_str().as_char_ptr()) }
}

/// The knowledge about a driver on which the use of its answers depends.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The driver reports failures: it has passed the self-test.
    pub(crate) reports_failures: bool,
    /// The driver declares that it proves quiet (`quiet_on_terminate` of `struct dma_device`), and
    /// reports failures: a terminate that succeeds is proof, and an aborted descriptor has ended. A
    /// driver's name is no proof, as drivers of one name differ from kernel to kernel.
    pub(crate) terminate_is_proof: bool,
}

/// The finding of the self-test.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The driver copies, and reports a failure.
    Good,
    /// The driver reported success for a copy that must fail.
    FalseSuccess,
    /// The driver refuses a copy that must fail, so it is not known whether it reports failures.
    RefusesTest,
    /// No copy that must fail can be tried, so it is not known whether the driver reports failures.
    Untestable,
    /// A valid copy failed, or its content is wrong.
    Broken,
    /// The driver did not report an end in time.
    NoAnswer,
}

/// Drivers that can be asked for a copy of 0 bytes without harm. They check only the upper limit of
/// lengths, and pass the copy on to their engines, which refuse it without further harm, as seen
/// with the models of these: PTDMA and AE4DMA report an error of the queue, and PLX writes the
/// descriptor back without the bit for success. Any other driver may rightly refuse such a copy, or
/// warn. The list states only that asking is safe; whether the driver is believed depends on its
/// answer.
const EMPTY_COPY_IS_SAFE: [&str; 3] = ["ptdma", "ae4dma", "plx_dma"];

/// A copy with which a channel is tested.
enum TestCopy {
    /// A copy that the device can make.
    Valid,
    /// A copy of 0 bytes.
    Empty,
    /// A copy from addresses that have nothing mapped, so that it must fail.
    FromUnmapped(UnmappedRange),
}

/// A range of the device's addresses, translated by an IOMMU, that has nothing mapped: it is taken,
/// so that no other mapping gets it. Given back when dropped.
struct UnmappedRange {
    /// The device of the channel that is tested, which outlives this.
    device: NonNull<bindings::device>,
    dma: u64,
}

impl UnmappedRange {
    /// Takes [`TEST_BYTES`] addresses. Returns `None` without an IOMMU that translates, or if there
    /// are no addresses left.
    fn new(device: NonNull<bindings::device>) -> Option<Self> {
        let mut dma = 0;
        // SAFETY: The caller holds a channel of the device.
        let taken = unsafe { fb::ferry_dma_take_hole(device.as_ptr(), TEST_BYTES, &mut dma) };
        // Created only if the range was taken, because dropping it gives the range back.
        taken.then(|| Self { device, dma })
    }
}

impl Drop for UnmappedRange {
    fn drop(&mut self) {
        // SAFETY: Taken by `new()` for the same length, and nothing was ever mapped there.
        unsafe { fb::ferry_dma_free_hole(self.device.as_ptr(), self.dma, TEST_BYTES) };
    }
}

/// A channel of dmaengine that is held exclusively.
pub(crate) struct DmaChannel {
    chan: NonNull<fb::ferry_dma_chan>,
    /// The device for which memory is mapped, with a reference of its own: a channel whose driver
    /// has gone does not point to its device any more.
    device: NonNull<bindings::device>,
    trust: Trust,
    /// The cookie of the last descriptor that was submitted.
    cookie: i32,
}

// SAFETY: A channel is tied to no thread.
unsafe impl Send for DmaChannel {}

impl DmaChannel {
    /// Requests a free channel of a driver. Returns `None` if there is none.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(crate) fn request(name: &Name) -> Option<Self> {
        // SAFETY: The name is a string, for the time of the call.
        let chan = unsafe { fb::ferry_dma_request(name.as_c_str().as_char_ptr()) };
        let chan = NonNull::new(chan)?;
        // SAFETY: We hold the channel. Its driver does not go meanwhile: the caller is notified
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
        // For the self-test only. `set_trust()` withdraws it if the test fails.
        channel.trust.terminate_is_proof = channel.declares_quiet();
        Some(channel)
    }

    /// Returns `true` if the driver declares that a terminate proves quiet.
    fn declares_quiet(&self) -> bool {
        // SAFETY: We hold the channel.
        unsafe { fb::ferry_dma_says_quiet(self.chan.as_ptr()) }
    }

    /// Returns the name of the channel in /sys/class/dma.
    pub(crate) fn name(&self) -> Name {
        // SAFETY: We hold the channel; its name lives as long.
        let name = unsafe { CStr::from_char_ptr(fb::ferry_dma_name(self.chan.as_ptr())) };
        Name::new(name.to_bytes()).unwrap_or_default()
    }

    /// Returns `true` if mappings for the device would copy: all of them (`swiotlb=force`), or
    /// those of memory that the device does not reach.
    pub(crate) fn bounces(&self) -> bool {
        // SAFETY: We hold the channel.
        unsafe { fb::ferry_dma_bounces(self.device().as_ptr()) }
    }

    /// Returns the bus of the device.
    pub(crate) fn bus(&self) -> Bus {
        // SAFETY: We hold the channel.
        let bus = unsafe { fb::ferry_dma_bus(self.chan.as_ptr()) };
        // SAFETY: The device has a driver, as the channel is held, so it is on a bus that lives as
        // long as the kernel or the module that the driver depends on.
        unsafe { Bus::new(bus) }
    }

    /// Sets the trust in the driver: whether it reports failures, without which its declaration
    /// about a terminate does not count either.
    pub(crate) fn set_trust(&mut self, reports_failures: bool) {
        self.trust = Trust {
            reports_failures,
            terminate_is_proof: reports_failures && self.declares_quiet(),
        };
    }

    /// Tests whether the channel, whose driver has this name, reports failures and copies.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or the error of a mapping.
    ///
    /// # Context
    ///
    /// Sleeps, for [`TEST_TIMEOUT_MS`] and a terminate at most for each of two copies.
    pub(crate) fn self_test(&mut self, driver: &Name) -> Result<Verdict> {
        // The copy reads there, because a device does not learn that the IOMMU has blocked a write.
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
        // The valid copy comes second: a channel that stops after a failure cannot be used.
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

    /// Makes one copy of the self-test.
    fn run_test(&mut self, test: TestCopy) -> Result<TestOutcome> {
        let completion = TestCompletion::new()?;
        let from = KVec::from_elem(0x5au8, TEST_BYTES, GFP_KERNEL)?;
        let mut to = KVec::from_elem(0xa5u8, TEST_BYTES, GFP_KERNEL)?;
        let device = self.device().as_ptr();
        let (mut src, mut dst) = (0, 0);
        // SAFETY: The device is alive, and so are the buffers until they are unmapped, or for ever.
        // They are pages of their own, as kmalloc() aligns powers of two.
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
        // SAFETY: Mapped above for at least `len` bytes, but for an unmapped range, where nothing
        // is read; the completion lives until the end was reported, or the queue is quiet, or for
        // ever.
        let made = unsafe { self.copy(dst, from_dma, len, true, &raw const completion.end) };
        if made.is_ok() {
            self.issue();
            if !completion.wait() {
                if !(self.trust.terminate_is_proof && self.quiesce()) {
                    // The engine may still access all of this: it is never used again.
                    core::mem::forget((completion, from, to, test));
                    return Ok(TestOutcome::NoAnswer);
                }
                silent = true;
            }
            if completion.result.load(Relaxed) == RESULT_GIVEN_UP {
                // The range stays taken as well: the engine may still read there.
                core::mem::forget(test);
                // SAFETY: Both were mapped above, and are not unmapped after this.
                if !unsafe { fb::ferry_dma_cut(device, src, dst, TEST_BYTES) } {
                    core::mem::forget((from, to));
                }
                return Ok(TestOutcome::Failed);
            }
        }
        // SAFETY: Mapped above; the engine has ended the copy, or is quiet, or never got it.
        unsafe {
            fb::ferry_dma_unmap(device, src, TEST_BYTES, false);
            fb::ferry_dma_unmap(device, dst, TEST_BYTES, true);
        }
        // A copy that must fail leaves no content to compare.
        let right = !matches!(test, TestCopy::Valid) || *to == *from;
        Ok(match (made, completion.result.load(Relaxed)) {
            _ if silent => TestOutcome::NoAnswer,
            (Err(_), _) => TestOutcome::Refused,
            (Ok(()), RESULT_GOOD) if right => TestOutcome::Good,
            _ => TestOutcome::Failed,
        })
    }
}

/// The length of a copy of the self-test, in bytes: a page.
const TEST_BYTES: usize = 4096;

/// The time, in ms, for which a self-test waits for a copy of [`TEST_BYTES`].
const TEST_TIMEOUT_MS: u32 = 2_000;

const RESULT_GOOD: u32 = 1;
const RESULT_FAILED: u32 = 2;
const RESULT_GIVEN_UP: u32 = 3;

/// The outcome of a copy of the self-test.
enum TestOutcome {
    Good,
    Failed,
    Refused,
    NoAnswer,
}

/// The end of a copy of the self-test, for which the tester waits.
#[repr(C)]
struct TestCompletion {
    /// The first field, so that a pointer to it is a pointer to this object.
    end: fb::ferry_end,
    /// A `RESULT_...`, or 0. Stored before `done` is completed and read after the wait for it,
    /// which orders them.
    result: Atomic<u32>,
    /// Completed when `result` was stored. The waiter frees this object, so it is no wait queue,
    /// which the waker may still access when the waiter has seen the result.
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
        // SAFETY: Pinned, and not used by any other code yet.
        unsafe { bindings::init_completion(completion.done.get()) };
        Ok(completion)
    }

    /// Reports the end of the copy, once. Does not access the object after that.
    fn complete(&self, result: u32) {
        self.result.store(result, Relaxed);
        // SAFETY: Initialised by `new()`.
        unsafe { bindings::complete(self.done.get()) };
    }

    /// Waits for the end. Returns `true` if it was reported in time; then [`Self::complete()`] does
    /// not access the object any more: the kernel's `complete()` holds the lock of `done` until its
    /// last access, and this function takes that lock.
    ///
    /// # Context
    ///
    /// Sleeps, for [`TEST_TIMEOUT_MS`] at most.
    fn wait(&self) -> bool {
        let limit = msecs_to_jiffies(TEST_TIMEOUT_MS);
        // SAFETY: Initialised by `new()`; callers can sleep.
        unsafe { bindings::wait_for_completion_timeout(self.done.get(), limit) != 0 }
    }
}

/// Reports that the copy of a self-test has ended.
///
/// # Safety
///
/// `end` is the first field of a `TestCompletion` that lives until its end was reported, or the
/// queue is quiet.
unsafe extern "C" fn test_ended(end: *const fb::ferry_end, ok: bool) {
    // SAFETY: By the requirement of this function.
    let completion = unsafe { &*end.cast::<TestCompletion>() };
    completion.complete(if ok { RESULT_GOOD } else { RESULT_FAILED });
}

/// Reports that the driver has given up the copy of a self-test.
///
/// # Safety
///
/// As for [`test_ended()`].
unsafe extern "C" fn test_given_up(end: *const fb::ferry_end) {
    // SAFETY: By the requirement of this function.
    let completion = unsafe { &*end.cast::<TestCompletion>() };
    completion.complete(RESULT_GIVEN_UP);
}

// SAFETY: dmaengine calls back once for each descriptor, when the engine has ended it, or the
// driver has given it up; the latter is reported as an end only for drivers that have waited for
// the engine, or reset it, as they declare. Only for the same drivers a terminate is taken for
// proof. After a channel was released there are no callbacks, by the contract of dmaengine. Drivers
// that have passed the self-test do not report a failed copy as good; an administrator who permits
// another driver is warned in the log.
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
        // Drivers without proof have been seen to drop the interrupt of one descriptor when the
        // next one came.
        let interrupt = interrupt || !self.trust.terminate_is_proof;
        // SAFETY: By the requirements of this function; there is no other submitter.
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
        // With drivers that do not report failures, polling may complete the wrong descriptor.
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
