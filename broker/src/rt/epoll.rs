//! The driver with epoll: the kernel reports which sockets have bytes or room, and the driver
//! receives into one buffer when the event is taken.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use slab::Slab;

use super::{BufferSizes, Chunk, Event, Reading, Release, SocketId, Wakeup};

/// Events taken from the kernel in one call.
const EVENTS_MAX: usize = 256;
/// Number of free places up to which the table of sockets does not shrink.
const SPARE_PLACES: usize = 1024;

/// What an event of the kernel is about: the lowest two bits of its data. Above them are the place
/// and, for a socket, its serial number in the upper half.
const SOCKET: u64 = 0;
const LISTENER: u64 = 1;
const WAKEUP: u64 = 2;

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    owner: u32,
    /// Differs from that of earlier sockets at the same place.
    serial: u32,
    reading: Option<Reading>,
    wants_room: bool,
    /// What the kernel watches for; `None` before the first time.
    watched: Option<EventFlags>,
    /// The interest is to be told to the kernel before it is asked again.
    changed: bool,
}

/// A socket of which the kernel has reported something.
#[derive(Debug)]
struct Ready {
    place: u32,
    serial: u32,
    flags: EventFlags,
    /// Bytes received from it since it was reported.
    bytes: usize,
}

/// The driver.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    sockets: Slab<Socket>,
    next_serial: u32,
    listeners: Vec<(usize, OwnedFd)>,
    ready: VecDeque<Ready>,
    waiting: VecDeque<usize>,
    /// Sockets whose interest has changed.
    changed: Vec<(u32, u32)>,
    scratch: Box<[u8]>,
    turn_bytes: usize,
    events: Vec<epoll::Event>,
    // Owned so that its descriptor stays open.
    _wakeup: Arc<Wakeup>,
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoll({} sockets, {} ready)", self.sockets.len(), self.ready.len())
    }
}

impl Epoll {
    pub(super) fn new(sizes: BufferSizes, wakeup: Arc<Wakeup>) -> io::Result<Epoll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // Edges alone: nobody reads the eventfd.
        epoll::add(&epoll, wakeup.as_fd(), EventData::new_u64(WAKEUP), EventFlags::IN | EventFlags::ET)?;
        Ok(Epoll {
            epoll,
            sockets: Slab::new(),
            next_serial: 0,
            listeners: Vec::new(),
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            changed: Vec::new(),
            scratch: vec![0; sizes.read.max(1)].into_boxed_slice(),
            turn_bytes: sizes.turn,
            events: Vec::with_capacity(EVENTS_MAX),
            _wakeup: wakeup,
        })
    }

    pub(super) fn add(&mut self, fd: OwnedFd, owner: usize) -> SocketId {
        self.next_serial = self.next_serial.wrapping_add(1);
        let place = self.sockets.insert(Socket {
            fd,
            owner: owner as u32,
            serial: self.next_serial,
            reading: None,
            wants_room: false,
            watched: None,
            changed: false,
        });
        SocketId(place as u32)
    }

    /// Tells the kernel before the next wait what a socket is watched for.
    fn change(&mut self, SocketId(place): SocketId, set: impl FnOnce(&mut Socket)) {
        let Some(socket) = self.sockets.get_mut(place as usize) else { return };
        set(socket);
        if !std::mem::replace(&mut socket.changed, true) {
            self.changed.push((place, socket.serial));
        }
    }

    pub(super) fn read(&mut self, id: SocketId, how: Reading) {
        if self.sockets.get(id.0 as usize).is_some_and(|socket| socket.reading.is_none()) {
            self.change(id, |socket| socket.reading = Some(how));
        }
    }

    pub(super) fn pause(&mut self, id: SocketId) {
        // Told anew also if nothing has changed: each pause reports an end once.
        self.change(id, |socket| {
            socket.reading = None;
            if socket.watched.is_some_and(|watched| watched.contains(EventFlags::ET)) {
                socket.watched = Some(EventFlags::empty());
            }
        });
    }

    pub(super) fn want_room(&mut self, id: SocketId) {
        self.change(id, |socket| socket.wants_room = true);
    }

    pub(super) fn remove(&mut self, SocketId(place): SocketId) {
        // Closing the last descriptor of a socket removes it from the epoll.
        drop(self.forget(place));
    }

    pub(super) fn release(&mut self, SocketId(place): SocketId) -> Release {
        match self.forget(place) {
            Some(socket) => {
                // A socket that was never watched needs no removal.
                let _ = epoll::delete(&self.epoll, &socket.fd);
                Release::Now(socket.fd)
            }
            None => Release::Later,
        }
    }

    fn forget(&mut self, place: u32) -> Option<Socket> {
        let socket = self.sockets.try_remove(place as usize)?;
        if self.sockets.is_empty() && self.sockets.capacity() > SPARE_PLACES {
            self.sockets = Slab::new();
        }
        Some(socket)
    }

    pub(super) fn fd(&self, SocketId(place): SocketId) -> BorrowedFd<'_> {
        // A socket is there as long as its id is used; the epoll is a descriptor in any case.
        self.sockets.get(place as usize).map_or(self.epoll.as_fd(), |socket| socket.fd.as_fd())
    }

    pub(super) fn listen(&mut self, fd: OwnedFd, listener: usize) {
        let data = EventData::new_u64(((listener as u64) << 2) | LISTENER);
        // The kernel refuses only for want of memory; then nobody can connect either way.
        if let Err(errno) = epoll::add(&self.epoll, &fd, data, EventFlags::IN | EventFlags::ET) {
            tracing::error!("cannot watch a listener: {errno}");
        }
        self.listeners.push((listener, fd));
    }

    pub(super) fn listener(&self, listener: usize) -> Option<BorrowedFd<'_>> {
        self.listeners.iter().find(|(known, _)| *known == listener).map(|(_, fd)| fd.as_fd())
    }

    pub(super) fn unlisten(&mut self, listener: usize) {
        self.listeners.retain(|(known, _)| *known != listener);
    }

    /// Tells the kernel what has changed since the last call.
    fn tell_changes(&mut self) {
        for (place, serial) in self.changed.drain(..) {
            let Some(socket) = self.sockets.get_mut(place as usize) else { continue };
            if socket.serial != serial {
                continue;
            }
            socket.changed = false;
            let mut flags = match socket.reading {
                Some(_) => EventFlags::IN | EventFlags::RDHUP,
                // Once, and not again and again while nobody reads it.
                None => EventFlags::RDHUP | EventFlags::ET,
            };
            flags.set(EventFlags::OUT, socket.wants_room);
            let data = EventData::new_u64((u64::from(serial) << 32) | (u64::from(place) << 2) | SOCKET);
            let told = match socket.watched {
                Some(known) if known == flags => continue,
                Some(_) => epoll::modify(&self.epoll, &socket.fd, data, flags),
                None => epoll::add(&self.epoll, &socket.fd, data, flags),
            };
            socket.watched = told.is_ok().then_some(flags).or(socket.watched);
            if let Err(errno) = told {
                tracing::error!("cannot watch a connection: {errno}");
            }
        }
    }

    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.tell_changes();
        let at_once = !self.ready.is_empty() || !self.waiting.is_empty();
        let timeout = if at_once { Some(Duration::ZERO) } else { timeout };
        // Whole milliseconds, rounded up, as kernels before 5.11 want it.
        let timeout = timeout.map(|timeout| {
            let ms = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
            Timespec { tv_sec: ms / 1000, tv_nsec: (ms % 1000) * 1_000_000 }
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &self.events {
            // `Event` is a packed struct, so its fields are copied before use.
            let epoll::Event { flags, data } = *event;
            let data = data.u64();
            match data & 3 {
                LISTENER => self.waiting.push_back((data >> 2) as usize),
                SOCKET => {
                    let (place, serial) = ((data as u32) >> 2, (data >> 32) as u32);
                    self.ready.push_back(Ready { place, serial, flags, bytes: 0 });
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn collected(&self) -> usize {
        // Each report may be several events.
        self.waiting.len() + 2 * self.ready.len()
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        if let Some(listener) = self.waiting.pop_front() {
            return Some(Event::Waiting { listener });
        }
        while let Some(ready) = self.ready.pop_front() {
            if let Some(event) = self.event_of(ready) {
                return Some(event);
            }
        }
        None
    }

    /// What a report of the kernel means now. Several events may be in one report: the rest goes
    /// to the front of the queue.
    fn event_of(&mut self, mut ready: Ready) -> Option<Event> {
        let socket = self.sockets.get_mut(ready.place as usize)?;
        if socket.serial != ready.serial {
            return None;
        }
        let owner = socket.owner as usize;
        if ready.flags.contains(EventFlags::OUT) && socket.wants_room {
            socket.wants_room = false;
            ready.flags.remove(EventFlags::OUT);
            let id = SocketId(ready.place);
            self.ready.push_front(ready);
            self.change(id, |_| {});
            return Some(Event::Room { owner });
        }
        // A Unix socket whose peer has closed it has HUP too, and may have bytes.
        let broken = ready.flags.contains(EventFlags::ERR);
        let ended = ready.flags.intersects(EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP);
        if socket.reading.is_none() {
            return ended.then_some(Event::Closed { owner, broken });
        }
        if !ended && !ready.flags.contains(EventFlags::IN) {
            return None;
        }
        self.receive(ready, owner)
    }

    fn receive(&mut self, mut ready: Ready, owner: usize) -> Option<Event> {
        let socket = &mut self.sockets[ready.place as usize];
        match rustix::net::recv(&socket.fd, &mut self.scratch[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {}
            Ok((_, count)) => {
                if socket.reading == Some(Reading::Once) {
                    socket.reading = None;
                    self.change(SocketId(ready.place), |_| {});
                } else if count == self.scratch.len() {
                    // There may be more. Beyond a turn's bytes the kernel reports it again.
                    ready.bytes += count;
                    if ready.bytes < self.turn_bytes {
                        self.ready.push_back(ready);
                    }
                }
                return Some(Event::Received { owner, chunk: Chunk { buffer: None, len: count as u32 } });
            }
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(_) => {}
        }
        socket.reading = None;
        self.change(SocketId(ready.place), |_| {});
        Some(Event::Ended { owner })
    }

    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        &self.scratch[..len.min(self.scratch.len())]
    }
}
