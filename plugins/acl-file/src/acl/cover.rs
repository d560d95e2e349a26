//! Whether every topic name that a topic filter matches may be read. Decided exactly, as a question
//! about sets.
//!
//! A filter with `#` matches names of any length. It is divided into slices, one for each number of
//! levels; all lengths beyond the longest line give the same result. A slice has only `+` and text.
//! If lines grant access to a whole slice, then a single line does so. Proof: replace each `+` by a
//! word that no line contains. A line that matches this name matches the whole slice.

use std::borrow::Cow;

use super::{Access, Answer, Client, Level, Pattern};

/// A line of the file.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) access: Access,
    pub(super) pattern: Pattern,
}

/// A level of a slice or of a line, with the client's names inserted. None is `+`.
type Word<'a> = Option<Cow<'a, str>>;

/// A line with the client's names inserted.
struct Line<'a> {
    access: Access,
    words: Vec<Word<'a>>,
    open: bool,
}

/// All names of one length that a filter matches.
#[derive(Clone, Debug)]
struct Slice<'a>(Vec<Word<'a>>);

/// `own` are the client's `topic` lines. `patterns` are the pattern lines; `None` if the client may
/// not use them.
pub(super) fn may_read_all(
    own: &[Rule],
    patterns: Option<&[Rule]>,
    client: Client<'_>,
    filter: &str,
) -> Answer {
    let own = lines(own, client);
    let may_use_patterns = patterns.is_some();
    let patterns = lines(patterns.unwrap_or_default(), client);
    let longest = own.iter().chain(&patterns).map(|line| line.words.len()).max().unwrap_or(0);
    let mut is_covered = false;
    let mut all = true;
    for slice in slices(filter, longest) {
        let concerns =
            |line: &Line<'_>| line.access.has(Access::READ | Access::DENY) && line.meets(&slice).is_some();
        is_covered |= own.iter().chain(&patterns).any(concerns);
        all = all && may_read(&slice, &own, &patterns);
    }
    match (all, is_covered || !may_use_patterns) {
        (true, _) => Answer::Allow,
        (false, true) => Answer::Deny,
        (false, false) => Answer::NoMatch,
    }
}

fn lines<'a>(rules: &'a [Rule], client: Client<'a>) -> Vec<Line<'a>> {
    rules.iter().filter_map(|rule| Line::of(rule, client)).collect()
}

fn may_read(slice: &Slice<'_>, own: &[Line<'_>], patterns: &[Line<'_>]) -> bool {
    let given = |lines: &[Line<'_>], slice: &Slice<'_>| {
        lines.iter().any(|line| line.access.has(Access::READ) && line.covers(slice))
    };
    let mut denied = own.iter().filter(|line| line.access.has(Access::DENY));
    if denied.any(|line| line.meets(slice).is_some()) {
        return false;
    }
    // A pattern does not deny what the client's own lines grant.
    let mut denied = patterns.iter().filter(|line| line.access.has(Access::DENY));
    given(own, slice)
        || given(patterns, slice)
            && denied.all(|line| line.meets(slice).is_none_or(|common| given(own, &common)))
}

fn slices(filter: &str, longest: usize) -> impl Iterator<Item = Slice<'_>> {
    let (head, open) = match filter {
        "#" => (None, true),
        filter => match filter.strip_suffix("/#") {
            Some(head) => (Some(head), true),
            None => (Some(filter), false),
        },
    };
    let word = |level| if level == "+" { None } else { Some(Cow::Borrowed(level)) };
    let words: Vec<Word<'_>> = head.map(|head| head.split('/').map(word).collect()).unwrap_or_default();
    // A name has at least one level, and `a/#` also matches `a`.
    let shortest = words.len().max(1);
    let last = if open { words.len().max(longest) + 1 } else { words.len() };
    let cut = move |length| {
        let mut words = words.clone();
        words.resize(length, None);
        words
    };
    (shortest..=last).map(cut).filter(|words| !is_empty(words)).map(Slice)
}

/// `/#` also matches the text before its `/`, which is empty; but a name cannot be empty
/// [MQTT-4.7.3-1].
fn is_empty(words: &[Word<'_>]) -> bool {
    matches!(words, [Some(text)] if text.is_empty())
}

impl<'a> Line<'a> {
    /// `None` if the line has `%u` and the client has no user name: the line does not apply then.
    fn of(rule: &'a Rule, client: Client<'a>) -> Option<Line<'a>> {
        let word = |level: &'a Level| match level {
            Level::Any => Some(None),
            Level::Text(text) => Some(Some(Cow::Borrowed(&**text))),
            Level::Template(pieces) => {
                let text: Option<String> = pieces.iter().map(|piece| piece.text(client)).collect();
                text.map(|text| Some(Cow::Owned(text)))
            }
        };
        let words = rule.pattern.levels.iter().map(word).collect::<Option<_>>()?;
        Some(Line { access: rule.access, words, open: rule.pattern.open })
    }

    fn fits(&self, slice: &Slice<'_>) -> bool {
        let (line, slice) = (self.words.len(), slice.0.len());
        line == slice || (self.open && line < slice)
    }

    /// Whether it matches every name of the slice.
    fn covers(&self, slice: &Slice<'_>) -> bool {
        let hidden = self.begins_with_wildcard() && is_hidden(&slice.0[0]);
        self.fits(slice)
            && !hidden
            && self.words.iter().zip(&slice.0).all(|(line, slice)| line.is_none() || line == slice)
    }

    /// The names of the slice that it matches, if any.
    fn meets<'b>(&'b self, slice: &'b Slice<'_>) -> Option<Slice<'b>> {
        let first = self.words.first().unwrap_or(&None);
        // A leading wildcard does not match a name that begins with `$` [MQTT-4.7.2-1], in the
        // slice or in the line.
        let hidden =
            (first.is_none() && is_hidden(&slice.0[0])) || (slice.0[0].is_none() && is_hidden(first));
        if !self.fits(slice) || hidden {
            return None;
        }
        let lines = self.words.iter().chain(std::iter::repeat(&None));
        let common = lines.zip(&slice.0).map(|(line, slice)| match (line, slice) {
            (Some(line), Some(slice)) if line != slice => None,
            (Some(text), _) | (None, Some(text)) => Some(Some(Cow::Borrowed(&**text))),
            (None, None) => Some(None),
        });
        let common: Vec<Word<'_>> = common.collect::<Option<_>>()?;
        (!is_empty(&common)).then_some(Slice(common))
    }

    fn begins_with_wildcard(&self) -> bool {
        self.words.first().is_none_or(Option::is_none)
    }
}

fn is_hidden(first: &Word<'_>) -> bool {
    first.as_ref().is_some_and(|text| text.starts_with('$'))
}
