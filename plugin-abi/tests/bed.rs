//! Tests of the test bed: it calls hooks as the broker does, by topic filter, and after a deferred
//! answer.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};
use grapnel_plugin_abi::{
    Action, Authorize, Error, Flow, Host, NoConfig, Outgoing, Plugin, Publish, PublishTicket, Reason,
    Refused, Verdict,
};

const SOON: Duration = Duration::from_secs(20);

/// Adds a user property with the name of each hook that has seen a message.
struct Seen;

#[derive(Default)]
struct SeenShard {
    ticket: Option<PublishTicket>,
}

impl Plugin for Seen {
    type Config = NoConfig;
    type Shard = SeenShard;

    fn load(_config: NoConfig, _host: &Host) -> Result<Seen, Error> {
        Ok(Seen)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<SeenShard, Error> {
        Ok(SeenShard::default())
    }
}

impl SeenShard {
    fn moves(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        message.add_user_property("seen", "moves")?;
        if message.topic() == "from" { message.set_topic("a/b") } else { Ok(()) }
    }

    /// Ignores a refused value or returns it as an error, according to the payload.
    fn ignores(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        message.add_user_property("seen", "ignores")?;
        let refused = match message.payload() {
            b"added" => message.add_message(&Outgoing::new("a/+", "")),
            b"long" => message.set_topic(&"a".repeat(65_536)),
            b"qos" => message.set_qos(3),
            _ => message.set_topic("a/+"),
        };
        assert!(refused.is_err());
        match message.payload() {
            b"mended" => message.set_topic("mended").map(|()| Flow::Continue),
            b"other" => message.set_payload(b"x").map(|()| Flow::Continue),
            b"defer" => message.defer(Duration::ZERO).map(|ticket| {
                self.ticket = Some(ticket);
                Flow::Defer
            }),
            b"stop" => Ok(Flow::Stop),
            _ => Ok(Flow::Continue),
        }
    }

    fn narrow(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        message.add_user_property("seen", "narrow")
    }

    /// Answers at once, as the payload says.
    fn defers(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        let mut ticket = message.defer(Duration::ZERO)?;
        ticket.add_user_property("seen", "deferred");
        match message.payload() {
            b"stop" => ticket.stop(),
            b"drop" => drop(ticket),
            b"keep" => self.ticket = Some(ticket),
            _ => ticket.proceed(),
        }
        Ok(Flow::Defer)
    }

    fn last(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        message.add_user_property("seen", "last")
    }

    fn requested(&mut self, request: &mut Authorize<'_>) -> Result<(), Refused> {
        request.deny(Reason::NOT_AUTHORIZED)
    }

    fn requests_always(&mut self, request: &mut Authorize<'_>) -> Result<(), Refused> {
        if request.topic() == "always" { request.allow() } else { Ok(()) }
    }
}

grapnel_plugin_abi::plugin!(Seen {
    message.publish(priority = 9) => SeenShard::moves,
    message.publish(priority = 8, topics = &["a/+", "c"]) => SeenShard::narrow,
    message.publish(priority = 7, topics = &["wait/#"]) => SeenShard::defers,
    message.publish(priority = 6, topics = &["wait/twice"], name = "again") => SeenShard::defers,
    message.publish(priority = 5) => SeenShard::last,
    message.publish(priority = 4, topics = &["ignored"]) => SeenShard::ignores,
    client.authorize => SeenShard::requested,
    client.authorize(priority = -1, deliver = true) => SeenShard::requests_always,
});

fn seen(event: &FakeEvent) -> Vec<String> {
    event.user_properties().into_iter().map(|(_, value)| value).collect()
}

#[test]
fn a_hook_is_called_for_its_topics_alone() {
    let mut plugin = testing::load::<Seen>("").unwrap();
    for (topic, expected) in [
        ("b", &["moves", "last"][..]),
        ("a/b/c", &["moves", "last"]),
        ("a/b", &["moves", "narrow", "last"]),
        ("c", &["moves", "narrow", "last"]),
        // The topic at the time of each hook's turn.
        ("from", &["moves", "narrow", "last"]),
    ] {
        let mut event = FakeEvent::publish(topic, b"");
        assert_eq!(plugin.run(&mut event), Outcome::Continue);
        assert_eq!(seen(&event), expected, "{topic}");
    }
}

#[test]
fn later_hooks_are_called_after_the_answer_of_a_deferred_one() {
    let mut plugin = testing::load::<Seen>("").unwrap();
    for (topic, payload, outcome, expected) in [
        ("wait/a", "", Outcome::Continue, &["moves", "deferred", "last"][..]),
        ("wait/twice", "", Outcome::Continue, &["moves", "deferred", "deferred", "last"]),
        ("wait/a", "stop", Outcome::Stop, &["moves", "deferred"]),
        ("wait/a", "drop", Outcome::Fault, &["moves"]),
    ] {
        let mut event = FakeEvent::publish(topic, payload.as_bytes());
        assert_eq!(plugin.run(&mut event), Outcome::Deferred);
        assert_eq!(seen(&event), ["moves"], "no hook is called before the answer");
        assert_eq!(event.wait(SOON), outcome, "{topic} {payload}");
        assert_eq!(seen(&event), expected, "{topic} {payload}");
    }
}

/// As in the broker: an invalid value for a message makes the call a fault, also if the hook
/// ignores the status. Any other refused value leaves the field unchanged.
#[test]
fn a_setter_that_is_refused_makes_the_call_a_fault() {
    let mut plugin = testing::load::<Seen>("").unwrap();
    for (payload, outcome, topic) in [
        ("", Outcome::Fault, "ignored"),
        ("long", Outcome::Fault, "ignored"),
        ("stop", Outcome::Fault, "ignored"),
        ("defer", Outcome::Fault, "ignored"),
        ("added", Outcome::Fault, "ignored"),
        ("other", Outcome::Fault, "ignored"),
        ("mended", Outcome::Continue, "mended"),
        ("qos", Outcome::Continue, "ignored"),
    ] {
        let mut event = FakeEvent::publish("ignored", payload.as_bytes());
        assert_eq!(plugin.run(&mut event), outcome, "{payload}");
        let all = ["moves", "last", "ignores"];
        let expected = if outcome == Outcome::Fault { &all[..2] } else { &all[..] };
        assert_eq!(seen(&event), expected, "{payload}");
        assert_eq!((event.topic(), event.payload()), (topic, payload.as_bytes()));
        // It applies to that call alone.
        assert_eq!(plugin.run(&mut FakeEvent::publish("b", b"")), Outcome::Continue);
    }
}

/// An event may still wait when its plugin is unloaded: the plugin is not called then.
#[test]
fn no_hook_of_an_unloaded_plugin_is_called() {
    let mut plugin = testing::load::<Seen>("").unwrap();
    let mut event = FakeEvent::publish("wait/a", b"");
    assert_eq!(plugin.run(&mut event), Outcome::Deferred);
    let mut message = FakeEvent::publish("wait/a", b"keep");
    assert_eq!(plugin.run(&mut message), Outcome::Deferred);
    assert_eq!(message.wait(Duration::ZERO), Outcome::Deferred);
    drop(plugin);
    assert_eq!(event.wait(SOON), Outcome::Continue);
    assert_eq!(seen(&event), ["moves", "deferred"]);
    assert_eq!(message.wait(SOON), Outcome::Fault, "its ticket went with the instance");
}

#[test]
fn deliveries_are_authorized_by_hooks_that_request_them() {
    let mut plugin = testing::load::<Seen>("").unwrap();
    for (action, topic, expected) in [
        (Action::Publish, "a", Verdict::Deny),
        (Action::Deliver, "a", Verdict::Unanswered),
        (Action::Deliver, "always", Verdict::Allow),
    ] {
        let mut event = FakeEvent::authorize(action, topic);
        plugin.run(&mut event);
        assert_eq!(event.verdict(), expected, "{action:?} {topic}");
    }
}
