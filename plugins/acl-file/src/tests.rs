//! Tests of the hook with fake events: which line decides about which action, and what is left to
//! other plugins.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome, TestPlugin};
use grapnel_plugin_abi::{Action, Level, Reason, Verdict};

use super::AclFile;

const FILE: &str =
    "topic read public/#\nuser ann\ntopic write cmd/#\ntopic read state/#\npattern write by/%c/#\n";

fn write(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("acl");
    fs::write(dir.join("new"), text).unwrap();
    fs::rename(dir.join("new"), &path).unwrap();
    path
}

fn load(path: &Path, more: &str) -> Result<TestPlugin<AclFile>, String> {
    testing::load(&format!(r#"{{"path": {:?}{more}}}"#, path.to_str().unwrap()))
}

fn ask(plugin: &mut TestPlugin<AclFile>, mut event: FakeEvent) -> (Outcome, Verdict, Option<Reason>) {
    let outcome = plugin.run(&mut event);
    (outcome, event.verdict(), event.reason())
}

const ALLOWED: (Outcome, Verdict, Option<Reason>) = (Outcome::Stop, Verdict::Allow, None);
const DENIED: (Outcome, Verdict, Option<Reason>) =
    (Outcome::Stop, Verdict::Deny, Some(Reason::NOT_AUTHORIZED));
const LEFT: (Outcome, Verdict, Option<Reason>) = (Outcome::Continue, Verdict::Unanswered, None);

#[test]
fn each_action_requires_its_access() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = load(&write(dir.path(), FILE), "").unwrap();
    for (action, topic, expected) in [
        (Action::Publish, "cmd/1", ALLOWED),
        (Action::Publish, "state/1", DENIED),
        (Action::Publish, "by/client/1", ALLOWED),
        (Action::Will, "cmd/1", ALLOWED),
        (Action::Will, "state/1", DENIED),
        (Action::Subscribe, "state/+", ALLOWED),
        (Action::Subscribe, "#", DENIED),
        (Action::Subscribe, "cmd/#", DENIED),
        (Action::Subscribe, "public/#", DENIED),
        // A granted subscription is delivered: the hook is not mounted for deliveries.
        (Action::Deliver, "state/1", LEFT),
        (Action::Deliver, "cmd/1", LEFT),
    ] {
        let event = FakeEvent::authorize(action, topic).with_username("ann");
        assert_eq!(ask(&mut plugin, event), expected, "{action:?} {topic}");
    }
    let nobody = FakeEvent::authorize(Action::Subscribe, "public/#");
    assert_eq!(ask(&mut plugin, nobody), ALLOWED);
    let root = FakeEvent::authorize(Action::Publish, "any").with_number(Field::IS_SUPERUSER, 1);
    assert_eq!(ask(&mut plugin, root), ALLOWED);
}

#[test]
fn requests_that_no_line_matches_can_be_left_to_other_plugins() {
    let dir = tempfile::tempdir().unwrap();
    let mut plugin = load(&write(dir.path(), FILE), r#", "no_match": "ignore""#).unwrap();
    for (action, topic, expected) in [
        (Action::Publish, "elsewhere", LEFT),
        (Action::Publish, "cmd/1", ALLOWED),
        (Action::Subscribe, "elsewhere/#", LEFT),
        (Action::Subscribe, "#", DENIED),
    ] {
        let event = FakeEvent::authorize(action, topic).with_username("ann");
        assert_eq!(ask(&mut plugin, event), expected, "{action:?} {topic}");
    }
}

#[test]
fn a_changed_file_is_read_again_and_an_invalid_one_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "topic write a\n");
    let mut plugin = load(&path, "").unwrap();
    let publish = |topic| FakeEvent::authorize(Action::Publish, topic);
    assert_eq!(ask(&mut plugin, publish("b")), DENIED);
    write(dir.path(), "topic write b\n");
    let until = Instant::now() + Duration::from_secs(30);
    while ask(&mut plugin, publish("b")) != ALLOWED {
        assert!(Instant::now() < until, "{:?}", plugin.logs());
        std::thread::yield_now();
    }
    assert_eq!(ask(&mut plugin, publish("a")), DENIED);
    write(dir.path(), "topic write c\ntopics x\n");
    while !plugin.logs().iter().any(|(level, _)| *level == Level::Error) {
        assert!(Instant::now() < until, "{:?}", plugin.logs());
        std::thread::yield_now();
    }
    let line = plugin.logs().pop().unwrap().1;
    assert!(line.starts_with(&format!("{}:2: unknown word \"topics\"", path.display())), "{line}");
    assert!(line.ends_with("the lines read before stay in force"), "{line}");
    assert_eq!(ask(&mut plugin, publish("b")), ALLOWED);
}

/// The log reports new lines when they are in force on every shard, and not before.
#[test]
fn a_change_is_announced_when_all_shards_apply_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "topic write a\n");
    let config = format!(r#"{{"path": {:?}}}"#, path.to_str().unwrap());
    let mut plugin = testing::load_on::<AclFile>(3, &config).unwrap();
    let announced = |plugin: &TestPlugin<AclFile>| {
        plugin.logs().iter().filter(|(_, line)| line.contains(" in force from ")).count()
    };
    assert_eq!(announced(&plugin), 1, "at load");
    write(dir.path(), "topic write b\n");
    let until = Instant::now() + Duration::from_secs(30);
    while ask(&mut plugin, FakeEvent::authorize(Action::Publish, "b")) != ALLOWED {
        assert!(Instant::now() < until, "{:?}", plugin.logs());
        std::thread::yield_now();
    }
    assert_eq!(announced(&plugin), 1, "no shard has been told yet");
    while plugin.deliver_messages() == 0 {
        assert!(Instant::now() < until, "{:?}", plugin.logs());
        std::thread::yield_now();
    }
    assert_eq!(announced(&plugin), 2);
    for shard in 0..3 {
        let mut event = FakeEvent::authorize(Action::Publish, "a");
        plugin.run_on(shard, &mut event);
        assert_eq!(event.verdict(), Verdict::Deny);
    }
}

#[test]
fn an_unusable_file_or_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "# ours\ntopic some a\n");
    let error = load(&path, "").unwrap_err();
    assert!(error.starts_with(&format!("{}:2: unknown access \"some\"", path.display())), "{error}");
    let unknown = load(&path, r#", "no_macth": "deny""#).unwrap_err();
    assert_eq!(unknown, "the key no_macth is not known; did you mean no_match?");
    assert_eq!(testing::load::<AclFile>("{}").unwrap_err(), "the key path is missing");
}

#[test]
fn probable_mistakes_give_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "pattern read a\n");
    let plugin = load(&path, "").unwrap();
    let warning =
        format!("{}: pattern \"a\" has neither %c nor %u: it holds for every client", path.display());
    assert!(plugin.logs().contains(&(Level::Warn, warning)));
}
