//! The walk of one filter through the ordered keys of retained messages: which keys match, and
//! where the next match can be. `Retained::scan` calls it. It uses only keys; see `Key` for their
//! order.

/// Ends a level of a key; sorts before every other character.
const SEPARATOR: char = '\0';
/// Appended to a key, this sorts after the branch of the key, and not after the next key.
const PAST_BRANCH: char = '\u{1}';
/// Sorts after all keys that start with `$`.
const PAST_DOLLAR: &str = "%";

/// The result for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) matches: bool,
    /// No later key matches.
    pub(super) last: bool,
}

/// A filter and the position of its walk.
pub(super) struct Walk<'a> {
    /// The levels of the filter, without a last `#`.
    levels: Vec<&'a str>,
    /// Whether the filter ends with `#`.
    multi: bool,
    from: String,
}

impl<'a> Walk<'a> {
    /// A walk from a key on; from the first possible match if `from` is empty, which no topic name
    /// is [MQTT-4.7.3-1].
    pub(super) fn new(filter: &'a str, from: String) -> Self {
        let mut levels: Vec<&str> = filter.split('/').collect();
        let multi = levels.last() == Some(&"#");
        if multi {
            levels.pop();
        }
        let mut walk = Walk { levels, multi, from };
        if walk.from.is_empty() {
            walk.append_literals(0);
        }
        walk
    }

    /// No unvisited key before this one matches.
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// Checks a key and moves [`Walk::from`] to the next possible match. Keys come in order, none
    /// before `from`.
    pub(super) fn visit(&mut self, key: &str) -> Visit {
        // [MQTT-4.7.2-1]: a filter that starts with a wildcard does not match names that start with
        // `$`.
        if key.starts_with('$') && self.levels.first().is_none_or(|first| *first == "+") {
            self.from.clear();
            self.from.push_str(PAST_DOLLAR);
            return Visit { matches: false, last: false };
        }
        // Start of the level that is compared, and end of the last level that matched a `+`.
        let mut start = 0;
        let mut plus = None;
        for (nth, wanted) in self.levels.iter().enumerate() {
            if start > key.len() {
                // Matches so far but is too short: possible matches are below it.
                self.from.clear();
                self.from.push_str(key);
                self.from.push(SEPARATOR);
                self.append_literals(nth);
                return Visit { matches: false, last: false };
            }
            let end = key[start..].find(SEPARATOR).map_or(key.len(), |at| start + at);
            let level = &key[start..end];
            if *wanted == "+" {
                plus = Some(end);
            } else if level < *wanted {
                self.from.clear();
                self.from.push_str(&key[..start]);
                self.append_literals(nth);
                return Visit { matches: false, last: false };
            } else if level > *wanted {
                return self.leave(key, plus, false);
            }
            start = end + 1;
        }
        if self.multi {
            // `#` matches the parent level too (section 4.7.1.2), and so everything from here on in
            // the branch.
            return Visit { matches: true, last: false };
        }
        self.leave(key, plus, start > key.len())
    }

    /// No later key matches with the same values for each `+`: continues after the last of these
    /// values.
    fn leave(&mut self, key: &str, plus: Option<usize>, matches: bool) -> Visit {
        if let Some(end) = plus {
            self.from.clear();
            self.from.push_str(&key[..end]);
            self.from.push(PAST_BRANCH);
        }
        Visit { matches, last: plus.is_none() }
    }

    /// Appends the levels from `nth` up to the next `+`, because every match has them.
    fn append_literals(&mut self, nth: usize) {
        for (at, level) in self.levels.iter().enumerate().skip(nth) {
            if *level == "+" {
                return;
            }
            self.from.push_str(level);
            if at + 1 < self.levels.len() {
                self.from.push(SEPARATOR);
            }
        }
    }
}
