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
