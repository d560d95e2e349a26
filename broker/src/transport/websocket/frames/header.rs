//! Headers of frames (RFC 6455 section 5.2): what a client may send is refused or read here, one
//! header at a time, and what the broker sends is written. The order of frames is not looked at.

use crate::transport::websocket::end::{Violation, protocol_error};

/// Longest payload of a control frame, bytes (section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;
/// Longest header that a client sends, bytes: two, a length of eight, a mask of four.
const READ_BYTES_MAX: usize = 14;
/// Longest header that the broker sends, bytes: it has no mask.
pub(super) const WRITTEN_BYTES_MAX: usize = 10;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// The length follows in two bytes.
const LENGTH_16: u8 = 126;
/// The length follows in eight bytes.
const LENGTH_64: u8 = 127;

/// Kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(protocol_error("a frame with a reserved opcode")),
        })
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// A header of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub is_final: bool,
    pub opcode: Opcode,
    pub mask: [u8; 4],
    /// Of the payload, bytes.
    pub length: u64,
}

/// A header that is incomplete.
#[derive(Debug, Default)]
pub(super) struct Partial {
    bytes: [u8; READ_BYTES_MAX],
    held: usize,
}

impl Partial {
    /// Takes bytes of the header from the front of `input`, and gives the header once it is whole.
    pub(super) fn collect(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Violation> {
        loop {
            let wanted = wanted(&self.bytes[..self.held])?;
            if self.held == wanted {
                let header = read(&self.bytes[..self.held])?;
                self.held = 0;
                return Ok(Some(header));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let taken = take(input, (wanted - self.held) as u64);
            self.bytes[self.held..self.held + taken.len()].copy_from_slice(taken);
            self.held += taken.len();
        }
    }
}

/// How many bytes the header has that begins with `held`, as far as that is known. Refuses what is
/// wrong in its first two bytes.
fn wanted(held: &[u8]) -> Result<usize, Violation> {
    let &[first, second, ..] = held else { return Ok(2) };
    let opcode = Opcode::of(first & OPCODE)?;
    if first & RESERVED != 0 {
        return Err(protocol_error("a frame with a reserved bit; no extension was agreed on"));
    }
    // Section 5.1
    if second & MASKED == 0 {
        return Err(protocol_error("a frame without mask"));
    }
    let length = second & LENGTH;
    if opcode.is_control() && (first & FINAL == 0 || u64::from(length) > CONTROL_BYTES_MAX) {
        return Err(protocol_error("a control frame that is fragmented or longer than 125 bytes"));
    }
    Ok(match length {
        LENGTH_16 => 8,
        LENGTH_64 => 14,
        _ => 6,
    })
}

/// Reads a header that is whole.
fn read(bytes: &[u8]) -> Result<Header, Violation> {
    let (length, mask) = match bytes {
        // "The minimal number of bytes MUST be used to encode the length" (section 5.2).
        &[_, _, a, b, ref mask @ ..] if mask.len() == 4 => {
            let length = u16::from_be_bytes([a, b]);
            (u64::from(length), check_minimal(length >= u16::from(LENGTH_16)).map(|()| mask)?)
        }
        &[_, _, a, b, c, d, e, f, g, h, ref mask @ ..] if mask.len() == 4 => {
            let length = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            if length > i64::MAX as u64 {
                return Err(protocol_error("a frame with a length of more than 63 bits"));
            }
            (length, check_minimal(length > u64::from(u16::MAX)).map(|()| mask)?)
        }
        [_, second, mask @ ..] => (u64::from(second & LENGTH), mask),
        _ => return Err(protocol_error("half a header")),
    };
    let &[first, ..] = bytes else { return Err(protocol_error("half a header")) };
    let mask = mask.try_into().map_err(|_| protocol_error("half a header"))?;
    Ok(Header { is_final: first & FINAL != 0, opcode: Opcode::of(first & OPCODE)?, mask, length })
}

fn check_minimal(is_minimal: bool) -> Result<(), Violation> {
    match is_minimal {
        true => Ok(()),
        false => Err(protocol_error("a frame whose length takes more bytes than it needs")),
    }
}

/// Appends the header of a frame of the broker: the only one of its message, and without mask.
pub(super) fn write(opcode: Opcode, length: usize, below: &mut Vec<u8>) {
    below.push(FINAL | opcode as u8);
    match length {
        0..=125 => below.push(length as u8),
        126..=0xffff => {
            below.push(LENGTH_16);
            below.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            below.push(LENGTH_64);
            below.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Takes up to `most` bytes from the front of `input`.
pub(super) fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at(most);
    *input = rest;
    taken
}
