// SPDX-License-Identifier: GPL-2.0

//! Tests of whole devices in one process.
