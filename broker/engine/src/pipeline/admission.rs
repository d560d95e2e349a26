//! A CONNECT on its way in: client.connect, client.authenticate with as many AUTH rounds as it takes, client.authorize for the
//! will. Each may be answered later; nothing is read meanwhile, except while the client is asked for its next AUTH. Also
//! re-authentication, which goes the second part of this way while the connection lives (MQTT 5.0 section 4.12).

use std::rc::Rc;

use bytes::Bytes;
use grapnel_plugin_abi::raw::Flow;

use super::connect::kept_properties;
use super::connection::State;
use super::packets::Handled;
use super::timers::Deadline;
use super::{OwnedChange, Shard};
use crate::codec::{self, DecodeError};
use crate::hook::chain::{Course, Exit, visited_until};
use crate::hook::client::{
    ALLOW, ANOTHER_ROUND, Action, ClientVerdict, ClientView, DENY, Request, UNANSWERED,
};
use crate::hook::tickets::{Before, OpenTicket, Waiter};
use crate::hook::{FaultPolicy, HookPoint, LinkIdentity, LinkStats};
use crate::id::ConnKey;
use crate::packet::{Auth, Connect, Packet, PacketType, Properties, Property, Version, push_property};
use crate::reason::ReasonCode;
use crate::session::{EndCause, Identity, Will};

/// How far a CONNECT has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// At client.connect.
    Connect,
    /// At client.authenticate.
    Authenticate,
    /// The client has been asked for its next AUTH.
    Client,
    /// At client.authorize, for the will.
    Will,
}

/// A CONNECT that is not decided yet.
#[derive(Debug)]
pub(super) struct Admission {
    /// The CONNECT packet, whole; empty until it has to wait.
    pub(super) packet: Bytes,
    /// Who asks, as client.connect left it.
    pub(super) identity: Rc<Identity>,
    /// Whether the broker chose the client id.
    pub(super) assigned: bool,
    step: Step,
    /// The verdict so far.
    verdict: ClientVerdict,
    /// Links of the step's chain that it has been to.
    visited: Vec<LinkIdentity>,
    /// Data of the client's last AUTH.
    data: Option<Bytes>,
    /// Data of the broker's for CONNACK.
    farewell: Option<Bytes>,
    will: Option<Box<Will>>,
}

/// A re-authentication that is going on.
#[derive(Debug)]
pub(super) struct Renewal {
    /// The client has been asked for its next AUTH; otherwise client.authenticate answers later.
    asked: bool,
    data: Bytes,
    verdict: ClientVerdict,
    visited: Vec<LinkIdentity>,
}

/// A verdict with what came for it later.
pub(super) type Answer<'a> = Option<(Flow, &'a [OwnedChange])>;

impl Shard {
    /// Client.connect, then client.authenticate, then the will.
    pub(super) fn admit(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        whole: &[u8],
        assigned: bool,
    ) -> Handled {
        let Some(identity) = self.identity_of(key, connect, assigned) else { return Handled::Closed };
        let identity = Rc::new(identity);
        self.set_identity(key, Rc::clone(&identity));
        self.tell_received(key, PacketType::Connect, whole);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.problem_info = connect.properties.request_problem_info().unwrap_or(true);
            conn.packet_bytes_max = connect.properties.maximum_packet_size().unwrap_or(u32::MAX);
        }
        if self.draining {
            // CONNACK has no 0x8B (table 3-1).
            return self.refuse(key, ReasonCode::SERVER_UNAVAILABLE, None);
        }
        if self.admitting >= self.limits().connects_pending_max {
            return self.refuse(key, ReasonCode::SERVER_BUSY, Some(b"too many clients wait to be let in"));
        }
        if connect.properties.auth_method().is_some()
            && self.chains.chain(HookPoint::ClientAuthenticate).is_empty()
        {
            // Nobody here speaks any method [section 4.12].
            return self.refuse(key, ReasonCode::BAD_AUTHENTICATION_METHOD, None);
        }
        let properties = Bytes::copy_from_slice(connect.properties.as_bytes());
        let unanswered = ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED);
        let verdict = ClientVerdict { properties, ..unanswered };
        let admission = Admission {
            packet: Bytes::new(),
            identity,
            assigned,
            step: Step::Connect,
            verdict,
            visited: Vec::new(),
            data: None,
            farewell: None,
            will: None,
        };
        self.go_on(key, connect, whole, admission, false)
    }

    /// Goes on with a CONNECT; `answered` says that the chain of its step has ended already.
    fn go_on(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        whole: &[u8],
        mut admission: Admission,
        mut answered: bool,
    ) -> Handled {
        loop {
            if !std::mem::take(&mut answered)
                && let Exit::Deferred(place, _) = self.run_step(key, connect, &mut admission)
            {
                let chain = self.chains.chain(point_of(admission.step));
                admission.visited.extend(visited_until(chain, place + 1));
                return self.park_admission(key, whole, admission, true);
            }
            let next = match admission.step {
                Step::Connect => self.connect_allowed(key, connect, &mut admission),
                Step::Authenticate => self.authenticated(key, connect, &mut admission),
                Step::Will => will_allowed(self.setup.no_match_allow, &admission).map(|()| None),
                Step::Client => return Handled::Closed,
            };
            match next {
                Err((reason, text)) => return self.refuse(key, reason, text.as_deref()),
                Ok(Some(Step::Client)) => {
                    admission.step = Step::Client;
                    return self.park_admission(key, whole, admission, false);
                }
                Ok(Some(step)) => admission.step = step,
                Ok(None) => {
                    let Admission { identity, assigned, will, farewell, .. } = admission;
                    return self.establish(key, connect, identity, assigned, (will, farewell));
                }
            }
            admission.visited.clear();
        }
    }

    /// Runs the chain of a step from where it stands.
    fn run_step(&mut self, key: ConnKey, connect: &Connect<'_>, admission: &mut Admission) -> Exit {
        let identity = Rc::clone(&admission.identity);
        let mut client = identity.view();
        let mut section = Vec::new();
        client.will = connect.will;
        let mut request = None;
        let waiter = match admission.step {
            Step::Connect => Waiter::Connect(key),
            Step::Authenticate => {
                client.password = connect.password;
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
            Step::Will | Step::Client => {
                let Some(will) = &connect.will else { return Exit::Done };
                request = Some(Request {
                    action: Action::Will,
                    topic: will.topic,
                    qos: will.qos,
                    retain: will.retain,
                });
                if identity.superuser {
                    admission.verdict.verdict = ALLOW;
                    return Exit::Done;
                }
                Waiter::Will(key)
            }
        };
        let point = point_of(admission.step);
        let course = Course { visited: &admission.visited, ..Course::WHOLE };
        let verdict = admission.verdict.clone();
        let (verdict, exit) = self.run_client(point, client, request, verdict, course, Some(waiter));
        admission.verdict = verdict;
        exit
    }

    /// Keeps a CONNECT until its answer comes: from a plugin, or from the client.
    fn park_admission(
        &mut self,
        key: ConnKey,
        whole: &[u8],
        mut admission: Admission,
        pause: bool,
    ) -> Handled {
        if admission.packet.is_empty() {
            admission.packet = Bytes::copy_from_slice(whole);
        }
        let due_ms = self.now.mono_ms + self.limits().connect_timeout_ms;
        let Some(conn) = self.conns.get_mut(key) else { return Handled::Closed };
        conn.paused = pause;
        conn.state = State::Admitting(Box::new(admission));
        self.admitting += 1;
        if pause {
            return Handled::Pause;
        }
        // The client has as long for each round as it had for CONNECT.
        self.deadlines.arm(due_ms, Deadline::Connect(key));
        Handled::Next
    }

    fn take_admission(&mut self, key: ConnKey) -> Option<Admission> {
        let conn = self.conns.get_mut(key)?;
        if !matches!(conn.state, State::Admitting(_)) {
            return None;
        }
        self.admitting -= 1;
        match std::mem::replace(&mut conn.state, State::New) {
            State::Admitting(admission) => Some(*admission),
            _ => None,
        }
    }

    /// A deferred verdict about a CONNECT has come, or its deadline has passed (`None`).
    pub(super) fn admission_answered(&mut self, key: ConnKey, ticket: &OpenTicket, answer: Answer<'_>) {
        let Some(mut admission) = self.take_admission(key) else { return };
        let point = point_of(admission.step);
        let stop = self.take_answer(point, ticket, answer, &mut admission.verdict);
        self.admission_goes_on(key, admission, stop);
    }

    fn admission_goes_on(&mut self, key: ConnKey, admission: Admission, answered: bool) {
        let packet = Bytes::clone(&admission.packet);
        let Ok(Some(frame)) = codec::frame(&packet, u32::MAX) else { return };
        let Ok(Packet::Connect(connect)) = codec::decode(&frame, Version::V5) else { return };
        let handled = self.go_on(key, &connect, &packet, admission, answered);
        if let (Handled::Next, Some(conn)) = (handled, self.conns.get_mut(key))
            && std::mem::take(&mut conn.paused)
        {
            conn.last_received_ms = self.now.mono_ms;
            self.out.resume.push(key);
        }
    }

    /// The changes that came with a verdict, or its fault; whether the chain ends with it.
    pub(super) fn take_answer(
        &mut self,
        point: HookPoint,
        ticket: &OpenTicket,
        answer: Answer<'_>,
        verdict: &mut ClientVerdict,
    ) -> bool {
        if let Some((flow @ (Flow::CONTINUE | Flow::STOP), changes)) = answer {
            let before = verdict.clone();
            if changes.iter().all(|change| verdict.set(point, &change.borrow()).is_ok()) {
                return self.ends_chain(ticket, point, flow);
            }
            *verdict = before;
        }
        self.count_fault(ticket, point);
        if let Some(Before::Client(before)) = ticket.before.as_deref() {
            verdict.clone_from(before);
        }
        let deny = ticket.policy == FaultPolicy::Deny;
        if deny {
            verdict.verdict = DENY;
        }
        deny
    }

    /// The figures of a link that had deferred, if it is still there.
    fn stats_of(&mut self, ticket: &OpenTicket, point: HookPoint) -> Option<&mut LinkStats> {
        let chain = self.chains.chain_mut(point);
        let place = chain.links.iter().position(|link| link.identity == ticket.link)?;
        chain.stats_mut(place)
    }

    /// Whether the verdict of a link that had deferred ends the chain, which is counted.
    pub(super) fn ends_chain(&mut self, ticket: &OpenTicket, point: HookPoint, flow: Flow) -> bool {
        let stop = flow == Flow::STOP;
        if stop && let Some(stats) = self.stats_of(ticket, point) {
            stats.stops += 1;
        }
        stop
    }

    /// Counts a fault of a link that had deferred.
    pub(super) fn count_fault(&mut self, ticket: &OpenTicket, point: HookPoint) {
        if let Some(stats) = self.stats_of(ticket, point) {
            stats.faults += 1;
            self.calls.faults().count(ticket.plugin);
        }
    }

    /// The end of client.connect.
    fn connect_allowed(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        admission: &mut Admission,
    ) -> Result<Option<Step>, (ReasonCode, Option<Bytes>)> {
        let verdict = &mut admission.verdict;
        if verdict.verdict == DENY {
            return Err((verdict.reason, verdict.reason_string.take()));
        }
        let (keep_alive_s, expiry_s) = (verdict.keep_alive_s, verdict.expiry_s);
        let properties = std::mem::take(&mut verdict.properties);
        let identity = Rc::make_mut(&mut admission.identity);
        identity.keep_alive_s = keep_alive_s;
        identity.expiry_s = expiry_s;
        let properties = Properties::from_encoded(&properties);
        identity.receive_maximum = properties.receive_maximum().unwrap_or(u16::MAX);
        identity.properties = kept_properties(&properties);
        let identity = Rc::clone(&admission.identity);
        self.set_identity(key, Rc::clone(&identity));
        if let Some(conn) = self.conns.get_mut(key) {
            conn.problem_info = properties.request_problem_info().unwrap_or(true);
            conn.packet_bytes_max = properties.maximum_packet_size().unwrap_or(u32::MAX);
            conn.traced = self.traces.contains_key(&*identity.client_id);
        }
        // By its name: the connection has neither a session nor an authentication yet.
        self.trace_client(&identity.client_id, true, || super::trace::describe(&Packet::Connect(*connect)));
        admission.verdict =
            ClientVerdict::unanswered(&identity.view(), ReasonCode::BAD_USER_NAME_OR_PASSWORD);
        Ok(Some(Step::Authenticate))
    }

    /// The end of client.authenticate: another round, a refusal, or the will.
    fn authenticated(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        admission: &mut Admission,
    ) -> Result<Option<Step>, (ReasonCode, Option<Bytes>)> {
        let guarded = !self.chains.chain(HookPoint::ClientAuthenticate).is_empty();
        let nameless = admission.identity.username.is_none();
        let conn = self.conns.get(key).ok_or((ReasonCode::UNSPECIFIED_ERROR, None))?;
        // Nobody answered: without a link anybody who gives a name comes in, with one only the anonymous where they may.
        let welcome = if nameless { conn.peer.listener.allow_anonymous } else { !guarded };
        let verdict = &mut admission.verdict;
        let method = connect.properties.auth_method();
        match verdict.verdict {
            ALLOW => {}
            UNANSWERED if welcome && method.is_none() => self.counters.client_auth_anonymous += 1,
            ANOTHER_ROUND if method.is_some() => {
                let data = verdict.auth_data.take();
                self.send_auth(key, ReasonCode::CONTINUE_AUTHENTICATION, method, data.as_deref());
                admission.verdict.verdict = UNANSWERED;
                return Ok(Some(Step::Client));
            }
            DENY => {
                self.counters.client_auth_denied += 1;
                return Err((verdict.reason, verdict.reason_string.take()));
            }
            _ => {
                self.counters.client_auth_denied += 1;
                return Err((ReasonCode::BAD_USER_NAME_OR_PASSWORD, None));
            }
        }
        admission.farewell = verdict.auth_data.take().filter(|_| method.is_some());
        let (superuser, anonymous) = (verdict.superuser, verdict.verdict == UNANSWERED);
        let identity = Rc::make_mut(&mut admission.identity);
        (identity.superuser, identity.anonymous) = (superuser, anonymous);
        self.set_identity(key, Rc::clone(&admission.identity));
        admission.will = self.will_of(connect, &admission.identity).map_err(|reason| (reason, None))?;
        if admission.will.is_none() {
            return Ok(None);
        }
        admission.verdict = ClientVerdict::unanswered(&admission.identity.view(), ReasonCode::NOT_AUTHORIZED);
        Ok(Some(Step::Will))
    }

    fn send_auth(&mut self, key: ConnKey, reason: ReasonCode, method: Option<&str>, data: Option<&[u8]>) {
        let mut section = Vec::new();
        // [MQTT-4.12.0-5]
        if let Some(method) = method {
            push_property(&mut section, Property::AuthMethod(method));
        }
        if let Some(data) = data {
            push_property(&mut section, Property::AuthData(data));
        }
        self.send(key, &Packet::Auth(Auth { reason, properties: Properties::from_encoded(&section) }));
    }

    /// AUTH (MQTT 5.0 section 3.15): the next round of a CONNECT, or of a re-authentication.
    pub(super) fn on_auth(&mut self, key: ConnKey, auth: &Auth<'_>) -> Result<(), DecodeError> {
        self.counters.packets_auth_received += 1;
        let broken = |detail| DecodeError { reason: ReasonCode::PROTOCOL_ERROR, detail };
        let Some(conn) = self.conns.get(key) else { return Ok(()) };
        if matches!(conn.state, State::Admitting(_)) {
            return self.next_round(key, auth);
        }
        let Some(method) = conn.auth_method.clone() else {
            // Without an authentication method in CONNECT the client must not send AUTH [MQTT-4.12.0-6].
            return Err(broken("AUTH without an authentication method"));
        };
        if auth.properties.auth_method() != Some(&*method) {
            // [MQTT-4.12.1-1]
            return Err(broken("AUTH with another authentication method than CONNECT"));
        }
        let asked = conn.renewal.as_ref().map(|renewal| renewal.asked);
        let fits = match auth.reason {
            ReasonCode::REAUTHENTICATE => asked.is_none(),
            ReasonCode::CONTINUE_AUTHENTICATION => asked == Some(true),
            _ => false,
        };
        if !fits {
            return Err(broken("AUTH out of turn"));
        }
        let Some(identity) = conn.identity.clone() else { return Ok(()) };
        let verdict = ClientVerdict::unanswered(&identity.view(), ReasonCode::NOT_AUTHORIZED);
        let data = Bytes::copy_from_slice(auth.properties.auth_data().unwrap_or_default());
        self.renew(key, Renewal { asked: false, data, verdict, visited: Vec::new() }, false);
        Ok(())
    }

    /// The client's AUTH while its CONNECT is not decided.
    fn next_round(&mut self, key: ConnKey, auth: &Auth<'_>) -> Result<(), DecodeError> {
        let Some(mut admission) = self.take_admission(key) else { return Ok(()) };
        let method = {
            let frame = codec::frame(&admission.packet, u32::MAX).ok().flatten();
            let packet = frame.and_then(|frame| codec::decode(&frame, Version::V5).ok());
            matches!(packet, Some(Packet::Connect(connect))
                if connect.properties.auth_method() == auth.properties.auth_method())
        };
        if admission.step != Step::Client || !method || auth.reason != ReasonCode::CONTINUE_AUTHENTICATION {
            // [MQTT-4.12.0-3] [MQTT-4.12.0-4]
            self.refuse(key, ReasonCode::PROTOCOL_ERROR, Some(b"AUTH out of turn"));
            return Ok(());
        }
        admission.data = Some(Bytes::copy_from_slice(auth.properties.auth_data().unwrap_or_default()));
        admission.step = Step::Authenticate;
        self.admission_goes_on(key, admission, false);
        Ok(())
    }

    /// Goes on with a re-authentication; everything else of the connection goes on beside it (section 4.12.1).
    fn renew(&mut self, key: ConnKey, mut renewal: Renewal, answered: bool) {
        let Some(conn) = self.conns.get(key) else { return };
        let (Some(identity), Some(method)) = (conn.identity.clone(), conn.auth_method.clone()) else {
            return;
        };
        if !answered {
            let mut section = Vec::new();
            push_property(&mut section, Property::AuthMethod(&method));
            push_property(&mut section, Property::AuthData(&renewal.data));
            let client = ClientView { properties: &section, ..identity.view() };
            let course = Course { visited: &renewal.visited, ..Course::WHOLE };
            let (point, waiter) = (HookPoint::ClientAuthenticate, Waiter::Renewal(key));
            let verdict = renewal.verdict.clone();
            let (verdict, exit) = self.run_client(point, client, None, verdict, course, Some(waiter));
            renewal.verdict = verdict;
            if let Exit::Deferred(place, _) = exit {
                renewal.visited.extend(visited_until(self.chains.chain(point), place + 1));
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.renewal = Some(Box::new(renewal));
                }
                return;
            }
        }
        self.renewed(key, &method, renewal);
    }

    /// A deferred verdict about a re-authentication.
    pub(super) fn renewal_answered(&mut self, key: ConnKey, ticket: &OpenTicket, answer: Answer<'_>) {
        let Some(renewal) = self.conns.get_mut(key).and_then(|conn| conn.renewal.take()) else { return };
        let mut renewal = *renewal;
        let stop = self.take_answer(HookPoint::ClientAuthenticate, ticket, answer, &mut renewal.verdict);
        self.renew(key, renewal, stop);
    }

    fn renewed(&mut self, key: ConnKey, method: &str, mut renewal: Renewal) {
        let data = renewal.verdict.auth_data.take();
        match renewal.verdict.verdict {
            ALLOW => {
                self.set_superuser(key, renewal.verdict.superuser);
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.renewal = None;
                }
                self.send_auth(key, ReasonCode::SUCCESS, Some(method), data.as_deref());
            }
            ANOTHER_ROUND => {
                renewal.asked = true;
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.renewal = Some(Box::new(renewal));
                }
                self.send_auth(key, ReasonCode::CONTINUE_AUTHENTICATION, Some(method), data.as_deref());
            }
            _ => {
                // [MQTT-4.12.1-2]
                self.counters.client_auth_denied += 1;
                let reason = renewal.verdict.reason;
                self.end_connection(key, EndCause::ByBroker(reason), Some((reason, None)));
            }
        }
    }

    fn set_superuser(&mut self, key: ConnKey, superuser: bool) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(identity) = &mut conn.identity else { return };
        if identity.superuser != superuser {
            let changed = Rc::new(Identity { superuser, ..Identity::clone(identity) });
            *identity = Rc::clone(&changed);
            if let Some(session) = conn.session.and_then(|session| self.sessions.get_mut(session)) {
                session.identity = changed;
            }
        }
    }

    pub(super) fn set_identity(&mut self, key: ConnKey, identity: Rc<Identity>) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.identity = Some(identity);
        }
    }
}

const fn point_of(step: Step) -> HookPoint {
    match step {
        Step::Connect => HookPoint::ClientConnect,
        Step::Authenticate | Step::Client => HookPoint::ClientAuthenticate,
        Step::Will => HookPoint::ClientAuthorize,
    }
}

impl Admission {
    /// Whether the client is the one whose turn it is.
    pub(super) fn waits_for_client(&self) -> bool {
        self.step == Step::Client
    }
}

fn will_allowed(no_match_allow: bool, admission: &Admission) -> Result<(), (ReasonCode, Option<Bytes>)> {
    let verdict = &admission.verdict;
    super::hooks::may(verdict, no_match_allow).map_err(|reason| (reason, verdict.reason_string.clone()))
}
