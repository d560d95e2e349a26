//! A page of retained messages as bytes: written by the broker, read by the SDK. Numbers are
//! little-endian.
//!
//! A page: one byte 0; four bytes of length and the start of the next page, empty for none; then
//! each message. A message: four bytes of length, and its fields. A field: four bytes of its
//! number, four bytes of length, and its value. The value of a number is eight bytes; that of a
//! user property is four bytes of the key's length, key and value. Unknown fields are skipped.

use super::FieldValue;
use crate::raw::Field;

/// Writes a page.
#[derive(Debug)]
pub struct FetchedWriter {
    bytes: Vec<u8>,
    /// Position of the current message's length.
    message: usize,
}

impl FetchedWriter {
    /// A page with the start of the next page; empty if there is none.
    pub fn new(next: &[u8]) -> FetchedWriter {
        let mut bytes = vec![0];
        put(&mut bytes, next);
        FetchedWriter { bytes, message: 0 }
    }

    /// Begins a message.
    pub fn begin_message(&mut self) {
        self.message = self.bytes.len();
        self.bytes.extend([0; 4]);
    }

    /// Adds a field to the message.
    pub fn field(&mut self, field: Field, value: FieldValue<'_>) {
        self.bytes.extend(field.0.to_le_bytes());
        match value {
            FieldValue::Number(number) => put(&mut self.bytes, &number.to_le_bytes()),
            FieldValue::Bytes(bytes) => put(&mut self.bytes, bytes),
            FieldValue::Pair(key, value) => {
                self.bytes.extend(length(4 + key.len() + value.len()));
                put(&mut self.bytes, key);
                self.bytes.extend(value);
            }
        }
    }

    /// Ends the message.
    pub fn end_message(&mut self) {
        let len = length(self.bytes.len() - self.message - 4);
        self.bytes[self.message..self.message + 4].copy_from_slice(&len);
    }

    /// The bytes of the page.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// A message has at most 256 MiB.
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend(length(part.len()));
    out.extend(part);
}

/// Reads parts with a length prefix.
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    /// Four bytes as a number.
    pub(crate) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    /// The next part; `None` at the end and if the part is truncated.
    pub(crate) fn part(&mut self) -> Option<&'a [u8]> {
        let len = self.number()? as usize;
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }
}
