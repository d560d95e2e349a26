//! Running chains: which accumulator a point has, and what its end means. The rest of the pipeline asks questions here and
//! gets verdicts.

use std::rc::Rc;

use grapnel_plugin_abi::raw::Ticket;

use super::Shard;
use crate::hook::HookPoint;
use crate::hook::chain::{Course, Exit};
use crate::hook::client::{ALLOW, ClientFold, ClientVerdict, ClientView, DENY, Request, UNANSWERED};
use crate::hook::message::{Draft, MessageFold, Rules};
use crate::hook::tickets::{TicketDesk, Waiter};
use crate::message::MessageView;
use crate::reason::ReasonCode;
use crate::session::Identity;

/// A walk along the publish chain.
pub(super) enum PublishWalk {
    /// Through.
    Decided,
    /// A link answers later; it and all before it have been visited.
    Deferred(usize, Ticket),
    /// The link at this place waits for the publish in front.
    Blocked(usize),
}

impl Shard {
    pub(super) fn run_client(
        &mut self,
        point: HookPoint,
        client: ClientView<'_>,
        request: Option<Request<'_>>,
        verdict: ClientVerdict,
        course: Course<'_>,
        waiter: Option<Waiter>,
    ) -> (ClientVerdict, Exit) {
        let chain = self.chains.chain_mut(point);
        if chain.is_empty() {
            return (verdict, Exit::Done);
        }
        let desk = waiter.map(|waiter| TicketDesk::new(&mut self.tickets, waiter, self.now.mono_ms));
        // As the links before have left it: a chain that goes on after a deferred verdict begins with a new event.
        let client = ClientView { superuser: verdict.superuser, ..client };
        let mut fold = ClientFold::new(point, client, request, verdict, desk);
        let mut event = fold.event(self.setup.id, self.now.wall_ms);
        let exit = chain.run((point, &self.calls), course, &mut event, &mut fold);
        let verdict = fold.verdict;
        self.arm_ticket(exit);
        (verdict, exit)
    }

    pub(super) fn arm_ticket(&mut self, exit: Exit) {
        if let Exit::Deferred(_, ticket) = exit {
            self.counters.hook_deferred += 1;
            if let Some(open) = self.tickets.get(ticket) {
                self.deadlines.arm(open.deadline_ms, super::timers::Deadline::Ticket(ticket));
            }
        }
    }

    /// Runs a point that only tells of a client.
    pub(super) fn notify_client(&mut self, point: HookPoint, identity: &Rc<Identity>, reason: ReasonCode) {
        if self.chains.chain(point).is_empty() {
            return;
        }
        let client = identity.view();
        let verdict = ClientVerdict::unanswered(&client, reason);
        self.run_client(point, client, None, verdict, Course::WHOLE, None);
    }

    /// Runs message.publish from where `course` says; the draft is the accumulator.
    pub(super) fn run_publish(
        &mut self,
        identity: &Identity,
        view: MessageView<'_>,
        draft: &mut Draft,
        course: Course<'_>,
        waiter: Waiter,
        dup: bool,
    ) -> PublishWalk {
        let rules = Rules { limits: &self.setup.limits, now: self.now };
        let chain = self.chains.chain_mut(HookPoint::MessagePublish);
        let desk = TicketDesk::new(&mut self.tickets, waiter, self.now.mono_ms);
        let mut fold = MessageFold::new(
            HookPoint::MessagePublish,
            identity.view(),
            view,
            std::mem::take(draft),
            rules,
            Some(desk),
        );
        let mut event = fold.event(self.setup.id, self.now.wall_ms, dup);
        let exit = chain.run((HookPoint::MessagePublish, &self.calls), course, &mut event, &mut fold);
        *draft = std::mem::take(&mut fold.draft);
        drop(fold);
        self.arm_ticket(exit);
        match exit {
            Exit::Done => PublishWalk::Decided,
            Exit::Deferred(place, ticket) => PublishWalk::Deferred(place, ticket),
            Exit::Blocked(place) => PublishWalk::Blocked(place),
        }
    }

    /// Runs message.delivered for one subscriber. The caller has seen that somebody is mounted.
    pub(super) fn run_delivered(&mut self, identity: &Identity, view: MessageView<'_>) -> Draft {
        let rules = Rules { limits: &self.setup.limits, now: self.now };
        let chain = self.chains.chain_mut(HookPoint::MessageDelivered);
        let point = HookPoint::MessageDelivered;
        let mut fold = MessageFold::new(point, identity.view(), view, Draft::default(), rules, None);
        let mut event = fold.event(self.setup.id, self.now.wall_ms, false);
        chain.run((point, &self.calls), Course::of_message(view.ancestry), &mut event, &mut fold);
        std::mem::take(&mut fold.draft)
    }
}

/// What a verdict of client.authorize means.
pub(super) fn may(verdict: &ClientVerdict, no_match_allow: bool) -> Result<(), ReasonCode> {
    match verdict.verdict {
        ALLOW => Ok(()),
        UNANSWERED if no_match_allow => Ok(()),
        DENY => Err(verdict.reason),
        _ => Err(ReasonCode::NOT_AUTHORIZED),
    }
}
