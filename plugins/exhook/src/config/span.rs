//! Durations in the configuration.

use std::time::Duration;

use grapnel_plugin_abi::Error;
use serde::Deserialize;

/// A duration: `5s`, `500ms`, `1h30m`, or a number of milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Span {
    Ms(u64),
    Text(String),
}

impl Span {
    pub(super) fn read(&self, key: &str) -> Result<Duration, Error> {
        let text = match self {
            Span::Ms(ms) => return Ok(Duration::from_millis(*ms)),
            Span::Text(text) => text.trim(),
        };
        let wrong =
            || Error::new(format!("{key} = {text:?}: write a time, as in \"5s\", \"500ms\" or \"1h30m\""));
        if let Ok(ms) = text.parse() {
            return Ok(Duration::from_millis(ms));
        }
        milliseconds(text).map(Duration::from_millis).ok_or_else(wrong)
    }
}

/// A duration in EMQX's syntax: numbers with units, which are added, such as `1h30m` or `1.5s`.
/// Fractions of a millisecond are rounded up.
fn milliseconds(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0_f64);
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, behind) = rest.split_at(number);
        let unit = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, behind) = behind.split_at(unit);
        let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        // Neither `.5s` nor `5.s`.
        if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') {
            return None;
        }
        sum += number.parse::<f64>().ok()? * ms;
        rest = behind;
    }
    (!text.is_empty() && sum < TIME_MAX_MS).then(|| sum.ceil() as u64)
}

/// Units: fortnights, weeks, days, hours, minutes, seconds and milliseconds.
const UNITS: [(&str, f64); 7] = [
    ("f", 1_209_600_000.0),
    ("w", 604_800_000.0),
    ("d", 86_400_000.0),
    ("h", 3_600_000.0),
    ("m", 60_000.0),
    ("s", 1000.0),
    ("ms", 1.0),
];
/// Numbers up to this one are exact; no setting is as large.
const TIME_MAX_MS: f64 = 9e15;
