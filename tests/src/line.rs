//! One non-blocking connection of the load, with its unsent and its received bytes.

use std::io::{ErrorKind, Read, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wire::{Decoded, Packet, Version, decode};
use crate::{Client, Socket};

pub(crate) struct Line {
    socket: Socket,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

impl Line {
    /// Takes a connected client.
    pub fn new(client: Client) -> Line {
        let socket = client.into_socket();
        socket.stream().set_nonblocking(true).expect("a socket takes options");
        Line { socket, unread: Vec::new(), unsent: Vec::new() }
    }

    /// Queues bytes; [`Line::flush`] sends them.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Sends as many bytes as the socket accepts.
    pub fn flush(&mut self) -> Result<(), String> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("disconnected while sending: {error}")),
            }
        }
        match self.socket.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                Err(format!("disconnected while sending: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether it has bytes to send.
    fn wants_write(&self) -> bool {
        !self.unsent.is_empty() || self.socket.wants_write()
    }

    /// Reads the socket and passes every complete packet to `each`, also those before the end of
    /// the connection.
    pub fn read(&mut self, mut each: impl FnMut(Packet)) -> Result<(), String> {
        let mut chunk = [0; 16384];
        let end = loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => break Err("disconnected by the broker".to_owned()),
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(format!("disconnected while reading: {error}")),
            }
        };
        let mut used = 0;
        while let Decoded::Packet(packet, length) = decode(Version::V5, &self.unread[used..])? {
            used += length;
            each(packet);
        }
        self.unread.drain(..used);
        end
    }
}

/// Waits up to `microseconds`. Returns the lines that can be read, or written if they have bytes to
/// send.
pub(crate) fn ready<'a>(lines: impl Iterator<Item = &'a Line>, microseconds: u64) -> Vec<usize> {
    let interest =
        |line: &Line| if line.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut watched: Vec<PollFd<'_>> =
        lines.map(|line| PollFd::new(line.socket.stream(), interest(line))).collect();
    let nanos = |microseconds: u64| microseconds as i64 * 1000;
    let timeout =
        Timespec { tv_sec: (microseconds / 1_000_000) as i64, tv_nsec: nanos(microseconds % 1_000_000) };
    // An interrupted call counts as nothing ready; the caller tries again.
    if poll(&mut watched, Some(&timeout)).unwrap_or(0) == 0 {
        return Vec::new();
    }
    let places = watched.iter().enumerate();
    places.filter(|(_, entry)| !entry.revents().is_empty()).map(|(place, _)| place).collect()
}
