//! Re-authentication (MQTT 5.0 section 4.12.1): client.authenticate once more, while the connection
//! works as usual.

use std::rc::Rc;

use bytes::Bytes;

use super::hooks::{Answer, ChainOutcome};
use super::{authority, ending, hooks, reading, send};
use crate::clients::admission::Renewal;
use crate::codec::DecodeError;
use crate::hook::HookPoint;
use crate::hook::suspended::Suspended;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::verdict::{ALLOW, ANOTHER_ROUND, ClientVerdict};
use crate::hook::view::ClientView;
use crate::id::ConnKey;
use crate::interface::Scope;
use crate::packet::{Auth, Property, push_property};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::{EndCause, Identity};

/// Handles AUTH of a client that is connected: it begins a re-authentication, or the next round of
/// one.
pub(crate) fn on_auth(parts: &mut Parts, key: ConnKey, auth: &Auth<'_>) -> Result<(), DecodeError> {
    let broken = |detail| DecodeError { reason: ReasonCode::PROTOCOL_ERROR, detail };
    let Some(conn) = parts.connections.get(key) else { return Ok(()) };
    let handshake = conn.handshake();
    let Some(method) = handshake.and_then(|handshake| handshake.auth_method.clone()) else {
        // Without an authentication method in CONNECT the client must not send AUTH [MQTT-4.12.0-6].
        return Err(broken("AUTH without an authentication method"));
    };
    if auth.properties.auth_method() != Some(&*method) {
        // [MQTT-4.12.1-1]
        return Err(broken("AUTH with another authentication method than CONNECT"));
    }
    let fits = match (auth.reason, handshake.and_then(|handshake| handshake.renewal.as_deref())) {
        (ReasonCode::REAUTHENTICATE, renewal) => renewal.is_none(),
        (ReasonCode::CONTINUE_AUTHENTICATION, renewal) => matches!(renewal, Some(Renewal::Client)),
        _ => false,
    };
    if !fits {
        return Err(broken("AUTH out of turn"));
    }
    let Some(identity) = conn.identity.clone() else { return Ok(()) };
    let verdict = ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED);
    let data = Bytes::copy_from_slice(auth.properties.auth_data().unwrap_or_default());
    if let Some(handshake) = parts.connections.get_mut(key).and_then(|conn| conn.handshake_mut()) {
        handshake.renewal = None;
        handshake.packet_due_ms = None;
    }
    let suspended = Suspended::new(HookPoint::ClientAuthenticate, verdict, parts.hooks.authz_epoch());
    renew(parts, key, data, suspended, false);
    Ok(())
}

/// Continues a re-authentication; the connection works as usual meanwhile (section 4.12.1). `ended`
/// says that the chain has ended.
fn renew(parts: &mut Parts, key: ConnKey, data: Bytes, mut suspended: Suspended<ClientVerdict>, ended: bool) {
    let Some(conn) = parts.connections.get(key) else { return };
    let method = conn.handshake().and_then(|handshake| handshake.auth_method.clone());
    let (Some(identity), Some(method)) = (conn.identity.clone(), method) else { return };
    if !ended {
        let mut section = Vec::new();
        push_property(&mut section, Property::AuthMethod(&method));
        push_property(&mut section, Property::AuthData(&data));
        let client = ClientView { properties: &section, ..identity.view() };
        let walk = hooks::go_on(parts, &mut suspended, client, None, None, Waiter::Renewal(key));
        if let ChainOutcome::Waits = walk {
            let suspended = Box::new(suspended);
            return keep_renewal(parts, key, Renewal::Suspended { data, suspended });
        }
    }
    renewed(parts, key, &method, suspended.accumulator);
}

fn keep_renewal(parts: &mut Parts, key: ConnKey, renewal: Renewal) {
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.set_handshake().renewal = Some(Box::new(renewal));
    }
}

/// Takes a deferred verdict on a re-authentication.
pub(crate) fn renewal_answered(parts: &mut Parts, key: ConnKey, ticket: &OpenTicket, answer: Answer<'_>) {
    let Some(handshake) = parts.connections.get_mut(key).and_then(|conn| conn.handshake_mut()) else {
        return;
    };
    let waits = |renewal: &mut Box<Renewal>| renewal.ticket() == Some(ticket.number);
    let Some(Renewal::Suspended { data, mut suspended }) =
        handshake.renewal.take_if(waits).map(|renewal| *renewal)
    else {
        return;
    };
    let rules = parts.setup.limits.user_properties_max as usize;
    let ends = hooks::resume(parts, &mut suspended, ticket, answer, rules);
    renew(parts, key, data, *suspended, ends == Some(true));
}

fn renewed(parts: &mut Parts, key: ConnKey, method: &str, verdict: ClientVerdict) {
    let reason = match verdict.verdict {
        ALLOW => ReasonCode::SUCCESS,
        ANOTHER_ROUND => ReasonCode::CONTINUE_AUTHENTICATION,
        _ => {
            parts.counters.client_auth_denied += 1;
            // DISCONNECT has no 0x88 (section 3.14.2.1); 0x89 says much the same.
            let reason =
                if verdict.is_unanswered_denial() { ReasonCode::SERVER_BUSY } else { verdict.reason };
            return end_renewal(parts, key, reason);
        }
    };
    if !send::send_auth(parts, key, reason, Some(method), verdict.auth_data.as_deref()) {
        return end_renewal(parts, key, ReasonCode::PACKET_TOO_LARGE);
    }
    if reason == ReasonCode::SUCCESS {
        set_superuser(parts, key, verdict.superuser);
        return;
    }
    keep_renewal(parts, key, Renewal::Client);
    reading::expect_packet(parts, key);
}

/// Ends the connection after a failed re-authentication [MQTT-4.12.1-2].
pub(crate) fn end_renewal(parts: &mut Parts, key: ConnKey, reason: ReasonCode) {
    ending::end_connection(parts, key, EndCause::ByBroker(reason), Some((reason, None)));
}

fn set_superuser(parts: &mut Parts, key: ConnKey, superuser: bool) {
    let Some(conn) = parts.connections.get_mut(key) else { return };
    let Some(identity) = &mut conn.identity else { return };
    if identity.superuser != superuser {
        let changed = Rc::new(Identity { superuser, ..Identity::clone(identity) });
        *identity = Rc::clone(&changed);
        if let Some(session) = conn.session.and_then(|session| parts.sessions.get_mut(session)) {
            session.identity = Rc::clone(&changed);
        }
        if !superuser {
            // Rights that it has by this value alone are authorized again.
            authority::invalidate(parts, Scope::Client((&*changed.client_id).into()));
        }
    }
}
