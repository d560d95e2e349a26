//! client.authorize: a request on its way along the chain, whoever asks, and what its answer means.

use super::hooks;
use super::hooks::{Answer, Walked};
use crate::hook::suspended::AuthorizationRequest;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::verdict::{ClientVerdict, Rechecked};
use crate::hook::view::{Action, Request};
use crate::hook::{HookPoint, LinkIdentity};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::Identity;

/// A request that nobody has been asked about yet.
pub(crate) fn new_request(parts: &Parts, identity: &Identity) -> AuthorizationRequest {
    let nobody = ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED);
    AuthorizationRequest::new(HookPoint::ClientAuthorize, nobody, parts.hooks.authz_epoch())
}

/// Runs client.authorize for what a client asks for now, from where the request stands. Superusers may do
/// everything, as in EMQX, and where no link asks about deliveries, they pass as the broker's own do.
pub(crate) fn authorize(
    parts: &mut Parts,
    identity: &Identity,
    request: Request<'_>,
    mut ask: AuthorizationRequest,
    behind: Option<&[LinkIdentity]>,
    waiter: Waiter,
) -> RequestOutcome {
    let asks_nobody =
        request.action == Action::Deliver && !parts.hooks.chain(HookPoint::ClientAuthorize).delivers();
    if identity.superuser || asks_nobody {
        return RequestOutcome::Answered(Ok(()));
    }
    match hooks::go_on(parts, &mut ask, identity.view(), Some(request), behind, waiter) {
        Walked::Through => outcome(parts, &ask),
        Walked::Waits => RequestOutcome::Waits(ask),
    }
}

/// How a question ended whose chain is through.
pub(crate) fn outcome(parts: &Parts, request: &AuthorizationRequest) -> RequestOutcome {
    let is_unanswered = request.accumulator.rechecked(parts.setup.no_match_allow) == Rechecked::Repeat;
    match verdict_of(parts, request) {
        Err(reason) if is_unanswered => RequestOutcome::Unanswered(reason),
        verdict => RequestOutcome::Answered(verdict),
    }
}

/// What the chain's answer means for what is asked for now.
pub(crate) fn verdict_of(parts: &Parts, request: &AuthorizationRequest) -> Result<(), ReasonCode> {
    super::hooks::may(&request.accumulator, parts.setup.no_match_allow)
}

/// Whether what was said about a client and a topic under this version of the rules would be decided by the same ones now; without a
/// topic, about any.
pub(crate) fn is_current(parts: &Parts, epoch: u64, identity: &Identity, topic: Option<&str>) -> bool {
    parts.hooks.are_rules_current(epoch, &identity.client_id, identity.username.as_deref(), topic)
}

/// An answer to a request about a topic: true if it ends the chain. One that was begun before the rules changed for its client and
/// topic begins anew.
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
    // The links are asked again, a few times at most.
    request.begin_anew(parts.hooks.authz_epoch());
    false
}

/// How a question ended, or where it waits.
pub(crate) enum RequestOutcome {
    /// The client may, or may not for this reason.
    Answered(Result<(), ReasonCode>),
    /// The client may not, for this reason, because a link that was asked has given no answer.
    Unanswered(ReasonCode),
    /// A link answers later, or the next one must wait for the publish in front.
    Waits(AuthorizationRequest),
}
