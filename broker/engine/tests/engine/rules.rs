//! Questions of client.authorize that are under way when the rules change: none is answered partly by those of before.

use std::cell::Cell;
use std::rc::Rc;

use grapnel_engine::hook::view::Action;
use grapnel_engine::hook::{FaultPolicy, HookPoint, Link, PluginHandle};
use grapnel_engine::packet::{QoS, SubscriptionOptions, Version};
use grapnel_engine::shard::{Command, OnBehalf, Scope, Whom, Wish};
use grapnel_plugin_abi::raw::{Field, Flow};

use crate::deferral::{Taken, allow};
use crate::hooks::{Call, complete, link, mount};
use crate::world::{Ask, ClientId, Got, World, message};

/// A client, a subscriber to everything, and three links of client.authorize. The first has rules, which forbid what begins with `b`
/// once they are strict; the second answers later what begins with `a`; the third says nothing.
struct Scene {
    world: World,
    client: ClientId,
    subscriber: ClientId,
    taken: Taken,
    strict: Rc<Cell<bool>>,
}

impl Scene {
    fn new() -> Scene {
        let mut world = World::new(1);
        let subscriber = world.connect("subscriber", &Ask::v(Version::V5));
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        let client = world.connect("c", &Ask::v(Version::V5));
        let (taken, strict) = (Taken::default(), Rc::<Cell<bool>>::default());
        let is_strict = Rc::clone(&strict);
        let rules = link(1, 20, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            let forbidden = is_strict.get() && call.topic().starts_with('b');
            call.set(Field::VERDICT, if forbidden { 2 } else { 1 }, "", "");
            if forbidden { Flow::STOP } else { Flow::CONTINUE }
        });
        let noted = taken.clone();
        let slow = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
            if !call.topic().starts_with('a') {
                return Flow::CONTINUE;
            }
            noted.note(call.topic(), call.defer().expect("a ticket"));
            Flow::DEFER
        });
        let silent = link(3, 0, FaultPolicy::Deny, |_: &mut Call<'_>| Flow::CONTINUE);
        let at = |link: Link| (HookPoint::ClientAuthorize, link);
        mount(&mut world, vec![at(rules), at(slow), at(silent)]);
        world.pass_ms(10);
        Scene { world, client, subscriber, taken, strict }
    }

    /// The rules become strict, and everything that waits is allowed by the slow link.
    fn change_rules(&mut self) {
        self.strict.set(true);
        self.world.shards[0].invalidate(Scope::All);
        let mut at = 0;
        while at < self.taken.about().len() {
            complete(&mut self.world, self.taken.ticket(at), Flow::CONTINUE, allow());
            at += 1;
        }
        self.world.pass_ms(1_500);
    }

    fn wish(&mut self, wish: Wish) {
        let whom = Whom::Client("c".into());
        let request = OnBehalf { plugin: PluginHandle(9), whom, answer: None, wish };
        self.world.shards[0].command(Command::As(Box::new(request)));
        self.world.drive();
    }
}

/// The second PUBLISH has been to the first link and waits behind the one that the second link still thinks about.
#[test]
fn a_publish_that_waits_behind_another_is_judged_by_the_new_rules_alone() {
    let mut scene = Scene::new();
    scene.world.publish(scene.client, "a", "1", QoS::AtLeastOnce, 1);
    scene.world.publish(scene.client, "b", "2", QoS::AtLeastOnce, 2);
    assert_eq!(scene.taken.about(), ["a"]);
    scene.change_rules();
    assert_eq!(scene.world.take(scene.client), [Got::Ack("PUBACK", 1, 0), Got::Ack("PUBACK", 2, 0x87)]);
    assert_eq!(scene.world.take_plain(scene.subscriber), [message("a", "1", 0)]);
}

/// The same of a subscription that a plugin asks for on behalf of the client: it does not come into force.
#[test]
fn a_subscription_on_behalf_of_a_client_is_judged_by_the_new_rules_alone() {
    let mut scene = Scene::new();
    let topic = |topic: &str| Wish::Ask {
        action: Action::Publish,
        topic: topic.into(),
        qos: QoS::AtMostOnce,
        retain: false,
    };
    let options = SubscriptionOptions::of_qos(QoS::AtMostOnce);
    scene.wish(topic("a"));
    scene.wish(Wish::Subscribe { filter: "b".into(), options, id: 0 });
    assert_eq!(scene.taken.about(), ["a"]);
    scene.change_rules();
    let (rows, _) = scene.world.shards[0].subscriptions(Some("c"), 0, 100);
    assert_eq!(rows, []);
    assert_eq!(scene.world.shards[0].counters().behalf_refused, 1);
}

/// A will is asked about anew too: its client does not come in with what only the rules of before allowed.
#[test]
fn a_will_that_waits_is_judged_by_the_new_rules_alone() {
    let mut scene = Scene::new();
    let taken = Taken::default();
    let noted = taken.clone();
    let strict = Rc::clone(&scene.strict);
    let rules = link(1, 20, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        call.set(Field::VERDICT, if strict.get() && call.topic() == "will" { 2 } else { 1 }, "", "");
        if strict.get() { Flow::STOP } else { Flow::CONTINUE }
    });
    let slow = link(2, 10, FaultPolicy::Deny, move |call: &mut Call<'_>| {
        if call.topic() != "will" {
            return Flow::CONTINUE;
        }
        noted.note(call.topic(), call.defer().expect("a ticket"));
        Flow::DEFER
    });
    mount(&mut scene.world, vec![(HookPoint::ClientAuthorize, rules), (HookPoint::ClientAuthorize, slow)]);
    scene.world.pass_ms(10);
    let ask = Ask { will: Some(("will", "gone", QoS::AtMostOnce, false)), ..Ask::v(Version::V5) };
    let (client, connack) = scene.world.try_connect("w", &ask);
    assert_eq!((connack, taken.about()), (None, vec!["will".to_owned()]));
    scene.strict.set(true);
    scene.world.shards[0].invalidate(Scope::All);
    complete(&mut scene.world, taken.ticket(0), Flow::CONTINUE, allow());
    assert!(
        matches!(scene.world.take(client)[..], [Got::ConnAck { code: 0x87, .. }]),
        "what the first link said counts no more"
    );
}
