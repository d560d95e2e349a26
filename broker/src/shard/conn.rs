//! A connection of the shell: its socket, the bytes that are held back, and the state of its task.
//! What it means for MQTT is known to the engine alone.

use std::task::Waker;

use grapnel_engine::id::ConnKey;
use grapnel_engine::shard::{Outbound, Peer, Reading};

use super::alarm::{Alarm, Alarms};
use super::read_buffer::ReadBuffer;
use crate::net::{self, Sent};
use crate::rt::Stream;
use std::os::fd::AsFd;

/// Place of a connection in its shard's table, for as long as its task lives.
pub(crate) type Token = usize;

/// A socket that is full, over a time in which its client must take some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full {
    /// When that time has begun, milliseconds.
    pub since_ms: u64,
    /// Bytes that the client's end had taken by then.
    pub taken_bytes: u64,
}

/// What a connection's task is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Serving the engine.
    Serving,
    /// The engine has forgotten it; its last bytes are still to leave.
    Lingering(Box<Linger>),
    /// Nothing any more.
    Ended,
}

/// The last of a connection.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// What is still to be sent.
    pub outbound: Outbound,
    /// What that was at first, bytes.
    bytes: usize,
    /// The peer has been told that nothing more comes.
    pub write_closed: bool,
    /// Bytes that came meanwhile and were thrown away.
    pub read_bytes: u64,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub stream: Stream,
    pub key: ConnKey,
    serial: u32,
    pub phase: Phase,
    /// The task's; kept even where nothing needs it, since a task that nobody can wake is lost with its memory.
    pub waker: Option<Waker>,
    pub read_buffer: ReadBuffer,
    /// Where it comes from, as long as it may have to move.
    pub peer: Option<Box<Peer>>,
    /// As the engine has it: not read until it says so.
    pub reading: Reading,
    /// What was held back is to be offered before anything is read.
    pub resumed: bool,
    /// Whether its end is told of while it is not read.
    pub watched: bool,
    /// The engine finds it silent, and so many bytes that had come by then are still to be read.
    pub deadline_bytes: Option<u64>,
    /// Bytes that its socket has taken so far.
    sent_bytes: u64,
    /// Its socket is full.
    pub full: Option<Full>,
    alarm_ms: Option<u64>,
}

impl Conn {
    /// A connection that has just been opened, with what is to be offered before anything is read.
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

    /// Has the task polled.
    pub fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Tells it from every other connection of its shard.
    pub fn mark(&self, token: Token) -> u64 {
        u64::from(self.serial) << 32 | token as u64 & u64::from(u32::MAX)
    }

    /// Its socket has taken so many bytes more.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Bytes that the client's end has taken of all that the socket has: what a client that reads nothing leaves in its own
    /// buffers and ours is no progress.
    pub fn taken_bytes(&self) -> u64 {
        self.sent_bytes.saturating_sub(self.stream.unsent_bytes().unwrap_or(self.sent_bytes))
    }

    /// Has the turn look at the connection at that millisecond, and not when it was to look before.
    pub fn set_alarm(&mut self, token: Token, at_ms: u64, alarms: &mut Alarms) {
        if self.alarm_ms != Some(at_ms) {
            self.alarm_ms = Some(at_ms);
            alarms.set(Alarm { at_ms, token, serial: self.serial });
        }
    }

    /// Whether an alarm that is due is the connection's own and last one; it has none then.
    pub fn take_alarm(&mut self, alarm: &Alarm) -> bool {
        let own = self.serial == alarm.serial && self.alarm_ms == Some(alarm.at_ms);
        if own {
            self.alarm_ms = None;
        }
        own
    }

    /// Whether the turn is going to look at the connection.
    pub fn has_alarm(&self) -> bool {
        self.alarm_ms.is_some()
    }
}

impl Phase {
    /// Last bytes that it was given.
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

/// How far a queue has been sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flushed {
    /// All of it.
    All,
    /// As far as the socket took it.
    Full,
    /// The connection is gone.
    Gone,
}

/// Sends as much of a queue as the socket takes at once, and takes it off. Also returns the number of bytes that left.
pub(crate) fn flush(stream: &Stream, outbound: &mut Outbound) -> (Flushed, usize) {
    let mut left = 0;
    while !outbound.is_empty() {
        match net::send(stream.as_fd(), outbound) {
            Sent::Bytes(count) => {
                outbound.advance(count);
                left += count;
            }
            Sent::Full => return (Flushed::Full, left),
            Sent::Gone => return (Flushed::Gone, left),
        }
    }
    (Flushed::All, left)
}
