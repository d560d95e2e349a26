//! Finds the existing name that is nearest to a wrong one. Used for keys and environment variables.

/// The candidate most similar to `name`. A key in the wrong table is found by its last part.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (similarity(name, candidate), candidate))
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

fn similarity(name: &str, candidate: &str) -> f64 {
    // The last part counts a little less than the whole path, so that the right table wins if
    // several keys have the same last part.
    alike(name, candidate).max(0.9 * alike(last_part(name), last_part(candidate)))
}

/// The mean of two measures: one for typing errors, one for abbreviations.
fn alike(left: &str, right: &str) -> f64 {
    (strsim::normalized_damerau_levenshtein(left, right) + strsim::jaro_winkler(left, right)) / 2.0
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["limits.receive_max", "limits.inflight_max", "control.socket", "log.level"];

    #[test]
    fn a_misspelled_key_is_found_in_its_table() {
        assert_eq!(nearest("limits.recieve_max", KEYS), Some("limits.receive_max"));
    }

    #[test]
    fn an_abbreviation_is_found() {
        assert_eq!(
            nearest("plugins.tap.prio", ["plugins.tap.path", "plugins.tap.priority"]),
            Some("plugins.tap.priority")
        );
    }

    #[test]
    fn a_key_in_the_wrong_table_is_found_by_its_last_part() {
        assert_eq!(nearest("inflight_max", KEYS), Some("limits.inflight_max"));
        assert_eq!(nearest("state.socket", KEYS), Some("control.socket"));
    }
}
