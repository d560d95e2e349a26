//! The baseline relay behind `grapnel-bench floor`. It has the structure of a broker and does the
//! minimum that MQTT needs, so that the results of a broker can be given as multiples of it.
//! [`serve`] runs until a signal. One thread, one level-triggered epoll, one read buffer. This file
//! moves bytes, `relay` decides. It must not do anything that a broker could leave out. The load
//! generator uses `frame`, `wire` and `descriptors` too.

pub mod descriptors;
mod flow;
pub mod frame;
mod group;
mod outbox;
mod peer;
mod relay;
mod routes;
#[cfg(test)]
mod tests;
pub mod wire;

use anyhow::{Context, Result};
use flow::Flow;
use frame::Incomplete;
use relay::{Ended, Relay};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, sockopt};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

/// All connections read into one buffer of this size.
const READ_BYTES: usize = 64 * 1024;
/// Events of one wait.
const EVENTS_MAX: usize = 256;
/// Connections accepted before other events are handled.
const ACCEPTS_PER_TURN: u32 = 64;
/// Bytes of messages appended in one turn before they are sent without a wait for its end.
const TURN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pause of accepting when no file descriptors are left, unless a connection closes before.
const ACCEPT_REST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

const LISTENER: u64 = u64::MAX;
const SIGNAL: u64 = u64::MAX - 1;

/// Serves on `listen` until SIGINT or SIGTERM. Prints its address on stdout once it listens (needed
/// with port 0), and a summary at its end.
pub fn serve(listen: SocketAddr) -> Result<()> {
    descriptors::reserve(1)?;
    let (signals, on_signal) = UnixStream::pair().context("cannot make a pipe for signals")?;
    for signal in [SIGINT, SIGTERM] {
        let on_signal = on_signal.try_clone().context("cannot make a pipe for signals")?;
        signal_hook::low_level::pipe::register(signal, on_signal)
            .context("cannot install a signal handler")?;
    }
    let mut floor = Baseline::open(listen)?;
    epoll::add(&floor.epoll, &signals, EventData::new_u64(SIGNAL), EventFlags::IN)
        .context("cannot watch for signals")?;
    let local = floor.listener.local_addr().context("cannot tell the address of the listening socket")?;
    say(&format!("listening on mqtt://{local}\n"));
    floor.run()?;
    let Counts { waits, reads, sends } = floor.counts;
    say(&format!("{} packets in {reads} reads; {sends} sends; {waits} waits\n", floor.relay.packets()));
    Ok(())
}

/// Standard output may be closed; the relay continues without it.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A connection's socket.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    incomplete: Incomplete,
    /// Events that epoll watches for.
    watched: EventFlags,
    /// The connection is not read, see `flow`.
    held: bool,
    /// The socket accepted less than it was given; epoll reports when it can be tried again.
    blocked: bool,
    /// Bytes that it has not accepted, as counted in `flow`.
    left_over: usize,
}

/// System calls, for the statistics per message.
#[derive(Debug, Default)]
struct Counts {
    waits: u64,
    reads: u64,
    sends: u64,
}

#[derive(Debug)]
struct Baseline {
    epoll: OwnedFd,
    listener: TcpListener,
    accepting: bool,
    links: Vec<Option<Link>>,
    relay: Relay,
    flow: Flow,
    buffer: Vec<u8>,
    counts: Counts,
}

impl Baseline {
    fn open(listen: SocketAddr) -> Result<Self> {
        let listener = listen_on(listen).with_context(|| {
            format!("cannot listen on {listen}; is something else using it? choose another with --listen")
        })?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot make an epoll")?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
            .context("cannot watch the listening socket")?;
        Ok(Self {
            epoll,
            listener,
            accepting: true,
            links: Vec::new(),
            relay: Relay::new(),
            flow: Flow::default(),
            buffer: vec![0; READ_BYTES],
            counts: Counts::default(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_MAX];
        loop {
            let timeout = if self.accepting { None } else { Some(&ACCEPT_REST) };
            let count = match epoll::wait(&self.epoll, &mut events[..], timeout) {
                Err(Errno::INTR) => continue,
                waited => waited.context("cannot wait for events")?,
            };
            self.counts.waits += 1;
            if count == 0 {
                self.accept_again()?;
            }
            for event in &events[..count] {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    SIGNAL => return Ok(()),
                    index => {
                        self.ready(u32::try_from(index).expect("was one when it was added"), event.flags)
                    }
                }
                if self.relay.out.appended > TURN_BYTES_MAX {
                    self.flush();
                }
            }
            self.flush();
        }
    }

    fn accept(&mut self) -> Result<()> {
        for _ in 0..ACCEPTS_PER_TURN {
            match rustix::net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => self.open_link(socket),
                Err(Errno::AGAIN) => return Ok(()),
                // accept(2): errors of a connection that has already ended.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.accepting = false;
                    return self.watch_listener(EventFlags::empty());
                }
                Err(error) => return Err(error).context("cannot accept connections"),
            }
        }
        Ok(())
    }

    fn accept_again(&mut self) -> Result<()> {
        self.accepting = true;
        self.watch_listener(EventFlags::IN)
    }

    fn watch_listener(&self, flags: EventFlags) -> Result<()> {
        epoll::modify(&self.epoll, &self.listener, EventData::new_u64(LISTENER), flags)
            .context("cannot watch the listening socket")
    }

    fn open_link(&mut self, socket: OwnedFd) {
        let index = self.relay.open();
        let watched = EventFlags::IN;
        if epoll::add(&self.epoll, &socket, EventData::new_u64(u64::from(index)), watched).is_err() {
            // The limit of watches (epoll(7)); the client sees its connection close.
            return self.relay.close(index);
        }
        let incomplete = Incomplete::default();
        let link = Link { socket, incomplete, watched, held: false, blocked: false, left_over: 0 };
        let at = index as usize;
        if at == self.links.len() {
            self.links.push(Some(link));
        } else {
            self.links[at] = Some(link);
        }
    }

    fn ready(&mut self, index: u32, flags: EventFlags) {
        // The event may belong to a connection that has closed since.
        let Some(link) = &mut self.links[index as usize] else { return };
        if flags.contains(EventFlags::OUT) {
            link.blocked = false;
            self.relay.out.touch(index);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        if self.flow.must_pause(link.left_over, &mut self.relay, index) {
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                return self.close(index, None);
            }
            link.held = true;
            self.flow.paused.push(index);
            return self.watch(index);
        }
        self.read(index);
    }

    fn read(&mut self, index: u32) {
        let Some(link) = &mut self.links[index as usize] else { return };
        self.counts.reads += 1;
        let in_front = link.incomplete.put_into(&mut self.buffer);
        let filled = match rustix::net::recv(&link.socket, &mut self.buffer[in_front..], RecvFlags::empty()) {
            Ok((0, _)) => return self.close(index, None),
            Ok((read, _)) => in_front + read,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.close(index, None),
        };
        let take = |bytes: &[u8]| self.relay.receive(index, bytes);
        if let Err(ended) = link.incomplete.go_on(&self.buffer[..filled], in_front, take) {
            self.close(index, Some(ended));
        }
    }

    /// Sends once to each connection with new bytes, then reads those again that need not be paused
    /// any more.
    fn flush(&mut self) {
        self.relay.out.appended = 0;
        while let Some(index) = self.relay.out.pop_dirty() {
            self.send(index);
        }
        if self.flow.paused.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.flow.paused);
        held.retain(|index| {
            let Some(link) = &mut self.links[*index as usize] else { return false };
            // The index may belong to another connection by now.
            link.held = link.held && self.flow.must_stay_paused(link.left_over, &mut self.relay, *index);
            let stays = link.held;
            self.watch(*index);
            stays
        });
        self.flow.paused = held;
    }

    fn send(&mut self, index: u32) {
        let Some(link) = &mut self.links[index as usize] else { return };
        let peer = self.relay.peer(index);
        if !link.blocked && !peer.unsent().is_empty() {
            self.counts.sends += 1;
            let sent = match rustix::net::send(&link.socket, peer.unsent(), SendFlags::NOSIGNAL) {
                Ok(sent) => sent,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => return self.close(index, None),
            };
            peer.sent(sent);
            link.blocked = !peer.unsent().is_empty();
        }
        let left_over = peer.unsent().len();
        if left_over == 0
            && link.left_over == 0
            && link.watched == EventFlags::IN
            && peer.waiting_bytes() == 0
        {
            return;
        }
        self.flow.count_left_over(&mut link.left_over, left_over);
        if Flow::has_too_many_unacknowledged_bytes(peer.waiting_bytes()) {
            let why = "its subscriptions get more than it acknowledges, and it publishes itself";
            return self.close(index, Some(Ended::Faulty(wire::Malformed(why))));
        }
        self.watch(index);
    }

    /// Makes epoll watch for the events that the connection needs.
    fn watch(&mut self, index: u32) {
        let Some(link) = &mut self.links[index as usize] else { return };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, !link.held);
        wanted.set(EventFlags::OUT, link.blocked);
        if wanted != link.watched {
            link.watched = wanted;
            let data = EventData::new_u64(u64::from(index));
            if epoll::modify(&self.epoll, &link.socket, data, wanted).is_err() {
                self.close(index, None);
            }
        }
    }

    /// Closes a connection. With a reason, the unsent bytes, which may contain a refusal, are sent
    /// if its socket accepts them.
    fn close(&mut self, index: u32, ended: Option<Ended>) {
        let Some(mut link) = self.links[index as usize].take() else { return };
        self.flow.count_left_over(&mut link.left_over, 0);
        if let Some(Ended::Faulty(why)) = ended {
            let _ = rustix::net::send(&link.socket, self.relay.peer(index).unsent(), SendFlags::NOSIGNAL);
            complain(&link.socket, why.0);
        }
        self.relay.close(index);
        drop(link);
        if !self.accepting && self.accept_again().is_err() {
            // Accepting pauses for another second.
            self.accepting = false;
        }
    }
}

/// Non-blocking, as are the sockets that it accepts, which also inherit TCP_NODELAY (tcp(7)).
fn listen_on(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    Ok(listener)
}

fn complain(socket: &OwnedFd, why: &str) {
    let peer = match rustix::net::getpeername(socket).ok().and_then(|peer| SocketAddr::try_from(peer?).ok()) {
        Some(peer) => peer.to_string(),
        None => "a connection".to_owned(),
    };
    // Without an open stderr the message is lost.
    let _ = writeln!(std::io::stderr(), "grapnel-bench: closed {peer}: {why}");
}

#[cfg(test)]
mod socket_tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sent_data_does_not_wait_to_fill_segments() {
        let mut floor = Baseline::open(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let client = std::net::TcpStream::connect(floor.listener.local_addr().unwrap()).unwrap();
        floor.accept().unwrap();
        let link = floor.links[0].as_ref().unwrap();
        assert!(sockopt::tcp_nodelay(&link.socket).unwrap());
        drop(client);
    }
}
