//! The messages that one shard holds, by when they are due, and the bytes they are handed over in to the next version of the
//! plugin. No clock and no broker in here, but for the metrics.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use grapnel_plugin_abi::{
    EntryId, Error, Full, Host, Identity, Journal, OnBehalf, Outgoing, ShareLimits, Shares, tree_entry_bytes,
};

/// A message that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Client identifier of whose message it is.
    pub from: String,
    /// Who that is, for whom it is authorised when it is due; `None` of one that an older version has held.
    pub identity: Option<Identity>,
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
    /// What it is kept and handed over as.
    fn bytes(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        self.write(&mut out);
        out.into()
    }

    /// On whose behalf it is published.
    pub fn client(&self) -> OnBehalf<'_> {
        match &self.identity {
            Some(identity) => OnBehalf::of(identity),
            None => OnBehalf::client(&self.from),
        }
    }

    /// The message to publish.
    pub fn outgoing(&self) -> Outgoing {
        let mut message = Outgoing::new(self.topic.as_str(), self.payload.as_slice())
            .qos(self.qos)
            .retain(self.retain)
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
        put(out, self.identity.as_ref().map_or(&[], Identity::as_bytes));
    }

    fn read(reader: &mut Reader<'_>) -> Option<Held> {
        let [qos, retain, is_text] = reader.array()?;
        let mut held = Held {
            qos,
            retain: retain != 0,
            is_text: is_text != 0,
            expiry_s: u32::from_le_bytes(reader.array()?),
            from: reader.text()?,
            identity: None,
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
        held.identity = match reader.part()? {
            [] => None,
            bytes => Some(Identity::from_bytes(bytes).ok()?),
        };
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

/// The messages of a shard: those that are due at the same time in the order in which they came. Each is kept as the bytes that
/// it is handed over in, which are one piece of memory.
#[derive(Debug)]
pub struct Store {
    held: Shares<Box<[u8]>>,
    due: BTreeMap<Due, EntryId>,
    /// The highest number of a message.
    last: u64,
    journal: Journal<Due>,
}

/// When a message is due, milliseconds since 1970, and its number, which it keeps in the version that takes over.
pub type Due = (u64, u64);

impl Store {
    /// Without messages. Within these limits, and in these metrics.
    pub fn new(limits: ShareLimits, host: &Host) -> Store {
        let held = Shares::new(limits)
            .beside_each(tree_entry_bytes(size_of::<(Due, EntryId)>()))
            .with_metrics(host, "waiting_messages");
        Store { held, due: BTreeMap::new(), last: 0, journal: Journal::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// When the next one is due, milliseconds since 1970.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Keeps a message until then, for the client that it is from.
    ///
    /// # Errors
    /// The limit that it would pass, the client's or that of all.
    pub fn hold(&mut self, due_ms: u64, held: &Held) -> Result<(), Full> {
        let id = self.held.insert(&held.from, held.bytes()).map_err(|rejected| rejected.full)?;
        self.last += 1;
        let due = (due_ms, self.last);
        self.journal.note(&due);
        self.due.insert(due, id);
        Ok(())
    }

    /// The first one that is due; it stays.
    pub fn first_due(&self, now_ms: u64) -> Option<Held> {
        let (_, id) = self.due.first_key_value().filter(|((due_ms, _), _)| *due_ms <= now_ms)?;
        Held::read(&mut Reader(self.held.get(*id)?))
    }

    /// Takes out the first one.
    pub fn forget_first(&mut self) {
        if let Some((due, id)) = self.due.pop_first() {
            self.journal.note(&due);
            self.held.remove(id);
        }
    }

    /// What has changed since it went over.
    pub fn journal(&mut self) -> &mut Journal<Due> {
        &mut self.journal
    }

    /// The message that is due after this one.
    pub fn next_due(&self, after: Option<&Due>) -> Option<Due> {
        let from = after.map_or(Unbounded, |after| Excluded(*after));
        self.due.range((from, Unbounded)).next().map(|(due, _)| *due)
    }

    /// Appends a message as it goes over; false where there is none.
    pub fn write(&self, due: &Due, out: &mut Vec<u8>) -> bool {
        let bytes = self.due.get(due).and_then(|id| self.held.get(*id));
        bytes.map(|bytes| out.extend_from_slice(bytes)).is_some()
    }

    /// Takes a message over. What was acknowledged stays, also beyond limits that are lower now.
    pub fn put(&mut self, due: Due, value: &[u8]) -> Result<(), Error> {
        let mut reader = Reader(value);
        let held = Held::read(&mut reader).filter(|_| reader.0.is_empty());
        let held = held.ok_or_else(|| Error::new("a message of the version before cannot be read"))?;
        self.remove(&due);
        self.last = self.last.max(due.1);
        let id = self.held.restore(&held.from, value.into());
        self.due.insert(due, id);
        Ok(())
    }

    /// Lets go of a message.
    pub fn remove(&mut self, due: &Due) {
        if let Some(id) = self.due.remove(due) {
            self.held.remove(id);
        }
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        while !self.due.is_empty() {
            self.forget_first();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LIMITS: ShareLimits =
        ShareLimits { entries_max: 9, bytes_max: 1 << 20, owner_entries_max: 9, owner_bytes_max: 1 << 20 };

    fn held(topic: &str) -> Held {
        Held {
            from: "me".to_owned(),
            identity: None,
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

    fn store(limits: ShareLimits) -> Store {
        let held = Shares::new(limits).beside_each(tree_entry_bytes(size_of::<(Due, EntryId)>()));
        Store { held, due: BTreeMap::new(), last: 0, journal: Journal::default() }
    }

    #[test]
    fn messages_leave_when_they_are_due_and_in_order() {
        let mut store = store(LIMITS);
        for (due_ms, topic) in [(20, "b"), (10, "a"), (20, "c"), (30, "d")] {
            store.hold(due_ms, &held(topic)).unwrap();
        }
        assert_eq!((store.len(), store.next_due_ms()), (4, Some(10)));
        assert_eq!(store.first_due(9), None);
        for topic in ["a", "b", "c"] {
            assert_eq!(store.first_due(29), Some(held(topic)));
            store.forget_first();
        }
        assert_eq!((store.first_due(29), store.len()), (None, 1));
        store.forget_first();
        assert_eq!((store.len(), store.held.bytes(), store.next_due_ms()), (0, 0, None));
    }

    #[test]
    fn what_is_handed_over_is_read_whole_or_refused() {
        let mut store = self::store(LIMITS);
        store.hold(20, &held("b")).unwrap();
        store.hold(10, &Held::default()).unwrap();
        // The limits are lower by now.
        let mut read = self::store(ShareLimits { entries_max: 1, ..LIMITS });
        let mut due = None;
        while let Some(next) = store.next_due(due.as_ref()) {
            let mut value = Vec::new();
            assert!(store.write(&next, &mut value));
            // Twice is once.
            (0..2).for_each(|_| read.put(next, &value).unwrap());
            let error = read.put(next, &value[1..]).unwrap_err().to_string();
            assert_eq!(error, "a message of the version before cannot be read");
            due = Some(next);
        }
        assert!(!store.write(&(20, 2), &mut Vec::new()), "no such message");
        assert_eq!((read.held.bytes(), read.len()), (store.held.bytes(), 2));
        assert_eq!((read.next_due_ms(), read.first_due(99)), (Some(10), Some(Held::default())));
        read.forget_first();
        assert_eq!((read.next_due_ms(), read.first_due(99)), (Some(20), Some(held("b"))));
        read.clear();
        assert_eq!((read.len(), read.held.bytes()), (0, 0));
    }

    /// 64 empty user properties are some 500 bytes, and a client has the memory of its share and no more.
    #[test]
    fn a_client_is_charged_with_what_is_really_held() {
        let heavy = Held { user_properties: vec![Default::default(); 64], ..held("a") };
        assert!(heavy.bytes().len() > 64 * 8);
        let mut store = store(ShareLimits { owner_bytes_max: 2000, ..LIMITS });
        assert_eq!([store.hold(1, &heavy), store.hold(1, &heavy)], [Ok(()); 2]);
        assert_eq!(store.hold(1, &heavy), Err(Full::OwnerBytes(2000)));
        assert_eq!(store.hold(1, &Held { from: "you".to_owned(), ..heavy }), Ok(()));
    }
}
