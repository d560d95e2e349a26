//! A connection of the shell: its socket, its read buffer, and its phase. The MQTT state is in the
//! engine alone.

use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;

use grapnel_engine::id::{ConnKey, ShardId};
use grapnel_engine::shard::{Outbound, Peer, Reading};

use super::alarm::{Alarm, Alarms};
use super::layered::Layered;
use super::read_buffer::ReadBuffer;
use crate::net::{self, ListenerPlace, Sent};
use crate::rt::SocketId;

/// Index of a connection in its shard's table, until its socket is closed or given up.
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
    /// It moves to another shard, as soon as the driver has given its socket up.
    Leaving(Box<Leaving>),
    /// It has ended.
    Ended,
}

/// A connection on its way to its home shard.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// Its home.
    pub shard: ShardId,
    /// Bytes that were received of it; no engine has taken any of them.
    pub unread: Vec<u8>,
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
    pub socket: SocketId,
    pub key: ConnKey,
    serial: u32,
    pub phase: Phase,
    /// Whether it is in the shard's list of connections to be continued.
    pub listed: bool,
    /// Whether the front of its queue is being sent.
    pub fronted: bool,
    pub read_buffer: ReadBuffer,
    /// What lies between its socket and the engine; `None` if bytes pass as they are.
    pub layered: Option<Box<Layered>>,
    /// Its place among the connections of its listener.
    pub place: Option<ListenerPlace>,
    /// Where it comes from, until it can no longer be handed off to another shard.
    pub peer: Option<Box<Peer>>,
    /// Whether the engine reads the connection, as last reported by the engine.
    pub reading: Reading,
    /// The read buffer must be offered before anything is read.
    pub resumed: bool,
    /// Set while the engine checks its deadline: the number of bytes that arrived in time and are
    /// still to be read.
    pub deadline_bytes: Option<u32>,
    /// Bytes that its socket has taken so far.
    sent_bytes: u64,
    /// Set while its socket is full.
    pub full: Option<Box<Full>>,
    alarm_ms: Option<NonZeroU64>,
}

impl Conn {
    /// A connection that has just been opened. `rest` is offered to the engine before anything is
    /// read.
    pub fn new(socket: SocketId, key: ConnKey, serial: u32, rest: ReadBuffer) -> Conn {
        let resumed = !rest.is_empty();
        Conn {
            socket,
            key,
            serial,
            phase: Phase::Serving,
            listed: false,
            fronted: false,
            read_buffer: rest,
            layered: None,
            place: None,
            peer: None,
            reading: Reading::Reading,
            resumed,
            deadline_bytes: None,
            sent_bytes: 0,
            full: None,
            alarm_ms: None,
        }
    }

    /// Memory that is charged as received and not taken, bytes.
    pub fn memory(&self) -> usize {
        self.read_buffer.memory() + self.layered.as_ref().map_or(0, |layered| layered.memory())
    }

    /// Counts bytes that its socket has taken.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Bytes that the client's side has acknowledged. Bytes in our socket's buffer do not count,
    /// because they are no progress of a client that reads nothing.
    pub fn taken_bytes(&self, socket: BorrowedFd<'_>) -> u64 {
        self.sent_bytes.saturating_sub(net::unsent_bytes(socket).unwrap_or(self.sent_bytes))
    }

    /// Sets the time at which the turn checks the connection; replaces the earlier alarm.
    pub fn set_alarm(&mut self, token: Token, at_ms: u64, alarms: &mut Alarms) {
        // One millisecond more or less is the same; 0 would take twice the memory.
        let at = NonZeroU64::MIN.saturating_add(at_ms.saturating_sub(1));
        let at_ms = at.get();
        if self.alarm_ms != Some(at) {
            self.alarm_ms = Some(at);
            alarms.set(Alarm { at_ms, token, serial: self.serial });
        }
    }

    /// Whether a due alarm is the connection's current one, which is then cleared.
    pub fn take_alarm(&mut self, alarm: &Alarm) -> bool {
        let own = self.is_current(alarm);
        if own {
            self.alarm_ms = None;
        }
        own
    }

    /// Takes the alarm back.
    pub fn clear_alarm(&mut self) {
        self.alarm_ms = None;
    }

    /// Whether an alarm is the connection's current one.
    pub fn is_current(&self, alarm: &Alarm) -> bool {
        self.serial == alarm.serial && self.alarm_ms == NonZeroU64::new(alarm.at_ms)
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
            Phase::Serving | Phase::Leaving(_) | Phase::Ended => 0,
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

/// Sends as much of a queue as the socket takes now, through the layers if there are any, and
/// removes that from the queue. Also returns the number of bytes that the socket has taken.
pub(crate) fn flush_through(
    layered: Option<&mut Layered>,
    socket: BorrowedFd<'_>,
    outbound: &mut Outbound,
) -> (Flushed, usize) {
    match layered {
        Some(layered) => layered.flush(socket, outbound),
        None => flush(socket, outbound),
    }
}

fn flush(socket: BorrowedFd<'_>, outbound: &mut Outbound) -> (Flushed, usize) {
    let mut left = 0;
    while !outbound.is_empty() {
        match net::send(socket, outbound) {
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
