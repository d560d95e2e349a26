//! A compiled access control file: who may do what. Read-only, shared by all shards. A check of a
//! topic name walks a trie and allocates nothing. Follows Mosquitto 2.0; the README lists where it
//! is stricter.

mod cover;
mod parse;
mod trie;

use std::collections::HashMap;
use std::ops::{BitOr, BitOrAssign};

use grapnel_watched_file::LineError;

use cover::Rule;
use trie::Node;

/// Maximum number of levels of a filter in the file; Mosquitto's limit.
pub const LEVELS_MAX: usize = 200;

/// The access that a line grants or denies: a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access(u8);

impl Access {
    /// Subscribe, and receive messages.
    pub const READ: Access = Access(1);
    /// Publish.
    pub const WRITE: Access = Access(2);
    /// No access, whatever other lines of the same kind grant.
    pub const DENY: Access = Access(4);

    /// Whether the sets have a common element.
    pub fn has(self, other: Access) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Access {
    type Output = Access;
    fn bitor(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

impl BitOrAssign for Access {
    fn bitor_assign(&mut self, other: Access) {
        self.0 |= other.0;
    }
}

/// The client of a request.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Client identifier: `%c`.
    pub id: &'a str,
    /// User name: `%u`, and the section of the file that applies to the client.
    pub username: Option<&'a str>,
}

/// The verdict of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A line grants access.
    Allow,
    /// A line denies it, or the client may not use patterns.
    Deny,
    /// No line applies.
    NoMatch,
}

/// A level of a filter in the file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    /// `+`
    Any,
    Text(Box<str>),
    /// A level that contains `%c` or `%u`.
    Template(Box<[Piece]>),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Piece {
    Text(Box<str>),
    ClientId,
    Username,
}

impl Piece {
    /// The text of the piece; `None` if the client has no user name.
    fn text<'a>(&'a self, client: Client<'a>) -> Option<&'a str> {
        match self {
            Piece::Text(text) => Some(text),
            Piece::ClientId => Some(client.id),
            Piece::Username => client.username,
        }
    }
}

/// A filter of the file: its levels, and whether a `#` follows them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Pattern {
    levels: Vec<Level>,
    open: bool,
}

/// Lines that belong together: those of a user, of clients without a user name, or the patterns.
#[derive(Default, Debug)]
struct Section {
    /// For topic names.
    trie: Node,
    /// The same lines, for checks of topic filters.
    rules: Vec<Rule>,
}

impl Section {
    fn add(&mut self, access: Access, pattern: Pattern) {
        self.trie.add(access, &pattern);
        self.rules.push(Rule { access, pattern });
    }
}

/// A whole file.
#[derive(Default, Debug)]
pub struct Acl {
    /// `topic` lines before the first `user` line.
    anonymous: Section,
    users: HashMap<Box<str>, Section>,
    patterns: Section,
    /// Whether a pattern has `%c`.
    uses_client_id: bool,
    /// Whether a pattern has `%u`.
    uses_username: bool,
    warnings: Vec<String>,
}

impl Acl {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Acl, LineError> {
        parse::parse(text)
    }

    /// Valid lines that are probably mistakes.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Number of `topic` and `pattern` lines.
    pub fn len(&self) -> usize {
        let users: usize = self.users.values().map(|section| section.rules.len()).sum();
        self.anonymous.rules.len() + users + self.patterns.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the client may write to (publish under) or read this topic name.
    ///
    /// The client's `topic` lines are checked before the patterns. Among lines of the same kind,
    /// `deny` has precedence. So a `pattern deny` does not revoke what a `topic` line grants.
    pub fn may(&self, access: Access, client: Client<'_>, topic: &str) -> Answer {
        let decided = |found: Access| match found {
            found if found.has(Access::DENY) => Some(Answer::Deny),
            found if found.has(access) => Some(Answer::Allow),
            _ => None,
        };
        if let Some(answer) = self.own(client).and_then(|section| decided(section.trie.find(topic, client))) {
            return answer;
        }
        if self.patterns.rules.is_empty() {
            return Answer::NoMatch;
        }
        if self.is_dangerous(client) {
            return Answer::Deny;
        }
        decided(self.patterns.trie.find(topic, client)).unwrap_or(Answer::NoMatch)
    }

    /// Whether the client may subscribe to this topic filter. For a shared subscription, pass the
    /// filter after the group.
    ///
    /// Allowed only if every topic name that the filter matches may be read. Otherwise the answer
    /// is `NoMatch` if no line applies to any of these names, and `Deny` if one does.
    pub fn may_read_all(&self, client: Client<'_>, filter: &str) -> Answer {
        let own = self.own(client).map_or(&[][..], |section| &section.rules);
        let patterns = if self.is_dangerous(client) { None } else { Some(&self.patterns.rules[..]) };
        cover::may_read_all(own, patterns, client, filter)
    }

    /// The client's own section: its `topic` lines.
    fn own(&self, client: Client<'_>) -> Option<&Section> {
        match client.username {
            Some(name) => self.users.get(name),
            None => Some(&self.anonymous),
        }
    }

    /// Whether the client's identifier or user name could extend a pattern beyond its meaning: it
    /// contains a wildcard, as in Mosquitto, or, if patterns use it, a level separator or a leading
    /// `$`. Patterns grant nothing to such a client.
    fn is_dangerous(&self, client: Client<'_>) -> bool {
        let dangerous = |text: &str, used: bool| {
            text.contains(['+', '#']) || (used && (text.contains('/') || text.starts_with('$')))
        };
        !self.patterns.rules.is_empty()
            && (dangerous(client.id, self.uses_client_id)
                || client.username.is_some_and(|name| dangerous(name, self.uses_username)))
    }
}

#[cfg(test)]
mod tests;
