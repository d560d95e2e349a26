//! Pending logins.

use super::*;

/// A pending login that claims a client's identifier has its own number, in the worker too: calls
/// about the two are not confused. When it has connected, its number becomes the client's, and the
/// earlier number is not used again.
#[test]
fn who_wants_to_come_in_is_not_the_client_that_it_names() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let (ann, eve) = (who(1), who(2));
    let entering = Entering { password: Some(b"x"), ..Entering::default() };
    let first = number(&queue, &mut clients, &ann, None);
    assert_eq!(waiting(&queue), [(DESCRIBED, first.number)]);
    let second = number(&queue, &mut clients, &eve, Some(&entering));
    assert_ne!(second.number, first.number);
    // Calls about the two are queued independently, each in order.
    call(&queue, &ann, first.clone(), 5);
    assert!(!clients.locate(&eve, Moment::Packet).is_in && clients.locate(&ann, Moment::Packet).is_in);
    assert_eq!(number(&queue, &mut clients, &ann, None).number, first.number);
    assert_eq!(waiting(&queue), [(DESCRIBED, second.number), (5, first.number)], "nothing is described anew");
    // A refusal is its last event; the client stays.
    let refused = |clients: &mut Clients, who: &Who<'_>| {
        let place = clients.locate(who, Moment::IsRefused);
        let owner = Owner::Address("127.0.0.1");
        clients.last_call(&mut write_for(&queue, owner), who, (place, POINT), |line, client| {
            line.call(0, 6, client, |data| {
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
    let stranger = refused(&mut clients, &who(9));
    assert_eq!(stranger.iter().map(|call| call.0).collect::<Vec<_>>(), [DESCRIBED, 6, FORGOTTEN]);
    // It comes again and connects: its calls follow those in the queue of its address.
    let third = number(&queue, &mut clients, &eve, Some(&entering)).number;
    assert_eq!(number(&queue, &mut clients, &eve, None).number, third);
    assert_eq!(waiting(&queue), [(DESCRIBED, third), (FORGOTTEN, first.number), (DESCRIBED, third)]);
    assert!(clients.locate(&eve, Moment::Packet).is_in && !clients.locate(&ann, Moment::Packet).is_in);
    assert_eq!((clients.pending_logins.len(), clients.described.len()), (0, 1));
}

/// A login that never succeeds evicts no client from the table, and no pending login of other
/// addresses.
#[test]
fn visitors_make_room_of_the_fullest_address() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    number(&queue, &mut clients, &who(1), None);
    let entering = Entering::default();
    let other = Who { peer_host: Some("10.0.0.1"), ..who(1) };
    let waits = number(&queue, &mut clients, &other, Some(&entering)).number;
    let mut numbers = Vec::new();
    for port in 2..1002 {
        numbers.push(number(&queue, &mut clients, &who(port), Some(&entering)).number);
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
fn gone(queue: &CallQueue) -> Vec<u64> {
    let frames = std::iter::repeat_with(|| waiting(queue)).take_while(|calls| !calls.is_empty());
    frames.flatten().filter(|call| call.0 == FORGOTTEN).map(|call| call.1).collect()
}

fn told(queue: &CallQueue, clients: &mut Clients, who: &Who<'static>, moment: Moment) -> (u64, bool) {
    let place = clients.locate(who, moment);
    let entering = Entering::default();
    let entering = matches!(moment, Moment::ComesIn).then_some(&entering);
    let mut writing = write_for(queue, owner(who, place));
    let number = clients.number(&mut writing, who, entering, place).number;
    assert!(writing.is_taken(POINT));
    (number, place.is_in)
}

/// A late event of a connection that has gone, such as its will, does not replace a later client.
#[test]
fn who_has_gone_is_not_the_client_again() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let (old, new) = (who(1), who(2));
    told(&queue, &mut clients, &old, Moment::ComesIn);
    told(&queue, &mut clients, &old, Moment::LetIn);
    let (number, _) = told(&queue, &mut clients, &new, Moment::ComesIn);
    assert_eq!(told(&queue, &mut clients, &new, Moment::LetIn), (number, true));
    gone(&queue);
    for (moment, is_in) in [(Moment::Unsaid, false), (Moment::IsIn, true), (Moment::Authorizing, false)] {
        assert_eq!(told(&queue, &mut clients, &old, moment).1, is_in);
        assert_eq!(told(&queue, &mut clients, &new, Moment::IsIn), (number, true));
    }
    assert!(gone(&queue).is_empty());
    assert!(!clients.expire(None, later()) && clients.pending_logins.len() == 0);
    // A connection without events while it was in.
    let silent = who(3);
    let (waits, _) = told(&queue, &mut clients, &silent, Moment::ComesIn);
    let (next, _) = told(&queue, &mut clients, &who(4), Moment::ComesIn);
    told(&queue, &mut clients, &who(4), Moment::LetIn);
    gone(&queue);
    assert_eq!(told(&queue, &mut clients, &silent, Moment::IsIn), (waits, true));
    assert_eq!((told(&queue, &mut clients, &who(4), Moment::IsIn), gone(&queue)), ((next, true), vec![]));
}

/// The connection that the broker lets in is the client, whatever came before.
#[test]
fn who_is_let_in_last_is_the_client() {
    for moment in [Moment::LetIn, Moment::IsIn] {
        let queue = line();
        let mut clients = Clients::new(0, PLACES, none());
        let (old, new) = (who(1), who(2));
        told(&queue, &mut clients, &old, Moment::IsIn);
        let (number, _) = told(&queue, &mut clients, &new, Moment::ComesIn);
        leave(&queue, &mut clients, &old, 7);
        told(&queue, &mut clients, &old, Moment::IsIn);
        assert_eq!(told(&queue, &mut clients, &new, moment), (number, true));
        assert!(clients.locate(&new, Moment::Packet).is_in);
        assert_eq!(clients.pending_logins.len(), 0);
    }
    // Two logins that succeed in reverse order.
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let (first, _) = told(&queue, &mut clients, &who(1), Moment::ComesIn);
    let (second, _) = told(&queue, &mut clients, &who(2), Moment::ComesIn);
    told(&queue, &mut clients, &who(2), Moment::LetIn);
    assert_eq!(told(&queue, &mut clients, &who(1), Moment::LetIn), (first, true));
    assert_eq!((gone(&queue), clients.pending_logins.len()), (vec![second], 0));
}

/// An authorization request about the session of another user, before the login succeeds, is not
/// the client's.
#[test]
fn who_would_go_on_with_another_users_session_is_not_in_when_it_is_asked() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    told(&queue, &mut clients, &who(1), Moment::IsIn);
    // The same without a user name, for another user's session.
    told(&queue, &mut clients, &who(2), Moment::ComesIn);
    assert!(!told(&queue, &mut clients, &who(2), Moment::Authorizing).1);
    assert!(told(&queue, &mut clients, &who(2), Moment::LetIn).1);
    assert!(told(&queue, &mut clients, &who(2), Moment::Authorizing).1);
    // Nor one whose start was not seen, if another connection is the client; without a client, it
    // may have been in before.
    assert!(!told(&queue, &mut clients, &who(3), Moment::Authorizing).1);
    let other = Who { client_id: "d", ..who(3) };
    assert!(told(&queue, &mut clients, &other, Moment::Authorizing).1);
}

/// After one packet a login may still be refused; after a second one its client is in.
#[test]
fn whose_second_packet_comes_is_in() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    told(&queue, &mut clients, &who(1), Moment::IsIn);
    let eve = Who { client_id: "d", ..who(2) };
    told(&queue, &mut clients, &eve, Moment::ComesIn);
    assert!(!told(&queue, &mut clients, &eve, Moment::PacketSeen).1);
    assert!(told(&queue, &mut clients, &eve, Moment::PacketSeen).1);
    assert!(told(&queue, &mut clients, &eve, Moment::Packet).1);
    assert!(
        !told(&queue, &mut clients, &who(3), Moment::PacketSeen).1,
        "nor may one that was not seen to come"
    );
    assert!(told(&queue, &mut clients, &who(3), Moment::PacketSeen).1);
    assert!(told(&queue, &mut clients, &who(1), Moment::Packet).1, "which takes nobody's place");
    // A later refusal stays in the client's queue.
    assert!(clients.locate(&eve, Moment::IsRefused).is_in);
}

/// A time at which a pending login without events has expired.
fn later() -> Instant {
    Instant::now() + PLACES.visit_max + Duration::from_secs(1)
}

/// A pending login with a request about its will has neither the queue nor the number of the client
/// that it names, whether its start was seen or not. When it is let in, it becomes the client.
#[test]
fn a_strangers_will_is_not_the_clients() {
    for is_seen in [false, true] {
        let queue = line();
        let mut clients = Clients::new(0, PLACES, none());
        let (ann, eve) = (who(1), who(2));
        let (first, _) = told(&queue, &mut clients, &ann, Moment::IsIn);
        if is_seen {
            told(&queue, &mut clients, &eve, Moment::ComesIn);
        }
        let (second, is_in) = told(&queue, &mut clients, &eve, Moment::Unsaid);
        assert!(!is_in && second != first);
        assert_eq!(told(&queue, &mut clients, &eve, Moment::Unsaid), (second, false));
        assert_eq!(told(&queue, &mut clients, &ann, Moment::Unsaid), (first, true));
        assert!(gone(&queue).is_empty());
        assert_eq!(told(&queue, &mut clients, &eve, Moment::LetIn), (second, true));
        assert_eq!(gone(&queue), [first]);
    }
}

/// The end of a pending login is not reported. It expires, and its bytes are limited until then;
/// the address with the most bytes is evicted first.
#[test]
fn who_never_comes_in_leaves_nothing() {
    let queue = line();
    let mut clients = Clients::new(0, Places { visitors_bytes_max: 100_000, ..PLACES }, none());
    let come = |clients: &mut Clients, who: &Who<'static>, payload: &[u8]| {
        let entering = Entering { will: Some(("t", payload, 0, false)), ..Entering::default() };
        number(&queue, clients, who, Some(&entering)).number
    };
    let other = Who { peer_host: Some("10.0.0.2"), ..who(1) };
    let waits = come(&mut clients, &other, &[0; 60_000]);
    let numbers: Vec<_> = (1..50).map(|port| come(&mut clients, &who(port), &[0; 8_000])).collect();
    assert!(clients.pending_logins.bytes() <= 100_000);
    // At first the other address has the most.
    let forgotten = gone(&queue);
    assert_eq!(forgotten[0], waits);
    assert_eq!(forgotten[1..], numbers[..forgotten.len() - 1], "and those that came first");
    // A single one may have more.
    come(&mut clients, &who(50), &[0; 110_000]);
    assert_eq!((clients.pending_logins.len(), gone(&queue).len()), (1, numbers.len() + 1 - forgotten.len()));
    let forget = |clients: &mut Clients, now| {
        let mut writing = queue.write_forgotten(Owner::Address("")).unwrap();
        let more = clients.expire(Some(&mut writing), now);
        writing.done();
        (more, gone(&queue).len())
    };
    for port in 51..400 {
        come(&mut clients, &who(port), b"");
    }
    gone(&queue);
    assert_eq!(forget(&mut clients, Instant::now()), (false, 0));
    let count = clients.pending_logins.len();
    assert!((50..=VISITORS).contains(&count));
    assert_eq!((forget(&mut clients, later()), clients.pending_logins.len()), ((false, count), 0));
}

/// A pending login with events stays.
#[test]
fn who_is_heard_of_again_is_not_forgotten() {
    let mut pending_logins = PendingLogins::new(PLACES);
    let now = Instant::now();
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    for port in 1..4 {
        told(&queue, &mut clients, &who(port), Moment::ComesIn);
    }
    std::mem::swap(&mut pending_logins, &mut clients.pending_logins);
    let visit = clients.visit(&who(2));
    let after = |part: u32| now + PLACES.visit_max / 4 * part;
    assert!(pending_logins.hear(visit, after(3)).is_some() && pending_logins.expired(after(3)).is_none());
    assert!(pending_logins.expired(after(5)).is_some() && pending_logins.expired(after(5)).is_some());
    assert!(pending_logins.expired(after(5)).is_none() && pending_logins.get(visit).is_some());
    assert!(pending_logins.expired(after(8)).is_some());
    assert_eq!((pending_logins.len(), pending_logins.bytes()), (0, 0));
}

/// A connection from the address and port of a client whose end was missed is not that client. When
/// it ends, both are forgotten, with a notification.
#[test]
fn a_visitor_in_the_place_of_a_stale_client_is_forgotten_with_it() {
    for is_told in [false, true] {
        let queue = line();
        let mut clients = Clients::new(0, PLACES, none());
        let (stale, _) = told(&queue, &mut clients, &who(1), Moment::IsIn);
        let (new, _) = told(&queue, &mut clients, &who(1), Moment::ComesIn);
        assert_ne!(stale, new);
        gone(&queue);
        let place = clients.locate(&who(1), Moment::IsRefused);
        if is_told {
            let mut writing = write_for(&queue, Owner::Address("127.0.0.1"));
            clients.last_call(&mut writing, &who(1), (place, POINT), |line, client| {
                line.call(0, 6, client, |data| {
                    data.nil();
                });
            });
        } else {
            let mut writing = queue.write_forgotten(Owner::Address("127.0.0.1")).unwrap();
            clients.connection_ended(Some((&mut writing, place)), &who(1));
        }
        let mut gone = gone(&queue);
        gone.sort_unstable();
        assert_eq!((gone, clients.pending_logins.len(), clients.described.len()), (vec![stale, new], 0, 0));
    }
}
