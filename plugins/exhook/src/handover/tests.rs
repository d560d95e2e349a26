//! What is handed over to another version of the plugin, and when.

#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::time::Duration;

use grapnel_plugin_abi::Pieces;
use grapnel_plugin_abi::raw::ExportStep;
use serde_json::json;

use super::*;
use crate::clients::{ClientLimits, Clients, ConnectionState, EventClient};
use crate::config::RawConfig;
use crate::logins::owner_of;
use crate::queue::Owner;
use crate::{PLACES, PoolShard};

/// Number of a client of shard 0 with a pending request.
const CLIENT: u64 = (1 << 40) + 7;
/// The session of all clients, unless a test says otherwise.
const S: u64 = 3;

fn pool(driver: &str, workers: usize) -> Arc<Pool> {
    pool_that(true, driver, workers)
}

fn pool_that(stores_logins: bool, driver: &str, workers: usize) -> Arc<Pool> {
    let written: RawConfig = serde_json::from_value(json!({"driver": driver, "path": "/tmp"})).unwrap();
    let config = Arc::new(written.read(None).unwrap().remove(0));
    let logins: Vec<_> =
        (0..workers).map(|_| Arc::new(LoginStore::new((1 << 20, 64 << 20), 100, None))).collect();
    let queue = || crate::CallQueue::new(config.queue, crate::WorkerStats::none()).unwrap();
    let lines = (0..workers).map(|_| Arc::new(queue())).collect();
    Arc::new(Pool {
        config,
        queues: lines,
        logins,
        started: Arc::default(),
        wanted: BTreeMap::new(),
        stores_logins,
    })
}

fn shard(number: u32, pool: &Arc<Pool>) -> ExhookShard {
    let mut pools = [const { None }; PLACES];
    let places = ClientLimits {
        clients_max: 100,
        pending_max: 100,
        pending_bytes_max: 1 << 20,
        pending_time_max: Duration::from_secs(600),
        stores_logins: pool.stores_logins,
    };
    let clients = pool.logins.iter().map(|logins| Clients::new(number, places, Arc::clone(logins))).collect();
    pools[0] = Some(PoolShard { pool: Arc::clone(pool), clients, let_in: None });
    // Each pool belongs to another load.
    let load = Arc::as_ptr(pool) as u64;
    let journal = Journal::default();
    ExhookShard { shard: number, load, pools, host: None, timer: None, journal, hands_over: false }
}

fn connection(client_id: &str) -> Connection<'_> {
    Connection { client_id, host: "10.0.0.1", port: 7 }
}

fn owner(client_id: &str) -> u64 {
    owner_of(Some(client_id), "")
}

fn record(pool: &Pool, number: u32, client_id: &str, bytes: &[u8]) {
    let logins = &pool.logins[pool.worker_of(client_id)];
    logins.enter(connection(client_id), number, (S, owner(client_id)), false);
    logins.store(
        LoginData { connection: connection(client_id), bytes, new_session: None, epoch: 5, number: 0 },
        number,
    );
    assert!(logins.of(connection(client_id), number, (S, owner(client_id))).is_some());
}

fn kept(pool: &Pool, number: u32, client_id: &str) -> Option<Vec<u8>> {
    pool.logins[pool.worker_of(client_id)]
        .of(connection(client_id), number, (S, owner(client_id)))
        .map(Into::into)
}

/// Transfers one piece. Returns whether more follow.
fn piece(old: &mut ExhookShard, new: &mut ExhookShard, step: ExportStep, bytes_max: usize) -> bool {
    let mut written = Vec::new();
    let more = old.export(step, bytes_max, &mut |piece| {
        written.extend_from_slice(piece);
        Ok(())
    });
    let more = more.unwrap();
    assert!(written.len() <= bytes_max);
    new.import(&written, !more).unwrap();
    more
}

#[test]
fn logins_go_to_the_workers_of_the_next_version() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 3));
    let names: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        record(&old, (n % 2) as u32, name, name.as_bytes());
    }
    record(&new, 0, "gone", b"from a reload that was called off");
    for number in [0, 1, 0] {
        let (mut from, mut to) = (shard(number, &old), shard(number, &new));
        let mut step = ExportStep::BEGIN;
        while piece(&mut from, &mut to, step, 64) {
            step = ExportStep::NEXT;
        }
    }
    for (n, name) in names.iter().enumerate() {
        let number = (n % 2) as u32;
        assert_eq!(kept(&new, number, name).as_deref(), Some(name.as_bytes()));
        let stored = new.logins[new.worker_of(name)].stored(name, number, S, 1);
        assert_eq!(stored.as_deref(), Some(name.as_bytes()), "no process has it yet");
    }
    assert_eq!(kept(&new, 0, "gone"), None, "what came before is replaced");
}

/// More than one step can hand over, while workers continue: their reports are handed over too,
/// until the last piece.
#[test]
fn reports_during_a_handover_are_handed_over_in_small_steps() {
    let (old, new) = (pool("amqtt", 2), pool("amqtt", 2));
    let large = vec![7; 16 << 10];
    // Four times `state_bytes_max`.
    for n in 0..2048 {
        record(&old, 0, &format!("c{n:04}"), &large);
    }
    let (mut from, mut to) = (shard(0, &old), shard(0, &new));
    let (mut steps, mut step) = (0, ExportStep::BEGIN);
    while piece(&mut from, &mut to, step, 64 << 10) {
        (steps, step) = (steps + 1, ExportStep::NEXT);
        if steps == 100 {
            record(&old, 0, "c0000", b"new");
            record(&old, 0, "zzz", b"new");
            let gone = &old.logins[old.worker_of("c0001")];
            gone.forget(connection("c0001"), 0);
        }
    }
    assert!(steps > 500, "{steps}");
    assert_eq!((kept(&new, 0, "c0000"), kept(&new, 0, "zzz")), (Some(b"new".into()), Some(b"new".into())));
    assert_eq!(kept(&new, 0, "c0001"), None);
    assert_eq!(kept(&new, 0, "c2047"), Some(large));
    // The end or the cancellation of a reload: changes are no longer recorded.
    assert!(!from.export(ExportStep::END, 0, &mut |_| Ok(())).unwrap());
    from.end_of_handover();
    record(&old, 0, "later", b"x");
    assert!(old.logins.iter().all(|logins| logins.take_changes(0).is_empty()));
}

#[test]
fn unreadable_entries_are_not_taken() {
    let (old, new) = (pool("amqtt", 1), pool("python3", 1));
    record(&old, 0, "c", b"x");
    let (mut from, mut to) = (shard(0, &old), shard(0, &new));
    piece(&mut from, &mut to, ExportStep::BEGIN, 1024);
    assert_eq!(kept(&new, 0, "c"), None, "another driver's");
    let key = || ("amqtt".to_owned(), "c".to_owned());
    let mut value = Vec::new();
    assert!(Entries::write(&from, &key(), &mut value));
    for len in 0..value.len() {
        assert!(from.put(key(), &value[..len]).is_err(), "{len}");
    }
    from.put(key(), &value).unwrap();
    assert!(!Entries::write(&from, &("amqtt".to_owned(), "d".to_owned()), &mut value));
}

/// Hands over all login data of a version, and its worker's later reports, to the version that
/// replaces it.
fn hand_over(old: &Arc<Pool>, new: &Arc<Pool>) -> (ExhookShard, ExhookShard) {
    let (mut from, mut to) = (shard(0, old), shard(0, new));
    let mut step = ExportStep::BEGIN;
    while piece(&mut from, &mut to, step, 1024) {
        step = ExportStep::NEXT;
    }
    assert!(!from.export(ExportStep::END, 0, &mut |_| Ok(())).unwrap());
    (from, to)
}

/// A report of a worker of this version. Returns the message to the next version.
fn says(pool: &Pool, client_id: &str, bytes: Option<&[u8]>, is_pending: bool) -> Option<Vec<u8>> {
    let logins = &pool.logins[pool.worker_of(client_id)];
    let keeping = LoginRecorder {
        logins,
        epoch: 5,
        driver: "amqtt",
        has_request: &|client| client == CLIENT,
        shards: 2,
    };
    let load = std::ptr::from_ref(pool) as u64;
    keeping.note(
        load,
        connection(client_id),
        LoginReport { client: CLIENT, new_session: None, bytes, is_pending },
    )
}

/// Data of clients that connect, or have just connected, when the last piece has been handed over.
#[test]
fn reports_after_the_last_piece_reach_the_next_version() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 3));
    let enter = |pool: &Pool, name| {
        pool.logins[pool.worker_of(name)].enter(connection(name), 0, (S, owner(name)), false)
    };
    record(&old, 0, "gone", b"x");
    record(&old, 0, "ended", b"x");
    enter(&old, "late");
    assert_eq!(says(&old, "gone", Some(b"y"), false), None, "no reload is under way");
    let (_from, mut to) = hand_over(&old, &new);
    let late = says(&old, "late", Some(b"late"), false).unwrap();
    to.late(&late);
    assert_eq!(kept(&new, 0, "late").as_deref(), Some(&b"late"[..]));
    // Data that came with the answer to a login: before its client is in, and after.
    to.late(&says(&old, "coming", Some(b"before"), true).unwrap());
    assert_eq!(kept(&new, 0, "coming"), None);
    enter(&new, "coming");
    assert_eq!(kept(&new, 0, "coming").as_deref(), Some(&b"before"[..]));
    // Data that is no longer valid.
    to.late(&says(&old, "gone", None, false).unwrap());
    assert_eq!(kept(&new, 0, "gone"), None);
    // A session that has ended since, and another that has begun.
    let ended = says(&old, "ended", Some(b"y"), false).unwrap();
    let logins = &new.logins[new.worker_of("ended")];
    logins.over("ended", 0, S);
    to.late(&ended);
    let session = (S + 1, owner("ended"));
    assert_eq!(
        (logins.of(connection("ended"), 0, session), logins.stored("ended", 0, S + 1, 1)),
        (None, None)
    );
    logins.enter(connection("ended"), 0, session, false);
    to.late(&ended);
    assert_eq!(kept(&new, 0, "ended"), None);
    // Messages of the same load are ignored.
    let mut from = shard(0, &old);
    from.late(&late);
    assert_eq!(kept(&old, 0, "late").as_deref(), Some(&b"late"[..]));
    // Incomplete messages.
    for len in 0..late.len() {
        to.late(&late[..len]);
    }
}

/// A login that is pending when its shard switches to the new version.
#[test]
fn data_of_a_pending_login_is_handed_over() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    record(&old, 0, "c", b"before");
    assert_eq!(says(&old, "c", Some(b"c"), true), None);
    let other = Connection { port: 8, ..connection("d") };
    let keeping = LoginRecorder {
        logins: &old.logins[0],
        epoch: 5,
        driver: "amqtt",
        has_request: &|_| true,
        shards: 2,
    };
    keeping.note(
        1,
        other,
        LoginReport { client: CLIENT, new_session: None, bytes: Some(b"d"), is_pending: true },
    );
    hand_over(&old, &new);
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"before"[..]));
    new.logins[0].enter(other, 0, (S, 1), false);
    assert_eq!(new.logins[0].of(other, 0, (S, 1)).as_deref(), Some(&b"d"[..]));
}

/// Data without room at the handover is counted, and not shown.
#[test]
fn logins_without_room_are_counted_when_they_go_over() {
    let (old, mut new) = (pool("amqtt", 1), pool("amqtt", 1));
    for n in 0..10 {
        record(&old, 0, &format!("c{n}"), &[0; 100]);
    }
    let small = Arc::new(LoginStore::new((1000, 800), 100, None));
    Arc::get_mut(&mut new).unwrap().logins = vec![Arc::clone(&small)];
    hand_over(&old, &new);
    let unkept = small.take_not_stored();
    assert!(unkept.of_all >= 7 && unkept.count() == unkept.of_all, "{unkept:?}");
    assert_eq!(kept(&new, 0, "c9"), None);
}

/// Data is handed over only to workers that store login data: others do not see which sessions end.
#[test]
fn nothing_goes_over_to_code_that_keeps_nothing() {
    let (first, second, third) = (pool("amqtt", 1), pool_that(false, "amqtt", 1), pool("amqtt", 1));
    record(&first, 0, "c", b"ann");
    let (_from, mut to) = hand_over(&first, &second);
    to.late(&says(&first, "c", Some(b"ann, late"), false).unwrap());
    // Its session ends without a notification.
    hand_over(&second, &third);
    assert_eq!(third.logins[0].stored("c", 0, S, 1), None, "nobody else is shown what she had");
}

/// Whether the entry of a client is evicted first.
fn is_uncertain(pool: &Pool, client_id: &str) -> Option<bool> {
    let mut found = None;
    pool.logins[0].each_of(0, client_id, |over| found = Some(over.is_uncertain));
    found
}

/// Doubted data stays doubted after a reload, whatever comes late, until an event shows its session.
#[test]
fn uncertain_data_stays_uncertain_after_a_reload() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    record(&old, 0, "c", b"ann");
    record(&old, 0, "d", b"bob");
    old.logins[0].mark_uncertain(0);
    let (_from, mut to) = hand_over(&old, &new);
    assert_eq!((is_uncertain(&new, "c"), is_uncertain(&new, "d")), (Some(true), Some(true)));
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"ann"[..]), "it is its own session's all the same");
    old.logins[0].confirm(connection("c"), 0, (S, owner("c")), true);
    to.late(&says(&old, "c", Some(b"ann, late"), false).unwrap());
    assert_eq!(
        (kept(&new, 0, "c").as_deref(), is_uncertain(&new, "c")),
        (Some(&b"ann, late"[..]), Some(true))
    );
    new.logins[0].confirm(connection("c"), 0, (S, owner("c")), true);
    assert_eq!(
        (kept(&new, 0, "c").as_deref(), is_uncertain(&new, "c")),
        (Some(&b"ann, late"[..]), Some(false))
    );
    // Data that is no longer valid is removed, and an event does not restore it.
    to.late(&says(&old, "d", None, false).unwrap());
    new.logins[0].confirm(connection("d"), 0, (S, owner("d")), true);
    assert_eq!(kept(&new, 0, "d"), None);
}

/// Data in an answer that came too late belongs to a connection whose end would not be reported.
#[test]
fn data_in_a_late_answer_is_not_stored() {
    let old = pool("amqtt", 1);
    for (has_request, expected) in [(false, None), (true, Some(b"c".to_vec()))] {
        let keeping = LoginRecorder {
            logins: &old.logins[0],
            epoch: 5,
            driver: "amqtt",
            has_request: &|_| has_request,
            shards: 2,
        };
        keeping.note(
            1,
            connection("c"),
            LoginReport { client: CLIENT, new_session: None, bytes: Some(b"c"), is_pending: true },
        );
        old.logins[0].enter(connection("c"), 0, (S, owner("c")), false);
        assert_eq!(kept(&old, 0, "c"), expected);
    }
}

/// A worker may send any number: no table is created for a shard that does not exist.
#[test]
fn reports_for_an_unknown_shard_are_not_stored() {
    let old = pool("amqtt", 1);
    old.logins[0].note_changes(1, true);
    let keeping = LoginRecorder {
        logins: &old.logins[0],
        epoch: 5,
        driver: "amqtt",
        has_request: &|_| true,
        shards: 2,
    };
    for (shard, is_kept) in [(0, true), (1, true), (2, false), (1 << 20, false)] {
        for (bytes, is_pending) in [(Some(&b"x"[..]), false), (Some(b"x"), true), (None, true), (None, false)]
        {
            let report = LoginReport { client: (shard + 1) << 40, new_session: None, bytes, is_pending };
            keeping.note(1, connection("c"), report);
        }
        assert_eq!(old.logins[0].has_shard(shard as u32), is_kept, "{shard}");
    }
}

/// A client that connected before its shard switched already has its valid data: a late report
/// changes nothing.
#[test]
fn late_pending_data_of_a_connected_client_is_ignored() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    old.logins[0].note_changes(0, true);
    let keeping = LoginRecorder {
        logins: &old.logins[0],
        epoch: 5,
        driver: "amqtt",
        has_request: &|_| true,
        shards: 2,
    };
    let report =
        LoginReport { client: CLIENT, bytes: Some(b"both"), new_session: Some(b"own"), is_pending: true };
    let late = keeping.note(Arc::as_ptr(&old) as u64, connection("c"), report).unwrap();
    old.logins[0].enter(connection("c"), 0, (S, owner("c")), false);
    let (_from, mut to) = hand_over(&old, &new);
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"own"[..]));
    to.late(&late);
    new.logins[0].enter_again(connection("c"), 0);
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"own"[..]));
}

/// A login that is pending in a reload and requests to resume a session: whether it does is known
/// in the version that lets its client in.
#[test]
fn data_for_a_resumed_or_a_new_session_is_handed_over() {
    for goes_on in [true, false] {
        let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
        let says = |client_id| {
            let keeping = LoginRecorder {
                logins: &old.logins[0],
                epoch: 5,
                driver: "amqtt",
                has_request: &|_| true,
                shards: 2,
            };
            let report = LoginReport {
                client: CLIENT,
                bytes: Some(b"both"),
                new_session: Some(b"own"),
                is_pending: true,
            };
            keeping.note(1, connection(client_id), report)
        };
        assert_eq!(says("before"), None);
        let (_from, mut to) = hand_over(&old, &new);
        to.late(&says("late").unwrap());
        for name in ["before", "late"] {
            new.logins[0].enter(connection(name), 0, (S, owner(name)), goes_on);
            let expected = if goes_on { &b"both"[..] } else { b"own" };
            assert_eq!(kept(&new, 0, name).as_deref(), Some(expected), "{name}");
        }
    }
}

/// A login without room is handed over: the session's earlier data is not used for it, whether the
/// report comes before its client connects or after.
#[test]
fn a_login_without_room_goes_over() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    let eve = |client_id| Connection { port: 8, ..connection(client_id) };
    let more = pool("amqtt", 3);
    let keeping = LoginRecorder {
        logins: &old.logins[0],
        epoch: 5,
        driver: "amqtt",
        has_request: &|_| true,
        shards: 2,
    };
    let none = LoginReport { client: CLIENT, new_session: None, bytes: None, is_pending: true };
    for name in ["before", "late", "later", "other"] {
        record(&old, 0, name, b"ann");
    }
    keeping.note(1, eve("before"), none);
    // Whichever worker serves it by then.
    hand_over(&old, &more);
    let worker = &more.logins[more.worker_of("before")];
    let has_lost = |logins: &LoginStore| logins.next(0, None).as_deref() == Some(NO_CLIENT_ID);
    assert_eq!(more.logins.iter().filter(|logins| has_lost(logins)).count(), 1, "no other worker has it");
    assert!(has_lost(worker));
    worker.enter(eve("before"), 0, (S, owner("before")), true);
    assert_eq!(worker.stored("before", 0, S, 1), None);
    let (_from, mut to) = hand_over(&old, &new);
    let note = |name| keeping.note(Arc::as_ptr(&old) as u64, eve(name), none).unwrap();
    to.late(&note("late"));
    let stored = |name| new.logins[0].stored(name, 0, S, 1).is_some();
    for (name, is_there) in [("before", false), ("late", false), ("later", true), ("other", true)] {
        assert!(stored(name));
        new.logins[0].enter(eve(name), 0, (S, owner(name)), true);
        assert_eq!(stored(name), is_there, "{name}");
    }
    let queue = Arc::clone(&new.queues[0]);
    let who = EventClient {
        client_id: "later",
        username: Some("later"),
        superuser: false,
        anonymous: false,
        version: 5,
        peer_host: Some("10.0.0.1"),
        peer_port: Some(8),
        local_port: None,
        listener: None,
        session: S,
    };
    let clients = &mut to.pools[0].as_mut().unwrap().clients[0];
    let mut writing = queue.write_forgotten(Owner::Client("later")).unwrap();
    let place = clients.locate(&who, ConnectionState::Admitted);
    clients.number(&mut writing, &who, None, place);
    writing.done();
    to.late(&note("later"));
    assert!(!stored("later") && stored("other"));
}

/// Another connection comes from the port of the session's earlier connection: its late data is
/// taken, and that of the earlier one is not.
#[test]
fn a_late_login_from_the_same_port_is_taken() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    let keeping = LoginRecorder {
        logins: &old.logins[0],
        epoch: 5,
        driver: "amqtt",
        has_request: &|_| true,
        shards: 2,
    };
    let report = |client, bytes: &'static [u8]| LoginReport {
        client,
        bytes: Some(bytes),
        new_session: None,
        is_pending: true,
    };
    old.logins[0].note_changes(0, true);
    let note = |report| keeping.note(Arc::as_ptr(&old) as u64, connection("c"), report).unwrap();
    let first = note(report(CLIENT, b"first"));
    old.logins[0].enter(connection("c"), 0, (S, owner("c")), false);
    let (_from, mut to) = hand_over(&old, &new);
    let second = note(report(CLIENT + 1, b"second"));
    let enter = || {
        new.logins[0].enter(connection("c"), 0, (S, owner("c")), true);
        kept(&new, 0, "c")
    };
    to.late(&first);
    assert_eq!(enter().as_deref(), Some(&b"first"[..]));
    to.late(&second);
    assert_eq!(enter().as_deref(), Some(&b"second"[..]));
    to.late(&second);
    to.late(&first);
    assert_eq!(enter().as_deref(), Some(&b"second"[..]), "what has been there");
}

/// Entries from another load have no number, because numbers of different loads cannot be compared.
#[test]
fn numbers_go_over_once() {
    let pools = [(); 3].map(|()| pool("amqtt", 1));
    record(&pools[0], 0, "before", b"x");
    let connection = connection("coming");
    let data =
        |connection| LoginData { connection, bytes: b"x", new_session: None, epoch: 5, number: CLIENT };
    pools[0].logins[0].store(data(super::Connection { client_id: "before", ..connection }), 0);
    pools[0].logins[0].store_of_login(data(connection), 0, Instant::now());
    let numbers = |pool: &Pool| {
        let mut numbers = Vec::new();
        for name in ["before", "coming"] {
            pool.logins[0].each_of(0, name, |over| numbers.push(over.number));
        }
        numbers
    };
    assert_eq!(numbers(&pools[0]), [CLIENT; 2]);
    hand_over(&pools[0], &pools[1]);
    assert_eq!(numbers(&pools[1]), [0; 2]);
    pools[1].logins[0].enter(connection, 0, (S, owner("coming")), true);
    assert_eq!(numbers(&pools[1]), [0; 2]);
    hand_over(&pools[1], &pools[2]);
    assert_eq!(numbers(&pools[2]), [0; 2]);
}

/// The addresses with too many lost logins are handed over too.
#[test]
fn addresses_with_many_lost_logins_go_over() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    record(&old, 0, "c", b"ann");
    record(&old, 0, "d", b"bob");
    for port in 100..1000 {
        old.logins[0].pending_without_data(Connection { port, ..connection("other") }, 0, Instant::now());
    }
    hand_over(&old, &new);
    assert_eq!(new.logins[0].take_not_stored().indistinguishable, 0, "the version before has said so");
    new.logins[0].enter(Connection { host: "10.0.0.2", ..connection("c") }, 0, (S, owner("c")), true);
    assert!(new.logins[0].stored("c", 0, S, 1).is_some());
    new.logins[0].enter(Connection { port: 8, ..connection("d") }, 0, (S, owner("d")), true);
    assert!(new.logins[0].stored("d", 0, S, 1).is_none(), "it may be one of them");
}
