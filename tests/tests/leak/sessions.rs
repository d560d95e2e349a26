//! Sessions that outlive their connection and expire, with everything that a session can contain:
//! subscriptions, messages in flight in both directions, messages queued without a connection, a
//! delayed will.

use std::ops::Range;

use grapnel_tests::churn::{Leave, Visit, visit};
use grapnel_tests::ledger::{self, Ledger};
use grapnel_tests::wire::{Value, property};
use grapnel_tests::{Broker, Client, Connect, Publish, Subscribe, Version, Will};

const PER_SECOND: u32 = 5000;
const WARM_UP: u32 = 10_000;
/// Approximate number of sessions that exist at a time.
const ROUND: u32 = 1000;
/// Messages for all sessions of a round without a connection.
const MESSAGES: u32 = 3;

fn connect(number: u32) -> Connect {
    let mut connect =
        Connect::new(Version::V5, &format!("session {number}")).with(property::SESSION_EXPIRY, Value::U32(1));
    connect.clean = false;
    if number.is_multiple_of(3) {
        let will = Will::new("sessions/gone", "at last").with(property::WILL_DELAY, Value::U32(1));
        connect = connect.will(will);
    }
    connect
}

/// Disconnects with subscriptions, a message in flight to it, and one from it without PUBREL.
fn first_visit(number: u32) -> Visit {
    let version = Version::V5;
    let own = format!("sessions/{number}");
    let subscribe = Subscribe::to(&own, 2)
        .and("sessions/all", 1)
        .and(&format!("sessions/{number}/+/#"), 0)
        .and("$share/some/sessions/shared", 1);
    let mut bytes = connect(number).encode();
    bytes.extend(subscribe.encode(version, 1));
    bytes.extend(Publish::new(&own, "to myself").qos(2).id(2).encode(version));
    let leave = [Leave::Reset, Leave::Disconnect][number as usize % 2];
    // CONNACK, SUBACK, PUBREC and the message itself.
    Visit { version, bytes, answers: 4, leave }
}

/// Connects again, receives the messages in flight once more, and disconnects for good.
fn second_visit(number: u32) -> Visit {
    let leave = [Leave::ResetUnread, Leave::Reset, Leave::Disconnect][number as usize % 3];
    Visit { version: Version::V5, bytes: connect(number).encode(), answers: 1, leave }
}

fn churn(broker: &Broker, sessions: Range<u32>) {
    let mut publisher = Client::hello(broker, Version::V5, "publisher");
    for first in sessions.clone().step_by(ROUND as usize) {
        let round = first..sessions.end.min(first + ROUND);
        visit(broker, round.clone(), PER_SECOND, first_visit);
        for topic in ["sessions/all", "sessions/shared"] {
            for _ in 0..MESSAGES {
                assert!(publisher.publish(&Publish::new(topic, "for later").qos(1)) < 0x80);
            }
        }
        visit(broker, round.start..round.start + ROUND / 4, PER_SECOND, second_visit);
    }
    publisher.disconnect();
}

fn leaves_nothing(shards: usize, sessions: u32) {
    let broker = Broker::builder().shards(shards).config(ledger::CONFIG).counted().start();
    Ledger::open(&broker).check(
        &format!("{sessions} sessions on {shards} shards"),
        || churn(&broker, 0..WARM_UP),
        || churn(&broker, WARM_UP..WARM_UP + sessions),
    );
    let metrics = broker.ctl_json(&["metrics"]);
    let metrics = metrics["metrics"].as_array().expect("a list of metrics");
    let expired =
        metrics.iter().find(|metric| metric["name"] == "session_expired").map(|metric| &metric["value"]);
    let expired = expired.and_then(|value| value.as_u64()).expect("a number");
    assert!(expired >= u64::from(WARM_UP + sessions), "only {expired} sessions have expired");
}

#[test]
fn shards_1() {
    leaves_nothing(1, 5000);
}

#[test]
fn shards_2_ten_thousand_sessions() {
    leaves_nothing(2, 10_000);
}

#[test]
fn shards_8() {
    leaves_nothing(8, 5000);
}
