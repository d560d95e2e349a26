//! The dispatch loop: the only place in the project that calls plugins on the data path.

use grapnel_plugin_abi::host::{EventAccess, Visit, visit};
use grapnel_plugin_abi::raw::{Event, Flow, Ticket};

use super::filter::{Filters, LinkSet};
use super::{CallCell, Chain, FaultPolicy, HookPoint, Link, LinkCounts, LinkIdentity, PluginHandle};

/// An accumulator with an overlay for the running link. The overlay is committed on Continue and
/// Stop, dropped on Fault, and committed on Defer with the option to undo. Between two links there
/// is no overlay and no ticket. `'l` is the lifetime of the links.
pub trait Fold<'l>: EventAccess {
    /// Before a link runs. The deadline of the link applies to a ticket that it takes.
    fn begin(&mut self, link: &'l Link);
    /// Commits the link's changes, so that the next link sees them in the event. Returns whether
    /// the topic changed.
    fn commit(&mut self, event: &mut Event) -> bool;
    /// The topic for the comparison with filters; empty if there is none.
    fn topic(&self) -> &str;
    /// The link deferred. Its changes are committed too; the ticket stores the earlier state, which
    /// is restored if the ticket ends with a fault. The default does nothing, for folds that give
    /// no tickets.
    fn on_defer(&mut self) {}
    /// Drops the link's changes.
    fn rollback(&mut self);
    /// The ticket that the running link took, if any.
    fn ticket(&self) -> Option<Ticket>;
    /// Whether no ticket was free for the running link.
    fn has_no_free_ticket(&self) -> bool {
        false
    }
    /// Whether the running link made an invalid change and did not replace it: then all its changes
    /// are dropped.
    fn is_refused(&self) -> bool {
        false
    }
    /// Called when that is counted as a fault of the link.
    fn note_refused(&mut self) {}
    /// The running link gave no answer. If its policy is to deny, the accumulator becomes a
    /// refusal.
    fn fail(&mut self, policy: FaultPolicy);
}

/// Links that an event is for, apart from their topic filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkFilter {
    /// All.
    All,
    /// Links that also decide deliveries (client.authorize).
    Deliver,
    /// Links of one plugin, in a replay of the state from before it was loaded.
    Plugin(PluginHandle),
}

/// Which links of a chain an event may still visit.
#[derive(Clone, Copy, Debug)]
pub struct DispatchScope<'a> {
    /// Identities of the links that were visited; they are skipped.
    pub visited: &'a [LinkIdentity],
    /// The ordering limit: only links that an earlier event of the same connection has visited may
    /// be called. `None` is no limit.
    pub ordering_limit: Option<&'a [LinkIdentity]>,
    /// Plugins that led to the message; their links are skipped.
    pub ancestry: u64,
    /// The links that the event is for.
    pub filter: LinkFilter,
}

impl DispatchScope<'_> {
    /// All links.
    pub const WHOLE: DispatchScope<'static> =
        DispatchScope { visited: &[], ordering_limit: None, ancestry: 0, filter: LinkFilter::All };

    /// Whether all links are called.
    #[inline]
    fn is_whole(&self) -> bool {
        self.visited.is_empty()
            && self.ordering_limit.is_none()
            && self.ancestry == 0
            && self.filter == LinkFilter::All
    }

    /// All links, except those of the plugins that led to the message.
    pub const fn of_message(ancestry: u64) -> DispatchScope<'static> {
        DispatchScope { ancestry, ..DispatchScope::WHOLE }
    }
}

/// How a run of a chain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// All links have run, or one stopped the chain: the accumulator is the result.
    Done,
    /// The link at this index deferred with this ticket.
    Deferred(usize, Ticket),
    /// The link at this index must wait until the event in front has visited it.
    Blocked(usize),
}

/// The links before the end of a run; all of them count as visited.
pub fn visited_until(chain: &Chain, end: usize) -> impl Iterator<Item = LinkIdentity> {
    chain.links[..end.min(chain.links.len())].iter().map(|link| link.identity)
}

/// One run of a chain in this many is timed. The first runs are always timed, so that a rare hook
/// point has data too.
const SAMPLE_EVERY: u64 = 64;
const SAMPLED_FIRST: u64 = 256;

impl Chain {
    /// Runs the links in the dispatch scope, in order. `calls` shows the running link meanwhile.
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

    /// The run of an event for all links. It needs a few instructions for each link and does not
    /// count calls: their number follows from the runs and where they ended.
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
            if let Some(exit) = settle_straight((links, link), counts, flow, calls, visit.reborrow()) {
                return exit;
            }
        }
        Exit::Done
    }

    /// The run of an event that skips links, whose calls are timed, or whose hooks have arguments.
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
            first_eligible(links, filters, &scope, visit.access().topic())
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
                call_timed(link, count, (point, calls), visit.reborrow())
            } else {
                visit.call_with_args(&link.entry)
            };
            if visit.goes_on(flow) {
                continue;
            }
            match settle((place, link), count, flow, calls, visit.reborrow()) {
                Settled::End(exit) => return exit,
                Settled::Moved if filters.is_some() => {
                    table.go_on_in(first_eligible(links, filters, &scope, visit.access().topic()), place);
                }
                Settled::Moved | Settled::GoOn => {}
            }
        }
        Exit::Done
    }
}

/// Not inlined, to keep registers free in the loop.
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

/// Not inlined, so that calls that are not timed pay nothing.
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

/// What follows after a link that returned anything but a plain Continue.
enum Settled {
    /// The next link.
    GoOn,
    /// The next link, with another topic.
    Moved,
    /// No further link.
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
        // A fault that does not trip its plugin, because a client may have chosen the invalid
        // value. It makes no difference whether the link ignored the error, returned it, or
        // returned one of its own: after `set_topic(x).is_err()` that is the refusal in other
        // words. If it counted, a client could trip the plugin.
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
            fold.on_defer();
            Settled::End(Exit::Deferred(place, ticket))
        }
        (Flow::DEFER | Flow::FAULT, None) if fold.has_no_free_ticket() => {
            // All tickets are taken: a fault that does not trip the plugin, whether the link
            // returns Defer or the error.
            stats.faults += 1;
            undo(link, fold)
        }
        (Flow::UNANSWERED, None) => {
            // The service behind the plugin is not available; the plugin itself has no fault.
            stats.faults += 1;
            undo(link, fold)
        }
        // A fault, an unknown flow, a Defer without a ticket, or a ticket without a Defer.
        _ => {
            super::breaker::count(link, count, calls);
            undo(link, fold)
        }
    }
}

/// Drops the link's changes and applies its fault policy.
fn undo<'l, F: Fold<'l>>(link: &Link, fold: &mut F) -> Settled {
    fold.rollback();
    fold.fail(link.policy);
    if link.policy == FaultPolicy::Deny {
        return Settled::End(Exit::Done);
    }
    Settled::GoOn
}

fn first_eligible(
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
