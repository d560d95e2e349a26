//! The formats of instance messages between instances and of state for the next generation: numbers
//! little-endian, texts with their length in front. Reading takes any bytes and returns `None` for
//! what is cut short.

use crate::store::{Item, Position};

/// Appends a text or bytes.
pub fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend((part.len() as u32).to_le_bytes());
    out.extend(part);
}

/// Reads what [`put`] and numbers have written.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A number.
    pub fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    /// A small number.
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

/// The messages of a page.
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

/// What [`write_items`] has written.
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

/// Places of the messages of a page, with their topics.
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

/// What [`write_places`] has written, one by one.
pub fn read_place<'a>(reader: &mut Reader<'a>) -> Option<(Position, &'a str)> {
    let place = Position { at_ms: reader.number()?, shard: reader.small()?, number: reader.number()? };
    Some((place, reader.text()?))
}
