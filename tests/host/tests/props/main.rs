// SPDX-License-Identifier: GPL-2.0

//! Property tests of the pure functions of `ferry_core`.

mod plan;
mod text;
