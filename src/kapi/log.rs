// SPDX-License-Identifier: GPL-2.0

//! Messages about what users or devices do, which they could make many of.

use ferry_bindings as fb;

/// May one more message be printed now? At most ten in five seconds.
pub(crate) fn allowed() -> bool {
    // SAFETY: Always allowed.
    unsafe { fb::ferry_log_allowed() }
}
