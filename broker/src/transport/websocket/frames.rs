//! Frames of WebSocket (RFC 6455 section 5), from bytes as they arrive to the payload of binary
//! messages, and back. Called by `websocket.rs` once the upgrade is over. Holds the header and the
//! control frame that are incomplete, and no data.

use super::end::{CloseCode, Violation, check_close, protocol_error};
use crate::transport::LayerError;
use header::{Header, Opcode, take};

mod header;

/// Bytes before which a received frame is whole, and what they mean.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// A header that is incomplete.
    partial: header::Partial,
    /// The frame whose payload arrives.
    frame: Option<Payload>,
    /// Payload of the control frame that is incomplete, unmasked. At most 125 bytes.
    control: Vec<u8>,
    /// Whether a message has begun and its last frame has not.
    in_message: bool,
}

/// A payload that arrives.
#[derive(Debug)]
struct Payload {
    opcode: Opcode,
    /// The mask, turned so that its first byte is that of the next byte of the payload.
    mask: [u8; 4],
    remaining: u64,
}

/// A control frame that has arrived.
enum Control {
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>),
}

impl Frames {
    /// Takes `input`; appends the payload of data frames to `above`, and pongs and close frames to
    /// `below`.
    ///
    /// # Errors
    /// [`LayerError::Closed`] after the peer's close frame, which is answered, and
    /// [`LayerError::Refused`] after a violation, for which `below` has the close frame.
    pub(super) fn receive(
        &mut self,
        mut input: &[u8],
        above: &mut Vec<u8>,
        below: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        // One pong for each call: "the endpoint MAY elect to send a Pong frame for only the most
        // recently processed Ping frame" (section 5.5.3). So pings cannot make output of their own.
        let mut ping = None;
        loop {
            match self.next(&mut input, above) {
                Ok(None) => break,
                Ok(Some(Control::Ping(payload))) => ping = Some(payload),
                Ok(Some(Control::Pong)) => {}
                Ok(Some(Control::Close(payload))) => return self.answer_close(&payload, below),
                Err(violation) => return Err(refuse(violation, below)),
            }
        }
        if let Some(payload) = ping {
            header::write(Opcode::Pong, payload.len(), below);
            below.extend_from_slice(&payload);
        }
        Ok(())
    }

    /// Goes on to the next control frame that is whole, or to the end of `input`.
    fn next(&mut self, input: &mut &[u8], above: &mut Vec<u8>) -> Result<Option<Control>, Violation> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some(header) = self.partial.collect(input)? else { return Ok(None) };
                self.begin(&header)?;
                continue;
            };
            let payload = take(input, frame.remaining);
            let is_control = frame.opcode.is_control();
            frame.unmask(payload, if is_control { &mut self.control } else { above });
            if frame.remaining > 0 {
                return Ok(None);
            }
            let opcode = frame.opcode;
            self.frame = None;
            if is_control {
                let payload = std::mem::take(&mut self.control);
                return Ok(Some(match opcode {
                    Opcode::Ping => Control::Ping(payload),
                    Opcode::Close => Control::Close(payload),
                    _ => Control::Pong,
                }));
            }
        }
    }

    /// Checks that a frame may come here (section 5.4).
    fn begin(&mut self, header: &Header) -> Result<(), Violation> {
        match (header.opcode, self.in_message) {
            // [MQTT-6.0.0-1]
            (Opcode::Text, _) => {
                return Err(Violation {
                    code: CloseCode::UNSUPPORTED_DATA,
                    text: "a text frame; MQTT is sent in binary frames",
                });
            }
            (Opcode::Binary, true) => return Err(protocol_error("a message within a message")),
            (Opcode::Continuation, false) => {
                return Err(protocol_error("a continuation frame without a message"));
            }
            (Opcode::Binary | Opcode::Continuation, _) => self.in_message = !header.is_final,
            // Control frames come between the frames of a message too.
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {}
        }
        self.frame = Some(Payload { opcode: header.opcode, mask: header.mask, remaining: header.length });
        Ok(())
    }

    fn answer_close(&self, payload: &[u8], below: &mut Vec<u8>) -> Result<(), LayerError> {
        match check_close(payload) {
            Ok(code) => {
                // Section 5.5.1: the answer "typically echos the status code it received".
                let answer = code.map(|code| code.to_bytes());
                let answer = answer.as_ref().map_or(&[][..], |code| &code[..]);
                header::write(Opcode::Close, answer.len(), below);
                below.extend_from_slice(answer);
                Err(LayerError::Closed)
            }
            Err(violation) => Err(refuse(violation, below)),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.control.capacity()
    }
}

impl Payload {
    /// Appends `payload`, unmasked, to `plain`. It is at most what remains of the frame.
    fn unmask(&mut self, payload: &[u8], plain: &mut Vec<u8>) {
        let begin = plain.len();
        plain.extend_from_slice(payload);
        let mask = u128::from_ne_bytes(std::array::from_fn(|at| self.mask[at % 4]));
        let (blocks, rest) = plain[begin..].as_chunks_mut::<16>();
        for block in blocks {
            *block = (u128::from_ne_bytes(*block) ^ mask).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(mask.to_ne_bytes()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(payload.len() % 4);
        self.remaining -= payload.len() as u64;
    }
}

fn refuse(violation: Violation, below: &mut Vec<u8>) -> LayerError {
    write_close(violation.code, below);
    LayerError::Refused(format!("the client broke the WebSocket protocol: {}", violation.text))
}

/// Appends one binary frame with `bytes`, unmasked as a server must (section 5.1).
pub(super) fn write_data(bytes: &[u8], below: &mut Vec<u8>) {
    below.reserve(header::WRITTEN_BYTES_MAX + bytes.len());
    header::write(Opcode::Binary, bytes.len(), below);
    below.extend_from_slice(bytes);
}

/// Appends a close frame without reason.
pub(super) fn write_close(code: CloseCode, below: &mut Vec<u8>) {
    header::write(Opcode::Close, size_of::<u16>(), below);
    below.extend_from_slice(&code.to_bytes());
}
