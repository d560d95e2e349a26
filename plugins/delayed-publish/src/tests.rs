//! Tests of delays, reloads, and the end of messages that are due, with a fake broker.
#![allow(clippy::unwrap_used)]

use grapnel_plugin_abi::raw::Field;
use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome, TestPlugin};

use super::*;

fn sent(topic: &str) -> FakeEvent {
    FakeEvent::publish(topic, b"x").with_client_id("me")
}

/// Advances the plugin's clock and its timers.
fn pass(plugin: &mut TestPlugin<Delayed>, ms: u64) {
    for _ in 0..ms.div_ceil(10) {
        clock::pass(10);
        plugin.advance(Duration::from_millis(10));
    }
}

/// Topics of the messages published since the last call.
fn topics(plugin: &TestPlugin<Delayed>) -> Vec<String> {
    plugin.published().into_iter().map(|message| message.topic).collect()
}

#[test]
fn waiting_messages_are_published_by_the_next_version() {
    let mut plugin = testing::load_on::<Delayed>(2, "").unwrap();
    let mut due = sent("$delayed/0/a");
    assert_eq!(plugin.run_on(1, &mut due), Outcome::Stop);
    assert!(due.is_dropped());
    plugin.run_on(0, &mut sent("$delayed/3600/b"));
    let mut plugin = plugin.reloaded("").unwrap();
    pass(&mut plugin, 1_000);
    let published = plugin.published();
    assert_eq!(
        (published.len(), published[0].topic.as_str(), published[0].on_behalf_of.as_deref()),
        (1, "a", Some("me")),
        "it is a client's word, and authorised as such"
    );
    plugin.answer_published();
    pass(&mut plugin, 1_000);
    assert_eq!(plugin.published(), [], "once, and the other is not due yet");
    pass(&mut plugin, 3_598_000);
    assert_eq!(topics(&plugin), ["b"]);
}

/// Messages arrive and are published while the stored ones are transferred in pieces.
#[test]
fn changes_during_a_transfer_are_transferred() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    for n in 0..100 {
        plugin.run(&mut sent(&format!("$delayed/{}/a", 3600 + n)));
    }
    let (mut rounds, mut published) = (0, 0);
    let plugin = plugin.reloaded_while("", |old| {
        rounds += 1;
        if rounds < 50 {
            old.run(&mut sent(&format!("$delayed/{}/b", 3600 - rounds)));
            old.run(&mut sent("$delayed/0/c"));
            pass(old, 10);
            published += old.published().len();
            // Every third one gets no reply for now.
            if rounds % 3 == 0 {
                old.answer_published();
            }
        }
    });
    drop(plugin.unwrap());
    assert!(rounds > 50, "{rounds} pieces");
    assert_eq!(published, 49);
}

/// Messages beyond a client's limit are refused, and other clients are not affected.
#[test]
fn a_client_over_its_share_is_refused_alone() {
    let mut plugin = testing::load::<Delayed>(r#"{"client_messages_max": 2, "messages_max": 3}"#).unwrap();
    let mut send = |client: &str| {
        let mut message = sent("$delayed/9/a").with_client_id(client).with_username(client);
        assert_eq!(plugin.run(&mut message), Outcome::Stop);
        assert_eq!(message.is_dropped(), !message.is_rejected());
        message.reason_text().map(str::to_owned)
    };
    assert_eq!([send("me"), send("me")], [None, None]);
    let refusal = "too many messages are delayed already: one client may have 2 at a time";
    assert_eq!(send("me").as_deref(), Some(refusal));
    assert_eq!(send("you"), None);
    let refusal = "too many messages are delayed already: there may be 3 of all clients at a time";
    assert_eq!(send("you").as_deref(), Some(refusal));
}

/// A user with many client identifiers has no more of the room than others leave, also after a
/// reload, and others still find room. So has whoever is not verified, by address.
#[test]
fn a_user_with_many_client_identifiers_takes_no_room_from_others() {
    const CONFIG: &str = r#"{"client_messages_max": 2, "messages_max": 20}"#;
    // User name, whether nobody has verified it, and address.
    let (ann, bob) = (("ann", 0, "10.0.0.1"), ("bob", 0, "10.0.0.1"));
    let (unverified, elsewhere) = (("ann", 1, "10.0.0.1"), ("ann", 1, "10.0.0.2"));
    for (greedy, other) in [(ann, bob), (unverified, ann), (ann, unverified), (unverified, elsewhere)] {
        let mut plugin = testing::load::<Delayed>(CONFIG).unwrap();
        let send = |plugin: &mut TestPlugin<Delayed>, (name, anonymous, host), client: String| {
            let message = sent("$delayed/9/a").with_client_id(&client).with_username(name);
            let message = message.with_text(Field::PEER_HOST, host);
            let mut message = message.with_number(Field::ANONYMOUS, anonymous);
            plugin.run(&mut message);
            message.reason_text().map(str::to_owned)
        };
        for number in 0..10 {
            assert_eq!(send(&mut plugin, greedy, format!("client {number}")), None, "half of the room");
        }
        let refusal = "too many messages are delayed already: the clients of one user or address may have 10 \
                    together at the moment";
        assert_eq!(send(&mut plugin, greedy, "one more".to_owned()).as_deref(), Some(refusal));
        let mut plugin = plugin.reloaded(CONFIG).unwrap();
        assert_eq!(send(&mut plugin, greedy, "one more".to_owned()).as_deref(), Some(refusal));
        for number in 0..5 {
            assert_eq!(send(&mut plugin, other, format!("other {number}")), None);
        }
    }
}

/// Messages that are due together are published in slices, in order, and completely.
#[test]
fn messages_due_together_are_published_in_slices() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    let count = 2 * PUBLISHED_AT_ONCE + 1;
    for n in 0..count {
        plugin.run(&mut sent(&format!("$delayed/0/{n}")));
    }
    let mut received = Vec::new();
    let mut rounds = 0;
    while received.len() < count {
        pass(&mut plugin, 10);
        let slice = topics(&plugin);
        assert!((1..=queues::WINDOW).contains(&slice.len()), "{}", slice.len());
        received.extend(slice);
        plugin.answer_published_with(|_| Reason::SUCCESS);
        // Each reply allows one more message.
        let next = topics(&plugin);
        assert!(next.len() <= queues::WINDOW);
        received.extend(next);
        plugin.answer_published_with(|_| Reason::SUCCESS);
        rounds += 1;
    }
    assert!(rounds < count, "{rounds}");
    assert!(received.into_iter().eq((0..count).map(|n| n.to_string())));
}

/// With many clients, one step of the shard publishes at most this many messages.
#[test]
fn a_step_publishes_a_bounded_number_of_messages() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    for n in 0..=PUBLISHED_AT_ONCE {
        plugin.run(&mut sent("$delayed/0/a").with_client_id(&n.to_string()));
    }
    clock::pass(10);
    plugin.advance(Duration::from_millis(1));
    assert_eq!(plugin.published().len(), PUBLISHED_AT_ONCE);
    plugin.advance(Duration::from_millis(1));
    assert_eq!(plugin.published().len(), 1);
}

/// A client for which the broker is full pauses, longer each time. Other clients continue, and
/// nothing is lost.
#[test]
fn messages_are_retried_one_at_a_time_while_the_broker_is_full() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    for client in ["full", "free"] {
        for n in 0..3 {
            plugin.run(&mut sent(&format!("$delayed/0/{client}/{n}")).with_client_id(client));
        }
    }
    let no_room = |client: &str| if client == "full" { Reason::QUOTA_EXCEEDED } else { Reason::SUCCESS };
    pass(&mut plugin, 10);
    assert_eq!(plugin.published().len(), 6);
    plugin.answer_published_with(no_room);
    for pause_ms in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        plugin.run(&mut sent("$delayed/0/free/4").with_client_id("free"));
        pass(&mut plugin, 10);
        assert_eq!(topics(&plugin), ["free/4"], "others wait for nothing");
        plugin.answer_published_with(no_room);
        pass(&mut plugin, pause_ms - 20);
        assert_eq!(topics(&plugin), Vec::<String>::new(), "{pause_ms}");
        pass(&mut plugin, 10);
        assert_eq!(topics(&plugin), ["full/0"], "the first one, one at a time");
        plugin.answer_published_with(no_room);
    }
    pass(&mut plugin, 5_000);
    assert_eq!(topics(&plugin), ["full/0"]);
    plugin.answer_published();
    assert_eq!(topics(&plugin), ["full/1", "full/2"]);
    pass(&mut plugin, 100_000);
    assert_eq!((topics(&plugin), plugin.logs()), (Vec::new(), Vec::new()));
}

/// A message that the client may not publish at its due time is dropped, and so is one that the
/// broker does not accept within the configured time. Many of them cause one log line in a while.
#[test]
fn refused_messages_are_dropped_and_logged() {
    let mut plugin = testing::load::<Delayed>(r#"{"retry_s_max": 1}"#).unwrap();
    for n in 0..4 {
        plugin.run(&mut sent(&format!("$delayed/0/secret/{n}")));
    }
    pass(&mut plugin, 10);
    assert_eq!(plugin.published().len(), 4);
    plugin.answer_published_with(|_| Reason::NOT_AUTHORIZED);
    let line = r#"the delayed message of client "me" to "secret/0" is gone: refused with 0x87"#;
    assert_eq!(plugin.logs(), [(grapnel_plugin_abi::Level::Warn, line.to_owned())]);
    pass(&mut plugin, LOGGED_EVERY_MS);
    plugin.run(&mut sent("$delayed/0/full"));
    let mut tries = 0;
    for _ in 0..500 {
        pass(&mut plugin, 10);
        tries += plugin.published().len();
        plugin.answer_published_with(|_| Reason::QUOTA_EXCEEDED);
    }
    assert_eq!(tries, 5, "after 100, 300, 700 and 1,500 ms");
    assert_eq!(plugin.logs().len(), 2);
    let line = r#"the delayed message of client "me" to "full" is gone: refused with 0x97, and 3 other messages since the last such line"#;
    assert_eq!(plugin.logs().last().map(|(_, line)| line.as_str()), Some(line));
}

/// A message without a reply is published again once the broker no longer has it.
#[test]
fn a_message_whose_answer_was_lost_is_published_again() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.run(&mut sent("$delayed/0/a"));
    pass(&mut plugin, PATIENCE_MS + 100);
    // The broker still has it: the test has not read it.
    assert_eq!(topics(&plugin), ["a"]);
    pass(&mut plugin, PATIENCE_MS - 200);
    assert_eq!(topics(&plugin), Vec::<String>::new());
    pass(&mut plugin, 400);
    assert_eq!(topics(&plugin), ["a"], "it has no more");
    plugin.answer_published();
    pass(&mut plugin, 10 * PATIENCE_MS);
    assert_eq!(topics(&plugin), Vec::<String>::new());
}

/// A published message without a reply is transferred, and the reply goes to the next version: a
/// reload neither duplicates nor loses it.
#[test]
fn unanswered_messages_are_transferred_in_a_reload() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.run(&mut sent("$delayed/0/a"));
    plugin.run(&mut sent("$delayed/0/b").with_client_id("you"));
    pass(&mut plugin, 10);
    assert_eq!(topics(&plugin), ["a", "b"]);
    plugin.answer_published_with(|client| match client {
        "me" => Reason::SUCCESS,
        _ => Reason::QUOTA_EXCEEDED,
    });
    for topic in ["c", "d"] {
        plugin.run(&mut sent(&format!("$delayed/0/{topic}")));
    }
    pass(&mut plugin, 10);
    assert_eq!(topics(&plugin), ["c", "d"]);
    let mut plugin = plugin.reloaded("").unwrap();
    plugin.run(&mut sent("$delayed/0/e"));
    pass(&mut plugin, 10);
    assert_eq!(topics(&plugin), ["b", "e"], "what found no room, and what is new: not what is on its way");
    // Also through a second reload.
    let mut plugin = plugin.reloaded("").unwrap();
    pass(&mut plugin, PATIENCE_MS);
    assert_eq!(topics(&plugin), Vec::<String>::new());
    let mut answers = [Reason::SUCCESS, Reason::QUOTA_EXCEEDED].into_iter();
    let answered = plugin.answer_published_with(|_| answers.next().unwrap_or(Reason::SUCCESS));
    assert_eq!(answered, 4);
    pass(&mut plugin, 200);
    assert_eq!(topics(&plugin), ["d"], "for which there was no room");
    plugin.answer_published();
    pass(&mut plugin, 2 * PATIENCE_TAKEN_OVER_MS);
    assert_eq!((topics(&plugin), plugin.logs()), (Vec::new(), Vec::new()));
}

/// A reply that is lost in a reload is detected in the end.
#[test]
fn a_message_whose_answer_was_lost_in_a_reload_is_published_again() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.run(&mut sent("$delayed/0/a"));
    pass(&mut plugin, 10);
    assert_eq!(topics(&plugin), ["a"]);
    let mut plugin = plugin.reloaded("").unwrap();
    pass(&mut plugin, PATIENCE_TAKEN_OVER_MS - 100);
    assert_eq!(topics(&plugin), Vec::<String>::new());
    pass(&mut plugin, 300);
    assert_eq!(topics(&plugin), ["a"]);
}

/// The time since the first publish is transferred too, so that reloads do not extend it without
/// end.
#[test]
fn retries_end_in_time_across_reloads() {
    let config = r#"{"retry_s_max": 10}"#;
    let mut plugin = testing::load::<Delayed>(config).unwrap();
    plugin.run(&mut sent("$delayed/0/a"));
    for _ in 0..4 {
        pass(&mut plugin, 6_000);
        plugin.answer_published_with(|_| Reason::QUOTA_EXCEEDED);
        plugin = plugin.reloaded(config).unwrap();
    }
    plugin.published();
    pass(&mut plugin, 6_000);
    assert_eq!(topics(&plugin), Vec::<String>::new());
}

/// If a timer is refused, the next turn of the shard tries again until there is one, with a log
/// line in a while.
#[test]
fn a_refused_timer_is_set_again() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.refuse_timers(true);
    plugin.run(&mut sent("$delayed/1/a"));
    plugin.refuse_timers(false);
    assert_eq!(plugin.deliver_messages(), 1);
    let line = (
        grapnel_plugin_abi::Level::Error,
        "no timer for 1 message: the broker refused it: a limit is reached".to_owned(),
    );
    assert_eq!(plugin.logs(), [line]);
    pass(&mut plugin, 990);
    assert_eq!(topics(&plugin), Vec::<String>::new());
    pass(&mut plugin, 20);
    assert_eq!(topics(&plugin), ["a"]);
}

/// The same for a timer that is refused to the version that takes over.
#[test]
fn a_timer_refused_in_a_reload_is_set_again() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.run(&mut sent("$delayed/1/a"));
    plugin.refuse_timers(true);
    let mut plugin = plugin.reloaded("").unwrap();
    assert_eq!(plugin.logs().len(), 1, "it says that there is none");
    plugin.refuse_timers(false);
    assert_eq!(plugin.deliver_messages(), 1);
    pass(&mut plugin, 990);
    assert_eq!(topics(&plugin), Vec::<String>::new());
    pass(&mut plugin, 20);
    assert_eq!(topics(&plugin), ["a"]);
}

/// Without a timer, only one instance message is sent at a time, however many messages arrive.
#[test]
fn while_timers_are_refused_one_message_is_tried_at_a_time() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.refuse_timers(true);
    for _ in 0..10 {
        plugin.run(&mut sent("$delayed/1/a"));
    }
    // The test bed also delivers messages that are sent meanwhile, so there must be an end.
    plugin.refuse_timers(false);
    assert_eq!(plugin.deliver_messages(), 1);
    pass(&mut plugin, 1_010);
    assert_eq!(topics(&plugin).len(), 10);
}

/// An existing timer stays if an earlier one is refused.
#[test]
fn an_existing_timer_stays_if_an_earlier_one_is_refused() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.run(&mut sent("$delayed/2/later"));
    plugin.refuse_timers(true);
    plugin.run(&mut sent("$delayed/1/sooner"));
    assert_eq!((plugin.deliver_messages(), plugin.logs()), (0, Vec::new()));
    pass(&mut plugin, 2_010);
    assert_eq!(topics(&plugin), ["sooner", "later"]);
}

/// An empty property is delivered as empty, and an absent one as absent, also through a reload.
#[test]
fn all_properties_are_published_unchanged() {
    for (text, number) in [(None, None), (Some(""), Some(0)), (Some("x"), Some(1))] {
        let mut plugin = testing::load::<Delayed>("").unwrap();
        let mut message = sent("$delayed/1/a");
        if let (Some(text), Some(number)) = (text, number) {
            message = message
                .with_text(Field::CONTENT_TYPE, text)
                .with_text(Field::CORRELATION_DATA, text)
                .with_number(Field::PAYLOAD_FORMAT, number)
                .with_user_property(text, text);
        }
        // A response topic is a topic name, and an interval of 0 has expired.
        if text == Some("x") {
            message = message.with_text(Field::RESPONSE_TOPIC, "x").with_number(Field::MESSAGE_EXPIRY_S, 7);
        }
        assert_eq!(plugin.run(&mut message), Outcome::Stop);
        let mut plugin = plugin.reloaded("").unwrap();
        pass(&mut plugin, 1_010);
        let message = plugin.published().pop().unwrap();
        assert_eq!(message.content_type.as_deref(), text);
        assert_eq!(message.correlation_data.as_deref(), text.map(str::as_bytes));
        assert_eq!(message.payload_format.map(u64::from), number);
        let pair = text.map(|text| (text.to_owned(), text.to_owned()));
        assert_eq!(message.user_properties, pair.into_iter().collect::<Vec<_>>());
        let full = text == Some("x");
        assert_eq!((message.response_topic == "x", message.message_expiry_s == 7), (full, full));
    }
}

/// The reply to another plugin's publish arrives on the shard of that plugin's name, and is
/// forwarded to the shard that stores the message.
#[test]
fn an_answer_on_another_shard_finds_its_message() {
    let mut plugin = testing::load_on::<Delayed>(2, "").unwrap();
    for shard in [0, 1] {
        plugin.run_on(shard, &mut sent("$delayed/0/a"));
    }
    pass(&mut plugin, 10);
    assert_eq!(plugin.published().len(), 2);
    // All replies arrive on the first shard.
    assert_eq!(plugin.answer_published_on(0, |_| Reason::SUCCESS), 2);
    assert_eq!(plugin.deliver_messages(), 1);
    pass(&mut plugin, PATIENCE_MS + 200);
    assert_eq!(topics(&plugin), Vec::<String>::new(), "nothing is missed");
}

/// A delay is elapsed time: setting the machine's clock does not change it.
#[test]
fn wall_clock_changes_have_no_effect() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    for wall_ms in [0, 1 << 41, u64::MAX] {
        plugin.run(&mut sent("$delayed/5/a").with_number(Field::TIMESTAMP_MS, wall_ms));
    }
    pass(&mut plugin, 4_990);
    assert_eq!(topics(&plugin), Vec::<String>::new());
    pass(&mut plugin, 20);
    assert_eq!(topics(&plugin).len(), 3);
}

#[test]
fn the_longest_delay_does_not_overflow() {
    let mut plugin = testing::load::<Delayed>(&format!(r#"{{"delay_s_max": {}}}"#, u64::MAX)).unwrap();
    let mut message = sent(&format!("$delayed/{}/a", u64::MAX));
    plugin.run(&mut message);
    assert!(message.is_dropped());
}

#[test]
fn seconds_and_topic_are_parsed() {
    assert_eq!(parse("$delayed/0/a", 9), Ok((0, "a")));
    assert_eq!(parse("$delayed/9/a//b", 9), Ok((9, "a//b")));
    for (name, problem) in [
        ("$delayed/5", "it must be $delayed/SECONDS/TOPIC"),
        ("$delayed//a", "the delay must be a whole number of seconds"),
        ("$delayed/+5/a", "the delay must be a whole number of seconds"),
        ("$delayed/1.5/a", "the delay must be a whole number of seconds"),
        ("$delayed/10/a", "the delay must be at most 9 seconds"),
        ("$delayed/1/$SYS/a", "a topic that begins with $ cannot be delayed"),
        ("$delayed/1/$delayed/1/a", "a topic that begins with $ cannot be delayed"),
    ] {
        assert_eq!(parse(name, 9), Err(problem.to_owned()), "{name}");
    }
    assert!(parse("$delayed/5/", 9).is_err());
}

/// Without a verdict a message is retried.
#[test]
fn messages_without_an_answer_are_not_lost() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    plugin.run(&mut sent("$delayed/0/a"));
    for _ in 0..3 {
        pass(&mut plugin, 1_000);
        assert_eq!(topics(&plugin), ["a"]);
        plugin.answer_published_with(|_| Reason::SERVER_UNAVAILABLE);
    }
    pass(&mut plugin, 1_000);
    plugin.answer_published();
    pass(&mut plugin, 100_000);
    assert_eq!((topics(&plugin), plugin.logs()), (vec!["a".to_owned()], Vec::new()));
}

/// Large messages are published in smaller slices.
#[test]
fn bytes_published_in_one_step_are_limited() {
    let mut plugin = testing::load::<Delayed>(r#"{"client_bytes_max": 67108864}"#).unwrap();
    for _ in 0..10 {
        let mut message =
            FakeEvent::publish("$delayed/0/a", &vec![b'x'; BYTES_AT_ONCE / 2]).with_client_id("me");
        plugin.run(&mut message);
        assert!(message.is_dropped());
    }
    clock::pass(10);
    for _ in 0..5 {
        plugin.advance(Duration::from_millis(1));
        assert_eq!(plugin.published().len(), 2);
    }
    plugin.answer_published();
    pass(&mut plugin, 100);
    assert_eq!(plugin.published(), []);
}

/// A reply allows one more message, and does not start a whole slice.
#[test]
fn an_answer_publishes_a_limited_number_of_messages() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    for n in 0..200 {
        plugin.run(&mut sent("$delayed/0/a").with_client_id(&n.to_string()));
    }
    clock::pass(10);
    plugin.advance(Duration::from_millis(1));
    assert_eq!(plugin.published().len(), PUBLISHED_AT_ONCE);
    let answered = plugin.answer_published_with(|_| Reason::SUCCESS);
    assert_eq!(answered, PUBLISHED_AT_ONCE);
    assert!(plugin.published().len() <= PUBLISHED_FOR_AN_ANSWER * answered);
}

/// An expiry interval of 0 means expired, not unlimited.
#[test]
fn expired_messages_are_not_published() {
    let mut plugin = testing::load::<Delayed>("").unwrap();
    let mut message = sent("$delayed/0/a").with_number(Field::MESSAGE_EXPIRY_S, 0);
    assert_eq!(plugin.run(&mut message), Outcome::Stop);
    assert!(message.is_dropped());
    pass(&mut plugin, 1_000);
    assert_eq!(topics(&plugin), Vec::<String>::new());
}
