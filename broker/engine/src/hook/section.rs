//! Changes of an encoded property section: what the accumulators of messages, CONNECT and CONNACK have in common.

use bytes::Bytes;
use grapnel_plugin_abi::host::FieldChange;
use grapnel_plugin_abi::raw::{APPEND, Field, Status};

use crate::packet::{Properties, Property, PropertyId, push_property};

/// Bytes of properties a plugin may give a packet.
const PROPERTIES_BYTES_MAX: usize = 1 << 20;

/// The section with a property in the place of the one there was (the `index`-th user property; [`APPEND`] adds), or, for `None`,
/// without it.
///
/// # Errors
/// ABSENT for a place that is not there, FULL for a section that grows too long.
pub(super) fn put(
    before: Properties<'_>,
    id: PropertyId,
    property: Option<Property<'_>>,
    index: u32,
) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(before.as_bytes().len() + 16);
    let mut met = 0;
    let mut placed = false;
    for old in before.iter() {
        if old.id() != id {
            push_property(&mut out, old);
            continue;
        }
        let hit = id != PropertyId::User || index == met;
        met += 1;
        match property {
            Some(new) if hit => push_property(&mut out, new),
            None if hit => {}
            _ => push_property(&mut out, old),
        }
        placed |= hit;
    }
    match property {
        None if !placed => return Err(Status::ABSENT),
        Some(_) if !placed && id == PropertyId::User && index != APPEND && index != met => {
            return Err(Status::ABSENT);
        }
        Some(new) if !placed => push_property(&mut out, new),
        _ => {}
    }
    if out.len() > PROPERTIES_BYTES_MAX {
        return Err(Status::FULL);
    }
    Ok(Bytes::from(out))
}

/// Whether a change takes text or bytes out instead of setting them.
pub(super) fn takes_out(change: &FieldChange<'_>) -> bool {
    change.number == 1 && change.bytes.is_empty() && change.key.is_empty()
}

/// The section with a user property set, added or taken out.
///
/// # Errors
/// INVALID for what is no string of MQTT, and as [`put`].
pub(super) fn put_user(before: Properties<'_>, change: &FieldChange<'_>) -> Result<Bytes, Status> {
    debug_assert_eq!(change.field, Field::USER_PROPERTY);
    let property = Property::User(super::short_text(change.key)?, super::short_text(change.bytes)?);
    put(before, PropertyId::User, (!takes_out(change)).then_some(property), change.index)
}

/// The section with a string set or taken out.
///
/// # Errors
/// As [`put_user`].
pub(super) fn put_text<'a>(
    before: Properties<'_>,
    change: &FieldChange<'a>,
    property: impl FnOnce(&'a str) -> Property<'a>,
) -> Result<Bytes, Status> {
    let property = property(super::short_text(change.bytes)?);
    put(before, property.id(), (!takes_out(change)).then_some(property), 0)
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

    fn change(index: u32, number: u64, key: &'static str, bytes: &'static str) -> FieldChange<'static> {
        let (key, bytes) = (key.as_bytes(), bytes.as_bytes());
        FieldChange { field: Field::USER_PROPERTY, index, number, bytes, key }
    }

    /// What a change of the user properties makes of `BEFORE`.
    fn user(change: FieldChange<'_>) -> Result<Bytes, Status> {
        put_user(Properties::from_encoded(&section(&BEFORE)), &change)
    }

    /// What a change of the content type makes of a section.
    fn content(before: &[Property<'_>], change: FieldChange<'_>) -> Result<Bytes, Status> {
        put_text(Properties::from_encoded(&section(before)), &change, Property::ContentType)
    }

    #[test]
    fn a_user_property_is_set_in_its_place_or_added_behind_the_last() {
        let [a, text, b, c] = BEFORE;
        let new = Property::User("k", "v");
        for (index, expected) in [
            (0, section(&[new, text, b, c])),
            (1, section(&[a, text, new, c])),
            (2, section(&[a, text, b, new])),
            (3, section(&[a, text, b, c, new])),
            (APPEND, section(&[a, text, b, c, new])),
        ] {
            assert_eq!(user(change(index, 0, "k", "v")).as_deref(), Ok(&expected[..]), "{index}");
        }
        assert_eq!(user(change(4, 0, "k", "v")), Err(Status::ABSENT), "there would be a gap");
    }

    #[test]
    fn a_user_property_is_taken_out_where_it_is() {
        let [a, text, b, c] = BEFORE;
        for (index, expected) in
            [(0, section(&[text, b, c])), (1, section(&[a, text, c])), (2, section(&[a, text, b]))]
        {
            assert_eq!(user(change(index, 1, "", "")).as_deref(), Ok(&expected[..]), "{index}");
        }
        for index in [3, APPEND] {
            assert_eq!(user(change(index, 1, "", "")), Err(Status::ABSENT));
        }
        // With a key or a value it is set, whatever the number.
        assert_eq!(
            user(change(0, 1, "", "v")).as_deref(),
            Ok(&section(&[Property::User("", "v"), text, b, c])[..])
        );
        assert_eq!(
            user(change(0, 1, "k", "")).as_deref(),
            Ok(&section(&[Property::User("k", ""), text, b, c])[..])
        );
        assert_eq!(
            user(change(0, 0, "", "")).as_deref(),
            Ok(&section(&[Property::User("", ""), text, b, c])[..])
        );
    }

    #[test]
    fn a_text_is_there_once() {
        let [a, _, b, c] = BEFORE;
        let new = Property::ContentType("new");
        assert_eq!(content(&BEFORE, change(0, 0, "", "new")).as_deref(), Ok(&section(&[a, new, b, c])[..]));
        assert_eq!(content(&[a, b], change(0, 0, "", "new")).as_deref(), Ok(&section(&[a, b, new])[..]));
        assert_eq!(content(&BEFORE, change(0, 1, "", "")).as_deref(), Ok(&section(&[a, b, c])[..]));
        assert_eq!(content(&[a, b], change(0, 1, "", "")), Err(Status::ABSENT));
    }

    #[test]
    fn what_is_no_string_or_too_much_is_refused() {
        let wrong = |key: &[u8], bytes: &[u8]| {
            let change = FieldChange { field: Field::USER_PROPERTY, index: APPEND, number: 0, bytes, key };
            put_user(Properties::default(), &change)
        };
        let long = vec![b'x'; 65_536];
        assert_eq!((wrong(&long, b""), wrong(b"", &long)), (Err(Status::INVALID), Err(Status::INVALID)));
        assert_eq!(wrong(b"\xFF", b""), Err(Status::INVALID));
        assert!(wrong(&long[1..], b"").is_ok());
        // As many bytes as a packet may be given, and one more.
        let one = [Property::User("", "x".repeat(65_531).leak())];
        let nearly = section(&one).repeat(15);
        let room = PROPERTIES_BYTES_MAX - nearly.len() - 5;
        let text = vec![b'x'; room + 1];
        let more = |bytes: &[u8]| {
            let change =
                FieldChange { field: Field::USER_PROPERTY, index: APPEND, number: 0, bytes, key: b"" };
            put_user(Properties::from_encoded(&nearly), &change).map(|section| section.len())
        };
        assert_eq!(more(&text[1..]), Ok(PROPERTIES_BYTES_MAX));
        assert_eq!(more(&text), Err(Status::FULL));
    }
}
