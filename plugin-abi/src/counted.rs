//! Counts in messages that people read. Used by the broker and by plugins.

use std::fmt::Display;

/// A count with its noun: `1 user`, `2 users`, `0 entries`. `one` is the singular; its plural is
/// regular.
///
/// ```
/// use grapnel_plugin_abi::counted;
///
/// assert_eq!(counted(1_u64, "user"), "1 user");
/// assert_eq!(counted(0_usize, "entry"), "0 entries");
/// ```
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    if count == N::from(1) {
        return format!("1 {one}");
    }
    match one.strip_suffix('y') {
        // `entries`, but `keys`.
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{count} {stem}ies"),
        _ => format!("{count} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        let texts = [0_u64, 1, 2].map(|count| counted(count, "shard"));
        assert_eq!(texts, ["0 shards", "1 shard", "2 shards"]);
        assert_eq!((counted(2_u32, "entry"), counted(2_u32, "key")), ("2 entries".into(), "2 keys".into()));
        assert_eq!(counted(1_i64, "entry"), "1 entry");
    }
}
