//! The configuration of topic-rewrite. Read once at load; [`crate::rule`] compiles it.

use serde::Deserialize;

/// `[plugins.topic-rewrite.config]`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The rules. Of those whose filter matches a topic the last one decides, alone. Default: none.
    pub rules: Vec<RuleConfig>,
    /// Key of a user property that is added to every published message; its value names this load of the plugin, and is
    /// another one after each reload. Default: none is added.
    pub stamp: Option<String>,
}

/// One rule. The names EMQX gives the keys are understood too.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What is rewritten: the topic of a `publish`, the topic filters of a `subscribe`, or `all`, the default.
    #[serde(default)]
    pub action: Action,
    /// Topic filter that a topic must match for the rule to decide on it.
    #[serde(alias = "source_topic")]
    pub filter: String,
    /// Regular expression (without look-around and back references) that takes the topic apart: $1 … $N are its groups. If
    /// it does not match, the topic stays as it is. Default: $1 … $N are what the wildcards of `filter` matched.
    #[serde(alias = "re")]
    pub regex: Option<String>,
    /// The new topic. `$1` … `$N` stand for the groups, `%c` or `${clientid}` for the client identifier, `%u` or
    /// `${username}` for the user name.
    #[serde(alias = "dest_topic")]
    pub destination: String,
}

/// What a rule applies to.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Topics of published messages.
    Publish,
    /// Topic filters of SUBSCRIBE.
    Subscribe,
    /// Both.
    #[default]
    All,
}

impl Action {
    /// Whether a rule for `self` applies to `other`.
    pub fn covers(self, other: Action) -> bool {
        self == Action::All || self == other
    }
}
