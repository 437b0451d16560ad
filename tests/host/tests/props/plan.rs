// SPDX-License-Identifier: GPL-2.0

//! Property tests of plans: a plan covers every byte once, in order, in balanced chunks, whatever
//! the numbers are.

use ferry_core::{
    plan::{
        plan,
        plan_window,
        span,
        ChunkRange,
        Planned, //
    },
    policy::{
        chunks,
        in_place_chunk_bytes,
        lookahead_limit,
        most_workers,
        worth_submitting, //
    },
};
use proptest::{
    collection::vec,
    prelude::*, //
};

const PAGE: u64 = 4096;

/// Generates sizes of folios as they occur: pages, and orders up to 4M, not all of them eligible.
fn folios() -> impl Strategy<Value = Vec<u64>> {
    vec(
        prop_oneof![
            2 => Just(0),
            6 => Just(PAGE),
            4 => (0u32..=10).prop_map(|order| PAGE << order),
            // Large folios of any number of pages.
            1 => (1u64..=1024).prop_map(|pages| pages * PAGE),
        ],
        0..300,
    )
}

fn chunk_bytes() -> impl Strategy<Value = u64> {
    (16u64..=512).prop_map(|pages| pages * PAGE)
}

/// Generates numbers at which arithmetic may overflow.
fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(0),
        Just(1),
        Just(PAGE - 1),
        Just(PAGE),
        (0u64..3 * PAGE).prop_map(|below| u64::MAX - below),
        (0u32..64).prop_map(|bit| 1 << bit),
    ]
}

/// Checks the properties of every plan, and returns the eligible bytes of the entries it covers.
fn check(sizes: &[u64], cut: u64, out: &[ChunkRange], got: Planned) -> Result<u64, TestCaseError> {
    let chunks = &out[..got.chunks as usize];
    let entries = got.entries as usize;
    prop_assert!(entries <= sizes.len());

    // Walks entries and chunks side by side: every eligible byte occurs once, and in order.
    let mut at = 0;
    let mut pos = 0;
    for (i, &size) in sizes[..entries].iter().enumerate() {
        let mut offset = 0u64;
        while offset < size {
            let chunk = chunks.get(at);
            prop_assert!(chunk.is_some(), "entry {i} has no chunk at {offset}");
            let chunk = chunk.unwrap();
            let first = chunk.first as usize;
            prop_assert!(chunk.len > 0 && chunk.count > 0);
            if size > cut {
                prop_assert_eq!((first, chunk.count, chunk.offset), (i, 1, offset));
                prop_assert!(chunk.len <= cut);
                offset += chunk.len;
                prop_assert!(offset == size || offset % PAGE == 0);
                at += 1;
            } else {
                prop_assert_eq!(chunk.offset, 0);
                prop_assert!(first <= i && i - first < chunk.count as usize);
                if pos == 0 {
                    prop_assert_eq!(first, i, "a run begins with an eligible entry");
                }
                pos += size;
                offset = size;
                prop_assert!(pos <= chunk.len);
                if i + 1 == first + chunk.count as usize {
                    // A run ends with an eligible entry, and its length is their sum.
                    prop_assert_eq!(pos, chunk.len);
                    pos = 0;
                    at += 1;
                }
            }
        }
    }
    prop_assert_eq!(at, chunks.len());
    prop_assert_eq!(pos, 0);
    let bytes = sizes[..entries].iter().sum::<u64>();
    prop_assert_eq!(got.bytes, bytes);
    Ok(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn plan_covers_everything_once(sizes in folios(), cut in chunk_bytes()) {
        let mut out = [ChunkRange::default(); 40_000];
        let got = plan(sizes.iter().copied(), cut, &mut out);
        prop_assert_eq!(got.entries as usize, sizes.len());
        check(&sizes, cut, &out, got)?;
    }

    #[test]
    fn plan_is_balanced(sizes in folios(), cut in chunk_bytes()) {
        let mut out = [ChunkRange::default(); 40_000];
        let got = plan(sizes.iter().copied(), cut, &mut out);
        let chunks = &out[..got.chunks as usize];
        for pair in chunks.windows(2) {
            let [a, b] = pair else { unreachable!() };
            let (of_a, of_b) = (sizes[a.first as usize], sizes[b.first as usize]);
            if a.first == b.first {
                // Parts of one folio are equal except for one page, the longer ones first.
                prop_assert!(a.len == b.len || a.len == b.len + PAGE);
            } else if of_a <= cut && of_b <= cut {
                // No folio that would still have fitted went into the next chunk.
                prop_assert!(a.len + of_b > cut);
            }
        }
        // A large folio has no more chunks than it takes.
        for (i, &size) in sizes.iter().enumerate().filter(|(_, size)| **size > cut) {
            let parts = chunks.iter().filter(|p| p.first as usize == i).count() as u64;
            prop_assert_eq!(parts, size.div_ceil(cut));
        }
    }

    #[test]
    fn plan_stops_at_the_end_of_the_room(
        sizes in folios(),
        cut in chunk_bytes(),
        room in 0usize..80,
    ) {
        let mut out = vec![ChunkRange::default(); room];
        let got = plan(sizes.iter().copied(), cut, &mut out);
        check(&sizes, cut, &out, got)?;
        // It stops only where the next entry takes more chunks than are left.
        if let Some(&next) = sizes.get(got.entries as usize) {
            prop_assert!(next.div_ceil(cut) > room as u64 - u64::from(got.chunks));
        }
        // The rest of the entries goes into the next plan.
        let rest = &sizes[got.entries as usize..];
        let more = plan(rest.iter().copied(), cut, &mut out);
        check(rest, cut, &out, more)?;
    }

    #[test]
    fn plan_survives_any_numbers(
        sizes in vec(extreme(), 0..40),
        cut in extreme(),
        room in 0usize..40,
    ) {
        let mut out = vec![ChunkRange::default(); room];
        let got = plan(sizes.iter().copied(), cut, &mut out);
        check(&sizes, (cut - cut % PAGE).max(PAGE), &out, got)?;
    }

    #[test]
    fn window_covers_everything_once(
        offset in extreme(),
        len in extreme(),
        cut in extreme(),
        room in 0usize..64,
    ) {
        let mut out = vec![ChunkRange::default(); room];
        let got = plan_window(offset, len, cut, &mut out);
        let (len, cut) = (len.min(u64::MAX - offset), (cut - cut % PAGE).max(PAGE));
        let mut at = offset;
        for chunk in &out[..got.chunks as usize] {
            prop_assert_eq!((chunk.first, chunk.count, chunk.offset), (0, 1, at));
            prop_assert!(chunk.len > 0 && chunk.len <= cut);
            at += chunk.len;
            prop_assert!(at == offset + len || chunk.len % PAGE == 0);
        }
        prop_assert_eq!(got.bytes, at - offset);
        if len.div_ceil(cut) <= room as u64 {
            prop_assert_eq!((got.entries, got.bytes), (1, len));
        } else {
            // The plan has as much as there is room for, and the caller goes on from there.
            prop_assert_eq!((got.entries, got.bytes), (0, room as u64 * cut));
        }
    }

    #[test]
    fn span_agrees_with_a_search(sizes in folios(), cut in chunk_bytes()) {
        let mut out = [ChunkRange::default(); 40_000];
        let got = plan(sizes.iter().copied(), cut, &mut out);
        let chunks = &out[..got.chunks as usize];
        for entry in 0..sizes.len() as u32 + 2 {
            let holds = |p: &ChunkRange| p.first <= entry && entry < p.first + p.count;
            let want = chunks
                .iter()
                .position(holds)
                .map(|at| (at as u32, chunks.iter().filter(|p| holds(p)).count() as u32));
            prop_assert_eq!(span(chunks, entry), want);
            if sizes.get(entry as usize).is_some_and(|size| *size > 0) {
                prop_assert!(want.is_some());
            }
        }
    }

    #[test]
    fn span_survives_any_pieces(
        raw in vec((any::<u32>(), any::<u32>()), 0..20),
        entry in any::<u32>(),
    ) {
        let chunks: Vec<_> = raw
            .iter()
            .map(|&(first, count)| ChunkRange { first, count, offset: 0, len: 1 })
            .collect();
        if let Some((at, count)) = span(&chunks, entry) {
            prop_assert!(count > 0 && (at + count) as usize <= chunks.len());
        }
    }

    #[test]
    fn policy_survives_any_numbers(
        bytes in extreme(),
        chunk in extreme(),
        a in any::<u32>(),
        b in any::<u32>(),
    ) {
        let workers = most_workers(chunks(bytes, chunk), b);
        prop_assert!(workers <= b);
        // The mover and the workers never are more than there are chunks.
        prop_assert!(workers == 0 || u64::from(workers) < bytes.div_ceil(chunk.max(1)));
        prop_assert!(!worth_submitting(bytes, a.min(1), chunk));
        let limit = lookahead_limit(a, bytes, chunk, b);
        prop_assert!(limit <= b);
        prop_assert!(in_place_chunk_bytes(bytes, chunk) <= chunk);
        if b > a {
            // The chunk after the mover's is always within reach.
            prop_assert!(limit > a.saturating_add(1) || limit == b);
        }
    }
}
