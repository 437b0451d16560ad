// SPDX-License-Identifier: GPL-2.0

//! Classes of batches: for each class, Ferry learns how such batches are copied best.
//!
//! A class is the way of copying (early, or in place), the size of the folios, the size of the
//! batch, and whether the batch goes to a node with a lower number: the two directions between two
//! nodes may take very different times.
//!
//! # Examples
//!
//! ```
//! use ferry_core::class::{BatchClass, Route};
//!
//! let there = Route { from: 0, to: 1 };
//! let back = Route { from: 1, to: 0 };
//!
//! let class = BatchClass::early(2 << 20, 512, there);
//! assert_eq!(class.folio_bytes(), 4096);
//! assert_eq!(class.to_string(), "early 4096 2097152");
//! // Batches of 2 MiB up to below 4 MiB are of one class; the way back is of another one.
//! assert_eq!(BatchClass::early(3 << 20, 768, there), class);
//! assert_ne!(BatchClass::early(2 << 20, 512, back), class);
//! // So is a folio of the same size that is copied in place.
//! assert_ne!(BatchClass::in_place(2 << 20, there), class);
//! assert_eq!(BatchClass::in_place(2 << 20, there).batch_bytes(), None);
//! ```

use core::fmt;

/// The nodes between which folios move.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The node of the sources; negative if it is not known.
    pub from: i32,
    /// The node of the destinations; negative if it is not known.
    pub to: i32,
}

impl Route {
    /// The route of a batch without folios.
    pub const UNKNOWN: Route = Route { from: -1, to: -1 };

    /// Returns `true` if the route begins or ends at this node.
    pub fn touches(self, node: i32) -> bool {
        self.from == node || self.to == node
    }
}

/// Number of folio orders that are told apart: 4 KiB to 2 MiB, the size of a PMD. Larger folios
/// count as 2 MiB.
const ORDERS: u8 = 10;
/// Number of batch sizes that are told apart: below 64 KiB, and then by powers of two up to 4 MiB
/// and more.
const SIZES: u8 = 8;
/// Number of classes of one folio order: one for each size of early batches, and copies in place.
const OF_ORDER: u8 = SIZES + 1;
/// Number of classes of one direction.
const OF_DIRECTION: u8 = ORDERS * OF_ORDER;

/// A class of batches.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BatchClass(u8);

impl BatchClass {
    /// Number of classes; [`Self::index()`] is below it.
    pub const COUNT: usize = OF_DIRECTION as usize * 2;

    /// Returns the class of a batch of `folios` folios that is copied early.
    pub fn early(bytes: u64, folios: u32, route: Route) -> Self {
        let each = bytes.checked_div(folios.into()).unwrap_or(0);
        let log = (bytes >> 16).checked_ilog2();
        // The logarithm is at most 47.
        let size = log.map_or(0, |log| log as u8 + 1).min(SIZES - 1);
        Self::new(each, size, route)
    }

    /// Returns the class of a folio that is copied in place.
    pub fn in_place(bytes: u64, route: Route) -> Self {
        Self::new(bytes, SIZES, route)
    }

    /// Returns the class for a folio size in bytes, a batch size below [`OF_ORDER`] and a route.
    fn new(folio_bytes: u64, size: u8, route: Route) -> Self {
        // At most 51.
        let order = (folio_bytes >> 12).checked_ilog2().unwrap_or(0) as u8;
        let class = order.min(ORDERS - 1) * OF_ORDER + size;
        let down = route.from > route.to;
        Self(if down { class + OF_DIRECTION } else { class })
    }

    /// Returns all classes, in the order of their indices.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..OF_DIRECTION * 2).map(Self)
    }

    /// Returns the number of the class, below [`Self::COUNT`].
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// Returns the size of the smallest folios of the class, in bytes.
    pub fn folio_bytes(self) -> u64 {
        4096 << (self.0 % OF_DIRECTION / OF_ORDER)
    }

    /// Returns the least size of the batches of the class, in bytes; `None` for copies in place.
    pub fn batch_bytes(self) -> Option<u64> {
        match self.0 % OF_ORDER {
            0 => Some(0),
            size if size < SIZES => Some((32 << 10) << size),
            _ => None,
        }
    }
}

/// Writes the way of copying, the size of folios and that of batches.
impl fmt::Display for BatchClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folio = self.folio_bytes();
        match self.batch_bytes() {
            Some(batch) => write!(f, "early {folio} {batch}"),
            None => write!(f, "in_place {folio} {folio}"),
        }
    }
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_class))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;
    use crate::knob::tests_support::shows;

    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;
    const UP: Route = Route { from: 0, to: 1 };
    const DOWN: Route = Route { from: 1, to: 0 };

    fn early(bytes: u64, folios: u32) -> (u64, Option<u64>) {
        let class = BatchClass::early(bytes, folios, UP);
        (class.folio_bytes(), class.batch_bytes())
    }

    fn in_place(bytes: u64) -> (u64, Option<u64>) {
        let class = BatchClass::in_place(bytes, UP);
        (class.folio_bytes(), class.batch_bytes())
    }

    #[test]
    fn sizes_are_told_apart() {
        assert_eq!(early(2 * M, 512), (4 * K, Some(2 * M)));
        assert_eq!(early(128 * K, 32), (4 * K, Some(128 * K)));
        assert_eq!(early(8 * M, 4), (2 * M, Some(4 * M)));
        assert_eq!(early(8 * K, 2), (4 * K, Some(0)));
        assert_eq!(early(64 * K, 16), (4 * K, Some(64 * K)));
        assert_eq!(early(64 * K - 1, 16), (4 * K, Some(0)));
        assert_eq!(early(0, 0), (4 * K, Some(0)));
        assert_eq!(in_place(2 * M), (2 * M, None));
        assert_eq!(in_place(1 << 30), (2 * M, None));
        assert_eq!(in_place(16 * K), (16 * K, None));
    }

    #[test]
    fn directions_are_told_apart() {
        for (bytes, folios) in [(u64::MAX, 1), (u64::MAX, u32::MAX), (2 * M, 1), (0, 0)] {
            let up = BatchClass::early(bytes, folios, UP);
            let down = BatchClass::early(bytes, folios, DOWN);
            assert!(up != down && down.index() < BatchClass::COUNT);
            assert_eq!(up.folio_bytes(), down.folio_bytes());
            assert_eq!(up.batch_bytes(), down.batch_bytes());
            assert!(BatchClass::in_place(bytes, UP) != BatchClass::in_place(bytes, DOWN));
        }
        assert!(UP.touches(0) && UP.touches(1) && !UP.touches(2));
    }

    #[test]
    fn all_have_their_index() {
        let mut n = 0;
        for class in BatchClass::all() {
            assert_eq!(class.index(), n);
            n += 1;
        }
        assert_eq!(n, BatchClass::COUNT);
    }

    #[test]
    fn classes_are_shown() {
        assert!(shows(
            BatchClass::early(2 * M, 512, UP),
            "early 4096 2097152"
        ));
        assert!(shows(
            BatchClass::in_place(M, DOWN),
            "in_place 1048576 1048576"
        ));
    }
}
