//! Pending logins.

use super::*;

/// A pending login that claims a client's identifier has its own number, in the worker too: calls
/// about the two are not confused. When it has connected, its number becomes the client's, and the
/// earlier number is not used again.
#[test]
fn a_pending_login_is_not_the_client_that_it_names() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let (ann, eve) = (who(1), who(2));
    let connecting = ConnectDetails { password: Some(b"x"), ..ConnectDetails::default() };
    let first = number(&queue, &mut clients, &ann, None);
    assert_eq!(waiting(&queue), [(DESCRIBED, first.number)]);
    let second = number(&queue, &mut clients, &eve, Some(&connecting));
    assert_ne!(second.number, first.number);
    // Calls about the two are queued independently, each in order.
    call(&queue, &ann, first.clone(), 5);
    assert!(
        !clients.locate(&eve, ConnectionState::Packet).is_connected
            && clients.locate(&ann, ConnectionState::Packet).is_connected
    );
    assert_eq!(number(&queue, &mut clients, &ann, None).number, first.number);
    assert_eq!(waiting(&queue), [(DESCRIBED, second.number), (5, first.number)], "nothing is described anew");
    // A refusal is its last event; the client stays.
    let refused = |clients: &mut Clients, who: &EventClient<'_>| {
        let place = clients.locate(who, ConnectionState::Refused);
        let owner = Owner::Address("127.0.0.1");
        clients.last_call(&mut write_for(&queue, owner), who, (place, POINT), |writer, client| {
            writer.call(0, 6, client, |data| {
                data.nil();
            });
        });
        waiting(&queue)
    };
    let n = second.number;
    assert_eq!(refused(&mut clients, &eve), [(DESCRIBED, n), (6, n), (FORGOTTEN, n)]);
    assert_eq!((clients.pending_logins.len(), clients.described.len()), (0, 1));
    assert_eq!(number(&queue, &mut clients, &ann, None).number, first.number);
    // A connection without earlier events.
    let describe_once = refused(&mut clients, &who(9));
    assert_eq!(describe_once.iter().map(|call| call.0).collect::<Vec<_>>(), [DESCRIBED, 6, FORGOTTEN]);
    // It comes again and connects: its calls follow those in the queue of its address.
    let third = number(&queue, &mut clients, &eve, Some(&connecting)).number;
    assert_eq!(number(&queue, &mut clients, &eve, None).number, third);
    assert_eq!(waiting(&queue), [(DESCRIBED, third), (FORGOTTEN, first.number), (DESCRIBED, third)]);
    assert!(
        clients.locate(&eve, ConnectionState::Packet).is_connected
            && !clients.locate(&ann, ConnectionState::Packet).is_connected
    );
    assert_eq!((clients.pending_logins.len(), clients.described.len()), (0, 1));
}

/// A login that never succeeds evicts no client from the table, and no pending login of other
/// addresses.
#[test]
fn pending_logins_evict_those_of_the_largest_address() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    number(&queue, &mut clients, &who(1), None);
    let connecting = ConnectDetails::default();
    let other = EventClient { peer_host: Some("10.0.0.1"), ..who(1) };
    let waits = number(&queue, &mut clients, &other, Some(&connecting)).number;
    let mut numbers = Vec::new();
    for port in 2..1002 {
        numbers.push(number(&queue, &mut clients, &who(port), Some(&connecting)).number);
    }
    assert_eq!((clients.pending_logins.len(), clients.described.len()), (VISITORS, 1));
    let mut forgotten = Vec::new();
    loop {
        let calls = waiting(&queue);
        if calls.is_empty() {
            break;
        }
        forgotten.extend(calls.iter().filter(|call| call.0 == FORGOTTEN).map(|call| call.1));
    }
    assert_eq!(forgotten, numbers[..1000 - (VISITORS - 1)], "those that came first at the fullest");
    assert_eq!(number(&queue, &mut clients, &other, None).number, waits);
    for port in 903..1002 {
        leave(&queue, &mut clients, &who(port), 7);
    }
    assert_eq!(clients.pending_logins.len(), 0);
}

/// The numbers that are not used again, from the queued calls.
fn removed(queue: &CallQueue) -> Vec<u64> {
    let frames = std::iter::repeat_with(|| waiting(queue)).take_while(|calls| !calls.is_empty());
    frames.flatten().filter(|call| call.0 == FORGOTTEN).map(|call| call.1).collect()
}

fn epoch_notified(
    queue: &CallQueue,
    clients: &mut Clients,
    who: &EventClient<'static>,
    connection_state: ConnectionState,
) -> (u64, bool) {
    let place = clients.locate(who, connection_state);
    let connecting = ConnectDetails::default();
    let connecting = matches!(connection_state, ConnectionState::Connecting).then_some(&connecting);
    let mut writing = write_for(queue, owner(who, place));
    let number = clients.number(&mut writing, who, connecting, place).number;
    assert!(writing.is_taken(POINT));
    (number, place.is_connected)
}

/// A late event of a connection that has gone, such as its will, does not replace a later client.
#[test]
fn late_events_of_a_closed_connection_do_not_replace_the_client() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let (old, new) = (who(1), who(2));
    epoch_notified(&queue, &mut clients, &old, ConnectionState::Connecting);
    epoch_notified(&queue, &mut clients, &old, ConnectionState::Admitted);
    let (number, _) = epoch_notified(&queue, &mut clients, &new, ConnectionState::Connecting);
    assert_eq!(epoch_notified(&queue, &mut clients, &new, ConnectionState::Admitted), (number, true));
    removed(&queue);
    for (connection_state, is_connected) in [
        (ConnectionState::Unknown, false),
        (ConnectionState::Connected, true),
        (ConnectionState::Authorizing, false),
    ] {
        assert_eq!(epoch_notified(&queue, &mut clients, &old, connection_state).1, is_connected);
        assert_eq!(epoch_notified(&queue, &mut clients, &new, ConnectionState::Connected), (number, true));
    }
    assert!(removed(&queue).is_empty());
    assert!(!clients.expire(None, later()) && clients.pending_logins.len() == 0);
    // A connection without events while it was in.
    let silent = who(3);
    let (waits, _) = epoch_notified(&queue, &mut clients, &silent, ConnectionState::Connecting);
    let (next, _) = epoch_notified(&queue, &mut clients, &who(4), ConnectionState::Connecting);
    epoch_notified(&queue, &mut clients, &who(4), ConnectionState::Admitted);
    removed(&queue);
    assert_eq!(epoch_notified(&queue, &mut clients, &silent, ConnectionState::Connected), (waits, true));
    assert_eq!(
        (epoch_notified(&queue, &mut clients, &who(4), ConnectionState::Connected), removed(&queue)),
        ((next, true), vec![])
    );
}

/// The connection that the broker lets in is the client, whatever came before.
#[test]
fn the_last_admitted_connection_is_the_client() {
    for connection_state in [ConnectionState::Admitted, ConnectionState::Connected] {
        let queue = writer();
        let mut clients = Clients::new(0, PLACES, none());
        let (old, new) = (who(1), who(2));
        epoch_notified(&queue, &mut clients, &old, ConnectionState::Connected);
        let (number, _) = epoch_notified(&queue, &mut clients, &new, ConnectionState::Connecting);
        leave(&queue, &mut clients, &old, 7);
        epoch_notified(&queue, &mut clients, &old, ConnectionState::Connected);
        assert_eq!(epoch_notified(&queue, &mut clients, &new, connection_state), (number, true));
        assert!(clients.locate(&new, ConnectionState::Packet).is_connected);
        assert_eq!(clients.pending_logins.len(), 0);
    }
    // Two logins that succeed in reverse order.
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let (first, _) = epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Connecting);
    let (second, _) = epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Connecting);
    epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Admitted);
    assert_eq!(epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Admitted), (first, true));
    assert_eq!((removed(&queue), clients.pending_logins.len()), (vec![second], 0));
}

/// An authorization request about the session of another user, before the login succeeds, is not
/// the client's.
#[test]
fn an_authorization_for_an_inherited_session_does_not_admit_the_login() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Connected);
    // The same without a user name, for another user's session.
    epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Connecting);
    assert!(!epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Authorizing).1);
    assert!(epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Admitted).1);
    assert!(epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Authorizing).1);
    // Nor one whose start was not seen, if another connection is the client; without a client, it
    // may have been in before.
    assert!(!epoch_notified(&queue, &mut clients, &who(3), ConnectionState::Authorizing).1);
    let other = EventClient { client_id: "d", ..who(3) };
    assert!(epoch_notified(&queue, &mut clients, &other, ConnectionState::Authorizing).1);
}

/// After one packet a login may still be refused; after a second one its client is in.
#[test]
fn a_second_packet_shows_that_a_login_succeeded() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Connected);
    let eve = EventClient { client_id: "d", ..who(2) };
    epoch_notified(&queue, &mut clients, &eve, ConnectionState::Connecting);
    assert!(!epoch_notified(&queue, &mut clients, &eve, ConnectionState::PacketSeen).1);
    assert!(epoch_notified(&queue, &mut clients, &eve, ConnectionState::PacketSeen).1);
    assert!(epoch_notified(&queue, &mut clients, &eve, ConnectionState::Packet).1);
    assert!(
        !epoch_notified(&queue, &mut clients, &who(3), ConnectionState::PacketSeen).1,
        "nor may one that was not seen to come"
    );
    assert!(epoch_notified(&queue, &mut clients, &who(3), ConnectionState::PacketSeen).1);
    assert!(
        epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Packet).1,
        "which takes nobody's place"
    );
    // A later refusal stays in the client's queue.
    assert!(clients.locate(&eve, ConnectionState::Refused).is_connected);
}

/// A time at which a pending login without events has expired.
fn later() -> Instant {
    Instant::now() + PLACES.pending_time_max + Duration::from_secs(1)
}

/// A pending login with a request about its will has neither the queue nor the number of the client
/// that it names, whether its start was seen or not. When it is let in, it becomes the client.
#[test]
fn the_will_of_a_pending_login_is_not_the_clients() {
    for is_seen in [false, true] {
        let queue = writer();
        let mut clients = Clients::new(0, PLACES, none());
        let (ann, eve) = (who(1), who(2));
        let (first, _) = epoch_notified(&queue, &mut clients, &ann, ConnectionState::Connected);
        if is_seen {
            epoch_notified(&queue, &mut clients, &eve, ConnectionState::Connecting);
        }
        let (second, is_connected) = epoch_notified(&queue, &mut clients, &eve, ConnectionState::Unknown);
        assert!(!is_connected && second != first);
        assert_eq!(epoch_notified(&queue, &mut clients, &eve, ConnectionState::Unknown), (second, false));
        assert_eq!(epoch_notified(&queue, &mut clients, &ann, ConnectionState::Unknown), (first, true));
        assert!(removed(&queue).is_empty());
        assert_eq!(epoch_notified(&queue, &mut clients, &eve, ConnectionState::Admitted), (second, true));
        assert_eq!(removed(&queue), [first]);
    }
}

/// The end of a pending login is not reported. It expires, and its bytes are limited until then;
/// the address with the most bytes is evicted first.
#[test]
fn an_unsuccessful_login_leaves_no_record() {
    let queue = writer();
    let mut clients = Clients::new(0, ClientLimits { pending_bytes_max: 100_000, ..PLACES }, none());
    let come = |clients: &mut Clients, who: &EventClient<'static>, payload: &[u8]| {
        let connecting = ConnectDetails { will: Some(("t", payload, 0, false)), ..ConnectDetails::default() };
        number(&queue, clients, who, Some(&connecting)).number
    };
    let other = EventClient { peer_host: Some("10.0.0.2"), ..who(1) };
    let waits = come(&mut clients, &other, &[0; 60_000]);
    let numbers: Vec<_> = (1..50).map(|port| come(&mut clients, &who(port), &[0; 8_000])).collect();
    assert!(clients.pending_logins.bytes() <= 100_000);
    // At first the other address has the most.
    let forgotten = removed(&queue);
    assert_eq!(forgotten[0], waits);
    assert_eq!(forgotten[1..], numbers[..forgotten.len() - 1], "and those that came first");
    // A single one may have more.
    come(&mut clients, &who(50), &[0; 110_000]);
    assert_eq!(
        (clients.pending_logins.len(), removed(&queue).len()),
        (1, numbers.len() + 1 - forgotten.len())
    );
    let forget = |clients: &mut Clients, now| {
        let mut writing = queue.write_forgotten(Owner::Address("")).unwrap();
        let more = clients.expire(Some(&mut writing), now);
        writing.done();
        (more, removed(&queue).len())
    };
    for port in 51..400 {
        come(&mut clients, &who(port), b"");
    }
    removed(&queue);
    assert_eq!(forget(&mut clients, Instant::now()), (false, 0));
    let count = clients.pending_logins.len();
    assert!((50..=VISITORS).contains(&count));
    assert_eq!((forget(&mut clients, later()), clients.pending_logins.len()), ((false, count), 0));
}

/// A pending login with events stays.
#[test]
fn a_pending_login_with_events_does_not_expire() {
    let mut pending_logins = PendingLogins::new(PLACES);
    let now = Instant::now();
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    for port in 1..4 {
        epoch_notified(&queue, &mut clients, &who(port), ConnectionState::Connecting);
    }
    std::mem::swap(&mut pending_logins, &mut clients.pending_logins);
    let login_key = clients.login_key(&who(2));
    let after = |part: u32| now + PLACES.pending_time_max / 4 * part;
    assert!(
        pending_logins.touch(login_key, after(3)).is_some() && pending_logins.expired(after(3)).is_none()
    );
    assert!(pending_logins.expired(after(5)).is_some() && pending_logins.expired(after(5)).is_some());
    assert!(pending_logins.expired(after(5)).is_none() && pending_logins.get(login_key).is_some());
    assert!(pending_logins.expired(after(8)).is_some());
    assert_eq!((pending_logins.len(), pending_logins.bytes()), (0, 0));
}

/// A connection from the address and port of a client whose end was missed is not that client. When
/// it ends, both are forgotten, with a notification.
#[test]
fn a_pending_login_at_a_stale_clients_address_is_not_that_client() {
    for is_notified in [false, true] {
        let queue = writer();
        let mut clients = Clients::new(0, PLACES, none());
        let (stale, _) = epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Connected);
        let (new, _) = epoch_notified(&queue, &mut clients, &who(1), ConnectionState::Connecting);
        assert_ne!(stale, new);
        removed(&queue);
        let place = clients.locate(&who(1), ConnectionState::Refused);
        if is_notified {
            let mut writing = write_for(&queue, Owner::Address("127.0.0.1"));
            clients.last_call(&mut writing, &who(1), (place, POINT), |writer, client| {
                writer.call(0, 6, client, |data| {
                    data.nil();
                });
            });
        } else {
            let mut writing = queue.write_forgotten(Owner::Address("127.0.0.1")).unwrap();
            clients.connection_ended(Some((&mut writing, place)), &who(1));
        }
        let mut removed = removed(&queue);
        removed.sort_unstable();
        assert_eq!(
            (removed, clients.pending_logins.len(), clients.described.len()),
            (vec![stale, new], 0, 0)
        );
    }
}

/// What a pending login gave is stored without its CONNACK, if its network connection is known.
/// Another connection from the same port gets none of it.
#[test]
fn a_login_is_found_by_the_number_of_its_connection() {
    let details = |connection| ConnectDetails { connection, ..ConnectDetails::default() };
    let stored = |logins: &LoginStore| logins.of(who(2).connection(), 0, who(2).session()).is_some();
    let begin = || {
        let (queue, logins) = (writer(), none());
        let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
        let named = number(&queue, &mut clients, &who(2), Some(&details(7)));
        let connecting = who(2);
        let gave = LoginData {
            connection: connecting.connection(),
            bytes: b"ann",
            new_session: None,
            epoch: 1,
            number: named.number,
        };
        logins.store_of_login(gave, 0, Instant::now());
        (queue, logins, clients)
    };
    let (_, logins, clients) = begin();
    clients.enter_unanswered(&who(2), 7);
    assert!(stored(&logins));
    // An event shows that it is in before client.connected does.
    let (queue, logins, mut clients) = begin();
    assert!(epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Admitted).1);
    clients.enter_unanswered(&who(2), 7);
    assert!(stored(&logins));
    // Another connection, whose login was not seen.
    for connection in [0, 8] {
        let (_, logins, clients) = begin();
        clients.enter_unanswered(&who(2), connection);
        assert!(!stored(&logins), "{connection}");
    }
    // Another connection, whose login was seen: the first one has closed.
    let (queue, logins, mut clients) = begin();
    let (before, _) = epoch_notified(&queue, &mut clients, &who(2), ConnectionState::Packet);
    removed(&queue);
    let after = number(&queue, &mut clients, &who(2), Some(&details(8))).number;
    assert_eq!((removed(&queue), clients.pending_logins.len()), (vec![before], 1));
    assert_ne!(after, before);
    clients.enter(&who(2), false);
    assert!(!stored(&logins));
    // Another round of the same login.
    assert_eq!(number(&queue, &mut clients, &who(2), Some(&details(8))).number, after);
    // Events were missed since.
    let (_, logins, clients) = begin();
    logins.mark_uncertain(1);
    clients.enter_unanswered(&who(2), 7);
    assert!(!stored(&logins));
}
