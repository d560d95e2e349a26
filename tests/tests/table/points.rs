//! The hook points of the table: what can be changed, whether a verdict may be deferred, and the
//! effect of a fault. The list is the ABI's. The points of 1.0 are listed once more from the
//! design: their guarantees must not change.

use grapnel_plugin_abi::HookPoint;
use grapnel_plugin_abi::point::Kind;

pub use grapnel_plugin_abi::FaultPolicy as Policy;

/// A hook point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    pub name: &'static str,
    /// Whether it has something that can be changed; otherwise it only notifies.
    pub folds: bool,
    pub may_defer: bool,
    pub policy: Policy,
}

/// A point as the ABI has it.
pub const fn at(point: HookPoint) -> Point {
    Point {
        name: point.name(),
        folds: matches!(point.kind(), Kind::Fold),
        may_defer: point.may_defer(),
        policy: point.fault_policy(),
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = Point> {
    HookPoint::ALL.iter().copied().map(at)
}

#[test]
fn the_guarantees_of_the_points_of_1_0_are_unchanged() {
    let point = |name, folds, may_defer, policy| Point { name, folds, may_defer, policy };
    let changed = |name, may_defer| point(name, true, may_defer, Policy::Ignore);
    let guard = |name| point(name, true, true, Policy::Deny);
    let notification = |name| point(name, false, false, Policy::Ignore);
    let promised = [
        changed("client.connect", true),
        guard("client.authenticate"),
        guard("client.authorize"),
        changed("client.connack", false),
        notification("client.connected"),
        notification("client.disconnected"),
        guard("client.subscribe"),
        changed("client.unsubscribe", true),
        notification("session.created"),
        notification("session.resumed"),
        notification("session.discarded"),
        notification("session.takenover"),
        notification("session.terminated"),
        notification("session.subscribed"),
        notification("session.unsubscribed"),
        changed("message.publish", true),
        changed("message.delivered", false),
        notification("message.acked"),
        notification("message.dropped"),
        notification("message.retained"),
        notification("packet.received"),
        notification("packet.sent"),
        notification("broker.starting"),
        notification("broker.started"),
        notification("broker.stopping"),
        notification("broker.stopped"),
    ];
    let now: Vec<Point> = all().take(promised.len()).collect();
    assert_eq!(now, promised);
}
