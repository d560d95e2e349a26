//! Durations as people write them.

/// Units with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Milliseconds of `1h30m`, `1.5s`, `250ms`, or of a number of seconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let (mut rest, mut all) = (text, 0_u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit_ms = match unit {
            // A number without a unit is seconds, if there is no other part.
            "" if number == text => 1_000,
            unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
        };
        all = all.checked_add(scaled(number, unit_ms)?)?;
        rest = behind;
    }
    Some(all)
}

/// A number, possibly with a fraction, times a unit. Fractions of a millisecond are dropped.
fn scaled(number: &str, unit_ms: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    let places = u32::try_from(fraction.len()).ok().filter(|places| (1..=9).contains(places))?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = u128::from(fraction) * u128::from(unit_ms) / 10_u128.pow(places);
    whole.checked_mul(unit_ms)?.checked_add(u64::try_from(part).ok()?)
}

/// A duration in the largest unit without a fraction.
pub(super) fn shown(ms: u64) -> String {
    let (name, unit) =
        UNITS.iter().find(|(_, unit)| ms.is_multiple_of(*unit) && ms >= *unit).unwrap_or(&("ms", 1));
    format!("{}{name}", ms / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_a_unit_or_is_in_seconds() {
        for (text, ms) in [
            ("5", 5_000),
            ("0.5", 500),
            ("250ms", 250),
            ("1.5s", 1_500),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(milliseconds(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "s",
            "1x",
            "-1s",
            "1 s",
            "5s5",
            "1..5s",
            ".5s",
            "99999999999999999999s",
            "213503982335d",
            "1.0000000001s",
        ] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
        assert_eq!([0, 250, 1_500, 60_000, 5_400_000].map(shown), ["0ms", "250ms", "1500ms", "1m", "90m"]);
    }
}
