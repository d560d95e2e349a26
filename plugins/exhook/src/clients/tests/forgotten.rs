//! Which clients are forgotten, and which process is notified.

use super::*;

/// A connection that comes again has a new number.
#[test]
fn a_returning_connection_has_a_new_number() {
    let queue = writer();
    let mut clients = Clients::new(0, limits(2, 2), none());
    let named = |name| EventClient { client_id: name, ..who(1) };
    let mut notify = |name| number(&queue, &mut clients, &named(name), None).number;
    notify("a");
    let b = notify("b");
    leave(&queue, &mut clients, &named("a"), 7);
    number(&queue, &mut clients, &named("a"), None);
    sent(&queue, &none());
    number(&queue, &mut clients, &named("c"), None);
    let calls = waiting(&queue);
    assert!(calls.contains(&(FORGOTTEN, b)), "the oldest goes: {calls:?}");
    assert!(clients.described.get("a").is_some() && clients.described.get("c").is_some());
}

/// A process that got a client's description with a call for an earlier process is notified when
/// the client is forgotten: when another client evicts it, and when its last call finds no room.
#[test]
fn a_process_described_by_a_moved_call_is_notified_of_the_end() {
    for is_last in [false, true] {
        let queue = line_of(64 << 10);
        let mut clients = Clients::new(0, limits(1, 1), none());
        let client = number(&queue, &mut clients, &who(1), None);
        sent(&queue, &none());
        call(&queue, &who(1), client.clone(), 5);
        next_process(&queue);
        let mut frame = Frame::new(queue.epoch());
        let fill = |frame: &mut Frame| {
            let (count, bytes) = frame.fill(&queue, &none(), &mut PendingCalls::new());
            let mut rest = bytes;
            let calls: Vec<_> =
                (0..count).map(|_| part(&rmpv::decode::read_value(&mut rest).unwrap(), 1)).collect();
            queue.release(&mut frame.calls);
            calls
        };
        assert_eq!(fill(&mut frame), [DESCRIBED, 5]);
        if is_last {
            let place = clients.locate(&who(1), ConnectionState::Connected);
            clients.last_call(&mut write(&queue, &who(1)), &who(1), (place, POINT), |writer, client| {
                writer.call(0, 7, client, |data| {
                    data.bytes(&vec![0; 100_000]);
                });
            });
            assert_eq!(fill(&mut frame), [FORGOTTEN]);
        } else {
            number(&queue, &mut clients, &EventClient { client_id: "d", ..who(1) }, None);
            assert_eq!(fill(&mut frame), [FORGOTTEN, DESCRIBED]);
        }
        // A process without its description is not notified of its end.
        next_process(&queue);
        assert_eq!(fill(&mut Frame::new(queue.epoch())), Vec::<i64>::new());
    }
}

/// A refused connection is forgotten. Others under that identifier, pending or connected, stay.
#[test]
fn a_refused_connection_is_forgotten() {
    let (queue, logins) = (writer(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
    let refused = |clients: &mut Clients, who: &EventClient<'_>| {
        let place = clients.locate(who, ConnectionState::Refused);
        let mut writing = queue.write_forgotten(owner(who, place)).unwrap();
        clients.connection_ended(Some((&mut writing, place)), who);
        writing.done();
    };
    let in_already = number(&queue, &mut clients, &who(1), None).number;
    let first = number(&queue, &mut clients, &who(2), Some(&ConnectDetails::default())).number;
    let second = number(&queue, &mut clients, &who(3), Some(&ConnectDetails::default())).number;
    sent(&queue, &logins);
    refused(&mut clients, &who(2));
    assert_eq!(waiting(&queue), [(FORGOTTEN, first)]);
    refused(&mut clients, &who(3));
    assert_eq!(waiting(&queue), [(FORGOTTEN, second)]);
    refused(&mut clients, &who(4));
    assert_eq!(waiting(&queue), []);
    assert_eq!(number(&queue, &mut clients, &who(1), None).number, in_already);
    // No calls are taken, so there is no process to notify.
    number(&queue, &mut clients, &who(2), Some(&ConnectDetails::default()));
    queue.cut(Vec::new());
    assert!(queue.write_forgotten(Owner::Address("127.0.0.1")).is_none());
    clients.connection_ended(None, &who(2));
    assert_eq!((clients.pending_logins.len(), clients.described.len()), (0, 1));
}

/// Late login data from the version before is described with the next call.
#[test]
fn late_login_data_is_described_with_the_next_call() {
    let (queue, logins) = (writer(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
    let notify = |clients: &mut Clients, who: &EventClient<'_>| {
        number(&queue, clients, who, None);
        sent(&queue, &logins).iter().map(|call| has(call, "login")).collect::<Vec<_>>()
    };
    assert!(!clients.login_came(who(1).connection()), "nobody knows it");
    assert_eq!(notify(&mut clients, &who(1)), [false]);
    stores_logins(&logins, &clients, &who(1), b"login", 0);
    assert!(!clients.login_came(who(2).connection()), "another connection's");
    assert_eq!(notify(&mut clients, &who(1)), [false; 0]);
    assert!(clients.login_came(who(1).connection()));
    assert_eq!(notify(&mut clients, &who(1)), [true]);
    assert_eq!(notify(&mut clients, &who(1)), [false; 0], "once");
}

/// A client that has an event after a gap stores data. One that was not known before may have gone
/// with its session: what it stores is evicted first.
#[test]
fn who_has_an_event_after_a_gap_keeps_what_it_gives() {
    let (queue, logins) = (writer(), none());
    let mut clients = Clients::new(3, PLACES, Arc::clone(&logins));
    let give = |who: &EventClient<'_>| {
        logins.store(
            LoginData { connection: who.connection(), bytes: b"x", new_session: None, epoch: 1, number: 0 },
            3,
        );
        logins.of(who.connection(), 3, who.session()).is_some()
    };
    let other = EventClient { client_id: "d", ..who(2) };
    clients.enter(&who(1), false);
    number(&queue, &mut clients, &who(1), None);
    logins.mark_uncertain(3);
    assert!(!give(&who(1)), "nobody has heard of it since");
    for _ in 0..2 {
        number(&queue, &mut clients, &who(1), None);
        number(&queue, &mut clients, &other, None);
        assert!(give(&who(1)) && give(&other));
        logins.expire(Instant::now());
        let is_uncertain = |client_id| {
            let mut found = None;
            logins.each_of(3, client_id, |over| found = Some(over.is_uncertain));
            found
        };
        assert_eq!(["c", "d"].map(is_uncertain), [Some(false), Some(true)]);
    }
    // A worker that stores nothing has nothing recorded.
    let mut clients = Clients::new(3, ClientLimits { stores_logins: false, ..PLACES }, Arc::clone(&logins));
    let third = EventClient { client_id: "e", ..who(3) };
    number(&queue, &mut clients, &third, None);
    assert!(!give(&third));
}
