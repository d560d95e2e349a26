//! The messages that one shard holds, by when they are due, and the bytes they are handed over in to the next version of the
//! plugin. No clock and no broker in here.

use std::collections::BTreeMap;

use grapnel_plugin_abi::{Error, Outgoing};

/// First byte of what is handed over: the form of the rest.
const FORM: u8 = 1;

/// A message that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub from: String,
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub is_text: bool,
    pub expiry_s: u32,
    pub content_type: String,
    pub response_topic: String,
    pub correlation_data: Vec<u8>,
    pub user_properties: Vec<(String, String)>,
}

impl Held {
    /// What it counts against `bytes_max`.
    pub fn bytes(&self) -> u64 {
        let texts = self.from.len() + self.topic.len() + self.content_type.len() + self.response_topic.len();
        let pairs: usize = self.user_properties.iter().map(|(key, value)| key.len() + value.len()).sum();
        (texts + pairs + self.payload.len() + self.correlation_data.len()) as u64
    }

    /// The message to publish.
    pub fn outgoing(&self) -> Outgoing {
        let mut message = Outgoing::new(self.topic.as_str(), self.payload.as_slice())
            .qos(self.qos)
            .retain(self.retain)
            .from_client(self.from.as_str())
            .message_expiry_s(self.expiry_s)
            .content_type(self.content_type.as_str())
            .response_topic(self.response_topic.as_str())
            .correlation_data(self.correlation_data.as_slice());
        if self.is_text {
            message = message.payload_format(1);
        }
        let pairs = self.user_properties.iter();
        pairs.fold(message, |message, (key, value)| message.user_property(key.as_str(), value.as_str()))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.qos, u8::from(self.retain), u8::from(self.is_text)]);
        out.extend(self.expiry_s.to_le_bytes());
        for part in [self.from.as_bytes(), self.topic.as_bytes(), &self.payload, self.content_type.as_bytes()]
        {
            put(out, part);
        }
        put(out, self.response_topic.as_bytes());
        put(out, &self.correlation_data);
        out.extend((self.user_properties.len() as u32).to_le_bytes());
        for (key, value) in &self.user_properties {
            put(out, key.as_bytes());
            put(out, value.as_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Held> {
        let [qos, retain, is_text] = reader.array()?;
        let mut held = Held {
            qos,
            retain: retain != 0,
            is_text: is_text != 0,
            expiry_s: u32::from_le_bytes(reader.array()?),
            from: reader.text()?,
            topic: reader.text()?,
            payload: reader.part()?.to_vec(),
            content_type: reader.text()?,
            response_topic: reader.text()?,
            correlation_data: reader.part()?.to_vec(),
            user_properties: Vec::new(),
        };
        for _ in 0..u32::from_le_bytes(reader.array()?) {
            held.user_properties.push((reader.text()?, reader.text()?));
        }
        Some(held)
    }
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend((part.len() as u32).to_le_bytes());
    out.extend(part);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        let (part, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(part)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.part()?.to_vec()).ok()
    }
}

/// The messages of a shard: those that are due at the same time in the order in which they came.
#[derive(Debug, Default)]
pub struct Store {
    waiting: BTreeMap<(u64, u64), Held>,
    last: u64,
    bytes: u64,
}

impl Store {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What they hold together, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the next one is due, milliseconds since 1970.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Keeps a message until then.
    pub fn hold(&mut self, due_ms: u64, held: Held) {
        self.last += 1;
        self.bytes += held.bytes();
        self.waiting.insert((due_ms, self.last), held);
    }

    /// The first one that is due; it stays.
    pub fn first_due(&self, now_ms: u64) -> Option<&Held> {
        self.waiting.first_key_value().filter(|((due_ms, _), _)| *due_ms <= now_ms).map(|(_, held)| held)
    }

    /// Takes out the first one.
    pub fn take_first(&mut self) -> Option<Held> {
        let (_, held) = self.waiting.pop_first()?;
        self.bytes -= held.bytes();
        Some(held)
    }

    /// All of it, for the next version.
    pub fn export(&self) -> Vec<u8> {
        let mut out = vec![FORM];
        for ((due_ms, _), held) in &self.waiting {
            out.extend(due_ms.to_le_bytes());
            held.write(&mut out);
        }
        out
    }

    /// What the version before has exported.
    pub fn import(state: &[u8]) -> Result<Store, Error> {
        let wrong = || Error::new("what the version before left cannot be read");
        let Some((&FORM, state)) = state.split_first() else { return Err(wrong()) };
        let (mut reader, mut store) = (Reader(state), Store::default());
        while !reader.0.is_empty() {
            let due_ms = u64::from_le_bytes(reader.array().ok_or_else(wrong)?);
            store.hold(due_ms, Held::read(&mut reader).ok_or_else(wrong)?);
        }
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn held(topic: &str) -> Held {
        Held {
            from: "me".to_owned(),
            topic: topic.to_owned(),
            payload: vec![0, 255],
            qos: 2,
            retain: true,
            is_text: false,
            expiry_s: 7,
            content_type: "x/y".to_owned(),
            response_topic: "answer".to_owned(),
            correlation_data: vec![1],
            user_properties: vec![("k".to_owned(), "v".to_owned()), (String::new(), "ü".to_owned())],
        }
    }

    #[test]
    fn messages_leave_when_they_are_due_and_in_order() {
        let mut store = Store::default();
        for (due_ms, topic) in [(20, "b"), (10, "a"), (20, "c"), (30, "d")] {
            store.hold(due_ms, held(topic));
        }
        assert_eq!((store.len(), store.next_due_ms()), (4, Some(10)));
        assert_eq!(store.first_due(9), None);
        for topic in ["a", "b", "c"] {
            assert_eq!(store.first_due(29), Some(&held(topic)));
            assert_eq!(store.take_first(), Some(held(topic)));
        }
        assert_eq!((store.first_due(29), store.bytes()), (None, held("d").bytes()));
        store.take_first().unwrap();
        assert_eq!((store.len(), store.bytes(), store.next_due_ms()), (0, 0, None));
    }

    #[test]
    fn what_is_handed_over_is_read_whole_or_refused() {
        let mut store = Store::default();
        store.hold(20, held("b"));
        store.hold(10, Held::default());
        let state = store.export();
        let mut read = Store::import(&state).unwrap();
        assert_eq!(read.bytes(), store.bytes());
        assert_eq!((read.next_due_ms(), read.take_first()), (Some(10), Some(Held::default())));
        assert_eq!((read.next_due_ms(), read.take_first()), (Some(20), Some(held("b"))));
        assert_eq!(Store::import(&[FORM]).unwrap().len(), 0);
        for end in 2..state.len() {
            // Between two messages it is whole; nowhere else.
            assert_eq!(Store::import(&state[..end]).is_ok(), end == 1 + 8 + 35, "{end}");
        }
        assert!(Store::import(&[]).is_err() && Store::import(&[9]).is_err());
    }
}
