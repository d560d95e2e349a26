//! Verbs that a plugin adds to `grapnel-ctl`: their declaration in the manifest, the check of
//! arguments, and the form of an answer. All of it is JSON, described in ABI.md. The SDK writes it;
//! the broker and `grapnel-ctl` read it with the same code.

mod answer;
mod argument;
mod span;

pub use answer::{Answer, Column, Then};
pub use argument::{Argument, Kind};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Maximum number of verbs of one plugin.
const VERBS_MAX: usize = 64;
/// Maximum number of arguments of one verb.
const ARGUMENTS_MAX: usize = 32;
/// Maximum number of words in a verb's name.
const WORDS_MAX: usize = 4;
/// Maximum bytes of a word, and of an argument's name.
const WORD_BYTES_MAX: usize = 32;
/// Maximum deadline, milliseconds.
const DEADLINE_MS_MAX: u64 = 3_600_000;
/// Maximum number of values of a repeated argument.
const VALUES_MAX: usize = 1024;

/// The fields of a declaration in a manifest, and those of an argument. A reader of declarations
/// that a broker has accepted ignores other fields, because a newer version may have added them.
const FORM_FIELDS: [&str; 6] = ["name", "help", "changes", "local", "deadline_ms", "arguments"];
const ARGUMENT_FIELDS: [&str; 15] = [
    "name",
    "help",
    "type",
    "positional",
    "required",
    "repeated",
    "default",
    "min",
    "max",
    "one_of",
    "extends_deadline",
    "prompt",
    "twice",
    "listed_in",
    "unless",
];

/// Maximum bytes of a line of help, and of a prompt.
const LINE_BYTES_MAX: usize = 1024;

/// The declaration of a verb.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// One to four words of lower case letters, digits and `-`, with a space between two: `drivers
    /// list`.
    pub name: String,
    /// One line of help.
    pub help: String,
    /// Whether it changes something; the API then accepts it only as POST.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changes: bool,
    /// Whether it runs in a process of `grapnel-ctl`, with the rights of the caller and without a
    /// broker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// Maximum duration of a call, milliseconds; 0 for the broker's `plugin_verb_timeout_ms`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deadline_ms: u64,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<Argument>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why the arguments of a call are invalid, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

impl Form {
    /// Reads the declarations of a manifest.
    ///
    /// # Errors
    /// The error, as a predicate without a subject.
    pub fn list(json: &str) -> Result<Vec<Form>, String> {
        if json.is_empty() {
            return Ok(Vec::new());
        }
        let forms: Vec<Form> = serde_json::from_str(json)
            .map_err(|error| format!("are not declared as they must be: {error}"))?;
        if let Some(field) = unknown_field(json) {
            return Err(format!("are not declared as they must be: unknown field `{field}`"));
        }
        if forms.len() > VERBS_MAX {
            return Err(format!("are {}; at most {VERBS_MAX} can be", forms.len()));
        }
        for (at, form) in forms.iter().enumerate() {
            form.check().map_err(|what| format!("have {:?}, which {what}", form.name))?;
            let clashes =
                |other: &&Form| is_below(&other.name, &form.name) || is_below(&form.name, &other.name);
            if let Some(other) = forms[..at].iter().find(clashes) {
                let (one, two) = (&other.name, &form.name);
                return Err(format!("have {one:?} and {two:?}, of which one is or begins with the other"));
            }
        }
        for form in &forms {
            if let Some(argument) = form.arguments.iter().find(|argument| !is_listed(argument, &forms)) {
                return Err(format!(
                    "have {:?} with the argument {}, which names in listed_in what is no VERB/FIELD of a verb that only looks \
                     and needs no argument",
                    form.name, argument.name
                ));
            }
        }
        Ok(forms)
    }

    /// Checks the declaration.
    fn check(&self) -> Result<(), String> {
        let words: Vec<&str> = self.name.split(' ').collect();
        if words.len() > WORDS_MAX || !words.iter().all(|word| is_word(word)) || words.contains(&"help") {
            return Err(format!(
                "is not one to {WORDS_MAX} words of lower case letters, digits and -, or has the word help"
            ));
        }
        fits("a help", &self.help, LINE_BYTES_MAX)?;
        if self.deadline_ms > DEADLINE_MS_MAX {
            return Err(format!("has a deadline above {DEADLINE_MS_MAX} ms"));
        }
        if self.arguments.len() > ARGUMENTS_MAX {
            return Err(format!("has more than {ARGUMENTS_MAX} arguments"));
        }
        let mut before: Option<&Argument> = None;
        for (at, argument) in self.arguments.iter().enumerate() {
            let name = &argument.name;
            argument.check(self).map_err(|what| format!("has the argument {name}, which {what}"))?;
            if self.arguments[..at].iter().any(|other| other.name == *name) {
                return Err(format!("has two arguments {name}"));
            }
            if !argument.positional {
                continue;
            }
            if before.is_some_and(|before| before.repeated || (!before.required && argument.required)) {
                return Err(format!("has the argument {name} behind one that may take its place"));
            }
            before = Some(argument);
        }
        Ok(())
    }

    /// The argument with this name.
    pub fn argument(&self, name: &str) -> Option<&Argument> {
        self.arguments.iter().find(|argument| argument.name == name)
    }

    /// Checks the given arguments against the declaration. Returns the arguments for the plugin, in
    /// the order of the declaration and with defaults. `given` has a flag as `true` or `false`, and
    /// a repeated argument once for each value.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn arguments(&self, given: &[(String, String)]) -> Result<Vec<(String, String)>, Wrong> {
        for (name, _) in given {
            if self.argument(name).is_none_or(Argument::is_filled_in) {
                return Err(Wrong(self.unknown(name)));
            }
        }
        let mut checked = Vec::new();
        for argument in &self.arguments {
            let values: Vec<&str> = given
                .iter()
                .filter(|(name, _)| *name == argument.name)
                .map(|(_, value)| value.as_str())
                .collect();
            let missing =
                |other: &String| given.iter().all(|(name, value)| name != other || value == "false");
            let name = &argument.name;
            match values.as_slice() {
                [] if argument.is_filled_in() => {}
                [] if argument.required && argument.unless.as_ref().is_none_or(missing) => {
                    return Err(Wrong(format!("the argument {name} is missing: {}", argument.help)));
                }
                [] => checked.extend(argument.default.iter().map(|value| (name, argument.parse(value)))),
                [_, _, ..] if !argument.repeated => {
                    return Err(Wrong(format!("the argument {name} is given more than once")));
                }
                values if values.len() > VALUES_MAX => {
                    return Err(Wrong(format!("the argument {name} is given more than {VALUES_MAX} times")));
                }
                values => {
                    if let Some(other) = argument.unless.as_ref().filter(|other| !missing(other)) {
                        return Err(Wrong(format!("the argument {name} cannot stand beside {other}")));
                    }
                    checked.extend(values.iter().map(|value| (name, argument.parse(value))));
                }
            }
        }
        let done = checked.into_iter().filter_map(|(name, value)| match value {
            Ok(None) => None,
            Ok(Some(value)) => Some(Ok((name.clone(), value))),
            Err(what) => Some(Err(Wrong(format!("{name}: {what}")))),
        });
        done.collect()
    }

    /// Maximum duration of a call with these checked arguments, milliseconds, at most an hour: the
    /// declared deadline, or `otherwise` if there is none, plus the durations of arguments that
    /// extend it.
    pub fn deadline_ms(&self, arguments: &[(String, String)], otherwise: u64) -> u64 {
        let own = if self.deadline_ms == 0 { otherwise } else { self.deadline_ms };
        let adds = |name: &str| self.argument(name).is_some_and(|argument| argument.extends_deadline);
        let more = arguments.iter().filter(|(name, _)| adds(name)).filter_map(|(_, ms)| ms.parse().ok());
        own.saturating_add(more.fold(0, u64::saturating_add).min(DEADLINE_MS_MAX))
    }

    fn unknown(&self, name: &str) -> String {
        let known = self.arguments.iter().filter(|argument| !argument.is_filled_in());
        let nearest =
            known.max_by(|a, b| strsim::jaro(&a.name, name).total_cmp(&strsim::jaro(&b.name, name)));
        let verb = &self.name;
        match nearest.filter(|nearest| strsim::jaro(&nearest.name, name) > 0.7) {
            Some(nearest) => format!("{verb} has no argument {name}; did you mean {}?", nearest.name),
            None => format!("{verb} has no argument {name}"),
        }
    }
}

/// The first unknown field in declarations that are otherwise valid.
fn unknown_field(json: &str) -> Option<String> {
    let forms: Vec<Map<String, Value>> = serde_json::from_str(json).ok()?;
    let other = |object: &Map<String, Value>, known: &[&str]| {
        object.keys().find(|key| !known.contains(&key.as_str())).cloned()
    };
    forms.iter().find_map(|form| {
        let arguments = form.get("arguments").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut arguments = arguments.iter().filter_map(Value::as_object);
        other(form, &FORM_FIELDS).or_else(|| arguments.find_map(|argument| other(argument, &ARGUMENT_FIELDS)))
    })
}

/// Checks that a text for users is one line of limited length.
fn fits(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() > bytes_max {
        return Err(format!("has {what} of {} bytes; at most {bytes_max} can be", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("has {what} with a control character or more than one line"));
    }
    Ok(())
}

/// Whether the argument's list, if it declares one, exists in the verbs.
fn is_listed(argument: &Argument, forms: &[Form]) -> bool {
    let Some(listed_in) = &argument.listed_in else { return true };
    let Some((verb, field)) = listed_in.split_once('/') else { return false };
    let lists = |form: &Form| {
        let mut arguments = form.arguments.iter();
        let needs_none = arguments.all(|argument| !argument.required || argument.is_filled_in());
        form.name == verb && !form.changes && !form.local && needs_none
    };
    !field.is_empty() && forms.iter().any(lists)
}

/// Whether a verb is another one, or begins with all of its words.
fn is_below(longer: &str, shorter: &str) -> bool {
    longer.strip_prefix(shorter).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn is_word(word: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=WORD_BYTES_MAX).contains(&word.len()) && word.bytes().all(fits) && word.as_bytes()[0] != b'-'
}

#[cfg(test)]
mod tests;
