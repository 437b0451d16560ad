// SPDX-License-Identifier: GPL-2.0

//! The names of migrators: `cpu`, or the driver of an engine.

use kernel::{
    fmt,
    prelude::*, //
};

/// The name of a migrator: `cpu`, or that of an engine's driver.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
pub(crate) struct Name {
    bytes: [u8; Self::ROOM],
}

impl Name {
    /// The bytes of the longest name and its NUL. The ABI limits names to 15 characters.
    const ROOM: usize = 16;

    /// Creates a name, or returns `None` if an administrator could not write it into the sysctl.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let fits = !bytes.is_empty()
            && bytes.len() < Self::ROOM
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !fits {
            return None;
        }
        let mut name = Self {
            bytes: [0; Self::ROOM],
        };
        name.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(name)
    }

    /// Returns the name with a NUL at its end.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Returns the name without a NUL.
    pub(crate) fn as_str(&self) -> &str {
        self.as_c_str().to_str().unwrap_or("")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The most drivers of engines that are listed.
const MAX_DRIVERS: usize = 8;

/// The names of the drivers that have a free channel.
#[derive(Default)]
pub(crate) struct DmaDrivers([Option<Name>; MAX_DRIVERS]);

impl DmaDrivers {
    /// Adds a name, unless the list has it already or is full.
    pub(crate) fn add(&mut self, name: Name) {
        if self.iter().all(|n| *n != name) {
            if let Some(room) = self.0.iter_mut().find(|n| n.is_none()) {
                *room = Some(name);
            }
        }
    }

    /// Returns the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().flatten()
    }
}
