//! mosquitto_pub and mosquitto_sub in each version: the first commands that a user tries.

use grapnel_tests::mosquitto::{Subscriber, publish, publish_lines};
use grapnel_tests::{Version, scenario};

scenario! {
    /// Each QoS of the publisher with each QoS of the subscription: delivered once, with the
    /// smaller of the two (section 3.8.4).
    fn every_qos_each_way(broker, version) {
        for subscribed in 0..=2u8 {
            let qos = subscribed.to_string();
            let mut subscriber = Subscriber::start(broker, version, &["-t", "q/+", "-q", &qos, "-C", "3"]);
            for published in 0..=2u8 {
                let (qos, topic) = (published.to_string(), format!("q/{published}"));
                publish(broker, version, &["-t", &topic, "-q", &qos, "-m", "hello"]);
            }
            for (published, message) in (0..=2u8).zip(subscriber.messages(3)) {
                assert_eq!(message.topic, format!("q/{published}"));
                assert_eq!(message.payload, "hello");
                assert_eq!(message.qos, u64::from(published.min(subscribed)));
                assert!(!message.retain);
            }
            subscriber.process().succeed(grapnel_tests::PATIENCE);
        }
    }
}

scenario! {
    /// A retained message is stored for later subscribers with RETAIN set; an empty one removes it
    /// ([MQTT-3.3.1-5], -6, -8).
    fn retained_is_set_seen_and_cleared(broker, version) {
        publish(broker, version, &["-t", "room/temp", "-r", "-q", "1", "-m", "21"]);
        publish(broker, version, &["-t", "room/temp", "-r", "-q", "1", "-m", "22"]);
        let mut subscriber = Subscriber::start(broker, version, &["-t", "room/#", "-q", "1"]);
        let message = subscriber.message();
        assert_eq!((message.payload.as_str(), message.retain), ("22", true));

        publish(broker, version, &["-t", "room/temp", "-r", "-q", "1", "-n"]);
        let mut later = Subscriber::start(broker, version, &["-t", "room/#", "-t", "end", "-q", "1"]);
        publish(broker, version, &["-t", "end", "-q", "1", "-m", "last"]);
        assert_eq!(later.messages_until("last"), [], "the retained message was removed");
    }
}

scenario! {
    /// The will of a client that dies is sent; that of one that disconnects is not ([MQTT-3.1.2-8],
    /// -10).
    fn a_will_is_sent_for_a_killed_client_only(broker, version) {
        let mut watcher = Subscriber::start(broker, version, &["-t", "will/#", "-q", "1"]);
        let will = |topic: &'static str| ["-t", "x", "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1"];
        // mosquitto_sub of MQTT 5 requests its will when it is interrupted; mosquitto_pub never
        // does.
        let mut proper = vec!["-m", "hello"];
        proper.extend(will("will/proper"));
        publish(broker, version, &proper);

        let mut killed = Subscriber::start(broker, version, &will("will/killed"));
        killed.process().kill();
        let message = watcher.message();
        assert_eq!((message.topic.as_str(), message.payload.as_str()), ("will/killed", "gone"));
    }
}

scenario! {
    /// A stored session receives what was published while its client was away ([MQTT-3.1.2-4], -5
    /// of 3.1.1; section 4.1).
    fn a_stored_session_resumes_with_missed_messages(broker, version) {
        let mut arguments = vec!["-i", "sleeper", "-c", "-t", "kept/#", "-q", "2"];
        if version.is_5() {
            arguments.extend(["-x", "60"]);
        }
        Subscriber::start(broker, version, &arguments).interrupt();
        for qos in ["1", "2"] {
            publish(broker, version, &["-t", "kept/a", "-q", qos, "-m", qos]);
        }
        // Without a new subscription, so that arriving messages belong to the old session.
        arguments[4] = "other";
        let mut subscriber = Subscriber::connecting(broker, version, &arguments);
        let payloads: Vec<String> = subscriber.messages(2).into_iter().map(|message| message.payload).collect();
        assert_eq!(payloads, ["1", "2"]);
    }
}

scenario! {
    /// A second client with the same identifier: the first is disconnected, the second stays
    /// connected ([MQTT-3.1.4-3]).
    fn a_second_client_takes_over(broker, version) {
        let mut first = Subscriber::start(broker, version, &["-i", "twin", "-t", "t"]);
        let before = first.process().lines(|line| line.contains("sending CONNECT").then_some(())).len();
        assert_eq!(before, 1);
        let first_process = first.process();
        let mut second = Subscriber::start(broker, version, &["-i", "twin", "-t", "t", "-C", "1"]);
        if version.is_5() && !broker.mosquitto_differs("[MQTT-3.1.4-3]", "closes without DISCONNECT 0x8E") {
            first_process.wait_for_line("DISCONNECT (142)", grapnel_tests::PATIENCE, |line| {
                line.to_lowercase().contains("received disconnect (142)").then_some(())
            });
        }
        first_process.kill();
        // mosquitto_sub reconnects by itself, so that the first one may have returned before it was
        // ended.
        if second.process().lines(|line| line.contains("DISCONNECT").then_some(())).is_empty() {
            publish(broker, version, &["-t", "t", "-q", "1", "-m", "to the second"]);
            assert_eq!(second.message().payload, "to the second");
        }
    }
}

scenario! {
    /// Members of a shared subscription get each message once between them (section 4.8.2).
    fn a_shared_subscription_splits_messages(broker) {
        let arguments = ["-t", "$share/group/work/#", "-q", "1"];
        let mut members: Vec<Subscriber> =
            (0..3).map(|_| Subscriber::start(broker, Version::V5, &arguments)).collect();
        let sent: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        publish_lines(broker, Version::V5, &["-t", "work/item", "-q", "1"], &format!("{}\n", sent.join("\n")));
        // An end marker would be shared too: count until all have arrived.
        let mut got = Vec::new();
        let deadline = std::time::Instant::now() + grapnel_tests::PATIENCE;
        while got.len() < sent.len() && std::time::Instant::now() < deadline {
            got = members.iter_mut().flat_map(|m| m.process().lines(payload_of)).collect();
            std::thread::yield_now();
        }
        got.sort_by_key(|payload| payload.parse::<u32>().unwrap_or(u32::MAX));
        assert_eq!(got, sent, "every message once");
        for member in &mut members {
            assert!(!member.process().lines(payload_of).is_empty(), "every member has work");
        }
    }
}

fn payload_of(line: &str) -> Option<String> {
    let json: serde_json::Value = line.starts_with('{').then(|| serde_json::from_str(line).ok())??;
    match &json["payload"] {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

scenario! {
    /// Properties of a message reach the subscriber as they were sent ([MQTT-3.3.2-4], -15, -16,
    /// -17, -18, -20).
    fn properties_are_forwarded(broker) {
        let mut subscriber = Subscriber::start(broker, Version::V5, &["-t", "p", "-q", "1"]);
        publish(broker, Version::V5, &[
            "-t", "p", "-q", "1", "-m", "x",
            "-D", "publish", "user-property", "colour", "blue",
            "-D", "publish", "user-property", "shape", "round",
            "-D", "publish", "content-type", "text/plain",
            "-D", "publish", "response-topic", "answers/here",
            "-D", "publish", "correlation-data", "17",
            "-D", "publish", "payload-format-indicator", "1",
        ]);
        let properties = subscriber.message().properties;
        assert_eq!(properties["content-type"], "text/plain");
        assert_eq!(properties["response-topic"], "answers/here");
        assert_eq!(properties["correlation-data"], "17");
        assert_eq!(properties["payload-format-indicator"], 1);
        let expected = serde_json::json!({"colour": "blue", "shape": "round"});
        assert_eq!(properties["user-properties"], expected);
    }
}

scenario! {
    /// A publisher's messages arrive in the order in which it sent them (section 4.6).
    fn a_thousand_lines_arrive_in_order(broker, version) {
        for qos in ["0", "1", "2"] {
            if version.is_5() && qos == "2" && broker.mosquitto_differs("[MQTT-3.3.4-9]", "counts QoS 2 twice") {
                continue;
            }
            let mut subscriber = Subscriber::start(broker, version, &["-t", "lines", "-q", qos]);
            let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
            publish_lines(broker, version, &["-t", "lines", "-q", qos], &format!("{}\n", lines.join("\n")));
            let got: Vec<String> = subscriber.messages(1000).into_iter().map(|m| m.payload).collect();
            assert_eq!(got, lines);
        }
    }
}
