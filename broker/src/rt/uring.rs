//! The driver with a ring: receives arrive as completions in buffers that the kernel has chosen,
//! and one call both hands requests over and waits. Needs Linux 6.1 (deferred task work; 6.0 for
//! receives that go on).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use super::{BufferSizes, Chunk, Event, Reading, Release, Send, SocketId, Wakeup};
use crate::net::{self, Sent};
use buffers::Buffers;

mod buffers;
mod completions;
mod listeners;

/// Entries of the submission queue. When it is full, it is handed over at once.
const SUBMISSIONS: u32 = 256;
/// Entries of the completion queue. What does not fit waits in the kernel.
const COMPLETIONS: u32 = 1024;
/// The buffers of a ring hold what one socket may send in a turn; each is this part of it.
const BUFFERS_OF_A_TURN: usize = 32;
/// Sends that are handed over with one call, at least and at most.
const SENDS_MIN: usize = 4;
const SENDS_MAX: usize = 128;
/// Flags of every send.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
/// Smallest size of a buffer, bytes.
const BUFFER_BYTES_MIN: usize = 4096;
/// Number of free places up to which the table of sockets does not shrink.
const SPARE_PLACES: usize = 1024;

/// What a request is for: the low bits of its user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Op {
    Receive = 0,
    End = 1,
    Room = 2,
    Cancel = 3,
    Listen = 4,
    CancelListen = 5,
    Wakeup = 6,
    Send = 7,
}

const OP_BITS: u32 = 3;

fn user_data(op: Op, place: usize) -> u64 {
    ((place as u64) << OP_BITS) | op as u64
}

fn op_of(user_data: u64) -> (Op, usize) {
    let op = match user_data & ((1 << OP_BITS) - 1) {
        0 => Op::Receive,
        1 => Op::End,
        2 => Op::Room,
        3 => Op::Cancel,
        4 => Op::Listen,
        5 => Op::CancelListen,
        6 => Op::Wakeup,
        _ => Op::Send,
    };
    (op, (user_data >> OP_BITS) as usize)
}

/// What becomes of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Open,
    /// It is reported when nothing refers to it any more.
    Released,
    /// It is closed when nothing refers to it any more.
    Removed,
}

/// A socket, while any request or event refers to it.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    owner: u32,
    /// Bytes in events that were not taken.
    untaken_bytes: u32,
    /// Events that were not taken.
    events: u16,
    /// Requests whose last completion has not come.
    requests: u8,
    fate: Fate,
    reading: Option<Reading>,
    receives: bool,
    /// The receive is being cancelled.
    cancels: bool,
    watches_end: bool,
    watches_room: bool,
}

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    open: bool,
    requests: u8,
}

/// An event before it is taken: its socket may be removed until then.
#[derive(Debug)]
enum Pending {
    Received(u32, Chunk),
    Ended(u32),
    Closed(u32, bool),
    Room(u32),
    Released(u32),
    Waiting(u32),
}

/// The driver.
pub(crate) struct Uring {
    // Dropped first: the kernel then uses neither the buffers nor the sockets.
    ring: IoUring,
    buffers: Buffers,
    sockets: Slab<Socket>,
    listeners: Slab<Listener>,
    /// The place of each of the caller's listeners.
    places: Vec<(usize, usize)>,
    events: VecDeque<Pending>,
    wakeup: Arc<Wakeup>,
    /// Sockets and listeners whose request has ended and must be made anew.
    again: Vec<(Op, usize)>,
    /// Sockets that are to be read and found no buffer, in the order in which they came.
    starved: VecDeque<usize>,
    /// Empty between two calls; its memory is used again.
    completions: Vec<cqueue::Entry>,
    /// Results of sends; empty between two calls.
    sent: Vec<Option<i32>>,
    /// Sends without a result.
    sending: usize,
    /// Receives that were made.
    #[cfg(test)]
    pub(super) receives_made: usize,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring({} sockets, {} events)", self.sockets.len(), self.events.len())
    }
}

impl Uring {
    pub(super) fn new(sizes: BufferSizes, wakeup: Arc<Wakeup>) -> io::Result<Uring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(SUBMISSIONS)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let size = (sizes.turn / BUFFERS_OF_A_TURN).max(BUFFER_BYTES_MIN).min(sizes.read);
        let buffers = Buffers::new(&ring, size)?;
        let mut driver = Uring {
            ring,
            buffers,
            sockets: Slab::new(),
            listeners: Slab::new(),
            places: Vec::new(),
            events: VecDeque::new(),
            wakeup,
            again: Vec::new(),
            starved: VecDeque::new(),
            completions: Vec::new(),
            sent: Vec::new(),
            sending: 0,
            #[cfg(test)]
            receives_made: 0,
        };
        driver.watch_wakeup();
        Ok(driver)
    }

    /// Sends on many sockets. Each send is tried when it is handed over, and ends at once: that is
    /// what MSG_DONTWAIT means to the kernel. One call instead of many saves a tenth of the CPU time.
    pub(super) fn send_all(&mut self, sends: &mut [Send<'_>]) {
        for batch in sends.chunks_mut(SENDS_MAX) {
            if batch.len() < SENDS_MIN {
                batch
                    .iter_mut()
                    .for_each(|send| send.sent = net::send_bytes(self.fd(send.socket), send.bytes));
                continue;
            }
            self.sent.clear();
            self.sent.resize(batch.len(), None);
            self.sending = batch.len();
            for (place, send) in batch.iter().enumerate() {
                let length = u32::try_from(send.bytes.len()).unwrap_or(u32::MAX);
                let fd = Fd(self.fd(send.socket).as_raw_fd());
                let request = opcode::Send::new(fd, send.bytes.as_ptr(), length).flags(SEND_FLAGS).build();
                self.push(&request.user_data(user_data(Op::Send, place)));
            }
            while self.sending > 0 {
                match self.ring.submit_and_wait(1).map_err(|error| error.raw_os_error()) {
                    Ok(_) | Err(Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => self.harvest(),
                    // The bytes are borrowed, so that this may not return while the kernel could
                    // still send them.
                    Err(_) => std::process::abort(),
                }
            }
            for (send, result) in batch.iter_mut().zip(self.sent.drain(..)) {
                send.sent = match result.unwrap_or(-libc::EPIPE) {
                    count @ 0.. => Sent::Bytes(count as usize),
                    error if matches!(-error, libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => {
                        Sent::Full
                    }
                    _ => Sent::Closed,
                };
            }
        }
    }

    /// Puts a request into the queue, which the next call hands over.
    fn push(&mut self, request: &squeue::Entry) {
        loop {
            // SAFETY: no request refers to memory of this process but sends, which `send_all` waits
            // for, and the registered buffers, which live as long as the ring. Its descriptor is open: a socket and a listener stay until
            // the last completion of their requests, and the wakeup is owned by the driver.
            if unsafe { self.ring.submission().push(request) }.is_ok() {
                return;
            }
            // The queue is full. Handing it over makes room, except where the kernel has too many
            // completions for us, which are then taken first. Not otherwise: what they ask for anew
            // would be pushed from here, again and again.
            if self.ring.submit().is_err() {
                self.harvest();
            }
        }
    }

    fn watch_wakeup(&mut self) {
        let fd = Fd(self.wakeup.as_fd().as_raw_fd());
        let request = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(&request.user_data(user_data(Op::Wakeup, 0)));
    }

    pub(super) fn add(&mut self, fd: OwnedFd, owner: usize) -> SocketId {
        let place = self.sockets.insert(Socket {
            fd,
            owner: owner as u32,
            untaken_bytes: 0,
            events: 0,
            requests: 0,
            fate: Fate::Open,
            reading: None,
            receives: false,
            cancels: false,
            watches_end: false,
            watches_room: false,
        });
        SocketId(place as u32)
    }

    pub(super) fn read(&mut self, SocketId(id): SocketId, how: Reading) {
        let Some(socket) = self.sockets.get_mut(id as usize) else { return };
        socket.reading = Some(how);
        self.receive(id as usize);
    }

    /// Makes the receive of a socket that is to be read, unless there is one.
    fn receive(&mut self, place: usize) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        let (Some(how), Fate::Open) = (socket.reading, socket.fate) else { return };
        if socket.receives {
            return;
        }
        socket.receives = true;
        socket.requests += 1;
        #[cfg(test)]
        {
            self.receives_made += 1;
        }
        let fd = Fd(socket.fd.as_raw_fd());
        let request = match how {
            Reading::Stream => opcode::RecvMulti::new(fd, buffers::GROUP).build(),
            Reading::Once => opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(buffers::GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        self.push(&request.user_data(user_data(Op::Receive, place)));
    }

    pub(super) fn pause(&mut self, SocketId(id): SocketId) {
        let place = id as usize;
        let Some(socket) = self.sockets.get_mut(place) else { return };
        socket.reading = None;
        let cancel = socket.receives && !socket.cancels;
        let watch = !socket.watches_end;
        if cancel {
            socket.cancels = true;
            self.cancel(place, Op::Receive);
        }
        if watch {
            self.watch_end(place);
        }
    }

    fn watch_end(&mut self, place: usize) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        socket.watches_end = true;
        socket.requests += 1;
        let fd = Fd(socket.fd.as_raw_fd());
        let request = opcode::PollAdd::new(fd, libc::POLLRDHUP as u32).build();
        self.push(&request.user_data(user_data(Op::End, place)));
    }

    pub(super) fn want_room(&mut self, SocketId(id): SocketId) {
        let Some(socket) = self.sockets.get_mut(id as usize) else { return };
        if socket.watches_room {
            return;
        }
        socket.watches_room = true;
        socket.requests += 1;
        let fd = Fd(socket.fd.as_raw_fd());
        let request = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
        self.push(&request.user_data(user_data(Op::Room, id as usize)));
    }

    /// Cancels a request of a socket. The socket's place is not used again before the completion
    /// of this, so that it meets no later request.
    fn cancel(&mut self, place: usize, op: Op) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        socket.requests += 1;
        let request = opcode::AsyncCancel::new(user_data(op, place)).build();
        self.push(&request.user_data(user_data(Op::Cancel, place)));
    }

    fn cancel_all(&mut self, place: usize) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        socket.reading = None;
        let receive = socket.receives && !std::mem::replace(&mut socket.cancels, true);
        let (end, room) = (socket.watches_end, socket.watches_room);
        for (wanted, op) in [(receive, Op::Receive), (end, Op::End), (room, Op::Room)] {
            if wanted {
                self.cancel(place, op);
            }
        }
    }

    pub(super) fn remove(&mut self, SocketId(id): SocketId) {
        let place = id as usize;
        let Some(socket) = self.sockets.get_mut(place) else { return };
        socket.fate = Fate::Removed;
        self.cancel_all(place);
        self.end_if_unused(place);
    }

    pub(super) fn release(&mut self, SocketId(id): SocketId) -> Release {
        let place = id as usize;
        match self.sockets.get_mut(place) {
            Some(socket) if socket.requests == 0 && socket.events == 0 => Release::Now(self.forget(place).fd),
            Some(socket) => {
                socket.fate = Fate::Released;
                self.cancel_all(place);
                self.end_if_unused(place);
                Release::Later
            }
            None => Release::Later,
        }
    }

    /// Removes a socket to which nothing refers.
    fn forget(&mut self, place: usize) -> Socket {
        let socket = self.sockets.remove(place);
        if self.sockets.is_empty() && self.sockets.capacity() > SPARE_PLACES {
            self.sockets = Slab::new();
        }
        socket
    }

    /// Called when a request or an event of a socket has ended.
    fn end_if_unused(&mut self, place: usize) {
        let Some(socket) = self.sockets.get_mut(place) else { return };
        if socket.requests > 0 || socket.events > 0 {
            return;
        }
        match socket.fate {
            Fate::Open => {}
            Fate::Removed => drop(self.forget(place)),
            Fate::Released => {
                socket.events += 1;
                self.events.push_back(Pending::Released(place as u32));
            }
        }
    }

    pub(super) fn fd(&self, SocketId(id): SocketId) -> BorrowedFd<'_> {
        // A socket is there as long as its id is used; the wakeup is a descriptor in any case.
        self.sockets.get(id as usize).map_or(self.wakeup.as_fd(), |socket| socket.fd.as_fd())
    }

    pub(super) fn untaken_bytes(&self, SocketId(id): SocketId) -> u64 {
        self.sockets.get(id as usize).map_or(0, |socket| u64::from(socket.untaken_bytes))
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.make_again();
        self.feed_starved();
        let more = !self.events.is_empty() || !self.starved.is_empty();
        let entered = if more || timeout == Some(Duration::ZERO) {
            let queue = self.ring.submission();
            let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
            drop(queue);
            if idle { Ok(0) } else { self.ring.submit() }
        } else if let Some(timeout) = timeout {
            let until = Timespec::from(timeout);
            self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&until))
        } else {
            self.ring.submit_and_wait(1)
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            // Busy: there are completions that we have not taken.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
            Err((_, error)) => return Err(error),
        }
        self.harvest();
        Ok(())
    }

    pub(super) fn collected(&self) -> usize {
        self.events.len()
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        loop {
            let event = match self.events.pop_front()? {
                Pending::Waiting(place) => {
                    let known = self.places.iter().find(|(_, known)| *known == place as usize);
                    known.map(|(listener, _)| Event::Waiting { listener: *listener })
                }
                Pending::Released(place) => {
                    let socket = self.forget(place as usize);
                    Some(Event::Released { owner: socket.owner as usize, socket: socket.fd })
                }
                Pending::Received(place, chunk) => self.take_received(place, chunk),
                Pending::Ended(place) => self.take(place).map(|owner| Event::Ended { owner }),
                Pending::Closed(place, broken) => {
                    self.take(place).map(|owner| Event::Closed { owner, broken })
                }
                Pending::Room(place) => self.take(place).map(|owner| Event::Room { owner }),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Counts an event of a socket as taken. Returns the socket's owner, unless it was removed.
    fn take(&mut self, place: u32) -> Option<usize> {
        let socket = self.sockets.get_mut(place as usize)?;
        socket.events -= 1;
        let owner = (socket.fate != Fate::Removed).then_some(socket.owner as usize);
        self.end_if_unused(place as usize);
        owner
    }

    fn take_received(&mut self, place: u32, chunk: Chunk) -> Option<Event> {
        if let Some(socket) = self.sockets.get_mut(place as usize) {
            socket.untaken_bytes -= chunk.len;
        }
        match (self.take(place), chunk.buffer) {
            (Some(owner), _) => Some(Event::Received { owner, chunk }),
            (None, Some(buffer)) => {
                self.buffers.give_back(buffer);
                None
            }
            (None, None) => None,
        }
    }

    pub(super) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        self.buffers.bytes(buffer, len)
    }

    pub(super) fn give_back(&mut self, buffer: u16) {
        self.buffers.give_back(buffer);
    }
}
