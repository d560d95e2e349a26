//! Topics, user names and client ids that differ per client: `%i`, `%c`, `%u` as in emqtt-bench.
//! Parsed once by `cli`, expanded once per client when it starts; never on the data path.

use anyhow::{Result, bail};

/// A text with placeholders, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(String);

/// Message for any other placeholder.
const KNOWN: &str = "use %i (client number), %c (client id), %u (user name), or %% for a percent sign";

impl std::str::FromStr for Template {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut rest = text;
        while let Some((_, behind)) = rest.split_once('%') {
            match behind.chars().next() {
                Some('%' | 'i' | 'c' | 'u') => rest = &behind[1..],
                Some(letter) => bail!("unknown placeholder %{letter}; {KNOWN}"),
                None => bail!("a lone % at the end; {KNOWN}"),
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl Template {
    /// The text for one client: `%i`, `%c` and `%u` are replaced by these.
    pub fn expand(&self, number: &str, client_id: &str, user_name: &str) -> String {
        let mut text = String::new();
        let mut letters = self.0.chars();
        while let Some(letter) = letters.next() {
            match if letter == '%' { letters.next() } else { None } {
                Some('i') => text.push_str(number),
                Some('c') => text.push_str(client_id),
                Some('u') => text.push_str(user_name),
                _ => text.push(letter),
            }
        }
        text
    }

    /// Whether `%u` occurs.
    pub fn needs_user_name(&self) -> bool {
        self.expand("", "", "u") != self.literals()
    }

    /// The text without what differs from client to client.
    pub fn literals(&self) -> String {
        self.expand("", "", "")
    }

    /// Whether the text begins with `prefix`, which has no percent sign, for every client.
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.0.starts_with(prefix)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn expand(text: &str) -> String {
        text.parse::<Template>().unwrap().expand("17", "bench_17", "ann")
    }

    #[test]
    fn every_placeholder_expands_wherever_it_stands() {
        assert_eq!(expand("bench/%i"), "bench/17");
        assert_eq!(expand("%i/%c/%u/x"), "17/bench_17/ann/x");
        assert_eq!(expand("%i%i"), "1717");
        assert_eq!(expand("load 100%%"), "load 100%");
        assert_eq!(expand("%%i"), "%i");
        assert_eq!(expand(""), "");
    }

    #[test]
    fn unknown_placeholders_are_named() {
        let error = "a/%x".parse::<Template>().unwrap_err();
        assert!(error.to_string().starts_with("unknown placeholder %x"), "{error}");
        let error = "a/%".parse::<Template>().unwrap_err();
        assert!(error.to_string().starts_with("a lone % at the end; use %i"), "{error}");
    }

    #[test]
    fn a_placeholder_does_not_count_as_a_literal() {
        let template: Template = "a/%u/+".parse().unwrap();
        assert!(template.needs_user_name());
        assert_eq!(template.literals(), "a//+");
        assert!("$share/g/%i".parse::<Template>().unwrap().starts_with("$share/"));
    }
}
