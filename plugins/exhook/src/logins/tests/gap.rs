//! Periods in which nobody saw which sessions began and ended.

use super::*;

/// Doubted entries are charged to nobody and are evicted when room is needed, the owner's own
/// first.
#[test]
fn uncertain_entries_are_evicted_first() {
    let one = ENTRY + 4 + 8 + 10;
    let logins = kept_of(10, 80 * one);
    let names: Vec<_> = (1000..1200).map(|n| n.to_string()).collect();
    assert!(names[..10].iter().all(|name| keep(&logins, of(name), &[0; 10], 1)));
    assert!(names[10..70].iter().zip(2..).all(|(name, owner)| keep(&logins, of(name), &[0; 10], owner)));
    logins.mark_uncertain(0);
    logins.expire(Instant::now());
    assert_eq!(uncertain(&logins), 70);
    // An eighth of all the room that is not charged to a confirmed owner.
    assert!(names[100..110].iter().all(|name| keep(&logins, of(name), &[0; 10], 1)));
    assert!(!keep(&logins, of("1110"), &[0; 10], 1));
    assert_eq!(logins.take_not_stored(), NotStored { of_user: 1, ..NotStored::default() });
    assert_eq!(uncertain(&logins), 70, "there was room for these");
    assert!(names[111..119].iter().all(|name| keep(&logins, of(name), &[0; 10], 62)), "an eighth of 70");
    assert_eq!(uncertain(&logins), 62);
    assert_eq!(logins.take_not_stored(), NotStored { of_uncertain: 8, ..NotStored::default() });
    // Room that was granted stays granted, besides later entries.
    logins.confirm(of("1069"), 0, (S, 61), true);
    assert!(logins.of(of("1069"), 0, (S, 61)).is_some());
    let others = names[120..181].iter().zip(100..);
    assert!(others.into_iter().all(|(name, owner)| keep(&logins, of(name), &[0; 10], owner)));
    assert_eq!(uncertain(&logins), 0);
    assert_eq!(logins.take_not_stored(), NotStored { of_uncertain: 61, ..NotStored::default() });
    assert!(!keep(&logins, of("1199"), &[0; 10], 9999));
    assert!(logins.of(of("1069"), 0, (S, 61)).is_some() && logins.of(of("1100"), 0, (S, 1)).is_some());
    names.iter().for_each(|name| logins.over(name, 0, S));
    assert_eq!((bytes(&logins), count(&logins)), (0, 0));
}

/// A gap doubts all entries of its shard at once, without visiting them; they are listed in
/// batches.
#[test]
fn a_gap_makes_all_entries_of_its_shard_uncertain_at_once() {
    let logins = LoginStore::new((100, 100 << 20), 4, None);
    let names: Vec<_> = (0..3 * state::SLICE).map(|n| format!("{n:05}")).collect();
    assert!(names.iter().all(|name| keep(&logins, of(name), b"x", OWNER)));
    logins.enter(of("elsewhere"), 1, (S, OWNER), false);
    logins.store(data(of("elsewhere"), b"x", 1), 1);
    logins.mark_uncertain(0);
    assert!(names.iter().all(|name| logins.stored(name, 0, S, 2).is_some()), "each to its own session");
    logins.confirm(of("00007"), 0, (S, OWNER), true);
    for listed in [1, 2, 3, 3] {
        logins.expire(Instant::now());
        assert_eq!(uncertain(&logins), listed * state::SLICE - 1);
    }
    // Listed ones too, also for another connection of that session; a second gap doubts them again.
    logins.confirm(Connection { port: 9, ..of("00008") }, 0, (S, OWNER), false);
    assert_eq!(uncertain(&logins), 3 * state::SLICE - 2);
    logins.mark_uncertain(0);
    for _ in 0..4 {
        logins.expire(Instant::now());
    }
    assert_eq!(uncertain(&logins), 3 * state::SLICE);
    names.iter().for_each(|name| logins.over(name, 0, S));
    logins.over("elsewhere", 1, S);
    assert_eq!((bytes(&logins), count(&logins), uncertain(&logins)), (0, 0, 0));
}

/// A client that is in after a gap stores data from then on, even if none was stored before.
#[test]
fn a_client_connected_after_a_gap_stores_its_data() {
    for was_known in [true, false] {
        let logins = kept();
        logins.enter(ANN, 0, (S, OWNER), false);
        logins.mark_uncertain(0);
        logins.expire(Instant::now());
        logins.store(data(ANN, b"ann", 1), 0);
        assert!(logins.is_empty(), "nobody has seen it since");
        logins.confirm(ANN, 0, (S, OWNER), was_known);
        logins.store(data(ANN, b"ann", 1), 0);
        assert_eq!(logins.of(ANN, 0, (S, OWNER)).as_deref(), Some(&b"ann"[..]));
        // It may have gone, if nobody knew it before.
        assert_eq!(uncertain(&logins), usize::from(!was_known));
        // Another connection resumes the session unseen.
        logins.mark_uncertain(0);
        logins.confirm(EVE, 0, (S, OWNER), false);
        assert_eq!(logins.stored("c", 0, S, 2).as_deref(), Some(&b"ann"[..]), "it is the session's");
        logins.store(data(EVE, b"eve", 1), 0);
        assert_eq!(logins.stored("c", 0, S, 2).as_deref(), Some(&b"eve"[..]));
        // Another session begins unseen.
        logins.confirm(EVE, 0, (S + 1, OWNER), false);
        assert_eq!(logins.stored("c", 0, S + 1, 2), None);
        logins.store(data(EVE, b"anew", 1), 0);
        assert_eq!(logins.stored("c", 0, S + 1, 2).as_deref(), Some(&b"anew"[..]));
        // An event of the session before comes late.
        logins.confirm(ANN, 0, (S, OWNER), true);
        logins.store(data(ANN, b"late", 1), 0);
        assert_eq!(logins.stored("c", 0, S + 1, 2).as_deref(), Some(&b"anew"[..]));
        logins.over("c", 0, S + 1);
        assert_eq!((bytes(&logins), count(&logins), uncertain(&logins)), (0, 0, 0));
    }
}

/// Events of connections whose sessions may have ended are recorded up to a limit: their end may
/// never be reported.
#[test]
fn no_more_of_those_who_may_have_gone_are_recorded_than_there_are_places() {
    let logins = kept();
    for n in 0..100 {
        let name = n.to_string();
        logins.confirm(of(&name), 0, (S + n, OWNER), false);
        logins.store(data(of(&name), b"x", 1), 0);
    }
    assert_eq!((count(&logins), uncertain(&logins)), (4, 4));
    logins.enter(ANN, 0, (S, OWNER), false);
    logins.store(data(ANN, b"ann", 1), 0);
    assert_eq!((count(&logins), uncertain(&logins)), (5, 4), "who is seen to come in is always recorded");
}

/// While the hooks that report the ends of sessions are unmounted, no more sessions are recorded
/// than may be, and what that costs is counted.
#[test]
fn sessions_whose_ends_are_not_reported_are_bounded() {
    let logins = kept();
    let enter = |n: usize| logins.enter(of(&n.to_string()), 0, (S + n as u64, OWNER), false);
    (0..LIVE_LEAST).for_each(enter);
    assert_eq!(logins.take_not_stored(), NotStored::default());
    enter(LIVE_LEAST);
    assert_eq!(logins.take_not_stored(), NotStored { of_sessions: 1, ..NotStored::default() });
    let stores = |n: usize| {
        logins.store(data(of(&n.to_string()), b"x", 1), 0);
        logins.stored(&n.to_string(), 0, S + n as u64, 2).is_some()
    };
    assert_eq!([0, 1, LIVE_LEAST].map(stores), [false, true, true]);
    // It connects again.
    enter(0);
    assert!(stores(0));
}
