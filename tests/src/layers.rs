//! The client's side of TLS and WebSocket, without a socket: turns packets into the bytes that
//! travel, and back, so that a test can cut, delay or change those. Used by `client.rs`. TLS is
//! rustls; WebSocket is written from RFC 6455 and checks strictly what a server may send.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};

pub mod websocket;

use websocket::WebSocket;

/// The layers of one connection. An absent one passes bytes as they are.
#[derive(Default)]
pub struct Layers {
    tls: Option<Box<ClientConnection>>,
    websocket: Option<WebSocket>,
    end: End,
}

/// How the server has ended the layers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct End {
    /// Code of its close frame.
    pub close_code: Option<u16>,
    /// Whether the end of TLS came (close_notify).
    pub close_notify: bool,
}

impl Layers {
    /// Makes them, and shakes hands over `stream`.
    ///
    /// # Errors
    /// Why a handshake failed: the error of TLS, or the answer to the upgrade request.
    pub fn open(
        stream: &mut TcpStream,
        tls: Option<Arc<ClientConfig>>,
        path: Option<&str>,
    ) -> Result<Layers, String> {
        let mut layers = Layers::default();
        if let Some(config) = tls {
            let name = "localhost".try_into().expect("a DNS name");
            let connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
            layers.tls = Some(Box::new(connection));
            layers.shake_hands(stream)?;
        }
        if let Some(path) = path {
            layers.upgrade(stream, path)?;
        }
        Ok(layers)
    }

    fn shake_hands(&mut self, stream: &mut TcpStream) -> Result<(), String> {
        let tls = self.tls.as_mut().expect("called with TLS");
        while tls.is_handshaking() {
            // Reports its alert too.
            tls.complete_io(stream).map_err(|error| format!("TLS: {error}"))?;
        }
        while tls.wants_write() {
            tls.write_tls(stream).map_err(|error| format!("TLS: {error}"))?;
        }
        Ok(())
    }

    fn upgrade(&mut self, stream: &mut TcpStream, path: &str) -> Result<(), String> {
        let request = self.encode_below(websocket::request(path).as_bytes());
        stream.write_all(&request).map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        let end = loop {
            if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            let mut chunk = [0; 16384];
            let read = match stream.read(&mut chunk) {
                Ok(0) => return Err(format!("closed after {:?}", String::from_utf8_lossy(&answer))),
                Ok(read) => read,
                Err(error) => return Err(error.to_string()),
            };
            self.decode_below(&chunk[..read], &mut answer)?;
        };
        websocket::check_answer(&String::from_utf8_lossy(&answer[..end]))?;
        let mut websocket = WebSocket::default();
        websocket.hold(&answer[end..]);
        self.websocket = Some(websocket);
        Ok(())
    }

    /// The bytes that carry `bytes`: one frame in as many records as it takes.
    pub fn encode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let framed = match &self.websocket {
            Some(_) => websocket::frame(websocket::BINARY, true, bytes),
            None => bytes.to_vec(),
        };
        self.encode_below(&framed)
    }

    /// The bytes that carry `bytes` below WebSocket, such as a frame that the test has made.
    pub fn encode_below(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(tls) = &mut self.tls else { return bytes.to_vec() };
        let mut records = Vec::new();
        // rustls takes a part at a time.
        for part in bytes.chunks(32 << 10) {
            tls.writer().write_all(part).expect("its buffer is emptied after each part");
            while tls.wants_write() {
                tls.write_tls(&mut records).expect("a vector takes everything");
            }
        }
        records
    }

    /// Decodes received bytes and appends their content to `plain`. Returns what is to be sent
    /// because of them, such as a pong.
    ///
    /// # Errors
    /// What the server did wrong.
    pub fn decode(&mut self, input: &[u8], plain: &mut Vec<u8>) -> Result<Vec<u8>, String> {
        let Some(mut websocket) = self.websocket.take() else {
            self.decode_below(input, plain)?;
            return Ok(Vec::new());
        };
        let mut framed = Vec::new();
        let decoded = self.decode_below(input, &mut framed);
        websocket.hold(&framed);
        let pongs = websocket.take(plain, &mut self.end.close_code);
        self.websocket = Some(websocket);
        decoded?;
        Ok(self.encode_below(&pongs?))
    }

    fn decode_below(&mut self, mut input: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(input);
            return Ok(());
        };
        while !input.is_empty() {
            tls.read_tls(&mut input).map_err(|error| format!("TLS: {error}"))?;
            let state = tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            self.end.close_notify |= state.peer_has_closed();
            match tls.reader().read_to_end(plain) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("TLS: {error}")),
            }
            if self.end.close_notify {
                break;
            }
        }
        Ok(())
    }

    /// The end of this side of TLS (close_notify).
    ///
    /// # Panics
    /// Without TLS.
    #[track_caller]
    pub fn close_notify(&mut self) -> Vec<u8> {
        let tls = self.tls.as_mut().expect("there is TLS");
        tls.send_close_notify();
        let mut record = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut record).expect("a vector takes everything");
        }
        record
    }

    /// How the server has ended the layers, as far as that was received.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// The TLS connection, for its version and its certificates.
    pub fn tls(&self) -> Option<&ClientConnection> {
        self.tls.as_deref()
    }

    /// Payloads of the pongs that were received.
    pub fn pongs(&mut self) -> Vec<Vec<u8>> {
        self.websocket.as_mut().map(WebSocket::pongs).unwrap_or_default()
    }
}
