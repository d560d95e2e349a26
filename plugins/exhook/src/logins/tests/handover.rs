//! What the next version of the plugin gets.

use super::*;

#[test]
fn entries_of_a_shard_are_separate() {
    let logins = kept_of(10, 10_000);
    assert!(keep(&logins, ANN, b"0", OWNER));
    for client_id in ["e", "d"] {
        logins.enter(of(client_id), 1, (S, OWNER), false);
        logins.store(data(of(client_id), b"1", 1), 1);
    }
    logins.store_of_login(data(of("c2"), b"1", 1), 1, Instant::now());
    assert_eq!(
        [None, Some("c2"), Some("d"), Some("e")].map(|after| logins.next(1, after)),
        [Some("c2".to_owned()), Some("d".to_owned()), Some("e".to_owned()), None]
    );
    let each = |shard, client_id| {
        let mut found = Vec::new();
        logins.each_of(shard, client_id, |over| {
            found.push((over.connection.port, over.bytes.unwrap().to_vec(), over.is_pending));
        });
        found
    };
    assert_eq!(each(1, "d"), [(1, b"1".to_vec(), false)]);
    assert_eq!(each(1, "c2"), [(1, b"1".to_vec(), true)]);
    assert_eq!(each(0, "d"), []);
    logins.clear(1);
    assert!(logins.of(ANN, 0, (S, OWNER)).is_some());
    assert_eq!(logins.lock().count, 1);
}

#[test]
fn changes_are_recorded_while_they_are_read() {
    let logins = kept_of(10, 10_000);
    let changes = || logins.take_changes(0).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(keep(&logins, of("a"), b"1", OWNER));
    logins.note_changes(0, true);
    assert!(keep(&logins, of("b"), b"1", OWNER));
    logins.enter(of("c"), 1, (S, OWNER), false);
    logins.store(data(of("c"), b"1", 1), 1);
    logins.note_changes(0, true);
    logins.forget(of("a"), 0);
    assert!(!keep(&logins, of("d"), &[0; 11], OWNER));
    logins.store_of_login(data(of("e"), b"1", 1), 0, Instant::now());
    assert_eq!(changes(), ["a", "b", "d", "e"]);
    assert!(changes().is_empty());
    assert_eq!(
        logins.store(data(of("b"), b"2", 1), 0),
        Some((OWNER, S)),
        "the next version is to hear of it"
    );
    logins.note_changes(0, false);
    assert!(keep(&logins, of("f"), b"1", OWNER));
    assert_eq!((logins.store(data(of("f"), b"2", 1), 0), changes().len()), (None, 0));
}

/// Late data from the worker of the version before is taken for its own session.
#[test]
fn what_comes_late_is_taken_for_its_session() {
    let logins = kept();
    let now = Instant::now();
    let over = |connection, session, bytes| HandedOver {
        connection,
        bytes,
        new_session: None,
        owner: OWNER,
        is_pending: false,
        is_uncertain: false,
        number: 0,
        session,
    };
    let stored = |session| logins.stored("c", 0, session, 2);
    logins.enter(ANN, 0, (S, OWNER), true);
    assert!(logins.take_late(0, over(ANN, S, Some(b"x")), now));
    assert_eq!((stored(S).as_deref(), uncertain(&logins)), (Some(&b"x"[..]), 0));
    assert!(logins.take_late(0, over(ANN, 0, None), now) && logins.is_empty(), "it is no longer true");
    // Where no event has shown the session, it may have ended.
    logins.over("c", 0, S);
    assert!(logins.take_late(0, over(ANN, S, Some(b"x")), now));
    assert_eq!((stored(S + 1), uncertain(&logins)), (None, 1));
    logins.confirm(ANN, 0, (S, OWNER), true);
    assert_eq!((stored(S).as_deref(), uncertain(&logins)), (Some(&b"x"[..]), 0));
    // Another session has begun, whether there is data of it or not.
    logins.enter(EVE, 0, (S + 1, OWNER), false);
    assert!(!logins.take_late(0, over(ANN, S, Some(b"x")), now) && logins.is_empty());
    logins.store(data(EVE, b"eve", 1), 0);
    assert!(!logins.take_late(0, over(ANN, S, Some(b"x")), now));
    assert!(!logins.take_late(0, over(ANN, S + 1, Some(b"x")), now), "an earlier connection");
    assert_eq!(stored(S + 1).as_deref(), Some(&b"eve"[..]));
    assert_eq!(logins.take_not_stored().count(), 0);
}
