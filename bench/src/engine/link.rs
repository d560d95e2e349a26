//! A connection's socket with the layers above it, its unsent bytes, and the bytes of an incomplete
//! frame. Owned by the engine. Without those a connection uses no memory here: reads and writes use
//! buffers that all connections share.

use super::failure::Failure;
use super::layers::Layers;
use crate::frames::{Frame, Front, Incomplete, front};
use crate::socket;
use bytes::{Buf, BytesMut};
use mio::net::TcpStream;
use rustls::HandshakeKind;
use std::io::{self, Read, Write};

/// A connected socket with unsent bytes and the bytes of an incomplete frame.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// None for TCP alone.
    layers: Option<Box<Layers>>,
    unsent: BytesMut,
    incomplete: Incomplete,
    /// The peer has closed its side. No further event reports that there is something to read, so
    /// reading continues until the end is found.
    pub peer_closed: bool,
}

/// Result of one read into a buffer: its bytes, and how many of them were there from before.
#[derive(Debug, Clone, Copy)]
pub struct Filled {
    bytes: usize,
    in_front: usize,
    /// The socket filled the buffer, and may have more.
    is_full: bool,
}

/// Buffers that all connections read into.
#[derive(Debug)]
pub struct Buffers {
    /// Bytes of the socket.
    raw: Box<[u8]>,
    /// What the layers of a connection made of them.
    plain: Vec<u8>,
}

impl Buffers {
    /// Reads take at most `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { raw: vec![0; bytes].into(), plain: Vec::new() }
    }
}

impl Link {
    /// Takes ownership of the socket.
    pub fn new(stream: TcpStream, layers: Option<Box<Layers>>) -> Self {
        let incomplete = Incomplete::default();
        Self { stream, layers, unsent: BytesMut::new(), incomplete, peer_closed: false }
    }

    /// Whether connect() has succeeded; it may still be under way.
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

    /// The socket is connected: begins the handshakes of the layers.
    pub fn begin(&mut self) -> io::Result<()> {
        let Some(layers) = &mut self.layers else { return Ok(()) };
        layers.begin(&mut self.unsent)?;
        self.flush()
    }

    /// Whether the handshakes of the layers are over.
    pub fn is_open(&self) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.is_open())
    }

    /// The kind of the TLS handshake, if there was one.
    pub fn handshake(&self) -> Option<HandshakeKind> {
        self.layers.as_ref()?.handshake()
    }

    /// Tells the peer that nothing follows, once all is sent.
    pub fn shut_down(&mut self) {
        if let Some(layers) = &mut self.layers {
            layers.end(&mut self.unsent);
            let _ = self.flush();
        }
        if !self.has_unsent() {
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Whether there are bytes that the socket has not accepted yet.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends `out` after the unsent bytes, and leaves it empty. Bytes that the socket does not
    /// accept are stored.
    pub fn send(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(layers) = &mut self.layers {
            layers.seal(out, &mut self.unsent)?;
            out.clear();
            return self.flush();
        }
        let behind = self.has_unsent();
        let sent = if behind { 0 } else { write_some(&mut self.stream, out)? };
        self.unsent.extend_from_slice(&out[sent..]);
        out.clear();
        if behind { self.flush() } else { Ok(()) }
    }

    /// Sends unsent bytes, as many as the socket accepts.
    pub fn flush(&mut self) -> io::Result<()> {
        let sent = write_some(&mut self.stream, &self.unsent)?;
        self.unsent.advance(sent);
        Ok(())
    }

    /// Reads once, after a copy of the stored bytes; `None` if there is nothing to read now. The
    /// end of the stream is [`Failure::Closed`].
    pub fn fill(&mut self, buffers: &mut Buffers) -> Result<Option<Filled>, Failure> {
        let Buffers { raw, plain } = buffers;
        let in_front = if self.layers.is_some() { 0 } else { self.incomplete.put_into(raw) };
        let read = match read_some(&mut self.stream, &mut raw[in_front..])? {
            None => return Ok(None),
            Some(0) => return Err(Failure::Closed),
            Some(read) => in_front + read,
        };
        let is_full = read == raw.len();
        let Some(layers) = &mut self.layers else {
            return Ok(Some(Filled { bytes: read, in_front, is_full }));
        };
        plain.clear();
        let opened = layers.open(&raw[..read], plain, &mut self.unsent);
        // An alert too.
        let flushed = self.flush();
        opened?;
        flushed?;
        Ok(Some(Filled { bytes: plain.len(), in_front, is_full }))
    }

    /// Passes every complete frame that [`Link::fill`] read to `take`, and stores the rest. Returns
    /// whether the socket may have more bytes.
    #[inline]
    pub fn hand_out(
        &mut self,
        filled: Filled,
        buffers: &Buffers,
        mut take: impl FnMut(&Frame<'_>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let Filled { bytes, in_front, is_full } = filled;
        let buffer = if self.layers.is_some() { &buffers.plain } else { &*buffers.raw };
        self.incomplete.go_on(&buffer[..bytes], in_front, |bytes| {
            let mut rest = bytes;
            while let Front::Whole(frame) = front(rest)? {
                take(&frame)?;
                rest = &rest[frame.bytes.len()..];
            }
            Ok::<_, Failure>(bytes.len() - rest.len())
        })?;
        // epoll(7): a short read has emptied a stream socket, and the next event reports more.
        Ok(is_full || self.peer_closed)
    }
}

/// Writes until all is written or the socket is full. Returns how many bytes it accepted.
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
    use grapnel_floor::wire::{Parts, push_publish};
    use std::net::{TcpListener, TcpStream as Blocking};

    fn pair() -> (Link, Blocking) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Blocking::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Link::new(TcpStream::from_std(ours), None), theirs)
    }

    /// Reads until `count` frames have arrived. Returns their lengths.
    fn frames(link: &mut Link, buffer: &mut Buffers, count: usize) -> Vec<usize> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut lengths = Vec::new();
        while lengths.len() < count {
            let seen = lengths.len();
            assert!(std::time::Instant::now() < deadline, "{seen} of {count} frames after ten seconds");
            let Some(filled) = link.fill(buffer).unwrap() else {
                std::thread::yield_now();
                continue;
            };
            let take = |frame: &Frame<'_>| {
                lengths.push(frame.bytes.len());
                Ok(())
            };
            link.hand_out(filled, buffer, take).unwrap();
        }
        lengths
    }

    fn publish(payload_bytes: usize) -> Vec<u8> {
        let payload = &vec![b'a'; payload_bytes];
        let parts = Parts { qos: 0, topic: b"t", packet_id: 0, properties: &[], payload };
        let mut packet = Vec::new();
        push_publish(false, &parts, &mut packet);
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
        let mut buffer = Buffers::new(512);
        assert_eq!(frames(&mut link, &mut buffer, sizes.len()), expected);
        let peer = writer.join().unwrap();
        drop(peer);
        assert_eq!(link.fill(&mut buffer).unwrap_err(), Failure::Closed);
    }

    #[test]
    fn unsent_bytes_are_stored_in_order() {
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
        // There is space again, but the stored bytes are sent first.
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
