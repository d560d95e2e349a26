//! Tests of `Shares`: each limit at 0, at the limit and one beyond it; no owner takes the share of
//! another; turns are fair; the counted bytes are those of the allocator, and 0 when everything is
//! removed.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;

use grapnel_plugin_abi::{DropQueue, EVICTED_AT_ONCE, EntryId, Full, ShareLimits, Shares, tree_entry_bytes};

/// Counts, for each thread, the bytes that glibc has allocated: its chunks with their headers.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn malloc_usable_size(chunk: *mut c_void) -> usize;
}

fn count(chunk: *mut u8, sign: i64) {
    if !chunk.is_null() {
        // SAFETY: `System` is glibc's, and this is a chunk of it that has not been freed.
        let bytes = unsafe { malloc_usable_size(chunk.cast()) } as i64 + 8;
        let _ = HELD.try_with(|held| held.set(held.get() + sign * bytes));
    }
}

// SAFETY: everything is left to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is that of `System`.
        let chunk = unsafe { System.alloc(layout) };
        count(chunk, 1);
        chunk
    }

    unsafe fn dealloc(&self, chunk: *mut u8, layout: Layout) {
        count(chunk, -1);
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.dealloc(chunk, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> i64 {
    HELD.get()
}

const UNLIMITED: ShareLimits = ShareLimits {
    entries_max: u64::MAX,
    bytes_max: u64::MAX,
    owner_entries_max: u64::MAX,
    owner_bytes_max: u64::MAX,
};

type Value = Box<[u8]>;

fn value(bytes: usize) -> Value {
    vec![7; bytes].into()
}

fn shares(limits: ShareLimits) -> Shares<Value> {
    Shares::new(limits)
}

fn full(shares: &mut Shares<Value>, owner: &str, bytes: usize) -> Option<Full> {
    let before = (shares.len(), shares.bytes(), shares.owners());
    let rejected = shares.insert(owner, value(bytes)).err()?;
    assert_eq!(rejected.value.len(), bytes, "the value comes back");
    assert_eq!((shares.len(), shares.bytes(), shares.owners()), before, "nothing has changed");
    Some(rejected.full)
}

#[test]
fn each_limit_is_checked_at_zero_at_the_limit_and_one_above() {
    let mut none = shares(ShareLimits { owner_entries_max: 0, ..UNLIMITED });
    assert_eq!(full(&mut none, "a", 0), Some(Full::OwnerEntries(0)));
    let mut none = shares(ShareLimits { entries_max: 0, ..UNLIMITED });
    assert_eq!(full(&mut none, "a", 0), Some(Full::Entries(0)));

    let mut two = shares(ShareLimits { owner_entries_max: 2, entries_max: 3, ..UNLIMITED });
    assert_eq!([full(&mut two, "a", 0), full(&mut two, "a", 0)], [None; 2]);
    assert_eq!(full(&mut two, "a", 0), Some(Full::OwnerEntries(2)));
    assert_eq!([full(&mut two, "b", 0), full(&mut two, "b", 0)], [None, Some(Full::Entries(3))]);

    // Bytes: one entry of 100 bytes and its owner's name fit exactly; one byte less is too small.
    let mut measured = shares(UNLIMITED);
    measured.insert("a", value(100)).unwrap();
    let exactly = measured.bytes();
    assert_eq!(measured.used_by("a"), (1, exactly));
    for (bytes_max, expected) in [(0, false), (exactly - 1, false), (exactly, true)] {
        let mut of_owner = shares(ShareLimits { owner_bytes_max: bytes_max, ..UNLIMITED });
        let refused = (!expected).then_some(Full::OwnerBytes(bytes_max));
        assert_eq!(full(&mut of_owner, "a", 100), refused);
        let mut of_all = shares(ShareLimits { bytes_max, ..UNLIMITED });
        assert_eq!(full(&mut of_all, "a", 100), (!expected).then_some(Full::Bytes(bytes_max)));
    }
}

#[test]
fn space_freed_by_an_owner_is_available_to_that_owner() {
    let mut shares = shares(ShareLimits { owner_entries_max: 1, ..UNLIMITED });
    let of_a = shares.insert("a", value(1)).unwrap();
    let of_b = shares.insert("b", value(2)).unwrap();
    assert!(full(&mut shares, "a", 1).is_some_and(|full| full.is_of_owner()));
    assert_eq!(shares.remove(of_b).unwrap().len(), 2);
    assert_eq!(full(&mut shares, "a", 1), Some(Full::OwnerEntries(1)), "it was another's");
    shares.remove(of_a).unwrap();
    assert!(shares.remove(of_a).is_none(), "it has gone");
    assert_eq!((shares.len(), shares.bytes(), shares.owners()), (0, 0, 0));
    let again = shares.insert("a", value(1)).unwrap();
    assert!(again > of_b, "no number is given twice");
    assert_eq!((shares.owner_of(again), shares.get(of_a)), (Some("a"), None));
}

fn full_for(shares: &mut Shares<Value>, account: &str, owner: &str, bytes: usize) -> Option<Full> {
    let before = (shares.len(), shares.bytes(), shares.owners());
    let full = shares.insert_for(Some(account), owner, value(bytes)).err()?.full;
    assert_eq!((shares.len(), shares.bytes(), shares.owners()), before, "nothing has changed");
    Some(full)
}

#[test]
fn an_account_has_the_share_of_one_owner_and_free_room_beyond() {
    let limits = ShareLimits { entries_max: 10, owner_entries_max: 2, ..UNLIMITED };
    let mut shares = shares(limits);
    let mut number = 0;
    let mut of_account = |shares: &mut Shares<Value>, account: &str| {
        number += 1;
        full_for(shares, account, &format!("client {number}"), 0)
    };
    for _ in 0..5 {
        assert_eq!(of_account(&mut shares, "a"), None);
    }
    let refused = of_account(&mut shares, "a");
    assert_eq!(refused, Some(Full::AccountEntries(5)));
    assert!(refused.is_some_and(|full| full.is_of_owner() && full.to_string().contains("have 5 together")));
    assert_eq!((shares.used_by_account("a").0, shares.used_by_account("b").0), (5, 0));
    // The next one has less, down to what one owner may have, and then the total is full.
    assert_eq!(
        [0; 4].map(|_| of_account(&mut shares, "b")),
        [None, None, None, Some(Full::AccountEntries(2))]
    );
    assert_eq!([0; 3].map(|_| of_account(&mut shares, "c")), [None, None, Some(Full::AccountEntries(2))]);
    assert_eq!(of_account(&mut shares, "d"), Some(Full::Entries(10)));
    // The owner's own limit comes first, and one without an account has no such limit.
    let mut one = Shares::new(limits);
    assert_eq!([0; 3].map(|_| full_for(&mut one, "a", "c", 0)), [None, None, Some(Full::OwnerEntries(2))]);
    assert_eq!((0..10).filter(|n| full(&mut one, &n.to_string(), 0).is_none()).count(), 8);
}

#[test]
fn the_bytes_of_an_account_include_the_names_of_its_owners() {
    let mut shares = shares(ShareLimits { bytes_max: 100_000, owner_bytes_max: 10_000, ..UNLIMITED });
    let mut clients = 0;
    let refused = loop {
        match full_for(&mut shares, "a", &format!("client {clients}"), 1_000) {
            None => clients += 1,
            Some(full) => break full,
        }
    };
    let (entries, held) = shares.used_by_account("a");
    assert_eq!((entries, held < shares.bytes()), (clients, true), "and its own name beside it");
    // Half, and at most one entry beyond it.
    assert!((49_000..=51_000).contains(&held), "{held}");
    assert_eq!(refused, Full::AccountBytes(100_000 - shares.bytes()));
    assert_eq!(full_for(&mut shares, "b", "other", 1_000), None);
    // What is charged later counts too, and what is taken out is room again.
    let oldest = shares.oldest().unwrap();
    shares.charge(oldest, 5_000);
    assert_eq!(shares.used_by_account("a"), (entries, held + 5_000));
    shares.charge(oldest, 0);
    assert!(full_for(&mut shares, "a", "one more", 900).is_some());
    for _ in 0..3 {
        shares.remove(shares.oldest().unwrap());
    }
    assert_eq!(full_for(&mut shares, "a", "one more", 900), None);
}

/// What is held for its entries later leaves room for others too, however many owners it has.
#[test]
fn an_account_may_use_only_extra_memory_that_is_free() {
    let mut shares = shares(ShareLimits { bytes_max: 100_000, owner_bytes_max: 20_000, ..UNLIMITED });
    let mut owners = 0;
    while let Ok(id) = shares.insert_for(Some("a"), &format!("client {owners}"), value(0)) {
        let free = shares.free_bytes(&format!("client {owners}"));
        assert!(shares.charge(id, free));
        owners += 1;
    }
    let (_, held) = shares.used_by_account("a");
    assert!(owners > 2 && (49_000..=51_000).contains(&held), "{owners} owners, {held} bytes");
    // Another one has all that one owner may have.
    let id = shares.insert_for(Some("b"), "other", value(0)).unwrap();
    let free = shares.free_bytes("other");
    assert_eq!(free, 20_000 - shares.used_by("other").1);
    assert!(shares.charge(id, free) && shares.free_bytes("other") == 0);
}

#[test]
fn an_account_is_removed_with_its_last_entry() {
    let before = held();
    let mut shares = shares(UNLIMITED);
    let first = shares.insert_for(Some("a"), "c", value(10)).unwrap();
    let second = shares.restore_for(Some("b"), "c", value(20));
    let third = shares.insert("c", value(30)).unwrap();
    assert_eq!([first, second, third].map(|id| shares.account_of(id)), [Some("a"), Some("b"), None]);
    shares.remove(first);
    assert!(shares.used_by_account("a").1 > 0, "it was charged with the name of the owner, who is there");
    shares.remove(second);
    assert_eq!(shares.used_by_account("b"), (0, 0));
    shares.remove(third);
    assert_eq!((shares.bytes(), shares.used_by_account("a"), held() - before), (0, (0, 0), 0));
    let mut left = DropQueue::default();
    let mut cleared = Shares::new(UNLIMITED);
    (0..100).for_each(|n| drop(cleared.insert_for(Some(&format!("account {n}")), "c", value(1))));
    cleared.clear_into(&mut left);
    assert_eq!((cleared.bytes(), cleared.used_by_account("account 1")), (0, (0, 0)));
}

#[test]
fn owners_take_turns_with_any_number_of_entries() {
    let mut shares = shares(UNLIMITED);
    for n in 0..1000 {
        shares.insert("flood", value(n)).unwrap();
    }
    shares.insert("b", value(1)).unwrap();
    shares.insert("c", value(1)).unwrap();
    shares.insert("b", value(2)).unwrap();
    let turns: Vec<_> = std::iter::from_fn(|| shares.take_next_in_turn()).collect();
    let first: Vec<_> = turns[..6].iter().map(|(owner, value)| (&**owner, value.len())).collect();
    assert_eq!(first, [("flood", 0), ("b", 1), ("c", 1), ("flood", 1), ("b", 2), ("flood", 2)]);
    assert_eq!(turns.len(), 1003);
    assert!(turns[6..].iter().map(|(_, value)| value.len()).eq(3..1000), "each owner's in its order");
    assert_eq!((shares.bytes(), shares.owners()), (0, 0));
}

#[test]
fn the_oldest_entry_of_the_owner_or_of_all_is_evicted_for_a_new_one() {
    let mut shares = shares(ShareLimits { owner_entries_max: 2, entries_max: 3, ..UNLIMITED });
    let mut gone: Vec<(EntryId, usize)> = Vec::new();
    let mut put = |shares: &mut Shares<Value>, owner: &str, bytes| {
        shares.insert_over_oldest(owner, value(bytes), |id, value| gone.push((id, value.len()))).unwrap()
    };
    let ids = [put(&mut shares, "a", 1), put(&mut shares, "b", 2), put(&mut shares, "b", 3)];
    put(&mut shares, "b", 4);
    put(&mut shares, "c", 5);
    put(&mut shares, "c", 6);
    assert_eq!(gone, [(ids[1], 2), (ids[0], 1), (ids[2], 3)]);
    let left: Vec<_> = shares.iter().map(|(_, owner, value)| (owner, value.len())).collect();
    assert_eq!(left, [("b", 4), ("c", 5), ("c", 6)]);
    let after: Vec<_> = shares.iter_after(ids[2]).map(|(_, _, value)| value.len()).collect();
    assert_eq!(after, [4, 5, 6], "the entry that is gone is no obstacle");

    // A value that can never fit evicts nothing.
    shares.set_limits(ShareLimits { bytes_max: shares.bytes() + 100, ..UNLIMITED });
    let rejected = shares.insert_over_oldest("c", value(5000), |_, _| panic!("nothing goes")).unwrap_err();
    assert!(matches!(rejected.full, Full::Bytes(_)));
    shares.set_limits(ShareLimits { entries_max: 1, ..UNLIMITED });
    shares.restore("d", value(7));
    assert_eq!(shares.len(), 4, "what was promised stays");
}

/// After limits are lowered, entries are evicted in steps of bounded size, whatever entries exist
/// or are added meanwhile.
#[test]
fn lowered_limits_are_applied_in_slices() {
    let lower = ShareLimits { owner_entries_max: 10, entries_max: 150, ..UNLIMITED };
    for in_place in [true, false] {
        let mut shares = shares(if in_place { UNLIMITED } else { lower });
        // The empty string is a valid name.
        for owner in ["", "a", "b"] {
            for _ in 0..300 {
                shares.restore(owner, value(0));
            }
        }
        for n in 0..200 {
            shares.restore(&format!("small {n}"), value(0));
        }
        if in_place {
            shares.set_limits(lower);
        }
        assert!(shares.is_over_limit());
        let mut gone = 0;
        shares.insert_over_oldest("b", value(0), |_, _| gone += 1).unwrap();
        assert!(gone <= EVICTED_AT_ONCE, "{gone} in one call");
        let (mut steps, mut more) = (0, true);
        while more {
            let before = shares.len();
            more = shares.evict_over_limit(50, |_, _| ());
            assert!(before - shares.len() <= 50);
            steps += 1;
        }
        assert!((15..60).contains(&steps), "{steps}");
        assert!(["", "a", "b"].iter().all(|owner| shares.used_by(owner).0 <= 10));
        assert_eq!((shares.len(), shares.is_over_limit()), (150, false));
    }
}

/// One large value evicts at most as many entries as one step allows. It alone may exceed a limit,
/// and no later value adds to that.
#[test]
fn one_large_value_may_exceed_a_limit_for_a_moment() {
    for of_owner in [true, false] {
        let most = 1 << 20;
        let mut shares = shares(match of_owner {
            true => ShareLimits { owner_bytes_max: most, ..UNLIMITED },
            false => ShareLimits { bytes_max: most, ..UNLIMITED },
        });
        for _ in 0..20_000 {
            shares.insert_over_oldest("a", value(0), |_, _| ()).unwrap();
        }
        assert!(shares.bytes() <= most && shares.bytes() > most - 1_000);
        let mut gone = 0;
        for turn in 0..10 {
            gone = 0;
            let taken = shares.insert_over_oldest("a", value(100_000), |_, _| gone += 1).is_ok();
            assert_eq!((gone, taken), if turn == 0 { (EVICTED_AT_ONCE, true) } else { (0, false) });
            assert!(shares.bytes() <= most + 110_000);
        }
        assert!(shares.insert_over_oldest("a", value(0), |_, _| gone += 1).is_ok(), "that makes it no more");
        while shares.evict_over_limit(10, |_, _| ()) {}
        assert!(shares.bytes() <= most && !shares.is_over_limit());
        assert!(shares.oldest() > Some(EntryId(1)) && shares.len() > 100);
    }
}

/// If limits are raised before the eviction for lower ones has ended, entries within the new limits
/// stay.
#[test]
fn raised_limits_evict_nothing() {
    let mut shares = shares(UNLIMITED);
    for owner in ["a", "b", "c"] {
        for _ in 0..20 {
            shares.restore(owner, value(0));
        }
    }
    shares.set_limits(ShareLimits { owner_entries_max: 10, ..UNLIMITED });
    // An owner is known to exceed its limit once it has been examined.
    assert!(shares.evict_over_limit(1, |_, _| panic!("it has only been looked at")));
    while shares.used_by("b").0 == 20 {
        assert!(shares.evict_over_limit(1, |_, _| ()));
    }
    let held = ["a", "b", "c"].map(|owner| shares.used_by(owner).0);
    assert_eq!(held, [10, 19, 20]);
    shares.set_limits(ShareLimits { owner_entries_max: 19, ..UNLIMITED });
    while shares.evict_over_limit(7, |_, _| ()) {}
    assert_eq!(["a", "b", "c"].map(|owner| shares.used_by(owner).0), [10, 19, 19]);
    assert!(!shares.is_over_limit());
}

/// A new value evicts exactly the entries that make space for it, of any owner. The names of owners
/// that are removed with them are counted.
#[test]
fn the_entries_to_evict_are_decided_before_the_first_is_removed() {
    let mut measured = shares(UNLIMITED);
    let of_one = {
        measured.insert("x", value(1_000)).unwrap();
        measured.bytes()
    };
    // Exactly four owners with an entry each; each eviction makes space for one more.
    let mut full = shares(ShareLimits { bytes_max: 4 * of_one, ..UNLIMITED });
    for (owner, goes) in [("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 1), ("f", 1)] {
        let mut gone = 0;
        full.insert_over_oldest(owner, value(1_000), |_, _| gone += 1).unwrap();
        assert_eq!(gone, goes, "{owner}");
    }
    let owners: Vec<_> = full.iter().map(|(_, owner, _)| owner).collect();
    assert_eq!((owners, full.bytes()), (vec!["c", "d", "e", "f"], 4 * of_one));
    // The owner's own limit and the total, one after the other.
    let limits = ShareLimits { owner_entries_max: 2, bytes_max: 4 * of_one, ..UNLIMITED };
    let mut both = shares(limits);
    for owner in ["a", "b", "b", "c"] {
        both.insert(owner, value(1_000)).unwrap();
    }
    let mut gone = Vec::new();
    both.insert_over_oldest("b", value(3_000), |id, _| gone.push(id.0)).unwrap();
    assert_eq!(gone, [2, 1, 3]);
    assert!(both.bytes() <= 4 * of_one);
}

/// The memory that a plugin currently holds for an entry is charged to the entry, and is freed with
/// it.
#[test]
fn an_entry_is_charged_with_its_allocated_bytes() {
    let limits = ShareLimits { owner_bytes_max: 10_000, bytes_max: 15_000, ..UNLIMITED };
    let mut shares = shares(limits);
    let (a, b) = (shares.insert("a", value(0)).unwrap(), shares.insert("b", value(0)).unwrap());
    let (all, of_a) = (shares.bytes(), shares.used_by("a").1);
    assert_eq!(shares.free_bytes("a"), 10_000 - of_a);
    assert!(shares.charge(a, 9_000) && shares.charge(a, 9_400));
    assert_eq!((shares.bytes(), shares.used_by("a").1), (all + 9_400, of_a + 9_400));
    assert_eq!(full(&mut shares, "a", 1_000), Some(Full::OwnerBytes(10_000)));
    assert_eq!(shares.free_bytes("b"), 15_000 - shares.bytes(), "of all there is less");
    assert!(shares.charge(b, 9_000), "it is held, whatever the limits are");
    assert_eq!((shares.free_bytes("a"), shares.free_bytes("b"), shares.is_over_limit()), (0, 0, true));
    assert!(shares.charge(b, 0) && !shares.is_over_limit());
    assert!(shares.charge(a, 20_000) && shares.is_over_limit());
    assert!(shares.remove(a).is_some() && !shares.charge(a, 1));
    shares.remove(b);
    assert_eq!((shares.bytes(), shares.is_over_limit()), (0, false));
}

/// Compares with a model, and checks the links between entries, through some thousand changes.
#[test]
fn counts_are_the_same_as_of_a_list() {
    let mut shares = shares(UNLIMITED);
    let mut model: Vec<(EntryId, String, usize)> = Vec::new();
    let mut seed = 7u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for step in 0..4000 {
        if random(5) < 3 || model.is_empty() {
            let owner = format!("owner {}", random(12));
            let id = shares.insert(&owner, value(step)).unwrap();
            model.push((id, owner, step));
        } else {
            let (id, _, bytes) = model.remove(random(model.len()));
            assert_eq!(shares.remove(id).map(|value| value.len()), Some(bytes));
        }
        let owner = format!("owner {}", random(12));
        let oldest = model.iter().find(|(_, of, _)| *of == owner).map(|(id, ..)| *id);
        assert_eq!(shares.oldest_of(&owner), oldest);
        let entries = model.iter().filter(|(_, of, _)| *of == owner).count();
        assert_eq!(shares.used_by(&owner).0, entries as u64);
        assert_eq!(shares.oldest(), model.first().map(|(id, ..)| *id));
    }
    let owners: std::collections::BTreeSet<&str> = model.iter().map(|(_, owner, _)| owner.as_str()).collect();
    assert_eq!((shares.len(), shares.owners()), (model.len(), owners.len()));
    let by_owner: u64 = owners.iter().map(|owner| shares.used_by(owner).1).sum();
    assert_eq!(by_owner, shares.bytes());
}

/// The cost of an operation does not depend on the size of an owner.
#[test]
fn twice_the_entries_take_twice_the_work() {
    let work = |count: usize| {
        let mut shares = shares(ShareLimits { owner_entries_max: count as u64 / 2, ..UNLIMITED });
        for n in 0..count {
            let owner = if n % 2 == 0 { "a".to_owned() } else { format!("b{n}") };
            shares.insert_over_oldest(&owner, value(0), |_, _| ()).unwrap();
        }
        while shares.take_next_in_turn().is_some() {}
        shares.work()
    };
    let (once, twice) = (work(2_000), work(4_000));
    assert!(twice <= 2 * once + 8, "{once} and {twice}");
}

/// The entries to evict for one value are found in one walk, of any owner: the cost is linear in
/// their number.
#[test]
fn evicting_twice_the_entries_takes_twice_the_work() {
    let work = |count: usize| {
        let mut shares = shares(UNLIMITED);
        // The oldest entries are the owner's, so that the walk over all passes those that are
        // already evicted.
        for n in 0..4 * count {
            let owner = if n < count { "a".to_owned() } else { format!("b{n}") };
            shares.insert(&owner, value(1_000)).unwrap();
        }
        let of_other = shares.used_by(&format!("b{count}")).1;
        shares.set_limits(ShareLimits {
            owner_bytes_max: shares.used_by("a").1,
            bytes_max: shares.bytes() - count as u64 * of_other,
            ..UNLIMITED
        });
        let (before, mut gone) = (shares.work(), 0);
        shares.insert_over_oldest("a", value(count * 1_000), |_, _| gone += 1).unwrap();
        assert!((3 * count / 2..=2 * count).contains(&gone), "{gone} of {count} and {count}");
        shares.work() - before
    };
    for count in [8, 16] {
        let (once, twice) = (work(count), work(2 * count));
        assert!(twice <= 2 * once + 8, "{count}: {once} and {twice}");
    }
}

/// One decision evicts the same entries as single steps would: each time the oldest of an owner
/// beyond its limit.
#[test]
fn evicting_at_once_removes_the_same_entries_as_one_by_one() {
    let limits =
        ShareLimits { owner_entries_max: 9, owner_bytes_max: 9_000, entries_max: 30, bytes_max: 20_000 };
    let (mut shares, mut slow) = (shares(limits), shares(limits));
    let mut seed = 11u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) % below) as usize
    };
    for _ in 0..5_000 {
        let owner = format!("owner {}", random(7));
        let most = if random(4) == 0 { 7_000 } else { 200 };
        let bytes = random(most);
        let (mut at_once, mut one_by_one) = (Vec::new(), Vec::new());
        shares.insert_over_oldest(&owner, value(bytes), |id, _| at_once.push(id)).unwrap();
        while let Err(full) = slow.has_room(&owner, &value(bytes)) {
            let oldest = if full.is_of_owner() { slow.oldest_of(&owner) } else { slow.oldest() };
            one_by_one.extend(oldest);
            slow.remove(oldest.unwrap()).unwrap();
        }
        slow.insert(&owner, value(bytes)).unwrap();
        assert_eq!(at_once, one_by_one);
        assert_eq!(
            (shares.len(), shares.bytes(), shares.owners()),
            (slow.len(), slow.bytes(), slow.owners())
        );
    }
}

/// Compares with the allocator: never more memory than counted, and not much less.
#[test]
fn counted_bytes_are_the_allocated_bytes() {
    let cases = [(0, 1), (0, 5000), (1, 7), (40, 5000), (1000, 3), (200_000, 40)];
    for ((bytes, owners), accounts) in cases.into_iter().flat_map(|case| [0, 3, 5000].map(|n| (case, n))) {
        let entries = if bytes > 10_000 { 100 } else { 5000 };
        let before = held();
        let mut shares = shares(UNLIMITED);
        for n in 0..entries {
            let account = (accounts > 0).then(|| format!("account {}", n % accounts));
            let owner = format!("client {}", n % owners);
            shares.insert_for(account.as_deref(), &owner, value(bytes)).unwrap();
        }
        let (real, counted) = (held() - before, shares.bytes() as i64);
        assert!(real <= counted + 4096, "{bytes} × {owners} × {accounts}: {real} bytes, counted {counted}");
        assert!(counted <= 2 * real, "{bytes} × {owners} × {accounts}: {real} bytes, counted {counted}");
        // Half of the entries are removed, in an order that leaves holes.
        let ids: Vec<EntryId> = shares.iter().map(|(id, ..)| id).step_by(2).collect();
        let listed = held();
        ids.iter().for_each(|id| drop(shares.remove(*id)));
        let (real, counted) = (real + held() - listed, shares.bytes() as i64);
        assert!(
            real <= counted + 4096,
            "{bytes} × {owners} × {accounts}: {real} bytes left, counted {counted}"
        );
        drop(ids);
        while shares.take_next_in_turn().is_some() {}
        assert_eq!((shares.bytes(), shares.len(), shares.owners()), (0, 0, 0));
        assert_eq!(held(), before, "{bytes} × {owners} × {accounts}: nothing stays");
    }
}

/// An index beside the shares costs what `tree_entry_bytes` returns.
#[test]
fn an_index_takes_the_charged_bytes() {
    let before = held();
    let mut index: std::collections::BTreeSet<(u64, u64)> = (0..10_000).map(|n| (n, n)).collect();
    for n in 0..10_000 {
        index.insert((n * 7919 % 10_000, 20_000 + n));
    }
    index.retain(|(_, number)| number % 3 == 0);
    let (real, computed) = (held() - before, tree_entry_bytes(16) as i64 * index.len() as i64);
    assert!(real <= computed + 1024, "{real} bytes, said {computed}");
}

/// Data that a plugin stores for each owner is charged once per owner, and the name can be shared
/// without another copy.
#[test]
fn an_owner_is_charged_for_additional_data() {
    let (mut plain, mut beside) =
        (Shares::<Value>::new(UNLIMITED), Shares::<Value>::new(UNLIMITED).beside_owner(1_000));
    for owner in ["a", "a", "b"] {
        plain.insert(owner, Box::default()).unwrap();
        let id = beside.insert(owner, Box::default()).unwrap();
        assert_eq!(beside.owner_name(id).map(|name| &**name), Some(owner));
    }
    assert_eq!(beside.bytes(), plain.bytes() + 2_000);
    assert_eq!(beside.owner_name(EntryId(99)), None);
    (1..4).for_each(|id| drop(beside.remove(EntryId(id))));
    assert_eq!(beside.bytes(), 0);
}

/// A clear takes one step of constant time, and its memory is freed afterwards, a few entries at a
/// time.
#[test]
fn cleared_entries_are_freed_in_slices() {
    let before = held();
    let mut left = DropQueue::default();
    let mut shares = Shares::<Value>::new(UNLIMITED);
    for n in 0..1_000 {
        shares.insert(&format!("{n}"), vec![0; 100].into()).unwrap();
    }
    let full = held();
    shares.clear_into(&mut left);
    assert!(held() >= full, "nothing is freed in that step");
    assert_eq!((shares.len(), shares.bytes(), shares.owners()), (0, 0, 0));
    assert_eq!(shares.insert("0", Box::default()).unwrap(), EntryId(1_001), "numbers go on");
    shares.remove(EntryId(1_001));
    let mut steps = 0;
    while left.free(100) {
        steps += 1;
    }
    assert!((10..50).contains(&steps), "{steps}");
    drop((left, shares));
    assert_eq!(held(), before);
}

/// Numbers that come from the previous version are not given again, nor are those of entries that
/// have been removed.
#[test]
fn no_number_is_used_twice() {
    let mut shares = shares(UNLIMITED);
    let ids: Vec<EntryId> = (0..3).map(|_| shares.insert("a", value(0)).unwrap()).collect();
    ids[1..].iter().for_each(|id| drop(shares.remove(*id)));
    assert!(shares.restore_as(EntryId(2), "a", value(0)));
    assert!(!shares.restore_as(EntryId(2), "a", value(0)));
    assert_eq!(shares.insert("a", value(0)).unwrap(), EntryId(4));
    assert!(shares.restore_as(EntryId(9), "a", value(0)));
    assert_eq!(shares.insert("a", value(0)).unwrap(), EntryId(10));
}
