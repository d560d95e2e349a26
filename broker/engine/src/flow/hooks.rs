//! Runs chains: which accumulator a hook point has, and what the end of a chain means. The other
//! flows call this module and get verdicts.

use std::rc::Rc;

use grapnel_plugin_abi::raw::{FLAG_WILL, Flow, Ticket};

use crate::clock::Deadline;
use crate::hook::chain::{DispatchScope, Exit, LinkFilter, visited_until};
use crate::hook::client::ClientFold;
use crate::hook::draft::Draft;
use crate::hook::message::{MessageFold, Rules};
use crate::hook::suspended::{Accumulator, RefusedChange, Resumed, Suspended};
use crate::hook::tickets::{OpenTicket, OwnedChange, TicketIssuer, Waiter};
use crate::hook::verdict::{ClientVerdict, NoAnswer};
use crate::hook::view::{Action, ClientView, Request};
use crate::hook::{CannotTake, FaultPolicy, HookPoint, LinkIdentity, LinkStats, Refusal};
use crate::message::MessageView;
use crate::outbox::RefusedAnswer;
use crate::parts::{ChainContext, Parts};
use crate::reason::ReasonCode;
use crate::session::Identity;

/// How a run of a chain ended. The suspended state holds the details.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChainOutcome {
    /// All links have run, or one has ended the chain.
    Completed,
    /// It waits for its ticket. Without a ticket it waits until the event in front has passed the
    /// next link.
    Waits,
}

/// Runs the chain of an event about a client from where it stands.
pub(crate) fn go_on(
    parts: &mut Parts,
    suspended: &mut Suspended<ClientVerdict>,
    client: ClientView<'_>,
    request: Option<Request<'_>>,
    behind: Option<&[LinkIdentity]>,
    waiter: Waiter,
) -> ChainOutcome {
    let filter = match request {
        Some(Request { action: Action::Deliver, .. }) => LinkFilter::Deliver,
        _ => LinkFilter::All,
    };
    let point = suspended.point();
    if point == HookPoint::ClientAuthorize
        && !parts.hooks.are_rules_current(
            suspended.epoch(),
            client.client_id,
            client.username,
            request.map(|request| request.topic),
        )
    {
        // The rules have changed while the request waited for a link: the verdicts of links so far
        // are void.
        suspended.begin_anew(parts.hooks.authz_epoch());
    }
    if suspended.has_exhausted_rounds() {
        // No link has given a verdict that is still current.
        suspended.accumulator.fail(NoAnswer::Deadline, FaultPolicy::Deny);
        return ChainOutcome::Completed;
    }
    let (verdict, visited) = suspended.split();
    let scope = DispatchScope { visited, ordering_limit: behind, ancestry: 0, filter };
    let exit = run_client(parts, point, (client, request), verdict, scope, Some(waiter));
    note_exit(parts, suspended, exit)
}

/// Stores how far a run has come along its chain.
pub(crate) fn note_exit<A>(parts: &mut Parts, suspended: &mut Suspended<A>, exit: Exit) -> ChainOutcome {
    debug_assert!(suspended.ticket().is_none(), "what waits for a link does not walk");
    let (until, ticket) = match exit {
        Exit::Done => return ChainOutcome::Completed,
        Exit::Blocked(place) => (place, None),
        Exit::Deferred(place, ticket) => {
            arm_ticket(parts, ticket);
            (place + 1, Some(ticket))
        }
    };
    let kept = ticket.map_or(0, |ticket| parts.hooks.tickets().before_bytes(ticket));
    suspended.suspend(visited_until(parts.hooks.chain(suspended.point()), until), ticket, kept);
    ChainOutcome::Waits
}

fn run_client(
    parts: &mut Parts,
    point: HookPoint,
    (client, request): (ClientView<'_>, Option<Request<'_>>),
    verdict: &mut ClientVerdict,
    scope: DispatchScope<'_>,
    waiter: Option<Waiter>,
) -> Exit {
    let user_properties_max = parts.setup.limits.user_properties_max;
    let ChainContext { chain, calls, tickets } = parts.hooks.at(point);
    if chain.is_empty() {
        return Exit::Done;
    }
    let issuer = waiter.map(|waiter| TicketIssuer::new(tickets, waiter, parts.clock.now().mono_ms));
    // With the changes by earlier links: a chain that continues after a deferred verdict starts
    // with a new event.
    let client = ClientView { superuser: verdict.superuser, ..client };
    let mut fold = ClientFold::new(point, client, request, verdict, issuer, user_properties_max);
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms);
    let exit = chain.run((point, calls), scope, &mut event, &mut fold);
    let called = fold.was_called();
    drop(fold);
    verdict.called |= called;
    exit
}

fn arm_ticket(parts: &mut Parts, ticket: Ticket) {
    parts.counters.hook_deferred += 1;
    if let Some(open) = parts.hooks.tickets().get_mut(ticket) {
        open.timer = Some(parts.clock.arm_deadline(open.deadline_ms, Deadline::Ticket(ticket)));
    }
}

/// Closes a ticket. Returns what waited for it; `None` if it is closed already.
pub(crate) fn close_ticket(parts: &mut Parts, ticket: Ticket) -> Option<OpenTicket> {
    let open = parts.hooks.tickets().close(ticket)?;
    parts.clock.cancel_deadline(open.timer);
    Some(open)
}

/// Runs a notification point about a client.
pub(crate) fn notify_client(
    parts: &mut Parts,
    point: HookPoint,
    identity: &Rc<Identity>,
    reason: ReasonCode,
) {
    if parts.hooks.chain(point).is_empty() {
        return;
    }
    let client = identity.view();
    let mut verdict = ClientVerdict::unanswered(&client, reason);
    run_client(parts, point, (client, None), &mut verdict, DispatchScope::WHOLE, None);
}

/// What links of message.publish see.
#[derive(Clone, Copy)]
pub(crate) struct PublishView<'a> {
    pub(crate) view: MessageView<'a>,
    /// DUP flag of the packet.
    pub(crate) dup: bool,
    /// Whether it is a will.
    pub(crate) will: bool,
}

/// Runs message.publish for a message from where the chain stands. The draft is the accumulator.
pub(crate) fn run_publish(
    parts: &mut Parts,
    suspended: &mut Suspended<Draft>,
    identity: &Identity,
    PublishView { view, dup, will }: PublishView<'_>,
    behind: Option<&[LinkIdentity]>,
    waiter: Waiter,
) -> ChainOutcome {
    let rules = Rules { limits: &parts.setup.limits, now: parts.clock.now() };
    let point = HookPoint::MessagePublish;
    let ChainContext { chain, calls, tickets } = parts.hooks.at(point);
    let issuer = TicketIssuer::new(tickets, waiter, parts.clock.now().mono_ms);
    let mut fold = MessageFold::new(point, identity.view(), view, Draft::default(), rules, Some(issuer));
    std::mem::swap(&mut suspended.accumulator, &mut fold.draft);
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms, dup);
    if will {
        event.flags |= FLAG_WILL;
    }
    let scope = DispatchScope {
        visited: suspended.visited(),
        ordering_limit: behind,
        ..DispatchScope::of_message(view.ancestry)
    };
    let exit = chain.run((point, calls), scope, &mut event, &mut fold);
    std::mem::swap(&mut suspended.accumulator, &mut fold.draft);
    let (refusals, faults) = fold.take_refusals();
    drop(fold);
    if !refusals.is_empty() {
        note_refusals(parts, point, refusals, faults);
    }
    note_exit(parts, suspended, exit)
}

/// Runs message.delivered for one subscriber. The caller has checked that a link is mounted.
pub(crate) fn run_delivered(parts: &mut Parts, identity: &Identity, view: MessageView<'_>) -> Draft {
    let rules = Rules { limits: &parts.setup.limits, now: parts.clock.now() };
    let point = HookPoint::MessageDelivered;
    let ChainContext { chain, calls, .. } = parts.hooks.at(point);
    let mut fold = MessageFold::new(point, identity.view(), view, Draft::default(), rules, None);
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms, false);
    chain.run((point, calls), DispatchScope::of_message(view.ancestry), &mut event, &mut fold);
    let draft = std::mem::take(&mut fold.draft);
    let (refusals, faults) = fold.take_refusals();
    if !refusals.is_empty() {
        note_refusals(parts, point, refusals, faults);
    }
    draft
}

/// Reports refused changes for the log. Counts `faults` further faults.
#[cold]
pub(crate) fn note_refusals(parts: &mut Parts, point: HookPoint, refusals: Vec<Refusal>, faults: u64) {
    parts.counters.hook_faults += faults;
    let now_ms = parts.clock.now().mono_ms;
    for Refusal { plugin, link, name, reason } in refusals {
        parts.counters.hook_changes_refused += 1;
        let Some(unlogged) = parts.hooks.refused(link, now_ms) else { continue };
        let reason = match unlogged {
            0 => reason.to_owned(),
            more => format!("{reason}; {more} more were refused since the last line"),
        };
        parts.out.refused.push(RefusedAnswer { plugin, link: Some(name), point, reason });
    }
}

/// The stats of a link that had deferred, if it is still mounted.
fn stats_of<'a>(parts: &'a mut Parts, ticket: &OpenTicket, point: HookPoint) -> Option<&'a mut LinkStats> {
    let chain = parts.hooks.at(point).chain;
    let place = chain.links.iter().position(|link| link.identity == ticket.link)?;
    chain.stats_mut(place)
}

/// Applies a deferred verdict and counts its result. Returns whether the chain ends; `None`,
/// without effect, if the verdict is for another ticket.
pub(crate) fn resume<A: Accumulator>(
    parts: &mut Parts,
    suspended: &mut Suspended<A>,
    ticket: &OpenTicket,
    answer: Answer<'_>,
    rules: A::Rules<'_>,
) -> Option<bool> {
    let resumed = suspended.resume(ticket, answer, rules)?;
    Some(count_resumed(parts, ticket, suspended.point(), resumed))
}

/// Counts the result of a deferred verdict. Returns whether the chain ends.
pub(crate) fn count_resumed(
    parts: &mut Parts,
    ticket: &OpenTicket,
    point: HookPoint,
    resumed: Resumed,
) -> bool {
    match resumed {
        Resumed::GoesOn => false,
        Resumed::Ends => {
            if let Some(stats) = stats_of(parts, ticket, point) {
                stats.stops += 1;
            }
            true
        }
        Resumed::Failed { ends, refused, blamed } => {
            count_failed(parts, ticket, point, refused, blamed);
            ends
        }
    }
}

/// Counts a fault of a link that had deferred, and reports a change that could not be applied.
#[cold]
fn count_failed(
    parts: &mut Parts,
    ticket: &OpenTicket,
    point: HookPoint,
    refused: Option<RefusedChange>,
    blamed: bool,
) {
    let chain = parts.hooks.at(point).chain;
    let place = chain.links.iter().position(|link| link.identity == ticket.link);
    if let Some(RefusedChange { why: CannotTake { reason: Some(reason), .. }, .. }) = refused {
        // This fault does not trip the plugin: its cause may be data of a client.
        let Some(place) = place else { return };
        if let Some(stats) = chain.stats_mut(place) {
            stats.faults += 1;
        }
        let name = std::sync::Arc::clone(&chain.links[place].name);
        let refusal = Refusal { plugin: ticket.plugin, link: ticket.link, name, reason };
        return note_refusals(parts, point, vec![refusal], 1);
    }
    if let Some(RefusedChange { place, field, why }) = refused {
        let reason = format!("change {place}, of {field:?}, is {:?}", why.status);
        note_refused(parts, ticket, point, reason);
    }
    if let Some(stats) = stats_of(parts, ticket, point) {
        stats.faults += 1;
        if blamed {
            parts.hooks.calls().faults().count(ticket.plugin);
        }
    }
}

/// Notes that the shell refused a plugin's answer for `reason`, because it was too large. The
/// answer is ignored and the ticket stays open. A closed ticket is ignored.
pub(crate) fn refuse_answer(parts: &mut Parts, ticket: u64, reason: &str) {
    let Some(open) = parts.hooks.open_ticket(Ticket(ticket)).cloned() else { return };
    note_refused(parts, &open, open.waiter.point(), reason.to_owned());
}

/// Counts an answer of a plugin that was refused as a whole, and reports it for the log.
fn note_refused(parts: &mut Parts, ticket: &OpenTicket, point: HookPoint, reason: String) {
    parts.counters.hook_answers_refused += 1;
    if parts.out.refused.len() >= REFUSED_MAX {
        return;
    }
    let links = &parts.hooks.chain(point).links;
    let link = links.iter().find(|link| link.identity == ticket.link);
    let link = link.map(|link| std::sync::Arc::clone(&link.name));
    parts.out.refused.push(RefusedAnswer { plugin: ticket.plugin, link, point, reason });
}

/// What a verdict of client.authorize means for the current request.
pub(crate) fn may(verdict: &ClientVerdict, no_match_allow: bool) -> Result<(), ReasonCode> {
    verdict.granted(no_match_allow)
}

/// Refused answers that one step reports to the shell. Those beyond are only counted.
const REFUSED_MAX: usize = 16;

/// Trips the plugins with too many faults, on this shard. The outbox names them.
#[cold]
pub(crate) fn trip_faulty_plugins(parts: &mut Parts) {
    let limits = &parts.setup.limits;
    let (bounds, now_ms) = ((limits.breaker_faults_max, limits.breaker_window_ms), parts.clock.now().mono_ms);
    parts.counters.hook_faults += parts.hooks.trip_faulty_plugins(now_ms, bounds, &mut parts.out.tripped);
}

/// A deferred verdict with its changes; `None` if the deadline has passed.
pub(crate) type Answer<'a> = Option<(Flow, &'a [OwnedChange])>;
