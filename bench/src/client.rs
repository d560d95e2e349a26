//! The state machine of one connection: frames in, packets out. The poll loop feeds it and owns
//! socket and buffers; nothing here touches a socket or reads a clock.

use crate::frames::{self, ConnectWith, Frame, Malformed, kind};
use crate::plan::{Plan, Role};
use crate::publish::{Ack, Produced, Publisher};
use crate::reason::Reason;
use crate::sequence::Tracker;
use crate::stats::{Stats, record};
use crate::subscribe::Receiver;
use std::fmt;

/// What the clients of a run share; the poll loop sets the time before it calls.
#[derive(Debug)]
pub struct Shared {
    /// Counts of the run.
    pub stats: Stats,
    /// One per plain subscriber, one per shared filter.
    pub trackers: Vec<Tracker>,
    /// Gaps each of them remembers per publisher.
    pub gaps_max: usize,
    /// Whether a message without a header is an error.
    pub header_expected: bool,
    /// Messages that publishers have still to send until `--limit`, over all that have not failed.
    pub remaining: u64,
    /// QoS 1 and 2 messages sent and not acknowledged, over all connections that live.
    pub in_flight: u64,
    /// Nanoseconds since the start.
    pub now_ns: u64,
    /// Wall time of the start, nanoseconds since 1970.
    pub wall_at_zero_ns: u64,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// TCP is being connected.
    Connecting,
    /// CONNECT is sent.
    AwaitConnack,
    /// SUBSCRIBE is sent.
    AwaitSuback,
    /// The handshake is over.
    Ready,
    /// DISCONNECT is sent; whatever comes is ignored.
    Closing,
    /// No socket any more.
    Ended,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// From `--startnumber` up.
    pub number: u32,
    /// Changed by the frames, and by the loop for what concerns the socket.
    pub state: State,
    /// When connect() was called.
    pub started_ns: u64,
    /// When the loop last sent anything.
    pub last_sent_ns: u64,
    keep_alive_ns: u64,
    ping_unanswered: bool,
    /// Messages that this client may still send.
    quota: u64,
    publisher: Option<Box<Publisher>>,
    receiver: Receiver,
}

/// Why a connection came to its end; as text, the kind it is counted under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// connect() failed.
    Connect(String),
    /// The handshake took longer than `--connect-timeout`.
    Timeout(State),
    /// CONNACK with a code other than success.
    Refused(Reason),
    /// The CONNACK rules out what the plan asks for.
    Unsupported(String),
    /// SUBACK with a failure code.
    SubscribeRefused(Reason),
    /// End of the stream.
    Closed,
    /// The broker said why, with DISCONNECT.
    Disconnected(Reason),
    /// Reading or writing failed.
    Io(String),
    /// PINGREQ was not answered within the keep alive.
    NoPingresp,
    /// A packet that cannot be read.
    Malformed(String),
    /// A packet that has no place here.
    Unexpected(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::Timeout(State::AwaitConnack) => write!(f, "no CONNACK within the connect timeout"),
            Self::Timeout(State::AwaitSuback) => write!(f, "no SUBACK within the connect timeout"),
            Self::Timeout(_) => write!(f, "no TCP connection within the connect timeout"),
            Self::Refused(reason) => write!(f, "CONNACK: {reason}"),
            Self::Unsupported(why) => write!(f, "CONNACK: {why}"),
            Self::SubscribeRefused(reason) => write!(f, "SUBACK: {reason}"),
            Self::Closed => write!(f, "connection closed by the broker"),
            Self::Disconnected(reason) => write!(f, "DISCONNECT: {reason}"),
            Self::Io(error) => write!(f, "connection lost: {error}"),
            Self::NoPingresp => write!(f, "no PINGRESP within the keep alive"),
            Self::Malformed(what) => write!(f, "broker sent a malformed packet: {what}"),
            Self::Unexpected(kind) => write!(f, "broker sent a packet of type {kind} that has no place here"),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0.to_owned())
    }
}

impl Client {
    /// A client whose connect() was just called, with its share of the limit.
    pub fn new(number: u32, quota: u64, tracker: Option<usize>, now_ns: u64) -> Self {
        Self {
            number,
            state: State::Connecting,
            started_ns: now_ns,
            last_sent_ns: now_ns,
            keep_alive_ns: 0,
            ping_unanswered: false,
            quota,
            publisher: None,
            receiver: Receiver::new(tracker),
        }
    }

    /// TCP is connected: appends CONNECT.
    pub fn open(&mut self, plan: &Plan, out: &mut Vec<u8>) -> Result<(), Failure> {
        let client_id = plan.names.client_id(self.number);
        let user_name = plan.names.user_name(self.number, &client_id);
        let with = ConnectWith {
            version: plan.version,
            client_id: &client_id,
            user_name: user_name.as_deref(),
            password: plan.names.password.as_deref(),
            keep_alive_s: plan.keep_alive_s,
            clean: plan.clean,
            session_expiry_s: plan.session_expiry_s,
        };
        frames::connect(&with, out).map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
        self.keep_alive_ns = u64::from(plan.keep_alive_s) * 1_000_000_000;
        self.state = State::AwaitConnack;
        Ok(())
    }

    /// Takes one frame and appends what it calls for.
    #[inline]
    pub fn frame(
        &mut self,
        frame: &Frame<'_>,
        plan: &Plan,
        shared: &mut Shared,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match (frame.kind(), self.state) {
            (_, State::Closing) => Ok(()),
            (kind::CONNACK, State::AwaitConnack) => self.connack(frame, plan, shared, out),
            // Before the CONNACK nothing else may come [MQTT-3.2.0-1].
            (other, State::Connecting | State::AwaitConnack | State::Ended) => {
                Err(Failure::Unexpected(other))
            }
            (kind::PUBLISH, _) => {
                let publish = frames::publish(plan.version, frame)?;
                self.receiver.publish(&publish, shared, out);
                Ok(())
            }
            (kind::PUBREL, _) => {
                self.receiver.release(frames::ack(frame)?.0, out);
                Ok(())
            }
            (kind::SUBACK, State::AwaitSuback) => self.suback(frame, plan, shared),
            (kind::PINGRESP, _) => {
                self.ping_unanswered = false;
                Ok(())
            }
            (kind::DISCONNECT, _) => Err(Failure::Disconnected(frames::disconnect_reason(frame))),
            (other, _) => self.acknowledgement(other, frame, shared, out),
        }
    }

    fn acknowledgement(
        &mut self,
        kind: u8,
        frame: &Frame<'_>,
        shared: &mut Shared,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let Some(publisher) = &mut self.publisher else { return Err(Failure::Unexpected(kind)) };
        match kind {
            kind::PUBACK => {
                let (packet_id, code) = frames::ack(frame)?;
                publisher.acknowledged(Ack::Pub, packet_id, code, shared);
            }
            kind::PUBREC => {
                let (packet_id, code) = frames::ack(frame)?;
                publisher.received(packet_id, code, shared, out);
            }
            kind::PUBCOMP => {
                let (packet_id, code) = frames::ack(frame)?;
                publisher.acknowledged(Ack::Comp, packet_id, code, shared);
            }
            _ => return Err(Failure::Unexpected(kind)),
        }
        Ok(())
    }

    fn connack(
        &mut self,
        frame: &Frame<'_>,
        plan: &Plan,
        shared: &mut Shared,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let connack = frames::connack(plan.version, frame)?.map_err(Failure::Refused)?;
        shared.stats.connected += 1;
        shared.stats.last_connack_ns = shared.now_ns;
        record(&mut shared.stats.connect_latency, shared.now_ns - self.started_ns);
        if let Some(keep_alive_s) = connack.server_keep_alive_s {
            // [MQTT-3.2.2-21]
            self.keep_alive_ns = u64::from(keep_alive_s) * 1_000_000_000;
        }
        match &plan.role {
            Role::Subscribe(subscribe) => {
                let filters: Vec<_> =
                    subscribe.filters.iter().map(|filter| plan.names.topic(filter, self.number)).collect();
                frames::subscribe(plan.version, &filters, subscribe.qos, out)
                    .map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
                self.state = State::AwaitSuback;
                return Ok(());
            }
            Role::Publish(publish) => {
                self.publisher = Some(Box::new(Publisher::new(plan, publish, self.number, &connack)?));
            }
            Role::Hold => {}
        }
        self.ready(shared);
        Ok(())
    }

    fn suback(&mut self, frame: &Frame<'_>, plan: &Plan, shared: &mut Shared) -> Result<(), Failure> {
        let codes = frames::suback(plan.version, frame)?;
        if let Some(code) = codes.iter().find(|code| **code >= 0x80) {
            return Err(Failure::SubscribeRefused(Reason::Code(*code)));
        }
        if let Role::Subscribe(subscribe) = &plan.role {
            if codes.len() != subscribe.filters.len() {
                return Err(Failure::Malformed(
                    "SUBACK with another number of codes than filters".to_owned(),
                ));
            }
            if codes.iter().any(|granted| *granted < subscribe.qos) {
                shared.stats.error("SUBACK grants a lower QoS than asked for");
            }
        }
        self.ready(shared);
        Ok(())
    }

    fn ready(&mut self, shared: &mut Shared) {
        self.state = State::Ready;
        shared.stats.ready += 1;
    }

    /// Makes a publisher's first message due.
    pub fn begin(&mut self, due_ns: u64) {
        if let Some(publisher) = &mut self.publisher {
            publisher.begin(due_ns);
        }
    }

    /// Appends what a publisher has to send by now.
    #[inline]
    pub fn produce(&mut self, shared: &mut Shared, out: &mut Vec<u8>) -> Produced {
        match &mut self.publisher {
            Some(publisher) if self.state == State::Ready => publisher.produce(&mut self.quota, shared, out),
            _ => Produced::Blocked,
        }
    }

    /// Messages of this client that wait for their acknowledgement.
    pub fn in_flight(&self) -> u64 {
        self.publisher.as_ref().map_or(0, |publisher| publisher.in_flight() as u64)
    }

    /// Takes away what this client has not sent of its share of the limit.
    pub fn forgo_quota(&mut self) -> u64 {
        std::mem::take(&mut self.quota)
    }

    /// Keep alive: appends PINGREQ if the connection was quiet for long enough. Answers when to ask again, or
    /// `None` if there is no keep alive. Fails if the last PINGREQ was not answered.
    pub fn keep_alive(&mut self, now_ns: u64, out: &mut Vec<u8>) -> Result<Option<u64>, Failure> {
        if self.keep_alive_ns == 0 {
            return Ok(None);
        }
        // Three quarters leave room for a slow network; the broker closes at 1.5 [MQTT-3.1.2-22].
        let quiet_ns = self.keep_alive_ns / 4 * 3;
        if now_ns < self.last_sent_ns + quiet_ns {
            return Ok(Some(self.last_sent_ns + quiet_ns));
        }
        if self.ping_unanswered {
            return Err(Failure::NoPingresp);
        }
        out.extend_from_slice(&[0xC0, 0]);
        self.ping_unanswered = true;
        Ok(Some(now_ns + quiet_ns))
    }

    /// Ends the connection from our side: appends DISCONNECT where one is due.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if matches!(self.state, State::Ready | State::AwaitSuback) {
            frames::disconnect(out);
        }
        self.state = State::Closing;
    }
}

#[cfg(test)]
mod tests;
