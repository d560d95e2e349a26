//! The client's side of WebSocket (RFC 6455): the request, frames of any kind, and the frames of a
//! server.

/// Opcode of a continuation frame (section 5.2).
pub const CONTINUATION: u8 = 0;
/// Opcode of a text frame.
pub const TEXT: u8 = 1;
/// Opcode of a binary frame.
pub const BINARY: u8 = 2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of a pong.
pub const PONG: u8 = 10;

/// Any mask that changes every byte.
const MASK: [u8; 4] = [0x5A, 0xC3, 0x0F, 0x91];
/// The key of the example of section 1.3, and the answer that it has there.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An upgrade request with the subprotocol `mqtt` ([MQTT-6.0.0-3]).
pub fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
}

/// Checks the answer to [`request`].
///
/// # Errors
/// What is wrong with it; a refusal is shown as it is.
pub fn check_answer(answer: &str) -> Result<(), String> {
    // [MQTT-6.0.0-4]: the subprotocol that was selected is `mqtt`.
    let wanted = [format!("Sec-WebSocket-Accept: {ACCEPT}"), "Sec-WebSocket-Protocol: mqtt".to_owned()];
    let has = |line: &String| answer.split("\r\n").any(|one| one == line);
    if answer.starts_with("HTTP/1.1 101 ") && wanted.iter().all(has) {
        Ok(())
    } else {
        Err(answer.to_owned())
    }
}

/// A masked frame, as a client must send it (section 5.3).
pub fn frame(opcode: u8, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, is_final, payload.len() as u64, 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The same without a mask, which a client must not send.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, true, payload.len() as u64, 0);
    frame.extend_from_slice(payload);
    frame
}

/// The header of a masked frame of this length, without its payload.
pub fn only_header(opcode: u8, length: u64) -> Vec<u8> {
    let mut frame = header(opcode, true, length, 0x80);
    frame.extend_from_slice(&MASK);
    frame
}

fn header(opcode: u8, is_final: bool, length: u64, masked: u8) -> Vec<u8> {
    let mut header = vec![opcode | if is_final { 0x80 } else { 0 }];
    match length {
        0..=125 => header.push(masked | length as u8),
        126..=0xFFFF => {
            header.push(masked | 126);
            header.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            header.push(masked | 127);
            header.extend_from_slice(&length.to_be_bytes());
        }
    }
    header
}

/// Frames of a server, as they arrive.
#[derive(Default)]
pub struct WebSocket {
    held: Vec<u8>,
    pongs: Vec<Vec<u8>>,
}

impl WebSocket {
    /// Adds received bytes.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Takes the whole frames: appends data to `plain`, stores the code of a close frame. Returns
    /// what answers pings.
    ///
    /// # Errors
    /// What a server may not send.
    pub fn take(&mut self, plain: &mut Vec<u8>, close: &mut Option<u16>) -> Result<Vec<u8>, String> {
        let mut answers = Vec::new();
        let mut used = 0;
        while let Some((opcode, payload, length)) = whole(&self.held[used..])? {
            if close.is_some() {
                return Err("the server sent a frame after its close frame (section 5.5.1)".to_owned());
            }
            match opcode {
                BINARY => plain.extend_from_slice(payload),
                CLOSE => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    *close = Some(code.unwrap_or_default());
                }
                PING => answers.extend(frame(PONG, true, payload)),
                PONG => self.pongs.push(payload.to_vec()),
                other => return Err(format!("a frame with opcode {other}")),
            }
            used += length;
        }
        self.held.drain(..used);
        Ok(answers)
    }

    /// Payloads of the pongs so far; they are removed.
    pub fn pongs(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.pongs)
    }
}

/// First byte, payload and whole length of a frame.
type Frame<'a> = (u8, &'a [u8], usize);

/// Opcode, payload and length of the first frame, once it is whole.
fn whole(bytes: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    // Sections 5.1 and 5.2: a server sends no mask, and no reserved bits without an extension.
    if first & 0x70 != 0 || second & 0x80 != 0 || first & 0x80 == 0 {
        return Err(format!("a frame that begins with {first:#04x} {second:#04x}"));
    }
    let (length, begin) = match (second & 0x7F, rest) {
        (126, [high, low, ..]) => (u64::from(u16::from_be_bytes([*high, *low])), 4),
        (127, _) => match rest.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 10),
            None => return Ok(None),
        },
        (126, _) => return Ok(None),
        (short, _) => (u64::from(short), 2),
    };
    let end = begin + usize::try_from(length).map_err(|_| format!("a frame of {length} bytes"))?;
    Ok(bytes.get(begin..end).map(|payload| (first & 0x0F, payload, end)))
}
