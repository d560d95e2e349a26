//! The arguments of a verb as a struct. The types of its fields declare and parse them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::verb::{Argument, Kind};

/// A struct of arguments, made by [`arguments!`](crate::arguments).
pub trait Arguments: Sized {
    /// The declarations, in the order of the fields.
    fn declare() -> Vec<Argument>;

    /// Parses the arguments of a call. The broker has checked them already.
    ///
    /// # Errors
    /// One sentence; only if the host has not checked them.
    fn read(given: &[(&str, &str)]) -> Result<Self, String>;
}

/// No arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoArguments;

impl Arguments for NoArguments {
    fn declare() -> Vec<Argument> {
        Vec::new()
    }

    fn read(_given: &[(&str, &str)]) -> Result<NoArguments, String> {
        Ok(NoArguments)
    }
}

/// A type that a field of arguments may have. A `T` is required, at its position on the command
/// line. An `Option<T>` is optional, as `--name VALUE`. A `Vec<T>` may be repeated.
pub trait ArgumentType: Sized {
    /// Adds the type to a declaration.
    fn declare(argument: Argument) -> Argument;

    /// Parses the value; `given` has all texts that were passed for this argument.
    ///
    /// # Errors
    /// One sentence.
    fn read(given: &[&str]) -> Result<Self, String>;
}

/// The single value.
fn one<'a>(given: &[&'a str]) -> Result<&'a str, String> {
    given.first().copied().ok_or_else(|| "an argument is missing".to_owned())
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not of the declared type"))
}

impl ArgumentType for String {
    fn declare(argument: Argument) -> Argument {
        Argument { kind: Kind::Text, positional: true, required: true, ..argument }
    }

    fn read(given: &[&str]) -> Result<String, String> {
        one(given).map(str::to_owned)
    }
}

impl ArgumentType for PathBuf {
    fn declare(argument: Argument) -> Argument {
        Argument { kind: Kind::Path, positional: true, required: true, ..argument }
    }

    fn read(given: &[&str]) -> Result<PathBuf, String> {
        one(given).map(PathBuf::from)
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl ArgumentType for $type {
            fn declare(argument: Argument) -> Argument {
                let (min, max) = (i64::try_from(<$type>::MIN).ok(), i64::try_from(<$type>::MAX).ok());
                Argument { kind: Kind::Integer, positional: true, required: true, min, max, ..argument }
            }

            fn read(given: &[&str]) -> Result<$type, String> {
                parsed(one(given)?)
            }
        }
    )*};
}

integers! { u8, u16, u32, u64, usize, i8, i16, i32, i64 }

impl ArgumentType for Duration {
    fn declare(argument: Argument) -> Argument {
        Argument { kind: Kind::Duration, positional: true, required: true, ..argument }
    }

    fn read(given: &[&str]) -> Result<Duration, String> {
        parsed(one(given)?).map(Duration::from_millis)
    }
}

impl ArgumentType for bool {
    fn declare(argument: Argument) -> Argument {
        Argument { kind: Kind::Flag, ..argument }
    }

    fn read(given: &[&str]) -> Result<bool, String> {
        Ok(given.first() == Some(&"1"))
    }
}

/// Text that must not be on a command line; `{:?}` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl ArgumentType for Secret {
    fn declare(argument: Argument) -> Argument {
        Argument { kind: Kind::Secret, required: true, ..argument }
    }

    fn read(given: &[&str]) -> Result<Secret, String> {
        one(given).map(|text| Secret(text.to_owned()))
    }
}

/// The broker's data about the plugin, as in `plugins show`. The broker fills it in; the caller
/// does not pass it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PluginInfo {
    /// The name that the plugin is loaded under.
    pub name: String,
    /// `loaded`, `disabled`, or `tripped`.
    pub state: String,
    /// `configured`, `recorded`, or `once`.
    pub origin: String,
    /// Its hooks.
    #[serde(default)]
    pub hooks: Vec<HookInfo>,
}

/// The broker's data about a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HookInfo {
    /// Hook point.
    pub point: String,
    /// Its name within the plugin.
    pub name: String,
    /// Whether the operator has disabled it.
    #[serde(default)]
    pub unmounted: bool,
}

impl HookInfo {
    /// `POINT/HOOK`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.point, self.name)
    }
}

impl ArgumentType for PluginInfo {
    fn declare(argument: Argument) -> Argument {
        Argument { kind: Kind::Plugin, ..argument }
    }

    fn read(given: &[&str]) -> Result<PluginInfo, String> {
        serde_json::from_str(one(given)?)
            .map_err(|error| format!("what the broker says of the plugin: {error}"))
    }
}

impl<T: ArgumentType> ArgumentType for Option<T> {
    fn declare(argument: Argument) -> Argument {
        Argument { positional: false, required: false, ..T::declare(argument) }
    }

    fn read(given: &[&str]) -> Result<Option<T>, String> {
        if given.is_empty() { Ok(None) } else { T::read(given).map(Some) }
    }
}

impl<T: ArgumentType> ArgumentType for Vec<T> {
    fn declare(argument: Argument) -> Argument {
        Argument { positional: false, required: false, repeated: true, ..T::declare(argument) }
    }

    fn read(given: &[&str]) -> Result<Vec<T>, String> {
        given.iter().map(|value| T::read(&[value])).collect()
    }
}

/// Defines the arguments of a verb: a struct whose field types declare the arguments and whose doc
/// comments are the help texts.
///
/// ```
/// use std::time::Duration;
///
/// grapnel_plugin_abi::arguments! {
///     /// What `drivers stats` is given.
///     struct Stats {
///         /// The driver; all of them without it
///         driver: Option<String>,
///         /// Time over which the rate is measured
///         interval: Duration { defaults_to: "1s", min: 1_000, max: 3_600_000, extends_deadline: true },
///         /// Leave out who has done nothing
///         busy_only: bool,
///     }
/// }
///
/// use grapnel_plugin_abi::Arguments;
/// let declared: Vec<_> = Stats::declare().into_iter().map(|argument| argument.name).collect();
/// assert_eq!(declared, ["driver", "interval", "busy-only"]);
/// let stats = Stats::read(&[("interval", "2000"), ("busy-only", "1")]).expect("they are as declared");
/// assert_eq!((stats.driver, stats.interval, stats.busy_only), (None, Duration::from_secs(2), true));
/// ```
///
/// The braces after a type contain methods of [`verb::Argument`](crate::verb::Argument) and their
/// values.
#[macro_export]
macro_rules! arguments {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $($(#[doc = $help:literal])* $field:ident: $type:ty $({ $($key:ident: $value:expr),* $(,)? })?),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        $visibility struct $name {
            $($(#[doc = $help])* pub $field: $type,)*
        }

        impl $crate::Arguments for $name {
            fn declare() -> ::std::vec::Vec<$crate::verb::Argument> {
                ::std::vec![$({
                    let help: &[&str] = &[$($help),*];
                    let help: ::std::vec::Vec<&str> = help.iter().map(|line| line.trim()).collect();
                    let name = stringify!($field).replace('_', "-");
                    let argument = $crate::verb::Argument::named(name, help.join(" "));
                    <$type as $crate::ArgumentType>::declare(argument) $($(.$key($value))*)?
                }),*]
            }

            fn read(given: &[(&str, &str)]) -> ::core::result::Result<$name, ::std::string::String> {
                ::core::result::Result::Ok($name {
                    $($field: {
                        let name = stringify!($field).replace('_', "-");
                        let values = given.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
                        let values: ::std::vec::Vec<&str> = values.collect();
                        <$type as $crate::ArgumentType>::read(&values).map_err(|what| ::std::format!("{name}: {what}"))?
                    },)*
                })
            }
        }
    };
}
