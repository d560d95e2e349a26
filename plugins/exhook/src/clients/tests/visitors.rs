//! Connections that want to come in.

use super::*;

/// Somebody who calls itself by a client's identifier has a number of its own, also in the worker: nothing of what is said of the one is
/// taken for the other's. When it has come in, its number is the client's, and the one before is not named again.
#[test]
fn who_wants_to_come_in_is_not_the_client_that_it_names() {
    let line = line();
    let mut clients = Clients::new(0, (MAX, VISITORS), none());
    let (ann, eve) = (who(1), who(2));
    let entering = Entering { password: Some(b"x"), ..Entering::default() };
    let first = number(&line, &mut clients, &ann, None);
    assert_eq!(waiting(&line), [(DESCRIBED, first.number)]);
    let second = number(&line, &mut clients, &eve, Some(&entering));
    assert_ne!(second.number, first.number);
    // What the two say goes on side by side, each in its own order.
    call(&line, &ann, first.clone(), 5);
    assert!(!clients.place(&eve, Moment::Packet).is_in && clients.place(&ann, Moment::Packet).is_in);
    assert_eq!(number(&line, &mut clients, &ann, None).number, first.number);
    assert_eq!(waiting(&line), [(DESCRIBED, second.number), (5, first.number)], "nothing is described anew");
    // Refused, which is the last of it; the client stays.
    let refused = |clients: &mut Clients, who: &Who<'_>| {
        let place = clients.place(who, Moment::IsRefused);
        let owner = Owner::Address("127.0.0.1");
        clients.last_call(&mut write_for(&line, owner), who, (place, POINT), |line, client| {
            line.call(0, 6, client, |data| {
                data.nil();
            });
        });
        waiting(&line)
    };
    let n = second.number;
    assert_eq!(refused(&mut clients, &eve), [(DESCRIBED, n), (6, n), (FORGOTTEN, n)]);
    assert_eq!((clients.visitors.len(), clients.known.len()), (0, 1));
    assert_eq!(number(&line, &mut clients, &ann, None).number, first.number);
    // One of which nothing was heard before.
    let stranger = refused(&mut clients, &who(9));
    assert_eq!(stranger.iter().map(|call| call.0).collect::<Vec<_>>(), [DESCRIBED, 6, FORGOTTEN]);
    // It comes again, and in: behind what waits of it at its address.
    let third = number(&line, &mut clients, &eve, Some(&entering)).number;
    assert_eq!(number(&line, &mut clients, &eve, None).number, third);
    assert_eq!(waiting(&line), [(DESCRIBED, third), (FORGOTTEN, first.number), (DESCRIBED, third)]);
    assert!(clients.place(&eve, Moment::Packet).is_in && !clients.place(&ann, Moment::Packet).is_in);
    assert_eq!((clients.visitors.len(), clients.known.len()), (0, 1));
}

/// Who never comes in takes no client's place in the table, nor that of those at other addresses.
#[test]
fn visitors_make_room_of_the_fullest_address() {
    let line = line();
    let mut clients = Clients::new(0, (MAX, VISITORS), none());
    number(&line, &mut clients, &who(1), None);
    let entering = Entering::default();
    let other = Who { peer_host: Some("10.0.0.1"), ..who(1) };
    let waits = number(&line, &mut clients, &other, Some(&entering)).number;
    let mut numbers = Vec::new();
    for port in 2..1002 {
        numbers.push(number(&line, &mut clients, &who(port), Some(&entering)).number);
    }
    assert_eq!((clients.visitors.len(), clients.known.len()), (VISITORS, 1));
    let mut forgotten = Vec::new();
    loop {
        let calls = waiting(&line);
        if calls.is_empty() {
            break;
        }
        forgotten.extend(calls.iter().filter(|call| call.0 == FORGOTTEN).map(|call| call.1));
    }
    assert_eq!(forgotten, numbers[..1000 - (VISITORS - 1)], "those that came first at the fullest");
    assert_eq!(number(&line, &mut clients, &other, None).number, waits);
    for port in 903..1002 {
        leave(&line, &mut clients, &who(port), 7);
    }
    assert_eq!(clients.visitors.len(), 0);
}

/// The numbers of those who are not named again, among the calls that wait.
fn gone(line: &Line) -> Vec<u64> {
    waiting(line).iter().filter(|call| call.0 == FORGOTTEN).map(|call| call.1).collect()
}

fn told(line: &Line, clients: &mut Clients, who: &Who<'static>, moment: Moment) -> (u64, bool) {
    let place = clients.place(who, moment);
    let entering = Entering::default();
    let entering = matches!(moment, Moment::ComesIn(_)).then_some(&entering);
    let mut writing = write_for(line, owner(who, place));
    let number = clients.number(&mut writing, who, entering, place).number;
    assert!(writing.is_taken(POINT));
    (number, place.is_in)
}

/// What comes late of a connection that has gone, such as its will, takes the place of nobody who came after it.
#[test]
fn who_has_gone_is_not_the_client_again() {
    let line = line();
    let mut clients = Clients::new(0, (MAX, VISITORS), none());
    let (old, new) = (who(1), who(2));
    told(&line, &mut clients, &old, Moment::ComesIn(false));
    told(&line, &mut clients, &old, Moment::LetIn);
    let (number, _) = told(&line, &mut clients, &new, Moment::ComesIn(false));
    assert_eq!(told(&line, &mut clients, &new, Moment::LetIn), (number, true));
    gone(&line);
    for moment in [Moment::Unsaid, Moment::IsIn, Moment::Asked] {
        assert!(told(&line, &mut clients, &old, moment).1, "a will is its client's");
        assert_eq!(told(&line, &mut clients, &new, Moment::IsIn), (number, true));
    }
    assert!(gone(&line).is_empty() && clients.visitors.len() == 0);
    // One that was never heard of while it was in.
    let silent = who(3);
    let (waits, _) = told(&line, &mut clients, &silent, Moment::ComesIn(false));
    let (next, _) = told(&line, &mut clients, &who(4), Moment::ComesIn(false));
    told(&line, &mut clients, &who(4), Moment::LetIn);
    gone(&line);
    assert_eq!(told(&line, &mut clients, &silent, Moment::IsIn), (waits, true));
    assert_eq!((told(&line, &mut clients, &who(4), Moment::IsIn), gone(&line)), ((next, true), vec![]));
}

/// Whoever the broker lets in is the client, whatever has come before or been said meanwhile.
#[test]
fn who_is_let_in_last_is_the_client() {
    for moment in [Moment::LetIn, Moment::IsIn] {
        let line = line();
        let mut clients = Clients::new(0, (MAX, VISITORS), none());
        let (old, new) = (who(1), who(2));
        told(&line, &mut clients, &old, Moment::IsIn);
        let (number, _) = told(&line, &mut clients, &new, Moment::ComesIn(false));
        leave(&line, &mut clients, &old, 7);
        told(&line, &mut clients, &old, Moment::IsIn);
        assert_eq!(told(&line, &mut clients, &new, moment), (number, true));
        assert!(clients.place(&new, Moment::Packet).is_in);
        assert_eq!(clients.visitors.len(), 0);
    }
    // Two logins that succeed the other way round.
    let line = line();
    let mut clients = Clients::new(0, (MAX, VISITORS), none());
    let (first, _) = told(&line, &mut clients, &who(1), Moment::ComesIn(false));
    let (second, _) = told(&line, &mut clients, &who(2), Moment::ComesIn(false));
    told(&line, &mut clients, &who(2), Moment::LetIn);
    assert_eq!(told(&line, &mut clients, &who(1), Moment::LetIn), (first, true));
    assert_eq!((gone(&line), clients.visitors.len()), (vec![second], 0));
}

/// What is asked about the session of another user, before that is somebody's, is not the client's.
#[test]
fn who_would_go_on_with_another_users_session_is_not_in_when_it_is_asked() {
    let line = line();
    let mut clients = Clients::new(0, (MAX, VISITORS), none());
    told(&line, &mut clients, &who(1), Moment::IsIn);
    for (inherits, is_in) in [(true, false), (false, true)] {
        told(&line, &mut clients, &who(2), Moment::ComesIn(inherits));
        assert_eq!(told(&line, &mut clients, &who(2), Moment::Asked).1, is_in);
        assert!(told(&line, &mut clients, &who(2), Moment::LetIn).1);
        assert!(told(&line, &mut clients, &who(2), Moment::Asked).1);
        leave(&line, &mut clients, &who(2), 7);
    }
}

/// A packet may be what a login is refused for; with a second one its client is in.
#[test]
fn whose_second_packet_comes_is_in() {
    let line = line();
    let mut clients = Clients::new(0, (MAX, VISITORS), none());
    told(&line, &mut clients, &who(1), Moment::IsIn);
    let eve = Who { client_id: "d", ..who(2) };
    told(&line, &mut clients, &eve, Moment::ComesIn(false));
    assert!(!told(&line, &mut clients, &eve, Moment::Heard).1);
    assert!(told(&line, &mut clients, &eve, Moment::Heard).1);
    assert!(told(&line, &mut clients, &eve, Moment::Packet).1);
    assert!(!told(&line, &mut clients, &who(3), Moment::Heard).1, "nor may one that was not seen to come");
    assert!(told(&line, &mut clients, &who(3), Moment::Heard).1);
    assert!(told(&line, &mut clients, &who(1), Moment::Packet).1, "which takes nobody's place");
    // Refused after all, which is behind what was said of it.
    assert!(clients.place(&eve, Moment::IsRefused).is_in);
}
