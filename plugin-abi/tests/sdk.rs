//! Tests of a plugin as an author writes it, without a broker: every kind of hook, every answer,
//! and failures.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};
use grapnel_plugin_abi::{
    Action, Authenticate, Authorize, Connect, Delivered, Error, Flow, HookPoint, Host, Level, Outgoing,
    Plugin, Publish, Reason, Refused, Subscribe, Verdict,
};

const SOON: Duration = Duration::from_secs(5);

#[derive(serde::Deserialize)]
struct Config {
    prefix: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(serde::Deserialize)]
struct Rule {
    from: String,
}

#[derive(serde::Deserialize, Default, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Usual,
    PanicInLoad,
    PanicInInit,
    FailActivate,
}

struct Probe {
    config: Config,
    live: AtomicU32,
}

struct ProbeShard {
    probe: Arc<Probe>,
    shard: u32,
    seen: u64,
}

impl Plugin for Probe {
    type Config = Config;
    type Shard = ProbeShard;

    fn load(config: Config, host: &Host) -> Result<Probe, Error> {
        host.info(format_args!("on {} shards", host.shards()));
        assert!(config.mode != Mode::PanicInLoad, "as configured");
        if config.prefix.is_empty() {
            return Err(Error::new("the prefix is empty"));
        }
        Ok(Probe { config, live: AtomicU32::new(0) })
    }

    fn init_shard(self: &Arc<Self>, shard: u32) -> Result<ProbeShard, Error> {
        assert!(self.config.mode != Mode::PanicInInit, "on shard {shard}");
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(ProbeShard { probe: Arc::clone(self), shard, seen: 0 })
    }

    fn activate(self: &Arc<Self>) -> Result<(), Error> {
        if self.config.mode == Mode::FailActivate {
            std::fs::read("/does/not/exist")?;
        }
        Ok(())
    }
}

impl ProbeShard {
    fn connect(&mut self, client: &mut Connect<'_>) -> Result<Flow, Refused> {
        if client.client_id() == "banned" {
            client.refuse(Reason::BANNED, "go away")?;
            return Ok(Flow::Stop);
        }
        client.set_keep_alive_s(client.keep_alive_s() + 1)?;
        Ok(Flow::Continue)
    }

    fn authenticate(&mut self, client: &mut Authenticate<'_>) -> Result<Flow, Refused> {
        let right = client.password() == Some(b"right");
        match client.username() {
            None => Ok(Flow::Continue),
            Some("later") => {
                let mut ticket = client.defer(Duration::from_secs(1))?;
                std::thread::spawn(move || {
                    ticket.set_superuser(true);
                    if right { ticket.allow() } else { ticket.deny(Reason::BAD_USERNAME_OR_PASSWORD) }
                });
                Ok(Flow::Defer)
            }
            Some("lost") => {
                drop(client.defer(Duration::ZERO)?);
                Ok(Flow::Defer)
            }
            Some(_) => {
                if right {
                    client.allow()?
                } else {
                    client.deny(Reason::BAD_USERNAME_OR_PASSWORD)?
                }
                Ok(Flow::Stop)
            }
        }
    }

    fn authorize(&mut self, request: &mut Authorize<'_>) -> Result<(), Refused> {
        match request.action() {
            Action::Publish if request.topic().starts_with("$SYS") => request.deny(Reason::NOT_AUTHORIZED),
            Action::Publish => request.allow(),
            _ => Ok(()),
        }
    }

    fn subscribe(&mut self, request: &mut Subscribe<'_>) -> Result<(), Refused> {
        for filter in request.filters().collect::<Vec<_>>() {
            if filter.filter == "#" {
                request.refuse(filter.index, Reason::NOT_AUTHORIZED)?;
            } else if filter.qos() == 2 {
                request.rewrite(filter.index, &format!("{}{}", self.probe.config.prefix, filter.filter))?;
                request.set_options(filter.index, filter.options & !3)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self, message: &mut Publish<'_>) -> Result<Flow, Error> {
        self.seen += 1;
        let before = message.topic();
        match before {
            "reject" => message.reject(Reason::QUOTA_EXCEEDED, "too much")?,
            "drop" => message.drop_message()?,
            "half" => {
                message.set_payload(b"half")?;
                return Err(Error::new("after half of the work"));
            }
            "panic" => {
                message.set_payload(b"half")?;
                panic!("seen {} on shard {}", self.seen, self.shard);
            }
            "half, then lost" => {
                message.set_payload(b"half")?;
                message.add_message(&Outgoing::new("half", "half"))?;
                drop(message.defer(Duration::ZERO)?);
                return Ok(Flow::Defer);
            }
            "wild" => message.set_topic("a/+")?,
            "later" => {
                let mut ticket = message.defer(Duration::ZERO)?;
                std::thread::spawn(move || {
                    ticket.add_user_property("when", "later");
                    ticket.set_topic("moved");
                    ticket.proceed();
                });
                return Ok(Flow::Defer);
            }
            _ => {
                message.set_topic(&format!("{}{before}", self.probe.config.prefix))?;
                message.remove_user_property(0)?;
                message.add_user_property("was", before)?;
                // A value read before the change stays unchanged; a new read returns the new value.
                assert_eq!(message.topic(), format!("{}{before}", self.probe.config.prefix));
            }
        }
        Ok(Flow::Continue)
    }

    fn count(&mut self, message: &mut Publish<'_>) -> Flow {
        message.host().debug(format_args!("{} on shard {}", self.seen, message.shard()));
        Flow::Stop
    }

    fn delivered(&mut self, message: &mut Delivered<'_>) -> Result<(), Refused> {
        if message.from() == Some(message.client_id()) { message.veto() } else { Ok(()) }
    }
}

impl Drop for ProbeShard {
    fn drop(&mut self) {
        self.probe.live.fetch_sub(1, Ordering::Relaxed);
    }
}

grapnel_plugin_abi::plugin!(Probe {
    client.connect => ProbeShard::connect,
    client.authenticate => ProbeShard::authenticate,
    client.authorize => ProbeShard::authorize,
    client.subscribe => ProbeShard::subscribe,
    message.publish(priority = -1, name = "counter") => ProbeShard::count,
    message.publish(deadline_ms = 250) => ProbeShard::publish,
    message.delivered => ProbeShard::delivered,
});

fn probe() -> testing::TestPlugin<Probe> {
    testing::load::<Probe>(r#"{"prefix": "p/"}"#).unwrap()
}

fn refusal(config: &str) -> String {
    testing::load::<Probe>(config).expect_err("must not load")
}

#[test]
fn hooks_run_by_priority_and_see_earlier_changes() {
    let mut plugin = probe();
    let mut message =
        FakeEvent::publish("a", b"x").with_user_property("gone", "1").with_user_property("stays", "2");
    assert_eq!(plugin.run(&mut message), Outcome::Stop, "the counter comes last and stops");
    assert_eq!(message.topic(), "p/a");
    let pairs = [("stays".into(), "2".into()), ("was".into(), "a".into())];
    assert_eq!(message.user_properties(), pairs);
    assert_eq!(plugin.logs()[1], (Level::Debug, "1 on shard 0".into()));
}

#[test]
fn each_shard_has_its_own_instance() {
    let mut plugin = testing::load_on::<Probe>(2, r#"{"prefix": "p/"}"#).unwrap();
    plugin.run_on(0, &mut FakeEvent::publish("a", b"").with_user_property("k", "v"));
    plugin.run_on(0, &mut FakeEvent::publish("a", b"").with_user_property("k", "v"));
    plugin.run_on(1, &mut FakeEvent::publish("a", b"").with_user_property("k", "v"));
    let lines: Vec<String> = plugin.logs().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["on 2 shards", "1 on shard 0", "2 on shard 0", "1 on shard 1"]);
}

#[test]
fn a_fault_undoes_the_changes_of_its_hook_and_is_logged() {
    let mut plugin = probe();
    for (topic, log) in [
        ("half", "the hook at message.publish failed: after half of the work (fault 1)"),
        ("panic", "the hook at message.publish panicked: seen 2 on shard 0 (fault 2)"),
    ] {
        let mut message = FakeEvent::publish(topic, b"whole");
        assert_eq!(plugin.run(&mut message), Outcome::Fault);
        assert_eq!(message.payload(), b"whole");
        assert_eq!(plugin.logs().pop(), Some((Level::Error, log.to_owned())));
    }
    let mut message = FakeEvent::publish("wild", b"");
    assert_eq!(plugin.run(&mut message), Outcome::Fault, "a topic name with a wildcard is refused");
    assert_eq!(plugin.logs().len(), 3, "the third fault is not logged, the fourth will be");
}

#[test]
fn a_publish_can_be_rejected_or_dropped() {
    let mut plugin = probe();
    let mut message = FakeEvent::publish("reject", b"");
    plugin.run(&mut message);
    assert!(message.is_rejected());
    assert_eq!((message.reason(), message.reason_text()), (Some(Reason::QUOTA_EXCEEDED), Some("too much")));
    let mut message = FakeEvent::publish("drop", b"");
    plugin.run(&mut message);
    assert!(message.is_dropped());
}

#[test]
fn a_publish_is_answered_later_from_another_thread() {
    let mut plugin = probe();
    let mut message = FakeEvent::publish("later", b"x");
    assert_eq!(plugin.run(&mut message), Outcome::Deferred);
    // After it comes the hook that counts, and ends the chain.
    assert_eq!(message.wait(SOON), Outcome::Stop);
    assert_eq!(message.topic(), "moved");
    assert_eq!(message.user_properties(), [("when".into(), "later".into())]);
}

#[test]
fn a_dropped_ticket_undoes_the_changes_of_its_hook() {
    let mut plugin = probe();
    let mut message = FakeEvent::publish("half, then lost", b"whole");
    assert_eq!(plugin.run(&mut message), Outcome::Deferred);
    assert_eq!((message.payload(), message.added().len()), (&b"half"[..], 1));
    assert_eq!(message.wait(SOON), Outcome::Fault);
    assert_eq!((message.payload(), message.added().len()), (&b"whole"[..], 0));
}

#[test]
fn a_login_is_answered_at_once_later_or_not_at_all() {
    let mut plugin = probe();
    let mut run = |user: &str, password: &[u8]| {
        let mut event = FakeEvent::authenticate(user, password);
        let outcome = plugin.run(&mut event);
        (outcome, event)
    };
    let (outcome, event) = run("ann", b"right");
    assert_eq!((outcome, event.verdict()), (Outcome::Stop, Verdict::Allow));
    let (outcome, event) = run("ann", b"wrong");
    assert_eq!((outcome, event.verdict()), (Outcome::Stop, Verdict::Deny));
    assert_eq!(event.reason(), Some(Reason::BAD_USERNAME_OR_PASSWORD));
    let (outcome, mut event) = run("later", b"right");
    assert_eq!((outcome, event.verdict()), (Outcome::Deferred, Verdict::Unanswered));
    assert_eq!((event.wait(SOON), event.verdict()), (Outcome::Stop, Verdict::Allow));
    assert!(event.is_superuser());
    let (outcome, mut event) = run("lost", b"right");
    assert_eq!(outcome, Outcome::Deferred);
    assert_eq!(event.wait(SOON), Outcome::Fault, "a ticket that is dropped is a fault");
    let mut anonymous = FakeEvent::new(HookPoint::ClientAuthenticate);
    assert_eq!((plugin.run(&mut anonymous), anonymous.verdict()), (Outcome::Continue, Verdict::Unanswered));
}

#[test]
fn a_client_is_refused_or_changed_at_connect() {
    let mut plugin = probe();
    let mut banned = FakeEvent::new(HookPoint::ClientConnect).with_client_id("banned");
    assert_eq!((plugin.run(&mut banned), banned.verdict()), (Outcome::Stop, Verdict::Deny));
    assert_eq!(banned.reason(), Some(Reason::BANNED));
    let keep_alive = grapnel_plugin_abi::raw::Field::KEEP_ALIVE_S;
    let mut client = FakeEvent::new(HookPoint::ClientConnect).with_number(keep_alive, 60);
    assert_eq!(plugin.run(&mut client), Outcome::Continue);
    assert_eq!(client.number(keep_alive, 0), Some(61));
}

#[test]
fn authorisation_depends_on_action_and_topic() {
    let mut plugin = probe();
    for (action, topic, verdict) in [
        (Action::Publish, "$SYS/x", Verdict::Deny),
        (Action::Publish, "a", Verdict::Allow),
        (Action::Subscribe, "a", Verdict::Unanswered),
    ] {
        let mut request = FakeEvent::authorize(action, topic);
        plugin.run(&mut request);
        assert_eq!(request.verdict(), verdict, "{action:?} {topic}");
    }
}

#[test]
fn filters_are_rewritten_and_refused_one_by_one() {
    let mut plugin = probe();
    let mut request = FakeEvent::subscribe(&[("a", 0), ("#", 1), ("b", 2)]);
    assert_eq!(plugin.run(&mut request), Outcome::Continue);
    let filters: Vec<_> = (0..3).map(|index| request.filter(index).unwrap()).collect();
    assert_eq!(filters, ["a", "#", "p/b"]);
    assert_eq!(request.filter_verdict(1), Verdict::Deny);
    assert_eq!(request.filter_verdict(2), Verdict::Unanswered);
}

#[test]
fn a_delivery_is_vetoed() {
    let mut plugin = probe();
    let from = grapnel_plugin_abi::raw::Field::FROM;
    let mut own = FakeEvent::delivered("a", b"").with_client_id("me").with_text(from, "me");
    plugin.run(&mut own);
    assert!(own.is_dropped());
    let mut other = FakeEvent::delivered("a", b"").with_client_id("me").with_text(from, "you");
    plugin.run(&mut other);
    assert!(!other.is_dropped());
}

#[test]
fn configuration_errors_name_the_key_and_not_the_value() {
    let logged = [
        (r#"{"prefix": "p", "perfix": 1}"#, "the key perfix is not known; did you mean prefix?"),
        (
            r#"{"prefix": "p", "colour": 1}"#,
            "the key colour is not known; the keys are prefix, rules, mode, limit",
        ),
        (r#"{"prefix": "p", "rule": []}"#, "the key rule is not known; did you mean rules?"),
        (r#"{"prefix": "p", "message_limit": 1}"#, "the key message_limit is not known; did you mean limit?"),
        (r#"{}"#, "the key prefix is missing"),
        (r#"{"prefix": 7}"#, "prefix: this is a whole number; it must be a string"),
        (r#"{"prefix": "p", "limit": "s3cret"}"#, "limit: this is a text; it must be u32"),
        (
            r#"{"prefix": "p", "limit": -1}"#,
            "limit: this value (a whole number) cannot be taken; it must be u32",
        ),
        (
            r#"{"prefix": "p", "rules": [{"from": "a"}, {"form": "b"}]}"#,
            "rules[1]: the key form is not known; did you mean from?",
        ),
        (
            r#"{"prefix": "p", "mode": "s3cret"}"#,
            "mode: this word is not known; it must be one of usual, panic_in_load, panic_in_init, fail_activate",
        ),
        (r#"["s3cret"]"#, "the configuration is not a JSON object"),
        ("{s3cret", "the configuration is not JSON (line 1, column 2)"),
    ];
    for (config, text) in logged {
        assert_eq!(refusal(config), text, "{config}");
    }
}

#[test]
fn a_complete_configuration_is_accepted() {
    let config = r#"{"prefix": "p", "rules": [{"from": "a"}], "mode": "usual", "limit": null}"#;
    let plugin = testing::load::<Probe>(config).unwrap();
    drop(plugin);
    let parsed: Config = serde_json::from_str(config).unwrap();
    assert_eq!((parsed.rules[0].from.as_str(), parsed.limit), ("a", None));
}

#[test]
fn a_plugin_that_fails_in_any_function_has_an_error_text() {
    assert_eq!(refusal(r#"{"prefix": ""}"#), "the prefix is empty");
    let with = |mode: &str| refusal(&format!(r#"{{"prefix": "p", "mode": "{mode}"}}"#));
    assert_eq!(with("panic_in_load"), "load panicked: as configured");
    assert_eq!(with("panic_in_init"), "init_shard panicked: on shard 0");
    let missing = std::fs::read("/does/not/exist").expect_err("it does not exist");
    assert_eq!(with("fail_activate"), missing.to_string());
}
