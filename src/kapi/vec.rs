// SPDX-License-Identifier: GPL-2.0

//! Vectors whose length is known.

use kernel::prelude::*;

/// Allocates a vector of `len` elements; `element` makes each of them.
///
/// # Errors
///
/// `ENOMEM`, and the first error of `element`.
///
/// # Context
///
/// Sleeps.
pub(crate) fn filled<T>(len: usize, mut element: impl FnMut() -> Result<T>) -> Result<KVec<T>> {
    let mut vec = KVec::with_capacity(len, GFP_KERNEL)?;
    for _ in 0..len {
        vec.push(element()?, GFP_KERNEL)?;
    }
    Ok(vec)
}
