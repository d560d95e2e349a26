//! The dispatch loop: the only place in the project that calls plugins on the data path.

use grapnel_plugin_abi::host::EventAccess;
use grapnel_plugin_abi::raw::{Event, Flow, Ticket};

use super::{CallCell, Chain, FaultPolicy, HookPoint, LinkIdentity};

/// An accumulator with an overlay for the running link: kept on Continue and Stop, thrown away on Fault.
pub trait Fold: EventAccess {
    /// A link is about to run; `deadline_ms` is for the ticket it may take.
    fn begin(&mut self, link: &super::Link);
    /// The link's changes become the accumulator, and the event shows them to the next link.
    fn commit(&mut self, event: &mut Event);
    /// The link's changes are thrown away.
    fn rollback(&mut self);
    /// The ticket that the running link took, if any.
    fn ticket(&self) -> Option<Ticket>;
    /// The accumulator becomes a refusal.
    fn deny(&mut self);
}

/// Which links of a chain an event may still visit.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// Links it has been to, by identity; they are skipped.
    pub visited: &'a [LinkIdentity],
    /// Where an earlier event of the same connection waits: only links it has been to may be visited. `None` is no limit.
    pub behind: Option<&'a [LinkIdentity]>,
}

impl Course<'_> {
    /// From the first link to the last.
    pub const WHOLE: Course<'static> = Course { visited: &[], behind: None };
}

/// How a walk along a chain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// All links have run, or one stopped the chain: the accumulator is the chain's answer.
    Done,
    /// The link at this place answers later through the ticket.
    Deferred(usize, Ticket),
    /// The link at this place must wait until the event in front has been there.
    Blocked(usize),
}

/// Whether the links before the walk's end count as visited: all of them, in every case.
pub fn visited_until(chain: &Chain, end: usize) -> impl Iterator<Item = LinkIdentity> {
    chain.links[..end.min(chain.links.len())].iter().map(|link| link.identity)
}

impl Chain {
    /// Runs the links that the course leaves, in order; `calls` says meanwhile whose turn it is.
    #[inline]
    pub fn run<F: Fold>(
        &mut self,
        (point, calls): (HookPoint, &CallCell),
        course: Course<'_>,
        event: &mut Event,
        fold: &mut F,
    ) -> Exit {
        for (place, (link, stats)) in self.links.iter().zip(self.stats.iter_mut()).enumerate() {
            if course.visited.contains(&link.identity) {
                continue;
            }
            if course.behind.is_some_and(|before| !before.contains(&link.identity)) {
                return Exit::Blocked(place);
            }
            fold.begin(link);
            stats.calls += 1;
            calls.enter(link.plugin, point);
            let flow = link.entry.call(event, fold);
            calls.leave();
            match (flow, fold.ticket()) {
                (Flow::CONTINUE, None) => fold.commit(event),
                (Flow::STOP, None) => {
                    stats.stops += 1;
                    fold.commit(event);
                    return Exit::Done;
                }
                (Flow::DEFER, Some(ticket)) => {
                    stats.deferrals += 1;
                    fold.commit(event);
                    return Exit::Deferred(place, ticket);
                }
                // A fault, an unknown flow, a Defer without a ticket, a ticket without a Defer.
                _ => {
                    stats.faults += 1;
                    fold.rollback();
                    if link.policy == FaultPolicy::Deny {
                        fold.deny();
                        return Exit::Done;
                    }
                }
            }
        }
        Exit::Done
    }
}
