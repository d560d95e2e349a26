//! The formats of instance messages and of state for the next generation. Numbers are
//! little-endian; texts have a length prefix. Readers accept any bytes and return `None` for
//! truncated input.

use crate::store::{Item, Position};

/// Appends a text or bytes with a length prefix.
pub fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend((part.len() as u32).to_le_bytes());
    out.extend(part);
}

/// Reads values that [`put`] and the number functions have written.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number of 8 bytes.
    pub fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    /// A number of 4 bytes.
    pub fn small(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    /// Bytes.
    pub fn part(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.0 = rest;
        Some(part)
    }

    /// A text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.part()?).ok()
    }
}

/// Writes the messages of a page.
pub fn write_items(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        out.extend(item.at_ms.to_le_bytes());
        out.extend(item.number.to_le_bytes());
        out.extend(item.newer.to_le_bytes());
        out.extend(item.absent.to_le_bytes());
        put(&mut out, item.topic.as_bytes());
        put(&mut out, &item.payload);
    }
    out
}

/// Reads the result of [`write_items`].
pub fn read_items(bytes: &[u8]) -> Option<Vec<Item>> {
    let (mut reader, mut items) = (Reader(bytes), Vec::new());
    while !reader.is_empty() {
        items.push(Item {
            at_ms: reader.number()?,
            number: reader.number()?,
            newer: reader.small()?,
            absent: reader.number()?,
            topic: reader.text()?.to_owned(),
            payload: reader.part()?.to_vec(),
        });
    }
    items.shrink_to_fit();
    Some(items)
}

/// Writes the positions and topics of the messages of a page.
pub fn write_places(shard: u32, items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        out.extend(item.at_ms.to_le_bytes());
        out.extend(shard.to_le_bytes());
        out.extend(item.number.to_le_bytes());
        put(&mut out, item.topic.as_bytes());
    }
    out
}

/// Reads the next entry of [`write_places`].
pub fn read_place<'a>(reader: &mut Reader<'a>) -> Option<(Position, &'a str)> {
    let place = Position { at_ms: reader.number()?, shard: reader.small()?, number: reader.number()? };
    Some((place, reader.text()?))
}
