// SPDX-License-Identifier: GPL-2.0

//! The device as a driver uses it, through vfio-user.

mod contexts;
mod driver;
mod errors;
mod faults;
mod function;
