//! Parses an access control file, as mosquitto.conf(5) describes it under `acl_file`, line by line
//! into an [`Acl`].

use grapnel_plugin_abi::topic;
use grapnel_watched_file::LineError;

use super::{Access, Acl, LEVELS_MAX, Level, Pattern, Piece, Section};

/// The parser, with the current section.
struct Parser {
    acl: Acl,
    user: Option<Box<str>>,
}

pub(super) fn parse(text: &str) -> Result<Acl, LineError> {
    let mut parser = Parser { acl: Acl::default(), user: None };
    for (index, content) in text.lines().enumerate() {
        // Only a line that begins with `#` is a comment: elsewhere `#` is part of a filter.
        let content = content.trim_end_matches(|c: char| c.is_ascii_whitespace());
        if !content.starts_with('#') {
            parser.line(content).map_err(|reason| LineError { line: index + 1, reason })?;
        }
    }
    Ok(parser.acl)
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let (keyword, rest) = word(line);
        match keyword {
            "" => Ok(()),
            "user" if rest.trim().is_empty() => Err("no user name after 'user'".into()),
            "user" => {
                self.user = Some(rest.trim().into());
                Ok(())
            }
            "topic" => {
                let (access, filter) = access_and_filter(rest)?;
                let pattern = pattern(filter, |level| vec![Piece::Text(level.into())])?;
                self.section().add(access, pattern);
                Ok(())
            }
            "pattern" => self.pattern(rest),
            other => {
                Err(format!("unknown word {other:?}: expected user, topic or pattern, with spaces behind it"))
            }
        }
    }

    /// Patterns apply to every client, in whichever section they are.
    fn pattern(&mut self, rest: &str) -> Result<(), String> {
        let (access, filter) = access_and_filter(rest)?;
        let pattern = pattern(filter, pieces)?;
        let uses = |piece| {
            pattern
                .levels
                .iter()
                .any(|level| matches!(level, Level::Template(pieces) if pieces.contains(&piece)))
        };
        let (client_id, username) = (uses(Piece::ClientId), uses(Piece::Username));
        if !client_id && !username {
            self.acl
                .warnings
                .push(format!("pattern {filter:?} has neither %c nor %u: it holds for every client"));
        }
        self.acl.uses_client_id |= client_id;
        self.acl.uses_username |= username;
        self.acl.patterns.add(access, pattern);
        Ok(())
    }

    fn section(&mut self) -> &mut Section {
        match &self.user {
            Some(name) => self.acl.users.entry(name.clone()).or_default(),
            None => &mut self.acl.anonymous,
        }
    }
}

/// The first word of a line and the rest. Only spaces separate words.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_once(' ').unwrap_or((text, ""))
}

/// A single word is always the filter; with several words, the first one is the access.
fn access_and_filter(text: &str) -> Result<(Access, &str), String> {
    let (first, rest) = word(text);
    let access = match (first, rest) {
        ("", _) => return Err("no topic filter".into()),
        (filter, "") => return Ok((Access::READ | Access::WRITE, filter)),
        ("read", _) => Access::READ,
        ("write", _) => Access::WRITE,
        ("readwrite", _) => Access::READ | Access::WRITE,
        ("deny", _) => Access::DENY,
        (other, _) => {
            return Err(format!(
                "unknown access {other:?}: expected read, write, readwrite or deny; a filter with spaces needs one of them"
            ));
        }
    };
    Ok((access, rest.trim()))
}

fn pattern(filter: &str, pieces: impl Fn(&str) -> Vec<Piece>) -> Result<Pattern, String> {
    topic::check_filter(filter).map_err(|error| format!("topic filter {filter:?}: {error}"))?;
    let mut levels: Vec<Level> = filter
        .split('/')
        .map(|level| match level {
            "+" => Level::Any,
            level => match pieces(level).as_slice() {
                [] => Level::Text("".into()),
                [Piece::Text(text)] => Level::Text(text.clone()),
                pieces => Level::Template(pieces.into()),
            },
        })
        .collect();
    let open = levels.last() == Some(&Level::Text("#".into()));
    if open {
        levels.pop();
    }
    if levels.len() > LEVELS_MAX {
        return Err(format!("topic filter has more than {LEVELS_MAX} levels"));
    }
    Ok(Pattern { levels, open })
}

/// Splits a level at each `%c` and `%u`.
fn pieces(level: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = level;
    while let Some(at) =
        text.match_indices('%').map(|(at, _)| at).find(|at| text[at + 1..].starts_with(['c', 'u']))
    {
        if at > 0 {
            pieces.push(Piece::Text(text[..at].into()));
        }
        pieces.push(if text[at + 1..].starts_with('c') { Piece::ClientId } else { Piece::Username });
        text = &text[at + 2..];
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.into()));
    }
    pieces
}
