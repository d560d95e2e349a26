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
    match special_bytes(name.as_bytes()) {
        SpecialBytes { null: false, wildcard: false } => Ok(()),
        SpecialBytes { null: true, .. } => Err(TopicError::Null),
        SpecialBytes { wildcard: true, .. } => Err(TopicError::Wildcard),
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// One of the high bits of the result is set exactly if one of the bytes is 0; it may be another
/// byte's.
#[inline]
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word
}

/// Passes all bytes of a text, eight at a time, in any order and some of them twice. A text of fewer
/// is filled up with bytes of 1.
#[inline]
fn for_each_word(text: &[u8], mut add: impl FnMut(u64)) {
    let (words, rest) = text.as_chunks::<8>();
    words.iter().for_each(|word| add(u64::from_ne_bytes(*word)));
    if !rest.is_empty() {
        // The last eight bytes overlap the word before them.
        add(match text.last_chunk::<8>() {
            Some(last) => u64::from_ne_bytes(*last),
            None => rest.iter().fold(ONES, |word, byte| word << 8 | u64::from(*byte)),
        });
    }
}

/// Whether a text contains U+0000.
#[inline]
pub(crate) fn has_null(text: &[u8]) -> bool {
    let mut null = 0;
    for_each_word(text, |word| null |= zeros(word));
    null & HIGH != 0
}

/// What a text contains that a topic name must not contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SpecialBytes {
    /// U+0000.
    pub(crate) null: bool,
    /// `+` or `#`.
    pub(crate) wildcard: bool,
}

/// Looks for these bytes.
#[inline]
pub(crate) fn special_bytes(text: &[u8]) -> SpecialBytes {
    let (mut null, mut wildcard) = (0, 0);
    for_each_word(text, |word| {
        null |= zeros(word);
        wildcard |= zeros(word ^ (ONES * b'+' as u64)) | zeros(word ^ (ONES * b'#' as u64));
    });
    SpecialBytes { null: null & HIGH != 0, wildcard: wildcard & HIGH != 0 }
}

/// Checks a topic filter (section 4.7.1); `$share/…` gets no special treatment, see
/// [`parse_filter`].
///
/// # Errors
/// The statement it breaks.
pub fn validate_filter(filter: &str) -> Result<(), TopicError> {
    validate_length(filter)?;
    if special_bytes(filter.as_bytes()) == (SpecialBytes { null: false, wildcard: false }) {
        return Ok(());
    }
    let mut before = b'/';
    for (at, &byte) in filter.as_bytes().iter().enumerate() {
        if before == b'+' && byte != b'/' {
            return Err(TopicError::SingleLevel);
        }
        match byte {
            0 => return Err(TopicError::Null),
            b'#' if before != b'/' || at + 1 != filter.len() => return Err(TopicError::MultiLevel),
            b'+' if before != b'/' => return Err(TopicError::SingleLevel),
            _ => {}
        }
        before = byte;
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
    let (mut a, mut b) = (levels(a), levels(b));
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
pub fn levels(topic: &str) -> Levels<'_> {
    Levels { rest: Some(topic) }
}

/// The levels of a topic name or filter, from both ends. It compares bytes, which for short levels
/// takes a fraction of the work of `str::split`.
#[derive(Clone, Debug)]
pub struct Levels<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for Levels<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let Some(end) = rest.bytes().position(|byte| byte == b'/') else { return self.rest.take() };
        self.rest = rest.get(end + 1..);
        rest.get(..end)
    }
}

impl DoubleEndedIterator for Levels<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        let Some(at) = rest.bytes().rposition(|byte| byte == b'/') else { return self.rest.take() };
        self.rest = rest.get(..at);
        rest.get(at + 1..)
    }
}

/// Whether a valid filter contains a wildcard.
pub fn has_wildcard(filter: &str) -> bool {
    special_bytes(filter.as_bytes()).wildcard
}
