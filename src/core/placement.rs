// SPDX-License-Identifier: GPL-2.0

//! The order in which CPUs become workers.

/// The place of a CPU in the machine.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The CPU's node; negative if it is not known.
    pub node: i32,
    /// Any number for the last-level cache, the same for all CPUs that share the cache.
    pub llc: u32,
    /// `true` if another thread of the same core comes before this one.
    pub sibling: bool,
}

/// Orders CPUs by writing indices of `places` into `order`.
///
/// Of the CPUs of a node, the first ones are of different last-level caches, then follow the second
/// ones of each cache, and so on. Further threads of a core come last in their cache.
///
/// A cache, or the link behind it, saturates with few threads (as was published for one machine of
/// 8 cores, one core copies 11 GB/s, and eight cores copy 37 GB/s), so threads are spread over the
/// caches before any cache is filled. Nodes follow each other in the order of their numbers.
/// `ranks` is scratch space. Returns how many places were ordered: as many as all three slices have
/// room for.
///
/// # Examples
///
/// ```
/// use ferry_core::placement::{spread, Place};
///
/// let cpu = |llc| Place { node: 0, llc, sibling: false };
/// let (mut ranks, mut order) = ([0; 4], [0; 4]);
/// // Two CPUs of cache 0, then two of cache 1: the caches take turns.
/// assert_eq!(spread(&[cpu(0), cpu(0), cpu(1), cpu(1)], &mut ranks, &mut order), 4);
/// assert_eq!(order, [0, 2, 1, 3]);
/// ```
pub fn spread(places: &[Place], ranks: &mut [u16], order: &mut [u16]) -> usize {
    let nr = places
        .len()
        .min(ranks.len())
        .min(order.len())
        .min(usize::from(u16::MAX));
    let (Some(places), Some(order)) = (places.get(..nr), order.get_mut(..nr)) else {
        return 0;
    };
    for (i, (p, rank)) in places.iter().zip(ranks.iter_mut()).enumerate() {
        // The rank is the number of CPUs of the same cache that come before this one.
        let before = |&(j, q): &(usize, &Place)| {
            q.node == p.node && q.llc == p.llc && (q.sibling, j) < (p.sibling, i)
        };
        let count = places.iter().enumerate().filter(before).count();
        *rank = u16::try_from(count).unwrap_or(u16::MAX);
    }
    // No two keys are equal, so each place has a position of its own.
    let key = |(i, (p, rank)): (usize, (&Place, &u16))| (p.node, *rank, p.llc, i);
    let keys = || places.iter().zip(ranks.iter()).enumerate().map(key);
    for (index, this) in (0..u16::MAX).zip(keys()) {
        if let Some(slot) = order.get_mut(keys().filter(|other| *other < this).count()) {
            *slot = index;
        }
    }
    nr
}

#[cfg_attr(CONFIG_KUNIT = "y", kernel::macros::kunit_tests(ferry_core_placement))]
#[cfg_attr(not(CONFIG_KUNIT = "y"), cfg(test))]
mod tests {
    use super::*;

    fn place(node: i32, llc: u32, sibling: bool) -> Place {
        Place { node, llc, sibling }
    }

    fn ordered<const N: usize>(places: [Place; N]) -> [u16; N] {
        let mut order = [u16::MAX; N];
        assert_eq!(spread(&places, &mut [0; N], &mut order), N);
        order
    }

    #[test]
    fn caches_take_turns() {
        let [a, b] = [place(0, 7, false), place(0, 3, false)];
        assert_eq!(ordered([a, a, b, b]), [2, 0, 3, 1]);
        assert_eq!(ordered([a, a, a, b]), [3, 0, 1, 2]);
    }

    #[test]
    fn siblings_come_last() {
        let (core, thread) = (place(0, 0, false), place(0, 0, true));
        assert_eq!(ordered([core, thread, core, thread]), [0, 2, 1, 3]);
    }

    #[test]
    fn nodes_stay_together() {
        let places = [place(1, 1, false), place(0, 0, false), place(1, 1, false)];
        assert_eq!(ordered(places), [1, 0, 2]);
        assert_eq!(ordered([place(-1, 0, false), place(-1, 0, false)]), [0, 1]);
    }

    #[test]
    fn a_short_list_is_enough() {
        let mut order = [9; 2];
        assert_eq!(spread(&[place(0, 0, false); 3], &mut [0; 3], &mut order), 2);
        assert_eq!(order, [0, 1]);
        assert_eq!(spread(&[], &mut [], &mut order), 0);
    }
}
