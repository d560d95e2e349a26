//! The configuration of tap. Read once at load.

use serde::Deserialize;

/// `[plugins.tap.config]`.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Topic prefixes, compared as text; the longest match counts. Topics without a match count as
    /// `(other)`. Default: none; then `levels` defines the groups.
    pub prefixes: Vec<String>,
    /// Without prefixes: how many leading levels of a topic name its group, 1 to 200. Default 1.
    pub levels: usize,
    /// Maximum number of groups, for each shard and in a report, 1 to 100 000; further ones count
    /// as `(other)`. Default 100.
    pub groups_max: usize,
    /// Maximum length of a group name from `levels`, bytes, 1 to 65 535; longer ones count as
    /// `(other)`. Default 256.
    pub group_name_bytes_max: usize,
    /// Seconds between reports in the log, which omit unchanged groups; 0: only at unload. Default
    /// 60.
    pub log_every_s: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            prefixes: Vec::new(),
            levels: 1,
            groups_max: 100,
            group_name_bytes_max: 256,
            log_every_s: 60,
        }
    }
}

impl Config {
    /// Checks all ranges.
    ///
    /// # Errors
    /// The key, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("levels", self.levels, 200),
            ("groups_max", self.groups_max, 100_000),
            ("group_name_bytes_max", self.group_name_bytes_max, 65_535),
        ];
        for (key, value, max) in ranges {
            if !(1..=max).contains(&value) {
                return Err(format!("{key} = {value}: must be from 1 to {max}"));
            }
        }
        if self.prefixes.len() > self.groups_max {
            let (prefixes, max) = (self.prefixes.len(), self.groups_max);
            return Err(format!("{prefixes} prefixes are more than groups_max = {max}; raise it"));
        }
        if self.prefixes.iter().any(String::is_empty) {
            return Err("prefixes: an empty one would count everything; leave it out".into());
        }
        Ok(())
    }
}
