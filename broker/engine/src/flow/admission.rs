//! Admission of a CONNECT: client.connect, client.authenticate with any number of AUTH rounds,
//! client.authorize for the will. Each may be deferred; meanwhile the connection is read only to
//! receive the client's AUTH.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;

use super::connect::kept_properties;
use super::hooks::{Answer, ChainOutcome};
use super::reading::Handled;
use super::{authorize, connack, connect, hooks, inherit, notify, reading, renewal, send, wake};
use crate::clients::admission::{Admission, Step};
use crate::clients::connection::State;
use crate::clients::reading::Pause;
use crate::clients::waiting::Busy;
use crate::codec::DecodeError;
use crate::flow::inherit::Claim;
use crate::hook::HookPoint;
use crate::hook::section::Section;
use crate::hook::suspended::Suspended;
use crate::hook::tickets::{OpenTicket, Waiter};
use crate::hook::verdict::{ALLOW, ANOTHER_ROUND, ClientVerdict, DENY, UNANSWERED};
use crate::hook::view::{Action, Request, StoredSession};
use crate::id::ConnKey;
use crate::outbox::{ConnectLimit, ConnectRefused};
use crate::packet::{Auth, Connect, OwnedConnect, Packet, PacketType, Properties, Property, push_property};
use crate::parts::Parts;
use crate::reason::ReasonCode;
use crate::session::Identity;

/// Runs client.connect, then client.authenticate, then the authorization of the will.
pub(crate) fn admit(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    whole: &[u8],
    assigned: bool,
) -> Handled {
    let Some(mut identity) = connect::identity_of(parts, key, connect, assigned) else {
        return Handled::Closed;
    };
    let mount = connect::mount_of(parts, key, &identity);
    identity.mount = mount.as_ref().map_or(None, Clone::clone);
    let identity = Rc::new(identity);
    reading::set_identity(parts, key, Rc::clone(&identity));
    notify::notify_received(parts, key, PacketType::Connect, whole);
    if parts.connections.is_draining() {
        // CONNACK has no 0x8B (table 3-1).
        return connack::refuse(parts, key, ReasonCode::SERVER_UNAVAILABLE, None);
    }
    if let Err(error) = mount {
        return connack::refuse(parts, key, error.reason(), Some(error.to_string().as_bytes()));
    }
    let limits = &parts.setup.limits;
    let (max, address_max) = (limits.connects_pending_max, limits.connects_pending_per_address_max);
    let address = identity.peer.get().map(|peer| peer.ip());
    if let Err(busy) = parts.connections.waiting().has_room(address, max, address_max) {
        return refuse_busy(parts, key, address, busy);
    }
    if connect.properties.auth_method().is_some()
        && parts.hooks.chain(HookPoint::ClientAuthenticate).is_empty()
    {
        // No plugin could handle the method [section 4.12].
        return connack::refuse(parts, key, ReasonCode::BAD_AUTHENTICATION_METHOD, None);
    }
    let properties = Section::of(Bytes::copy_from_slice(connect.properties.as_bytes()));
    let unanswered = ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED);
    let verdict = ClientVerdict { properties, ..unanswered };
    let suspended = Suspended::new(HookPoint::ClientConnect, verdict, parts.hooks.authz_epoch());
    let admission = Admission {
        packet: None,
        identity,
        assigned,
        step: Step::Connect,
        suspended,
        data: None,
        final_auth_data: None,
        will: None,
        inheritance: None,
        queued: false,
    };
    go_on(parts, key, connect, admission, false)
}

/// Refuses a CONNECT without a call of a plugin, because the maximum number waits already.
fn refuse_busy(parts: &mut Parts, key: ConnKey, address: Option<IpAddr>, busy: Busy) -> Handled {
    let text: &[u8] = match busy {
        Busy::All => {
            parts.counters.connects_pending_refused += 1;
            b"too many CONNECTs are pending"
        }
        Busy::Address => {
            parts.counters.connects_pending_address_refused += 1;
            b"too many CONNECTs are pending from this address"
        }
    };
    let now_ms = parts.clock.now().mono_ms;
    if let Some(unlogged) = parts.connections.waiting().refused(now_ms) {
        let limit = match (busy, address) {
            (Busy::All, _) => ConnectLimit::Shard,
            (Busy::Address, Some(address)) => ConnectLimit::Address(address),
            (Busy::Address, None) => ConnectLimit::UnixSockets,
        };
        parts.out.connect_refused = Some(ConnectRefused { limit, unlogged });
    }
    connack::refuse(parts, key, ReasonCode::SERVER_BUSY, Some(text))
}

/// Continues a CONNECT; `answered` says that the chain of its step has ended.
fn go_on(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    mut admission: Admission,
    mut answered: bool,
) -> Handled {
    let mut left = super::inherit::SLICE;
    loop {
        if !std::mem::take(&mut answered)
            && let ChainOutcome::Waits = run_step(parts, key, connect, &mut admission)
        {
            return suspend_admission(parts, key, connect, admission);
        }
        let next = match admission.step {
            Step::Connect => connect_allowed(parts, key, connect, &mut admission),
            Step::Authenticate => authenticated(parts, key, connect, &mut admission),
            Step::Will => will_allowed(parts.setup.no_match_allow, &admission).map(|()| None),
            Step::Inherit => inherit_answered(parts, &mut admission),
            Step::Client => return Handled::Closed,
        };
        match next {
            Err((reason, text)) => return connack::refuse(parts, key, reason, text.as_deref()),
            Ok(Some(step)) => {
                admission.go_to(step);
                if step == Step::Client {
                    return suspend_admission(parts, key, connect, admission);
                }
            }
            Ok(None) => match inherit::claim(parts, key, connect, &mut admission) {
                Claim::Free => return connect::establish(parts, key, connect, admission, false),
                Claim::Discards => return connect::establish(parts, key, connect, admission, true),
                Claim::Refused(reason) => {
                    parts.counters.session_owner_refused += 1;
                    return connack::refuse(parts, key, reason, None);
                }
                claim => {
                    admission.go_to(Step::Inherit);
                    admission.suspended.accumulator.begin_anew(ReasonCode::NOT_AUTHORIZED);
                    left -= 1;
                    if matches!(claim, Claim::Waits) {
                        // Until the session is idle, or this wait times out.
                        let handled = suspend_admission(parts, key, connect, admission);
                        reading::expect_packet(parts, key);
                        return handled;
                    } else if left == 0 {
                        let handled = suspend_admission(parts, key, connect, admission);
                        wake::queue_takeover(parts, key);
                        return handled;
                    }
                }
            },
        }
    }
}

/// Runs the chain of a step from where it stands.
fn run_step(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    admission: &mut Admission,
) -> ChainOutcome {
    if matches!(admission.step, Step::Connect | Step::Authenticate)
        && parts.hooks.chain(admission.suspended.point()).is_empty()
    {
        return ChainOutcome::Completed;
    }
    let identity = Rc::clone(&admission.identity);
    let mut client = identity.view();
    let mut section = Vec::new();
    client.will = connect.will;
    client.connect_username = connect.username;
    let holder;
    let mut request = None;
    let waiter = match admission.step {
        Step::Connect => {
            client.session = holder_of(parts, &identity.client_id).map_or(0, |holder| holder.session);
            Waiter::Connect(key)
        }
        Step::Authenticate => {
            client.password = connect.password;
            holder = holder_of(parts, &identity.client_id);
            client.session = holder.as_ref().map_or(0, |holder| holder.session);
            client.stored = Some(match &holder {
                Some(holder) => StoredSession::Of(holder.username.as_deref()),
                None => StoredSession::Absent,
            });
            if let Some(method) = connect.properties.auth_method() {
                section.extend_from_slice(&identity.properties);
                push_property(&mut section, Property::AuthMethod(method));
                let first = connect.properties.auth_data();
                let data = admission.data.as_deref().or(first);
                data.into_iter().for_each(|data| push_property(&mut section, Property::AuthData(data)));
                client.properties = &section;
            }
            Waiter::Authenticate(key)
        }
        Step::Inherit => {
            request = admission.inheritance.as_ref().and_then(|inheritance| inheritance.request(&identity));
            if request.is_none() {
                return ChainOutcome::Completed;
            }
            Waiter::Will(key)
        }
        Step::Will | Step::Client => {
            let Some(will) = &connect.will else { return ChainOutcome::Completed };
            request =
                Some(Request { action: Action::Will, topic: will.topic, qos: will.qos, retain: will.retain });
            if identity.superuser {
                admission.suspended.accumulator.verdict = ALLOW;
                return ChainOutcome::Completed;
            }
            Waiter::Will(key)
        }
    };
    hooks::go_on(parts, &mut admission.suspended, client, request, None, waiter)
}

/// The identity of the session under a client identifier.
fn holder_of(parts: &Parts, client_id: &str) -> Option<Rc<Identity>> {
    let session = parts.sessions.get(parts.sessions.by_client_id(client_id)?)?;
    Some(Rc::clone(&session.identity))
}

/// Stores a CONNECT until the next AUTH of the client or the verdict of a plugin arrives. Only in
/// the first case the client is read.
fn suspend_admission(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    mut admission: Admission,
) -> Handled {
    admission.packet.get_or_insert_with(|| Rc::new(OwnedConnect::of(connect)));
    let by_client = admission.step == Step::Client;
    let Some(conn) = parts.connections.get_mut(key) else { return Handled::Closed };
    conn.state = State::Admitting;
    conn.set_handshake().admission = Some(Box::new(admission));
    if !by_client {
        conn.pause(Pause::Admission);
    }
    let peer = conn.address();
    parts.connections.waiting().begins(peer);
    if by_client {
        // Each round has the same timeout as CONNECT.
        reading::expect_packet(parts, key);
        return Handled::Next;
    }
    Handled::Pause
}

fn take_admission(parts: &mut Parts, key: ConnKey) -> Option<Admission> {
    let conn = parts.connections.get_mut(key)?;
    let handshake = conn.handshake_mut()?;
    let admission = handshake.admission.take()?;
    handshake.packet_due_ms = None;
    conn.state = State::New;
    let peer = conn.address();
    parts.connections.waiting().ends(peer);
    Some(*admission)
}

/// Takes a deferred verdict on a CONNECT; `None` if its deadline has passed.
pub(crate) fn admission_answered(parts: &mut Parts, key: ConnKey, ticket: &OpenTicket, answer: Answer<'_>) {
    let Some(admission) = parts.connections.get(key).and_then(|conn| conn.admission()) else { return };
    if !admission.suspended.waits_for(ticket.number) {
        return;
    }
    let Some(mut admission) = take_admission(parts, key) else { return };
    let rules = parts.setup.limits.user_properties_max as usize;
    let ends = match admission.step {
        Step::Will => {
            let identity = Rc::clone(&admission.identity);
            let topic = admission.will.as_ref().map_or("", |will| &will.message.topic);
            authorize::request_answered(parts, (&identity, topic), &mut admission.suspended, ticket, answer)
        }
        // If the rules have changed, the whole session is authorized again.
        _ => hooks::resume(parts, &mut admission.suspended, ticket, answer, rules) == Some(true),
    };
    admission_goes_on(parts, key, admission, ends);
}

/// Takes the client.authorize verdict on an item of a session of another principal.
fn inherit_answered(
    parts: &Parts,
    admission: &mut Admission,
) -> Result<Option<Step>, (ReasonCode, Option<Bytes>)> {
    let no_match_allow = parts.setup.no_match_allow;
    let Some(inheritance) = &mut admission.inheritance else { return Ok(None) };
    inheritance
        .answered(&admission.suspended.accumulator, no_match_allow)
        .map_err(|reason| (reason, None))?;
    Ok(None)
}

/// Continues with the first waiting takeover. One that has ended is skipped.
pub(crate) fn serve_takeovers(parts: &mut Parts) {
    let Some(key) = parts.work.pop_takeover() else { return };
    if let Some(mut admission) = take_admission(parts, key) {
        admission.queued = false;
        admission_goes_on(parts, key, admission, false);
    }
}

fn admission_goes_on(parts: &mut Parts, key: ConnKey, admission: Admission, answered: bool) {
    let Some(packet) = admission.packet.clone() else { return };
    let handled = go_on(parts, key, &packet.view(), admission, answered);
    if let Handled::Next = handled {
        reading::resume_from(parts, key, Pause::Admission);
    }
}

/// Handles the end of client.connect.
fn connect_allowed(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    admission: &mut Admission,
) -> Result<Option<Step>, (ReasonCode, Option<Bytes>)> {
    let verdict = &mut admission.suspended.accumulator;
    if verdict.verdict == DENY {
        return Err((verdict.reason, verdict.reason_string.take()));
    }
    let (keep_alive_s, expiry_s) = (verdict.keep_alive_s, verdict.expiry_s);
    let properties = std::mem::take(&mut verdict.properties);
    reading::take_identity(parts, key);
    let identity = Rc::make_mut(&mut admission.identity);
    identity.keep_alive_s = keep_alive_s;
    identity.expiry_s = expiry_s;
    let properties = Properties::from_encoded(properties.as_bytes());
    identity.receive_maximum = properties.receive_maximum().unwrap_or(u16::MAX);
    identity.properties = kept_properties(&properties);
    let identity = Rc::clone(&admission.identity);
    reading::set_identity(parts, key, Rc::clone(&identity));
    let traced = parts.connections.traces().has(&identity.client_id);
    if let Some(conn) = parts.connections.get_mut(key) {
        conn.problem_info = properties.request_problem_info().unwrap_or(true);
        conn.packet_bytes_max = properties.maximum_packet_size().unwrap_or(u32::MAX);
        conn.traced = traced;
    }
    // By client identifier: the connection has no session and no authenticated identity yet.
    send::trace_client(parts, &identity.client_id, true, || {
        crate::traces::describe(&Packet::Connect(*connect))
    });
    admission.suspended.accumulator =
        ClientVerdict::unanswered(&identity.view(), ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    Ok(Some(Step::Authenticate))
}

/// Handles the end of client.authenticate: another round, a refusal, or the will.
fn authenticated(
    parts: &mut Parts,
    key: ConnKey,
    connect: &Connect<'_>,
    admission: &mut Admission,
) -> Result<Option<Step>, (ReasonCode, Option<Bytes>)> {
    let guarded = !parts.hooks.chain(HookPoint::ClientAuthenticate).is_empty();
    let nameless = admission.identity.username.is_none();
    let conn = parts.connections.get(key).ok_or((ReasonCode::UNSPECIFIED_ERROR, None))?;
    // No link has decided: the listener decides. With links mounted, a user name that none accepts
    // is unknown.
    let allowed = conn.peer().is_some_and(|peer| peer.listener.allow_anonymous);
    let welcome = allowed && (nameless || !guarded);
    // The operator has said in the listener's settings that the certificate is the login. Links may
    // refuse it, and a fault of one does too; none has to repeat it.
    let is_certified = admission.identity.is_certified;
    let verdict = &mut admission.suspended.accumulator;
    let method = connect.properties.auth_method();
    match verdict.verdict {
        ALLOW => {}
        UNANSWERED if is_certified && method.is_none() => {}
        UNANSWERED if welcome && method.is_none() => parts.counters.client_auth_anonymous += 1,
        ANOTHER_ROUND if method.is_some() => {
            let data = verdict.auth_data.take();
            if !send::send_auth(parts, key, ReasonCode::CONTINUE_AUTHENTICATION, method, data.as_deref()) {
                return Err((ReasonCode::PACKET_TOO_LARGE, None));
            }
            admission.suspended.accumulator.verdict = UNANSWERED;
            return Ok(Some(Step::Client));
        }
        _ => {
            parts.counters.client_auth_denied += 1;
            return Err(verdict.login_refusal());
        }
    }
    admission.final_auth_data = verdict.auth_data.take().filter(|_| method.is_some());
    let (superuser, anonymous) = (verdict.superuser, verdict.verdict == UNANSWERED && !is_certified);
    reading::take_identity(parts, key);
    let identity = Rc::make_mut(&mut admission.identity);
    (identity.superuser, identity.anonymous) = (superuser, anonymous);
    reading::set_identity(parts, key, Rc::clone(&admission.identity));
    if parts.connections.get(key).is_some_and(|conn| conn.packet_bytes_max != u32::MAX) {
        let final_auth_data = admission.final_auth_data.as_deref();
        let section = connack::connack_section(
            parts,
            connect,
            &admission.identity,
            admission.assigned,
            final_auth_data,
        );
        if !connack::connack_fits(parts, key, &section) {
            // Checked before another connection is ended for it [MQTT-3.2.0-1].
            return Err((ReasonCode::PACKET_TOO_LARGE, None));
        }
    }
    admission.will =
        connect::will_of(parts, connect, &admission.identity).map_err(|reason| (reason, None))?;
    if admission.will.is_none() {
        return Ok(None);
    }
    admission.suspended.accumulator =
        ClientVerdict::unanswered(&admission.identity.view(), ReasonCode::NOT_AUTHORIZED);
    Ok(Some(Step::Will))
}

/// Handles AUTH (MQTT 5.0 section 3.15): the next round of a CONNECT, or of a re-authentication.
pub(crate) fn on_auth(parts: &mut Parts, key: ConnKey, auth: &Auth<'_>) -> Result<(), DecodeError> {
    parts.counters.packets_auth_received += 1;
    let Some(conn) = parts.connections.get(key) else { return Ok(()) };
    match conn.state {
        State::Admitting => next_round(parts, key, auth),
        _ => renewal::on_auth(parts, key, auth),
    }
}

/// Handles AUTH of a client whose CONNECT is not decided.
fn next_round(parts: &mut Parts, key: ConnKey, auth: &Auth<'_>) -> Result<(), DecodeError> {
    let Some(mut admission) = take_admission(parts, key) else { return Ok(()) };
    let method = admission
        .packet
        .as_ref()
        .is_some_and(|packet| packet.view().properties.auth_method() == auth.properties.auth_method());
    if admission.step != Step::Client || !method || auth.reason != ReasonCode::CONTINUE_AUTHENTICATION {
        // [MQTT-4.12.0-3] [MQTT-4.12.0-4]
        connack::refuse(parts, key, ReasonCode::PROTOCOL_ERROR, Some(b"AUTH out of turn"));
        return Ok(());
    }
    admission.data = Some(Bytes::copy_from_slice(auth.properties.auth_data().unwrap_or_default()));
    admission.go_to(Step::Authenticate);
    admission_goes_on(parts, key, admission, false);
    Ok(())
}

fn will_allowed(no_match_allow: bool, admission: &Admission) -> Result<(), (ReasonCode, Option<Bytes>)> {
    let verdict = &admission.suspended.accumulator;
    super::hooks::may(verdict, no_match_allow).map_err(|reason| (reason, verdict.reason_string.clone()))
}
