//! Tests of the plugin's memory: lowered limits, the charged client, and messages that are larger
//! than a page.

use super::*;

/// Requests all messages, and returns the payloads of the answer.
fn payloads(plugin: &mut TestPlugin<Cache>) -> Vec<String> {
    ask(plugin, "c", "**");
    let mut received = take(plugin, 100);
    received.pop();
    received.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

/// Lower limits of a new version are applied soon, even if no message is published.
#[test]
fn lowered_limits_are_applied_soon() {
    let mut plugin = load(1, r#", "messages_per_topic_max": 2000"#);
    for (client, topic) in [("a", "x"), ("b", "y")] {
        for n in 0..2_000 {
            let payload = format!("{topic}{n}");
            let message = FakeEvent::publish(topic, payload.as_bytes()).with_client_id(client);
            plugin.run(&mut message.with_username(client));
        }
    }
    let lowered = r##"{"filters": ["#"], "messages_per_topic_max": 5}"##;
    let mut plugin = plugin.reloaded(lowered).unwrap();
    plugin.advance(Duration::from_secs(1));
    let expected: Vec<String> =
        ["x", "y"].iter().flat_map(|topic| (1_995..2_000).map(move |n| format!("{topic}{n}"))).collect();
    assert_eq!(payloads(&mut plugin), expected);
    // About 350 bytes each: the limit of one client is lower than five messages.
    let lowered = r##"{"filters": ["#"], "messages_per_topic_max": 5, "client_bytes_max": 1500}"##;
    let mut plugin = plugin.reloaded(lowered).unwrap();
    plugin.advance(Duration::from_secs(1));
    let left = payloads(&mut plugin);
    assert!((2..8).contains(&left.len()) && left.contains(&"x1999".to_owned()), "{left:?}");
}

/// A user has one share, whatever client identifiers it uses: its messages do not drive out others.
#[test]
fn messages_of_a_user_are_charged_to_the_user() {
    let mut plugin = load(1, r#", "client_bytes_max": 3000, "bytes_max": 8000"#);
    let mut keep = |user: &str, n: usize| {
        let (topic, client) = (format!("{user}/{n}"), format!("client {n}"));
        let message = FakeEvent::publish(&topic, topic.as_bytes()).with_client_id(&client);
        plugin.run(&mut message.with_username(user));
    };
    keep("bob", 0);
    (0..50).for_each(|n| keep("ann", n));
    let stored = payloads(&mut plugin);
    assert!((3..10).contains(&stored.len()), "{stored:?}");
    assert_eq!((stored[0].as_str(), stored.last().map(String::as_str)), ("bob/0", Some("ann/49")));
}

/// Without a timer the limits are applied by instance messages, one at a time however many messages
/// come.
#[test]
fn a_refused_timer_is_replaced() {
    let mut plugin = load(1, r#", "client_bytes_max": 4000000"#);
    for n in 0..10_000 {
        plugin.run(&mut FakeEvent::publish(&format!("x/{n}"), b"").with_client_id("maker"));
    }
    plugin.refuse_timers(true);
    plugin.run(&mut FakeEvent::publish("large", &[1; 3_000_000]).with_client_id("maker"));
    plugin.refuse_timers(false);
    assert_eq!(plugin.deliver_messages(), 1);
    let timers = |plugin: &mut TestPlugin<Cache>| plugin.advance(Duration::from_secs(1));
    timers(&mut plugin);
    let stored = payloads(&mut plugin).len();
    assert!((1_000..3_500).contains(&stored), "{stored}");
}

/// The same if the timer is refused to the version that takes over with lower limits.
#[test]
fn a_timer_refused_in_a_reload_is_replaced() {
    let mut plugin = load(1, r#", "messages_per_topic_max": 2000"#);
    for n in 0..2_000 {
        let message = &mut FakeEvent::publish("x", format!("{n}").as_bytes()).with_client_id("maker");
        plugin.run(message);
    }
    plugin.refuse_timers(true);
    let mut plugin = plugin.reloaded(r##"{"filters": ["#"], "messages_per_topic_max": 5}"##).unwrap();
    plugin.refuse_timers(false);
    assert!(plugin.deliver_messages() > 0);
    plugin.advance(Duration::from_secs(1));
    assert_eq!(payloads(&mut plugin), ["1995", "1996", "1997", "1998", "1999"]);
}

/// The memory of an answer is charged to its client only, and released with the answer.
#[test]
fn pages_are_charged_to_the_requesting_client() {
    let mut plugin = load(2, r#", "client_requests_bytes_max": 60000"#);
    for n in 0..100 {
        let message = FakeEvent::publish(&format!("x/{n}"), &[b'x'; 1_000]);
        plugin.run_on(n % 2, &mut message.with_client_id("maker"));
    }
    ask(&mut plugin, "c", "**");
    // The filter is allowed and its pages come, but there is no verdict for the messages.
    plugin.deliver_messages();
    let requests = plugin.take_requests();
    plugin.answer_on(0, requests[0].number.unwrap(), Reason::SUCCESS);
    plugin.deliver_messages();
    plugin.advance(TICK);
    let correlation = [b'x'; 55_000];
    let second = |client: &str| {
        FakeEvent::publish("$cache/**", b"answers")
            .with_client_id(client)
            .with_bytes(Field::CORRELATION_DATA, &correlation)
    };
    let mut refused = second("c");
    plugin.run(&mut refused);
    let refusal = "too many requests wait for an answer: one client may have 60000 bytes at a time";
    assert_eq!(refused.reason_text(), Some(refusal));
    let mut taken = second("d");
    plugin.run(&mut taken);
    assert!(taken.is_dropped(), "{:?}", taken.reason_text());
    let mut yes = yes;
    let mut ends = 0;
    while ends < 2 {
        let received = take_with(&mut plugin, 100, &mut yes);
        ends += received.iter().filter(|message| value(message, "messages") == Some("100")).count();
        assert!(received.iter().all(|message| value(message, "incomplete").is_none()));
    }
    let mut again = second("c");
    plugin.run(&mut again);
    assert!(again.is_dropped(), "its share is free again");
}

/// A message that does not fit into a page is fetched alone. One that is larger than half a
/// client's limit is omitted and counted.
#[test]
fn large_messages_are_fetched_one_at_a_time() {
    let mut plugin =
        load(3, r#", "client_requests_bytes_max": 400000, "answers_in_flight_bytes_max": 150000"#);
    let sizes = [150_000, 10, 100_000, 250_000, 100_001, 20, 100_002, 7];
    for (n, size) in (0..).zip(sizes) {
        let message = FakeEvent::publish(&format!("x/{n}"), &vec![n as u8; size]).with_client_id("maker");
        plugin.run_on(n % 3, &mut message.with_number(Field::TIMESTAMP_MS, 1_000 + u64::from(n)));
    }
    ask(&mut plugin, "c", "**");
    let received = take(&mut plugin, 100);
    let received: Vec<_> = received.iter().map(|message| message.payload.len()).collect();
    assert_eq!(received, [150_000, 10, 100_000, 100_001, 20, 100_002, 7, 0]);
    ask(&mut plugin, "c", "x/3");
    let end = take(&mut plugin, 100).pop().unwrap();
    let warning = "1 message is left out, too large for client_requests_bytes_max or requests_bytes_max";
    assert_eq!((value(&end, "refused"), value(&end, "incomplete")), (Some("1"), Some(warning)));
}

/// A message that is removed before it is fetched alone is omitted, but nothing after it.
#[test]
fn an_evicted_large_message_is_omitted() {
    let mut plugin = load(2, r#", "client_requests_bytes_max": 400000, "messages_per_topic_max": 1"#);
    for (topic, size) in [("x/1", 100), ("x/2", 150_000), ("x/3", 100)] {
        plugin.run_on(1, &mut FakeEvent::publish(topic, &vec![1; size]).with_client_id("maker"));
    }
    ask(&mut plugin, "c", "**");
    plugin.deliver_messages();
    let requests = plugin.take_requests();
    plugin.answer_on(0, requests[0].number.unwrap(), Reason::SUCCESS);
    plugin.deliver_messages();
    // The pages have arrived, and another message replaces it.
    plugin.run_on(1, &mut FakeEvent::publish("x/2", b"new").with_client_id("maker"));
    let topics: Vec<_> = take(&mut plugin, 100);
    let topics: Vec<_> = topics.iter().filter_map(|message| value(message, "topic")).collect();
    assert_eq!(topics, ["x/1", "x/3"]);
}

/// Empty correlation data is returned as empty, and absent data as absent.
#[test]
fn correlation_data_are_returned_unchanged() {
    let mut plugin = load(1, "");
    fill(&mut plugin, 1, 1);
    for data in [None, Some(&b""[..]), Some(b"id")] {
        let mut request = FakeEvent::publish("$cache/**", b"answers").with_client_id("c");
        if let Some(data) = data {
            request = request.with_bytes(Field::CORRELATION_DATA, data);
        }
        plugin.run(&mut request);
        let received = take(&mut plugin, 100);
        assert!(
            received.len() == 2 && received.iter().all(|message| message.correlation_data.as_deref() == data)
        );
    }
}

/// A large message that the client may not receive leaves no trace: it is neither fetched nor
/// counted.
#[test]
fn a_denied_large_message_is_omitted() {
    let mut plugin = load(1, r#", "client_requests_bytes_max": 400000"#);
    for (topic, size) in [("x/1", 100), ("x/secret/fits", 150_000), ("x/secret/never", 250_000), ("x/2", 100)]
    {
        plugin.run(&mut FakeEvent::publish(topic, &vec![1; size]).with_client_id("maker"));
    }
    ask(&mut plugin, "c", "**");
    let received = take_with(&mut plugin, 100, &mut |what| match what {
        BehalfAction::Authorize(Action::DELIVER, topic) if topic.starts_with("x/secret") => {
            Reason::NOT_AUTHORIZED
        }
        _ => Reason::SUCCESS,
    });
    let topics: Vec<_> = received.iter().filter_map(|message| value(message, "topic")).collect();
    assert_eq!(topics, ["x/1", "x/2"]);
    let end = received.last().unwrap();
    let counts = ["messages", "refused", "incomplete"].map(|key| value(end, key));
    assert_eq!((counts, plugin.logs()), ([Some("2"), None, None], Vec::new()));
}

/// No verdict for a large message for a while: it is authorized again, and comes in order.
#[test]
fn a_large_message_waits_for_its_verdict() {
    let mut plugin = load(1, r#", "client_requests_bytes_max": 400000"#);
    for (topic, size) in [("x/1", 100), ("x/2", 150_000), ("x/3", 100)] {
        plugin.run(&mut FakeEvent::publish(topic, &vec![1; size]).with_client_id("maker"));
    }
    ask(&mut plugin, "c", "**");
    let mut silences = 0;
    let received = take_with(&mut plugin, 100, &mut |what| match what {
        BehalfAction::Authorize(Action::DELIVER, topic) if topic == "x/2" && silences < 3 => {
            silences += 1;
            Reason::SERVER_UNAVAILABLE
        }
        _ => Reason::SUCCESS,
    });
    let topics: Vec<_> = received.iter().filter_map(|message| value(message, "topic")).collect();
    assert_eq!((silences, topics), (3, vec!["x/1", "x/2", "x/3"]));
}

/// Pages of other shards of an answer do not block its large message. The first page of each shard
/// has room for one early message. Then the shards are asked one after the other for the late ones,
/// which stay in memory until the large one is out.
#[test]
fn an_answer_does_not_block_itself() {
    let mut plugin = load(5, r#", "client_requests_bytes_max": 400000"#);
    let mut keep = |shard: u32, at_ms: u64, topic: &str, size: usize| {
        let message = FakeEvent::publish(topic, &vec![1; size]).with_client_id("maker");
        plugin.run_on(shard, &mut message.with_number(Field::TIMESTAMP_MS, at_ms));
    };
    for shard in 1..5 {
        keep(shard, 1_000 + u64::from(shard), &format!("x/{shard}/early"), 10_000);
        (0..3).for_each(|n| keep(shard, 9_000 + n, &format!("x/{shard}/late{n}"), 35_000));
    }
    keep(0, 5_000, "x/large", 190_000);
    ask(&mut plugin, "c", "**");
    let received = take(&mut plugin, 100);
    assert_eq!(received.iter().position(|message| value(message, "topic") == Some("x/large")), Some(4));
    assert_eq!((received.len(), value(received.last().unwrap(), "incomplete")), (18, None));
}

/// A message that was too large to be stored is counted as omitted, and the one before it is not
/// treated as the last.
#[test]
fn messages_too_large_to_store_are_reported() {
    let mut plugin = load(1, r#", "messages_per_topic_max": 1, "client_bytes_max": 100000"#);
    for size in [100, 200_000] {
        plugin.run(&mut FakeEvent::publish("x", &vec![1; size]).with_client_id("maker"));
    }
    ask(&mut plugin, "c", "**");
    let received = take(&mut plugin, 100);
    let warning = Some("1 message is left out, too large to be kept");
    assert_eq!(
        (received.len(), value(&received[0], "refused"), value(&received[0], "incomplete")),
        (1, Some("1"), warning)
    );
}
