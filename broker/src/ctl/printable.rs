//! Makes text from clients and plugins safe for a terminal. Used wherever `grapnel-ctl` prints such
//! text.

/// The text with control characters and marks of writing direction escaped. A client identifier,
/// for example, may contain an escape sequence.
pub(super) fn printable(text: &str) -> String {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| if obeyed(c) { c.escape_unicode().collect::<Vec<char>>() } else { vec![c] })
        .collect()
}
