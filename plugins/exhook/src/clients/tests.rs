//! Which clients are described to a process, and what the next process gets.

#![allow(clippy::unwrap_used)]

mod forgotten;
mod pending_logins;

use super::described_clients::STORED_BYTES_MAX;
use super::*;
use crate::call_queue::{CallQueue, DESCRIBED, FORGOTTEN, PendingCalls};
use crate::frame::Frame;
use crate::logins::LoginData;
use crate::queue::{Kind, Limits, Owner};
use crate::stats::WorkerStats;

const MAX: usize = 1000;
const VISITORS: usize = 100;
const PLACES: ClientLimits = limits(MAX, VISITORS);

const fn limits(clients_max: usize, pending_max: usize) -> ClientLimits {
    let pending_time_max = Duration::from_secs(600);
    ClientLimits {
        clients_max,
        pending_max,
        pending_bytes_max: 1 << 20,
        pending_time_max,
        stores_logins: true,
    }
}

fn none() -> Arc<LoginStore> {
    Arc::new(LoginStore::new((1024, 1 << 20), MAX, None))
}

fn clients_of(logins: &Arc<LoginStore>, shard: u32) -> Clients {
    Clients::new(shard, PLACES, Arc::clone(logins))
}

fn line_of(client_bytes_max: u64) -> CallQueue {
    let limits = Limits {
        calls_max: 1 << 20,
        bytes_max: 1 << 30,
        client_calls_max: 1 << 20,
        client_bytes_max,
        address_calls_max: 1 << 20,
        address_bytes_max: client_bytes_max,
    };
    CallQueue::new(limits, WorkerStats::none()).unwrap()
}

fn writer() -> CallQueue {
    line_of(1 << 30)
}

const POINT: HookPoint = HookPoint::ClientConnected;

fn write<'a>(queue: &'a CallQueue, who: &EventClient<'a>) -> QueueWriter<'a> {
    write_for(queue, Owner::Client(who.client_id))
}

fn write_for<'a>(queue: &'a CallQueue, owner: Owner<'a>) -> QueueWriter<'a> {
    queue.write((owner, owner), Kind::Notification, POINT).unwrap()
}

/// Locates a connection with this data.
fn place(clients: &mut Clients, who: &EventClient<'_>, connecting: Option<&ConnectDetails<'_>>) -> ClientRef {
    let connection_state = match connecting {
        None => ConnectionState::Connected,
        Some(connecting) if connecting.late => ConnectionState::Admitted,
        Some(_) => ConnectionState::Connecting,
    };
    clients.locate(who, connection_state)
}

fn owner<'a>(who: &EventClient<'a>, place: ClientRef) -> Owner<'a> {
    if place.is_connected { Owner::Client(who.client_id) } else { Owner::Address(who.peer_host.unwrap()) }
}

/// The name of a client; its description is queued.
fn number<'a>(
    queue: &'a CallQueue,
    clients: &mut Clients,
    who: &EventClient<'a>,
    connecting: Option<&ConnectDetails<'_>>,
) -> NamedClient {
    let place = place(clients, who, connecting);
    let mut writing = write_for(queue, owner(who, place));
    let named = clients.number(&mut writing, who, connecting, place);
    assert!(writing.is_taken(POINT));
    named
}

fn call(queue: &CallQueue, who: &EventClient<'_>, client: NamedClient, point: i64) {
    let mut writing = write(queue, who);
    writing.call(0, point, client, |data| {
        data.nil();
    });
    assert!(writing.is_taken(POINT));
}

fn leave(queue: &CallQueue, clients: &mut Clients, who: &EventClient<'_>, point: i64) {
    let place = clients.locate(who, ConnectionState::Connected);
    clients.last_call(&mut write(queue, who), who, (place, POINT), |writer, client| {
        writer.call(0, point, client, |data| {
            data.nil();
        });
    });
}

/// The calls of a frame for the present process. They count as sent.
fn sent(queue: &CallQueue, logins: &LoginStore) -> Vec<rmpv::Value> {
    let mut frame = Frame::new(queue.epoch());
    let (count, bytes) = frame.fill(queue, logins, &mut PendingCalls::new());
    let mut rest = bytes;
    let calls = (0..count).map(|_| rmpv::decode::read_value(&mut rest).unwrap()).collect();
    assert!(rest.is_empty());
    queue.release(&mut frame.calls);
    calls
}

fn part(call: &rmpv::Value, at: usize) -> i64 {
    call.as_array().unwrap()[at].as_i64().unwrap()
}

fn has(call: &rmpv::Value, key: &str) -> bool {
    let pairs = call.as_array().unwrap()[3].as_map();
    pairs.is_some_and(|pairs| pairs.iter().any(|(found, _)| found.as_str() == Some(key)))
}

fn next_process(queue: &CallQueue) {
    queue.put_back(Vec::new(), PendingCalls::new());
}

fn who(peer_port: u16) -> EventClient<'static> {
    EventClient {
        client_id: "c",
        username: Some("u"),
        superuser: false,
        anonymous: false,
        version: 5,
        peer_host: Some("127.0.0.1"),
        peer_port: Some(peer_port),
        local_port: Some(1883),
        listener: Some("default"),
        session: 1,
    }
}

#[test]
fn a_restarted_process_gets_the_login_data() {
    let (queue, logins) = (writer(), none());
    let mut clients = Clients::new(3, PLACES, Arc::clone(&logins));
    let mut notify = |who: &EventClient<'_>, connecting: Option<&ConnectDetails<'_>>| {
        number(&queue, &mut clients, who, connecting);
        let calls = sent(&queue, &logins);
        ["login", "stored"].map(|key| calls.iter().any(|call| has(call, key)))
    };
    assert_eq!(notify(&who(1), Some(&ConnectDetails::default())), [false, false]);
    stores_logins(&logins, &clients_of(&logins, 3), &who(1), b"login", queue.epoch());
    assert_eq!(notify(&who(1), None), [false, false], "the process has it itself");
    assert_eq!(
        notify(&who(2), Some(&ConnectDetails::default())),
        [false, false],
        "and that of the session too"
    );
    next_process(&queue);
    assert_eq!(
        notify(&who(2), Some(&ConnectDetails::default())),
        [false, true],
        "another one that wants the session"
    );
    assert_eq!(notify(&who(1), None), [true, false]);
    for session in [0, 2] {
        let another = EventClient { session, ..who(3) };
        assert_eq!(
            notify(&another, Some(&ConnectDetails::default())),
            [false, false],
            "there is none, or another one"
        );
    }
    assert_eq!(shard_of(number(&queue, &mut clients, &who(1), None).number), 3);
}

/// Hook points and client numbers of all queued calls.
fn waiting(queue: &CallQueue) -> Vec<(i64, u64)> {
    sent(queue, &none()).iter().map(|call| (part(call, 1), part(call, 2) as u64)).collect()
}

#[test]
fn a_client_is_described_once_and_again_when_it_has_changed() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let first = number(&queue, &mut clients, &who(1), Some(&ConnectDetails::default())).number;
    assert_eq!(waiting(&queue), [(DESCRIBED, first)]);
    for expected in [&[(DESCRIBED, first)][..], &[]] {
        assert_eq!(number(&queue, &mut clients, &who(1), None).number, first);
        assert_eq!(waiting(&queue), expected, "without the password, and then as it is");
    }
    let changed = EventClient { superuser: true, ..who(1) };
    assert_eq!(number(&queue, &mut clients, &changed, None).number, first);
    assert_eq!(waiting(&queue), [(DESCRIBED, first)]);
    next_process(&queue);
    let again = number(&queue, &mut clients, &changed, None).number;
    assert_eq!(waiting(&queue), [(DESCRIBED, again)], "another process knows nobody");
}

/// A call without room does not describe its client, so the next call does. A last call is the last
/// one even without room.
#[test]
fn a_call_without_room_does_not_describe_its_client() {
    let (queue, logins) = (line_of(64 << 10), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
    let mut notify = |name: &str, connecting: Option<&ConnectDetails<'_>>, bytes: usize| {
        let who = EventClient { client_id: name, ..who(1) };
        let place = place(&mut clients, &who, connecting);
        let mut writing = write_for(&queue, owner(&who, place));
        let client = clients.number(&mut writing, &who, connecting, place);
        writing.call(0, 7, client.clone(), |data| {
            data.bytes(&vec![0; bytes]);
        });
        let taken = writing.is_taken(POINT);
        if !taken {
            clients.describe_again(&who);
        }
        (taken, client.number)
    };
    let connecting = ConnectDetails { keep_alive_s: 7, ..ConnectDetails::default() };
    let (taken, first) = notify("c", Some(&connecting), 40_000);
    assert!(!taken && waiting(&queue).is_empty());
    let (taken, again) = notify("c", None, 10);
    assert!(taken && again == first);
    let calls = sent(&queue, &logins);
    assert_eq!(calls.iter().map(|call| part(call, 1)).collect::<Vec<_>>(), [DESCRIBED, 7]);
    assert!(has(&calls[0], "keep_alive_s"), "what CONNECT said is not lost");
    // A known client is described again only if something has changed, even after a call without
    // room.
    assert_eq!((notify("c", None, 40_000).0, notify("c", None, 10)), (false, (true, first)));
    assert_eq!(waiting(&queue), [(7, first)]);
    let mut last = |name: &str, bytes: usize| {
        let who = EventClient { client_id: name, ..who(1) };
        stores_logins(&logins, &clients, &who, b"login", 1);
        let place = clients.locate(&who, ConnectionState::Connected);
        clients.last_call(&mut write(&queue, &who), &who, (place, POINT), |writer, client| {
            writer.call(0, 8, client, |data| {
                data.bytes(&vec![0; bytes]);
            });
        });
        clients.session_ended(&who);
        assert!(logins.of(who.connection(), 0, who.session()).is_none(), "the session is over");
        waiting(&queue)
    };
    assert_eq!(last("c", 40_000), [(FORGOTTEN, first)]);
    assert_eq!(last("d", 40_000), [], "nobody was told of it");
    assert!(clients.described.len() == 0);
}

/// Connects a client and stores its login data.
fn stores_logins(logins: &LoginStore, clients: &Clients, who: &EventClient<'_>, bytes: &[u8], epoch: u64) {
    clients.enter(who, false);
    logins.store(
        LoginData { connection: who.connection(), bytes, new_session: None, epoch, number: 0 },
        clients.shard,
    );
    assert!(logins.of(who.connection(), clients.shard, who.session()).is_some());
}

/// Data of a session is removed with it, whichever connection stored it and whatever the worker is
/// notified of.
#[test]
fn login_data_is_removed_with_its_session() {
    let (queue, logins) = (writer(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
    stores_logins(&logins, &clients, &who(1), b"login", 1);
    number(&queue, &mut clients, &who(2), None);
    leave(&queue, &mut clients, &who(1), 7);
    assert!(logins.of(who(1).connection(), 0, who(1).session()).is_some(), "its connection has ended");
    clients.session_ended(&who(1));
    assert!(logins.of(who(1).connection(), 0, who(1).session()).is_none());
    // Later reports of the worker have no client.
    logins.store(
        LoginData { connection: who(1).connection(), bytes: b"late", new_session: None, epoch: 1, number: 0 },
        0,
    );
    assert!(logins.of(who(1).connection(), 0, who(1).session()).is_none());
    stores_logins(&logins, &clients, &who(2), b"login", 1);
    clients.connection_ended(None, &who(2));
    assert!(logins.of(who(2).connection(), 0, who(2).session()).is_some());
    clients.session_ended(&who(1));
    assert!(logins.of(who(2).connection(), 0, who(2).session()).is_none());
}

#[test]
fn a_restarted_process_gets_the_connect_data_without_the_password() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let mut notify = |queue: &CallQueue, who: &EventClient<'_>, connecting: Option<&ConnectDetails<'_>>| {
        number(queue, &mut clients, who, connecting);
        let calls = sent(queue, &none());
        ["password", "keep_alive_s", "earlier"].map(|key| has(&calls[0], key))
    };
    let connecting = ConnectDetails { password: Some(b"x"), keep_alive_s: 7, ..ConnectDetails::default() };
    assert_eq!(notify(&queue, &who(1), Some(&connecting)), [true, true, false]);
    assert_eq!(notify(&queue, &who(1), None), [false; 3], "it has heard of that");
    next_process(&queue);
    assert_eq!(notify(&queue, &who(1), None), [false, true, true]);
    next_process(&queue);
    assert_eq!(
        notify(&queue, &who(2), None),
        [false; 3],
        "that is another connection, whose CONNECT nobody saw"
    );
    let long = "x".repeat(STORED_BYTES_MAX);
    let connecting = ConnectDetails { properties: vec![("k", &long)], ..ConnectDetails::default() };
    assert_eq!(notify(&queue, &who(3), Some(&connecting)), [false, true, false]);
    next_process(&queue);
    assert_eq!(notify(&queue, &who(3), None), [false; 3], "too long to be kept");
}

#[test]
fn connect_data_is_sent_with_the_first_requested_call() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let mut notify = |who: &EventClient<'_>, connecting: Option<&ConnectDetails<'_>>| {
        number(&queue, &mut clients, who, connecting);
        let calls = sent(&queue, &none());
        calls.first().map(|call| ["keep_alive_s", "will"].map(|key| has(call, key)))
    };
    let late = ConnectDetails { late: true, keep_alive_s: 7, ..ConnectDetails::default() };
    assert_eq!(notify(&who(1), Some(&late)), Some([true, false]));
    assert_eq!(notify(&who(1), None), None, "it has no password that must not be shown any longer");
    assert_eq!(notify(&who(2), Some(&ConnectDetails::default())), Some([true, true]));
    assert_eq!(
        notify(&who(2), Some(&late)),
        Some([false, false]),
        "without the password, and nothing is new"
    );
    assert_eq!(notify(&who(2), None), None);
}

/// A login that another process or version has answered: its result is not known to this process,
/// which must not replace it by nothing.
#[test]
fn a_login_missed_by_a_process_is_marked_as_earlier() {
    let (queue, kept) = (writer(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&kept));
    let late =
        ConnectDetails { late: true, is_login_call: true, keep_alive_s: 7, ..ConnectDetails::default() };
    let notify = |clients: &mut Clients, who: &EventClient<'_>, connecting: Option<&ConnectDetails<'_>>| {
        number(&queue, clients, who, connecting);
        let calls = sent(&queue, &kept);
        // After the notice that the earlier number is not used again.
        let described = calls.iter().find(|call| part(call, 1) == DESCRIBED);
        described.map(|call| ["keep_alive_s", "earlier"].map(|key| has(call, key)))
    };
    // The version before answered the login.
    assert_eq!(notify(&mut clients, &who(1), Some(&late)), Some([true, true]));
    next_process(&queue);
    assert_eq!(notify(&mut clients, &who(1), None), Some([true, true]), "and it stays so");
    // A worker without login hooks has missed nothing.
    let not_asked = ConnectDetails { is_login_call: false, ..late.clone() };
    assert_eq!(notify(&mut clients, &who(2), Some(&not_asked)), Some([true, false]));
    // The process that answered has ended before client.connected.
    assert_eq!(notify(&mut clients, &who(3), Some(&ConnectDetails::default())), Some([true, false]));
    next_process(&queue);
    assert_eq!(notify(&mut clients, &who(3), Some(&late)), Some([true, true]));
    // The process that answered gets it as its own, even if it is too long to be stored.
    let text = "x".repeat(STORED_BYTES_MAX);
    let properties = vec![("k", &*text)];
    let long = ConnectDetails { properties: properties.clone(), ..ConnectDetails::default() };
    assert_eq!(notify(&mut clients, &who(4), Some(&long)), Some([true, false]));
    let long = ConnectDetails { properties, ..late.clone() };
    assert_eq!(notify(&mut clients, &who(4), Some(&long)), Some([true, false]));
    assert_eq!(notify(&mut clients, &who(5), Some(&ConnectDetails::default())), Some([true, false]));
    next_process(&queue);
    assert_eq!(notify(&mut clients, &who(5), None), Some([true, true]));
    assert_eq!(notify(&mut clients, &who(5), Some(&late)), None, "it was told so");
    // Another client has been let in under the identifier meanwhile.
    assert_eq!(notify(&mut clients, &who(6), Some(&late)), Some([true, true]));
}

/// A login that is queued when the process ends is sent to the next one, with the data of the login
/// that began its session.
#[test]
fn a_transferred_login_shows_the_session_that_it_resumes() {
    let connecting = ConnectDetails { password: Some(b"x"), ..ConnectDetails::default() };
    for is_described in [false, true] {
        let (queue, logins) = (writer(), none());
        let mut clients = Clients::new(3, PLACES, Arc::clone(&logins));
        stores_logins(&logins, &clients, &who(1), b"ann", queue.epoch());
        let named = number(&queue, &mut clients, &who(2), Some(&connecting));
        if is_described {
            assert!(!has(&sent(&queue, &logins)[0], "stored"), "that process has it itself");
        }
        call(&queue, &who(2), named, 1);
        next_process(&queue);
        let calls = sent(&queue, &logins);
        assert_eq!(calls.iter().map(|call| part(call, 1)).collect::<Vec<_>>(), [DESCRIBED, 1]);
        assert_eq!(["stored", "password", "client_id"].map(|key| has(&calls[0], key)), [true; 3]);
        // Data that was encoded for an earlier process is replaced by the latest.
        let named = number(&queue, &mut clients, &who(4), Some(&connecting));
        stores_logins(&logins, &clients, &who(1), b"ann, changed", queue.epoch());
        call(&queue, &who(4), named, 1);
        next_process(&queue);
        let calls = sent(&queue, &logins);
        let pairs = calls[0].as_array().unwrap()[3].as_map().unwrap();
        let stored: Vec<_> = pairs.iter().filter(|(key, _)| key.as_str() == Some("stored")).collect();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].1.as_slice(), Some(&b"ann, changed"[..]));
    }
}

/// Data of a call without room is not used for another connection.
#[test]
fn a_call_without_room_does_not_change_the_record_of_its_connection() {
    let queue = line_of(64 << 10);
    let mut clients = Clients::new(0, PLACES, none());
    let ann = ConnectDetails { keep_alive_s: 7, ..ConnectDetails::default() };
    number(&queue, &mut clients, &who(1), Some(&ann));
    number(&queue, &mut clients, &who(1), None);
    let about = |clients: &Clients| {
        clients.described.get("c").unwrap().about.as_ref().map(|about| about.bytes().to_vec())
    };
    let kept = |clients: &Clients| {
        clients.described.get("c").unwrap().connect_data.as_ref().map(|kept| kept.bytes.to_vec())
    };
    let before = (about(&clients), kept(&clients));
    assert!(before.0.is_some() && before.1.is_some());
    let eve = who(2);
    let mut writing = write(&queue, &eve);
    let connecting = ConnectDetails { keep_alive_s: 8, ..ConnectDetails::default() };
    let place = clients.locate(&eve, ConnectionState::Connected);
    let client = clients.number(&mut writing, &eve, Some(&connecting), place);
    writing.call(0, 7, client, |data| {
        data.bytes(&vec![0; 100_000]);
    });
    assert!(!writing.is_taken(POINT));
    clients.describe_again(&eve);
    assert_eq!((about(&clients), kept(&clients)), before);
}

#[test]
fn the_end_of_a_taken_over_connection_does_not_remove_the_new_one() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let first = number(&queue, &mut clients, &who(1), None).number;
    assert_eq!(number(&queue, &mut clients, &who(2), None).number, first);
    waiting(&queue);
    let other = first + 1;
    leave(&queue, &mut clients, &who(1), 7);
    assert_eq!(waiting(&queue), [(DESCRIBED, other), (7, other), (FORGOTTEN, other)]);
    leave(&queue, &mut clients, &who(2), 7);
    assert_eq!(waiting(&queue), [(7, first), (FORGOTTEN, first)]);
}

/// Hook points, numbers, and password and earlier data of descriptions, of all queued calls.
fn carried(queue: &CallQueue) -> Vec<(i64, u64, bool, bool)> {
    let calls = sent(queue, &none());
    calls
        .iter()
        .map(|call| (part(call, 1), part(call, 2) as u64, has(call, "password"), has(call, "earlier")))
        .collect()
}

/// Unsent calls go to the next process. Their clients are described there first, once, and as the
/// call requires.
#[test]
fn calls_that_wait_go_over_to_the_next_process_with_their_clients() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    let other = EventClient { client_id: "d", ..who(2) };
    let connecting = ConnectDetails { password: Some(b"x"), keep_alive_s: 7, ..ConnectDetails::default() };
    let in_already = number(&queue, &mut clients, &who(1), Some(&connecting)).number;
    let epoch_notified = number(&queue, &mut clients, &who(1), None);
    assert_eq!(epoch_notified.number, in_already);
    call(&queue, &who(1), epoch_notified, 5);
    let late = number(&queue, &mut clients, &other, Some(&connecting));
    let second = late.number;
    // All of that was sent to the first process; the next is not sent.
    waiting(&queue);
    call(&queue, &other, late, 1);
    for point in [6, 7] {
        let client = number(&queue, &mut clients, &who(1), None);
        call(&queue, &who(1), client, point);
    }
    leave(&queue, &mut clients, &who(1), 8);
    next_process(&queue);
    let new = number(&queue, &mut clients, &who(1), None);
    call(&queue, &who(1), new.clone(), 9);
    // The two take turns; each keeps its order.
    let calls = carried(&queue);
    let of = |number: &[u64]| -> Vec<_> {
        calls.iter().filter(|call| number.contains(&call.1)).copied().collect()
    };
    assert_eq!(of(&[second]), [(DESCRIBED, second, true, false), (1, second, false, false)]);
    assert_eq!(
        of(&[in_already, new.number]),
        [
            (DESCRIBED, in_already, false, true),
            (6, in_already, false, false),
            (7, in_already, false, false),
            (8, in_already, false, false),
            (FORGOTTEN, in_already, false, false),
            (DESCRIBED, new.number, false, false),
            (9, new.number, false, false),
        ]
    );
    assert_eq!(calls.len(), 9);
    // Taken and unsent calls too, at their old position.
    for point in [3, 4] {
        let again = number(&queue, &mut clients, &who(1), None);
        call(&queue, &who(1), again, point);
    }
    let mut frame = Frame::new(queue.epoch());
    assert_eq!(frame.fill(&queue, &none(), &mut PendingCalls::new()).0, 2);
    let client = number(&queue, &mut clients, &who(1), None);
    call(&queue, &who(1), client, 5);
    queue.put_back(frame.calls, PendingCalls::new());
    assert_eq!(waiting(&queue), [(DESCRIBED, new.number), (3, new.number), (4, new.number), (5, new.number)]);
    assert_eq!(queue.usage(), Default::default(), "all of it has been let go");
}

#[test]
fn described_clients_are_limited() {
    let queue = writer();
    let mut clients = Clients::new(0, PLACES, none());
    for n in 0..MAX + 10 {
        let name = format!("c{n}");
        number(&queue, &mut clients, &EventClient { client_id: &name, ..who(1) }, None);
    }
    assert_eq!(clients.described.len(), MAX);
    let mut forgotten = 0;
    loop {
        let calls = waiting(&queue);
        if calls.is_empty() {
            break;
        }
        forgotten += calls.iter().filter(|(point, _)| *point == FORGOTTEN).count();
    }
    assert_eq!(forgotten, 10);
}
