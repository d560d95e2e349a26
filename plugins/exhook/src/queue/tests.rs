//! Which calls are taken, in which order, and what they are charged.

#![allow(clippy::unwrap_used)]

use super::call::WAITED_FOR;
use super::*;

const ROOMY: Limits = Limits {
    calls_max: 1000,
    bytes_max: 1 << 20,
    client_calls_max: 1000,
    client_bytes_max: 1 << 20,
    address_calls_max: 1000,
    address_bytes_max: 1 << 20,
};

fn call(id: u64, len: usize) -> Call {
    Call::new(&vec![0; len], id, 3, NamedClient::default(), 1)
}

fn push(queue: &mut Queue, who: &str, kind: Kind, id: u64, len: usize) -> Result<(), Full> {
    let who = Owner::Client(who);
    queue.push((who, who), kind, &mut vec![call(id, len)])
}

/// A request about the connection with this number.
fn push_of(queue: &mut Queue, who: Owner<'_>, number: u64, id: u64) -> Result<(), Full> {
    let call = Call::new(&[0; 10], id, 3, NamedClient { number, ..NamedClient::default() }, 1);
    queue.push((who, who), Kind::Question, &mut vec![call])
}

fn taken(queue: &mut Queue, count: usize) -> Vec<u64> {
    let mut calls = Vec::new();
    queue.take(count, usize::MAX, &mut calls);
    let ids = calls.iter().map(|call| call.id).collect();
    calls.into_iter().for_each(|call| queue.release(call));
    ids
}

/// Calls go in the order of arrival, whoever their owner is.
#[test]
fn a_few_calls_of_each_go_as_they_came() {
    let mut queue = Queue::new(ROOMY);
    let n = IN_ORDER as u64;
    for id in 1..=n {
        for (who, id) in [("a", id), ("b", 100 + id)] {
            push(&mut queue, who, Kind::Notification, id, 10).unwrap();
        }
    }
    let both: Vec<_> = (1..=n).flat_map(|id| [id, 100 + id]).collect();
    assert_eq!(taken(&mut queue, 10), both[..10]);
    let mut calls = Vec::new();
    queue.take(10, usize::MAX, &mut calls);
    queue.put_back(calls);
    assert_eq!(taken(&mut queue, usize::MAX), both[10..]);
}

/// A login does not wait for all calls of a flood: above a number of calls, clients take turns, and
/// each keeps its order.
#[test]
fn clients_with_many_calls_take_turns_and_keep_their_order() {
    let mut queue = Queue::new(ROOMY);
    for id in 1..=200 {
        push(&mut queue, "flood", Kind::Notification, id, 10).unwrap();
    }
    push(&mut queue, "a", Kind::Notification, 201, 10).unwrap();
    push(&mut queue, "a", Kind::Question, 202, 10).unwrap();
    push(&mut queue, "b", Kind::Question, 301, 10).unwrap();
    let n = IN_ORDER as u64;
    assert_eq!(taken(&mut queue, IN_ORDER), (1..=n).collect::<Vec<_>>());
    assert_eq!(taken(&mut queue, 4), [201, 202, 301, n + 1]);
    push(&mut queue, "b", Kind::Question, 302, 10).unwrap();
    let next: Vec<_> = (n + 2..=2 * n + 1).chain([302]).collect();
    assert_eq!(taken(&mut queue, IN_ORDER + 1), next, "behind as many of the other's");
    assert_eq!(taken(&mut queue, 1000), (2 * n + 2..=200).collect::<Vec<_>>());
    assert!(queue.is_empty());
    assert_eq!(queue.usage(), Usage::default());
    assert!(queue.entries.clients.is_empty() && queue.turns.is_empty());
}

/// Notifications get half of the places, of each client and in all; the other half is for requests.
#[test]
fn requests_have_room_beside_notifications() {
    let limits = Limits { calls_max: 10, client_calls_max: 4, ..ROOMY };
    let mut queue = Queue::new(limits);
    for who in ["a", "b"] {
        for _ in 0..2 {
            push(&mut queue, who, Kind::Notification, 0, 10).unwrap();
        }
        assert_eq!(push(&mut queue, who, Kind::Notification, 0, 10), Err(Full::Client));
        assert_eq!(queue.has_room(Owner::Client(who), None, Kind::Notification), Err(Full::Client));
    }
    push(&mut queue, "c", Kind::Notification, 0, 10).unwrap();
    assert_eq!(push(&mut queue, "c", Kind::Notification, 0, 10), Err(Full::All));
    for (who, count) in [("a", 2), ("d", 3)] {
        for id in 1..=count {
            push(&mut queue, who, Kind::Question, id, 10).unwrap();
        }
    }
    assert_eq!(push(&mut queue, "a", Kind::Question, 1, 10), Err(Full::Client));
    assert_eq!(push(&mut queue, "d", Kind::Question, 1, 10), Err(Full::All));
    assert_eq!((queue.usage().calls, queue.usage().notifications), (10, 5));
    // A call that is being sent keeps its place until it is released.
    let mut calls = Vec::new();
    queue.take(1, usize::MAX, &mut calls);
    assert_eq!(push(&mut queue, "d", Kind::Question, 1, 10), Err(Full::All));
    queue.release(calls.pop().unwrap());
    push(&mut queue, "d", Kind::Question, 1, 10).unwrap();
}

/// Bytes are memory, including the cost of each call and client. The limit itself still fits.
#[test]
fn bytes_are_counted_as_memory_to_the_last_one() {
    let mut queue = Queue::new(ROOMY);
    push(&mut queue, "a", Kind::Question, 1, 1000).unwrap();
    let one = queue.usage().bytes;
    assert!(one > 1000 + size_of::<Call>() as u64, "{one}");
    for (kind, max) in [(Kind::Question, one), (Kind::Notification, 2 * (one - WAITED_FOR))] {
        for (bytes_max, client_bytes_max) in [(max, 1 << 20), (1 << 20, max)] {
            let mut queue = Queue::new(Limits { bytes_max, client_bytes_max, ..ROOMY });
            push(&mut queue, "a", kind, 1, 1000).unwrap();
            assert_eq!(taken(&mut queue, 1), [1]);
            let less = |max| if max == 1 << 20 { max } else { max - 1 };
            let limits =
                Limits { bytes_max: less(bytes_max), client_bytes_max: less(client_bytes_max), ..ROOMY };
            let mut queue = Queue::new(limits);
            let full = push(&mut queue, "a", kind, 1, 1000).unwrap_err();
            assert_eq!(full, if bytes_max == 1 << 20 { Full::Client } else { Full::All });
            assert_eq!(
                (queue.usage(), queue.entries.clients.len()),
                (Usage::default(), 0),
                "nothing of it is left"
            );
        }
    }
}

/// A shared description is charged once, while a call with it is queued, in the quota of the first
/// of them.
#[test]
fn descriptions_are_charged_while_a_call_has_them() {
    let mut queue = Queue::new(ROOMY);
    push(&mut queue, "c", Kind::Question, 9, 1).unwrap();
    const C: Owner<'_> = Owner::Client("c");
    let before = queue.usage();
    let about = Description::new(vec![0; 5000]);
    let named = || NamedClient { number: 1, about: Some(Arc::clone(&about)), session: 0 };
    let described = Call::new(&[0; 10], 0, -1, named(), 1);
    let with = |id| Call::new(&[0; 10], id, 3, named(), 1);
    queue.push((C, C), Kind::Notification, &mut vec![described, with(0)]).unwrap();
    queue.push((C, C), Kind::Question, &mut vec![with(5)]).unwrap();
    let usage = queue.usage();
    let more = usage.bytes - before.bytes;
    assert!((5000..10_000).contains(&more), "{more}");
    assert_eq!((usage.calls - before.calls, usage.notifications), (2, 1), "to describe is no call");
    assert_eq!(taken(&mut queue, 3), [9, 0, 0]);
    assert!(queue.usage().bytes > 5000, "the question has it still");
    assert!(queue.usage().notification_bytes > 5000);
    assert_eq!(taken(&mut queue, 1), [5]);
    assert_eq!(queue.usage(), Usage::default());
}

/// The notice that a client has gone is always taken, after the client's queued calls.
#[test]
fn a_forget_notice_needs_no_room() {
    let mut queue = Queue::new(Limits { calls_max: 2, ..ROOMY });
    push(&mut queue, "a", Kind::Question, 1, 10).unwrap();
    push(&mut queue, "a", Kind::Question, 2, 10).unwrap();
    let forgotten = |number| Call::new(&[0; 4], 0, -2, NamedClient { number, ..NamedClient::default() }, 1);
    queue.push_forgotten(Some(Owner::Client("a")), forgotten(7));
    queue.push_forgotten(None, forgotten(8));
    assert_eq!(queue.usage().calls, 2);
    let calls = queue.drain();
    let seen: Vec<_> = calls.iter().map(|call| (call.id, call.client.number)).collect();
    assert_eq!(seen, [(0, 8), (1, 0), (2, 0), (0, 7)], "first of all of whom nothing waits");
    queue.put_back(calls);
    let again: Vec<_> = queue.drain().iter().map(|call| (call.id, call.client.number)).collect();
    assert_eq!(again, seen);
}

/// The notice that a connection has gone never comes before its calls, even if those were sent to a
/// process that has ended. For a refused connection and for a connected one.
#[test]
fn a_forget_notice_follows_calls_that_were_put_back() {
    let (here, c) = (Owner::Address("10.0.0.1"), Owner::Client("c"));
    let forgotten = || Call::new(&[0; 4], 0, -2, NamedClient { number: 7, ..NamedClient::default() }, 1);
    for (is_let_in, before) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut queue = Queue::new(ROOMY);
        push_of(&mut queue, here, 7, 1).unwrap();
        let mut calls = Vec::new();
        queue.take(10, usize::MAX, &mut calls);
        if is_let_in {
            push_of(&mut queue, c, 7, 2).unwrap();
        }
        if before {
            queue.push_forgotten(None, forgotten());
        }
        queue.put_back(calls);
        if !before {
            queue.push_forgotten(None, forgotten());
        }
        let expected: &[u64] = if is_let_in { &[1, 2, 0] } else { &[1, 0] };
        assert_eq!(taken(&mut queue, 10), expected, "{is_let_in} {before}");
        assert_eq!(queue.usage(), Usage::default());
        assert!(queue.is_empty() && queue.new_connections.is_empty() && queue.entries.clients.is_empty());
    }
}

/// The owner that is charged may differ from the one whose queue is used.
#[test]
fn an_event_without_a_client_is_charged_to_its_cause() {
    let mut queue = Queue::new(Limits { client_calls_max: 2, ..ROOMY });
    let mut retain = |from: &str, id| {
        let whose = (Owner::Client(""), Owner::Client(from));
        queue.push(whose, Kind::Notification, &mut vec![call(id, 10)])
    };
    retain("a", 1).unwrap();
    assert_eq!(retain("a", 2), Err(Full::Client));
    retain("b", 3).unwrap();
    assert_eq!(taken(&mut queue, 10), [1, 3], "in the order in which it happened");
    assert_eq!((queue.usage(), queue.entries.clients.len()), (Usage::default(), 0));
}

/// The work for a call does not grow with the queue, and memory of a peak is returned.
#[test]
fn memory_of_a_storm_is_given_back() {
    let limits = Limits { calls_max: 1 << 20, bytes_max: 1 << 30, ..ROOMY };
    let mut queue = Queue::new(limits);
    for n in 0..20_000 {
        push(&mut queue, &format!("c{n}"), Kind::Question, n, 10).unwrap();
    }
    for id in 0..900 {
        push(&mut queue, "flood", Kind::Question, id, 10).unwrap();
    }
    let per_client = queue.usage().bytes / 20_000;
    assert!(per_client < 2048, "{per_client}");
    taken(&mut queue, usize::MAX);
    assert!(queue.entries.clients.capacity() < 128 && queue.turns.capacity() < 128);
    // Many pending logins at one address.
    let limits = Limits { address_calls_max: 1 << 20, address_bytes_max: 1 << 30, ..limits };
    let mut queue = Queue::new(limits);
    for n in 0..20_000 {
        push_of(&mut queue, Owner::Address("10.0.0.1"), n + 1, n).unwrap();
    }
    taken(&mut queue, usize::MAX);
    assert!(queue.new_connections.capacity() < 128);
    assert_eq!(queue.usage(), Usage::default());
}

/// A pending login uses the share of its address, and not that of the client whose identifier it
/// claims. Addresses take turns.
#[test]
fn a_pending_login_uses_the_share_of_its_address() {
    let limits = Limits { client_calls_max: 4, address_calls_max: 100, ..ROOMY };
    let mut queue = Queue::new(limits);
    let (here, there) = (Owner::Address("10.0.0.1"), Owner::Address("10.0.0.2"));
    for id in 1..=100 {
        push_of(&mut queue, here, id, id).unwrap();
    }
    assert_eq!(push_of(&mut queue, here, 101, 101), Err(Full::Address));
    assert_eq!(queue.has_room(here, None, Kind::Question), Err(Full::Address));
    // A client may have the name of an address.
    for id in 201..=204 {
        push_of(&mut queue, Owner::Client("10.0.0.1"), 1000, id).unwrap();
    }
    assert_eq!(push_of(&mut queue, Owner::Client("10.0.0.1"), 1000, 205), Err(Full::Client));
    push_of(&mut queue, there, 301, 301).unwrap();
    let n = IN_ORDER as u64;
    let next: Vec<_> = (1..=n).chain(201..=204).chain([301]).chain(n + 1..=100).collect();
    assert_eq!(taken(&mut queue, 1000), next);
    assert_eq!(queue.usage(), Usage::default());
    assert!(queue.entries.addresses.is_empty() && queue.new_connections.is_empty());
}

/// However slow the worker is, notices about ended pending logins are sent as fast as new ones are
/// described, and are in no queue.
#[test]
fn waker_entries_of_ended_connections_are_removed() {
    let (mut queue, mut number) = (Queue::new(ROOMY), 0);
    let mut calls = Vec::new();
    for _ in 0..1000 {
        for n in 0..40 {
            let address = n.to_string();
            let here = Owner::Address(&address);
            number += 1;
            if push_of(&mut queue, here, number, number).is_err() {
                break;
            }
        }
        queue.take(16, usize::MAX, &mut calls);
        for call in calls.drain(..) {
            let (id, number) = (call.id, call.client.number);
            queue.release(call);
            if id != 0 {
                let named = NamedClient { number, ..NamedClient::default() };
                queue.push_forgotten(Some(Owner::Client("c")), Call::new(&[0; 4], 0, -2, named, 1));
            }
        }
        assert!(queue.forgotten.len() <= 16, "{}", queue.forgotten.len());
        assert!(queue.entries.clients.is_empty());
    }
}

/// A description stays charged to its first owner, whichever call uses it last.
#[test]
fn a_description_is_released_from_who_was_charged_for_it() {
    let mut queue = Queue::new(ROOMY);
    let (here, c) = (Owner::Address("10.0.0.1"), Owner::Client("c"));
    let about = Description::new(vec![0; 5000]);
    let call = |id| {
        Call::new(&[0; 10], id, 3, NamedClient { number: 7, about: Some(Arc::clone(&about)), session: 0 }, 1)
    };
    let other = |id| Call::new(&[0; 10], id, 3, NamedClient::default(), 1);
    queue.push((c, c), Kind::Question, &mut vec![other(1)]).unwrap();
    let before = queue.entries.get(c).unwrap().usage;
    queue.push((here, here), Kind::Question, &mut vec![call(2)]).unwrap();
    queue.push((c, c), Kind::Question, &mut vec![call(3)]).unwrap();
    let mut calls = Vec::new();
    queue.take(2, usize::MAX, &mut calls);
    assert_eq!(calls.iter().map(|call| call.id).collect::<Vec<_>>(), [1, 2]);
    queue.release(calls.pop().unwrap());
    assert!(queue.entries.get(here).unwrap().usage.bytes > 5000, "the client's call has it still");
    queue.take(2, usize::MAX, &mut calls);
    queue.release(calls.pop().unwrap());
    assert_eq!(queue.entries.get(c).unwrap().usage, before);
    assert!(queue.entries.get(here).is_none());
    queue.release(calls.pop().unwrap());
    assert_eq!(queue.usage(), Usage::default());
}

/// Notifications get half of an address's limit, in calls and in bytes.
#[test]
fn notifications_have_half_of_an_address() {
    let here = Owner::Address("10.0.0.1");
    for limits in [Limits { address_calls_max: 4, ..ROOMY }, Limits { address_bytes_max: 40_000, ..ROOMY }] {
        let mut queue = Queue::new(limits);
        let mut notify = |kind| queue.push((here, here), kind, &mut vec![call(1, 8_000)]);
        assert_eq!([(); 3].map(|()| notify(Kind::Notification)), [Ok(()), Ok(()), Err(Full::Address)]);
        assert_eq!([(); 3].map(|()| notify(Kind::Question)), [Ok(()), Ok(()), Err(Full::Address)]);
    }
}

/// A client that has just connected waits for its own calls in the queue of its address, but not
/// for the rest of that queue. Earlier connections of its client do not wait for it.
#[test]
fn calls_of_a_newly_connected_client_keep_their_order() {
    let mut queue = Queue::new(ROOMY);
    let (here, c) = (Owner::Address("10.0.0.1"), Owner::Client("c"));
    push_of(&mut queue, c, 1, 1).unwrap();
    for id in 101..=150 {
        push_of(&mut queue, here, 100 + id, id).unwrap();
    }
    push_of(&mut queue, here, 7, 71).unwrap();
    push_of(&mut queue, here, 7, 72).unwrap();
    for id in 151..=200 {
        push_of(&mut queue, here, 100 + id, id).unwrap();
    }
    push_of(&mut queue, c, 7, 73).unwrap();
    queue.push_forgotten(
        Some(c),
        Call::new(&[0; 4], 0, -2, NamedClient { number: 7, ..NamedClient::default() }, 1),
    );
    let order = |queue: &mut Queue| {
        let mut calls = Vec::new();
        queue.take(60, usize::MAX, &mut calls);
        let ids: Vec<_> = calls.iter().map(|call| call.id).collect();
        (calls, ids)
    };
    let (calls, ids) = order(&mut queue);
    let first: Vec<_> = [1].into_iter().chain(101..=150).chain([71, 72]).chain(151..=157).collect();
    assert_eq!(ids, first);
    // The process has ended and received nothing of it: everything is where it was.
    queue.put_back(calls);
    push_of(&mut queue, c, 7, 74).unwrap();
    let (calls, ids) = order(&mut queue);
    assert_eq!(ids, first);
    let (more, rest) = order(&mut queue);
    let at = |id| rest.iter().position(|each| *each == id).unwrap();
    assert!(at(73) < at(0) && at(0) < at(74) && at(74) < IN_ORDER + 3, "{rest:?}");
    calls.into_iter().chain(more).for_each(|call| queue.release(call));
    assert!(queue.is_empty() && queue.new_connections.is_empty());
}

proptest::proptest! {
    /// For any sequence of calls that are queued, taken, sent and put back: each connection's calls
    /// keep their order, none is left, and nothing stays charged.
    #[test]
    fn each_connection_keeps_its_order(steps in proptest::collection::vec((0_u8..40, 1_u64..12), 1..500)) {
        let mut queue = Queue::new(ROOMY);
        let (mut next, mut inside) = (0, [false; 12]);
        let (mut taken, mut sent) = (Vec::new(), Vec::new());
        for (what, number) in steps {
            match what {
                0..=29 => {
                    let at = number as usize;
                    // A connection that is in stays in.
                    inside[at] |= what >= 28;
                    let (address, client) = ((number % 2).to_string(), (number % 3).to_string());
                    let whose = if inside[at] { Owner::Client(&client) } else { Owner::Address(&address) };
                    next += 1;
                    push_of(&mut queue, whose, number, next).unwrap();
                }
                30..=33 => queue.take(taken.len() + number as usize, usize::MAX, &mut taken),
                34..=36 => sent.append(&mut taken),
                _ => queue.put_back(std::mem::take(&mut taken)),
            }
        }
        queue.take(usize::MAX, usize::MAX, &mut taken);
        sent.append(&mut taken);
        proptest::prop_assert_eq!(sent.len() as u64, next);
        for number in 1..12 {
            let ids: Vec<_> = sent.iter().filter(|call| call.client.number == number).map(|call| call.id).collect();
            proptest::prop_assert!(ids.is_sorted(), "{}: {:?}", number, ids);
        }
        sent.into_iter().for_each(|call| queue.release(call));
        proptest::prop_assert_eq!(queue.usage(), Usage::default());
        proptest::prop_assert!(queue.new_connections.is_empty() && queue.entries.clients.is_empty() && queue.entries.addresses.is_empty());
    }
}

/// A request or notification of a client that belongs to an account.
fn push_as(queue: &mut Queue, who: &str, account: u64, kind: Kind) -> Result<(), Full> {
    let owner = Owner::Client(who);
    let call = Call { account: Some(Account(account)), ..call(1, 10) };
    queue.push((owner, owner), kind, &mut vec![call])
}

/// All clients of an account have one client's share, and beyond it no more than is free.
#[test]
fn clients_of_one_account_leave_as_much_as_they_have() {
    let mut queue = Queue::new(Limits { calls_max: 100, client_calls_max: 10, ..ROOMY });
    let flood = |queue: &mut Queue, account: u64, kind: Kind| {
        let taken = (0..100).take_while(|n| {
            let taken = push_as(queue, &format!("{account} {n}"), account, kind);
            assert!(matches!(taken, Ok(()) | Err(Full::Account | Full::All)), "{taken:?}");
            taken.is_ok()
        });
        taken.count()
    };
    assert_eq!(flood(&mut queue, 1, Kind::Question), 50, "half of all");
    assert_eq!(queue.has_room(Owner::Client("1"), Some(Account(1)), Kind::Question), Err(Full::Account));
    assert_eq!(queue.has_room(Owner::Client("2"), Some(Account(2)), Kind::Question), Ok(()));
    assert_eq!(flood(&mut queue, 2, Kind::Question), 25, "half of what is left");
    assert_eq!(flood(&mut queue, 3, Kind::Question), 13);
    // One client's share, although less is free.
    assert_eq!(queue.usage().calls, 88);
    assert_eq!(flood(&mut queue, 4, Kind::Question), 10);
    assert_eq!(flood(&mut queue, 5, Kind::Question), 2, "no more than all may have");
    taken(&mut queue, usize::MAX);
    assert!(queue.accounts.is_empty() && queue.usage() == Usage::default());
    // Notifications get half of it.
    assert_eq!(flood(&mut queue, 1, Kind::Notification), 33);
    assert_eq!(flood(&mut queue, 2, Kind::Notification), 17, "half of all together");
    taken(&mut queue, usize::MAX);
    assert!(queue.accounts.is_empty() && queue.usage() == Usage::default());
}

/// The same in bytes. The memory of their entries and of descriptions is the account's too.
#[test]
fn an_account_has_the_memory_of_all_its_clients() {
    let mut one = Queue::new(ROOMY);
    push_as(&mut one, "1 00", 1, Kind::Question).unwrap();
    let cost = one.usage().bytes;
    let limits = Limits { bytes_max: 20 * cost, client_bytes_max: cost, ..ROOMY };
    let mut queue = Queue::new(limits);
    for n in 0..10 {
        push_as(&mut queue, &format!("1 {n:02}"), 1, Kind::Question).unwrap();
    }
    assert_eq!(push_as(&mut queue, "1 10", 1, Kind::Question), Err(Full::Account));
    assert_eq!(queue.usage().bytes, 10 * cost);
    push_as(&mut queue, "2 00", 2, Kind::Question).unwrap();
    let mut calls = Vec::new();
    queue.take(usize::MAX, usize::MAX, &mut calls);
    assert_eq!(push_as(&mut queue, "1 10", 1, Kind::Question), Err(Full::Account), "they are not sent yet");
    queue.put_back(calls);
    taken(&mut queue, usize::MAX);
    assert!(queue.accounts.is_empty() && queue.usage() == Usage::default());
}
