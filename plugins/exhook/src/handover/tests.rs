//! What is handed over to another version of the plugin, and when.

#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::time::Duration;

use grapnel_plugin_abi::Pieces;
use grapnel_plugin_abi::raw::ExportStep;
use serde_json::json;

use super::*;
use crate::clients::{Clients, Moment, Places, Who};
use crate::config::Written;
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

fn pool_that(keeps: bool, driver: &str, workers: usize) -> Arc<Pool> {
    let written: Written = serde_json::from_value(json!({"driver": driver, "path": "/tmp"})).unwrap();
    let config = Arc::new(written.read(None).unwrap().remove(0));
    let logins: Vec<_> =
        (0..workers).map(|_| Arc::new(LoginStore::new((1 << 20, 64 << 20), 100, None))).collect();
    let queue = || crate::CallQueue::new(config.queue, crate::WorkerStats::none()).unwrap();
    let lines = (0..workers).map(|_| Arc::new(queue())).collect();
    Arc::new(Pool { config, queues: lines, logins, started: Arc::default(), wanted: BTreeMap::new(), keeps })
}

fn shard(number: u32, pool: &Arc<Pool>) -> ExhookShard {
    let mut pools = [const { None }; PLACES];
    let places = Places {
        clients_max: 100,
        visitors_max: 100,
        visitors_bytes_max: 1 << 20,
        visit_max: Duration::from_secs(600),
        keeps: pool.keeps,
    };
    let clients = pool.logins.iter().map(|logins| Clients::new(number, places, Arc::clone(logins))).collect();
    pools[0] = Some(PoolShard { pool: Arc::clone(pool), clients, let_in: None });
    // Each pool belongs to another load.
    let load = Arc::as_ptr(pool) as u64;
    let journal = Journal::default();
    ExhookShard { shard: number, load, pools, host: None, timer: None, journal, hands_over: false }
}

fn whose(client_id: &str) -> Connection<'_> {
    Connection { client_id, host: "10.0.0.1", port: 7 }
}

fn owner(client_id: &str) -> u64 {
    owner_of(Some(client_id), "")
}

fn keep(pool: &Pool, number: u32, client_id: &str, bytes: &[u8]) {
    let logins = &pool.logins[pool.worker_of(client_id)];
    logins.enter(whose(client_id), number, (S, owner(client_id)), false);
    logins.store(Gave { whose: whose(client_id), bytes, anew: None, epoch: 5, number: 0 }, number);
    assert!(logins.of(whose(client_id), number, (S, owner(client_id))).is_some());
}

fn kept(pool: &Pool, number: u32, client_id: &str) -> Option<Vec<u8>> {
    pool.logins[pool.worker_of(client_id)].of(whose(client_id), number, (S, owner(client_id))).map(Into::into)
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
        keep(&old, (n % 2) as u32, name, name.as_bytes());
    }
    keep(&new, 0, "gone", b"from a reload that was called off");
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
fn what_workers_say_meanwhile_goes_over_and_no_step_is_large() {
    let (old, new) = (pool("amqtt", 2), pool("amqtt", 2));
    let large = vec![7; 16 << 10];
    // Four times `state_bytes_max`.
    for n in 0..2048 {
        keep(&old, 0, &format!("c{n:04}"), &large);
    }
    let (mut from, mut to) = (shard(0, &old), shard(0, &new));
    let (mut steps, mut step) = (0, ExportStep::BEGIN);
    while piece(&mut from, &mut to, step, 64 << 10) {
        (steps, step) = (steps + 1, ExportStep::NEXT);
        if steps == 100 {
            keep(&old, 0, "c0000", b"new");
            keep(&old, 0, "zzz", b"new");
            let gone = &old.logins[old.worker_of("c0001")];
            gone.forget(whose("c0001"), 0);
        }
    }
    assert!(steps > 500, "{steps}");
    assert_eq!((kept(&new, 0, "c0000"), kept(&new, 0, "zzz")), (Some(b"new".into()), Some(b"new".into())));
    assert_eq!(kept(&new, 0, "c0001"), None);
    assert_eq!(kept(&new, 0, "c2047"), Some(large));
    // The end or the cancellation of a reload: changes are no longer recorded.
    assert!(!from.export(ExportStep::END, 0, &mut |_| Ok(())).unwrap());
    from.end_of_handover();
    keep(&old, 0, "later", b"x");
    assert!(old.logins.iter().all(|logins| logins.take_changes(0).is_empty()));
}

#[test]
fn what_cannot_be_read_is_not_taken() {
    let (old, new) = (pool("amqtt", 1), pool("python3", 1));
    keep(&old, 0, "c", b"x");
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
fn says(pool: &Pool, client_id: &str, bytes: Option<&[u8]>, is_coming: bool) -> Option<Vec<u8>> {
    let logins = &pool.logins[pool.worker_of(client_id)];
    let keeping =
        Keeping { logins, epoch: 5, driver: "amqtt", is_asked: &|client| client == CLIENT, shards: 2 };
    let load = std::ptr::from_ref(pool) as u64;
    keeping.note(load, whose(client_id), Said { client: CLIENT, anew: None, bytes, is_coming })
}

/// Data of clients that connect, or have just connected, when the last piece has been handed over.
#[test]
fn what_a_worker_says_after_the_last_piece_reaches_the_next_version() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 3));
    let enter =
        |pool: &Pool, name| pool.logins[pool.worker_of(name)].enter(whose(name), 0, (S, owner(name)), false);
    keep(&old, 0, "gone", b"x");
    keep(&old, 0, "ended", b"x");
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
    assert_eq!((logins.of(whose("ended"), 0, session), logins.stored("ended", 0, S + 1, 1)), (None, None));
    logins.enter(whose("ended"), 0, session, false);
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
fn what_is_kept_with_an_answer_goes_over() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    keep(&old, 0, "c", b"before");
    assert_eq!(says(&old, "c", Some(b"c"), true), None);
    let other = Connection { port: 8, ..whose("d") };
    let keeping =
        Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| true, shards: 2 };
    keeping.note(1, other, Said { client: CLIENT, anew: None, bytes: Some(b"d"), is_coming: true });
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
        keep(&old, 0, &format!("c{n}"), &[0; 100]);
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
    keep(&first, 0, "c", b"ann");
    let (_from, mut to) = hand_over(&first, &second);
    to.late(&says(&first, "c", Some(b"ann, late"), false).unwrap());
    // Its session ends without a notification.
    hand_over(&second, &third);
    assert_eq!(third.logins[0].stored("c", 0, S, 1), None, "nobody else is shown what she had");
}

/// Whether the entry of a client is evicted first.
fn is_doubted(pool: &Pool, client_id: &str) -> Option<bool> {
    let mut found = None;
    pool.logins[0].each_of(0, client_id, |over| found = Some(over.is_doubted));
    found
}

/// Doubted data stays doubted after a reload, whatever comes late, until an event shows its session.
#[test]
fn what_is_doubted_goes_over_so() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    keep(&old, 0, "c", b"ann");
    keep(&old, 0, "d", b"bob");
    old.logins[0].doubt(0);
    let (_from, mut to) = hand_over(&old, &new);
    assert_eq!((is_doubted(&new, "c"), is_doubted(&new, "d")), (Some(true), Some(true)));
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"ann"[..]), "it is its own session's all the same");
    old.logins[0].confirm(whose("c"), 0, (S, owner("c")), true);
    to.late(&says(&old, "c", Some(b"ann, late"), false).unwrap());
    assert_eq!((kept(&new, 0, "c").as_deref(), is_doubted(&new, "c")), (Some(&b"ann, late"[..]), Some(true)));
    new.logins[0].confirm(whose("c"), 0, (S, owner("c")), true);
    assert_eq!(
        (kept(&new, 0, "c").as_deref(), is_doubted(&new, "c")),
        (Some(&b"ann, late"[..]), Some(false))
    );
    // Data that is no longer valid is removed, and an event does not restore it.
    to.late(&says(&old, "d", None, false).unwrap());
    new.logins[0].confirm(whose("d"), 0, (S, owner("d")), true);
    assert_eq!(kept(&new, 0, "d"), None);
}

/// Data in an answer that came too late belongs to a connection whose end would not be reported.
#[test]
fn what_comes_with_a_late_answer_is_not_kept() {
    let old = pool("amqtt", 1);
    for (is_asked, expected) in [(false, None), (true, Some(b"c".to_vec()))] {
        let keeping =
            Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| is_asked, shards: 2 };
        keeping.note(1, whose("c"), Said { client: CLIENT, anew: None, bytes: Some(b"c"), is_coming: true });
        old.logins[0].enter(whose("c"), 0, (S, owner("c")), false);
        assert_eq!(kept(&old, 0, "c"), expected);
    }
}

/// A worker may send any number: no table is created for a shard that does not exist.
#[test]
fn what_a_worker_says_of_no_shard_is_not_kept() {
    let old = pool("amqtt", 1);
    old.logins[0].note_changes(1, true);
    let keeping =
        Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| true, shards: 2 };
    for (shard, is_kept) in [(0, true), (1, true), (2, false), (1 << 20, false)] {
        for (bytes, is_coming) in [(Some(&b"x"[..]), false), (Some(b"x"), true), (None, true), (None, false)]
        {
            let said = Said { client: (shard + 1) << 40, anew: None, bytes, is_coming };
            keeping.note(1, whose("c"), said);
        }
        assert_eq!(old.logins[0].has_shard(shard as u32), is_kept, "{shard}");
    }
}

/// A client that connected before its shard switched already has its valid data: a late report
/// changes nothing.
#[test]
fn what_comes_late_of_who_had_been_let_in_is_not_for_either_end() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    old.logins[0].note_changes(0, true);
    let keeping =
        Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| true, shards: 2 };
    let said = Said { client: CLIENT, bytes: Some(b"both"), anew: Some(b"own"), is_coming: true };
    let late = keeping.note(Arc::as_ptr(&old) as u64, whose("c"), said).unwrap();
    old.logins[0].enter(whose("c"), 0, (S, owner("c")), false);
    let (_from, mut to) = hand_over(&old, &new);
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"own"[..]));
    to.late(&late);
    new.logins[0].enter_again(whose("c"), 0);
    assert_eq!(kept(&new, 0, "c").as_deref(), Some(&b"own"[..]));
}

/// A login that is pending in a reload and requests to resume a session: whether it does is known
/// in the version that lets its client in.
#[test]
fn what_a_login_gives_for_either_end_goes_over() {
    for goes_on in [true, false] {
        let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
        let says = |client_id| {
            let keeping =
                Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| true, shards: 2 };
            let said = Said { client: CLIENT, bytes: Some(b"both"), anew: Some(b"own"), is_coming: true };
            keeping.note(1, whose(client_id), said)
        };
        assert_eq!(says("before"), None);
        let (_from, mut to) = hand_over(&old, &new);
        to.late(&says("late").unwrap());
        for name in ["before", "late"] {
            new.logins[0].enter(whose(name), 0, (S, owner(name)), goes_on);
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
    let eve = |client_id| Connection { port: 8, ..whose(client_id) };
    let more = pool("amqtt", 3);
    let keeping =
        Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| true, shards: 2 };
    let none = Said { client: CLIENT, anew: None, bytes: None, is_coming: true };
    for name in ["before", "late", "later", "other"] {
        keep(&old, 0, name, b"ann");
    }
    keeping.note(1, eve("before"), none);
    // Whichever worker serves it by then.
    hand_over(&old, &more);
    let worker = &more.logins[more.worker_of("before")];
    let has_lost = |logins: &LoginStore| logins.next(0, None).as_deref() == Some(OF_NOBODY);
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
    let who = Who {
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
    let place = clients.locate(&who, Moment::LetIn);
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
    let keeping =
        Keeping { logins: &old.logins[0], epoch: 5, driver: "amqtt", is_asked: &|_| true, shards: 2 };
    let said =
        |client, bytes: &'static [u8]| Said { client, bytes: Some(bytes), anew: None, is_coming: true };
    old.logins[0].note_changes(0, true);
    let note = |said| keeping.note(Arc::as_ptr(&old) as u64, whose("c"), said).unwrap();
    let first = note(said(CLIENT, b"first"));
    old.logins[0].enter(whose("c"), 0, (S, owner("c")), false);
    let (_from, mut to) = hand_over(&old, &new);
    let second = note(said(CLIENT + 1, b"second"));
    let enter = || {
        new.logins[0].enter(whose("c"), 0, (S, owner("c")), true);
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
    keep(&pools[0], 0, "before", b"x");
    let whose = whose("coming");
    let gave = |whose| Gave { whose, bytes: b"x", anew: None, epoch: 5, number: CLIENT };
    pools[0].logins[0].store(gave(super::Connection { client_id: "before", ..whose }), 0);
    pools[0].logins[0].store_of_login(gave(whose), 0, Instant::now());
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
    pools[1].logins[0].enter(whose, 0, (S, owner("coming")), true);
    assert_eq!(numbers(&pools[1]), [0; 2]);
    hand_over(&pools[1], &pools[2]);
    assert_eq!(numbers(&pools[2]), [0; 2]);
}

/// The addresses with too many lost logins are handed over too.
#[test]
fn addresses_with_many_lost_logins_go_over() {
    let (old, new) = (pool("amqtt", 1), pool("amqtt", 1));
    keep(&old, 0, "c", b"ann");
    keep(&old, 0, "d", b"bob");
    for port in 100..1000 {
        old.logins[0].none_coming(Connection { port, ..whose("other") }, 0, Instant::now());
    }
    hand_over(&old, &new);
    assert_eq!(new.logins[0].take_not_stored().untold, 0, "the version before has said so");
    new.logins[0].enter(Connection { host: "10.0.0.2", ..whose("c") }, 0, (S, owner("c")), true);
    assert!(new.logins[0].stored("c", 0, S, 1).is_some());
    new.logins[0].enter(Connection { port: 8, ..whose("d") }, 0, (S, owner("d")), true);
    assert!(new.logins[0].stored("d", 0, S, 1).is_none(), "it may be one of them");
}
