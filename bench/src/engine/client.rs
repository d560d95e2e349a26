//! The state machine of one connection: frames in, packets out into a buffer that all clients
//! share. The engine calls it and owns socket and buffers; this file uses no socket and no clock.

use super::Shared;
use super::failure::{Failure, State};
use super::publisher::{Produced, Publisher};
use crate::frames::{self, Frame, kind};
use crate::plan::{Setup, Version};
use crate::reason::Reason;
use ahash::AHasher;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Position among all clients.
    pub index: usize,
    /// Changed by frames, and by the engine for the socket.
    pub state: State,
    /// When connect() was called.
    pub started_ns: u64,
    /// When the engine last sent bytes.
    pub last_sent_ns: u64,
    keep_alive_ns: u64,
    ping_unanswered: bool,
    part: Part,
    /// QoS 2 ids between PUBLISH and PUBREL.
    unreleased: HashSet<u16, BuildHasherDefault<AHasher>>,
}

/// What a client does once connected.
#[derive(Debug)]
enum Part {
    Publish(Box<Publisher>),
    /// Its number among the subscribers.
    Subscribe(usize),
    Hold,
}

impl Client {
    /// A client whose connect() was just called. Publishers come first, then subscribers, then
    /// those that only connect.
    pub fn new(index: usize, setup: &Setup, now_ns: u64) -> Self {
        let publishers = setup.shape.publishers.len();
        let part = if index < publishers {
            Part::Publish(Box::new(Publisher::new(index, setup)))
        } else if index < publishers + setup.shape.subscribers.len() {
            Part::Subscribe(index - publishers)
        } else {
            Part::Hold
        };
        Self {
            index,
            state: State::Connecting,
            started_ns: now_ns,
            last_sent_ns: now_ns,
            keep_alive_ns: u64::from(setup.keep_alive_s) * 1_000_000_000,
            ping_unanswered: false,
            part,
            unreleased: HashSet::default(),
        }
    }

    /// TCP is connected, and the layers above it are open: appends CONNECT.
    pub fn open(&mut self, shared: &mut Shared<'_>) -> Result<(), Failure> {
        frames::connect(shared.setup, self.index, &mut shared.out)?;
        self.state = State::AwaitConnack;
        Ok(())
    }

    /// Whether an answer of the handshake is still missing.
    pub fn in_handshake(&self) -> bool {
        matches!(self.state, State::Connecting | State::Opening | State::AwaitConnack | State::AwaitSuback)
    }

    /// Handles one frame and appends the answers.
    #[inline]
    pub fn frame(&mut self, frame: &Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Failure> {
        match (frame.kind(), self.state) {
            (kind::PUBLISH, State::Ready | State::AwaitSuback) => self.receive(frame, shared),
            (kind::PUBLISH, State::Closing) if shared.record.is_ledger() => {
                // It may be a duplicate of the last message. After our DISCONNECT no packet may be
                // sent.
                let before = shared.out.len();
                let received = self.receive(frame, shared);
                shared.out.truncate(before);
                received
            }
            (_, State::Closing) => Ok(()),
            (kind::CONNACK, State::AwaitConnack) => self.connack(frame, shared),
            // No other packet may arrive before CONNACK [MQTT-3.2.0-1].
            (other, State::Connecting | State::Opening | State::AwaitConnack | State::Ended) => {
                Err(Failure::Unexpected(other))
            }
            (kind::PUBREL, _) => {
                // An id of an earlier connection is unknown here, but needs a PUBCOMP
                // [MQTT-4.3.3-11].
                let packet_id = frames::ack(frame)?.0;
                self.unreleased.remove(&packet_id);
                frames::push_ack(0x70, packet_id, &mut shared.out);
                Ok(())
            }
            (kind::SUBACK, State::AwaitSuback) => self.suback(frame, shared),
            (kind::PINGRESP, _) => {
                self.ping_unanswered = false;
                Ok(())
            }
            (kind::DISCONNECT, _) => Err(Failure::Disconnected(frames::disconnect_reason(frame))),
            (other, _) => match &mut self.part {
                Part::Publish(publisher) => publisher.acknowledgement(other, frame, shared),
                _ => Err(Failure::Unexpected(other)),
            },
        }
    }

    /// Counts a received PUBLISH and appends PUBACK or PUBREC.
    #[inline]
    fn receive(&mut self, frame: &Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Failure> {
        let publish = frames::publish(shared.setup.version == Version::V5, frame.bytes[0], frame.body)?;
        if publish.qos > 0 {
            let first = if publish.qos == 1 { 0x40 } else { 0x50 };
            frames::push_ack(first, publish.packet_id, &mut shared.out);
            // Until PUBREL the same id means the same message [MQTT-4.3.3-10].
            if publish.qos == 2 && !self.unreleased.insert(publish.packet_id) {
                shared.received_again();
                return Ok(());
            }
        }
        let subscriber = if let Part::Subscribe(number) = self.part { Some(number) } else { None };
        shared.received(subscriber, publish.payload);
        Ok(())
    }

    fn connack(&mut self, frame: &Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Failure> {
        let setup = shared.setup;
        let connack = frames::connack(setup.version, frame)?.map_err(Failure::Refused)?;
        shared.counts.connected += 1;
        shared.counts.last_connack_ns = shared.now_ns;
        shared.counts.connect_latency.record(shared.now_ns.saturating_sub(self.started_ns));
        if let Some(keep_alive_s) = connack.server_keep_alive_s {
            // [MQTT-3.2.2-21]
            self.keep_alive_ns = u64::from(keep_alive_s) * 1_000_000_000;
        }
        match &mut self.part {
            Part::Publish(publisher) => publisher.prepare(setup, &connack)?,
            Part::Subscribe(number) => {
                let filters = &setup.shape.subscribers[*number].filters;
                frames::subscribe(setup.version, filters, setup.messages.qos, &mut shared.out)?;
                self.state = State::AwaitSuback;
                return Ok(());
            }
            Part::Hold => {}
        }
        self.ready(shared);
        if setup.leaves {
            self.close(shared);
        }
        Ok(())
    }

    fn suback(&mut self, frame: &Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Failure> {
        let setup = shared.setup;
        let codes = frames::suback(setup.version, frame)?;
        if let Some(code) = codes.iter().find(|code| **code >= 0x80) {
            return Err(Failure::SubscribeRefused(Reason::Code(*code)));
        }
        if let Part::Subscribe(number) = self.part
            && codes.len() != setup.shape.subscribers[number].filters.len()
        {
            return Err(Failure::Malformed("SUBACK with another number of codes than filters"));
        }
        if codes.iter().any(|granted| *granted < setup.messages.qos) {
            shared.counts.error("SUBACK grants a lower QoS than requested");
        }
        self.ready(shared);
        Ok(())
    }

    fn ready(&mut self, shared: &mut Shared<'_>) {
        self.state = State::Ready;
        shared.counts.ready += 1;
    }

    /// Its publisher, if it is one.
    #[inline]
    pub fn publisher(&mut self) -> Option<&mut Publisher> {
        if let Part::Publish(publisher) = &mut self.part { Some(publisher) } else { None }
    }

    /// Appends the messages of a publisher that are due.
    #[inline]
    pub fn produce(&mut self, shared: &mut Shared<'_>) -> Produced {
        match &mut self.part {
            Part::Publish(publisher) if self.state == State::Ready => publisher.produce(shared),
            _ => Produced::Blocked,
        }
    }

    /// Keep alive: appends PINGREQ if the connection was silent for long enough. Returns the time
    /// of the next call, or `None` without a keep alive. Fails if the last PINGREQ was not
    /// answered.
    pub fn keep_alive(&mut self, shared: &mut Shared<'_>) -> Result<Option<u64>, Failure> {
        let now_ns = shared.now_ns;
        if self.keep_alive_ns == 0 {
            return Ok(None);
        }
        // Three quarters leave time for a slow network; the broker closes at 1.5 [MQTT-3.1.2-22].
        let quiet_ns = self.keep_alive_ns / 4 * 3;
        if now_ns < self.last_sent_ns + quiet_ns {
            return Ok(Some(self.last_sent_ns + quiet_ns));
        }
        if self.ping_unanswered {
            return Err(Failure::NoPingresp);
        }
        shared.out.extend_from_slice(&[0xC0, 0]);
        self.ping_unanswered = true;
        Ok(Some(now_ns + quiet_ns))
    }

    /// Ends the connection from our side: appends DISCONNECT once CONNACK has arrived.
    pub fn close(&mut self, shared: &mut Shared<'_>) {
        if matches!(self.state, State::Ready | State::AwaitSuback) {
            frames::disconnect(&mut shared.out);
        }
        self.state = State::Closing;
    }
}

#[cfg(test)]
mod tests;
