//! client.authorize: an authorization request on its way along the chain, whatever its source, and
//! the meaning of the verdict.

use super::hooks;
use super::hooks::{Answer, ChainOutcome};
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::verdict::{ClientVerdict, Rechecked};
use crate::hook::view::{Action, Request};
use crate::hook::{HookPoint, LinkIdentity};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::Identity;

/// A request that no link has seen yet.
pub(crate) fn new_request(parts: &Parts, identity: &Identity) -> AuthorizationRequest {
    let nobody = ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED);
    AuthorizationRequest::new(HookPoint::ClientAuthorize, nobody, parts.hooks.authz_epoch())
}

/// Runs client.authorize from where the request stands. Superusers may do everything, as in EMQX.
/// Deliveries pass if no link authorizes deliveries. The topic of the request is that of the broker.
pub(crate) fn authorize(
    parts: &mut Parts,
    identity: &Identity,
    request: Request<'_>,
    mut auth_request: AuthorizationRequest,
    behind: Option<&[LinkIdentity]>,
    waiter: Waiter,
) -> RequestOutcome {
    let asks_nobody =
        request.action == Action::Deliver && !parts.hooks.chain(HookPoint::ClientAuthorize).delivers();
    if identity.superuser || asks_nobody {
        return RequestOutcome::Answered(Ok(()));
    }
    match ask(parts, &mut auth_request, (identity, request), behind, waiter) {
        ChainOutcome::Completed => outcome(parts, &auth_request),
        ChainOutcome::Waits => RequestOutcome::Waits(auth_request),
    }
}

/// Runs client.authorize from where it stands, whoever the client is. The topic of the request is
/// that of the broker.
pub(crate) fn ask(
    parts: &mut Parts,
    auth_request: &mut AuthorizationRequest,
    (identity, request): (&Identity, Request<'_>),
    behind: Option<&[LinkIdentity]>,
    waiter: Waiter,
) -> ChainOutcome {
    hooks::go_on(parts, auth_request, identity.view(), Some(seen(request, identity)), behind, waiter)
}

/// The outcome of a request whose chain has ended.
pub(crate) fn outcome(parts: &Parts, request: &AuthorizationRequest) -> RequestOutcome {
    let is_unanswered = request.accumulator.rechecked(parts.setup.no_match_allow) == Rechecked::Repeat;
    match verdict_of(parts, request) {
        Err(reason) if is_unanswered => RequestOutcome::Unanswered(reason),
        verdict => RequestOutcome::Answered(verdict),
    }
}

/// What the chain's verdict means for the current request.
pub(crate) fn verdict_of(parts: &Parts, request: &AuthorizationRequest) -> Result<(), ReasonCode> {
    super::hooks::may(&request.accumulator, parts.setup.no_match_allow)
}

/// A request as the client makes it. Rules of client.authorize are about topics as clients name
/// them, without the mount point, as in EMQX.
pub(crate) fn seen<'a>(request: Request<'a>, identity: &Identity) -> Request<'a> {
    Request { topic: identity.seen(request.topic), ..request }
}

/// Whether a verdict under rules version `epoch` on a client and a topic of the broker would come
/// from the same rules now. Without a topic: on any topic.
pub(crate) fn is_current(parts: &Parts, epoch: u64, identity: &Identity, topic: Option<&str>) -> bool {
    let topic = topic.map(|topic| identity.seen(topic));
    parts.hooks.are_rules_current(epoch, &identity.client_id, identity.username.as_deref(), topic)
}

/// Takes a verdict on a request about a topic; true if it ends the chain. The request restarts if
/// the rules have changed for its client and topic.
pub(crate) fn request_answered(
    parts: &mut Parts,
    (identity, topic): (&Identity, &str),
    request: &mut AuthorizationRequest,
    ticket: &OpenTicket,
    answer: Answer<'_>,
) -> bool {
    let rules = parts.setup.limits.user_properties_max as usize;
    let ends = hooks::resume(parts, request, ticket, answer, rules);
    if let Some(ends) = ends
        && is_current(parts, request.epoch(), identity, Some(topic))
    {
        return ends;
    }
    // The links are called again, a limited number of times.
    request.begin_anew(parts.hooks.authz_epoch());
    false
}

/// Outcome of a request, or where it waits.
pub(crate) enum RequestOutcome {
    /// The verdict: allowed, or refused with this reason.
    Answered(Result<(), ReasonCode>),
    /// Refused with this reason, because a link has given no verdict.
    Unanswered(ReasonCode),
    /// A link has deferred, or the next link must wait for the publish in front.
    Waits(AuthorizationRequest),
}
