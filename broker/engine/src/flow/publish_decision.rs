//! The decision about a publish: client.authorize, then message.publish, then client.authorize for
//! a topic that hooks have set. Called by `publish.rs` for a publish that comes, and by `pump.rs` for
//! one that waits in a slot.

use std::rc::Rc;
use std::sync::Arc;

use super::authorize::RequestOutcome;
use super::hooks::ChainOutcome;
use super::{authorize, hooks, notify};
use crate::counters::DropReason;
use crate::hook::HookPoint;
use crate::hook::draft::{Disposition, Draft};
use crate::hook::suspended::Suspended;
use crate::hook::tickets::Waiter;
use crate::hook::view::Request;
use crate::id::SessionKey;
use crate::message::{Message, MessageView};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::publish::{Authorization, OrderingLimit, OriginalPublish, PublishMetadata, Verdict};
use crate::session::{Identity, Source, Stage};

/// How far a publish has come, or the verdict that refuses it.
pub(crate) type Decision = Result<Progress, Verdict>;

/// How far a publish has come that is not refused.
pub(crate) enum Progress {
    /// It takes effect, with these changes.
    Pass(Draft),
    /// It waits at a link of message.publish.
    Chain(Suspended<Draft>),
    /// It waits at a link of client.authorize.
    Authorize(Box<Authorization>),
}

impl Progress {
    /// The stage of a publish that waits in a slot. Once all changes are made, they are applied to
    /// `message`; if they change the topic, `as_sent` gets the original.
    pub(crate) fn stage(
        self,
        message: &mut Arc<Message>,
        as_sent: &mut Option<Box<OriginalPublish>>,
        now_ms: u64,
    ) -> Stage {
        match self {
            Progress::Pass(mut draft) => {
                if !draft.leaves_message() {
                    let moved = draft
                        .topic_text()
                        .and_then(|topic| OriginalPublish::of_moved(&message.view(), topic));
                    *as_sent = as_sent.take().or(moved);
                    draft.apply(Arc::make_mut(message), now_ms);
                }
                Stage::decided(draft.extra)
            }
            Progress::Chain(chain) => Stage::Chain(chain),
            Progress::Authorize(authorization) => Stage::Authorize(authorization),
        }
    }
}

/// Identifies a publish: its source, and the slot that it has or would get.
#[derive(Clone, Copy)]
pub(crate) struct SlotId {
    pub(crate) session: SessionKey,
    pub(crate) number: u64,
    pub(crate) source: Source,
    pub(crate) metadata: PublishMetadata,
    /// How often its authorization request was restarted. The next request continues this count.
    pub(crate) rounds: u8,
}

/// Authorization and the chain of a new publish.
pub(crate) fn decide(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    at: SlotId,
    limit: &OrderingLimit,
) -> Decision {
    // A publish in front waits at client.authorize first.
    if parts.hooks.chain(HookPoint::ClientAuthorize).is_empty() && limit.authorize.is_none() {
        let is_allowed = parts.setup.no_match_allow || identity.superuser;
        if is_allowed && !matches!(at.source, Source::AuthorizationRequest(_)) {
            return begin_walk(parts, identity, view, at, limit);
        }
        let answer = if is_allowed { Ok(()) } else { Err(ReasonCode::NOT_AUTHORIZED) };
        return authorized(parts, identity, view, at, (RequestOutcome::Answered(answer), None, None), limit);
    }
    let request = authorize::new_request(parts, identity);
    let authorization = Authorization { request, after: None, first: None };
    authorize_on(parts, identity, view, at, authorization, limit)
}

/// Continues with client.authorize.
pub(crate) fn authorize_on(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    at: SlotId,
    Authorization { request: auth_request, after, first }: Authorization,
    behind: &OrderingLimit,
) -> Decision {
    let now_ms = parts.clock.now().mono_ms;
    let (topic, qos, retain) = match (&first, &after) {
        (Some(first), _) => (&*first.topic, first.qos, first.retain),
        (None, Some(draft)) => {
            let changed = draft.view(*view, now_ms);
            (changed.topic, changed.qos, changed.retain)
        }
        (None, None) => (view.topic, view.qos, view.retain),
    };
    let request = Request { action: at.source.action(), topic, qos, retain };
    let limit = behind.authorize.as_deref().filter(|_| after.is_none());
    let waiter = Waiter::Publish(at.session, at.number, HookPoint::ClientAuthorize);
    let at = SlotId { rounds: at.rounds.max(auth_request.rounds()), ..at };
    let outcome = authorize::authorize(parts, identity, request, auth_request, limit, waiter);
    if matches!(outcome, RequestOutcome::Answered(Ok(())))
        && after.is_none()
        && !matches!(at.source, Source::AuthorizationRequest(_))
    {
        // As `authorized` does, without passing the large outcome on.
        return begin_walk(parts, identity, view, at, behind);
    }
    authorized(parts, identity, view, at, (outcome, after, first), behind)
}

/// Applies the client.authorize verdict on a publish.
pub(crate) fn authorized(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    at: SlotId,
    (outcome, after, first): (RequestOutcome, Option<Draft>, Option<Box<OriginalPublish>>),
    limit: &OrderingLimit,
) -> Decision {
    let outcome = match outcome {
        // A plugin gets the code for "try again".
        RequestOutcome::Unanswered(_) if at.source.is_on_behalf() => {
            RequestOutcome::Answered(Err(ReasonCode::SERVER_UNAVAILABLE))
        }
        outcome => outcome,
    };
    match (outcome, after) {
        (RequestOutcome::Answered(Err(reason)) | RequestOutcome::Unanswered(reason), _) => {
            // A request of a plugin is no packet. It is counted where it ends.
            if matches!(at.source, Source::Client | Source::Will) {
                parts.counters.packets_publish_auth_error += 1;
            }
            Err(Verdict::code(reason))
        }
        // The request was only for authorization.
        (RequestOutcome::Answered(Ok(())), _) if matches!(at.source, Source::AuthorizationRequest(_)) => {
            Err(Verdict::code(ReasonCode::SUCCESS))
        }
        (RequestOutcome::Answered(Ok(())), after @ Some(_)) if first.is_some() => {
            // The topic as sent is allowed. Next is the topic that hooks have set.
            let request = authorize::new_request(parts, identity).after_rounds(at.rounds);
            let authorization = Authorization { request, after, first: None };
            authorize_on(parts, identity, view, at, authorization, limit)
        }
        (RequestOutcome::Answered(Ok(())), Some(draft)) => Ok(Progress::Pass(draft)),
        (RequestOutcome::Answered(Ok(())), None) => begin_walk(parts, identity, view, at, limit),
        (RequestOutcome::Waits(request), after) => {
            Ok(Progress::Authorize(Box::new(Authorization { request, after, first })))
        }
    }
}

/// Begins message.publish.
pub(crate) fn begin_walk(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    at: SlotId,
    limit: &OrderingLimit,
) -> Decision {
    let chain = Suspended::new(HookPoint::MessagePublish, Draft::default(), parts.hooks.authz_epoch());
    walk(parts, identity, view, at, chain, limit)
}

/// Runs message.publish as far as possible.
pub(crate) fn walk(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    at: SlotId,
    mut chain: Suspended<Draft>,
    limit: &OrderingLimit,
) -> Decision {
    if parts.hooks.chain(HookPoint::MessagePublish).is_empty() {
        return apply_publish_verdict(parts, identity, view, at, chain.accumulator);
    }
    let waiter = Waiter::Publish(at.session, at.number, HookPoint::MessagePublish);
    let shown = hooks::PublishView { view: *view, dup: at.metadata.dup, will: at.source == Source::Will };
    let behind = limit.publish.as_deref();
    match hooks::run_publish(parts, &mut chain, identity, shown, behind, waiter) {
        ChainOutcome::Completed => apply_publish_verdict(parts, identity, view, at, chain.accumulator),
        ChainOutcome::Waits => Ok(Progress::Chain(chain)),
    }
}

/// Applies the result of message.publish.
pub(crate) fn apply_publish_verdict(
    parts: &mut Parts,
    identity: &Rc<Identity>,
    view: &MessageView<'_>,
    at: SlotId,
    draft: Draft,
) -> Decision {
    let reason = match draft.reason {
        _ if draft.is_unanswered && at.source.is_on_behalf() => ReasonCode::SERVER_UNAVAILABLE,
        reason => reason.unwrap_or(ReasonCode::NOT_AUTHORIZED),
    };
    match draft.disposition {
        Disposition::Pass => {}
        Disposition::Drop => {
            notify::count_drop(parts, DropReason::Hook, &draft.view(*view, parts.clock.now().mono_ms), None);
            return Err(Verdict::code(ReasonCode::SUCCESS));
        }
        Disposition::Reject => {
            return Err(Verdict { code: reason, text: draft.reason_string, disconnect: false });
        }
        Disposition::Disconnect => {
            return Err(Verdict { code: reason, text: None, disconnect: true });
        }
    }
    let moved = draft.topic_text().is_some_and(|topic| topic != view.topic);
    // A plugin's own publish needs no authorization.
    let is_clients = at.source.is_clients();
    if moved && is_clients {
        // The new topic is authorized too.
        let request = authorize::new_request(parts, identity).after_rounds(at.rounds);
        let authorization = Authorization { request, after: Some(draft), first: None };
        return authorize_on(parts, identity, view, at, authorization, &OrderingLimit::default());
    }
    // Checked after the chain, because a plugin may consume such topics, for example `$delayed/…`.
    if !moved && is_clients && is_reserved(parts, identity.seen(view.topic)) {
        parts.counters.packets_publish_dollar_error += u64::from(at.source != Source::Behalf);
        return Err(Verdict::code(ReasonCode::NOT_AUTHORIZED));
    }
    Ok(Progress::Pass(draft))
}

/// Whether clients may not publish to a topic, as they name it, because it is reserved for the
/// server [MQTT-4.7.2-1].
#[inline]
pub(crate) fn is_reserved(parts: &Parts, topic: &str) -> bool {
    topic.as_bytes().first() == Some(&b'$') && !parts.setup.limits.choices.allow_dollar_topics
}
