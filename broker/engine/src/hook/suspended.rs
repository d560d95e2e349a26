//! What is suspended at a hook point while a link answers later, and how it goes on when the answer comes:
//! the same for every point. A flow keeps it with the packet that waits and calls `resume`; nothing
//! here runs a chain.

use grapnel_plugin_abi::raw::{Flow, Ticket};
use smallvec::SmallVec;

use super::draft::{Draft, DraftRules};
use super::requested::Requested;
use super::tickets::{Before, OpenTicket, OwnedChange};
use super::verdict::ClientVerdict;
use super::verdict::Why;
use super::{CannotTake, FaultPolicy, HookPoint, LinkIdentity, PluginHandle};
use crate::reason::ReasonCode;

/// An event that waits at a hook point, or is about to be shown to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspended<A> {
    /// The accumulator as the links so far have left it.
    pub accumulator: A,
    /// By identity, so that it goes on behind them in whatever table is in force then.
    visited: SmallVec<[LinkIdentity; 4]>,
    epoch: u64,
    /// How often it has begun anew.
    rounds: u8,
    point: HookPoint,
    ticket: Option<Ticket>,
    /// Bytes that the ticket keeps of what was there before its link.
    before_bytes: usize,
}

/// What an answer that came later has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumed {
    /// The chain goes on behind the link that has answered.
    GoesOn,
    /// The link has ended the chain.
    Ends,
    /// The link has failed. By its policy the chain `ends`, or goes on as if it had not been there.
    Failed {
        /// Whether the chain ends.
        ends: bool,
        /// The change that could not be taken, if it failed by that.
        refused: Option<RefusedChange>,
        /// Whether it counts towards the breaker of its plugin, which it does not where what the plugin asks is away.
        blamed: bool,
    },
}

impl Resumed {
    /// Whether the chain ends with it.
    pub fn ends(&self) -> bool {
        matches!(self, Resumed::Ends | Resumed::Failed { ends: true, .. })
    }
}

/// A change that the accumulator cannot take. None of those that came with it was taken either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedChange {
    /// Which of the changes, from 0.
    pub place: usize,
    /// Which field it would have changed.
    pub field: grapnel_plugin_abi::raw::Field,
    /// Why it cannot be taken.
    pub why: CannotTake,
}

/// What a chain carries from link to link where links may answer later.
pub trait Accumulator: Clone {
    /// What it takes to judge a change.
    type Rules<'a>: Copy;

    /// Takes one change that came with an answer.
    ///
    /// # Errors
    /// As for the setter of the same field in a hook.
    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        rules: Self::Rules<'_>,
    ) -> Result<(), CannotTake>;

    /// Its changes since `before` were made by a link of this plugin.
    fn sign(&mut self, before: &Self, plugin: PluginHandle) {
        let _ = (before, plugin);
    }

    /// Becomes again what it was before the link that has failed.
    fn restore(&mut self, before: &Before);

    /// A link has given no answer.
    fn fail(&mut self, why: Why, policy: FaultPolicy);
}

impl<A> Suspended<A> {
    /// An event that no link has seen yet.
    pub fn new(point: HookPoint, accumulator: A, epoch: u64) -> Suspended<A> {
        Suspended {
            accumulator,
            visited: SmallVec::new(),
            epoch,
            rounds: 0,
            point,
            ticket: None,
            before_bytes: 0,
        }
    }

    /// Begins another event with what the accumulator has become: no link has seen that one.
    pub fn next_event(&mut self, point: HookPoint) {
        self.point = point;
        self.visited.clear();
        (self.ticket, self.before_bytes) = (None, 0);
    }

    /// Where it is.
    pub fn point(&self) -> HookPoint {
        self.point
    }

    /// Version of the rules when it began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Links that it has been to.
    pub fn visited(&self) -> &[LinkIdentity] {
        &self.visited
    }

    /// The accumulator to be changed, and the links that it has been to.
    pub fn split(&mut self) -> (&mut A, &[LinkIdentity]) {
        (&mut self.accumulator, &self.visited)
    }

    /// Bytes that its ticket keeps of what was there before the link that answers later.
    pub fn before_bytes(&self) -> usize {
        self.before_bytes
    }

    /// The ticket it waits for; `None` while it does not wait for a link.
    pub fn ticket(&self) -> Option<Ticket> {
        self.ticket
    }

    /// Whether it waits for this ticket.
    pub fn waits_for(&self, ticket: Ticket) -> bool {
        self.ticket == Some(ticket)
    }

    /// It has been to these links, and waits for this ticket, which keeps so many bytes, or for none.
    pub fn suspend(
        &mut self,
        links: impl Iterator<Item = LinkIdentity>,
        ticket: Option<Ticket>,
        kept: usize,
    ) {
        (self.ticket, self.before_bytes) = (ticket, kept);
        for link in links {
            if !self.visited.contains(&link) {
                self.visited.push(link);
            }
        }
    }
}

impl<A: Accumulator> Suspended<A> {
    /// Takes the answer for the ticket it waits for. `None`, and nothing done, where it waits for another one
    /// or for none: such an answer is about something else.
    pub fn resume(
        &mut self,
        open: &OpenTicket,
        answer: Option<(Flow, &[OwnedChange])>,
        rules: A::Rules<'_>,
    ) -> Option<Resumed> {
        if !self.waits_for(open.number) {
            return None;
        }
        (self.ticket, self.before_bytes) = (None, 0);
        Some(resume(&mut self.accumulator, self.point, open, answer, rules))
    }
}

/// What an answer makes of an accumulator: all its changes are taken, or the link has failed. `None` is a
/// missed deadline.
fn resume<A: Accumulator>(
    accumulator: &mut A,
    point: HookPoint,
    open: &OpenTicket,
    answer: Option<(Flow, &[OwnedChange])>,
    rules: A::Rules<'_>,
) -> Resumed {
    let mut refused = None;
    if let Some((flow @ (Flow::CONTINUE | Flow::STOP), changes)) = answer {
        match changed(accumulator, point, changes, rules) {
            Ok(mut next) => {
                next.sign(accumulator, open.plugin);
                *accumulator = next;
                return if flow == Flow::STOP { Resumed::Ends } else { Resumed::GoesOn };
            }
            Err(change) => refused = Some(change),
        }
    }
    if let Some(before) = open.before.as_deref() {
        accumulator.restore(before);
    }
    accumulator.fail(if answer.is_some() { Why::Fault } else { Why::Deadline }, open.policy);
    let blamed = !matches!(answer, Some((Flow::UNANSWERED, _)));
    Resumed::Failed { ends: open.policy == FaultPolicy::Deny, refused, blamed }
}

fn changed<A: Accumulator>(
    before: &A,
    point: HookPoint,
    changes: &[OwnedChange],
    rules: A::Rules<'_>,
) -> Result<A, RefusedChange> {
    let mut next = before.clone();
    for (place, change) in changes.iter().enumerate() {
        next.take(point, &change.borrow(), rules).map_err(|why| RefusedChange {
            place,
            field: change.field,
            why,
        })?;
    }
    Ok(next)
}

impl Accumulator for ClientVerdict {
    /// `user_properties_max`.
    type Rules<'a> = usize;

    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        user_properties_max: usize,
    ) -> Result<(), CannotTake> {
        self.set(point, change, user_properties_max)?;
        Ok(())
    }

    fn sign(&mut self, before: &ClientVerdict, plugin: PluginHandle) {
        ClientVerdict::sign(self, before, Some(plugin));
    }

    fn restore(&mut self, before: &Before) {
        if let Before::Client(before) = before {
            self.clone_from(before);
        }
    }

    fn fail(&mut self, why: Why, policy: FaultPolicy) {
        ClientVerdict::fail(self, why, policy);
    }
}

impl Accumulator for Vec<Requested> {
    /// `topic_bytes_max`.
    type Rules<'a> = usize;

    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        topic_bytes_max: usize,
    ) -> Result<(), CannotTake> {
        super::requested::change(self, point, change, topic_bytes_max)?;
        Ok(())
    }

    fn restore(&mut self, before: &Before) {
        if let Before::Filters(before) = before {
            self.clone_from(before);
        }
    }

    fn fail(&mut self, _why: Why, policy: FaultPolicy) {
        if policy == FaultPolicy::Deny {
            super::requested::refuse_all(self);
        }
    }
}

impl Accumulator for Draft {
    type Rules<'a> = DraftRules<'a>;

    fn take(
        &mut self,
        point: HookPoint,
        change: &grapnel_plugin_abi::host::FieldChange<'_>,
        rules: DraftRules<'_>,
    ) -> Result<(), CannotTake> {
        self.change(point, change, rules)?;
        Ok(())
    }

    fn restore(&mut self, before: &Before) {
        if let Before::Message(before) = before {
            self.clone_from(before);
        }
    }

    fn fail(&mut self, _why: Why, policy: FaultPolicy) {
        Draft::fail(self, policy);
    }
}

/// How often a request to client.authorize begins anew because the rules have changed.
const ROUNDS_MAX: u8 = 8;

/// A request to client.authorize.
pub type AuthorizationRequest = Suspended<ClientVerdict>;

impl AuthorizationRequest {
    /// Begins anew under rules of another version: nobody has been asked yet.
    pub fn begin_anew(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.rounds = self.rounds.saturating_add(1);
        self.visited.clear();
        (self.ticket, self.before_bytes) = (None, 0);
        self.accumulator.begin_anew(ReasonCode::NOT_AUTHORIZED);
    }

    /// How often it has begun anew.
    pub fn rounds(&self) -> u8 {
        self.rounds
    }

    /// Asks what has been asked before, and has begun anew so often by now.
    pub fn after_rounds(self, rounds: u8) -> AuthorizationRequest {
        Suspended { rounds, ..self }
    }

    /// Whether it has begun anew as often as it may: whoever changes the rules all the time keeps nobody waiting for ever.
    pub fn has_used_up_rounds(&self) -> bool {
        self.rounds > ROUNDS_MAX
    }
}

#[cfg(test)]
mod tests {
    use grapnel_plugin_abi::raw::{Field, Status};

    use super::*;
    use crate::hook::PluginHandle;
    use crate::hook::tickets::Waiter;
    use crate::hook::verdict::Silence;
    use crate::hook::verdict::{ALLOW, DENY, UNANSWERED};
    use crate::hook::view::ClientView;

    const POINT: HookPoint = HookPoint::ClientAuthorize;

    fn nobody() -> ClientVerdict {
        ClientVerdict::unanswered(&ClientView::NOBODY, ReasonCode::NOT_AUTHORIZED)
    }

    fn request(ticket: u64) -> AuthorizationRequest {
        Suspended { ticket: Some(Ticket(ticket)), ..Suspended::new(POINT, nobody(), 1) }
    }

    fn open(ticket: u64, policy: FaultPolicy, before: Option<ClientVerdict>) -> OpenTicket {
        OpenTicket {
            number: Ticket(ticket),
            waiter: Waiter::Recheck(1),
            link: LinkIdentity(1),
            plugin: PluginHandle(1),
            policy,
            deadline_ms: 0,
            timer: None,
            before: before.map(|before| Box::new(Before::Client(before))),
        }
    }

    fn verdict(number: u64) -> OwnedChange {
        let (bytes, key) = Default::default();
        OwnedChange { field: Field::VERDICT, index: 0, number, bytes, key }
    }

    #[test]
    fn an_answer_for_another_ticket_changes_nothing() {
        let allow = [verdict(u64::from(ALLOW))];
        let mut waiting = request(7);
        let before = waiting.clone();
        assert_eq!(waiting.resume(&open(8, FaultPolicy::Deny, None), Some((Flow::STOP, &allow)), 64), None);
        assert_eq!(waiting, before);
        let done = waiting.resume(&open(7, FaultPolicy::Deny, None), Some((Flow::STOP, &allow)), 64);
        assert_eq!((done, waiting.accumulator.verdict), (Some(Resumed::Ends), ALLOW));
        assert_eq!(waiting.resume(&open(7, FaultPolicy::Deny, None), None, 64), None, "it waits for none");
        assert_eq!(waiting.accumulator.silence, None);
    }

    #[test]
    fn a_change_that_no_message_may_have_says_why_and_undoes_those_beside_it() {
        let limits = crate::limits::Limits::default();
        let rules = DraftRules { limits: &limits, properties: b"" };
        let topic =
            |bytes: &'static [u8]| OwnedChange { field: Field::TOPIC, bytes: bytes.into(), ..verdict(0) };
        let before = Draft { topic: Some("before".into()), ..Draft::default() };
        let ticket = |policy| OpenTicket {
            before: Some(Box::new(Before::Message(before.clone()))),
            ..open(7, policy, None)
        };
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let chain = Suspended::new(HookPoint::MessagePublish, Draft::default(), 1);
            let mut waiting = Suspended { ticket: Some(Ticket(7)), ..chain };
            let changes = [topic(b"good"), topic(b"#")];
            let resumed = waiting.resume(&ticket(policy), Some((Flow::STOP, &changes)), rules);
            let Some(Resumed::Failed { ends, refused: Some(change), blamed: true }) = resumed else {
                panic!("{resumed:?} should be a refused change");
            };
            let denies = policy == FaultPolicy::Deny;
            assert_eq!((ends, change.place, change.field), (denies, 1, Field::TOPIC));
            assert_eq!(change.why.reason, Some("the topic contains # or + [MQTT-4.7.0-1]"));
            assert_eq!(waiting.accumulator, if denies { Draft::denied() } else { before.clone() });
        }
    }

    #[test]
    fn a_failed_answer_leaves_what_was_before_its_link() {
        let (changed, before) = (ClientVerdict { verdict: ALLOW, ..nobody() }, nobody());
        let good_and_bad = [verdict(u64::from(DENY)), verdict(9)];
        let refused = RefusedChange { place: 1, field: Field::VERDICT, why: Status::INVALID.into() };
        for policy in [FaultPolicy::Ignore, FaultPolicy::Deny] {
            let ends = policy == FaultPolicy::Deny;
            for (answer, why, refused) in [
                (None, Why::Deadline, None),
                (Some((Flow::FAULT, &[][..])), Why::Fault, None),
                (Some((Flow::UNANSWERED, &[][..])), Why::Fault, None),
                (Some((Flow::CONTINUE, &good_and_bad[..])), Why::Fault, Some(refused)),
            ] {
                let mut waiting = Suspended { accumulator: changed.clone(), ..request(7) };
                let resumed = waiting.resume(&open(7, policy, Some(before.clone())), answer, 64);
                let blamed = !matches!(answer, Some((Flow::UNANSWERED, _)));
                assert_eq!(resumed, Some(Resumed::Failed { ends, refused, blamed }));
                let said = if ends { DENY } else { UNANSWERED };
                let silence = Some(Silence { why, policy });
                assert_eq!(waiting.accumulator, ClientVerdict { verdict: said, silence, ..nobody() });
            }
        }
    }
}
