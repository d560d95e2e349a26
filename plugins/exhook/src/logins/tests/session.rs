//! What is stored of a login, and for which connection and session it is shown.

use super::*;

#[test]
fn a_login_is_its_connections_and_its_sessions() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER));
    assert_eq!(logins.of(ANN, 0, (S, OWNER)).as_deref(), Some(&b"ann"[..]));
    assert_eq!(logins.of(EVE, 0, (S, OWNER)), None, "another connection under the same identifier");
    assert_eq!(logins.stored("c", 0, S, 1), None, "that process has it itself");
    assert_eq!(logins.stored("c", 0, S, 2).as_deref(), Some(&b"ann"[..]));
    logins.forget(EVE, 0);
    assert!(logins.of(ANN, 0, (S, OWNER)).is_some());
    logins.forget(ANN, 0);
    assert!(logins.of(ANN, 0, (S, OWNER)).is_none() && logins.is_empty());
    assert_eq!(logins.lock().bytes(), 0);
}

/// Nothing is stored for a client that was not seen to connect, or whose session has ended.
#[test]
fn nothing_is_stored_without_a_session() {
    let logins = kept();
    logins.store(data(ANN, b"ann", 1), 0);
    assert!(logins.is_empty());
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.over("c", 0, S);
    logins.store(data(ANN, b"late", 1), 0);
    assert!(logins.is_empty());
    assert_eq!(logins.lock().bytes(), 0);
    assert_eq!(logins.take_not_stored().count(), 0);
}

/// Data of an answered login belongs to the session when its client connects, not earlier.
#[test]
fn data_of_a_login_belongs_to_the_session_once_connected() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.store_of_login(data(EVE, b"eve", 1), 0, Instant::now());
    assert_eq!(
        (logins.of(EVE, 0, (S, OWNER)), logins.stored("c", 0, S, 2).as_deref()),
        (None, Some(&b"ann"[..]))
    );
    logins.refused(EVE, 0);
    logins.enter(EVE, 0, (S, OWNER), false);
    assert_eq!(logins.of(EVE, 0, (S, OWNER)), None, "another plugin did not let her in");
    logins.store_of_login(data(EVE, b"eve", 1), 0, Instant::now());
    logins.over("c", 0, S);
    logins.enter(EVE, 0, (S, OWNER), false);
    assert_eq!(
        (logins.of(EVE, 0, (S, OWNER)).as_deref(), logins.of(ANN, 0, (S, OWNER))),
        (Some(&b"eve"[..]), None)
    );
    // If the new data has no room, the session's earlier data is removed too.
    logins.store_of_login(data(ANN, &[0; 101], 1), 0, Instant::now());
    logins.enter(ANN, 0, (S, OWNER), false);
    assert!(logins.is_empty());
    assert_eq!(logins.take_not_stored(), NotStored { too_long: 1, ..NotStored::default() });
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.pending_without_data(EVE, 0, Instant::now());
    logins.enter(EVE, 0, (S, OWNER), false);
    assert!(logins.is_empty(), "the worker cannot say what it gave");
    // Pending logins that never connect do not stay forever.
    for port in 0..9 {
        logins.store_of_login(data(Connection { port, ..ANN }, b"x", 1), 0, Instant::now());
    }
    assert_eq!(logins.lock().count, 4);
    assert_eq!(logins.take_not_stored(), NotStored { of_pending: 5, ..NotStored::default() });
    logins.clear(0);
    assert_eq!((logins.lock().bytes(), logins.is_empty()), (0, true));
}

#[test]
fn a_description_contains_its_login_data() {
    let logins = kept();
    let described = |port: u16, (user, anonymous): (&str, bool), is_connecting: bool| {
        let mut about = Vec::new();
        let mut out = Writer(&mut about);
        out.map(5 + usize::from(is_connecting)).text("client_id").text("c");
        out.text("peer_host").text("10.0.0.1").text("peer_port").number(port);
        out.text("username").text(user).text("anonymous").flag(anonymous);
        if is_connecting {
            out.text("will").nil();
        }
        logins.described(&about, 0, S)
    };
    let ann = ("ann", false);
    assert_eq!(described(1, ann, false), None);
    assert!(keep(&logins, ANN, b"ann", owner_of(Some("ann"), "")));
    let bytes = described(1, ann, false).unwrap();
    let value = rmpv::decode::read_value_ref(&mut bytes.as_slice()).unwrap();
    assert_eq!(get(&value, "login").and_then(crate::wire::bytes_ref), Some(&b"ann"[..]));
    assert_eq!(described(2, ann, false), None);
    assert_eq!(logins.described(b"nonsense", 0, S), None);
    // Another user with the same address, port and identifier, or one that is not in yet.
    assert_eq!(described(1, ("eve", false), false), None);
    assert_eq!(described(1, ("ann", true), false), None);
    assert_eq!(described(1, ann, true), None);
    assert_eq!(logins.of(ANN, 0, (S, owner_of(None, "10.0.0.1"))), None);
}

/// However often a client connects, and from where, it has one entry of limited size.
#[test]
fn a_client_has_one_entry() {
    let logins = kept_of(10, 1000);
    for port in 0..1000 {
        assert!(keep(&logins, Connection { port, ..ANN }, &[0; 10], OWNER));
    }
    let state = logins.lock();
    assert_eq!((state.count, state.bytes()), (1, ENTRY + 1 + 8 + 10));
}

/// A refused login leaves no data, even if its data could not be stored.
#[test]
fn a_refused_login_leaves_no_data() {
    let logins = kept();
    logins.pending_without_data(EVE, 0, Instant::now());
    logins.refused(EVE, 0);
    assert!(keep(&logins, ANN, b"ann", OWNER));
    logins.enter(EVE, 0, (S, OWNER), true);
    assert_eq!(logins.stored("c", 0, S, 2).as_deref(), Some(&b"ann"[..]));
    // A new session has no data of an earlier login, even if the end of the old session was not
    // reported.
    logins.enter(EVE, 0, (S + 1, OWNER), false);
    assert!(logins.is_empty());
}

/// A login that requests to resume a session has different data if a new one begins: data that
/// another user's plugins stored in the old session is not used.
#[test]
fn a_new_session_has_no_data_of_the_one_before() {
    let logins = kept();
    let both = |connection| LoginData {
        connection,
        bytes: b"of the session, and her own",
        new_session: Some(b"her own"),
        epoch: 1,
        number: 0,
    };
    for (port, goes_on) in [(1, true), (2, false)] {
        let connection = Connection { port, ..ANN };
        logins.store_of_login(both(connection), 0, Instant::now());
        logins.enter(connection, 0, (S, OWNER), goes_on);
        let expected = if goes_on { &b"of the session, and her own"[..] } else { b"her own" };
        assert_eq!(logins.of(connection, 0, (S, OWNER)).as_deref(), Some(expected));
        // The report of the version before comes only now.
        let late = Connection { port: port + 10, ..ANN };
        logins.enter(late, 0, (S, OWNER), goes_on);
        logins.store_of_login(both(late), 0, Instant::now());
        logins.enter_again(late, 0);
        assert_eq!(logins.of(late, 0, (S, OWNER)).as_deref(), Some(expected));
    }
    // Both are charged, and neither may exceed the limit for one login.
    let long = |bytes, new_session| LoginData {
        connection: EVE,
        bytes,
        new_session: Some(new_session),
        epoch: 1,
        number: 0,
    };
    for (bytes, new_session) in [(&[0; 101][..], &b""[..]), (b"", &[0; 101])] {
        logins.store_of_login(long(bytes, new_session), 0, Instant::now());
        logins.enter(EVE, 0, (S, OWNER), true);
        assert_eq!(logins.of(EVE, 0, (S, OWNER)), None);
    }
    assert_eq!(logins.take_not_stored(), NotStored { too_long: 2, ..NotStored::default() });
    assert_eq!(bytes(&logins), 0);
}

/// What is stored for a session is shown for no other, even if nobody saw the one end and the other
/// begin; and it is removed when the client is seen in the other one.
#[test]
fn what_is_anothers_session_is_shown_to_nobody() {
    for begins in [false, true] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"ann", OWNER));
        assert_eq!((logins.of(ANN, 0, (S + 1, OWNER)), logins.stored("c", 0, S + 1, 2)), (None, None));
        assert_eq!((logins.of(ANN, 0, (0, OWNER)), logins.stored("c", 0, 0, 2)), (None, None), "no session");
        if begins {
            logins.enter(ANN, 0, (S + 1, OWNER), false);
        } else {
            logins.confirm(ANN, 0, (S + 1, OWNER), true);
        }
        assert_eq!((bytes(&logins), logins.is_empty()), (0, true));
        // The end of the first one is reported late.
        logins.store(data(ANN, b"anew", 1), 0);
        logins.over("c", 0, S);
        assert!(logins.of(ANN, 0, (S + 1, OWNER)).is_some());
        logins.over("c", 0, S + 1);
        assert!(logins.is_empty());
    }
}

/// A session that begins has the data of the login that began it.
#[test]
fn a_session_that_begins_has_nothing_of_the_one_before() {
    for gives in [true, false] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"ann", OWNER));
        if gives {
            logins.store_of_login(data(EVE, b"eve", 1), 0, Instant::now());
        }
        logins.enter(EVE, 0, (S + 1, OWNER), false);
        let expected = gives.then_some(&b"eve"[..]);
        assert_eq!(logins.of(EVE, 0, (S + 1, OWNER)).as_deref(), expected);
        assert_eq!(logins.stored("c", 0, S, 2), None);
    }
}

/// A report about a connection that another one has taken over is not of that other one's login.
#[test]
fn what_is_said_of_an_earlier_connection_is_not_kept() {
    let logins = kept();
    assert!(keep(&logins, ANN, b"ann", OWNER));
    for session in [S, S + 1] {
        assert!(keep_in(&logins, session, EVE, b"eve"));
        logins.store(data(ANN, b"ann, late", 1), 0);
        assert_eq!(logins.stored("c", 0, session, 2).as_deref(), Some(&b"eve"[..]));
    }
}

/// An event of an earlier connection of the session, as of a message that a plugin publishes for it
/// later, does not make it the last one.
#[test]
fn a_late_event_of_an_earlier_connection_changes_nothing() {
    for is_known in [false, true] {
        let logins = kept();
        logins.enter(ANN, 0, (S, 5), false);
        logins.enter(EVE, 0, (S, OWNER), true);
        logins.confirm(ANN, 0, (S, 5), is_known);
        logins.store(data(ANN, b"ann", 1), 0);
        assert!(logins.is_empty());
        logins.store(data(EVE, b"eve", 1), 0);
        assert_eq!(logins.of(EVE, 0, (S, OWNER)).as_deref(), Some(&b"eve"[..]));
        assert_eq!(uncertain(&logins), 0);
        logins.over("c", 0, S);
        assert_eq!((bytes(&logins), logins.is_empty()), (0, true));
    }
}

/// The operator has taken out the hook at client.connack, and the login was not seen either: it is
/// not known whose login is pending from this address, so it is not the client's, and what there was
/// is not its own either.
#[test]
fn a_login_whose_answer_was_not_seen_leaves_nothing() {
    for (is_pending, expected) in [(true, None), (false, Some(&b"ann"[..]))] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"ann", OWNER));
        if is_pending {
            logins.store_of_login(data(EVE, b"eve", 1), 0, Instant::now());
        }
        logins.enter_unanswered(EVE, 0, (S, OWNER), None);
        assert_eq!(logins.stored("c", 0, S, 2).as_deref(), expected);
        logins.store(data(EVE, b"more", 1), 0);
        assert_eq!(logins.of(EVE, 0, (S, OWNER)).as_deref(), Some(&b"more"[..]));
    }
}

/// The operator has taken out the hook at client.connack, and the login was seen: what it gave is
/// the client's, and no other login's is.
#[test]
fn a_login_that_was_seen_needs_no_answer() {
    let eve = LoginData { number: 9, new_session: Some(b"anew"), ..data(EVE, b"eve", 1) };
    // The number of the login, the session at its time, the session now, and what is stored then.
    for (number, before, session, expected) in [
        (9, S, S, Some(&b"eve"[..])),
        (9, 0, S + 1, Some(b"anew")),
        (9, S, S + 1, Some(b"anew")),
        // Another connection has begun the session meanwhile.
        (9, 0, S, Some(b"eve")),
        // It is the data of an earlier connection from the same port.
        (8, S, S, None),
    ] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"ann", OWNER));
        logins.store_of_login(eve, 0, Instant::now());
        let own = Some(OwnLogin { number, session: before });
        logins.enter_unanswered(EVE, 0, (session, OWNER), own);
        assert_eq!(logins.stored("c", 0, session, 2).as_deref(), expected, "{number} {before} {session}");
        logins.over("c", 0, session);
        assert_eq!((bytes(&logins), count(&logins)), (0, 0));
    }
    // It gave nothing, or what it gave found no room.
    for (is_lost, expected) in [(false, Some(&b"ann"[..])), (true, None)] {
        let logins = kept();
        assert!(keep(&logins, ANN, b"ann", OWNER));
        if is_lost {
            logins.pending_without_data(EVE, 0, Instant::now());
        }
        logins.enter_unanswered(EVE, 0, (S, OWNER), Some(OwnLogin { number: 9, session: S }));
        assert_eq!(logins.stored("c", 0, S, 2).as_deref(), expected);
    }
}
