//! Running chains: which accumulator a point has, and what its end means. The other flows ask questions here and
//! gets verdicts.

use std::rc::Rc;

use grapnel_plugin_abi::raw::{Flow, Ticket};

use crate::hook::chain::{Audience, Course, Exit, visited_until};
use crate::hook::client::ClientFold;
use crate::hook::draft::Draft;
use crate::hook::message::{MessageFold, Rules};
use crate::hook::suspended::{Accumulator, RefusedChange, Resumed, Suspended};
use crate::hook::tickets::{OpenTicket, OwnedChange, TicketDesk, Waiter};
use crate::hook::verdict::ClientVerdict;
use crate::hook::view::{Action, ClientView, Request};
use crate::hook::{HookPoint, LinkIdentity, LinkStats, Refusal};
use crate::message::MessageView;
use crate::outbox::RefusedAnswer;
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::Identity;

/// How a walk along a chain ended, which is noted in what walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Walk {
    /// All links have run, or one has ended the chain.
    Through,
    /// A link answers later: it waits for its ticket.
    Deferred(Ticket),
    /// The next link must wait until the event in front has been there.
    Blocked,
}

/// Runs the chain of an event about a client from where it stands.
pub(crate) fn go_on(
    parts: &mut Parts,
    suspended: &mut Suspended<ClientVerdict>,
    client: ClientView<'_>,
    request: Option<Request<'_>>,
    behind: Option<&[LinkIdentity]>,
    waiter: Waiter,
) -> Walk {
    let audience = match request {
        Some(Request { action: Action::Deliver, .. }) => Audience::Deliver,
        _ => Audience::All,
    };
    let Suspended { accumulator, visited, point, .. } = &mut *suspended;
    let course = Course { visited, behind, ancestry: 0, audience };
    let exit = run_client(parts, *point, (client, request), accumulator, course, Some(waiter));
    note_exit(parts, suspended, exit)
}

/// Notes in what has walked along its chain how far it has come.
pub(crate) fn note_exit<A>(parts: &mut Parts, suspended: &mut Suspended<A>, exit: Exit) -> Walk {
    suspended.ticket = None;
    let (until, walk) = match exit {
        Exit::Done => return Walk::Through,
        Exit::Blocked(place) => (place, Walk::Blocked),
        Exit::Deferred(place, ticket) => {
            suspended.ticket = Some(ticket);
            arm_ticket(parts, ticket);
            (place + 1, Walk::Deferred(ticket))
        }
    };
    suspended.has_visited(visited_until(parts.hooks.chains.chain(suspended.point), until));
    walk
}

fn run_client(
    parts: &mut Parts,
    point: HookPoint,
    (client, request): (ClientView<'_>, Option<Request<'_>>),
    verdict: &mut ClientVerdict,
    course: Course<'_>,
    waiter: Option<Waiter>,
) -> Exit {
    let chain = parts.hooks.chains.chain_mut(point);
    if chain.is_empty() {
        return Exit::Done;
    }
    let desk =
        waiter.map(|waiter| TicketDesk::new(&mut parts.hooks.tickets, waiter, parts.clock.now().mono_ms));
    // As the links before have left it: a chain that goes on after a deferred verdict begins with a new event.
    let client = ClientView { superuser: verdict.superuser, ..client };
    let mut fold = ClientFold::new(point, client, request, verdict, desk);
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms);
    let exit = chain.run((point, &parts.hooks.calls), course, &mut event, &mut fold);
    let called = fold.was_called();
    drop(fold);
    verdict.called |= called;
    exit
}

fn arm_ticket(parts: &mut Parts, ticket: Ticket) {
    parts.counters.hook_deferred += 1;
    if let Some(open) = parts.hooks.tickets.get(ticket) {
        parts.clock.arm_deadline(open.deadline_ms, crate::clock::Deadline::Ticket(ticket));
    }
}

/// Runs a point that only tells of a client.
pub(crate) fn notify_client(
    parts: &mut Parts,
    point: HookPoint,
    identity: &Rc<Identity>,
    reason: ReasonCode,
) {
    if parts.hooks.chains.chain(point).is_empty() {
        return;
    }
    let client = identity.view();
    let mut verdict = ClientVerdict::unanswered(&client, reason);
    run_client(parts, point, (client, None), &mut verdict, Course::WHOLE, None);
}

/// Runs message.publish from where `course` says; the draft is the accumulator.
pub(crate) fn run_publish(
    parts: &mut Parts,
    identity: &Identity,
    view: MessageView<'_>,
    draft: &mut Draft,
    course: Course<'_>,
    waiter: Waiter,
    dup: bool,
) -> Exit {
    let rules = Rules { limits: &parts.setup.limits, now: parts.clock.now() };
    let chain = parts.hooks.chains.chain_mut(HookPoint::MessagePublish);
    let desk = TicketDesk::new(&mut parts.hooks.tickets, waiter, parts.clock.now().mono_ms);
    let mut fold = MessageFold::new(
        HookPoint::MessagePublish,
        identity.view(),
        view,
        std::mem::take(draft),
        rules,
        Some(desk),
    );
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms, dup);
    let exit = chain.run((HookPoint::MessagePublish, &parts.hooks.calls), course, &mut event, &mut fold);
    *draft = std::mem::take(&mut fold.draft);
    let (refusals, faults) = (std::mem::take(&mut fold.refusals), fold.refused_faults);
    drop(fold);
    if let Exit::Deferred(_, ticket) = exit {
        arm_ticket(parts, ticket);
    }
    if !refusals.is_empty() {
        note_refusals(parts, HookPoint::MessagePublish, refusals, faults);
    }
    exit
}

/// Runs message.delivered for one subscriber. The caller has seen that somebody is mounted.
pub(crate) fn run_delivered(parts: &mut Parts, identity: &Identity, view: MessageView<'_>) -> Draft {
    let rules = Rules { limits: &parts.setup.limits, now: parts.clock.now() };
    let chain = parts.hooks.chains.chain_mut(HookPoint::MessageDelivered);
    let point = HookPoint::MessageDelivered;
    let mut fold = MessageFold::new(point, identity.view(), view, Draft::default(), rules, None);
    let mut event = fold.event(parts.setup.id, parts.clock.now().wall_ms, false);
    chain.run((point, &parts.hooks.calls), Course::of_message(view.ancestry), &mut event, &mut fold);
    let draft = std::mem::take(&mut fold.draft);
    let (refusals, faults) = (std::mem::take(&mut fold.refusals), fold.refused_faults);
    if !refusals.is_empty() {
        note_refusals(parts, point, refusals, faults);
    }
    draft
}

/// Has the log told of changes that were refused; `faults` of them were no fault otherwise.
#[cold]
pub(crate) fn note_refusals(parts: &mut Parts, point: HookPoint, refusals: Vec<Refusal>, faults: u64) {
    parts.counters.hook_faults += faults;
    let now_ms = parts.clock.now().mono_ms;
    for Refusal { plugin, link, name, reason } in refusals {
        parts.counters.hook_changes_refused += 1;
        let (next_ms, untold) = parts.hooks.refusals.entry(link).or_default();
        if now_ms < *next_ms {
            *untold += 1;
            continue;
        }
        *next_ms = now_ms + TOLD_EVERY_MS;
        let reason = match std::mem::take(untold) {
            0 => reason.to_owned(),
            more => format!("{reason}; {more} more were refused since the last line"),
        };
        parts.out.refused.push(RefusedAnswer { plugin, link: Some(name), point, reason });
    }
}

/// How often the log tells of the changes of one hook that are refused, at most.
const TOLD_EVERY_MS: u64 = 1_000;

/// The figures of a link that had deferred, if it is still there.
fn stats_of<'a>(parts: &'a mut Parts, ticket: &OpenTicket, point: HookPoint) -> Option<&'a mut LinkStats> {
    let chain = parts.hooks.chains.chain_mut(point);
    let place = chain.links.iter().position(|link| link.identity == ticket.link)?;
    chain.stats_mut(place)
}

/// Whether the verdict of a link that had deferred ends the chain, which is counted.
pub(crate) fn ends_chain(parts: &mut Parts, ticket: &OpenTicket, point: HookPoint, flow: Flow) -> bool {
    let stop = flow == Flow::STOP;
    if stop && let Some(stats) = stats_of(parts, ticket, point) {
        stats.stops += 1;
    }
    stop
}

/// Counts a fault of a link that had deferred.
pub(crate) fn count_fault(parts: &mut Parts, ticket: &OpenTicket, point: HookPoint) {
    if let Some(stats) = stats_of(parts, ticket, point) {
        stats.faults += 1;
        parts.hooks.calls.faults().count(ticket.plugin);
    }
}

/// Takes an answer that came later, and counts what it has led to: whether the chain ends with it. `None`, and
/// nothing done, where it is for another ticket.
pub(crate) fn resume<A: Accumulator>(
    parts: &mut Parts,
    suspended: &mut Suspended<A>,
    ticket: &OpenTicket,
    answer: Answer<'_>,
    rules: A::Rules,
) -> Option<bool> {
    let resumed = suspended.resume(ticket, answer, rules)?;
    Some(count_resumed(parts, ticket, suspended.point, resumed))
}

/// Counts what an answer that came later has led to; whether the chain ends with it.
pub(crate) fn count_resumed(
    parts: &mut Parts,
    ticket: &OpenTicket,
    point: HookPoint,
    resumed: Resumed,
) -> bool {
    match resumed {
        Resumed::GoesOn => false,
        Resumed::Ends => ends_chain(parts, ticket, point, Flow::STOP),
        Resumed::Failed { ends, refused } => {
            if let Some(change) = refused {
                let RefusedChange { place, field, status } = change;
                note_refused(parts, ticket, point, format!("change {place}, of {field:?}, is {status:?}"));
            }
            count_fault(parts, ticket, point);
            ends
        }
    }
}

/// The shell has not taken what a plugin has answered, for this reason: too much of it. Nothing of it
/// counts, and the ticket stays open. Nothing happens for a ticket that is closed.
pub(crate) fn refuse_answer(parts: &mut Parts, ticket: u64, reason: &str) {
    let Some(open) = parts.hooks.tickets.get(Ticket(ticket)).cloned() else { return };
    note_refused(parts, &open, open.waiter.point(), reason.to_owned());
}

/// An answer of a plugin was refused as a whole: it is counted, and the outbox says so to the operator's
/// log.
fn note_refused(parts: &mut Parts, ticket: &OpenTicket, point: HookPoint, reason: String) {
    parts.counters.hook_answers_refused += 1;
    if parts.out.refused.len() >= REFUSED_MAX {
        return;
    }
    let links = &parts.hooks.chains.chain(point).links;
    let link = links.iter().find(|link| link.identity == ticket.link);
    let link = link.map(|link| std::sync::Arc::clone(&link.name));
    parts.out.refused.push(RefusedAnswer { plugin: ticket.plugin, link, point, reason });
}

/// What a verdict of client.authorize means for what is asked for now.
pub(crate) fn may(verdict: &ClientVerdict, no_match_allow: bool) -> Result<(), ReasonCode> {
    verdict.granted(no_match_allow)
}

/// Refused answers that one step tells the shell of; those beyond are only counted.
const REFUSED_MAX: usize = 16;

/// Trips the plugins that have failed too often, on this shard; the outbox names them.
#[cold]
pub(crate) fn judge_faults(parts: &mut Parts) {
    let limits = &parts.setup.limits;
    let (bounds, now_ms) = ((limits.breaker_faults_max, limits.breaker_window_ms), parts.clock.now().mono_ms);
    for (plugin, count) in parts.hooks.calls.faults().take() {
        parts.counters.hook_faults += count;
        if parts.hooks.breaker.note(plugin, count, now_ms, bounds) {
            parts.hooks.chains.trip(plugin);
            parts.out.tripped.push(plugin);
        }
    }
}

/// A verdict with what came for it later.
pub(crate) type Answer<'a> = Option<(Flow, &'a [OwnedChange])>;
