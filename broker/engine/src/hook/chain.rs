//! The dispatch loop: the only place in the project that calls plugins on the data path.

use grapnel_plugin_abi::host::EventAccess;
use grapnel_plugin_abi::raw::{Event, Flow, Ticket};

use super::filter::{Filters, LinkSet};
use super::{CallCell, Chain, FaultPolicy, HookPoint, Link, LinkIdentity, PluginHandle};

/// An accumulator with an overlay for the running link: kept on Continue and Stop, thrown away on Fault.
pub trait Fold: EventAccess {
    /// A link is about to run; `deadline_ms` is for the ticket it may take.
    fn begin(&mut self, link: &super::Link);
    /// The link's changes become the accumulator, and the event shows them to the next link. Whether the topic is another one.
    fn commit(&mut self, event: &mut Event) -> bool;
    /// The topic that filters are compared with; empty where there is none.
    fn topic(&self) -> &str;
    /// The link's changes are thrown away.
    fn rollback(&mut self);
    /// The ticket that the running link took, if any.
    fn ticket(&self) -> Option<Ticket>;
    /// The accumulator becomes a refusal.
    fn deny(&mut self);
}

/// Which links an event is for, apart from their topic filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// All.
    All,
    /// Those that have asked for deliveries (client.authorize).
    Deliver,
    /// Those of one plugin, which is told of what was there before it.
    Plugin(PluginHandle),
}

/// Which links of a chain an event may still visit.
#[derive(Clone, Copy, Debug)]
pub struct Course<'a> {
    /// Links it has been to, by identity; they are skipped.
    pub visited: &'a [LinkIdentity],
    /// Where an earlier event of the same connection waits: only links it has been to may be visited. `None` is no limit.
    pub behind: Option<&'a [LinkIdentity]>,
    /// Plugins that led to the message; they do not see it.
    pub ancestry: u64,
    /// For whom it is.
    pub audience: Audience,
}

impl Course<'_> {
    /// From the first link to the last.
    pub const WHOLE: Course<'static> =
        Course { visited: &[], behind: None, ancestry: 0, audience: Audience::All };

    /// From the first link to the last, for a message that these plugins led to.
    pub const fn of_message(ancestry: u64) -> Course<'static> {
        Course { ancestry, ..Course::WHOLE }
    }
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

/// Every so many runs of a chain its calls are timed; the first ones always, so that a rare point has figures too.
const SAMPLE_EVERY: u64 = 64;
const SAMPLED_FIRST: u64 = 256;

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
        self.runs += 1;
        calls.set_ancestry(course.ancestry);
        if self.runs <= SAMPLED_FIRST || self.runs.is_multiple_of(SAMPLE_EVERY) {
            self.walk::<F, true>((point, calls), course, event, fold)
        } else {
            self.walk::<F, false>((point, calls), course, event, fold)
        }
    }

    #[inline]
    fn walk<F: Fold, const TIMED: bool>(
        &mut self,
        (point, calls): (HookPoint, &CallCell),
        course: Course<'_>,
        event: &mut Event,
        fold: &mut F,
    ) -> Exit {
        let mut eligible = self.eligible(&course, fold);
        for (place, (link, stats)) in self.links.iter().zip(self.stats.iter_mut()).enumerate() {
            if eligible.as_ref().is_some_and(|set| !set.contains(place))
                || (!course.visited.is_empty() && course.visited.contains(&link.identity))
            {
                continue;
            }
            if course.behind.is_some_and(|before| !before.contains(&link.identity)) {
                return Exit::Blocked(place);
            }
            fold.begin(link);
            stats.calls += 1;
            calls.enter(link.plugin, point);
            let began = if TIMED { calls.ticks_ns() } else { 0 };
            let flow = link.entry.call(event, fold);
            if TIMED {
                let took = calls.ticks_ns().saturating_sub(began);
                stats.latency.record(took);
                calls.timed(link.plugin, point, took);
            }
            calls.leave();
            match (flow, fold.ticket()) {
                (Flow::CONTINUE, None) => {
                    if fold.commit(event) && self.filters.is_some() {
                        eligible =
                            eligible_among(&self.links, self.filters.as_deref(), &course, fold.topic());
                    }
                }
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
                    super::breaker::count(link, stats, calls);
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

    /// The links an event is for; `None` is all of them, which is what most are.
    #[inline]
    fn eligible<F: Fold>(&self, course: &Course<'_>, fold: &F) -> Option<LinkSet> {
        if self.filters.is_none() && course.ancestry == 0 && course.audience == Audience::All {
            return None;
        }
        eligible_among(&self.links, self.filters.as_deref(), course, fold.topic())
    }
}

fn eligible_among(
    links: &[Link],
    filters: Option<&Filters>,
    course: &Course<'_>,
    topic: &str,
) -> Option<LinkSet> {
    let mut set = match filters {
        Some(filters) => filters.matching(topic),
        None => {
            let mut all = LinkSet::NONE;
            (0..links.len()).for_each(|place| all.insert(place));
            all
        }
    };
    if course.ancestry == 0 && course.audience == Audience::All {
        return Some(set);
    }
    for (place, link) in links.iter().enumerate() {
        let welcome = match course.audience {
            Audience::All => true,
            Audience::Deliver => link.deliver,
            Audience::Plugin(plugin) => link.plugin == plugin,
        };
        if !welcome || course.ancestry & link.ancestry_bit() != 0 {
            set.remove(place);
        }
    }
    Some(set)
}
