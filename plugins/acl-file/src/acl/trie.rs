//! The lines of a section as a trie over levels. One walk finds all filters that match a topic
//! name, and returns the union of their access. Its cost is limited by the nodes of the trie, which
//! is at most [`super::LEVELS_MAX`] deep.

use std::collections::BTreeMap;

use super::{Access, Client, Level, Pattern, Piece};

/// The access after some levels of a topic.
#[derive(Default, Debug)]
pub(super) struct Node {
    /// Access if the topic ends here.
    here: Access,
    /// Access of `#`: for any further levels, or none.
    below: Access,
    text: BTreeMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    templates: Vec<(Box<[Piece]>, Node)>,
}

impl Node {
    pub(super) fn add(&mut self, access: Access, pattern: &Pattern) {
        let mut node = self;
        for level in &pattern.levels {
            node = match level {
                Level::Any => node.any.get_or_insert_default(),
                Level::Text(text) => node.text.entry(text.clone()).or_default(),
                Level::Template(pieces) => node.template(pieces),
            };
        }
        *(if pattern.open { &mut node.below } else { &mut node.here }) |= access;
    }

    fn template(&mut self, pieces: &[Piece]) -> &mut Node {
        let at = self.templates.iter().position(|(known, _)| **known == *pieces).unwrap_or_else(|| {
            self.templates.push((pieces.into(), Node::default()));
            self.templates.len() - 1
        });
        &mut self.templates[at].1
    }

    /// The union of the access of all filters that match this topic name.
    pub(super) fn find(&self, topic: &str, client: Client<'_>) -> Access {
        if !topic.starts_with('$') {
            return self.walk(Some(topic), client);
        }
        // A leading wildcard does not match a name that begins with `$` [MQTT-4.7.2-1].
        let (level, rest) = split(topic);
        self.named(level, rest, client)
    }

    /// `rest` is the remaining topic; `None` after its last level.
    fn walk(&self, rest: Option<&str>, client: Client<'_>) -> Access {
        let Some(rest) = rest else { return self.here | self.below };
        let (level, rest) = split(rest);
        let mut found = self.below | self.named(level, rest, client);
        if let Some(node) = &self.any {
            found |= node.walk(rest, client);
        }
        found
    }

    /// Access of the filters that have this level as text, not as a wildcard.
    fn named(&self, level: &str, rest: Option<&str>, client: Client<'_>) -> Access {
        let mut found = self.text.get(level).map_or(Access::default(), |node| node.walk(rest, client));
        for (pieces, node) in &self.templates {
            if matches_level(pieces, level, client) {
                found |= node.walk(rest, client);
            }
        }
        found
    }
}

fn split(topic: &str) -> (&str, Option<&str>) {
    match topic.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (topic, None),
    }
}

/// Whether the pieces together equal the level.
fn matches_level(pieces: &[Piece], level: &str, client: Client<'_>) -> bool {
    let rest = pieces.iter().try_fold(level, |rest, piece| rest.strip_prefix(piece.text(client)?));
    rest == Some("")
}
