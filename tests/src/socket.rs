//! A connection with what lies between MQTT and the socket: bytes in, bytes out. Used by `line.rs`,
//! `churn.rs` and `flood.rs`, which drive many connections. It knows nothing of MQTT.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

use crate::layers::Layers;

/// A stream and the layers on it. Timeouts and blocking are those of the stream.
pub struct Socket {
    stream: TcpStream,
    layers: Option<Box<Layers>>,
    /// What the layers have decoded and nobody has read.
    plain: Vec<u8>,
    /// What the layers have encoded and the stream has not taken.
    unsent: Vec<u8>,
}

impl Socket {
    /// A connection whose layers have shaken hands; without layers, bytes travel as they are.
    pub fn over(stream: TcpStream, layers: Option<Box<Layers>>) -> Socket {
        Socket { stream, layers, plain: Vec::new(), unsent: Vec::new() }
    }

    /// The stream, for its options.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Another handle of the connection, for a second thread; `None` if it has layers, whose state
    /// two threads cannot share.
    ///
    /// # Panics
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> Option<Socket> {
        let stream = self.layers.is_none().then(|| self.stream.try_clone().expect("there are descriptors"));
        Some(Socket::over(stream?, None))
    }

    /// The stream and its layers.
    ///
    /// # Panics
    /// If bytes were received that nobody has read, or not all were sent.
    #[track_caller]
    pub fn into_parts(self) -> (TcpStream, Option<Box<Layers>>) {
        assert!(self.plain.is_empty() && self.unsent.is_empty(), "bytes are under way");
        (self.stream, self.layers)
    }

    /// Whether encoded bytes wait for room in the stream; [`Write::flush`] sends them.
    pub fn wants_write(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let Some(layers) = &mut self.layers else { return self.stream.read(into) };
        let mut chunk = [0; 16384];
        while self.plain.is_empty() {
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Ok(0);
            }
            let answers = layers.decode(&chunk[..read], &mut self.plain).map_err(Error::other)?;
            self.unsent.extend(answers);
        }
        let taken = into.len().min(self.plain.len());
        into[..taken].copy_from_slice(&self.plain[..taken]);
        self.plain.drain(..taken);
        Ok(taken)
    }
}

impl Write for Socket {
    /// Takes all or nothing if there are layers: a record that has begun must be sent whole.
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.layers.is_none() {
            return self.stream.write(bytes);
        }
        self.flush()?;
        if let Some(layers) = &mut self.layers {
            self.unsent = layers.encode(bytes);
        }
        match self.flush() {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// `WouldBlock` if the stream does not take all of it.
    fn flush(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            let sent = self.stream.write(&self.unsent)?;
            self.unsent.drain(..sent);
        }
        Ok(())
    }
}
