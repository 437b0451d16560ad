// SPDX-License-Identifier: GPL-2.0

//! A directory of sysctls.
//!
//! C: `register_sysctl_sz()` (`fs/proc/proc_sysctl.c`), through `rust-bindings/sysctl.c`.

use core::{
    ptr::NonNull,
    slice, //
};
use ferry_bindings as fb;
use kernel::{
    error::{
        from_err_ptr,
        from_result, //
    },
    ffi,
    fmt,
    prelude::*,
    str::NullTerminatedFormatter,
    sync::Arc, //
};

/// Bytes of the longest value.
pub(crate) const MAX: usize = fb::FERRY_SYSCTL_MAX as usize - 1;

/// The formatter and receiver of the values.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Formats value `id`, at most [`MAX`] bytes.
    fn show(&self, id: usize, f: &mut dyn fmt::Write) -> fmt::Result;

    /// Takes value `id`.
    ///
    /// # Errors
    ///
    /// The reason for which it was refused; nothing has changed then.
    fn store(&self, id: usize, text: &str) -> Result;
}

/// A registered directory; removed when dropped, after all calls of the handler have returned.
pub(crate) struct Directory<H: Handler> {
    sysctl: NonNull<fb::ferry_sysctl>,
    // Both are used by the C side until `drop()`.
    _names: KVec<*const ffi::c_char>,
    _handler: Arc<H>,
}

// SAFETY: `sysctl` is only used to unregister, which any thread may do; the rest is the handler,
// which is `Send` and `Sync`, and pointers to static strings.
unsafe impl<H: Handler> Send for Directory<H> {}
// SAFETY: As above; there is no method that takes `&self`.
unsafe impl<H: Handler> Sync for Directory<H> {}

/// Calls [`Handler::show()`].
///
/// # Safety
///
/// `ctx` is the `H` that was registered, and `text` a buffer of `FERRY_SYSCTL_MAX` initialised
/// bytes.
unsafe extern "C" fn show<H: Handler>(
    ctx: *mut ffi::c_void,
    id: ffi::c_uint,
    text: *mut ffi::c_char,
) -> ffi::c_int {
    // SAFETY: `Directory::new()` registered an `H` that it keeps alive until it has unregistered.
    let handler = unsafe { &*ctx.cast::<H>() };
    // SAFETY: `text` has room for `FERRY_SYSCTL_MAX` initialised bytes, ours for the call.
    let text = unsafe { slice::from_raw_parts_mut(text.cast::<u8>(), MAX + 1) };
    let Some(mut out) = NullTerminatedFormatter::new(text) else {
        return EOVERFLOW.to_errno();
    };
    match handler.show(id as usize, &mut out) {
        Ok(()) => 0,
        Err(_) => EOVERFLOW.to_errno(),
    }
}

/// Calls [`Handler::store()`].
///
/// # Safety
///
/// `ctx` is the `H` that was registered, and `text` a NUL terminated string.
unsafe extern "C" fn store<H: Handler>(
    ctx: *mut ffi::c_void,
    id: ffi::c_uint,
    text: *const ffi::c_char,
) -> ffi::c_int {
    // SAFETY: As in `show()`.
    let handler = unsafe { &*ctx.cast::<H>() };
    // SAFETY: `text` is a NUL terminated string for the time of the call.
    let text = unsafe { CStr::from_char_ptr(text) };
    from_result(|| {
        let text = text.to_str().map_err(|_| EINVAL)?;
        handler.store(id as usize, text.trim()).map(|()| 0)
    })
}

impl<H: Handler> Directory<H> {
    /// Creates the directory `path` below `/proc/sys` with files of these names and modes; the
    /// index of a file is its id.
    pub(crate) fn new(
        path: &'static CStr,
        files: &[(&'static CStr, u16)],
        handler: Arc<H>,
    ) -> Result<Self> {
        let mut names = KVec::with_capacity(files.len(), GFP_KERNEL)?;
        let mut modes: KVec<u16> = KVec::with_capacity(files.len(), GFP_KERNEL)?;
        for (name, mode) in files {
            names.push(name.as_char_ptr(), GFP_KERNEL)?;
            modes.push(*mode, GFP_KERNEL)?;
        }
        let nr = u32::try_from(files.len()).map_err(|_| EINVAL)?;
        // SAFETY: Names and path are static strings; the arrays hold `nr` elements, and the C side
        // copies what it needs of them. `show::<H>` and `store::<H>` expect an `H` that outlives
        // the registration, which `_handler` sees to.
        let sysctl = from_err_ptr(unsafe {
            fb::ferry_sysctl_register(
                path.as_char_ptr(),
                names.as_ptr(),
                modes.as_ptr(),
                nr,
                Arc::as_ptr(&handler).cast_mut().cast(),
                Some(show::<H>),
                Some(store::<H>),
            )
        })?;
        Ok(Self {
            sysctl: NonNull::new(sysctl).ok_or(ENOMEM)?,
            _names: names,
            _handler: handler,
        })
    }
}

impl<H: Handler> Drop for Directory<H> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new()`, and not unregistered before.
        unsafe { fb::ferry_sysctl_unregister(self.sysctl.as_ptr()) };
    }
}
