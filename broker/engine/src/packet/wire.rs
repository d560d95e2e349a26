//! The primitive data types of the wire (MQTT 5.0 section 1.5) and the error of every decode step.
//! Used by the property code here and by `codec`; independent of packets.

use crate::reason::ReasonCode;
use crate::topic;

/// The largest value of a variable byte integer (section 1.5.5), and so of the remaining length in
/// bytes.
pub const VARINT_MAX: u32 = 268_435_455;

/// The largest MQTT packet, fixed header included, in bytes.
pub const PACKET_BYTES_MAX: u32 = VARINT_MAX + 5;

/// Why bytes are not a packet. It borrows and allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct DecodeError {
    /// The reason code for a v5 peer, in DISCONNECT or CONNACK before the connection is closed
    /// [MQTT-4.13.1-1].
    pub reason: ReasonCode,
    /// What is wrong, with the statement or section number.
    pub detail: &'static str,
}

impl DecodeError {
    /// A packet that cannot be parsed according to the specification (0x81).
    pub(crate) const fn malformed(detail: &'static str) -> Self {
        Self { reason: ReasonCode::MALFORMED_PACKET, detail }
    }

    /// A packet that parses but breaks the protocol (0x82).
    pub(crate) const fn protocol(detail: &'static str) -> Self {
        Self { reason: ReasonCode::PROTOCOL_ERROR, detail }
    }
}

const SHORT: DecodeError =
    DecodeError::malformed("a field reaches beyond the end of the packet [section 1.5]");

/// A cursor over the body of one frame. Every read checks the length; nothing is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that have not been read.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer (section 1.5.5).
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        match varint(self.rest)? {
            Some((value, len)) => {
                self.rest = &self.rest[len..];
                Ok(value)
            }
            None => Err(SHORT),
        }
    }

    /// Binary data: two bytes of length and as many bytes (section 1.5.6).
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A UTF-8 encoded string (section 1.5.4).
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        checked_text(bytes, topic::has_null(bytes))
    }

    /// The same, and whether it contains `+` or `#`.
    #[inline]
    pub(crate) fn string_and_wildcard(&mut self) -> Result<(&'a str, bool), DecodeError> {
        let bytes = self.binary()?;
        let special = topic::special_bytes(bytes);
        checked_text(bytes, special.null).map(|text| (text, special.wildcard))
    }

    /// Checks that the packet ends here.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::malformed("the packet is longer than its content [section 2.1.4]"))
        }
    }
}

/// The bytes of a string as text. `has_null` says whether they contain U+0000.
#[inline]
fn checked_text(bytes: &[u8], has_null: bool) -> Result<&str, DecodeError> {
    // `from_utf8` refuses surrogates (U+D800 to U+DFFF) and over-long forms, and keeps U+FEFF
    // [MQTT-1.5.4-3].
    let text = std::str::from_utf8(bytes)
        .map_err(|_| DecodeError::malformed("a string is not well-formed UTF-8 [MQTT-1.5.4-1]"))?;
    if has_null {
        return Err(DecodeError::malformed("a string contains U+0000 [MQTT-1.5.4-2]"));
    }
    Ok(text)
}

/// Reads a variable byte integer from the start of `bytes`: its value and length in bytes; `None`
/// if more bytes are needed.
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0u32;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // A last byte of zero makes the encoding longer than needed.
            if byte == 0 && index > 0 {
                return Err(DecodeError::malformed(
                    "a variable byte integer is longer than its value needs [MQTT-1.5.5-1]",
                ));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(DecodeError::malformed(
            "a variable byte integer has more than four bytes [section 1.5.5]",
        ));
    }
    Ok(None)
}

/// Bytes of a variable byte integer. Values above [`VARINT_MAX`] do not exist on the wire.
pub(crate) const fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends a variable byte integer. The caller has checked it against [`VARINT_MAX`].
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    debug_assert!(value <= VARINT_MAX as usize, "a variable byte integer of {value}");
    for _ in 0..3 {
        if value < 0x80 {
            break;
        }
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7F) as u8);
}

/// The part of `bytes` that fits a length of two bytes. The encoder never fails, so longer data is
/// cut.
pub(crate) fn fit(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(u16::MAX as usize)]
}

/// Like [`fit`], at a character boundary.
pub(crate) fn fit_str(text: &str) -> &str {
    if text.len() <= u16::MAX as usize { text } else { &text[..text.floor_char_boundary(u16::MAX as usize)] }
}

/// Appends binary data after its length.
pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = fit(bytes);
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a string after its length.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_binary(out, fit_str(text).as_bytes());
}

/// The bytes that [`put_binary`] appends.
pub(crate) fn binary_len(bytes: &[u8]) -> usize {
    2 + fit(bytes).len()
}

/// The bytes that [`put_string`] appends.
pub(crate) fn string_len(text: &str) -> usize {
    2 + fit_str(text).len()
}
