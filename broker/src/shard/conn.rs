//! A connection of the shell: its socket, its read buffer, and the state of its task. The MQTT
//! state is in the engine alone.

use std::task::Waker;

use grapnel_engine::id::ConnKey;
use grapnel_engine::shard::{Outbound, Peer, Reading};

use super::alarm::{Alarm, Alarms};
use super::read_buffer::ReadBuffer;
use crate::net::{self, Sent};
use crate::rt::Stream;
use std::os::fd::AsFd;

/// Index of a connection in its shard's table, while its task lives.
pub(crate) type Token = usize;

/// A full socket, with the interval in which its client must take a minimum of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full {
    /// When the interval began, milliseconds.
    pub since_ms: u64,
    /// Bytes that the client's side had taken by then.
    pub taken_bytes: u64,
}

/// The phase of a connection.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The connection exchanges packets with the engine.
    Serving,
    /// The engine has dropped it; its last bytes are still to be sent.
    Lingering(Box<Linger>),
    /// It has ended.
    Ended,
}

/// The last bytes of a connection.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// The bytes that are still to be sent.
    pub outbound: Outbound,
    /// Size of the bytes at first.
    bytes: usize,
    /// The sending side is closed.
    pub write_closed: bool,
    /// Bytes that were received since then and discarded.
    pub read_bytes: u64,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub stream: Stream,
    pub key: ConnKey,
    serial: u32,
    pub phase: Phase,
    /// The waker of its task. It is stored in any case, because a task whose last waker is dropped
    /// is never polled again, and its memory is leaked.
    pub waker: Option<Waker>,
    pub read_buffer: ReadBuffer,
    /// Where it comes from, until it can no longer be handed off to another shard.
    pub peer: Option<Box<Peer>>,
    /// Whether the engine reads the connection, as last reported by the engine.
    pub reading: Reading,
    /// The read buffer must be offered before anything is read.
    pub resumed: bool,
    /// Whether its end is watched while it is not read.
    pub watched: bool,
    /// Set while the engine checks its deadline: the number of bytes that arrived in time and are
    /// still to be read.
    pub deadline_bytes: Option<u64>,
    /// Bytes that its socket has taken so far.
    sent_bytes: u64,
    /// Set while its socket is full.
    pub full: Option<Full>,
    alarm_ms: Option<u64>,
}

impl Conn {
    /// A connection that has just been opened. `rest` is offered to the engine before anything is
    /// read.
    pub fn new(stream: Stream, key: ConnKey, serial: u32, rest: ReadBuffer, peer: Option<Box<Peer>>) -> Conn {
        let resumed = !rest.is_empty();
        Conn {
            stream,
            key,
            serial,
            phase: Phase::Serving,
            waker: None,
            read_buffer: rest,
            peer,
            reading: Reading::Reading,
            resumed,
            watched: false,
            deadline_bytes: None,
            sent_bytes: 0,
            full: None,
            alarm_ms: None,
        }
    }

    /// Makes the executor poll the task.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// A value that no other connection of the shard has.
    pub fn mark(&self, token: Token) -> u64 {
        u64::from(self.serial) << 32 | token as u64 & u64::from(u32::MAX)
    }

    /// Counts bytes that its socket has taken.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Bytes that the client's side has acknowledged. Bytes in our socket's buffer do not count,
    /// because they are no progress of a client that reads nothing.
    pub fn taken_bytes(&self) -> u64 {
        self.sent_bytes.saturating_sub(self.stream.unsent_bytes().unwrap_or(self.sent_bytes))
    }

    /// Sets the time at which the turn checks the connection; replaces the earlier alarm.
    pub fn set_alarm(&mut self, token: Token, at_ms: u64, alarms: &mut Alarms) {
        if self.alarm_ms != Some(at_ms) {
            self.alarm_ms = Some(at_ms);
            alarms.set(Alarm { at_ms, token, serial: self.serial });
        }
    }

    /// Whether a due alarm is the connection's current one, which is then cleared.
    pub fn take_alarm(&mut self, alarm: &Alarm) -> bool {
        let own = self.serial == alarm.serial && self.alarm_ms == Some(alarm.at_ms);
        if own {
            self.alarm_ms = None;
        }
        own
    }

    /// Whether an alarm is set.
    pub fn has_alarm(&self) -> bool {
        self.alarm_ms.is_some()
    }
}

impl Phase {
    /// Size of the last bytes that it was given.
    pub fn bytes(&self) -> usize {
        match self {
            Phase::Lingering(linger) => linger.bytes,
            Phase::Serving | Phase::Ended => 0,
        }
    }
}

impl Linger {
    /// With these bytes to be sent.
    pub fn new(outbound: Outbound) -> Linger {
        Linger { bytes: outbound.memory_bytes(), outbound, ..Linger::default() }
    }
}

/// How far a queue was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flushed {
    /// All of it.
    All,
    /// Until the socket was full.
    Full,
    /// The connection is broken.
    Broken,
}

/// Sends as much of a queue as the socket takes now, and removes that from the queue. Also returns
/// the number of bytes sent.
pub(crate) fn flush(stream: &Stream, outbound: &mut Outbound) -> (Flushed, usize) {
    let mut left = 0;
    while !outbound.is_empty() {
        match net::send(stream.as_fd(), outbound) {
            Sent::Bytes(count) => {
                outbound.advance(count);
                left += count;
            }
            Sent::Full => return (Flushed::Full, left),
            Sent::Closed => return (Flushed::Broken, left),
        }
    }
    (Flushed::All, left)
}
