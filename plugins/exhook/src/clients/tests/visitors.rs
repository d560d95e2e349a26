//! Connections that want to come in.

use super::*;

/// Somebody who calls itself by a client's identifier has a number of its own, also in the worker: nothing of what is said of the one is
/// taken for the other's. When it has come in, its number is the client's, and the one before is not named again.
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
    // What the two say goes on side by side, each in its own order.
    call(&queue, &ann, first.clone(), 5);
    assert!(!clients.locate(&eve, Moment::Packet).is_in && clients.locate(&ann, Moment::Packet).is_in);
    assert_eq!(number(&queue, &mut clients, &ann, None).number, first.number);
    assert_eq!(waiting(&queue), [(DESCRIBED, second.number), (5, first.number)], "nothing is described anew");
    // Refused, which is the last of it; the client stays.
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
    // One of which nothing was heard before.
    let stranger = refused(&mut clients, &who(9));
    assert_eq!(stranger.iter().map(|call| call.0).collect::<Vec<_>>(), [DESCRIBED, 6, FORGOTTEN]);
    // It comes again, and in: behind what waits of it at its address.
    let third = number(&queue, &mut clients, &eve, Some(&entering)).number;
    assert_eq!(number(&queue, &mut clients, &eve, None).number, third);
    assert_eq!(waiting(&queue), [(DESCRIBED, third), (FORGOTTEN, first.number), (DESCRIBED, third)]);
    assert!(clients.locate(&eve, Moment::Packet).is_in && !clients.locate(&ann, Moment::Packet).is_in);
    assert_eq!((clients.pending_logins.len(), clients.described.len()), (0, 1));
}

/// Who never comes in takes no client's place in the table, nor that of those at other addresses.
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

/// The numbers of those who are not named again, among the calls that wait.
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

/// What comes late of a connection that has gone, such as its will, takes the place of nobody who came after it.
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
    // One that was never heard of while it was in.
    let silent = who(3);
    let (waits, _) = told(&queue, &mut clients, &silent, Moment::ComesIn);
    let (next, _) = told(&queue, &mut clients, &who(4), Moment::ComesIn);
    told(&queue, &mut clients, &who(4), Moment::LetIn);
    gone(&queue);
    assert_eq!(told(&queue, &mut clients, &silent, Moment::IsIn), (waits, true));
    assert_eq!((told(&queue, &mut clients, &who(4), Moment::IsIn), gone(&queue)), ((next, true), vec![]));
}

/// Whoever the broker lets in is the client, whatever has come before or been said meanwhile.
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
    // Two logins that succeed the other way round.
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let (first, _) = told(&queue, &mut clients, &who(1), Moment::ComesIn);
    let (second, _) = told(&queue, &mut clients, &who(2), Moment::ComesIn);
    told(&queue, &mut clients, &who(2), Moment::LetIn);
    assert_eq!(told(&queue, &mut clients, &who(1), Moment::LetIn), (first, true));
    assert_eq!((gone(&queue), clients.pending_logins.len()), (vec![second], 0));
}

/// What is asked about the session of another user, before that is somebody's, is not the client's.
#[test]
fn who_would_go_on_with_another_users_session_is_not_in_when_it_is_asked() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    told(&queue, &mut clients, &who(1), Moment::IsIn);
    // Whoever it is, and also one without a name that wants the session of another one.
    told(&queue, &mut clients, &who(2), Moment::ComesIn);
    assert!(!told(&queue, &mut clients, &who(2), Moment::Authorizing).1);
    assert!(told(&queue, &mut clients, &who(2), Moment::LetIn).1);
    assert!(told(&queue, &mut clients, &who(2), Moment::Authorizing).1);
    // Nor one that was not seen to come, where somebody else is the client; where nobody is, it may have been in before.
    assert!(!told(&queue, &mut clients, &who(3), Moment::Authorizing).1);
    let other = Who { client_id: "d", ..who(3) };
    assert!(told(&queue, &mut clients, &other, Moment::Authorizing).1);
}

/// A packet may be what a login is refused for; with a second one its client is in.
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
    // Refused after all, which is behind what was said of it.
    assert!(clients.locate(&eve, Moment::IsRefused).is_in);
}

/// When nothing has been heard of a visitor for too long.
fn later() -> Instant {
    Instant::now() + PLACES.visit_max + Duration::from_secs(1)
}

/// Who is asked about its will before it is in has neither the queue of the client that it names nor its number, whether it was seen to
/// come or not; let in, it is the client.
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

/// Of a connection that closes before it is in nobody says anything. What it leaves goes after some time, and is bounded until then in
/// bytes as well, which those pay who have most of them.
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
    // The other address has most of them at first.
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

/// Who is heard of stays.
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

/// Who comes from where a client came from of whose end nobody has heard is not that client; both are gone with it, and said to be.
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
