//! The errors of the SDK: [`Error`], which any error converts to, and [`Refused`], which setters
//! and commands of the broker return.

use std::fmt;

use crate::raw::{Field, Status};

/// Why a plugin's function failed, as one sentence for the operator. Any error converts to it with
/// `?`.
pub struct Error(String);

impl Error {
    /// An error with this text.
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

// As in anyhow: `Error` does not implement `std::error::Error`, so that this conversion can exist
// for all errors.
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

/// The broker refused a change, a ticket, or a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The field of the change; `None` for a ticket or a command.
    pub field: Option<Field>,
    /// The reason.
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
