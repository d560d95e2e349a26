//! Limits log lines about repeated failures: one line in ten seconds for each kind, with the number
//! of others. Used by the worker's thread; does not write to the log itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The shortest time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// When something was logged last.
#[derive(Clone, Copy, Default, Debug)]
pub struct LogInterval(Option<Instant>);

impl LogInterval {
    /// Whether it may be logged now; if so, it counts as logged.
    pub fn may_log(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|said| now.saturating_duration_since(said) >= PAUSE);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

/// Failures, by kind.
#[derive(Default, Debug)]
pub struct Notices(BTreeMap<&'static str, Notice>);

#[derive(Default, Debug)]
struct Notice {
    pace: LogInterval,
    /// The last failure since the last line, and the number of failures since.
    unlogged: Option<(String, u64)>,
}

impl Notices {
    /// Records a failure. Returns the line to log, if one is due.
    pub fn note(&mut self, kind: &'static str, text: String, now: Instant) -> Option<String> {
        let notice = self.0.entry(kind).or_default();
        let count = notice.unlogged.take().map_or(1, |(_, count)| count + 1);
        if notice.pace.may_log(now) {
            return Some(line(&text, count));
        }
        notice.unlogged = Some((text, count));
        None
    }

    /// Lines for unlogged failures whose time has come, or for all of them `at_the_end`.
    pub fn due(&mut self, now: Instant, at_the_end: bool) -> Vec<String> {
        let due = self.0.values_mut().filter_map(|notice| {
            let (text, count) = notice.unlogged.take_if(|_| notice.pace.may_log(now) || at_the_end)?;
            Some(line(&text, count))
        });
        due.collect()
    }
}

fn line(text: &str, count: u64) -> String {
    match count {
        1 => text.to_owned(),
        _ => format!("{text} ({} more of the kind since the last line)", count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many failures there are, each kind has one line in ten seconds, and the lines count
    /// them all.
    #[test]
    fn a_kind_has_one_line_in_ten_seconds_that_counts_the_others() {
        let (mut notices, start) = (Notices::default(), Instant::now());
        let after = |ms: u64| start + Duration::from_millis(ms);
        let mut said = Vec::new();
        for n in 0..1000 {
            said.extend(notices.note("kick", format!("kick {n}"), after(n)));
            said.extend(notices.due(after(n), false));
        }
        assert_eq!(said, ["kick 0"]);
        assert_eq!(notices.note("publish", "publish".to_owned(), after(1000)).as_deref(), Some("publish"));
        assert!(notices.due(after(9_999), false).is_empty());
        let due = notices.due(after(10_000), false);
        assert_eq!(due, ["kick 999 (998 more of the kind since the last line)"]);
        assert!(notices.due(after(40_000), true).is_empty(), "nothing is said twice");
        // A later failure includes the rest in its own line.
        for ms in [40_000, 40_001, 40_002, 50_000] {
            said.extend(notices.note("kick", ms.to_string(), after(ms)));
        }
        assert_eq!(said[1..], ["40000", "50000 (2 more of the kind since the last line)"]);
        notices.note("kick", "last".to_owned(), after(50_001));
        assert_eq!(notices.due(after(50_002), true), ["last"], "at the end all is said");
    }
}
