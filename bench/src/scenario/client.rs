//! One connection of a scenario as a state machine without I/O: frames in, packets out. The loop feeds it and owns
//! socket, buffers and clock.

use super::ledger::Ledger;
use super::schedule::Schedule;
use super::shape::Shape;
use super::tally::Tally;
use super::{FIELDS, Pace, Scenario};
use crate::client::{Failure, State};
use crate::frames::{self, Connack, ConnectWith, Frame, PublishHead, kind};
use crate::header::{self, Publisher as Stamp};
use crate::publish::{Phase, Window};
use crate::reason::Reason;
use ahash::AHasher;
use std::collections::HashSet;
use std::hash::BuildHasherDefault;

/// A publisher's turn ends after this many bytes, so that the others get theirs and one write takes them.
const TURN_BYTES: usize = 64 * 1024;

/// What the clients of a run share; the loop sets the time before it calls.
#[derive(Debug)]
pub struct Shared<'s> {
    /// What is run.
    pub scenario: &'s Scenario,
    /// Its clients.
    pub shape: &'s Shape,
    /// Marks this run in payloads and client ids.
    pub run: u32,
    /// Who received what.
    pub ledger: Ledger,
    /// Everything else that is counted.
    pub tally: Tally,
    /// Of an open loop, once it has begun.
    pub schedule: Option<Schedule>,
    /// The payload of all messages; a header is written over its front.
    pub payload: Box<[u8]>,
    /// Seconds; longer than the run, so that nobody needs to ping.
    pub keep_alive_s: u16,
    /// Nanoseconds since the start.
    pub now_ns: u64,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Position among all clients.
    pub number: usize,
    /// Changed by frames, and by the loop for what concerns the socket.
    pub state: State,
    /// When connect() was called.
    pub started_ns: u64,
    part: Part,
}

/// What it does once connected.
#[derive(Debug)]
enum Part {
    Publish(Publisher),
    Subscribe(Subscriber),
    Hold,
}

#[derive(Debug)]
struct Publisher {
    number: usize,
    heads: Vec<PublishHead>,
    ids: Window,
    /// Messages that may go now.
    allowance: u64,
}

#[derive(Debug)]
struct Subscriber {
    number: usize,
    /// QoS 2 ids between PUBLISH and PUBREL.
    unreleased: HashSet<u16, BuildHasherDefault<AHasher>>,
}

/// Client id of client `number`: at most 23 characters, which is what MQTT 3.1 allows.
pub fn client_id(run: u32, number: usize) -> String {
    format!("run_{run:08x}_{number}")
}

impl Client {
    /// A client whose connect() was just called. Publishers come first, then subscribers, then those that only connect.
    pub fn new(number: usize, shape: &Shape, now_ns: u64) -> Self {
        let publishers = shape.publishers.len();
        let part = if number < publishers {
            Part::Publish(Publisher { number, heads: Vec::new(), ids: Window::new(0, 0), allowance: 0 })
        } else if number < publishers + shape.subscribers.len() {
            Part::Subscribe(Subscriber { number: number - publishers, unreleased: HashSet::default() })
        } else {
            Part::Hold
        };
        Self { number, state: State::Connecting, started_ns: now_ns, part }
    }

    /// TCP is connected: appends CONNECT.
    pub fn open(&mut self, shared: &Shared<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let with = ConnectWith {
            version: shared.scenario.version,
            client_id: &client_id(shared.run, self.number),
            user_name: None,
            password: None,
            keep_alive_s: shared.keep_alive_s,
            clean: true,
            session_expiry_s: None,
        };
        frames::connect(&with, out).map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
        self.state = State::AwaitConnack;
        Ok(())
    }

    /// Takes one frame and appends what it calls for.
    #[inline]
    pub fn frame(
        &mut self,
        frame: &Frame<'_>,
        shared: &mut Shared<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match (frame.kind(), self.state, &mut self.part) {
            (kind::PUBLISH, State::Ready | State::AwaitSuback, Part::Subscribe(subscriber)) => {
                subscriber.publish(frame, shared, out)
            }
            (kind::PUBLISH, State::Closing, Part::Subscribe(subscriber)) => {
                // It may be the second copy of the last message. Behind our DISCONNECT nothing may be sent.
                let before = out.len();
                let taken = subscriber.publish(frame, shared, out);
                out.truncate(before);
                taken
            }
            (_, State::Closing, _) => Ok(()),
            (kind::CONNACK, State::AwaitConnack, _) => self.connack(frame, shared, out),
            // Before the CONNACK nothing else may come [MQTT-3.2.0-1].
            (other, State::Connecting | State::AwaitConnack | State::Ended, _) => {
                Err(Failure::Unexpected(other))
            }
            (kind::PUBREL, _, Part::Subscribe(subscriber)) => {
                let packet_id = frames::ack(frame)?.0;
                subscriber.unreleased.remove(&packet_id);
                frames::push_ack(0x70, packet_id, out);
                Ok(())
            }
            (kind::SUBACK, State::AwaitSuback, Part::Subscribe(_)) => self.suback(frame, shared),
            (kind::DISCONNECT, ..) => Err(Failure::Disconnected(frames::disconnect_reason(frame))),
            (other, _, Part::Publish(publisher)) => publisher.acknowledgement(other, frame, shared, out),
            (other, ..) => Err(Failure::Unexpected(other)),
        }
    }

    fn connack(
        &mut self,
        frame: &Frame<'_>,
        shared: &mut Shared<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let connack = frames::connack(shared.scenario.version, frame)?.map_err(Failure::Refused)?;
        shared.tally.connected += 1;
        shared.tally.connect_latency.saturating_record(shared.now_ns - self.started_ns);
        match &mut self.part {
            Part::Publish(publisher) => publisher.prepare(shared, &connack)?,
            Part::Subscribe(subscriber) => {
                let filters = &shared.shape.subscribers[subscriber.number].filters;
                frames::subscribe(shared.scenario.version, filters, shared.scenario.qos, out)
                    .map_err(|error| Failure::Unsupported(format!("{error:#}")))?;
                self.state = State::AwaitSuback;
                return Ok(());
            }
            Part::Hold => {}
        }
        self.ready(shared);
        Ok(())
    }

    fn suback(&mut self, frame: &Frame<'_>, shared: &mut Shared<'_>) -> Result<(), Failure> {
        let codes = frames::suback(shared.scenario.version, frame)?;
        if let Some(code) = codes.iter().find(|code| **code >= 0x80) {
            return Err(Failure::SubscribeRefused(Reason::Code(*code)));
        }
        if codes.iter().any(|granted| *granted < shared.scenario.qos) {
            shared.tally.error("SUBACK grants a lower QoS than asked for");
        }
        self.ready(shared);
        Ok(())
    }

    fn ready(&mut self, shared: &mut Shared<'_>) {
        self.state = State::Ready;
        shared.tally.ready += 1;
    }

    /// One more message of an open loop is due.
    #[inline]
    pub fn grant(&mut self) {
        if let Part::Publish(publisher) = &mut self.part {
            publisher.allowance += 1;
        }
    }

    /// Appends every message that may go now; true if there is more, but it is another's turn.
    #[inline]
    pub fn produce(&mut self, shared: &mut Shared<'_>, out: &mut Vec<u8>) -> bool {
        match &mut self.part {
            Part::Publish(publisher) if self.state == State::Ready => publisher.produce(shared, out),
            _ => false,
        }
    }

    /// Whether it publishes.
    pub fn is_publisher(&self) -> bool {
        matches!(self.part, Part::Publish(_))
    }

    /// Ends the connection from our side: appends DISCONNECT where one is due.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if matches!(self.state, State::Ready | State::AwaitSuback) {
            frames::disconnect(out);
        }
        self.state = State::Closing;
    }
}

impl Publisher {
    /// Encodes what all messages have in common, once the broker has said what it takes.
    fn prepare(&mut self, shared: &Shared<'_>, connack: &Connack) -> Result<(), Failure> {
        let Scenario { version, qos, size, pace, .. } = *shared.scenario;
        let unable = |why: String| Failure::Unsupported(why);
        if qos > connack.maximum_qos {
            return Err(unable(format!("the broker takes QoS {} at most", connack.maximum_qos)));
        }
        let number = u32::try_from(self.number).unwrap_or(u32::MAX);
        for topic in &shared.shape.publishers[self.number].topics {
            let stamp = (FIELDS, Stamp::new(shared.run, number));
            let head = PublishHead::new(version, topic, qos, false, size, stamp)
                .map_err(|error| unable(format!("{error:#}")))?;
            let (bytes, max) = (head.len() + size, connack.maximum_packet_size);
            if bytes > max as usize {
                return Err(unable(format!("a packet of {bytes} bytes, the broker takes {max} at most")));
            }
            self.heads.push(head);
        }
        let window = match pace {
            Pace::Credit { window, .. } => u16::try_from(window).unwrap_or(u16::MAX),
            Pace::Rate(_) => u16::MAX,
        };
        self.ids = Window::new(qos, window.min(connack.receive_maximum));
        Ok(())
    }

    #[inline]
    fn produce(&mut self, shared: &mut Shared<'_>, out: &mut Vec<u8>) -> bool {
        loop {
            if self.allowance == 0 {
                self.allowance = earned(shared.scenario.pace, shared.ledger.available(self.number));
                if self.allowance == 0 {
                    return false;
                }
            }
            while self.allowance > 0 {
                if out.len() >= TURN_BYTES {
                    return true;
                }
                let Some(packet_id) = self.ids.take(shared.now_ns) else { return false };
                self.allowance -= 1;
                let entry = shared.ledger.send(self.number);
                let due_ns = match &shared.schedule {
                    Some(schedule) => schedule.due_of(self.number, entry.sequence),
                    None => shared.now_ns,
                };
                self.heads[entry.topic].push(&shared.payload, packet_id, entry.sequence, due_ns, out);
                if packet_id != 0 {
                    shared.tally.in_flight += 1;
                }
            }
        }
    }

    fn acknowledgement(
        &mut self,
        kind: u8,
        frame: &Frame<'_>,
        shared: &mut Shared<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let (packet_id, code) = frames::ack(frame)?;
        let ends = match kind {
            kind::PUBACK => Phase::Published,
            kind::PUBCOMP => Phase::Released,
            kind::PUBREC if code >= 0x80 => Phase::Published,
            kind::PUBREC => {
                if !self.ids.release(packet_id) {
                    shared.tally.error("PUBREC for a packet id that is not in flight");
                    return Ok(());
                }
                frames::push_ack(0x62, packet_id, out);
                return Ok(());
            }
            _ => return Err(Failure::Unexpected(kind)),
        };
        let Some(sent_ns) = self.ids.give_back(packet_id, ends) else {
            shared.tally.error("acknowledgement for a packet id that is not in flight");
            return Ok(());
        };
        shared.tally.in_flight -= 1;
        if code >= 0x80 {
            shared.tally.refused += 1;
            shared.tally.error(&format!("message refused: {}", Reason::Code(code)));
        } else {
            shared.tally.acked += 1;
            shared.tally.ack_latency.record(shared.now_ns - sent_ns);
        }
        Ok(())
    }
}

/// How many messages a publisher with so much credit sends now: whole bursts. In an open loop the schedule decides.
fn earned(pace: Pace, available: u64) -> u64 {
    match pace {
        Pace::Credit { burst, .. } => available - available % u64::from(burst),
        Pace::Rate(_) => 0,
    }
}

impl Subscriber {
    #[inline]
    fn publish(
        &mut self,
        frame: &Frame<'_>,
        shared: &mut Shared<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let publish = frames::publish(shared.scenario.version, frame)?;
        if publish.qos > 0 && !self.acknowledge(publish.qos, publish.packet_id, out) {
            shared.tally.error("QoS 2 message once more before its PUBREL");
            return Ok(());
        }
        let stamp = header::read(publish.payload).filter(|stamp| stamp.due_ns.is_some());
        let Some(header::Stamp { sequence: Some((publisher, sequence)), due_ns: Some(due_ns) }) = stamp
        else {
            shared.ledger.stray += 1;
            return Ok(());
        };
        let Some(publisher) = publisher.client_of(shared.run) else {
            shared.ledger.stray += 1;
            return Ok(());
        };
        if shared.ledger.receive(self.number, publisher, sequence) {
            shared.tally.delivered_bytes += publish.payload.len() as u64;
            shared.tally.latency.record(shared.now_ns.saturating_sub(due_ns));
        }
        Ok(())
    }

    /// Appends PUBACK or PUBREC; false if it is a QoS 2 message once more [MQTT-4.3.3-10].
    fn acknowledge(&mut self, qos: u8, packet_id: u16, out: &mut Vec<u8>) -> bool {
        frames::push_ack(if qos == 1 { 0x40 } else { 0x50 }, packet_id, out);
        qos == 1 || self.unreleased.insert(packet_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_spent_in_whole_bursts() {
        let pace = Pace::Credit { window: 16, burst: 8 };
        let spent: Vec<_> = [0, 7, 8, 15, 16].into_iter().map(|available| earned(pace, available)).collect();
        assert_eq!(spent, [0, 0, 8, 8, 16]);
        assert_eq!(earned(Pace::Rate(5000), u64::MAX), 0);
    }
}
