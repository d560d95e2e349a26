//! Tests of the rules against EMQX's documentation, and of cases that it does not define.
#![allow(clippy::unwrap_used)]

use super::*;

fn rule(action: Action, filter: &str, regex: Option<&str>, destination: &str) -> RuleConfig {
    RuleConfig {
        action,
        filter: filter.into(),
        regex: regex.map(Into::into),
        destination: destination.into(),
    }
}

fn rewriter(rules: &[RuleConfig]) -> Rewriter {
    Rewriter::new(&Rules::compile(rules).unwrap())
}

impl Rewriter {
    /// The new topic, or `-` if it is unchanged.
    fn topic(&mut self, action: Action, topic: &str, client: Client<'_>) -> &str {
        match self.rewrite(action, topic, client) {
            Outcome::New { topic, .. } => topic,
            _ => "-",
        }
    }
}

const ANN: Client<'_> = Client { id: "ann-1", username: Some("ann") };

/// The example of EMQX's page "Topic Rewrite": five subscriptions and their results. The last rule
/// whose filter matches decides; no other rule is applied if its expression does not match.
#[test]
fn the_example_of_emqx_is_rewritten() {
    let mut rewriter = rewriter(&[
        rule(Action::All, "y/+/z/#", Some("^y/(.+)/z/(.+)$"), "y/z/$2"),
        rule(Action::All, "x/#", Some("^x/y/(.+)$"), "z/y/x/$1"),
        rule(Action::All, "x/y/+", Some(r"^x/y/(\d+)$"), "z/y/$1"),
    ]);
    for action in [Action::Publish, Action::Subscribe] {
        assert_eq!(rewriter.rewrite(action, "y/def", ANN), Outcome::Same);
        assert_eq!(rewriter.topic(action, "y/a/z/b", ANN), "y/z/b");
        assert_eq!(rewriter.rewrite(action, "x/1/2", ANN), Outcome::Same);
        assert_eq!(rewriter.topic(action, "x/y/2", ANN), "z/y/2");
        assert_eq!(rewriter.rewrite(action, "x/y/z", ANN), Outcome::Same);
        assert_eq!(rewriter.topic(action, "x/y/z/1", ANN), "z/y/x/z/1");
    }
}

#[test]
fn a_rule_applies_to_its_action_alone() {
    let rules = Rules::compile(&[
        rule(Action::Publish, "a", None, "published"),
        rule(Action::Subscribe, "a", None, "subscribed"),
    ])
    .unwrap();
    let mut rewriter = Rewriter::new(&rules);
    assert_eq!(rewriter.topic(Action::Publish, "a", ANN), "published");
    assert_eq!(rewriter.topic(Action::Subscribe, "a", ANN), "subscribed");
    assert!(rules.any(Action::Publish) && rules.any(Action::Subscribe));
    let only = Rules::compile(&[rule(Action::Publish, "a", None, "b")]).unwrap();
    assert!(!only.any(Action::Subscribe));
}

#[test]
fn without_an_expression_the_wildcards_are_the_groups() {
    let mut rewriter = rewriter(&[
        rule(Action::All, "a/+/b/#", None, "n/$2/$1"),
        rule(Action::All, "+/+", None, "$2/$1"),
        rule(Action::All, "whole/#", None, "[$1]"),
    ]);
    assert_eq!(rewriter.topic(Action::Publish, "a/1/b/2/3", ANN), "n/2/3/1");
    assert_eq!(rewriter.topic(Action::Publish, "a/1/b", ANN), "n//1");
    assert_eq!(rewriter.topic(Action::Publish, "/x", ANN), "x/");
    assert_eq!(rewriter.topic(Action::Publish, "whole", ANN), "[]");
    assert_eq!(rewriter.topic(Action::Publish, "whole/", ANN), "[]");
    assert_eq!(rewriter.topic(Action::Publish, "whole/ä/ö", ANN), "[ä/ö]");
}

#[test]
fn wildcards_of_a_subscription_are_text() {
    let mut rewriter = rewriter(&[rule(Action::Subscribe, "x/#", None, "z/y/$1")]);
    assert_eq!(rewriter.topic(Action::Subscribe, "x/#", ANN), "z/y/#");
    assert_eq!(rewriter.topic(Action::Subscribe, "x/+/1", ANN), "z/y/+/1");
    assert_eq!(rewriter.rewrite(Action::Subscribe, "#", ANN), Outcome::Same);
}

#[test]
fn a_shared_subscription_keeps_its_group() {
    let mut rewriter =
        rewriter(&[rule(Action::All, "$share/#", None, "never"), rule(Action::All, "x/#", None, "z/y/$1")]);
    assert_eq!(rewriter.topic(Action::Subscribe, "$share/group/x/+", ANN), "$share/group/z/y/+");
    assert_eq!(rewriter.rewrite(Action::Subscribe, "$share/group/y", ANN), Outcome::Same);
    let long = format!("$share/{}/x/{}", "g".repeat(32_000), "t".repeat(33_525));
    let refused = Outcome::Refused { rule: 2, why: Refusal::Topic(TopicError::TooLong) };
    assert_eq!((long.len(), rewriter.rewrite(Action::Subscribe, &long, ANN)), (65_535, refused));
}

#[test]
fn identifiers_are_inserted_unless_they_contain_wildcards() {
    let mut rewriter = rewriter(&[
        rule(Action::All, "c/#", None, "by/%c/${clientid}/$1"),
        rule(Action::All, "u/#", None, "by/%u/${username}/$1"),
    ]);
    assert_eq!(rewriter.topic(Action::Publish, "c/t", ANN), "by/ann-1/ann-1/t");
    assert_eq!(rewriter.topic(Action::Publish, "u/t", ANN), "by/ann/ann/t");
    let nameless = Client { username: None, ..ANN };
    let no_name = Outcome::Refused { rule: 2, why: Refusal::NoUsername };
    assert_eq!(rewriter.rewrite(Action::Publish, "u/t", nameless), no_name);
    let sly = Client { id: "#", username: Some("+") };
    for (topic, rule) in [("c/t", 1), ("u/t", 2)] {
        let refused = Outcome::Refused { rule, why: Refusal::WildcardInId };
        assert_eq!(rewriter.rewrite(Action::Subscribe, topic, sly), refused);
    }
}

#[test]
fn invalid_topics_are_refused() {
    let mut rewriter = rewriter(&[
        rule(Action::All, "empty/#", None, "$1"),
        rule(Action::All, "wild", None, "a/#"),
        rule(Action::All, "double/+", None, &"$1".repeat(3)),
    ]);
    let refused = |rule, error| Outcome::Refused { rule, why: Refusal::Topic(error) };
    assert_eq!(rewriter.rewrite(Action::Publish, "empty", ANN), refused(1, TopicError::Empty));
    assert_eq!(rewriter.rewrite(Action::Publish, "wild", ANN), refused(2, TopicError::Wildcard));
    assert_eq!(rewriter.topic(Action::Subscribe, "wild", ANN), "a/#");
    let long = format!("double/{}", "x".repeat(40_000));
    assert_eq!(rewriter.rewrite(Action::Publish, &long, ANN), refused(3, TopicError::TooLong));
}

/// A topic below `$` is reached only if the operator's rule has it, never by a client's values
/// [MQTT-4.7.2-1].
#[test]
fn only_a_destination_with_a_dollar_moves_a_message_there() {
    let mut rewriter = rewriter(&[
        rule(Action::All, "in/#", None, "$1"),
        rule(Action::All, "by-id/#", None, "%c/$1"),
        rule(Action::All, "meant/#", None, "$internal/$1"),
    ]);
    let refused = |rule| Outcome::Refused { rule, why: Refusal::Reserved };
    assert_eq!(rewriter.rewrite(Action::Publish, "in/$SYS/x", ANN), refused(1));
    assert_eq!(rewriter.topic(Action::Publish, "in/a/$SYS", ANN), "a/$SYS");
    let sly = Client { id: "$SYS", username: None };
    assert_eq!(rewriter.rewrite(Action::Publish, "by-id/x", sly), refused(2));
    assert_eq!(rewriter.topic(Action::Publish, "meant/x", ANN), "$internal/x");
    // A client that may subscribe to it can do so without a rule.
    assert_eq!(rewriter.topic(Action::Subscribe, "in/$SYS/x", ANN), "$SYS/x");
}

#[test]
fn a_result_equal_to_the_topic_changes_nothing() {
    let mut rewriter = rewriter(&[rule(Action::All, "a/#", None, "a/$1")]);
    assert_eq!(rewriter.rewrite(Action::Publish, "a/b", ANN), Outcome::Same);
}

#[test]
fn destinations_are_parsed_into_parts() {
    use Part::{ClientId, Group, Text, Username};
    let text = |text: &str| Text(text.into());
    assert_eq!(parts("$12/$1x%c%u"), [Group(12), text("/"), Group(1), text("x"), ClientId, Username]);
    assert_eq!(parts("$queue/50%/$/$0/ä"), [text("$queue/50%/$/$0/ä")]);
    assert_eq!(parts("a${clientid}"), [text("a"), ClientId]);
}

#[test]
fn an_unusable_rule_is_named_in_the_error() {
    let error_of = |rules: &[RuleConfig]| Rules::compile(rules).unwrap_err().to_string();
    let good = rule(Action::All, "a", None, "b");
    assert_eq!(
        error_of(&[good.clone(), rule(Action::All, "a#", None, "b")]),
        "rule 2: filter \"a#\": '#' must be the last level, alone"
    );
    let unclosed = error_of(&[rule(Action::All, "a", Some("("), "b")]);
    assert_eq!(unclosed, "rule 1: regex \"(\": unclosed group");
    assert_eq!(
        error_of(&[rule(Action::All, "a/+", None, "b/$2")]),
        "rule 1: destination \"b/$2\" asks for $2, but the number of groups is 1"
    );
    assert_eq!(error_of(&[rule(Action::All, "a", None, "")]), "rule 1: destination is empty");
}

#[test]
fn an_optional_group_without_a_match_is_empty() {
    let mut rewriter = rewriter(&[rule(Action::All, "#", Some("^a(/x)?(/y)$"), "b$1$2")]);
    assert_eq!(rewriter.topic(Action::Publish, "a/y", ANN), "b/y");
}

#[test]
fn a_topic_costs_no_allocation_rewritten_or_not() {
    let mut rewriter = rewriter(&[
        rule(Action::All, "w/+/#", None, "new/$2/%c/$1"),
        rule(Action::All, "r/#", Some(r"^r/(\w+)/([0-9]+)$"), "number/$2/%u/$1"),
        rule(Action::All, "bad/#", None, "$1"),
    ]);
    let mut rewrite_all = || {
        for topic in ["other/a", "w/a/b/c", "r/room/12", "r/room/none", "bad"] {
            rewriter.rewrite(Action::Publish, topic, ANN);
        }
    };
    // The regular expression fills its cache with the first topics.
    (0..10).for_each(|_| rewrite_all());
    let allocated = allocation_counter::measure(|| (0..100).for_each(|_| rewrite_all()));
    assert_eq!(allocated.count_total, 0);
}
