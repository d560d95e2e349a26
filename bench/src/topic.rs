//! Topics, user names and client ids that differ per client: `%i`, `%c`, `%u` as in emqtt-bench.
//! Parsed once by `cli`, expanded once per client when it starts; never on the data path.

use anyhow::{Result, bail};

/// A text with placeholders, parsed and checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Number,
    ClientId,
    UserName,
}

/// Values of the placeholders for one client.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// `%i`
    pub number: u32,
    /// `%c`
    pub client_id: &'a str,
    /// `%u`
    pub user_name: Option<&'a str>,
}

/// Message for any other placeholder.
const KNOWN: &str = "use %i (client number), %c (client id), %u (user name), or %% for a percent sign";

impl std::str::FromStr for Template {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                literal.push(letter);
                continue;
            }
            let part = match letters.next() {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('i') => Part::Number,
                Some('c') => Part::ClientId,
                Some('u') => Part::UserName,
                Some(letter) => bail!("unknown placeholder %{letter}; {KNOWN}"),
                None => bail!("a lone % at the end; {KNOWN}"),
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }
}

impl Template {
    /// The text for one client. A missing user name expands to nothing; `cli` refuses such a
    /// template before.
    pub fn expand(&self, who: Identity<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Number => text.push_str(&who.number.to_string()),
                Part::ClientId => text.push_str(who.client_id),
                Part::UserName => text.push_str(who.user_name.unwrap_or_default()),
            }
        }
        text
    }

    /// Whether `%u` occurs.
    pub fn needs_user_name(&self) -> bool {
        self.0.contains(&Part::UserName)
    }

    /// Whether the literal parts contain one of `letters`.
    pub fn has_literal(&self, letters: &[char]) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Literal(literal) if literal.contains(letters)))
    }

    /// Bytes of the literal parts.
    pub fn literal_len(&self) -> usize {
        let literals =
            self.0.iter().map(|part| if let Part::Literal(literal) = part { literal.len() } else { 0 });
        literals.sum()
    }

    /// Whether the text begins with `prefix` for every client.
    pub fn starts_with(&self, prefix: &str) -> bool {
        matches!(self.0.first(), Some(Part::Literal(literal)) if literal.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WHO: Identity<'_> = Identity { number: 17, client_id: "bench_17", user_name: Some("ann") };

    fn expand(text: &str) -> String {
        text.parse::<Template>().unwrap().expand(WHO)
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
        assert!(template.has_literal(&['+', '#']));
        assert!(!template.has_literal(&['u']));
        assert!("$share/g/%i".parse::<Template>().unwrap().starts_with("$share/"));
    }
}
