//! Tests of requests and answers with a fake broker: pages, back-pressure, the end, and refusals.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use grapnel_plugin_abi::raw::Action;
use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, BehalfAction, FakeEvent, Outcome, Published, TestPlugin};
use grapnel_plugin_abi::{Level, Reason, counted};

use super::{Cache, TICK};

mod stored;

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
    let request = FakeEvent::publish(&format!("$cache/{filter}"), b"answers").with_client_id(client);
    let mut request = request.with_username(client);
    assert_eq!(plugin.run(&mut request), Outcome::Stop);
    request
}

fn value<'a>(message: &'a Published, key: &str) -> Option<&'a str> {
    message.user_properties.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The fake broker's reply to a request.
type Says<'a> = &'a mut dyn FnMut(&BehalfAction) -> Reason;

fn yes(_: &BehalfAction) -> Reason {
    Reason::SUCCESS
}

/// Lets the broker reply until nothing more follows. It accepts all publishes.
fn answer(plugin: &mut TestPlugin<Cache>, verdict: Says<'_>) {
    loop {
        let requests = plugin.take_requests();
        let mut count = plugin.deliver_messages() + requests.len();
        for requests in requests {
            plugin.answer_on(0, requests.number.unwrap(), verdict(&requests.what));
        }
        count += plugin.answer_published_with(|_| Reason::SUCCESS);
        if count == 0 {
            return;
        }
    }
}

/// Reads published messages in portions, until the end of an answer. At most `most` may be in
/// flight at any time.
fn take(plugin: &mut TestPlugin<Cache>, most: usize) -> Vec<Published> {
    take_with(plugin, most, &mut yes)
}

fn take_with(plugin: &mut TestPlugin<Cache>, most: usize, verdict: Says<'_>) -> Vec<Published> {
    let mut received = Vec::new();
    for _ in 0..100_000 {
        answer(plugin, verdict);
        let portion = plugin.published();
        assert!(portion.len() <= most, "{} at a time", portion.len());
        received.extend(portion);
        if received.last().is_some_and(|last| value(last, "messages").is_some()) {
            answer(plugin, verdict);
            return received;
        }
        plugin.advance(TICK);
    }
    panic!("there is no end after {} messages", received.len());
}

/// Thousands of messages of several shards come complete, in order, at the subscribers' speed, and
/// the end comes last.
#[test]
fn an_answer_of_many_pages_is_complete_and_follows_the_subscriber() {
    for shards in [1, 3] {
        let mut plugin = load(shards, r#", "answers_in_flight_max": 64"#);
        fill(&mut plugin, shards, 5_000);
        assert!(ask(&mut plugin, "c", "**").is_dropped());
        let received = take(&mut plugin, 64);
        assert!(received[..5_000].iter().zip(0..).all(|(message, n): (_, u64)| {
            value(message, "topic") == Some(format!("x/{n}").as_str())
                && message.payload == n.to_string().as_bytes()
        }));
        assert_eq!((received.len(), value(&received[5_000], "messages")), (5_001, Some("5000")));
        assert_eq!(value(&received[5_000], "incomplete"), None);
        plugin.advance(Duration::from_secs(1));
        assert_eq!((plugin.published(), plugin.logs()), (Vec::new(), Vec::new()));
    }
}

/// While no published message is acknowledged, no more are published. In the end the answer reports
/// that it is incomplete, in one line.
#[test]
fn an_answer_that_nobody_reads_ends() {
    let mut plugin = load(1, r#", "answers_max": 1, "answers_in_flight_max": 10, "answer_stall_ms": 1000"#);
    fill(&mut plugin, 1, 3_000);
    ask(&mut plugin, "c", "**");
    answer(&mut plugin, &mut yes);
    plugin.advance(Duration::from_millis(900));
    answer(&mut plugin, &mut yes);
    assert_eq!(plugin.logs(), []);
    plugin.advance(Duration::from_millis(200));
    answer(&mut plugin, &mut yes);
    let received = plugin.published();
    assert_eq!(received.len(), 7);
    assert_eq!(value(&received[6], "messages"), Some("6"));
    assert_eq!(value(&received[6], "incomplete"), Some("its subscribers do not take it"));
    let logs = plugin.logs();
    let summary =
        "the answer to \"c\" for \"#\" is incomplete: its subscribers do not take it (1 such cases so far)";
    assert_eq!(logs, [(Level::Warn, summary.to_owned())]);
}

/// Messages that the client may not receive are omitted without a trace.
#[test]
fn denied_messages_are_omitted() {
    let mut plugin = load(2, "");
    fill(&mut plugin, 2, 100);
    ask(&mut plugin, "c", "**");
    let mut requested = Vec::new();
    let received = take_with(&mut plugin, 100, &mut |what| {
        requested.push(what.clone());
        match what {
            BehalfAction::Authorize(Action::DELIVER, topic) if topic.ends_with('7') => Reason::NOT_AUTHORIZED,
            _ => Reason::SUCCESS,
        }
    });
    let topics: Vec<&str> = received.iter().filter_map(|message| value(message, "topic")).collect();
    let expected: Vec<String> = (0..100).filter(|n| n % 10 != 7).map(|n| format!("x/{n}")).collect();
    assert_eq!(topics, expected);
    assert_eq!((value(&received[90], "messages"), value(&received[90], "refused")), (Some("90"), None));
    assert_eq!(value(&received[90], "incomplete"), None);
    assert_eq!(requested[0], BehalfAction::Authorize(Action::SUBSCRIBE, "#".to_owned()));
    assert_eq!(requested.len(), 101, "once for each message");
    assert_eq!(plugin.logs(), []);
}

/// If the client may not subscribe to the filter, the answer is empty and no message is examined.
#[test]
fn a_denied_filter_has_no_messages() {
    let mut plugin = load(1, "");
    fill(&mut plugin, 1, 100);
    ask(&mut plugin, "c", "x/*");
    let mut count = 0;
    let received = take_with(&mut plugin, 1, &mut |_| {
        count += 1;
        Reason::NOT_AUTHORIZED
    });
    assert_eq!((received.len(), count, value(&received[0], "messages")), (1, 1, Some("0")));
    assert_eq!(value(&received[0], "incomplete"), Some("its filter is refused with 0x87"));
}

/// The end reports the number of refused messages, also if they are not the first ones.
#[test]
fn the_end_reports_the_refused_messages() {
    let mut plugin = load(1, "");
    fill(&mut plugin, 1, 30);
    ask(&mut plugin, "c", "**");
    let (mut received, mut answered) = (Vec::new(), 0);
    while received.last().is_none_or(|last| value(last, "messages").is_none()) {
        for requested in plugin.take_requests() {
            plugin.answer_on(0, requested.number.unwrap(), Reason::SUCCESS);
        }
        plugin.answer_published_with(|_| {
            answered += 1;
            if (11..=13).contains(&answered) { Reason::IMPLEMENTATION_SPECIFIC } else { Reason::SUCCESS }
        });
        plugin.deliver_messages();
        received.extend(plugin.published());
        plugin.advance(TICK);
    }
    let end = received.last().unwrap();
    assert_eq!((value(end, "messages"), value(end, "refused")), (Some("27"), Some("3")));
    assert_eq!(value(end, "incomplete"), Some("3 messages are left out, refused with 0x83"));
}

/// A request or message that the full broker refuses is retried, and nothing is missing in the end.
#[test]
fn requests_refused_by_a_full_broker_are_retried() {
    let mut plugin = load(1, "");
    fill(&mut plugin, 1, 50);
    ask(&mut plugin, "c", "**");
    let (mut received, mut turn) = (Vec::new(), 0);
    for _ in 0..10_000 {
        let mut room = || {
            turn += 1;
            if turn % 5 == 0 { Reason::QUOTA_EXCEEDED } else { Reason::SUCCESS }
        };
        for requested in plugin.take_requests() {
            plugin.answer_on(0, requested.number.unwrap(), room());
        }
        // A refused message has not been published.
        let mut refused = Vec::new();
        let published = plugin.published();
        let mut at = 0;
        plugin.answer_published_with(|_| {
            let reason = room();
            refused.push(reason != Reason::SUCCESS);
            at += 1;
            reason
        });
        assert_eq!(at, published.len());
        received.extend(published.into_iter().zip(refused).filter(|(_, refused)| !refused).map(|(it, _)| it));
        plugin.deliver_messages();
        if received.last().is_some_and(|last| value(last, "messages").is_some()) {
            break;
        }
        plugin.advance(TICK);
    }
    let end = received.pop().unwrap();
    assert_eq!((value(&end, "messages"), value(&end, "incomplete")), (Some("50"), None));
    let mut topics: Vec<&str> = received.iter().filter_map(|message| value(message, "topic")).collect();
    topics.sort_unstable();
    topics.dedup();
    assert_eq!((received.len(), topics.len()), (50, 50), "each once");
}

/// One message that is never accepted is refused in the end, and the others come.
#[test]
fn a_message_that_is_always_refused_is_counted_as_refused() {
    let mut plugin = load(1, "");
    fill(&mut plugin, 1, 20);
    ask(&mut plugin, "c", "**");
    let received = take_with(&mut plugin, 100, &mut |what| match what {
        BehalfAction::Authorize(Action::DELIVER, topic) if topic == "x/7" => Reason::SERVER_UNAVAILABLE,
        _ => Reason::SUCCESS,
    });
    let end = received.last().unwrap();
    assert_eq!((value(end, "messages"), value(end, "refused")), (Some("19"), Some("1")));
    assert_eq!(value(end, "incomplete"), Some("1 message is left out, refused with 0x88"));
}

/// A client that loses the right to its filter gets only a limited number of further messages,
/// however slowly it acknowledges.
#[test]
fn a_revoked_right_ends_the_answer() {
    let mut plugin = load(1, "");
    fill(&mut plugin, 1, 2_000);
    ask(&mut plugin, "c", "**");
    let mut count = 0;
    let received = take_with(&mut plugin, 100, &mut |what| match what {
        BehalfAction::Authorize(Action::SUBSCRIBE, _) => {
            count += 1;
            if count > 2 { Reason::NOT_AUTHORIZED } else { Reason::SUCCESS }
        }
        _ => Reason::SUCCESS,
    });
    assert!((257..=1_024).contains(&received.len()), "{}", received.len());
    assert_eq!(value(received.last().unwrap(), "incomplete"), Some("its filter is refused with 0x87"));
}

/// A slow answer leaves its place to others in the end. A request that waits too long is refused
/// with a message.
#[test]
fn waiting_requests_and_answers_end_after_their_time() {
    let mut plugin = load(
        1,
        r#", "answers_max": 1, "answers_in_flight_max": 1, "answer_ms_max": 5000, "request_wait_ms_max": 2000"#,
    );
    fill(&mut plugin, 1, 3_000);
    for client in ["slow", "waits"] {
        ask(&mut plugin, client, "**");
    }
    let mut ends = Vec::new();
    for _ in 0..100 {
        answer(&mut plugin, &mut yes);
        // One message in 100 ms.
        let ended = |message: &Published| value(message, "incomplete").map(str::to_owned);
        ends.extend(plugin.published().iter().filter_map(ended));
        plugin.advance(Duration::from_millis(100));
    }
    assert_eq!(ends, ["other answers took too long", "its subscribers do not take all of it in time"]);
    assert_eq!(plugin.logs().len(), 2);
}

/// The limit of bytes applies in addition to that of messages.
#[test]
fn bytes_in_flight_are_limited() {
    let mut plugin = load(1, r#", "answers_in_flight_bytes_max": 10000"#);
    for n in 0..50 {
        plugin.run(&mut FakeEvent::publish(&format!("x/{n}"), &[b'x'; 1_000]).with_client_id("maker"));
    }
    ask(&mut plugin, "c", "**");
    let received = take(&mut plugin, 5);
    assert_eq!(value(received.last().unwrap(), "messages"), Some("50"));
    // A single message is sent whatever its size, and the end, which has no payload, together with
    // the last one.
    let mut plugin = load(1, r#", "answers_in_flight_bytes_max": 1"#);
    fill(&mut plugin, 1, 20);
    ask(&mut plugin, "c", "**");
    assert_eq!(take(&mut plugin, 2).len(), 21);
}

/// A limit of one message at a time holds for all answers together.
#[test]
fn one_message_may_always_be_in_flight() {
    let mut plugin = load(1, r#", "answers_in_flight_max": 1"#);
    fill(&mut plugin, 1, 20);
    for client in ["c", "d", "e"] {
        assert!(ask(&mut plugin, client, "**").is_dropped());
    }
    for _ in 0..3 {
        assert_eq!(take(&mut plugin, 1).len(), 21);
    }
}

/// A request that uses the memory limit exactly is answered; with a limit one byte lower it is
/// refused.
#[test]
fn requests_are_charged_with_their_exact_bytes() {
    let answered = |most: u64| {
        let mut plugin = load(1, &format!(r#", "requests_bytes_max": {most}"#));
        let request = ask(&mut plugin, "c", "**");
        request.reason_text().map(str::to_owned)
    };
    let (mut refused, mut taken) = (1, 1 << 16);
    while taken - refused > 1 {
        let middle = (taken + refused) / 2;
        if answered(middle).is_none() { taken = middle } else { refused = middle }
    }
    for most in [1, refused] {
        let end = format!(
            "too many requests wait for an answer: there may be {} of all clients at a time",
            counted(most, "byte")
        );
        assert_eq!(answered(most), Some(end));
    }
    assert!((300..3_000).contains(&taken), "{taken}");
}

/// If another plugin is the requester, the broker's replies arrive on the shard of that plugin's
/// name, and are forwarded.
#[test]
fn an_answer_on_another_shard_finds_its_request() {
    let mut plugin = load(2, "");
    let mut request = FakeEvent::publish("$cache/**", b"answers").with_client_id("c");
    assert_eq!(plugin.run_on(1, &mut request), Outcome::Stop);
    assert_eq!(value(&take(&mut plugin, 1)[0], "messages"), Some("0"));
}

/// One client has a limited share of the requests, and answers of others begin while its own are in
/// progress.
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
    let refusal = "too many requests wait for an answer: one client may have 2 at a time";
    assert_eq!(refused.reason_text(), Some(refusal));
    assert!(ask(&mut plugin, "d", "x/9").is_dropped());
    let refused = ask(&mut plugin, "e", "x/9");
    let refusal = "too many requests wait for an answer: there may be 3 of all clients at a time";
    assert_eq!(refused.reason_text(), Some(refusal));
    let mut ends = Vec::new();
    while ends.len() < 3 {
        let received = take(&mut plugin, 100);
        ends.extend(received.iter().filter_map(|message| value(message, "messages")).map(str::to_owned));
    }
    assert_eq!(ends, ["10", "10", "1"]);
    assert!(ask(&mut plugin, "c", "**").is_dropped(), "there is room again");
}

/// A user with many client identifiers has no more of the requests than others leave.
#[test]
fn requests_of_a_user_leave_room_for_others() {
    let mut plugin = load(1, r#", "client_requests_max": 2, "requests_max": 20, "answers_max": 1"#);
    let mut request = |user: &str, client: &str| {
        let mut event = FakeEvent::publish("$cache/**", b"answers").with_client_id(client);
        event = event.with_username(user);
        plugin.run(&mut event);
        event.reason_text().map(str::to_owned)
    };
    let taken = (0..20).filter(|n| request("ann", &format!("client {n}")).is_none()).count();
    assert_eq!(taken, 10);
    let refusal = "too many requests wait for an answer: the clients of one user or address may have 10 together \
                at the moment";
    assert_eq!(request("ann", "one more").as_deref(), Some(refusal));
    assert_eq!(request("bob", "c"), None);
}

#[test]
fn limits_of_zero_are_refused() {
    for key in [
        "bytes_max",
        "client_bytes_max",
        "requests_bytes_max",
        "client_requests_bytes_max",
        "answers_max",
        "client_answers_max",
        "answers_in_flight_max",
        "answers_in_flight_bytes_max",
        "messages_per_topic_max",
    ] {
        let error = testing::load::<Cache>(&format!(r#"{{"filters": [], "{key}": 0}}"#)).unwrap_err();
        assert_eq!(error, format!("{key} = 0: must be at least 1"));
    }
}

#[test]
fn stored_messages_are_transferred_in_a_reload() {
    let mut plugin = load(2, "");
    fill(&mut plugin, 2, 10);
    let mut plugin = plugin.reloaded(r##"{"filters": ["#"]}"##).unwrap();
    ask(&mut plugin, "c", "*/*");
    assert_eq!(take(&mut plugin, 100).len(), 11);
}

/// New messages evict old ones while the stored messages are transferred in pieces.
#[test]
fn changes_during_a_transfer_are_transferred() {
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
