//! Makes a user name of a client's certificate.

use super::settings::Identity;
use crate::transport::TlsFacts;

/// The longest user name that MQTT can carry, bytes [MQTT-1.5.4].
const USER_NAME_BYTES_MAX: usize = 65_535;

/// The user name of the client with these facts. `None` if it has shown no certificate, or if its
/// certificate has no such part, or if MQTT does not allow the text as a user name: it is empty,
/// too long, or has NUL, control characters or non-characters [MQTT-1.5.4-2]. A caller that wants
/// to know whether there was a certificate looks at [`TlsFacts::certificate`].
pub(crate) fn identity_of(facts: &TlsFacts, identity: Identity) -> Option<String> {
    let certificate = facts.certificate.as_ref()?;
    let text = match identity {
        Identity::CommonName => certificate.common_name.as_str(),
        Identity::AlternativeName => certificate.alternative_names.first()?.split_once(':')?.1,
        Identity::Subject => certificate.subject.as_str(),
    };
    let allowed = !text.is_empty() && text.len() <= USER_NAME_BYTES_MAX && text.chars().all(is_allowed);
    allowed.then(|| text.to_owned())
}

fn is_allowed(character: char) -> bool {
    let code = u32::from(character);
    // U+FDD0 to U+FDEF, and the last two of each plane.
    let is_no_character = (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE;
    !character.is_control() && !is_no_character
}
