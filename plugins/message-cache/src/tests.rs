//! Requests and answers over a fake broker: pages, back-pressure, the end, and what is refused.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome, Published, TestPlugin};
use grapnel_plugin_abi::{Level, Reason};

use super::{Cache, TICK};

fn load(shards: u32, more: &str) -> TestPlugin<Cache> {
    testing::load_on(shards, &format!(r##"{{"filters": ["#"]{more}}}"##)).unwrap()
}

/// One message after the other, each a millisecond later, from shard to shard.
fn fill(plugin: &mut TestPlugin<Cache>, shards: u32, count: u64) {
    for n in 0..count {
        let mut message = FakeEvent::publish(&format!("x/{n}"), n.to_string().as_bytes())
            .with_client_id("maker")
            .with_number(Field::TIMESTAMP_MS, 1_000 + n);
        assert_eq!(plugin.run_on(n as u32 % shards, &mut message), Outcome::Continue);
    }
}

fn ask(plugin: &mut TestPlugin<Cache>, client: &str, filter: &str) -> FakeEvent {
    let mut request = FakeEvent::publish(&format!("$cache/{filter}"), b"answers").with_client_id(client);
    assert_eq!(plugin.run(&mut request), Outcome::Stop);
    request
}

fn value<'a>(message: &'a Published, key: &str) -> Option<&'a str> {
    message.user_properties.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// Takes what is published, in portions, until the end of an answer. No more than these may be on their way at any time.
fn take(plugin: &mut TestPlugin<Cache>, most: usize) -> Vec<Published> {
    let mut came = Vec::new();
    for _ in 0..100_000 {
        plugin.deliver_mail();
        let portion = plugin.published();
        assert!(portion.len() <= most, "{} at a time", portion.len());
        came.extend(portion);
        if came.last().is_some_and(|last| value(last, "messages").is_some()) {
            return came;
        }
        plugin.advance(TICK);
    }
    panic!("there is no end after {} messages", came.len());
}

/// Thousands of messages of several shards come complete, in order, as fast as they are taken, and the end comes last.
#[test]
fn an_answer_of_many_pages_is_complete_and_paced() {
    for shards in [1, 3] {
        let mut plugin = load(shards, r#", "answers_in_flight_max": 64"#);
        fill(&mut plugin, shards, 5_000);
        assert!(ask(&mut plugin, "c", "**").is_dropped());
        let came = take(&mut plugin, 64);
        assert!(came[..5_000].iter().zip(0..).all(|(message, n): (_, u64)| {
            value(message, "topic") == Some(format!("x/{n}").as_str())
                && message.payload == n.to_string().as_bytes()
        }));
        assert_eq!((came.len(), value(&came[5_000], "messages")), (5_001, Some("5000")));
        assert_eq!(value(&came[5_000], "incomplete"), None);
        plugin.advance(Duration::from_secs(1));
        assert_eq!((plugin.published(), plugin.logs()), (Vec::new(), Vec::new()));
    }
}

/// While nobody takes what was published nothing more is; in the end the answer says that it is not complete, in one line.
#[test]
fn an_answer_that_nobody_takes_ends() {
    let mut plugin = load(1, r#", "answers_in_flight_max": 10, "answer_stall_ms": 1000"#);
    fill(&mut plugin, 1, 3_000);
    ask(&mut plugin, "c", "**");
    plugin.deliver_mail();
    plugin.advance(Duration::from_millis(900));
    plugin.deliver_mail();
    assert_eq!(plugin.logs(), []);
    plugin.advance(Duration::from_millis(200));
    plugin.deliver_mail();
    let came = plugin.published();
    assert_eq!(came.len(), 11);
    assert_eq!(value(&came[10], "messages"), Some("10"));
    assert_eq!(value(&came[10], "incomplete"), Some("its subscribers do not take it"));
    let logs = plugin.logs();
    let said =
        "the answer to \"c\" for \"#\" is incomplete: its subscribers do not take it (1 such cases so far)";
    assert_eq!(logs, [(Level::Warn, said.to_owned())]);
}

/// One client has its share of the requests, and the answers of others begin while its own are under way.
#[test]
fn requests_have_a_share_for_each_client() {
    let mut plugin = load(1, r#", "client_requests_max": 2, "requests_max": 3, "answers_max": 1"#);
    fill(&mut plugin, 1, 10);
    assert_eq!(
        [ask(&mut plugin, "c", "**").is_dropped(), ask(&mut plugin, "c", "**").is_dropped()],
        [true; 2]
    );
    let refused = ask(&mut plugin, "c", "**");
    assert_eq!((refused.is_rejected(), refused.reason()), (true, Some(Reason::QUOTA_EXCEEDED)));
    let said = "too many requests wait for an answer: one client may have 2 at a time";
    assert_eq!(refused.reason_text(), Some(said));
    assert!(ask(&mut plugin, "d", "x/9").is_dropped());
    let refused = ask(&mut plugin, "e", "x/9");
    let said = "too many requests wait for an answer: there may be 3 of all clients at a time";
    assert_eq!(refused.reason_text(), Some(said));
    let mut ends = Vec::new();
    while ends.len() < 3 {
        let came = take(&mut plugin, 100);
        ends.extend(came.iter().filter_map(|message| value(message, "messages")).map(str::to_owned));
    }
    assert_eq!(ends, ["10", "10", "1"]);
    assert!(ask(&mut plugin, "c", "**").is_dropped(), "there is room again");
}

#[test]
fn limits_of_nothing_are_refused() {
    for key in
        ["bytes_max", "client_bytes_max", "answers_max", "answers_in_flight_max", "messages_per_topic_max"]
    {
        let said = testing::load::<Cache>(&format!(r#"{{"filters": [], "{key}": 0}}"#)).unwrap_err();
        assert_eq!(said, format!("{key} = 0: must be at least 1"));
    }
}

#[test]
fn what_is_kept_goes_over_in_a_reload() {
    let mut plugin = load(2, "");
    fill(&mut plugin, 2, 10);
    let mut plugin = plugin.reloaded(r##"{"filters": ["#"]}"##).unwrap();
    ask(&mut plugin, "c", "*/*");
    assert_eq!(take(&mut plugin, 100).len(), 11);
}

/// Messages come, and drive older ones out, while what is kept goes over, piece by piece.
#[test]
fn what_changes_while_it_goes_over_goes_over() {
    let config = r##"{"filters": ["#"], "messages_per_topic_max": 2}"##;
    let mut plugin = testing::load::<Cache>(config).unwrap();
    let keep = |plugin: &mut testing::TestPlugin<Cache>, n: u32| {
        plugin.run(&mut FakeEvent::publish(&format!("t/{}", n % 60), b"payload").with_client_id("me"));
    };
    (0..200).for_each(|n| keep(&mut plugin, n));
    let mut rounds = 0;
    let plugin = plugin.reloaded_while(config, |old| {
        rounds += 1;
        if rounds < 20 {
            keep(old, 1_000 + rounds);
        }
    });
    drop(plugin.unwrap());
    assert!(rounds > 20, "{rounds} pieces");
}
