// SPDX-License-Identifier: GPL-2.0

//! The limit on messages about events that users or devices cause, and could cause often.

use ferry_bindings as fb;

/// Returns `true` if one more message may be printed now: at most ten in five seconds.
pub(crate) fn allowed() -> bool {
    // SAFETY: Always allowed.
    unsafe { fb::ferry_log_allowed() }
}
