//! An encoded property section that links can change; the accumulators of messages, CONNECT and
//! CONNACK use it.

use std::cell::OnceCell;
use std::collections::VecDeque;

use bytes::Bytes;
use grapnel_plugin_abi::host::{FieldChange, FieldValue};
use grapnel_plugin_abi::raw::{APPEND, Field, Status};
use smallvec::SmallVec;

use crate::packet::{Properties, Property, PropertyId, push_property};

/// Maximum bytes of properties that a plugin may give a packet.
const PROPERTIES_BYTES_MAX: usize = 1 << 20;

/// The bytes that a change replaced and a hook may still view: the whole section, and the one
/// property.
pub type Replaced = [Option<Bytes>; 2];

/// Applies a link's change to the overlay of an accumulator. The first change that succeeds creates
/// the overlay as a copy of the accumulator. Replaced bytes are moved to `replaced`.
///
/// # Errors
/// As `change`; nothing has changed then.
#[inline]
pub(super) fn change_over<T: Clone, E>(
    overlay: &mut Option<T>,
    below: &T,
    replaced: &mut impl Extend<Bytes>,
    change: impl FnOnce(&mut T) -> Result<Replaced, E>,
) -> Result<(), E> {
    let is_first = overlay.is_none();
    match change(overlay.get_or_insert_with(|| below.clone())) {
        Ok(before) => {
            // Most changes replace nothing, and to extend by nothing takes as long as the change.
            if before.iter().any(Option::is_some) {
                replaced.extend(before.into_iter().flatten());
            }
            Ok(())
        }
        Err(error) => {
            if is_first {
                *overlay = None;
            }
            Err(error)
        }
    }
}

/// A property section in its chain. The first change splits it into properties, so that further
/// changes are cheap. It is encoded again when it is read. User properties keep their order and
/// come after the others.
#[derive(Clone, Debug)]
pub struct Section(Form);

#[derive(Clone, Debug)]
enum Form {
    /// As encoded in a packet.
    Encoded(Bytes),
    EncodedProperties(Box<EncodedProperties>),
}

/// The properties of a section, each encoded.
#[derive(Clone, Debug, Default)]
struct EncodedProperties {
    others: SmallVec<[(PropertyId, Bytes); 4]>,
    users: VecDeque<Bytes>,
    bytes: usize,
    /// The whole section as encoded in a packet; empty from a change until the next read.
    encoded: OnceCell<Bytes>,
}

impl Default for Section {
    fn default() -> Section {
        Section::of(Bytes::new())
    }
}

impl PartialEq for Section {
    fn eq(&self, other: &Section) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Section {}

impl Section {
    /// A section from its encoded bytes.
    #[inline]
    pub fn of(encoded: Bytes) -> Section {
        Section(Form::Encoded(encoded))
    }

    /// The encoded section.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Encoded(encoded) => encoded,
            Form::EncodedProperties(apart) => apart.encoded(),
        }
    }

    /// The encoded section; consumes it.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Form::Encoded(encoded) => encoded,
            Form::EncodedProperties(apart) => Bytes::clone(apart.encoded()),
        }
    }

    /// The encoded section if it was read: a view of it may still be in use.
    pub(super) fn seen(self) -> Option<Bytes> {
        match self.0 {
            Form::Encoded(encoded) => Some(encoded),
            Form::EncodedProperties(mut apart) => apart.encoded.take(),
        }
    }

    /// Its length, bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Encoded(encoded) => encoded.len(),
            Form::EncodedProperties(apart) => apart.bytes,
        }
    }

    /// Whether it has no property.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoded bytes that contain a field, and its index among the user properties. In a split
    /// section this is only one property, so that a read is cheap.
    pub(super) fn shown(&self, field: Field, index: u32) -> (&[u8], u32) {
        let apart = match &self.0 {
            Form::Encoded(encoded) => return (encoded, index),
            Form::EncodedProperties(apart) => apart,
        };
        match property_of(field) {
            None => (&[], index),
            Some(PropertyId::User) => (apart.users.get(index as usize).map_or(&[], |user| user), 0),
            Some(id) => {
                let found = apart.others.iter().find(|(other, _)| *other == id);
                (found.map_or(&[], |(_, one)| one), index)
            }
        }
    }

    /// The number of user properties in a split section, if `field` is that number.
    pub(super) fn user_count(&self, field: Field) -> Option<FieldValue<'_>> {
        match &self.0 {
            Form::EncodedProperties(apart) if field == Field::USER_PROPERTIES => {
                Some(FieldValue::Number(apart.users.len() as u64))
            }
            _ => None,
        }
    }

    fn apart(&mut self) -> &mut EncodedProperties {
        if let Form::Encoded(encoded) = &mut self.0 {
            self.0 = Form::EncodedProperties(Box::new(EncodedProperties::of(std::mem::take(encoded))));
        }
        match &mut self.0 {
            Form::EncodedProperties(apart) => apart,
            Form::Encoded(_) => unreachable!("it has just been taken apart"),
        }
    }

    /// Replaces a property; `None` removes it. Returns the replaced bytes, for views of them.
    ///
    /// # Errors
    /// ABSENT for a property that does not exist, FULL for a section that becomes too long.
    pub(super) fn put(&mut self, id: PropertyId, property: Option<Property<'_>>) -> Result<Replaced, Status> {
        debug_assert_ne!(id, PropertyId::User);
        let apart = self.apart();
        let place = apart.others.iter().position(|(other, _)| *other == id);
        let before = place.map_or(0, |place| apart.others[place].1.len());
        let piece = match (property.map(encoded), place) {
            (Some(new), place) => {
                apart.grow(before, new.len())?;
                match place {
                    Some(place) => Some(std::mem::replace(&mut apart.others[place].1, new)),
                    None => {
                        apart.others.push((id, new));
                        None
                    }
                }
            }
            (None, Some(place)) => {
                apart.bytes -= before;
                Some(apart.others.remove(place).1)
            }
            (None, None) => return Err(Status::ABSENT),
        };
        Ok([apart.encoded.take(), piece])
    }

    /// Sets, adds ([`APPEND`], or the index after the last) or removes a user property. Returns the
    /// replaced bytes, for views of them.
    ///
    /// # Errors
    /// INVALID for an invalid MQTT string, ABSENT for an index that does not exist, FULL for a
    /// section that becomes too long, or for more than `most` user properties.
    pub(super) fn put_user(&mut self, change: &FieldChange<'_>, most: usize) -> Result<Replaced, Status> {
        debug_assert_eq!(change.field, Field::USER_PROPERTY);
        let property = Property::User(super::short_text(change.key)?, super::short_text(change.bytes)?);
        let apart = self.apart();
        let place = change.index as usize;
        let before = apart.users.get(place).map(Bytes::len);
        let piece = match (takes_out(change), before) {
            (true, Some(before)) => {
                apart.bytes -= before;
                apart.users.remove(place)
            }
            (true, None) => return Err(Status::ABSENT),
            (false, Some(before)) => {
                let new = encoded(property);
                apart.grow(before, new.len())?;
                Some(std::mem::replace(&mut apart.users[place], new))
            }
            (false, None) if change.index != APPEND && place != apart.users.len() => {
                return Err(Status::ABSENT);
            }
            (false, None) if apart.users.len() >= most => return Err(Status::FULL),
            (false, None) => {
                let new = encoded(property);
                apart.grow(0, new.len())?;
                apart.users.push_back(new);
                None
            }
        };
        Ok([apart.encoded.take(), piece])
    }

    /// Sets or removes a string.
    ///
    /// # Errors
    /// INVALID for an invalid MQTT string, and as [`Section::put`].
    pub(super) fn put_text<'a>(
        &mut self,
        change: &FieldChange<'a>,
        property: impl FnOnce(&'a str) -> Property<'a>,
    ) -> Result<Replaced, Status> {
        let property = property(super::short_text(change.bytes)?);
        self.put(property.id(), (!takes_out(change)).then_some(property))
    }
}

impl EncodedProperties {
    fn of(whole: Bytes) -> EncodedProperties {
        let mut apart = EncodedProperties { bytes: whole.len(), ..EncodedProperties::default() };
        for property in Properties::from_encoded(&whole).iter() {
            match property {
                Property::User(..) => apart.users.push_back(encoded(property)),
                _ => apart.others.push((property.id(), encoded(property))),
            }
        }
        apart.encoded = OnceCell::from(whole);
        apart
    }

    fn encoded(&self) -> &Bytes {
        self.encoded.get_or_init(|| self.encode())
    }

    /// Updates the length after a part was replaced.
    fn grow(&mut self, before: usize, after: usize) -> Result<(), Status> {
        let bytes = self.bytes - before + after;
        if bytes > PROPERTIES_BYTES_MAX && after > before {
            return Err(Status::FULL);
        }
        self.bytes = bytes;
        Ok(())
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes);
        self.others.iter().for_each(|(_, one)| out.extend_from_slice(one));
        self.users.iter().for_each(|one| out.extend_from_slice(one));
        Bytes::from(out)
    }
}

fn encoded(property: Property<'_>) -> Bytes {
    let mut out = Vec::new();
    push_property(&mut out, property);
    Bytes::from(out)
}

/// The property behind a field; `None` if a section has no such property.
fn property_of(field: Field) -> Option<PropertyId> {
    Some(match field {
        Field::USER_PROPERTY => PropertyId::User,
        Field::CONTENT_TYPE => PropertyId::ContentType,
        Field::RESPONSE_TOPIC => PropertyId::ResponseTopic,
        Field::CORRELATION_DATA => PropertyId::CorrelationData,
        Field::MESSAGE_EXPIRY_S => PropertyId::MessageExpiry,
        Field::PAYLOAD_FORMAT => PropertyId::PayloadFormat,
        Field::RECEIVE_MAXIMUM => PropertyId::ReceiveMaximum,
        Field::MAXIMUM_PACKET_SIZE => PropertyId::MaximumPacketSize,
        Field::TOPIC_ALIAS_MAXIMUM => PropertyId::TopicAliasMaximum,
        Field::REQUEST_RESPONSE_INFO => PropertyId::RequestResponseInfo,
        Field::REQUEST_PROBLEM_INFO => PropertyId::RequestProblemInfo,
        Field::AUTH_METHOD => PropertyId::AuthMethod,
        Field::AUTH_DATA => PropertyId::AuthData,
        Field::KEEP_ALIVE_S => PropertyId::ServerKeepAlive,
        Field::SESSION_EXPIRY_S => PropertyId::SessionExpiry,
        Field::REASON_STRING => PropertyId::ReasonString,
        Field::RESPONSE_INFO => PropertyId::ResponseInfo,
        Field::SERVER_REFERENCE => PropertyId::ServerReference,
        Field::ASSIGNED_CLIENT_ID => PropertyId::AssignedClientId,
        _ => return None,
    })
}

/// Whether a change removes text or bytes instead of setting them.
pub(super) fn takes_out(change: &FieldChange<'_>) -> bool {
    change.number == 1 && change.bytes.is_empty() && change.key.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(properties: &[Property<'_>]) -> Vec<u8> {
        let mut section = Vec::new();
        properties.iter().for_each(|property| push_property(&mut section, *property));
        section
    }

    const BEFORE: [Property<'static>; 4] = [
        Property::User("a", "1"),
        Property::ContentType("text"),
        Property::User("b", "2"),
        Property::User("a", "3"),
    ];

    /// Maximum number of user properties in these tests.
    const MOST: usize = 4;

    fn change(index: u32, number: u64, key: &'static str, bytes: &'static str) -> FieldChange<'static> {
        let (key, bytes) = (key.as_bytes(), bytes.as_bytes());
        FieldChange { field: Field::USER_PROPERTY, index, number, bytes, key }
    }

    fn of(properties: &[Property<'_>]) -> Section {
        Section::of(section(properties).into())
    }

    /// The section after one change; after an error it must be unchanged.
    fn made(
        before: &[Property<'_>],
        change: impl FnOnce(&mut Section) -> Result<Replaced, Status>,
    ) -> Result<Vec<u8>, Status> {
        let mut made = of(before);
        let all = made.as_bytes().to_vec();
        match change(&mut made) {
            Ok([seen, _]) => {
                assert_eq!(seen.as_deref(), Some(&all[..]), "whoever has looked at it keeps that");
                assert_eq!(made.len(), made.as_bytes().len());
                Ok(made.as_bytes().to_vec())
            }
            Err(status) => {
                assert_eq!((made.len(), made.as_bytes()), (all.len(), &all[..]));
                Err(status)
            }
        }
    }

    /// `BEFORE` after a change of the user properties.
    fn user(change: FieldChange<'_>) -> Result<Vec<u8>, Status> {
        made(&BEFORE, |section| section.put_user(&change, MOST))
    }

    /// A section after a change of the content type.
    fn content(before: &[Property<'_>], change: FieldChange<'_>) -> Result<Vec<u8>, Status> {
        made(before, |section| section.put_text(&change, Property::ContentType))
    }

    #[test]
    fn a_user_property_is_set_in_its_place_or_added_behind_the_last() {
        let [a, text, b, c] = BEFORE;
        let new = Property::User("k", "v");
        for (index, expected) in [
            (0, section(&[text, new, b, c])),
            (1, section(&[text, a, new, c])),
            (2, section(&[text, a, b, new])),
            (3, section(&[text, a, b, c, new])),
            (APPEND, section(&[text, a, b, c, new])),
        ] {
            assert_eq!(user(change(index, 0, "k", "v")).as_deref(), Ok(&expected[..]), "{index}");
        }
        assert_eq!(user(change(4, 0, "k", "v")), Err(Status::ABSENT), "there would be a gap");
    }

    #[test]
    fn there_are_no_more_user_properties_than_a_packet_may_have() {
        let mut full = of(&BEFORE);
        assert!(full.put_user(&change(APPEND, 0, "k", "v"), MOST).is_ok());
        assert_eq!(full.put_user(&change(APPEND, 0, "k", "v"), MOST), Err(Status::FULL));
        assert_eq!(full.put_user(&change(4, 0, "k", "v"), MOST), Err(Status::FULL));
        // A full section allows a replacement, and one more after a removal.
        assert!(full.put_user(&change(3, 0, "other", "v"), MOST).is_ok());
        assert!(full.put_user(&change(0, 1, "", ""), MOST).is_ok());
        assert!(full.put_user(&change(APPEND, 0, "last", "v"), MOST).is_ok());
        let [_, text, b, c] = BEFORE;
        let expected = [text, b, c, Property::User("other", "v"), Property::User("last", "v")];
        assert_eq!(full.as_bytes(), section(&expected));
    }

    #[test]
    fn a_user_property_is_taken_out_where_it_is() {
        let [a, text, b, c] = BEFORE;
        for (index, expected) in
            [(0, section(&[text, b, c])), (1, section(&[text, a, c])), (2, section(&[text, a, b]))]
        {
            assert_eq!(user(change(index, 1, "", "")).as_deref(), Ok(&expected[..]), "{index}");
        }
        for index in [3, APPEND] {
            assert_eq!(user(change(index, 1, "", "")), Err(Status::ABSENT));
        }
        // With a key or a value it is set, whatever the number.
        for (number, key, value) in [(1, "", "v"), (1, "k", ""), (0, "", "")] {
            let expected = section(&[text, Property::User(key, value), b, c]);
            assert_eq!(user(change(0, number, key, value)).as_deref(), Ok(&expected[..]));
        }
    }

    #[test]
    fn a_text_occurs_once() {
        let [a, _, b, c] = BEFORE;
        let new = Property::ContentType("new");
        assert_eq!(content(&BEFORE, change(0, 0, "", "new")).as_deref(), Ok(&section(&[new, a, b, c])[..]));
        assert_eq!(content(&[a, b], change(0, 0, "", "new")).as_deref(), Ok(&section(&[new, a, b])[..]));
        assert_eq!(content(&BEFORE, change(0, 1, "", "")).as_deref(), Ok(&section(&[a, b, c])[..]));
        assert_eq!(content(&[a, b], change(0, 1, "", "")), Err(Status::ABSENT));
    }

    #[test]
    fn an_unread_section_is_encoded_once_after_any_number_of_changes() {
        let mut made = of(&BEFORE);
        let first = made.put_user(&change(0, 0, "0", ""), usize::MAX);
        assert!(matches!(first, Ok([Some(_), Some(_)])), "as it came");
        for _ in 0..1_000 {
            assert_eq!(made.put_user(&change(APPEND, 0, "k", "v"), usize::MAX), Ok([None, None]));
        }
        let length = section(&BEFORE).len() - 1 + 1_000 * 7;
        assert_eq!((made.len(), made.as_bytes().len()), (length, length));
        let last = made.put_user(&change(0, 1, "", ""), 0);
        assert!(matches!(last, Ok([Some(seen), Some(piece)]) if (seen.len(), piece.len()) == (length, 6)));
        assert_eq!(made.clone().seen(), None, "nobody has seen it since");
        assert_eq!(made.into_bytes().len(), length - 6);
    }

    #[test]
    fn invalid_strings_and_too_many_properties_are_refused() {
        let put = |before: &[u8], key: &[u8], bytes: &[u8]| {
            let change = FieldChange { field: Field::USER_PROPERTY, index: APPEND, number: 0, bytes, key };
            let mut section = Section::of(Bytes::copy_from_slice(before));
            section.put_user(&change, usize::MAX).map(|_| section.len())
        };
        let long = vec![b'x'; 65_536];
        assert_eq!(
            (put(b"", &long, b""), put(b"", b"", &long)),
            (Err(Status::INVALID), Err(Status::INVALID))
        );
        assert_eq!(put(b"", b"\xFF", b""), Err(Status::INVALID));
        assert!(put(b"", &long[1..], b"").is_ok());
        // The maximum number of bytes, and one more.
        let one = [Property::User("", "x".repeat(65_531).leak())];
        let nearly = section(&one).repeat(15);
        let room = PROPERTIES_BYTES_MAX - nearly.len() - 5;
        let text = vec![b'x'; room + 1];
        assert_eq!(put(&nearly, b"", &text[1..]), Ok(PROPERTIES_BYTES_MAX));
        assert_eq!(put(&nearly, b"", &text), Err(Status::FULL));
        // The section from a client may be longer than that, and may be shortened.
        let beyond = section(&one).repeat(17);
        let shorter = FieldChange { field: Field::USER_PROPERTY, index: 0, number: 0, bytes: b"", key: b"k" };
        let mut section = Section::of(beyond.into());
        assert!(section.put_user(&shorter, usize::MAX).is_ok());
        assert_eq!(section.len(), section.as_bytes().len());
    }
}
