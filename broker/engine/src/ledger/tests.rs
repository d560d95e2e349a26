//! Weights and their charges.

use super::*;

#[derive(Debug)]
struct Of(Weight);

impl Holder for Of {
    const BY_FIRST_PART: bool = true;

    fn weight(&self, _limits: &Limits) -> Weight {
        self.0
    }

    fn recount(&self) -> [usize; 4] {
        self.0.parts
    }
}

/// A weight beyond 32 bits is counted in full, and so is one that was, or becomes, smaller.
#[test]
fn a_holder_of_any_weight_is_counted_exactly() {
    let (mut holders, limits) = (Holders::<ConnKey, Of>::default(), Limits::default());
    let weight = |bytes: usize, fixed: usize, first: bool| Weight {
        parts: [bytes, bytes / 2, 0, fixed],
        pending: if first { bytes + bytes / 2 } else { 0 },
        chosen: bytes + bytes / 2,
        burst: bytes / 4,
        first,
        yields: false,
        ends: true,
    };
    let other = holders.insert_with(|_| Of(weight(10, 100, false)));
    let key = holders.insert_with(|_| Of(Weight::default()));
    let limit = u32::MAX as usize;
    for bytes in [0, 1, 5000, limit, limit + 1, 1 << 40, 1 << 41, limit + 1, limit, 7] {
        for (fixed, first) in [(400, true), (65_535, false), (65_536, false), (0, true)] {
            let now = weight(bytes, fixed, first);
            if let Some(holder) = holders.get_mut(key) {
                *holder = Of(now);
            }
            holders.settle(&limits);
            let sums = [10 + bytes, 5 + bytes / 2, 0, 100 + fixed];
            assert_eq!(holders.bytes_by_part(), sums, "{bytes} bytes");
            assert_eq!(holders.charged(key), now.parts.iter().sum::<usize>());
            assert_eq!((holders.pending_bytes(), holders.burst_bytes()), (now.pending, 2 + now.burst));
            let is_huge = bytes > limit || fixed > 65_535;
            assert_eq!(holders.huge.len(), usize::from(is_huge));
        }
    }
    if let Some(holder) = holders.get_mut(key) {
        *holder = Of(weight(1 << 40, 1, false));
    }
    holders.settle(&limits);
    assert!(holders.discard(key) && holders.huge.is_empty());
    assert_eq!(holders.bytes_by_part(), [10, 5, 0, 100]);
    assert!(holders.discard(other));
    assert_eq!((holders.bytes_by_part(), holders.burst_bytes()), ([0; 4], 0));
    assert_eq!(size_of::<Charge>(), 24);
}
