//! Topic names, topic filters and shared-subscription filters: validation and matching (MQTT 5.0
//! section 4.7, 4.8.2). Used by codec, routing and hooks; independent of sessions.

#[cfg(test)]
mod tests;

/// Whether a filter matches a name; plugins use the same function. For a shared subscription pass
/// the filter part.
pub use grapnel_plugin_abi::topic::matches;

/// Prefix of the filter of a shared subscription [MQTT-4.8.2-1].
pub const SHARE_PREFIX: &str = "$share/";

/// The longest topic name or filter in bytes [MQTT-4.7.3-3].
pub const TOPIC_BYTES_MAX: usize = u16::MAX as usize;

/// Why a string is not a valid or accepted topic name or topic filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]
    #[error("it is empty; at least one character is needed [MQTT-4.7.3-1]")]
    Empty,
    /// [MQTT-4.7.3-3]
    #[error("it is longer than 65,535 bytes [MQTT-4.7.3-3]")]
    TooLong,
    /// [MQTT-4.7.3-2]
    #[error("it contains U+0000 [MQTT-4.7.3-2]")]
    Null,
    /// [MQTT-4.7.0-1], in a topic name.
    #[error("a topic name must not contain # or + [MQTT-4.7.0-1]")]
    Wildcard,
    /// [MQTT-4.7.1-1], in a topic filter.
    #[error("# must be the last character of a filter and fill its level [MQTT-4.7.1-1]")]
    MultiLevel,
    /// [MQTT-4.7.1-2], in a topic filter.
    #[error("+ must fill its level [MQTT-4.7.1-2]")]
    SingleLevel,
    /// [MQTT-4.8.2-1] and [MQTT-4.8.2-2], the name of a shared subscription.
    #[error("a share name must not be empty nor contain # or + [MQTT-4.8.2-1] [MQTT-4.8.2-2]")]
    ShareName,
    /// [MQTT-4.8.2-2], the filter of a shared subscription.
    #[error("a shared subscription needs a filter: $share/NAME/FILTER [MQTT-4.8.2-2]")]
    ShareFilter,
    /// More levels than the configured limit.
    #[error("it has more than {levels_max} levels, the limit that is configured")]
    TooManyLevels {
        /// The limit.
        levels_max: u16,
    },
}

/// Checks a topic name (section 4.7). There is no normalisation, and no other character is special
/// [MQTT-4.7.3-4].
///
/// # Errors
/// The statement it breaks.
pub fn validate_name(name: &str) -> Result<(), TopicError> {
    validate_length(name)?;
    let mut wildcard = false;
    let mut null = false;
    for byte in name.bytes() {
        wildcard |= byte == b'+' || byte == b'#';
        null |= byte == 0;
    }
    match (wildcard, null) {
        (false, false) => Ok(()),
        (_, true) => Err(TopicError::Null),
        (true, false) => Err(TopicError::Wildcard),
    }
}

/// Checks a topic filter (section 4.7.1); `$share/…` gets no special treatment, see
/// [`parse_filter`].
///
/// # Errors
/// The statement it breaks.
pub fn validate_filter(filter: &str) -> Result<(), TopicError> {
    validate_length(filter)?;
    let bytes = filter.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let level_starts = at == 0 || bytes[at - 1] == b'/';
        match byte {
            0 => return Err(TopicError::Null),
            b'#' if !level_starts || at + 1 != bytes.len() => return Err(TopicError::MultiLevel),
            b'+' if !level_starts || bytes.get(at + 1).is_some_and(|&next| next != b'/') => {
                return Err(TopicError::SingleLevel);
            }
            _ => {}
        }
    }
    Ok(())
}

fn validate_length(topic: &str) -> Result<(), TopicError> {
    match topic.len() {
        0 => Err(TopicError::Empty),
        1..=TOPIC_BYTES_MAX => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

/// Checks a topic name or filter against the configured limit of levels; for a shared subscription
/// pass the filter part.
///
/// # Errors
/// [`TopicError::TooManyLevels`].
pub fn check_levels(topic: &str, levels_max: u16) -> Result<(), TopicError> {
    if topic.len() < usize::from(levels_max) {
        // Too short to have too many levels, even with slashes only.
        return Ok(());
    }
    let slashes = topic.bytes().filter(|&byte| byte == b'/').count();
    if slashes < usize::from(levels_max) { Ok(()) } else { Err(TopicError::TooManyLevels { levels_max }) }
}

/// Whether a topic name exists that both filters match (sections 4.7.1 and 4.7.2). Both must be
/// valid; for a shared subscription pass the filter part.
pub fn overlap(a: &str, b: &str) -> bool {
    let of_broker = |filter: &str| filter.starts_with('$');
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    // A wildcard at the first level does not match a topic that begins with `$` [MQTT-4.7.2-1].
    if (of_broker(a) && wild(b)) || (of_broker(b) && wild(a)) {
        return false;
    }
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

/// A topic filter from a SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ParsedFilter<'a> {
    /// The share name of a shared subscription.
    pub share: Option<&'a str>,
    /// The filter to match with topic names.
    pub filter: &'a str,
}

/// Checks a filter and splits a shared subscription (section 4.8.2).
///
/// # Errors
/// The statement it breaks.
pub fn parse_filter(filter: &str) -> Result<ParsedFilter<'_>, TopicError> {
    let Some(shared) = filter.strip_prefix(SHARE_PREFIX) else {
        validate_filter(filter)?;
        return Ok(ParsedFilter { share: None, filter });
    };
    validate_length(filter)?;
    let (share, rest) = match shared.split_once('/') {
        Some((share, rest)) => (share, Some(rest)),
        None => (shared, None),
    };
    if share.is_empty() || share.contains(['+', '#']) {
        return Err(TopicError::ShareName);
    }
    if share.contains('\0') {
        return Err(TopicError::Null);
    }
    let filter = rest.filter(|rest| !rest.is_empty()).ok_or(TopicError::ShareFilter)?;
    validate_filter(filter)?;
    Ok(ParsedFilter { share: Some(share), filter })
}

/// The levels of a topic name or filter; levels may be empty (section 4.7.1.1).
pub fn levels(topic: &str) -> std::str::Split<'_, char> {
    topic.split('/')
}

/// Whether a valid filter contains a wildcard.
pub fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}
