//! The configuration of topic-rewrite. Read once at load; [`crate::rule`] compiles it.

use serde::Deserialize;

/// `[plugins.topic-rewrite.config]`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The rules. The last rule whose filter matches a topic decides; no other rule is applied.
    /// Default: none.
    pub rules: Vec<RuleConfig>,
    /// Key of a user property that is added to every published message. Its value identifies this
    /// load of the plugin and changes with each reload. Default: none is added.
    pub stamp: Option<String>,
}

/// One rule. The key names of EMQX are accepted too.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What is rewritten: the topic of a `publish`, the topic filters of a `subscribe`, or `all`,
    /// the default.
    #[serde(default)]
    pub action: Action,
    /// Topic filter. The rule applies to topics that match it.
    #[serde(alias = "source_topic")]
    pub filter: String,
    /// Regular expression (without look-around and back references) whose groups are $1 … $N. If it
    /// does not match, the topic is not changed. Default: $1 … $N are the parts that the wildcards
    /// of `filter` match.
    #[serde(alias = "re")]
    pub regex: Option<String>,
    /// The new topic. `$1` … `$N` are replaced by the groups, `%c` or `${clientid}` by the client
    /// identifier, `%u` or `${username}` by the user name.
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
