//! The errors a plugin author meets: [`Error`], which anything turns into, and [`Refused`], which the broker answers a setter with.

use std::fmt;

use crate::raw::{Field, Status};

/// Why a plugin's function failed, as one sentence for the operator. Any error turns into it with `?`.
pub struct Error(String);

impl Error {
    /// An error of this text.
    pub fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// As in anyhow: `Error` is no `std::error::Error` itself, so that this can be for all of them.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Error(text)
    }
}

/// The broker did not take a change, gave no ticket, or did not do what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What was to be changed; `None` where it was something else.
    pub field: Option<Field>,
    /// Why not.
    pub status: Status,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.status {
            Status::UNSUPPORTED => "that does not exist at this hook point",
            Status::ABSENT => "there is no such entry",
            Status::INVALID => {
                "the value cannot be taken (too large, not UTF-8, out of range, or a topic name with a wildcard)"
            }
            Status::STALE => "what it belongs to is gone",
            Status::FULL => "a limit is reached",
            Status::WRONG_MOMENT => "it was called outside of the hook",
            _ => "it gave no reason",
        };
        match self.field {
            Some(field) => write!(f, "the broker did not take {field:?}: {why}"),
            None => write!(f, "the broker refused it: {why}"),
        }
    }
}

impl std::error::Error for Refused {}
