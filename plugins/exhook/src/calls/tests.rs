//! What a shard records of connections, independent of the worker's hooks.

#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::sync::Arc;

use grapnel_plugin_abi::{HookCalls, Journal};
use serde_json::json;

use super::*;
use crate::call_queue::CallQueue;
use crate::clients::ClientLimits;
use crate::config::RawConfig;
use crate::logins::{Connection, LoginData, LoginStore};
use crate::stats::WorkerStats;
use crate::wire::RequestedHook;
use crate::{PLACES, Pool};

/// A shard whose worker has hooks at client.connect and client.authorize. Pending logins expire at
/// once.
fn shard() -> ExhookShard {
    shard_that(false)
}

/// The same, with a worker that may store login data.
fn shard_that(stores_logins: bool) -> ExhookShard {
    let written = json!({"driver": "python3", "path": "/tmp", "client_queue_max": 2, "address_queue_max": 2});
    let written: RawConfig = serde_json::from_value(written).unwrap();
    let config = Arc::new(written.read(None).unwrap().remove(0));
    let logins = vec![Arc::new(LoginStore::new((1024, 1 << 20), 100, None))];
    let places = ClientLimits {
        clients_max: 100,
        pending_max: 100,
        pending_bytes_max: 1 << 20,
        pending_time_max: Duration::ZERO,
        stores_logins,
    };
    let clients = vec![Clients::new(0, places, Arc::clone(&logins[0]))];
    let lines = vec![Arc::new(CallQueue::new(config.queue, WorkerStats::none()).unwrap())];
    let points = [HookPoint::ClientConnect, HookPoint::ClientConnected, HookPoint::ClientAuthorize];
    let wanted: BTreeMap<_, _> = points.into_iter().map(|point| (point, RequestedHook::default())).collect();
    let pool =
        Arc::new(Pool { config, queues: lines, logins, started: Arc::default(), wanted, stores_logins });
    let mut pools = [const { None }; PLACES];
    pools[0] = Some(PoolShard { pool, clients, let_in: None });
    let journal = Journal::default();
    ExhookShard { shard: 0, load: 1, pools, host: None, timer: None, journal, hands_over: false }
}

fn who(port: u16) -> EventClient<'static> {
    EventClient {
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

fn notify(shard: &mut ExhookShard, point: HookPoint, port: u16, connection_state: ConnectionState) {
    shard.pools[0].as_mut().unwrap().notify(point, (&who(port), connection_state), None, |out| {
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
fn an_admitted_connection_is_the_client_even_without_notification() {
    for is_away in [false, true] {
        let mut shard = shard();
        notify(&mut shard, HookPoint::ClientConnect, 1, ConnectionState::Connecting);
        assert_eq!(counts(&shard), (0, 1));
        if is_away {
            shard.pools[0].as_ref().unwrap().pool.queues[0].cut(Vec::new());
        } else {
            // Its client's limit is reached.
            notify(&mut shard, HookPoint::ClientAuthorize, 9, ConnectionState::Connected);
        }
        notify(&mut shard, HookPoint::ClientConnected, 1, ConnectionState::Admitted);
        assert_eq!(counts(&shard), (1, 0), "{is_away}");
    }
}

/// A client that reconnects without a request before it is in is the client: its authorization
/// requests use its own share.
#[test]
fn a_reconnecting_client_replaces_its_earlier_connection() {
    let mut shard = shard();
    notify(&mut shard, HookPoint::ClientAuthorize, 1, ConnectionState::Connected);
    let asked = |shard: &mut ExhookShard, port| {
        shard.pools[0].as_mut().unwrap().clients[0]
            .locate(&who(port), ConnectionState::Authorizing)
            .is_connected
    };
    assert!(asked(&mut shard, 1) && !asked(&mut shard, 2));
    notify(&mut shard, HookPoint::ClientConnack, 2, ConnectionState::Admitted);
    assert!(asked(&mut shard, 2));
    assert_eq!(counts(&shard), (0, 0));
}

/// A connection that closes before it is let in expires.
#[test]
fn a_login_that_never_succeeds_expires() {
    let mut shard = shard();
    notify(&mut shard, HookPoint::ClientConnect, 1, ConnectionState::Connecting);
    let began = Instant::now();
    while began == Instant::now() {}
    shard.expire_pending();
    assert_eq!(counts(&shard), (0, 0));
}

/// If a worker gets authorization requests, exhook must see which clients connect, because requests
/// may be about one that has not.
#[test]
fn connects_are_seen_if_a_worker_authorizes() {
    let shard = shard();
    let mut pool = Arc::clone(&shard.pools[0].as_ref().unwrap().pool);
    drop(shard);
    let pool = Arc::get_mut(&mut pool).unwrap();
    for (point, expected) in [
        (HookPoint::ClientAuthorize, &[HookPoint::ClientConnack][..]),
        (HookPoint::ClientAuthenticate, &[HookPoint::ClientConnack]),
        (HookPoint::MessagePublish, &[]),
    ] {
        pool.wanted = [(point, RequestedHook::default())].into();
        assert_eq!(pool.own_points().collect::<Vec<_>>(), expected);
    }
}

/// A resumed session gets the data of the login that resumes it, even if the operator has removed
/// one of the two hooks that report it.
#[test]
fn one_of_two_hooks_is_enough_to_see_who_comes_in() {
    let old = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
    let new = Connection { port: 2, ..old };
    let data = |connection, bytes| LoginData { connection, bytes, new_session: None, epoch: 1, number: 0 };
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
        of.is_connected(&who(1), 1);
        logins.store(data(old, b"old"), 0);
        logins.store_of_login(data(new, b"new"), 0, Instant::now());
        if connack {
            of.is_answered(&who(2), true, true);
        }
        if connected {
            of.is_connected(&who(2), 2);
        }
        let stored = logins.stored("c", 0, 1, 2);
        assert_eq!(stored.as_deref(), expected.map(str::as_bytes), "{connack}, {connected}");
    }
}

/// A connection whose CONNACK is too large has two events, and leaves no data.
#[test]
fn a_connection_refused_after_admission_leaves_no_data() {
    let mut shard = shard_that(true);
    let of = shard.pools[0].as_mut().unwrap();
    let logins = Arc::clone(&of.pool.logins[0]);
    let connection = Connection { client_id: "c", host: "10.0.0.1", port: 1 };
    let gave = LoginData { connection, bytes: b"c", new_session: None, epoch: 1, number: 0 };
    for resumes in [true, false] {
        logins.store_of_login(gave, 0, Instant::now());
        of.is_answered(&who(1), true, resumes);
        assert!(logins.stored("c", 0, 1, 2).is_some());
        // It has no session at the second CONNACK.
        of.is_answered(&EventClient { session: 0, ..who(1) }, false, false);
        assert!(logins.stored("c", 0, 1, 2).is_none());
        // The session that it resumed is still there; one that it was to begin is not.
        logins.store(gave, 0);
        assert_eq!(logins.stored("c", 0, 1, 2).is_some(), resumes);
    }
}

/// A driver has missed events if other hooks of its own are called than before, or if the broker
/// does not say.
#[test]
fn a_driver_is_concerned_by_its_own_hooks_alone() {
    let shard = shard();
    let pool = &shard.pools[0].as_ref().unwrap().pool;
    let same = HookCalls { before: true, now: true };
    let left = HookCalls { before: true, now: false };
    let with = |name: &'static str, calls: Option<HookCalls>| {
        pool.hooks_have_changed(|_, hook| if hook == name { calls } else { Some(same) })
    };
    assert!(!with("client_connack", Some(same)));
    assert!(with("client_connack", Some(left)) && with("session_terminated", Some(left)));
    assert!(with("client_connack", None));
    assert!(!with("java_client_connack", Some(left)), "another driver's");
    assert!(!with("message_publish", Some(left)), "it says nothing of sessions");
}
