//! The compiled rules and their application to a topic. Independent of the broker and its hooks.
//! Each shard has a [`Rewriter`] with reused buffers, so that a message causes no allocation.

use std::sync::Arc;

use grapnel_plugin_abi::topic::{self, TOPIC_BYTES_MAX, TopicError};
use regex::{CaptureLocations, Regex};
use thiserror::Error;

use crate::config::{Action, RuleConfig};

/// Why a rule cannot be used.
#[derive(Debug, Error)]
pub enum RuleError {
    /// The filter is not a topic filter.
    #[error("rule {rule}: filter {filter:?}: {why}")]
    Filter {
        /// The rule, from 1.
        rule: usize,
        /// The configured text.
        filter: String,
        /// The error.
        why: TopicError,
    },
    /// The regular expression is invalid or too large.
    #[error("rule {rule}: regex {regex:?}: {why}")]
    Regex {
        /// The rule, from 1.
        rule: usize,
        /// The configured text.
        regex: String,
        /// The error.
        why: String,
    },
    /// The destination uses a group that does not exist.
    #[error(
        "rule {rule}: destination {destination:?} asks for ${group}, but the number of groups is {groups}"
    )]
    Group {
        /// The rule, from 1.
        rule: usize,
        /// The configured text.
        destination: String,
        /// The number of the missing group.
        group: usize,
        /// Number of existing groups.
        groups: usize,
    },
    /// The destination is empty.
    #[error("rule {rule}: destination is empty")]
    NoDestination {
        /// The rule, from 1.
        rule: usize,
    },
}

/// A piece of a destination.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Group(usize),
    ClientId,
    Username,
}

/// How the groups of a topic are found.
#[derive(Clone, Debug)]
enum Groups {
    /// By the wildcards of the filter.
    Wildcards,
    /// By a regular expression.
    Regex(Regex),
}

#[derive(Clone, Debug)]
struct Rule {
    action: Action,
    filter: String,
    groups: Groups,
    destination: Vec<Part>,
}

/// All rules, in the configured order.
#[derive(Clone, Debug)]
pub struct Rules(Arc<[Rule]>);

impl Rules {
    /// Compiles the configured rules.
    ///
    /// # Errors
    /// The first invalid rule, and why.
    pub fn compile(rules: &[RuleConfig]) -> Result<Rules, RuleError> {
        rules
            .iter()
            .enumerate()
            .map(|(index, rule)| compile(index + 1, rule))
            .collect::<Result<_, _>>()
            .map(Rules)
    }

    /// Whether any rule applies to this action.
    pub fn any(&self, action: Action) -> bool {
        self.0.iter().any(|rule| rule.action.covers(action))
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn compile(rule: usize, config: &RuleConfig) -> Result<Rule, RuleError> {
    let filter = config.filter.clone();
    topic::check_filter(&filter).map_err(|why| RuleError::Filter { rule, filter: filter.clone(), why })?;
    let (groups, count) = match &config.regex {
        None => (Groups::Wildcards, filter.split('/').filter(|level| is_wildcard(level)).count()),
        Some(text) => {
            let regex = Regex::new(text).map_err(|error| {
                // The error has several lines with a drawing; the last one is the message.
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ").into();
                RuleError::Regex { rule, regex: text.clone(), why }
            })?;
            let count = regex.captures_len() - 1;
            (Groups::Regex(regex), count)
        }
    };
    if config.destination.is_empty() {
        return Err(RuleError::NoDestination { rule });
    }
    let destination = parts(&config.destination);
    let groups_used =
        destination.iter().filter_map(|part| if let Part::Group(group) = part { Some(*group) } else { None });
    match groups_used.max() {
        Some(group) if group > count => {
            Err(RuleError::Group { rule, destination: config.destination.clone(), group, groups: count })
        }
        _ => Ok(Rule { action: config.action, filter, groups, destination }),
    }
}

fn is_wildcard(level: &str) -> bool {
    level == "+" || level == "#"
}

/// Splits a destination into parts. Everything that is not a variable is literal, including `$0`
/// and a single `$` or `%`.
fn parts(destination: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = destination;
    while let Some(first) = rest.chars().next() {
        let (part, length) = variable(rest).unzip();
        match part {
            Some(part) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
            }
            None => text.push(first),
        }
        rest = &rest[length.unwrap_or(first.len_utf8())..];
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// The variable at the start of the text, and the length of its name in bytes.
fn variable(text: &str) -> Option<(Part, usize)> {
    for (name, part) in [
        ("%c", Part::ClientId),
        ("${clientid}", Part::ClientId),
        ("%u", Part::Username),
        ("${username}", Part::Username),
    ] {
        if text.starts_with(name) {
            return Some((part, name.len()));
        }
    }
    let digits = text.strip_prefix('$')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    match digits[..end].parse() {
        Ok(group) if group > 0 => Some((Part::Group(group), 1 + end)),
        _ => None,
    }
}

/// The client that publishes or subscribes.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Client identifier.
    pub id: &'a str,
    /// User name, if it has one.
    pub username: Option<&'a str>,
}

/// The result of a rewrite.
#[derive(PartialEq, Eq, Debug)]
pub enum Outcome<'a> {
    /// Unchanged: no rule applies, or the expression of the rule does not match.
    Same,
    /// Changed.
    New {
        /// The rule, from 1.
        rule: usize,
        /// The new topic name or filter.
        topic: &'a str,
    },
    /// Unchanged, because the result of the rule is not a valid topic.
    Refused {
        /// The rule, from 1.
        rule: usize,
        /// The reason.
        why: Refusal,
    },
}

/// Why a rewritten topic is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// The destination uses the user name.
    #[error("the client gave no user name")]
    NoUsername,
    /// A client could choose an identifier that extends a filter.
    #[error("the client identifier or user name contains a wildcard")]
    WildcardInId,
    /// The destination does not begin with `$`, but with the client's values the result does.
    #[error("the new topic begins with $, which the destination does not")]
    Reserved,
    /// The result is not a valid topic.
    #[error("the new topic cannot be used: {0}")]
    Topic(TopicError),
}

/// A shard's copy of the rules with its buffers.
#[derive(Debug)]
pub struct Rewriter {
    rules: Vec<(Rule, Option<CaptureLocations>)>,
    /// The positions of the groups in the topic, `$1` first.
    groups: Vec<(usize, usize)>,
    topic: String,
}

impl Rewriter {
    /// A rewriter for one shard. Copies the regular expressions: each copy has its own cache, so
    /// that shards share none.
    pub fn new(rules: &Rules) -> Rewriter {
        let rules = rules.0.iter().map(|rule| {
            let locations = match &rule.groups {
                Groups::Regex(regex) => Some(regex.capture_locations()),
                Groups::Wildcards => None,
            };
            (rule.clone(), locations)
        });
        Rewriter { rules: rules.collect(), groups: Vec::new(), topic: String::new() }
    }

    /// Rewrites the topic of a publish or a topic filter of a subscription. The levels of a filter
    /// are treated as text: its wildcards match `+` and `#` of a rule, and themselves. A leading
    /// `$share/group/` is not part of it and stays.
    pub fn rewrite(&mut self, action: Action, topic: &str, client: Client<'_>) -> Outcome<'_> {
        let (share, topic) =
            if action == Action::Subscribe { topic::split_share(topic) } else { ("", topic) };
        let decides = |rule: &Rule| rule.action.covers(action) && topic::matches(&rule.filter, topic);
        let Some(index) = self.rules.iter().rposition(|(rule, _)| decides(rule)) else {
            return Outcome::Same;
        };
        let (rule, locations) = &mut self.rules[index];
        self.groups.clear();
        match (&rule.groups, locations) {
            (Groups::Regex(regex), Some(locations)) => {
                if regex.captures_read(locations, topic).is_none() {
                    return Outcome::Same;
                }
                // A group without a match is empty.
                self.groups.extend((1..locations.len()).map(|group| locations.get(group).unwrap_or((0, 0))));
            }
            _ => wildcard_groups(&rule.filter, topic, &mut self.groups),
        }
        self.topic.clear();
        self.topic.push_str(share);
        let built = build(&rule.destination, topic, &self.groups, client, &mut self.topic);
        let (rule, new) = (index + 1, &self.topic[share.len()..]);
        // A client must not reach a topic below `$` unless the operator's rule has it
        // [MQTT-4.7.2-1].
        let meant = matches!(self.rules[index].0.destination.first(), Some(Part::Text(text)) if text.starts_with('$'));
        let reserved = action == Action::Publish && new.starts_with('$') && !meant;
        let allowed = if reserved { Err(Refusal::Reserved) } else { Ok(()) };
        match built.and(allowed).and_then(|()| check(action, new, share)) {
            Err(why) => Outcome::Refused { rule, why },
            Ok(()) if new == topic => Outcome::Same,
            Ok(()) => Outcome::New { rule, topic: &self.topic },
        }
    }
}

fn check(action: Action, topic: &str, share: &str) -> Result<(), Refusal> {
    match action {
        Action::Subscribe if share.len() + topic.len() > TOPIC_BYTES_MAX => Err(TopicError::TooLong),
        Action::Subscribe => topic::check_filter(topic),
        _ => topic::check_name(topic),
    }
    .map_err(Refusal::Topic)
}

fn build(
    destination: &[Part],
    topic: &str,
    groups: &[(usize, usize)],
    client: Client<'_>,
    out: &mut String,
) -> Result<(), Refusal> {
    for part in destination {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Group(group) => {
                let (start, end) = groups[group - 1];
                out.push_str(&topic[start..end]);
            }
            Part::ClientId => out.push_str(harmless(client.id)?),
            Part::Username => out.push_str(harmless(client.username.ok_or(Refusal::NoUsername)?)?),
        }
    }
    Ok(())
}

fn harmless(id: &str) -> Result<&str, Refusal> {
    if id.contains(['+', '#']) { Err(Refusal::WildcardInId) } else { Ok(id) }
}

/// The parts of the topic that the filter's wildcards match; the filter must match the topic.
fn wildcard_groups(filter: &str, topic: &str, out: &mut Vec<(usize, usize)>) {
    let mut start = 0;
    for level in filter.split('/') {
        // `a/#` also matches `a`: the part is then empty.
        let rest = topic.get(start..).unwrap_or("");
        let end = if level == "#" { rest.len() } else { rest.find('/').unwrap_or(rest.len()) };
        if is_wildcard(level) {
            let at = start.min(topic.len());
            out.push((at, at + end));
        }
        start += end + 1;
    }
}

#[cfg(test)]
mod tests;
