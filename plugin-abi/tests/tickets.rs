//! Tests of tickets that set values and continue: the next hook sees those values.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome, TestPlugin};
use grapnel_plugin_abi::{
    Action, Authenticate, Authorize, Connect, Delivered, Disposition, Error, Flow, HookPoint, Host, NoConfig,
    Plugin, Publish, Reason, Refused, Verdict,
};

const SOON: Duration = Duration::from_secs(5);

/// Defers the first time, by the client's identifier or the topic, and otherwise logs what it sees.
struct Later;

struct LaterShard;

impl Plugin for Later {
    type Config = NoConfig;
    type Shard = LaterShard;

    fn load(_config: NoConfig, _host: &Host) -> Result<Later, Error> {
        Ok(Later)
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<LaterShard, Error> {
        Ok(LaterShard)
    }
}

impl LaterShard {
    fn connect(&mut self, client: &mut Connect<'_>) -> Result<Flow, Refused> {
        if client.verdict() != Verdict::Unanswered {
            client.host().info(format_args!("{:?}", client.verdict()));
            return Ok(Flow::Continue);
        }
        let mut ticket = client.defer(Duration::ZERO)?;
        ticket.set_receive_maximum(7);
        ticket.set_maximum_packet_size(1_000);
        ticket.set_topic_alias_maximum(3);
        ticket.remove_user_property(0);
        ticket.add_user_property("checked", "yes");
        ticket.set_refused(Reason::BANNED, "go away");
        ticket.proceed();
        Ok(Flow::Defer)
    }

    fn authenticate(&mut self, client: &mut Authenticate<'_>) -> Result<Flow, Refused> {
        if client.verdict() != Verdict::Unanswered {
            client.host().info(format_args!("{:?}", client.verdict()));
            return Ok(Flow::Continue);
        }
        let mut ticket = client.defer(Duration::ZERO)?;
        match client.client_id() {
            "known" => ticket.set_allowed(),
            "asked" => ticket.set_another_round(b"and then?"),
            _ => ticket.set_denied(Reason::BANNED),
        }
        ticket.proceed();
        Ok(Flow::Defer)
    }

    fn authorize(&mut self, request: &mut Authorize<'_>) -> Result<Flow, Refused> {
        if request.verdict() != Verdict::Unanswered {
            request.host().info(format_args!("{:?}", request.verdict()));
            return Ok(Flow::Continue);
        }
        let mut ticket = request.defer(Duration::ZERO)?;
        if request.topic() == "mine" {
            ticket.set_allowed()
        } else {
            ticket.set_denied(Reason::QUOTA_EXCEEDED)
        }
        ticket.proceed();
        Ok(Flow::Defer)
    }

    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Refused> {
        if message.disposition() != Disposition::Route {
            message.host().info(format_args!("{:?}", message.disposition()));
            return Ok(Flow::Continue);
        }
        let mut ticket = message.defer(Duration::ZERO)?;
        match message.topic() {
            "drop" => ticket.set_dropped(),
            "again" => {
                ticket.set_payload(b"half of an answer");
                ticket.forget_changes();
                ticket.set_retain(true);
            }
            "reject" => ticket.set_rejected(Reason::QUOTA_EXCEEDED, "too much"),
            _ => ticket.set_disconnected(Reason::QUOTA_EXCEEDED, ""),
        }
        ticket.proceed();
        Ok(Flow::Defer)
    }

    fn delivered(&mut self, message: &mut Delivered<'_>) -> Result<Flow, Refused> {
        if message.is_vetoed() {
            message.host().info(format_args!("vetoed"));
        } else {
            message.veto()?;
        }
        Ok(Flow::Continue)
    }
}

grapnel_plugin_abi::plugin!(Later {
    client.connect => LaterShard::connect,
    client.authenticate => LaterShard::authenticate,
    client.authorize => LaterShard::authorize,
    message.publish => LaterShard::publish,
    message.delivered => LaterShard::delivered,
});

fn later() -> TestPlugin<Later> {
    testing::load::<Later>("").unwrap()
}

/// The event after the ticket, and what the next hook sees.
fn answered(plugin: &mut TestPlugin<Later>, mut event: FakeEvent) -> (FakeEvent, String) {
    assert_eq!(plugin.run(&mut event), Outcome::Deferred);
    assert_eq!(event.wait(SOON), Outcome::Continue, "the others have their say");
    assert_eq!(plugin.run(&mut event), Outcome::Continue);
    let seen = plugin.logs().pop().map(|(_, line)| line).unwrap_or_default();
    (event, seen)
}

#[test]
fn a_ticket_can_refuse_a_client_and_continue_the_chain() {
    use grapnel_plugin_abi::raw::Field;
    let client = FakeEvent::new(HookPoint::ClientConnect).with_user_property("k", "v");
    let (client, seen) = answered(&mut later(), client);
    assert_eq!((client.verdict(), client.reason(), &*seen), (Verdict::Deny, Some(Reason::BANNED), "Deny"));
    assert_eq!(client.reason_text(), Some("go away"));
    let fields = [Field::RECEIVE_MAXIMUM, Field::MAXIMUM_PACKET_SIZE, Field::TOPIC_ALIAS_MAXIMUM];
    assert_eq!(fields.map(|field| client.number(field, 0)), [Some(7), Some(1_000), Some(3)]);
    assert_eq!(client.user_properties(), [("checked".into(), "yes".into())]);
}

#[test]
fn a_ticket_can_answer_a_login_and_continue_the_chain() {
    let mut plugin = later();
    let login = |name: &str| FakeEvent::authenticate("ann", b"x").with_client_id(name);
    let (event, seen) = answered(&mut plugin, login("known"));
    assert_eq!((event.verdict(), &*seen), (Verdict::Allow, "Allow"));
    let (event, seen) = answered(&mut plugin, login("stranger"));
    assert_eq!((event.verdict(), event.reason(), &*seen), (Verdict::Deny, Some(Reason::BANNED), "Deny"));
    let mut event = login("asked");
    assert_eq!((plugin.run(&mut event), event.wait(SOON)), (Outcome::Deferred, Outcome::Continue));
    assert_eq!(event.bytes(grapnel_plugin_abi::raw::Field::AUTH_DATA, 0), Some(&b"and then?"[..]));
    assert_eq!(event.number(grapnel_plugin_abi::raw::Field::VERDICT, 0), Some(3));
}

#[test]
fn a_ticket_can_answer_a_request_and_continue_the_chain() {
    let mut plugin = later();
    let (event, seen) = answered(&mut plugin, FakeEvent::authorize(Action::Publish, "mine"));
    assert_eq!((event.verdict(), &*seen), (Verdict::Allow, "Allow"));
    let (event, seen) = answered(&mut plugin, FakeEvent::authorize(Action::Publish, "other"));
    assert_eq!(
        (event.verdict(), event.reason(), &*seen),
        (Verdict::Deny, Some(Reason::QUOTA_EXCEEDED), "Deny")
    );
}

#[test]
fn a_ticket_can_refuse_a_publish_and_continue_the_chain() {
    let mut plugin = later();
    let (event, seen) = answered(&mut plugin, FakeEvent::publish("drop", b"x"));
    assert!(event.is_dropped());
    assert_eq!(seen, "Drop");
    let (event, seen) = answered(&mut plugin, FakeEvent::publish("reject", b"x"));
    assert!(event.is_rejected());
    assert_eq!((event.reason(), event.reason_text()), (Some(Reason::QUOTA_EXCEEDED), Some("too much")));
    assert_eq!(seen, "Reject");
    let (event, seen) = answered(&mut plugin, FakeEvent::publish("other", b"x"));
    assert!(event.is_disconnected());
    assert_eq!(seen, "Disconnect");
}

#[test]
fn changes_that_were_undone_are_not_applied() {
    use grapnel_plugin_abi::raw::Field;
    let mut event = FakeEvent::publish("again", b"x");
    assert_eq!(later().run(&mut event), Outcome::Deferred);
    assert_eq!(event.wait(SOON), Outcome::Continue);
    assert_eq!((event.payload(), event.number(Field::RETAIN, 0)), (&b"x"[..], Some(1)));
}

#[test]
fn a_veto_is_seen_by_the_next_hook() {
    let mut plugin = later();
    let mut message = FakeEvent::delivered("t", b"x");
    assert_eq!(plugin.run(&mut message), Outcome::Continue);
    assert_eq!(plugin.logs(), []);
    assert_eq!(plugin.run(&mut message), Outcome::Continue);
    assert_eq!(plugin.logs().pop().map(|(_, line)| line).as_deref(), Some("vetoed"));
}
