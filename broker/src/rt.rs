//! The sockets of one shard: which of them have bytes, room, or connections that wait. One shard
//! has one [`Driver`], which its loop asks and in which it waits. There are two: a ring of the
//! shard's own (io_uring), and epoll for kernels and containers that do not allow io_uring. The
//! rest of the shell does not know which one it has.
//!
//! The rules that both keep. A socket is read only between [`Driver::read`] and [`Driver::pause`];
//! while it is paused, its end is reported. What was received before a pause may be reported after
//! it. A socket that was removed is never reported again. Events are in the order in which they
//! happened on one socket.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

mod epoll;
mod placement;
mod probe;
mod uring;
mod wakeup;

pub(crate) use placement::{cores_for, pin_to};
pub(crate) use probe::try_ring;
pub(crate) use wakeup::Wakeup;

use crate::net::{self, Sent};
use epoll::Epoll;
use uring::Uring;

/// How the shards are to wait for their sockets, as configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoChoice {
    /// With io_uring if this process may use it and it is new enough, otherwise with epoll.
    #[default]
    Auto,
    /// With this one alone.
    Only(Io),
}

/// How a shard waits for its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    /// A ring of the shard's own. Needs Linux 6.1 and the permission to use io_uring.
    IoUring,
    /// epoll. Runs on every kernel.
    Epoll,
}

impl Io {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Io::IoUring => "io_uring",
            Io::Epoll => "epoll",
        }
    }
}

/// A socket of a driver. It is valid until [`Driver::remove`] or [`Driver::release`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketId(u32);

/// How a socket is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    /// Once; then [`Driver::read`] must be called again. The socket can be released at once after
    /// that. For a connection that may be handed off to another shard.
    Once,
    /// Until it is paused.
    Stream,
}

/// Bytes that were received. They stay where they are until [`Driver::give_back`].
#[derive(PartialEq, Eq, Debug)]
#[must_use = "the buffer is lost if it is not given back"]
pub(crate) struct Chunk {
    /// Which buffer of the ring; `None` is the one of epoll.
    buffer: Option<u16>,
    len: u32,
}

impl Chunk {
    /// Number of bytes, at least one.
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// What has happened. `owner` is what [`Driver::add`] was given.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes were received.
    Received { owner: usize, chunk: Chunk },
    /// The peer has closed its sending side, or the connection is broken. Nothing more is received.
    Ended { owner: usize },
    /// The same of a socket that is paused: bytes that were sent before may be unread, unless it is
    /// broken.
    Closed { owner: usize, broken: bool },
    /// The socket has room, after [`Driver::want_room`].
    Room { owner: usize },
    /// Nothing refers to the socket any more, after [`Driver::release`].
    Released { owner: usize, socket: OwnedFd },
    /// Connections may wait at a listener; accept until there is none.
    Waiting { listener: usize },
}

/// The result of [`Driver::release`].
#[derive(Debug)]
pub(crate) enum Release {
    /// The socket.
    Now(OwnedFd),
    /// [`Event::Released`] follows, and before it what was received until then.
    Later,
}

/// The front of an outbound queue on its way into a socket.
#[derive(Debug)]
pub(crate) struct Send<'a> {
    /// The socket.
    pub socket: SocketId,
    /// Nonempty bytes.
    pub bytes: &'a [u8],
    /// The result.
    pub sent: Sent,
}

/// How large a driver's buffers are, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferSizes {
    /// Largest number of bytes read from a socket at once.
    pub read: usize,
    /// Bytes read from one socket before the others get a turn.
    pub turn: usize,
}

/// The driver of one shard. Used by the shard's thread alone.
#[derive(Debug)]
pub(crate) enum Driver {
    /// A ring.
    Ring(Box<Uring>),
    /// epoll.
    Epoll(Box<Epoll>),
}

macro_rules! either {
    ($self:ident, $driver:ident => $call:expr) => {
        match $self {
            Driver::Ring($driver) => $call,
            Driver::Epoll($driver) => $call,
        }
    };
}

impl Driver {
    /// A driver for the current thread. `wakeup` ends its wait.
    ///
    /// # Errors
    /// The kernel refuses a ring, or there is no descriptor left.
    pub fn new(io: Io, sizes: BufferSizes, wakeup: Arc<Wakeup>) -> io::Result<Driver> {
        Ok(match io {
            Io::IoUring => Driver::Ring(Box::new(Uring::new(sizes, wakeup)?)),
            Io::Epoll => Driver::Epoll(Box::new(Epoll::new(sizes, wakeup)?)),
        })
    }

    /// Takes a connected socket over. It is not read yet.
    pub fn add(&mut self, socket: OwnedFd, owner: usize) -> SocketId {
        either!(self, driver => driver.add(socket, owner))
    }

    /// Reads a socket from now on. Does nothing if it is read already.
    pub fn read(&mut self, socket: SocketId, how: Reading) {
        either!(self, driver => driver.read(socket, how));
    }

    /// Stops reading a socket and reports its end from now on.
    pub fn pause(&mut self, socket: SocketId) {
        either!(self, driver => driver.pause(socket));
    }

    /// Reports once when a full socket has room.
    pub fn want_room(&mut self, socket: SocketId) {
        either!(self, driver => driver.want_room(socket));
    }

    /// Closes a socket; the driver may do so a moment later.
    pub fn remove(&mut self, socket: SocketId) {
        either!(self, driver => driver.remove(socket));
    }

    /// Gives a socket up for another thread.
    pub fn release(&mut self, socket: SocketId) -> Release {
        either!(self, driver => driver.release(socket))
    }

    /// The descriptor of a socket.
    pub fn fd(&self, socket: SocketId) -> BorrowedFd<'_> {
        either!(self, driver => driver.fd(socket))
    }

    /// Makes events of all that the driver has received by now.
    pub fn collect(&mut self) {
        // What epoll has not asked for is still in the sockets.
        if let Driver::Ring(ring) = self {
            ring.collect();
        }
    }

    /// Bytes of a socket that were received and are in events not taken yet.
    pub fn untaken_bytes(&self, socket: SocketId) -> u64 {
        match self {
            Driver::Ring(ring) => ring.untaken_bytes(socket),
            // Its bytes stay in the socket until the event is taken.
            Driver::Epoll(_) => 0,
        }
    }

    /// Sends on many sockets without blocking, with one call where that is cheaper.
    pub fn send_all(&mut self, sends: &mut [Send<'_>]) {
        match self {
            Driver::Ring(ring) => ring.send_all(sends),
            Driver::Epoll(epoll) => {
                for send in sends {
                    send.sent = net::send_bytes(epoll.fd(send.socket), send.bytes);
                }
            }
        }
    }

    /// Watches a listening socket, which must be nonblocking.
    pub fn listen(&mut self, socket: OwnedFd, listener: usize) {
        either!(self, driver => driver.listen(socket, listener));
    }

    /// The descriptor of a listener; `None` if it is not watched.
    pub fn listener(&self, listener: usize) -> Option<BorrowedFd<'_>> {
        either!(self, driver => driver.listener(listener))
    }

    /// Closes a listening socket; the driver may do so a moment later.
    pub fn unlisten(&mut self, listener: usize) {
        either!(self, driver => driver.unlisten(listener));
    }

    /// Collects events. Waits for the first one up to `timeout` (`None`: for ever) if there is none
    /// yet, or until the wakeup. Returns at once if the wakeup was rung while nobody waited.
    ///
    /// # Errors
    /// The kernel's, which none of the usual reasons has.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        either!(self, driver => driver.wait(timeout))
    }

    /// About how many events are collected now. Sending collects more of them.
    pub fn collected(&self) -> usize {
        either!(self, driver => driver.collected())
    }

    /// The next event that was collected.
    pub fn next_event(&mut self) -> Option<Event> {
        either!(self, driver => driver.next_event())
    }

    /// The bytes of a chunk.
    pub fn bytes(&self, chunk: &Chunk) -> &[u8] {
        match (self, chunk.buffer) {
            (Driver::Ring(ring), Some(buffer)) => ring.bytes(buffer, chunk.len()),
            (Driver::Epoll(epoll), None) => epoll.bytes(chunk.len()),
            _ => &[],
        }
    }

    /// Gives the buffer of a chunk back.
    pub fn give_back(&mut self, chunk: Chunk) {
        if let (Driver::Ring(ring), Some(buffer)) = (self, chunk.buffer) {
            ring.give_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
