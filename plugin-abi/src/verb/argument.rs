//! One argument of a verb: its type, its limits, and the conversion of text to the plugin's value.

use serde::{Deserialize, Serialize};

use super::{Form, LINE_BYTES_MAX, fits, is_word, span};

/// Maximum length of a text without a declared maximum, bytes.
const TEXT_BYTES_MAX: i64 = 65_536;

/// Maximum number of texts in `one_of`.
const ONE_OF_MAX: usize = 256;

/// Names that `grapnel-ctl` reserves for its own options.
const TAKEN: [&str; 5] = ["help", "json", "socket", "timeout", "version"];

/// The type of an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Text; `min` and `max` limit its length in bytes.
    #[default]
    Text,
    /// A whole number from `min` to `max`.
    Integer,
    /// A duration: `1h30m`, `1.5s`, `250ms`, or a number of seconds. `min`, `max` and the plugin's
    /// value are milliseconds.
    Duration,
    /// A flag, set or not.
    Flag,
    /// One of the texts in `one_of`.
    OneOf,
    /// A file or folder; `grapnel-ctl` makes it absolute for a verb that runs in the broker.
    Path,
    /// Text that must not be on a command line: `grapnel-ctl` prompts for it, or reads it from
    /// standard input with `--NAME-stdin`.
    Secret,
    /// The data of `plugins show` about the plugin, as JSON. The broker fills it in; the caller
    /// does not pass it.
    Plugin,
    /// A type of a newer version, read from a broker. The verb cannot be called, and a manifest
    /// cannot declare it.
    #[serde(other)]
    Unknown,
}

/// The declaration of an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// Lower case letters, digits and `-`.
    pub name: String,
    /// One line of help.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
    /// Its type.
    #[serde(rename = "type", default)]
    pub kind: Kind,
    /// Whether it is positional on the command line; otherwise it is `--NAME VALUE`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub positional: bool,
    /// Whether it is required.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Whether it may be repeated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
    /// Its default value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Its minimum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// Its maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// The allowed texts, for [`Kind::OneOf`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<String>,
    /// For a duration: whether it is added to the deadline of the call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extends_deadline: bool,
    /// For a secret: the prompt of `grapnel-ctl`, with `{NAME}` for the value of another argument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// For a secret: whether `grapnel-ctl` prompts for it twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twice: bool,
    /// A list of its possible values: the name of a verb that only reads and needs no argument,
    /// `/`, and a field of its rows. If several plugins match a name, `grapnel-ctl` calls the
    /// plugin whose list has the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_in: Option<String>,
    /// A flag that excludes this argument: with the flag it cannot be passed, and `grapnel-ctl`
    /// does not prompt for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<String>,
}

impl Argument {
    /// A text argument that is optional.
    pub fn named(name: impl Into<String>, help: impl Into<String>) -> Argument {
        Argument { name: name.into(), help: help.into(), ..Argument::default() }
    }

    /// Whether the broker fills it in.
    pub fn is_filled_in(&self) -> bool {
        self.kind == Kind::Plugin
    }

    /// Sets the default value. The argument is then optional, as `--NAME VALUE`.
    #[must_use]
    pub fn defaults_to(self, value: impl Into<String>) -> Argument {
        Argument { default: Some(value.into()), required: false, positional: false, ..self }
    }

    /// Sets whether it is required. A required `Option` may be missing only together with the flag
    /// in `unless`.
    #[must_use]
    pub fn required(self, required: bool) -> Argument {
        Argument { required, ..self }
    }

    /// Sets the minimum: a number, milliseconds, or bytes.
    #[must_use]
    pub fn min(self, min: i64) -> Argument {
        Argument { min: Some(min), ..self }
    }

    /// Sets the maximum: a number, milliseconds, or bytes.
    #[must_use]
    pub fn max(self, max: i64) -> Argument {
        Argument { max: Some(max), ..self }
    }

    /// Sets the allowed texts.
    #[must_use]
    pub fn one_of<'a>(self, texts: impl IntoIterator<Item = &'a str>) -> Argument {
        Argument { kind: Kind::OneOf, one_of: texts.into_iter().map(str::to_owned).collect(), ..self }
    }

    /// Sets whether it is positional, or `--NAME VALUE`.
    #[must_use]
    pub fn positional(self, positional: bool) -> Argument {
        Argument { positional, ..self }
    }

    /// For a duration: adds it to the deadline of the call.
    #[must_use]
    pub fn extends_deadline(self, extends_deadline: bool) -> Argument {
        Argument { extends_deadline, ..self }
    }

    /// For a secret: sets the prompt of `grapnel-ctl`, with `{NAME}` for the value of another
    /// argument.
    #[must_use]
    pub fn prompt(self, prompt: impl Into<String>) -> Argument {
        Argument { prompt: Some(prompt.into()), ..self }
    }

    /// For a secret: `grapnel-ctl` prompts for it twice.
    #[must_use]
    pub fn twice(self, twice: bool) -> Argument {
        Argument { twice, ..self }
    }

    /// Sets the list of possible values: a field in the rows of a verb that only reads, such as
    /// `drivers list/driver`.
    #[must_use]
    pub fn listed_in(self, list: impl Into<String>) -> Argument {
        Argument { listed_in: Some(list.into()), ..self }
    }

    /// Excludes this argument if this flag is set.
    #[must_use]
    pub fn unless(self, flag: impl Into<String>) -> Argument {
        Argument { unless: Some(flag.into()), ..self }
    }

    /// Checks the declaration. The error is a predicate.
    pub(super) fn check(&self, form: &Form) -> Result<(), String> {
        if !is_word(&self.name) || TAKEN.contains(&self.name.as_str()) || self.name.ends_with("-stdin") {
            return Err(format!(
                "is no name of lower case letters, digits and - that grapnel-ctl has left ({}, and what ends with -stdin)",
                TAKEN.join(", ")
            ));
        }
        if self.kind == Kind::Unknown {
            return Err("is of a type that this version does not know".to_owned());
        }
        let lone = matches!(self.kind, Kind::Flag | Kind::Secret | Kind::Plugin);
        if lone && (self.positional || self.repeated || self.default.is_some()) {
            return Err("can be neither positional nor repeated nor have a default".to_owned());
        }
        if self.kind == Kind::Flag && (self.required || self.min.is_some() || self.max.is_some()) {
            return Err("is a flag, which can neither be required nor bounded".to_owned());
        }
        if self.required && self.default.is_some() {
            return Err("is required and has a default".to_owned());
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            return Err("has a least value above its most".to_owned());
        }
        if (self.kind == Kind::OneOf) == self.one_of.is_empty() {
            return Err("must name what it is one of, or be of another type".to_owned());
        }
        if self.extends_deadline && self.kind != Kind::Duration {
            return Err("is no duration and cannot extend the deadline".to_owned());
        }
        if (self.prompt.is_some() || self.twice) && self.kind != Kind::Secret {
            return Err("is no secret and cannot be asked for".to_owned());
        }
        let is_flag = |name: &str| form.argument(name).is_some_and(|other| other.kind == Kind::Flag);
        if self.unless.as_ref().is_some_and(|name| *name == self.name || !is_flag(name)) {
            return Err("names in unless what is no other flag of the verb".to_owned());
        }
        self.check_texts()?;
        match self.default.as_ref().map(|default| self.parse(default)) {
            Some(Err(what)) => Err(format!("has a default that cannot be: {what}")),
            Some(Ok(Some(path))) if self.kind == Kind::Path && !form.local && !is_absolute(&path) => {
                Err("has a default that is no absolute path, and runs in the broker".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Checks the texts for users.
    fn check_texts(&self) -> Result<(), String> {
        if self.one_of.len() > ONE_OF_MAX {
            return Err(format!("is one of {} texts; at most {ONE_OF_MAX} can be", self.one_of.len()));
        }
        fits("a help", &self.help, LINE_BYTES_MAX)?;
        for (what, text) in [("a prompt", &self.prompt), ("a default", &self.default)] {
            text.iter().try_for_each(|text| fits(what, text, LINE_BYTES_MAX))?;
        }
        self.one_of.iter().try_for_each(|text| fits("a choice", text, LINE_BYTES_MAX))
    }

    /// Checks a text for a call in the broker. A relative path is refused, because it would name
    /// another file there than in the caller's directory.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn fits_broker(&self, text: &str) -> Result<(), String> {
        if self.kind == Kind::Path && !is_absolute(text) {
            return Err(format!("{text:?} is no absolute path"));
        }
        Ok(())
    }

    /// Converts a text to the plugin's value; `None` for a flag that is not set.
    ///
    /// # Errors
    /// Why it is invalid. The text of a secret is not shown.
    pub fn parse(&self, text: &str) -> Result<Option<String>, String> {
        match self.kind {
            Kind::Text | Kind::Path | Kind::Secret => self.text(text),
            Kind::Integer => {
                let number: i64 = text
                    .parse()
                    .map_err(|_| format!("{text:?} is no whole number{}", self.range(&number_shown)))?;
                self.within(number, text, &number_shown)
            }
            Kind::Duration => {
                let ms = span::milliseconds(text).and_then(|ms| i64::try_from(ms).ok());
                let ms = ms.ok_or_else(|| {
                    format!("{text:?} is no span of time, such as 1h30m, 1.5s, 250ms or a number of seconds")
                })?;
                self.within(ms, text, &|ms| span::shown(ms.unsigned_abs()))
            }
            Kind::Flag => match text {
                "true" | "1" => Ok(Some("1".to_owned())),
                "false" | "0" => Ok(None),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Kind::OneOf if self.one_of.iter().any(|one| one == text) => Ok(Some(text.to_owned())),
            Kind::OneOf => Err(format!("{text:?} is none of {}", self.one_of.join(", "))),
            Kind::Plugin => Err("nobody gives it".to_owned()),
            Kind::Unknown => Err("it is of a type that this version does not know".to_owned()),
        }
    }

    fn text(&self, text: &str) -> Result<Option<String>, String> {
        let bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
        let (min, max) = (self.min.unwrap_or(0), self.max.unwrap_or(TEXT_BYTES_MAX));
        if bytes < min || bytes > max {
            return Err(format!("it has {}, and may have {min} to {max}", crate::counted(bytes, "byte")));
        }
        if text.contains('\0') {
            return Err("it has a zero byte".to_owned());
        }
        Ok(Some(text.to_owned()))
    }

    fn within(
        &self,
        number: i64,
        text: &str,
        shown: &dyn Fn(i64) -> String,
    ) -> Result<Option<String>, String> {
        let (min, max) = (self.min.unwrap_or(i64::MIN), self.max.unwrap_or(i64::MAX));
        if (min..=max).contains(&number) {
            return Ok(Some(number.to_string()));
        }
        Err(format!("{text} is out of range{}", self.range(shown)))
    }

    /// The allowed range, as the end of an error sentence.
    fn range(&self, shown: &dyn Fn(i64) -> String) -> String {
        match (self.min, self.max) {
            (None, None) => String::new(),
            (Some(min), None) => format!("; it may be {} or more", shown(min)),
            (None, Some(max)) => format!("; it may be {} or less", shown(max)),
            (Some(min), Some(max)) => format!("; it may be {} to {}", shown(min), shown(max)),
        }
    }

    /// The limits and choices for the help text; empty for none.
    pub fn bounds_shown(&self) -> String {
        match self.kind {
            Kind::OneOf => format!("one of {}", self.one_of.join(", ")),
            Kind::Integer => self.range(&number_shown).trim_start_matches("; it may be ").to_owned(),
            Kind::Duration => {
                let shown = self.range(&|ms| span::shown(ms.unsigned_abs()));
                shown.trim_start_matches("; it may be ").to_owned()
            }
            _ => String::new(),
        }
    }
}

fn is_absolute(path: &str) -> bool {
    std::path::Path::new(path).is_absolute()
}

fn number_shown(number: i64) -> String {
    number.to_string()
}
