//! Topic names and topic filters by section 4.7 of the specification, for plugins that parse,
//! compare or build them. Works on text without allocation, and independently of sessions and
//! subscriptions.

use thiserror::Error;

/// Longest topic name or filter, in bytes of UTF-8: its length is a 16 bit number on the wire
/// [MQTT-4.7.3-3].
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a text is not a topic name or topic filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TopicError {
    /// Names and filters have at least one character [MQTT-4.7.3-1].
    #[error("it is empty")]
    Empty,
    /// Longer than [`TOPIC_BYTES_MAX`] [MQTT-4.7.3-3].
    #[error("it is longer than {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// U+0000 is never allowed [MQTT-4.7.3-2].
    #[error("it contains the character U+0000")]
    Null,
    /// A topic name has no wildcards [MQTT-3.3.2-2].
    #[error("it contains a wildcard, which only a topic filter may")]
    Wildcard,
    /// `+` must be a whole level [MQTT-4.7.1-2].
    #[error("'+' must be a level of its own")]
    PlusInLevel,
    /// `#` must be the whole last level [MQTT-4.7.1-1].
    #[error("'#' must be the last level, alone")]
    HashNotLast,
}

fn check_text(text: &str) -> Result<(), TopicError> {
    match text {
        "" => Err(TopicError::Empty),
        long if long.len() > TOPIC_BYTES_MAX => Err(TopicError::TooLong),
        null if null.contains('\0') => Err(TopicError::Null),
        _ => Ok(()),
    }
}

/// Checks a topic name.
///
/// # Errors
/// The first error found.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    check_text(name)?;
    if name.contains(['+', '#']) { Err(TopicError::Wildcard) } else { Ok(()) }
}

/// Checks a topic filter. `$share/group/` counts as ordinary levels: remove it with [`split_share`]
/// first, or an invalid shared filter may pass.
///
/// # Errors
/// The first error found.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_text(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::HashNotLast);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::PlusInLevel);
        }
    }
    Ok(())
}

/// Whether the filter matches the name; both must be valid. `a/#` also matches `a`, and a leading
/// wildcard does not match a name that begins with `$` [MQTT-4.7.2-1].
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Splits a filter into the `$share/group/` of a shared subscription (empty if there is none) and
/// the topic filter after it.
pub fn split_share(filter: &str) -> (&str, &str) {
    let group_and_filter = filter.strip_prefix("$share/");
    match group_and_filter.and_then(|rest| rest.find('/')) {
        Some(end) => filter.split_at("$share/".len() + end + 1),
        None => ("", filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of sections 4.7.1 and 4.7.2.
    #[test]
    fn topics_match_filters_as_in_the_specification() {
        for (filter, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/uptime", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/uptime", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/b", "a/b", true),
            ("a/b", "a/b/", false),
            ("a/b/", "a/b", false),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} and {name}");
        }
    }

    #[test]
    fn names_and_filters_are_checked() {
        assert_eq!(check_name("a/b c//d"), Ok(()));
        assert_eq!(check_name(""), Err(TopicError::Empty));
        assert_eq!(check_name("a/+"), Err(TopicError::Wildcard));
        assert_eq!(check_name("a\0"), Err(TopicError::Null));
        assert_eq!(check_name(&"x".repeat(65_536)), Err(TopicError::TooLong));
        for good in ["#", "+", "+/a/#", "/", "a//#", "$share/g/#"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        assert_eq!(check_filter("a/#/b"), Err(TopicError::HashNotLast));
        assert_eq!(check_filter("a#"), Err(TopicError::HashNotLast));
        assert_eq!(check_filter("a+/b"), Err(TopicError::PlusInLevel));
    }

    #[test]
    fn a_shared_filter_is_split_into_group_and_filter() {
        assert_eq!(split_share("$share/g/a/#"), ("$share/g/", "a/#"));
        assert_eq!(split_share("$share/g"), ("", "$share/g"));
        assert_eq!(split_share("a/b"), ("", "a/b"));
    }
}
