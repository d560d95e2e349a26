//! A connection's socket with what could not be written yet and what was read of an incomplete frame.
//! Owned by the engine. A connection in step owns no memory here: reads and writes go through buffers that
//! all connections share.

use super::client::Failure;
use crate::frames::{Frame, Front, front};
use crate::socket;
use mio::net::TcpStream;
use std::io::{self, Read, Write};
use std::ops::Range;

/// A frame of more than half the shared buffer is read into memory of its own, this much at a time.
const LARGE_STEP_BYTES: usize = 1024 * 1024;

/// A connected socket and its leftovers.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    unsent: Vec<u8>,
    unsent_at: usize,
    partial: Vec<u8>,
    /// Bytes of the frame that `partial` begins, 0 if not known yet.
    partial_frame_bytes: usize,
    /// The peer has sent its end. No further event will say that there is something to read, so reading goes
    /// on until the end shows.
    pub peer_closed: bool,
}

/// What one read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// Nothing; wait for the next event.
    Nothing,
    /// The stream has ended.
    End,
    /// Bytes in the shared buffer, and whether more may be waiting.
    Shared(Range<usize>, bool),
    /// Bytes of a large frame in the link's own memory; more may be waiting.
    Own,
}

impl Link {
    /// Takes the socket over.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            unsent: Vec::new(),
            unsent_at: 0,
            partial: Vec::new(),
            partial_frame_bytes: 0,
            peer_closed: false,
        }
    }

    /// Whether connect() has succeeded; it may not be decided yet.
    pub fn is_connected(&self) -> Result<bool, Failure> {
        let refused = |error: io::Error| Failure::Connect(socket::explain(&error));
        if let Some(error) = self.stream.take_error().map_err(refused)? {
            return Err(refused(error));
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(refused(error)),
        }
    }

    /// Tells the peer that nothing follows.
    pub fn shut_down(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Whether bytes wait for the socket to take them.
    pub fn has_unsent(&self) -> bool {
        self.unsent_at < self.unsent.len()
    }

    /// Sends `out` behind what is unsent, and leaves it empty. What the socket does not take is kept.
    pub fn send(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if self.has_unsent() {
            self.unsent.append(out);
            return self.flush();
        }
        let sent = write_some(&mut self.stream, out)?;
        self.unsent.extend_from_slice(&out[sent..]);
        out.clear();
        Ok(())
    }

    /// Sends what is unsent, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.unsent_at += write_some(&mut self.stream, &self.unsent[self.unsent_at..])?;
        if !self.has_unsent() {
            self.unsent.clear();
            self.unsent_at = 0;
        }
        Ok(())
    }

    /// Reads once, usually into `buffer`, behind a copy of what was left over.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Filled> {
        if self.partial_frame_bytes > buffer.len() / 2 {
            return self.fill_own();
        }
        let left_over = self.partial.len();
        buffer[..left_over].copy_from_slice(&self.partial);
        Ok(match read_some(&mut self.stream, &mut buffer[left_over..])? {
            None => Filled::Nothing,
            Some(0) => Filled::End,
            Some(read) => {
                self.partial.clear();
                let end = left_over + read;
                // epoll(7): a short read from a stream has drained it, and the next event tells of more.
                Filled::Shared(0..end, end == buffer.len() || self.peer_closed)
            }
        })
    }

    fn fill_own(&mut self) -> io::Result<Filled> {
        // Grows as bytes arrive, not by the length that the peer announces.
        let have = self.partial.len();
        let want = self.partial_frame_bytes.min(have + LARGE_STEP_BYTES);
        self.partial.resize(want, 0);
        let read = read_some(&mut self.stream, &mut self.partial[have..]);
        self.partial.truncate(have + read.as_ref().ok().copied().flatten().unwrap_or(0));
        Ok(match read? {
            None => Filled::Nothing,
            Some(0) => Filled::End,
            Some(_) => Filled::Own,
        })
    }

    /// Hands every whole frame of what [`Link::fill`] brought into `buffer` to `take`. Answers whether more may be waiting in the
    /// socket; its end is [`Failure::Closed`].
    #[inline]
    pub fn hand_out(
        &mut self,
        filled: Filled,
        buffer: &[u8],
        take: impl FnMut(&Frame<'_>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        match filled {
            Filled::Nothing => Ok(false),
            Filled::End => Err(Failure::Closed),
            Filled::Shared(range, more) => self.cut(buffer, range, more, take),
            Filled::Own => self.cut_own(take),
        }
    }

    /// Hands every whole frame to `take` and keeps the rest. Answers whether more may be waiting in the socket.
    #[inline]
    fn cut(
        &mut self,
        buffer: &[u8],
        filled: Range<usize>,
        more: bool,
        mut take: impl FnMut(&Frame<'_>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let mut rest = &buffer[filled];
        self.partial_frame_bytes = 0;
        loop {
            match front(rest)? {
                Front::Whole(frame) => {
                    take(&frame)?;
                    rest = &rest[frame.bytes.len()..];
                }
                Front::Partial(bytes) => {
                    self.partial_frame_bytes = bytes;
                    break;
                }
                Front::Unknown => break,
            }
        }
        self.partial.extend_from_slice(rest);
        Ok(more)
    }

    /// As [`Link::cut`], for a large frame in the link's own memory.
    fn cut_own(&mut self, mut take: impl FnMut(&Frame<'_>) -> Result<(), Failure>) -> Result<bool, Failure> {
        if self.partial.len() == self.partial_frame_bytes {
            let whole = std::mem::take(&mut self.partial);
            self.partial_frame_bytes = 0;
            if let Front::Whole(frame) = front(&whole)? {
                take(&frame)?;
            }
        }
        Ok(true)
    }
}

/// Writes until all is written or the socket is full; answers how much it took.
fn write_some(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => sent += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// `None` if there is nothing to read now.
fn read_some(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buffer) {
            Ok(read) => return Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream as Blocking};

    fn pair() -> (Link, Blocking) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Blocking::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Link::new(TcpStream::from_std(ours)), theirs)
    }

    /// Reads until `count` frames have come; answers their lengths.
    fn frames(link: &mut Link, buffer: &mut [u8], count: usize) -> Vec<usize> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut lengths = Vec::new();
        let mut take = |frame: &Frame<'_>| {
            lengths.push(frame.bytes.len());
            Ok(())
        };
        let mut seen = 0;
        while seen < count {
            assert!(std::time::Instant::now() < deadline, "{seen} of {count} frames after ten seconds");
            let before = seen;
            let mut counted = |frame: &Frame<'_>| {
                seen += 1;
                take(frame)
            };
            match link.fill(buffer).unwrap() {
                Filled::Nothing => std::thread::yield_now(),
                Filled::End => panic!("ended after {before} frames"),
                Filled::Shared(filled, more) => drop(link.cut(buffer, filled, more, &mut counted).unwrap()),
                Filled::Own => drop(link.cut_own(&mut counted).unwrap()),
            }
        }
        lengths
    }

    fn publish(payload_bytes: usize) -> Vec<u8> {
        let head = crate::frames::PublishHead::new(
            crate::plan::Version::V311,
            "t",
            0,
            false,
            payload_bytes,
            (crate::header::Fields::default(), crate::header::Publisher::new(0, 0)),
        );
        let mut packet = Vec::new();
        head.unwrap().push(&vec![b'a'; payload_bytes], 0, 0, 0, &mut packet);
        packet
    }

    #[test]
    fn frames_survive_a_buffer_that_is_smaller_than_they_are() {
        let (mut link, mut peer) = pair();
        let sizes = [10, 300, 5_000, 1, 70_000, 2];
        let stream: Vec<u8> = sizes.iter().flat_map(|size| publish(*size)).collect();
        let expected: Vec<usize> = sizes.iter().map(|size| publish(*size).len()).collect();
        let writer = std::thread::spawn(move || {
            for piece in stream.chunks(777) {
                peer.write_all(piece).unwrap();
            }
            peer
        });
        let mut buffer = [0; 512];
        assert_eq!(frames(&mut link, &mut buffer, sizes.len()), expected);
        let peer = writer.join().unwrap();
        assert!(link.partial.is_empty());
        drop(peer);
        assert_eq!(link.fill(&mut buffer).unwrap(), Filled::End);
    }

    #[test]
    fn what_the_socket_does_not_take_is_kept_in_order() {
        let (mut link, mut peer) = pair();
        let mut sent = Vec::new();
        let mut number = 0_u32;
        while !link.has_unsent() {
            let mut out: Vec<u8> = (0..65_536)
                .flat_map(|_| {
                    number += 1;
                    number.to_be_bytes()
                })
                .collect();
            sent.extend_from_slice(&out);
            link.send(&mut out).unwrap();
            assert!(out.is_empty());
        }
        // There is room again, but what is kept goes first.
        let mut head = vec![0; sent.len() / 2];
        peer.read_exact(&mut head).unwrap();
        let mut tail = vec![9, 9, 9, 9];
        sent.extend_from_slice(&tail);
        link.send(&mut tail).unwrap();

        let expected = sent.len() - head.len();
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; expected];
            peer.read_exact(&mut received).unwrap();
            received
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while link.has_unsent() {
            assert!(std::time::Instant::now() < deadline, "still unsent after ten seconds");
            link.flush().unwrap();
            std::thread::yield_now();
        }
        assert!([head, reader.join().unwrap()].concat() == sent);
    }
}
