//! One publisher with a window of QoS 1 messages and one subscriber, as fast as the broker
//! acknowledges. Used by the load tests of deferred verdicts. It checks that every message arrives
//! once and in order and is acknowledged in order, and measures the rate.

use std::time::{Duration, Instant};

use crate::line::{Line, ready};
use crate::wire::Ack;
use crate::{Broker, Client, PATIENCE, Packet, Publish, Version};

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Number of messages.
    pub messages: u64,
    /// Messages that may wait for their PUBACK at a time, at most the broker's Receive Maximum.
    pub window: u64,
}

/// Result of a run.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// Messages per second, from the first sent to the last acknowledged.
    pub rate: f64,
    /// Maximum time from sending a message to its PUBACK.
    pub longest: Duration,
}

const TOPIC: &str = "row/of/messages";

/// Packet identifier of the message with this number: never 0.
fn id(place: u64) -> u16 {
    (place % 60_000) as u16 + 1
}

impl Row {
    /// Publishes all messages, waits for the last PUBACK and until the subscriber has them all.
    /// `stamp` is a user property that each must have.
    ///
    /// # Panics
    /// If a message is lost, duplicated, out of order or without its stamp, or nothing moves for
    /// [`PATIENCE`](crate::PATIENCE).
    #[track_caller]
    pub fn run(self, broker: &Broker, stamp: &str) -> Ran {
        let mut subscriber = Client::hello(broker, Version::V5, "row subscriber");
        subscriber.subscribe(TOPIC, 1);
        let subscriber = Line::new(subscriber);
        let publisher = Line::new(Client::hello(broker, Version::V5, "row publisher"));
        std::thread::scope(|scope| {
            let receiving = scope.spawn(|| self.receive(subscriber, stamp));
            let ran = self.publish(publisher);
            match (ran, receiving.join()) {
                (Ok(ran), Ok(Ok(()))) => ran,
                (ran, received) => panic!("publisher: {ran:?}; subscriber: {received:?}"),
            }
        })
    }

    fn publish(self, mut line: Line) -> Result<Ran, String> {
        let begun = Instant::now();
        let (mut sent, mut acknowledged) = (0, 0);
        let mut sent_at = std::collections::VecDeque::new();
        let (mut longest, mut moved) = (Duration::ZERO, begun);
        while acknowledged < self.messages {
            while sent < self.messages && sent - acknowledged < self.window {
                let body = sent.to_le_bytes();
                line.queue(&Publish::new(TOPIC, body).qos(1).id(id(sent)).encode(Version::V5));
                sent_at.push_back(Instant::now());
                sent += 1;
            }
            line.flush()?;
            let now = Instant::now();
            if now - moved > PATIENCE {
                return Err(format!("{acknowledged} of {sent} acknowledged, and no more"));
            }
            ready([&line].into_iter(), 1_000_000);
            let mut wrong = None;
            line.read(|packet| match packet {
                // PUBACKs come in the order of the publishes, [MQTT-4.6.0-2].
                Packet::Puback(ack) if ack.code < 0x80 && ack.id == id(acknowledged) => {
                    acknowledged += 1;
                    moved = Instant::now();
                    longest = longest.max(sent_at.pop_front().map_or(longest, |at| moved - at));
                }
                other => wrong = Some(format!("{other:?} instead of PUBACK {}", id(acknowledged))),
            })?;
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
        }
        let rate = self.messages as f64 / begun.elapsed().as_secs_f64();
        line.queue(&[0xE0, 0]);
        line.flush()?;
        Ok(Ran { rate, longest })
    }

    fn receive(self, mut line: Line, stamp: &str) -> Result<(), String> {
        let mut moved = Instant::now();
        let mut place = 0;
        while place < self.messages {
            if moved.elapsed() > PATIENCE {
                return Err(format!("{place} messages came, and no more"));
            }
            ready([&line].into_iter(), 1_000_000);
            let mut answers = Vec::new();
            let mut wrong = None;
            line.read(|packet| match packet {
                Packet::Publish(publish) if publish.payload == place.to_le_bytes() => {
                    if publish.properties.user(stamp).len() != 1 {
                        wrong = Some(format!("message {place} has not one {stamp}: {publish:?}"));
                    }
                    if let Some(id) = publish.id {
                        answers.extend(Packet::Puback(Ack::of(id)).encode(Version::V5));
                    }
                    place += 1;
                    moved = Instant::now();
                }
                other => wrong = Some(format!("{other:?} instead of message {place}")),
            })?;
            line.queue(&answers);
            line.flush()?;
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
        }
        line.queue(&[0xE0, 0]);
        line.flush()
    }
}
