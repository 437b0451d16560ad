// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that sleep while they have nothing to do.
//!
//! C: `kthread_create_on_node()`, `wake_up_process()`, `kthread_stop()` (`kernel/kthread.c`).

use core::ptr::NonNull;
use ferry_bindings as fb;
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi,
    prelude::*,
    sync::Arc,
    task::MAX_SCHEDULE_TIMEOUT,
    time::msecs_to_jiffies, //
};

/// The work of a kernel thread.
pub(crate) trait ThreadFn: Send + Sync + 'static {
    /// Returns `true` if there is something to do. The thread asks before it sleeps.
    fn pending(&self) -> bool;

    /// Does the pending work and returns when none is left. Called each time the thread wakes, even
    /// if the reason for the wakeup is gone.
    fn run(&self);

    /// Returns for how many milliseconds the thread may sleep without a wakeup, or `None` if there
    /// is no limit. Asked before [`ThreadFn::pending()`]; code that makes the time shorter wakes
    /// the thread.
    fn sleep_limit_ms(&self) -> Option<u32> {
        None
    }
}

/// A thread that runs a [`ThreadFn`], sleeping while it has nothing to do. Stopped when dropped.
pub(crate) struct Kthread<B: ThreadFn> {
    task: NonNull<bindings::task_struct>,
    /// The thread uses it until it has been stopped.
    _body: Arc<B>,
}

// SAFETY: `task` is a counted reference to a task, which any thread may stop; the body is
// shared with the thread itself and is `Send` and `Sync` by `ThreadFn`.
unsafe impl<B: ThreadFn> Send for Kthread<B> {}
// SAFETY: As for `Send`; `waker()` may be called by several threads at the same time.
unsafe impl<B: ThreadFn> Sync for Kthread<B> {}

/// Calls [`ThreadFn::pending()`].
///
/// # Safety
///
/// `data` is a `B` that lives until this returns.
unsafe extern "C" fn pending<B: ThreadFn>(data: *mut ffi::c_void) -> bool {
    // SAFETY: `thread()` passes the `B` that it keeps alive.
    unsafe { &*data.cast::<B>() }.pending()
}

/// Runs the thread until it is told to stop.
///
/// # Safety
///
/// Runs as a kthread, and `data` is a `B` that lives until it has been stopped.
unsafe extern "C" fn thread<B: ThreadFn>(data: *mut ffi::c_void) -> ffi::c_int {
    // SAFETY: `Kthread::new()` passes an `Arc<B>` that is alive until the thread has been stopped:
    // `Kthread` drops it after `kthread_stop()`, which waits for us.
    let body = unsafe { &*data.cast::<B>() };
    // SAFETY: We are a kthread.
    while !unsafe { bindings::kthread_should_stop() } {
        body.run();
        let jiffies = body.sleep_limit_ms().map_or(MAX_SCHEDULE_TIMEOUT, |ms| {
            // One more, as the present one is not whole.
            let jiffies = ffi::c_long::try_from(msecs_to_jiffies(ms));
            jiffies.map_or(MAX_SCHEDULE_TIMEOUT, |j| j.saturating_add(1))
        });
        // SAFETY: `pending()` is given what it expects, for the time of the call.
        unsafe { fb::ferry_kthread_sleep(Some(pending::<B>), data, jiffies) };
    }
    0
}

/// Returns `true` if the caller, the thread of a [`Kthread`], is to stop.
pub(crate) fn should_stop() -> bool {
    // SAFETY: Only the bodies of kernel threads call it.
    unsafe { bindings::kthread_should_stop() }
}

impl<B: ThreadFn> Kthread<B> {
    /// Creates and starts a thread that prefers `cpu`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or the error of `kthread_create_on_node()`.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn new(cpu: i32, body: Arc<B>) -> Result<Self> {
        // SAFETY: `thread::<B>` expects a pointer to a `B` that lives until the thread has stopped;
        // `Self` holds a reference to it for so long.
        let task = from_err_ptr(unsafe {
            fb::ferry_kthread_create(Some(thread::<B>), Arc::as_ptr(&body).cast_mut().cast(), cpu)
        })?;
        let task = NonNull::new(task).ok_or(ENOMEM)?;
        // SAFETY: We hold a reference to the task, and it has not been woken yet.
        unsafe { bindings::wake_up_process(task.as_ptr()) };
        Ok(Self { task, _body: body })
    }

    /// Gives the thread the nice value 0 from here on, because other tasks wait for it.
    pub(crate) fn use_default_nice(&self) {
        // SAFETY: We hold a reference to the task.
        unsafe { bindings::set_user_nice(self.task.as_ptr(), 0) };
    }

    /// Returns a waker of the thread.
    pub(crate) fn waker(&self) -> Waker {
        // SAFETY: We hold a reference to the task, so another one can be taken.
        unsafe { bindings::get_task_struct(self.task.as_ptr()) };
        Waker(self.task)
    }
}

/// A counted reference with which a thread can be woken; it does not keep the thread running.
pub(crate) struct Waker(NonNull<bindings::task_struct>);

// SAFETY: It is a counted reference to a task, which any thread may wake, or let go.
unsafe impl Send for Waker {}
// SAFETY: As for `Send`, and several threads at the same time.
unsafe impl Sync for Waker {}

impl Waker {
    /// Wakes the thread; its [`ThreadFn::pending()`] sees all stores before this call.
    pub(crate) fn wake(&self) {
        // SAFETY: We hold a reference to the task; waking one that has ended does nothing.
        unsafe { bindings::wake_up_process(self.0.as_ptr()) };
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: Drops the reference from `Kthread::waker()`.
        unsafe { bindings::put_task_struct(self.0.as_ptr()) };
    }
}

impl<B: ThreadFn> Drop for Kthread<B> {
    fn drop(&mut self) {
        // SAFETY: We hold a reference to the kthread, which has not been stopped before.
        unsafe { bindings::kthread_stop(self.task.as_ptr()) };
        // SAFETY: Drops the reference from `ferry_kthread_create()`.
        unsafe { bindings::put_task_struct(self.task.as_ptr()) };
    }
}
