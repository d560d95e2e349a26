//! Which clients are described to a process, and what the next process gets.

#![allow(clippy::unwrap_used)]

mod forgotten;
mod visitors;

use super::described_clients::KEPT_MAX;
use super::*;
use crate::call_queue::{CallQueue, DESCRIBED, FORGOTTEN, PendingCalls};
use crate::frame::Frame;
use crate::logins::Gave;
use crate::queue::{Kind, Limits, Owner};
use crate::stats::WorkerStats;

const MAX: usize = 1000;
const VISITORS: usize = 100;
const PLACES: Places = places(MAX, VISITORS);

const fn places(clients_max: usize, visitors_max: usize) -> Places {
    let visit_max = Duration::from_secs(600);
    Places { clients_max, visitors_max, visitors_bytes_max: 1 << 20, visit_max, keeps: true }
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

fn line() -> CallQueue {
    line_of(1 << 30)
}

const POINT: HookPoint = HookPoint::ClientConnected;

fn write<'a>(queue: &'a CallQueue, who: &Who<'a>) -> Writing<'a> {
    write_for(queue, Owner::Client(who.client_id))
}

fn write_for<'a>(queue: &'a CallQueue, owner: Owner<'a>) -> Writing<'a> {
    queue.write((owner, owner), Kind::Notification, POINT).unwrap()
}

/// Locates a connection with this data.
fn place(clients: &mut Clients, who: &Who<'_>, entering: Option<&Entering<'_>>) -> ClientRef {
    let moment = match entering {
        None => Moment::IsIn,
        Some(entering) if entering.late => Moment::LetIn,
        Some(_) => Moment::ComesIn,
    };
    clients.locate(who, moment)
}

fn owner<'a>(who: &Who<'a>, place: ClientRef) -> Owner<'a> {
    if place.is_in { Owner::Client(who.client_id) } else { Owner::Address(who.peer_host.unwrap()) }
}

/// The name of a client; its description is queued.
fn number<'a>(
    queue: &'a CallQueue,
    clients: &mut Clients,
    who: &Who<'a>,
    entering: Option<&Entering<'_>>,
) -> Named {
    let place = place(clients, who, entering);
    let mut writing = write_for(queue, owner(who, place));
    let named = clients.number(&mut writing, who, entering, place);
    assert!(writing.is_taken(POINT));
    named
}

fn call(queue: &CallQueue, who: &Who<'_>, client: Named, point: i64) {
    let mut writing = write(queue, who);
    writing.call(0, point, client, |data| {
        data.nil();
    });
    assert!(writing.is_taken(POINT));
}

fn leave(queue: &CallQueue, clients: &mut Clients, who: &Who<'_>, point: i64) {
    let place = clients.locate(who, Moment::IsIn);
    clients.last_call(&mut write(queue, who), who, (place, POINT), |line, client| {
        line.call(0, point, client, |data| {
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

fn who(peer_port: u16) -> Who<'static> {
    Who {
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
fn a_process_that_is_started_anew_hears_what_logins_gave() {
    let (queue, logins) = (line(), none());
    let mut clients = Clients::new(3, PLACES, Arc::clone(&logins));
    let mut tell = |who: &Who<'_>, entering: Option<&Entering<'_>>| {
        number(&queue, &mut clients, who, entering);
        let calls = sent(&queue, &logins);
        ["login", "stored"].map(|key| calls.iter().any(|call| has(call, key)))
    };
    assert_eq!(tell(&who(1), Some(&Entering::default())), [false, false]);
    keeps(&logins, &clients_of(&logins, 3), &who(1), b"login", queue.epoch());
    assert_eq!(tell(&who(1), None), [false, false], "the process has it itself");
    assert_eq!(tell(&who(2), Some(&Entering::default())), [false, false], "and that of the session too");
    next_process(&queue);
    assert_eq!(
        tell(&who(2), Some(&Entering::default())),
        [false, true],
        "another one that wants the session"
    );
    assert_eq!(tell(&who(1), None), [true, false]);
    for session in [0, 2] {
        let another = Who { session, ..who(3) };
        assert_eq!(
            tell(&another, Some(&Entering::default())),
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
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let first = number(&queue, &mut clients, &who(1), Some(&Entering::default())).number;
    assert_eq!(waiting(&queue), [(DESCRIBED, first)]);
    for expected in [&[(DESCRIBED, first)][..], &[]] {
        assert_eq!(number(&queue, &mut clients, &who(1), None).number, first);
        assert_eq!(waiting(&queue), expected, "without the password, and then as it is");
    }
    let changed = Who { superuser: true, ..who(1) };
    assert_eq!(number(&queue, &mut clients, &changed, None).number, first);
    assert_eq!(waiting(&queue), [(DESCRIBED, first)]);
    next_process(&queue);
    let again = number(&queue, &mut clients, &changed, None).number;
    assert_eq!(waiting(&queue), [(DESCRIBED, again)], "another process knows nobody");
}

/// A call without room does not describe its client, so the next call does. A last call is the last
/// one even without room.
#[test]
fn what_finds_no_room_has_told_nobody_of_its_client() {
    let (queue, logins) = (line_of(64 << 10), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
    let mut tell = |name: &str, entering: Option<&Entering<'_>>, bytes: usize| {
        let who = Who { client_id: name, ..who(1) };
        let place = place(&mut clients, &who, entering);
        let mut writing = write_for(&queue, owner(&who, place));
        let client = clients.number(&mut writing, &who, entering, place);
        writing.call(0, 7, client.clone(), |data| {
            data.bytes(&vec![0; bytes]);
        });
        let taken = writing.is_taken(POINT);
        if !taken {
            clients.describe_again(&who);
        }
        (taken, client.number)
    };
    let entering = Entering { keep_alive_s: 7, ..Entering::default() };
    let (taken, first) = tell("c", Some(&entering), 40_000);
    assert!(!taken && waiting(&queue).is_empty());
    let (taken, again) = tell("c", None, 10);
    assert!(taken && again == first);
    let calls = sent(&queue, &logins);
    assert_eq!(calls.iter().map(|call| part(call, 1)).collect::<Vec<_>>(), [DESCRIBED, 7]);
    assert!(has(&calls[0], "keep_alive_s"), "what CONNECT said is not lost");
    // A known client is described again only if something has changed, even after a call without
    // room.
    assert_eq!((tell("c", None, 40_000).0, tell("c", None, 10)), (false, (true, first)));
    assert_eq!(waiting(&queue), [(7, first)]);
    let mut last = |name: &str, bytes: usize| {
        let who = Who { client_id: name, ..who(1) };
        keeps(&logins, &clients, &who, b"login", 1);
        let place = clients.locate(&who, Moment::IsIn);
        clients.last_call(&mut write(&queue, &who), &who, (place, POINT), |line, client| {
            line.call(0, 8, client, |data| {
                data.bytes(&vec![0; bytes]);
            });
        });
        clients.session_over(&who);
        assert!(logins.of(who.connection(), 0, who.session()).is_none(), "the session is over");
        waiting(&queue)
    };
    assert_eq!(last("c", 40_000), [(FORGOTTEN, first)]);
    assert_eq!(last("d", 40_000), [], "nobody was told of it");
    assert!(clients.described.len() == 0);
}

/// Connects a client and stores its login data.
fn keeps(logins: &LoginStore, clients: &Clients, who: &Who<'_>, bytes: &[u8], epoch: u64) {
    clients.enter(who, false);
    logins.store(Gave { whose: who.connection(), bytes, anew: None, epoch, number: 0 }, clients.shard);
    assert!(logins.of(who.connection(), clients.shard, who.session()).is_some());
}

/// Data of a session is removed with it, whichever connection stored it and whatever the worker is
/// notified of.
#[test]
fn what_was_kept_leaves_with_the_session() {
    let (queue, logins) = (line(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&logins));
    keeps(&logins, &clients, &who(1), b"login", 1);
    number(&queue, &mut clients, &who(2), None);
    leave(&queue, &mut clients, &who(1), 7);
    assert!(logins.of(who(1).connection(), 0, who(1).session()).is_some(), "its connection has ended");
    clients.session_over(&who(1));
    assert!(logins.of(who(1).connection(), 0, who(1).session()).is_none());
    // Later reports of the worker have no client.
    logins.store(Gave { whose: who(1).connection(), bytes: b"late", anew: None, epoch: 1, number: 0 }, 0);
    assert!(logins.of(who(1).connection(), 0, who(1).session()).is_none());
    keeps(&logins, &clients, &who(2), b"login", 1);
    clients.connection_ended(None, &who(2));
    assert!(logins.of(who(2).connection(), 0, who(2).session()).is_some());
    clients.session_over(&who(1));
    assert!(logins.of(who(2).connection(), 0, who(2).session()).is_none());
}

#[test]
fn a_process_that_is_started_anew_hears_what_connect_said_but_for_the_password() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let mut tell = |queue: &CallQueue, who: &Who<'_>, entering: Option<&Entering<'_>>| {
        number(queue, &mut clients, who, entering);
        let calls = sent(queue, &none());
        ["password", "keep_alive_s", "earlier"].map(|key| has(&calls[0], key))
    };
    let entering = Entering { password: Some(b"x"), keep_alive_s: 7, ..Entering::default() };
    assert_eq!(tell(&queue, &who(1), Some(&entering)), [true, true, false]);
    assert_eq!(tell(&queue, &who(1), None), [false; 3], "it has heard of that");
    next_process(&queue);
    assert_eq!(tell(&queue, &who(1), None), [false, true, true]);
    next_process(&queue);
    assert_eq!(
        tell(&queue, &who(2), None),
        [false; 3],
        "that is another connection, whose CONNECT nobody saw"
    );
    let long = "x".repeat(KEPT_MAX);
    let entering = Entering { properties: vec![("k", &long)], ..Entering::default() };
    assert_eq!(tell(&queue, &who(3), Some(&entering)), [false, true, false]);
    next_process(&queue);
    assert_eq!(tell(&queue, &who(3), None), [false; 3], "too long to be kept");
}

#[test]
fn what_connect_said_comes_late_where_nobody_asked_before() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let mut tell = |who: &Who<'_>, entering: Option<&Entering<'_>>| {
        number(&queue, &mut clients, who, entering);
        let calls = sent(&queue, &none());
        calls.first().map(|call| ["keep_alive_s", "will"].map(|key| has(call, key)))
    };
    let late = Entering { late: true, keep_alive_s: 7, ..Entering::default() };
    assert_eq!(tell(&who(1), Some(&late)), Some([true, false]));
    assert_eq!(tell(&who(1), None), None, "it has no password that must not be shown any longer");
    assert_eq!(tell(&who(2), Some(&Entering::default())), Some([true, true]));
    assert_eq!(tell(&who(2), Some(&late)), Some([false, false]), "without the password, and nothing is new");
    assert_eq!(tell(&who(2), None), None);
}

/// A login that another process or version has answered: its result is not known to this process,
/// which must not replace it by nothing.
#[test]
fn a_login_that_a_process_has_missed_is_said_to_be_earlier() {
    let (queue, kept) = (line(), none());
    let mut clients = Clients::new(0, PLACES, Arc::clone(&kept));
    let late = Entering { late: true, is_login_call: true, keep_alive_s: 7, ..Entering::default() };
    let tell = |clients: &mut Clients, who: &Who<'_>, entering: Option<&Entering<'_>>| {
        number(&queue, clients, who, entering);
        let calls = sent(&queue, &kept);
        // After the notice that the earlier number is not used again.
        let described = calls.iter().find(|call| part(call, 1) == DESCRIBED);
        described.map(|call| ["keep_alive_s", "earlier"].map(|key| has(call, key)))
    };
    // The version before answered the login.
    assert_eq!(tell(&mut clients, &who(1), Some(&late)), Some([true, true]));
    next_process(&queue);
    assert_eq!(tell(&mut clients, &who(1), None), Some([true, true]), "and it stays so");
    // A worker without login hooks has missed nothing.
    let not_asked = Entering { is_login_call: false, ..late.clone() };
    assert_eq!(tell(&mut clients, &who(2), Some(&not_asked)), Some([true, false]));
    // The process that answered has ended before client.connected.
    assert_eq!(tell(&mut clients, &who(3), Some(&Entering::default())), Some([true, false]));
    next_process(&queue);
    assert_eq!(tell(&mut clients, &who(3), Some(&late)), Some([true, true]));
    // The process that answered gets it as its own, even if it is too long to be stored.
    let text = "x".repeat(KEPT_MAX);
    let properties = vec![("k", &*text)];
    let long = Entering { properties: properties.clone(), ..Entering::default() };
    assert_eq!(tell(&mut clients, &who(4), Some(&long)), Some([true, false]));
    let long = Entering { properties, ..late.clone() };
    assert_eq!(tell(&mut clients, &who(4), Some(&long)), Some([true, false]));
    assert_eq!(tell(&mut clients, &who(5), Some(&Entering::default())), Some([true, false]));
    next_process(&queue);
    assert_eq!(tell(&mut clients, &who(5), None), Some([true, true]));
    assert_eq!(tell(&mut clients, &who(5), Some(&late)), None, "it was told so");
    // Another client has been let in under the identifier meanwhile.
    assert_eq!(tell(&mut clients, &who(6), Some(&late)), Some([true, true]));
}

/// A login that is queued when the process ends is sent to the next one, with the data of the login
/// that began its session.
#[test]
fn a_login_that_goes_over_shows_whose_session_it_wants() {
    let entering = Entering { password: Some(b"x"), ..Entering::default() };
    for is_described in [false, true] {
        let (queue, logins) = (line(), none());
        let mut clients = Clients::new(3, PLACES, Arc::clone(&logins));
        keeps(&logins, &clients, &who(1), b"ann", queue.epoch());
        let named = number(&queue, &mut clients, &who(2), Some(&entering));
        if is_described {
            assert!(!has(&sent(&queue, &logins)[0], "stored"), "that process has it itself");
        }
        call(&queue, &who(2), named, 1);
        next_process(&queue);
        let calls = sent(&queue, &logins);
        assert_eq!(calls.iter().map(|call| part(call, 1)).collect::<Vec<_>>(), [DESCRIBED, 1]);
        assert_eq!(["stored", "password", "client_id"].map(|key| has(&calls[0], key)), [true; 3]);
        // Data that was encoded for an earlier process is replaced by the latest.
        let named = number(&queue, &mut clients, &who(4), Some(&entering));
        keeps(&logins, &clients, &who(1), b"ann, changed", queue.epoch());
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
fn what_finds_no_room_leaves_a_connection_as_it_was() {
    let queue = line_of(64 << 10);
    let mut clients = Clients::new(0, PLACES, none());
    let ann = Entering { keep_alive_s: 7, ..Entering::default() };
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
    let entering = Entering { keep_alive_s: 8, ..Entering::default() };
    let place = clients.locate(&eve, Moment::IsIn);
    let client = clients.number(&mut writing, &eve, Some(&entering), place);
    writing.call(0, 7, client, |data| {
        data.bytes(&vec![0; 100_000]);
    });
    assert!(!writing.is_taken(POINT));
    clients.describe_again(&eve);
    assert_eq!((about(&clients), kept(&clients)), before);
}

#[test]
fn who_has_been_taken_over_goes_without_the_one_who_came() {
    let queue = line();
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
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    let other = Who { client_id: "d", ..who(2) };
    let entering = Entering { password: Some(b"x"), keep_alive_s: 7, ..Entering::default() };
    let in_already = number(&queue, &mut clients, &who(1), Some(&entering)).number;
    let told = number(&queue, &mut clients, &who(1), None);
    assert_eq!(told.number, in_already);
    call(&queue, &who(1), told, 5);
    let late = number(&queue, &mut clients, &other, Some(&entering));
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
fn no_more_clients_are_kept_than_there_are_places() {
    let queue = line();
    let mut clients = Clients::new(0, PLACES, none());
    for n in 0..MAX + 10 {
        let name = format!("c{n}");
        number(&queue, &mut clients, &Who { client_id: &name, ..who(1) }, None);
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
