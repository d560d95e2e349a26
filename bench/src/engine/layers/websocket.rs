//! The client's side of a WebSocket (RFC 6455), without I/O: the request and its answer, and frames.
//! Only `layers` calls it. Reading and masking are all that it does with each byte.

use crate::engine::failure::Failure;
use crate::header::random_run;

/// The key of every request, which is the example of RFC 6455 section 1.3, and its only right
/// answer. A key serves against caches, which are not in the way of a load.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Longest answer to the request, bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Longest payload of a control frame, bytes (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;
/// Longest head of a frame that a client sends: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The WebSocket of one connection.
#[derive(Debug)]
pub struct WebSocket {
    request: String,
    mask: [u8; 4],
    /// The answer to the request, until it is complete.
    answer: Option<Vec<u8>>,
    /// The head of the current frame, as far as it has come; empty between two frames.
    head: Vec<u8>,
    /// Bytes of its payload that are still to come, once the head is complete.
    left: Option<u64>,
    /// The payload of a control frame.
    control: Vec<u8>,
}

fn failure(what: impl Into<String>) -> Failure {
    Failure::WebSocket(what.into())
}

impl WebSocket {
    /// One that requests this path of this host.
    pub fn new(path: &str, host: &str) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        Self {
            request,
            // Masks guard proxies against scripts; one for each connection is enough for a load.
            mask: random_run().to_ne_bytes(),
            answer: Some(Vec::new()),
            head: Vec::new(),
            left: None,
            control: Vec::new(),
        }
    }

    /// The bytes that open it; they are needed once.
    pub fn take_request(&mut self) -> String {
        std::mem::take(&mut self.request)
    }

    /// Whether the broker has accepted the request.
    pub fn is_open(&self) -> bool {
        self.answer.is_none()
    }

    /// Masks the payload of a frame of data. Returns the frame's head and its length.
    pub fn mask(&self, payload: &mut [u8]) -> ([u8; HEAD_BYTES_MAX], usize) {
        self.frame(BINARY, payload)
    }

    /// A close frame with the code for a normal end; nothing before the WebSocket is open.
    pub fn goodbye(&self) -> Vec<u8> {
        let mut goodbye = Vec::new();
        if self.is_open() {
            self.push(CLOSE, &mut 1000_u16.to_be_bytes(), &mut goodbye);
        }
        goodbye
    }

    fn push(&self, opcode: u8, payload: &mut [u8], out: &mut Vec<u8>) {
        let (head, length) = self.frame(opcode, payload);
        out.extend_from_slice(&head[..length]);
        out.extend_from_slice(payload);
    }

    fn frame(&self, opcode: u8, payload: &mut [u8]) -> ([u8; HEAD_BYTES_MAX], usize) {
        let mut head = [0; HEAD_BYTES_MAX];
        head[0] = FINAL | opcode;
        let bytes = payload.len() as u64;
        let at = match bytes {
            0..=125 => {
                head[1] = payload.len() as u8;
                2
            }
            126..=0xFFFF => {
                head[1] = 126;
                head[2..4].copy_from_slice(&bytes.to_be_bytes()[6..]);
                4
            }
            _ => {
                head[1] = 127;
                head[2..10].copy_from_slice(&bytes.to_be_bytes());
                10
            }
        };
        head[1] |= 0x80;
        head[at..at + 4].copy_from_slice(&self.mask);
        let mask = u32::from_ne_bytes(self.mask);
        let (words, rest) = payload.as_chunks_mut::<4>();
        for word in words {
            *word = (u32::from_ne_bytes(*word) ^ mask).to_ne_bytes();
        }
        rest.iter_mut().zip(self.mask).for_each(|(byte, mask)| *byte ^= mask);
        (head, at + 4)
    }

    /// Takes bytes of the broker, wherever they are cut: appends what frames of data contain to
    /// `plain`, and answers to pings to `replies`.
    pub fn read(&mut self, bytes: &[u8], plain: &mut Vec<u8>, replies: &mut Vec<u8>) -> Result<(), Failure> {
        let mut bytes = self.read_answer(bytes)?;
        while let Some((first, rest)) = bytes.split_first() {
            let Some(left) = self.left else {
                self.head.push(*first);
                bytes = rest;
                self.left = self.read_head()?;
                if self.left == Some(0) {
                    self.end_frame(replies)?;
                }
                continue;
            };
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(here);
            bytes = rest;
            let is_control = self.head[0] & 8 != 0;
            if is_control { &mut self.control } else { &mut *plain }.extend_from_slice(payload);
            self.left = Some(left - here as u64);
            if self.left == Some(0) {
                self.end_frame(replies)?;
            }
        }
        Ok(())
    }

    /// Takes the answer to the request from the front of `bytes`. Returns what is behind it.
    fn read_answer<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Failure> {
        const END: &[u8] = b"\r\n\r\n";
        let Some(answer) = &mut self.answer else { return Ok(bytes) };
        let before = answer.len();
        answer.extend_from_slice(bytes);
        let from = before.saturating_sub(END.len() - 1);
        let Some(at) = answer[from..].windows(END.len()).position(|four| four == END) else {
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(failure(
                    "an answer without an end; does the broker speak WebSocket on this port?",
                ));
            }
            return Ok(&[]);
        };
        let end = from + at + END.len();
        check(&String::from_utf8_lossy(&answer[..end]))?;
        self.answer = None;
        Ok(&bytes[end - before..])
    }

    /// Length of the payload if the head is complete.
    fn read_head(&self) -> Result<Option<u64>, Failure> {
        let [first, length, more @ ..] = self.head.as_slice() else { return Ok(None) };
        let (opcode, is_final) = (first & 0x0F, first & FINAL != 0);
        if first & 0x70 != 0 || length & 0x80 != 0 {
            return Err(failure("the broker sent a frame with a mask or with reserved bits"));
        }
        let length = match (length, more) {
            (126, [a, b]) => u64::from(u16::from_be_bytes([*a, *b])),
            (127, more) if more.len() == 8 => more.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            (126 | 127, _) => return Ok(None),
            (short, _) => u64::from(*short),
        };
        match opcode {
            CONTINUATION | BINARY => Ok(Some(length)),
            CLOSE | PING | PONG if is_final && length <= CONTROL_BYTES_MAX => Ok(Some(length)),
            other => Err(failure(format!("the broker sent a frame of kind {other} that has no place here"))),
        }
    }

    fn end_frame(&mut self, replies: &mut Vec<u8>) -> Result<(), Failure> {
        let opcode = self.head[0] & 0x0F;
        self.head.clear();
        self.left = None;
        let mut control = std::mem::take(&mut self.control);
        match (opcode, control.as_slice()) {
            (PING, _) => self.push(PONG, &mut control, replies),
            (CLOSE, [a, b, reason @ ..]) => {
                let (code, reason) = (u16::from_be_bytes([*a, *b]), String::from_utf8_lossy(reason));
                return Err(failure(format!("closed by the broker with code {code} {reason}").trim_end()));
            }
            (CLOSE, _) => return Err(failure("closed by the broker")),
            _ => {}
        }
        Ok(())
    }
}

/// Checks the answer to the request.
fn check(answer: &str) -> Result<(), Failure> {
    let mut lines = answer.lines();
    let status = lines.next().unwrap_or_default();
    let status = status.strip_prefix("HTTP/1.1 ").unwrap_or(status);
    if !status.starts_with("101") {
        return Err(failure(format!("the broker answered {status}; is --ws-path right?")));
    }
    let value = |wanted: &str| {
        lines.clone().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    if value("sec-websocket-accept") != Some(ACCEPT) {
        return Err(failure("the answer of the broker does not fit to the request"));
    }
    // MQTT requires the subprotocol [MQTT-6.0.0-4].
    if value("sec-websocket-protocol") != Some("mqtt") {
        return Err(failure("the broker did not select the subprotocol mqtt"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
