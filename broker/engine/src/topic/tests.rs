//! Topic rules against the examples of the specification (sections 4.7.1, 4.7.2, 4.8.2).
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn names_follow_section_4_7() {
    let long = "x".repeat(TOPIC_BYTES_MAX + 1);
    for (name, expected) in [
        ("a", Ok(())),
        ("/", Ok(())),
        ("ACCOUNTS/Accounts payable", Ok(())),
        ("$SYS/broker", Ok(())),
        ("a//b", Ok(())),
        ("\u{FEFF}ü/日本", Ok(())),
        (&long[1..], Ok(())),
        ("", Err(TopicError::Empty)),
        (&long, Err(TopicError::TooLong)),
        ("a\0b", Err(TopicError::Null)),
        ("a/+", Err(TopicError::Wildcard)),
        ("a+b", Err(TopicError::Wildcard)),
        ("#", Err(TopicError::Wildcard)),
        ("+\0", Err(TopicError::Null)),
    ] {
        assert_eq!(validate_name(name), expected, "{:.40}", name);
    }
}

#[test]
fn filters_follow_section_4_7_1() {
    let long = "x".repeat(TOPIC_BYTES_MAX + 1);
    for (filter, expected) in [
        // The valid examples of sections 4.7.1.2 and 4.7.1.3.
        ("sport/tennis/player1/#", Ok(())),
        ("sport/#", Ok(())),
        ("#", Ok(())),
        ("sport/tennis/#", Ok(())),
        ("+", Ok(())),
        ("+/tennis/#", Ok(())),
        ("sport/+/player1", Ok(())),
        ("/+", Ok(())),
        ("+/+", Ok(())),
        ("/", Ok(())),
        ("//", Ok(())),
        ("$share", Ok(())),
        ("$SYS/#", Ok(())),
        (&long[1..], Ok(())),
        // The invalid ones.
        ("sport/tennis#", Err(TopicError::MultiLevel)),
        ("sport/tennis/#/ranking", Err(TopicError::MultiLevel)),
        ("sport+", Err(TopicError::SingleLevel)),
        // Similar ones.
        ("#/", Err(TopicError::MultiLevel)),
        ("##", Err(TopicError::MultiLevel)),
        ("+#", Err(TopicError::SingleLevel)),
        ("#+", Err(TopicError::MultiLevel)),
        ("+a/b", Err(TopicError::SingleLevel)),
        ("a/b+/c", Err(TopicError::SingleLevel)),
        ("++", Err(TopicError::SingleLevel)),
        ("", Err(TopicError::Empty)),
        (&long, Err(TopicError::TooLong)),
        ("a/\0", Err(TopicError::Null)),
    ] {
        assert_eq!(validate_filter(filter), expected, "{:.40}", filter);
    }
}

#[test]
fn shared_filters_follow_section_4_8_2() {
    let plain = |filter| Ok(ParsedFilter { share: None, filter });
    let shared = |share, filter| Ok(ParsedFilter { share: Some(share), filter });
    let long = format!("$share/g/{}", "x".repeat(TOPIC_BYTES_MAX));
    for (filter, expected) in [
        ("a/b", plain("a/b")),
        ("$share", plain("$share")),
        ("$shared/g/a", plain("$shared/g/a")),
        ("$SHARE/g/a", plain("$SHARE/g/a")),
        // The examples of section 4.8.2.
        ("$share/consumer1/sport/tennis/+", shared("consumer1", "sport/tennis/+")),
        ("$share/consumer2/sport/tennis/+", shared("consumer2", "sport/tennis/+")),
        ("$share/consumer1//finance", shared("consumer1", "/finance")),
        ("$share/g/#", shared("g", "#")),
        ("$share/g//", shared("g", "/")),
        ("$share/g/$SYS/x", shared("g", "$SYS/x")),
        ("$share/", Err(TopicError::ShareName)),
        ("$share//a", Err(TopicError::ShareName)),
        ("$share/+/a", Err(TopicError::ShareName)),
        ("$share/g#/a", Err(TopicError::ShareName)),
        ("$share/g", Err(TopicError::ShareFilter)),
        ("$share/g/", Err(TopicError::ShareFilter)),
        ("$share/g/a#", Err(TopicError::MultiLevel)),
        ("$share/g\0/a", Err(TopicError::Null)),
        (&long, Err(TopicError::TooLong)),
        ("", Err(TopicError::Empty)),
    ] {
        assert_eq!(parse_filter(filter), expected, "{:.40}", filter);
    }
}

#[test]
fn levels_are_limited() {
    assert_eq!(check_levels("a/b/c", 3), Ok(()));
    assert_eq!(check_levels("a/b/c/", 3), Err(TopicError::TooManyLevels { levels_max: 3 }));
    assert_eq!(check_levels("a", 1), Ok(()));
    assert_eq!(levels("/a//").collect::<Vec<_>>(), ["", "a", "", ""]);
    assert!(has_wildcard("a/+") && has_wildcard("#") && !has_wildcard("a/b"));
}

#[test]
fn matching_follows_the_examples_of_the_specification() {
    for (filter, name, expected) in [
        // 4.7.1.2
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/tennis/player1/#", "sport/tennis/player2", false),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("#", "a/b/c", true),
        ("#", "/", true),
        // 4.7.1.3
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        // 4.7.2 [MQTT-4.7.2-1]
        ("#", "$SYS/monitor", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/monitor", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        // 4.7.3: case counts, a leading or trailing / makes another topic, nothing is normalised
        // [MQTT-4.7.3-4].
        ("ACCOUNTS", "Accounts", false),
        ("finance", "/finance", false),
        ("finance", "finance/", false),
        ("finance/", "finance", false),
        ("a\u{308}", "ä", false),
        ("a//b", "a//b", true),
        ("a/+/b", "a//b", true),
        ("+/#", "a", true),
        ("a/$b/#", "a/$b/c", true),
        ("+/$b", "a/$b", true),
        ("a/b", "a/b", true),
        ("a/b", "a", false),
        ("a", "a/b", false),
    ] {
        assert_eq!(matches(filter, name), expected, "{filter} and {name}");
    }
}

#[test]
fn two_filters_overlap_if_a_name_matches_both() {
    let levels = ["a", "b", "$x", ""];
    let mut names: Vec<String> = levels.iter().map(ToString::to_string).collect();
    for depth in [1, 2] {
        let longer: Vec<String> = names
            .iter()
            .filter(|name| name.matches('/').count() + 1 == depth)
            .flat_map(|name| levels.iter().map(move |level| format!("{name}/{level}")))
            .collect();
        names.extend(longer);
    }
    let filters = [
        "#", "+", "a", "a/#", "a/+", "+/b", "+/+", "a/b", "a/b/#", "$x", "$x/#", "+/#", "a/+/b", "b/#", "/#",
        "/+",
    ];
    for a in filters {
        for b in filters {
            let both = names.iter().any(|name| matches(a, name) && matches(b, name));
            assert_eq!(overlap(a, b), both, "{a} and {b}");
        }
    }
}

/// Searching eight bytes at a time gives what a search of one at a time gives, wherever in a text
/// the byte is and whatever is around it.
#[test]
fn special_bytes_are_found_at_every_place() {
    for length in 0..=33 {
        for around in [1, b'"', b'$', b'*', b',', b'a', 0x7F, 0x80, 0x81, 0xFF] {
            let mut text = vec![around; length];
            assert_eq!(special_bytes(&text), SpecialBytes { null: false, wildcard: false });
            for place in 0..length {
                for byte in [0, b'+', b'#'] {
                    text[place] = byte;
                    let expected = SpecialBytes { null: byte == 0, wildcard: byte != 0 };
                    assert_eq!(special_bytes(&text), expected, "{byte} at {place} of {length} × {around}");
                }
                text[place] = around;
            }
        }
    }
}
