//! A page of retained messages as the bytes that a plugin gets: written by the broker, read by the SDK. Numbers are little-endian.
//!
//! A byte 0; four bytes of length and the place where the next page begins, empty where there is none; then each message: four bytes
//! of length, and fields. A field: four bytes of its number, four of length, and its value: eight bytes where it is a number; where
//! it is a user property, four bytes of the key's length, key and value. A field that is not known is passed over.

use super::FieldValue;
use crate::raw::Field;

/// Writes a page.
#[derive(Debug)]
pub struct FetchedWriter {
    bytes: Vec<u8>,
    /// Where the length of the message stands that is being written.
    message: usize,
}

impl FetchedWriter {
    /// A page behind which the next one begins at this place; empty where there is none.
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

    /// Adds a field of it.
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

    /// Ends it.
    pub fn end_message(&mut self) {
        let len = length(self.bytes.len() - self.message - 4);
        self.bytes[self.message..self.message + 4].copy_from_slice(&len);
    }

    /// The bytes.
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

/// Reads parts that have their length in front.
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    /// Four bytes as a number.
    pub(crate) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    /// The next part; `None` at the end, and where it is cut short.
    pub(crate) fn part(&mut self) -> Option<&'a [u8]> {
        let len = self.number()? as usize;
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }
}
