//! Detects that a peer has closed its connection, for connections that are not read for now. It
//! reads no bytes. Each shard has one epoll, which the runtime watches like a listening socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Events taken in one call.
const EVENTS_MAX: usize = 64;

/// The sockets that a shard watches.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: OwnedFd,
}

/// An event of a watched socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed {
    /// The value given to [`Watch::watch`].
    pub data: u64,
    /// Whether the connection is broken: nothing can be read or written. Otherwise the peer has
    /// closed its sending side, and bytes that it sent before may be unread.
    pub broken: bool,
}

/// Edge-triggered: each call of `watch` reports at most one close.
fn flags() -> EventFlags {
    EventFlags::RDHUP | EventFlags::ET
}

impl Watch {
    /// Watches no socket yet.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new() -> std::io::Result<Watch> {
        Ok(Watch { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// A duplicate descriptor of the epoll. It is readable when [`Watch::take`] has events.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn readable(&self) -> std::io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self.epoll.as_fd(), 0)?)
    }

    /// Watches a socket for one event. `known` says whether it is watched already. Returns whether
    /// it is watched now.
    pub fn watch(&self, socket: BorrowedFd<'_>, data: u64, known: bool) -> bool {
        let data = EventData::new_u64(data);
        let watched = if known {
            epoll::modify(&self.epoll, socket, data, flags())
        } else {
            epoll::add(&self.epoll, socket, data, flags())
        };
        watched.is_ok()
    }

    /// Stops watching a socket. Needed because a duplicate of its descriptor may be open longer.
    pub fn forget(&self, socket: BorrowedFd<'_>) {
        // A socket that is not in the epoll needs no removal.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Sockets that have been closed, at most [`EVENTS_MAX`] in one call; empty if there are no
    /// more.
    pub fn take(&self) -> Vec<Closed> {
        let nothing = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [nothing; EVENTS_MAX];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.epoll, &mut events[..], Some(&at_once)).unwrap_or(0);
        let broken = |flags: EventFlags| flags.intersects(EventFlags::HUP | EventFlags::ERR);
        // `Event` is a packed struct, so its fields are copied before use.
        let closed = |event: &Event| {
            let Event { flags, data } = *event;
            Closed { data: data.u64(), broken: broken(flags) }
        };
        events[..count].iter().map(closed).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    #[test]
    fn a_closing_peer_is_reported_and_a_sending_one_is_not() {
        let watch = Watch::new().unwrap();
        let (mut theirs, mut socket) = pair();
        assert!(watch.watch(socket.as_fd(), 7, false));
        theirs.write_all(b"unread").unwrap();
        assert_eq!(watch.take(), []);
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(watch.take(), [Closed { data: 7, broken: false }]);
        assert_eq!(watch.take(), [], "once");
        assert!(watch.watch(socket.as_fd(), 8, true));
        assert_eq!(watch.take(), [Closed { data: 8, broken: false }], "and once more");
        let mut read = Vec::new();
        socket.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"unread", "nothing of it was read");
        watch.forget(socket.as_fd());
        drop(theirs);
        assert_eq!(watch.take(), []);
    }

    #[test]
    fn a_reset_is_reported_as_reset() {
        let watch = Watch::new().unwrap();
        let (theirs, mut socket) = pair();
        assert!(watch.watch(socket.as_fd(), 1, false));
        // Closing a socket with unread bytes resets the connection.
        socket.write_all(b"never read").unwrap();
        drop(theirs);
        assert_eq!(watch.take(), [Closed { data: 1, broken: true }]);
    }
}
