//! Whom a process is told of, and what goes over to the next one.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::figures::Figures;
use crate::line::{Calls, DESCRIBED, Line};

const MAX: usize = 1000;

fn none() -> Arc<Kept> {
    Arc::new(Kept::new(1024, 1 << 20))
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
    }
}

#[test]
fn a_process_that_is_started_anew_hears_what_logins_gave() {
    let line = Line::new(100, 1 << 20, Figures::none()).unwrap();
    let kept = none();
    let mut clients = Clients::new(3, MAX, Arc::clone(&kept));
    let mut tell = |who: &Who<'_>, entering: Option<&Entering<'_>>| {
        clients.number(&mut line.write().unwrap(), who, entering);
        let keys = if line.waiting() > 0 { described(&line) } else { Vec::new() };
        ["login", "stored"].map(|key| keys.iter().any(|found| found == key))
    };
    let with_session = Entering { has_session: true, ..Entering::default() };
    assert_eq!(tell(&who(1), Some(&Entering::default())), [false, false]);
    kept.keep(who(1).connection(), 3, b"login", line.epoch()).unwrap();
    assert_eq!(tell(&who(1), None), [false, false], "the process has it itself");
    assert_eq!(tell(&who(2), Some(&with_session)), [false, false], "and that of the session too");
    line.cut(true);
    assert_eq!(tell(&who(2), Some(&with_session)), [false, true], "another one that wants the session");
    assert_eq!(tell(&who(1), None), [true, false]);
    assert_eq!(tell(&who(3), Some(&Entering::default())), [false, false], "the broker has no session");
    assert_eq!(shard_of(clients.number(&mut line.write().unwrap(), &who(1), None).number), 3);
}

/// Points and numbers of the clients of all calls that wait.
fn waiting(line: &Line) -> Vec<(i64, u64)> {
    let mut calls = Calls::default();
    line.take(&mut calls);
    let mut rest = calls.bytes.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let call = rmpv::decode::read_value_ref(&mut rest).unwrap();
        let rmpv::ValueRef::Array(parts) = call else { panic!("{call:?}") };
        let rmpv::ValueRef::Integer(point) = parts[1] else { panic!("{parts:?}") };
        found.push((point.as_i64().unwrap(), parts[2].as_u64().unwrap()));
    }
    found
}

#[test]
fn a_client_is_described_once_and_again_when_it_has_changed() {
    let line = Line::new(100, 1 << 20, Figures::none()).unwrap();
    let mut clients = Clients::new(0, MAX, none());
    let first = clients.number(&mut line.write().unwrap(), &who(1), Some(&Entering::default())).number;
    assert_eq!(waiting(&line), [(DESCRIBED, first)]);
    for expected in [&[(DESCRIBED, first)][..], &[]] {
        assert_eq!(clients.number(&mut line.write().unwrap(), &who(1), None).number, first);
        assert_eq!(waiting(&line), expected, "without the password, and then as it is");
    }
    let changed = Who { superuser: true, ..who(1) };
    assert_eq!(clients.number(&mut line.write().unwrap(), &changed, None).number, first);
    assert_eq!(waiting(&line), [(DESCRIBED, first)]);
    line.cut(true);
    let again = clients.number(&mut line.write().unwrap(), &changed, None).number;
    assert_eq!(waiting(&line), [(DESCRIBED, again)], "another process knows nobody");
}

/// The keys of the description that waits.
fn described(line: &Line) -> Vec<String> {
    let mut calls = Calls::default();
    line.take(&mut calls);
    let call = rmpv::decode::read_value_ref(&mut calls.bytes.as_slice()).unwrap();
    let rmpv::ValueRef::Map(pairs) = &call.as_array().unwrap()[3] else { panic!("{call:?}") };
    pairs.iter().map(|(key, _)| crate::wire::text_of(key).unwrap()).collect()
}

#[test]
fn a_process_that_is_started_anew_hears_what_connect_said_but_for_the_password() {
    let line = Line::new(100, 1 << 20, Figures::none()).unwrap();
    let mut clients = Clients::new(0, MAX, none());
    let mut tell = |line: &Line, who: &Who<'_>, entering: Option<&Entering<'_>>| {
        clients.number(&mut line.write().unwrap(), who, entering);
        let keys = described(line);
        ["password", "keep_alive_s", "earlier"].map(|key| keys.iter().any(|found| found == key))
    };
    let entering = Entering { password: Some(b"x"), keep_alive_s: 7, ..Entering::default() };
    assert_eq!(tell(&line, &who(1), Some(&entering)), [true, true, false]);
    assert_eq!(tell(&line, &who(1), None), [false; 3], "it has heard of that");
    line.cut(true);
    assert_eq!(tell(&line, &who(1), None), [false, true, true]);
    line.cut(true);
    assert_eq!(
        tell(&line, &who(2), None),
        [false; 3],
        "that is another connection, whose CONNECT nobody saw"
    );
    let long = "x".repeat(KEPT_MAX);
    let entering = Entering { properties: vec![("k", &long)], ..Entering::default() };
    assert_eq!(tell(&line, &who(3), Some(&entering)), [false, true, false]);
    line.cut(true);
    assert_eq!(tell(&line, &who(3), None), [false; 3], "too long to be kept");
}

#[test]
fn what_connect_said_comes_late_where_nobody_asked_before() {
    let line = Line::new(100, 1 << 20, Figures::none()).unwrap();
    let mut clients = Clients::new(0, MAX, none());
    let mut tell = |who: &Who<'_>, entering: Option<&Entering<'_>>| {
        clients.number(&mut line.write().unwrap(), who, entering);
        let has =
            |keys: Vec<String>| ["keep_alive_s", "will"].map(|key| keys.iter().any(|found| found == key));
        (line.waiting() > 0).then(|| has(described(&line)))
    };
    let late = Entering { late: true, keep_alive_s: 7, ..Entering::default() };
    assert_eq!(tell(&who(1), Some(&late)), Some([true, false]));
    assert_eq!(tell(&who(1), None), None, "it has no password that must not be shown any longer");
    assert_eq!(tell(&who(2), Some(&Entering::default())), Some([true, true]));
    assert_eq!(tell(&who(2), Some(&late)), Some([false, false]), "without the password, and nothing is new");
    assert_eq!(tell(&who(2), None), None);
}

#[test]
fn who_has_been_taken_over_goes_without_the_one_who_came() {
    let line = Line::new(100, 1 << 20, Figures::none()).unwrap();
    let mut clients = Clients::new(0, MAX, none());
    let number = clients.number(&mut line.write().unwrap(), &who(1), None).number;
    assert_eq!(clients.number(&mut line.write().unwrap(), &who(2), None).number, number);
    waiting(&line);
    let leave = |clients: &mut Clients, port| {
        clients.last_call(&mut line.write().unwrap(), &who(port), true, |line, number| {
            line.call(0, 7, number, |data| {
                data.nil();
            });
        });
        waiting(&line)
    };
    let other = number + 1;
    assert_eq!(leave(&mut clients, 1), [(DESCRIBED, other), (7, other), (FORGOTTEN, other)]);
    assert_eq!(leave(&mut clients, 2), [(7, number), (FORGOTTEN, number)]);
}

/// Numbers, points and what a description has of the password and of before, of all calls that wait.
fn carried(line: &Line) -> Vec<(i64, u64, bool, bool)> {
    let mut calls = Calls::default();
    line.take(&mut calls);
    let mut rest = calls.bytes.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let call = rmpv::decode::read_value_ref(&mut rest).unwrap();
        let rmpv::ValueRef::Array(parts) = call else { panic!("{call:?}") };
        let rmpv::ValueRef::Integer(point) = parts[1] else { panic!("{parts:?}") };
        let has = |key| crate::wire::get(&parts[3], key).is_some();
        let (password, earlier) = (has("password"), has("earlier"));
        found.push((point.as_i64().unwrap(), parts[2].as_u64().unwrap(), password, earlier));
    }
    found
}

/// What a process was not given is for the next one: whom it is about is described there first, once, and as that call needs it.
#[test]
fn calls_that_wait_go_over_to_the_next_process_with_their_clients() {
    let line = Line::new(100, 1 << 20, Figures::none()).unwrap();
    let mut clients = Clients::new(0, MAX, none());
    let tell = |line: &Line, client: Named, point| {
        line.write().unwrap().call(0, point, client, |data| {
            data.nil();
        });
    };
    let other = Who { client_id: "d", ..who(2) };
    let entering = Entering { password: Some(b"x"), keep_alive_s: 7, ..Entering::default() };
    let in_already = clients.number(&mut line.write().unwrap(), &who(1), Some(&entering));
    let in_already = Named { about: None, ..in_already }.number;
    let told = clients.number(&mut line.write().unwrap(), &who(1), None);
    assert_eq!(told.number, in_already);
    tell(&line, told, 5);
    // All of that was given to the first process; the next is not.
    waiting(&line);
    let late = clients.number(&mut line.write().unwrap(), &other, Some(&entering));
    let second = late.number;
    let mut given = Calls::default();
    line.take(&mut given);
    tell(&line, late, 1);
    for point in [6, 7] {
        let client = clients.number(&mut line.write().unwrap(), &who(1), None);
        tell(&line, client, point);
    }
    let gone = |line: &mut Writing<'_>, client| {
        line.call(0, 8, client, |data| {
            data.nil();
        });
    };
    clients.last_call(&mut line.write().unwrap(), &who(1), true, gone);
    line.carry(Calls::default(), &none());
    let new = clients.number(&mut line.write().unwrap(), &who(1), None);
    tell(&line, new.clone(), 9);
    assert_eq!(
        carried(&line),
        [
            (DESCRIBED, second, true, false),
            (1, second, false, false),
            (DESCRIBED, in_already, false, true),
            (6, in_already, false, false),
            (7, in_already, false, false),
            (8, in_already, false, false),
            (FORGOTTEN, in_already, false, false),
            (DESCRIBED, new.number, false, false),
            (9, new.number, false, false),
        ]
    );
    // What was taken and not given, too.
    let again = clients.number(&mut line.write().unwrap(), &who(1), None);
    tell(&line, again.clone(), 3);
    tell(&line, again, 4);
    let mut batch = Calls::default();
    line.take(&mut batch);
    line.carry(batch.split_off(1, |_| None), &none());
    assert_eq!(carried(&line), [(DESCRIBED, new.number, false, false), (4, new.number, false, false)]);
}

#[test]
fn no_more_clients_are_kept_than_there_are_places() {
    let line = Line::new(1 << 20, 1 << 30, Figures::none()).unwrap();
    let mut clients = Clients::new(0, MAX, none());
    for n in 0..MAX + 10 {
        let name = format!("c{n}");
        clients.number(&mut line.write().unwrap(), &Who { client_id: &name, ..who(1) }, None);
    }
    assert_eq!(clients.known.len(), MAX);
    assert_eq!(waiting(&line).iter().filter(|(point, _)| *point == FORGOTTEN).count(), 10);
}
