//! What a shard records of connections, independent of the worker's hooks.

#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use grapnel_plugin_abi::Journal;
use serde_json::json;

use super::*;
use crate::call_queue::CallQueue;
use crate::clients::Places;
use crate::config::Written;
use crate::logins::{Connection, Gave, LoginStore};
use crate::stats::WorkerStats;
use crate::wire::Wanted;
use crate::{PLACES, Pool};

/// A shard whose worker has hooks at client.connect and client.authorize. Pending logins expire at
/// once.
fn shard() -> ExhookShard {
    shard_that(false)
}

/// The same, with a worker that may store login data.
fn shard_that(keeps: bool) -> ExhookShard {
    let written = json!({"driver": "python3", "path": "/tmp", "client_queue_max": 2, "address_queue_max": 2});
    let written: Written = serde_json::from_value(written).unwrap();
    let config = Arc::new(written.read(None).unwrap().remove(0));
    let logins = vec![Arc::new(LoginStore::new((1024, 1 << 20), 100, None))];
    let places = Places {
        clients_max: 100,
        visitors_max: 100,
        visitors_bytes_max: 1 << 20,
        visit_max: Duration::ZERO,
        keeps,
    };
    let clients = vec![Clients::new(0, places, Arc::clone(&logins[0]))];
    let lines = vec![Arc::new(CallQueue::new(config.queue, WorkerStats::none()).unwrap())];
    let points = [HookPoint::ClientConnect, HookPoint::ClientConnected, HookPoint::ClientAuthorize];
    let wanted: BTreeMap<_, _> = points.into_iter().map(|point| (point, Wanted::default())).collect();
    let pool = Arc::new(Pool { config, queues: lines, logins, started: Arc::default(), wanted, keeps });
    let mut pools = [const { None }; PLACES];
    pools[0] = Some(PoolShard { pool, clients, let_in: None });
    let journal = Journal::default();
    ExhookShard { shard: 0, load: 1, pools, host: None, timer: None, journal, hands_over: false }
}

fn who(port: u16) -> Who<'static> {
    Who {
        client_id: "c",
        username: None,
        superuser: false,
        anonymous: true,
        version: 5,
        peer_host: Some("10.0.0.1"),
        peer_port: Some(port),
        local_port: None,
        listener: None,
        session: 1,
    }
}

fn tell(shard: &mut ExhookShard, point: HookPoint, port: u16, moment: Moment) {
    shard.pools[0].as_mut().unwrap().notify(point, (&who(port), moment), None, |out| {
        out.list(0);
    });
}

/// Numbers of connected clients and of pending logins.
fn counts(shard: &ExhookShard) -> (usize, usize) {
    shard.pools[0].as_ref().unwrap().clients[0].counts()
}

/// A connection that is let in is the client, even if the worker is not notified or there is no
/// room.
#[test]
fn who_is_let_in_is_the_client_whoever_hears_of_it() {
    for is_away in [false, true] {
        let mut shard = shard();
        tell(&mut shard, HookPoint::ClientConnect, 1, Moment::ComesIn);
        assert_eq!(counts(&shard), (0, 1));
        if is_away {
            shard.pools[0].as_ref().unwrap().pool.queues[0].cut(Vec::new());
        } else {
            // Its client's limit is reached.
            tell(&mut shard, HookPoint::ClientAuthorize, 9, Moment::IsIn);
        }
        tell(&mut shard, HookPoint::ClientConnected, 1, Moment::LetIn);
        assert_eq!(counts(&shard), (1, 0), "{is_away}");
    }
}

/// A client that reconnects without a request before it is in is the client: its authorization
/// requests use its own share.
#[test]
fn who_comes_anew_is_the_client_when_it_is_asked() {
    let mut shard = shard();
    tell(&mut shard, HookPoint::ClientAuthorize, 1, Moment::IsIn);
    let asked = |shard: &mut ExhookShard, port| {
        shard.pools[0].as_mut().unwrap().clients[0].locate(&who(port), Moment::Authorizing).is_in
    };
    assert!(asked(&mut shard, 1) && !asked(&mut shard, 2));
    tell(&mut shard, HookPoint::ClientConnack, 2, Moment::LetIn);
    assert!(asked(&mut shard, 2));
    assert_eq!(counts(&shard), (0, 0));
}

/// A connection that closes before it is let in expires.
#[test]
fn who_never_comes_in_is_forgotten() {
    let mut shard = shard();
    tell(&mut shard, HookPoint::ClientConnect, 1, Moment::ComesIn);
    let began = Instant::now();
    while began == Instant::now() {}
    shard.look();
    assert_eq!(counts(&shard), (0, 0));
}

/// If a worker gets authorization requests, exhook must see which clients connect, because requests
/// may be about one that has not.
#[test]
fn who_comes_in_is_seen_where_rights_are_asked_for() {
    let shard = shard();
    let mut pool = Arc::clone(&shard.pools[0].as_ref().unwrap().pool);
    drop(shard);
    let pool = Arc::get_mut(&mut pool).unwrap();
    for (point, expected) in [
        (HookPoint::ClientAuthorize, &[HookPoint::ClientConnack][..]),
        (HookPoint::ClientAuthenticate, &[HookPoint::ClientConnack]),
        (HookPoint::MessagePublish, &[]),
    ] {
        pool.wanted = [(point, Wanted::default())].into();
        assert_eq!(pool.own_points().collect::<Vec<_>>(), expected);
    }
}

/// A resumed session gets the data of the login that resumes it, even if the operator has removed
/// one of the two hooks that report it.
#[test]
fn one_of_two_hooks_is_enough_to_see_who_comes_in() {
    let old = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
    let new = Connection { port: 2, ..old };
    let gave = |whose, bytes| Gave { whose, bytes, anew: None, epoch: 1, number: 0 };
    for (connack, connected, expected) in [
        (true, true, Some("new")),
        (true, false, Some("new")),
        (false, true, None),
        (false, false, Some("old")),
    ] {
        let mut shard = shard_that(true);
        let of = shard.pools[0].as_mut().unwrap();
        let logins = Arc::clone(&of.pool.logins[0]);
        of.is_answered(&who(1), true, false);
        of.is_connected(&who(1));
        logins.store(gave(old, b"old"), 0);
        logins.store_of_login(gave(new, b"new"), 0, Instant::now());
        if connack {
            of.is_answered(&who(2), true, true);
        }
        if connected {
            of.is_connected(&who(2));
        }
        let stored = logins.stored("c", 0, 1, 2);
        assert_eq!(stored.as_deref(), expected.map(str::as_bytes), "{connack}, {connected}");
    }
}

/// A connection whose CONNACK is too large has two events, and leaves no data.
#[test]
fn who_is_refused_after_it_was_let_in_leaves_nothing() {
    let mut shard = shard_that(true);
    let of = shard.pools[0].as_mut().unwrap();
    let logins = Arc::clone(&of.pool.logins[0]);
    let whose = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
    let gave = Gave { whose, bytes: b"c", anew: None, epoch: 1, number: 0 };
    for resumes in [true, false] {
        logins.store_of_login(gave, 0, Instant::now());
        of.is_answered(&who(1), true, resumes);
        assert!(logins.stored("c", 0, 1, 2).is_some());
        // It has no session at the second CONNACK.
        of.is_answered(&Who { session: 0, ..who(1) }, false, false);
        assert!(logins.stored("c", 0, 1, 2).is_none());
        // The session that it resumed is still there; one that it was to begin is not.
        logins.store(gave, 0);
        assert_eq!(logins.stored("c", 0, 1, 2).is_some(), resumes);
    }
}
