// SPDX-License-Identifier: GPL-2.0

//! The names of migrators: `cpu`, or the driver of an engine.

use kernel::{
    fmt,
    prelude::*, //
};

/// The name of a provider: that of its driver.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
pub(crate) struct Name {
    bytes: [u8; Self::ROOM],
}

impl Name {
    const ROOM: usize = 16;

    /// None if it is not a name that a person could write into a sysctl.
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

    /// With a NUL at the end.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Without.
    pub(crate) fn as_str(&self) -> &str {
        self.as_c_str().to_str().unwrap_or("")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Most providers that are told apart.
const MAX_DRIVERS: usize = 8;

/// The names of providers that have a channel that is free.
#[derive(Default)]
pub(crate) struct DmaDrivers([Option<Name>; MAX_DRIVERS]);

impl DmaDrivers {
    /// Adds a name, if it is not there, and there is room.
    pub(crate) fn add(&mut self, name: Name) {
        if self.iter().all(|n| *n != name) {
            if let Some(room) = self.0.iter_mut().find(|n| n.is_none()) {
                *room = Some(name);
            }
        }
    }

    /// The names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().flatten()
    }
}
