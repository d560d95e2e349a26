//! The dispatch loop: the only place in the project that calls plugins on the data path.

use grapnel_plugin_abi::host::{EventAccess, Visit, visit};
use grapnel_plugin_abi::raw::{Event, Flow, Ticket};

use super::filter::{Filters, LinkSet};
use super::{CallCell, Chain, FaultPolicy, HookPoint, Link, LinkCounts, LinkIdentity, PluginHandle};

/// An accumulator with an overlay for the running link: kept on Continue and Stop, thrown away on Fault, and kept until further
/// notice on Defer. Between two links there is no overlay and no ticket. `'l` is how long the links live.
pub trait Fold<'l>: EventAccess {
    /// A link is about to run: its deadline is for the ticket it may take.
    fn begin(&mut self, link: &'l Link);
    /// The link's changes become the accumulator, and the event shows them to the next link. Whether the topic is another one.
    fn commit(&mut self, event: &mut Event) -> bool;
    /// The topic that filters are compared with; empty where there is none.
    fn topic(&self) -> &str;
    /// The link answers later. Its changes become the accumulator too, and where there are any, the ticket keeps what was before
    /// them: they are gone if it ends by a fault. Nothing comes where no ticket is given.
    fn park(&mut self) {}
    /// The link's changes are thrown away.
    fn rollback(&mut self);
    /// The ticket that the running link took, if any.
    fn ticket(&self) -> Option<Ticket>;
    /// Whether no ticket was left for the running link.
    fn finds_no_room(&self) -> bool {
        false
    }
    /// Whether the running link has set what cannot be, and left it at that: nothing of what it did counts.
    fn is_refused(&self) -> bool {
        false
    }
    /// That is being counted as its fault.
    fn note_refused(&mut self) {}
    /// The running link has given no answer. Where its policy is to deny, the accumulator becomes a refusal.
    fn fail(&mut self, policy: FaultPolicy);
}

/// Which links an event is for, apart from their topic filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkFilter {
    /// All.
    All,
    /// Those that have asked for deliveries (client.authorize).
    Deliver,
    /// Those of one plugin, which is told of what was there before it.
    Plugin(PluginHandle),
}

/// Which links of a chain an event may still visit.
#[derive(Clone, Copy, Debug)]
pub struct DispatchScope<'a> {
    /// Links it has been to, by identity; they are skipped.
    pub visited: &'a [LinkIdentity],
    /// Where an earlier event of the same connection waits: only links it has been to may be visited. `None` is no limit.
    pub ordering_limit: Option<&'a [LinkIdentity]>,
    /// Plugins that led to the message; they do not see it.
    pub ancestry: u64,
    /// For whom it is.
    pub filter: LinkFilter,
}

impl DispatchScope<'_> {
    /// From the first link to the last.
    pub const WHOLE: DispatchScope<'static> =
        DispatchScope { visited: &[], ordering_limit: None, ancestry: 0, filter: LinkFilter::All };

    /// Whether no link is left out.
    #[inline]
    fn is_whole(&self) -> bool {
        self.visited.is_empty()
            && self.ordering_limit.is_none()
            && self.ancestry == 0
            && self.filter == LinkFilter::All
    }

    /// From the first link to the last, for a message that these plugins led to.
    pub const fn of_message(ancestry: u64) -> DispatchScope<'static> {
        DispatchScope { ancestry, ..DispatchScope::WHOLE }
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
    pub fn run<'l, F: Fold<'l>>(
        &'l mut self,
        (point, calls): (HookPoint, &CallCell),
        scope: DispatchScope<'_>,
        event: &mut Event,
        fold: &mut F,
    ) -> Exit {
        self.runs += 1;
        let timed = self.runs <= SAMPLED_FIRST || self.runs.is_multiple_of(SAMPLE_EVERY);
        let straight = self.straight && !timed && scope.is_whole();
        calls.enter(point, scope.ancestry);
        let exit = visit(event, fold, |visit| {
            if straight {
                self.go_straight(calls, visit)
            } else {
                self.walk((point, calls), scope, timed, visit)
            }
        });
        calls.leave();
        exit
    }

    /// The walk of an event that is for all links. What it costs is what a hook costs: a few instructions a link, none of them to
    /// count the call, which follows from the runs and from where they ended.
    #[inline]
    fn go_straight<'l, F: Fold<'l>>(&'l mut self, calls: &CallCell, mut visit: Visit<'_, '_, F>) -> Exit {
        let Chain { links, counts, straight_runs, .. } = self;
        *straight_runs += 1;
        for link in links.iter() {
            visit.access().begin(link);
            calls.turn_of(link.identity);
            let flow = visit.call(&link.entry);
            if visit.goes_on(flow) {
                continue;
            }
            if let Some(exit) = settle_straight((links, link), counts, flow, calls, visit.lend()) {
                return exit;
            }
        }
        Exit::Done
    }

    /// The walk of an event that some links are not for, or whose calls are timed, or whose hooks have arguments.
    fn walk<'l, F: Fold<'l>>(
        &'l mut self,
        (point, calls): (HookPoint, &CallCell),
        scope: DispatchScope<'_>,
        timed: bool,
        mut visit: Visit<'_, '_, F>,
    ) -> Exit {
        let Chain { links, counts, filters, .. } = self;
        let filters = filters.as_deref();
        let everyone = filters.is_none() && scope.ancestry == 0 && scope.filter == LinkFilter::All;
        let eligible = if everyone {
            LinkSet::first(links.len())
        } else {
            eligible_among(links, filters, &scope, visit.access().topic())
        };
        let mut table = eligible.places();
        while let Some(place) = table.next() {
            let (Some(link), Some(count)) = (links.get(place), counts.get_mut(place)) else { break };
            if !scope.visited.is_empty() && scope.visited.contains(&link.identity) {
                continue;
            }
            if scope.ordering_limit.is_some_and(|before| !before.contains(&link.identity)) {
                return Exit::Blocked(place);
            }
            visit.access().begin(link);
            count.stats.calls += 1;
            calls.turn_of(link.identity);
            let flow = if timed {
                call_timed(link, count, (point, calls), visit.lend())
            } else {
                visit.call_with_args(&link.entry)
            };
            if visit.goes_on(flow) {
                continue;
            }
            match settle((place, link), count, flow, calls, visit.lend()) {
                Settled::End(exit) => return exit,
                Settled::Moved if filters.is_some() => {
                    table.go_on_in(eligible_among(links, filters, &scope, visit.access().topic()), place);
                }
                Settled::Moved | Settled::GoOn => {}
            }
        }
        Exit::Done
    }
}

/// Not inlined, so that the loop keeps nothing for it.
#[inline(never)]
fn settle_straight<'l, F: Fold<'l>>(
    (links, link): (&[Link], &Link),
    counts: &mut [LinkCounts],
    flow: Flow,
    calls: &CallCell,
    visit: Visit<'_, '_, F>,
) -> Option<Exit> {
    let place = (std::ptr::from_ref(link).addr() - links.as_ptr().addr()) / size_of::<Link>();
    let count = counts.get_mut(place)?;
    match settle((place, link), count, flow, calls, visit) {
        Settled::End(exit) => {
            count.straight_ends += 1;
            Some(exit)
        }
        Settled::GoOn | Settled::Moved => None,
    }
}

/// Not inlined, so that calls that are not timed do not pay for it.
#[inline(never)]
fn call_timed<'l, F: Fold<'l>>(
    link: &Link,
    count: &mut LinkCounts,
    (point, calls): (HookPoint, &CallCell),
    mut visit: Visit<'_, '_, F>,
) -> Flow {
    let began = calls.ticks_ns();
    let flow = visit.call_with_args(&link.entry);
    let took = calls.ticks_ns().saturating_sub(began);
    count.stats.latency.record(took);
    calls.timed(link.identity, point, took);
    flow
}

/// What a link that did more than let the event go on has led to.
enum Settled {
    /// The next link.
    GoOn,
    /// The next link, with another topic.
    Moved,
    /// None.
    End(Exit),
}

fn settle<'l, F: Fold<'l>>(
    (place, link): (usize, &Link),
    count: &mut LinkCounts,
    flow: Flow,
    calls: &CallCell,
    mut visit: Visit<'_, '_, F>,
) -> Settled {
    visit.settled();
    let stats = &mut count.stats;
    let (fold, event) = visit.parts();
    if fold.is_refused() && matches!(flow, Flow::CONTINUE | Flow::STOP | Flow::DEFER | Flow::FAULT) {
        // Its fault, though none that trips its plugin, whether it ignores what it was answered or fails with it: a client may have
        // chosen what it was made of.
        stats.faults += 1;
        fold.note_refused();
        return undo(link, fold);
    }
    match (flow, fold.ticket()) {
        (Flow::CONTINUE, None) => {
            if fold.commit(event) {
                Settled::Moved
            } else {
                Settled::GoOn
            }
        }
        (Flow::STOP, None) => {
            stats.stops += 1;
            fold.commit(event);
            Settled::End(Exit::Done)
        }
        (Flow::DEFER, Some(ticket)) => {
            stats.deferrals += 1;
            fold.park();
            Settled::End(Exit::Deferred(place, ticket))
        }
        (Flow::DEFER | Flow::FAULT, None) if fold.finds_no_room() => {
            // All tickets are taken: that is no fault that trips its plugin, whether it answers with a Defer or with the error.
            stats.faults += 1;
            undo(link, fold)
        }
        (Flow::UNANSWERED, None) => {
            // What the plugin asks is away; the plugin is not.
            stats.faults += 1;
            undo(link, fold)
        }
        // A fault, an unknown flow, a Defer without a ticket, a ticket without a Defer.
        _ => {
            super::breaker::count(link, count, calls);
            undo(link, fold)
        }
    }
}

/// What a link did is thrown away, and its fault policy says what follows.
fn undo<'l, F: Fold<'l>>(link: &Link, fold: &mut F) -> Settled {
    fold.rollback();
    fold.fail(link.policy);
    if link.policy == FaultPolicy::Deny {
        return Settled::End(Exit::Done);
    }
    Settled::GoOn
}

fn eligible_among(
    links: &[Link],
    filters: Option<&Filters>,
    scope: &DispatchScope<'_>,
    topic: &str,
) -> LinkSet {
    let mut set = filters.map_or_else(|| LinkSet::first(links.len()), |filters| filters.matching(topic));
    if scope.ancestry == 0 && scope.filter == LinkFilter::All {
        return set;
    }
    for (place, link) in links.iter().enumerate() {
        let welcome = match scope.filter {
            LinkFilter::All => true,
            LinkFilter::Deliver => link.deliver,
            LinkFilter::Plugin(plugin) => link.plugin == plugin,
        };
        if !welcome || scope.ancestry & link.ancestry_bit() != 0 {
            set.remove(place);
        }
    }
    set
}
