//! Tests of the hook with fake events: which clients are accepted or refused, and what is left to
//! other plugins.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome, TestPlugin};
use grapnel_plugin_abi::{HookPoint, Reason, Verdict};

use super::AuthFile;
use crate::passwd::tests::cheap;

const PATIENCE: Duration = Duration::from_secs(20);

fn load(dir: &Path, users: &[(&str, &str)], more: &str) -> Result<TestPlugin<AuthFile>, String> {
    let path = dir.join("passwd");
    let lines: String =
        users.iter().map(|(user, password)| format!("{user}:{}\n", cheap(password))).collect();
    std::fs::write(&path, lines).unwrap();
    testing::load(&format!(r#"{{"path": {:?}, "reload_s": 0{more}}}"#, path.to_str().unwrap()))
}

fn ask(plugin: &mut TestPlugin<AuthFile>, mut event: FakeEvent) -> (Outcome, FakeEvent) {
    let outcome = match plugin.run(&mut event) {
        Outcome::Deferred => event.wait(PATIENCE),
        other => other,
    };
    (outcome, event)
}

fn is_refused(plugin: &mut TestPlugin<AuthFile>, event: FakeEvent, reason: Reason) {
    let (outcome, event) = ask(plugin, event);
    assert_eq!((outcome, event.verdict(), event.reason()), (Outcome::Stop, Verdict::Deny, Some(reason)));
    assert!(!event.is_superuser());
}

#[test]
fn users_with_the_right_password_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin =
        load(dir.path(), &[("ann", "a"), ("bob", "b")], r#", "superusers": ["bob", "eve"]"#).unwrap();
    for (name, password, superuser) in [("ann", b"a", false), ("bob", b"b", true)] {
        let (outcome, event) = ask(&mut plugin, FakeEvent::authenticate(name, password));
        assert_eq!((outcome, event.verdict()), (Outcome::Stop, Verdict::Allow));
        assert_eq!(event.is_superuser(), superuser);
    }
    for (name, password) in [("ann", &b"b"[..]), ("ann", b""), ("eve", b"a"), ("", b"a"), ("bob", b"a")] {
        is_refused(&mut plugin, FakeEvent::authenticate(name, password), Reason::BAD_USERNAME_OR_PASSWORD);
    }
    let no_password = FakeEvent::new(HookPoint::ClientAuthenticate).with_username("ann");
    is_refused(&mut plugin, no_password, Reason::BAD_USERNAME_OR_PASSWORD);
}

#[test]
fn other_logins_are_left_to_other_plugins() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = load(dir.path(), &[("ann", "a")], r#", "unknown": "ignore""#).unwrap();
    for event in [
        FakeEvent::new(HookPoint::ClientAuthenticate),
        FakeEvent::authenticate("stranger", b"a"),
        FakeEvent::authenticate("ann", b"a").with_text(Field::AUTH_METHOD, "SCRAM"),
        FakeEvent::authenticate("", b"a").with_certified_username("ann"),
    ] {
        let (outcome, event) = ask(&mut plugin, event);
        assert_eq!((outcome, event.verdict()), (Outcome::Continue, Verdict::Unanswered));
    }
    let denied = FakeEvent::authenticate("ann", b"a").with_number(Field::VERDICT, 2);
    let (outcome, event) = ask(&mut plugin, denied);
    assert_eq!((outcome, event.verdict()), (Outcome::Continue, Verdict::Deny));
}

#[test]
fn an_empty_file_allows_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = load(dir.path(), &[], "").unwrap();
    is_refused(&mut plugin, FakeEvent::authenticate("ann", b"a"), Reason::BAD_USERNAME_OR_PASSWORD);
}

#[test]
fn a_too_long_or_missing_password_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(11);
    let users = [("ann", long.as_str()), ("bob", "")];
    let mut plugin = load(dir.path(), &users, r#", "password_bytes_max": 10"#).unwrap();
    for name in ["ann", "bob"] {
        let event = FakeEvent::authenticate(name, long.as_bytes());
        is_refused(&mut plugin, event, Reason::BAD_USERNAME_OR_PASSWORD);
    }
    let (_, empty) = ask(&mut plugin, FakeEvent::authenticate("bob", b""));
    assert_eq!(empty.verdict(), Verdict::Allow);
    let none = FakeEvent::new(HookPoint::ClientAuthenticate).with_username("bob");
    is_refused(&mut plugin, none, Reason::BAD_USERNAME_OR_PASSWORD);
}

/// At most two logins: one in a thread and one waiting. They are so expensive that a hundred cannot
/// finish during the test.
#[test]
fn a_full_queue_answers_server_busy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwd");
    let costly = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    std::fs::write(&path, format!("ann:{costly}\n")).unwrap();
    let config =
        format!(r#"{{"path": {:?}, "threads": 1, "queue_max": 1, "reload_s": 0}}"#, path.to_str().unwrap());
    let mut plugin = testing::load::<AuthFile>(&config).unwrap();
    let mut events: Vec<FakeEvent> = (0..100).map(|_| FakeEvent::authenticate("ann", b"password")).collect();
    for event in &mut events {
        assert_eq!(plugin.run(event), Outcome::Deferred);
    }
    let reasons: Vec<_> = events
        .iter_mut()
        .map(|event| {
            assert_eq!(event.wait(PATIENCE), Outcome::Stop);
            (event.verdict(), event.reason())
        })
        .collect();
    assert!(reasons.contains(&(Verdict::Allow, None)));
    assert!(reasons.contains(&(Verdict::Deny, Some(Reason::SERVER_BUSY))));
}

/// One login of an address in a thread and one waiting: further ones are refused as busy, and other
/// addresses are served.
#[test]
fn an_address_has_its_share_of_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwd");
    let costly = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    std::fs::write(&path, format!("ann:{costly}\n")).unwrap();
    let config = format!(
        r#"{{"path": {:?}, "threads": 1, "address_queue_max": 1, "reload_s": 0}}"#,
        path.to_str().unwrap()
    );
    let mut plugin = testing::load::<AuthFile>(&config).unwrap();
    let login =
        |name: &str, peer: &str| FakeEvent::authenticate(name, b"password").with_text(Field::PEER_HOST, peer);
    // Addresses in the same /64 network share a limit, and an IPv4 address counts the same in both
    // notations.
    let mut flood: Vec<FakeEvent> = (0..30).map(|n| login("stranger", &format!("2001:db8::{n}"))).collect();
    let mut others = [login("ann", "::ffff:10.0.0.1"), login("ann", "2001:db8:0:1::1")];
    for event in flood.iter_mut().chain(&mut others) {
        assert_eq!(plugin.run(event), Outcome::Deferred);
    }
    for event in &mut others {
        assert_eq!((event.wait(PATIENCE), event.verdict()), (Outcome::Stop, Verdict::Allow));
    }
    let reasons: Vec<_> = flood.iter_mut().map(|event| (event.wait(PATIENCE), event.reason()).1).collect();
    let busy = reasons.iter().filter(|reason| **reason == Some(Reason::SERVER_BUSY)).count();
    assert!((27..=29).contains(&busy), "{busy} of 30");
}

#[test]
fn an_unusable_file_or_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwd");
    let error_of = |more| load(dir.path(), &[("ann", "a")], more).unwrap_err();
    assert_eq!(error_of(r#", "threads": 0"#), "threads = 0: must be from 1 to 64");
    assert_eq!(
        error_of(r#", "memory_kib_max": 7"#),
        format!("{}:1: user \"ann\": m=8 KiB is more than memory_kib_max = 7", path.display())
    );
    assert_eq!(
        error_of(r#", "unknown": "allow""#),
        "unknown: this word is not known; it must be one of deny, ignore"
    );
    assert_eq!(testing::load::<AuthFile>("{}").unwrap_err(), "the key path is missing");
    let missing = testing::load::<AuthFile>(r#"{"path": "/nowhere/passwd"}"#).unwrap_err();
    assert!(missing.starts_with("cannot read /nowhere/passwd: "), "{missing}");
}
