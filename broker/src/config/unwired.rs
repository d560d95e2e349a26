//! Keys that the configuration reads and the shards do not apply yet. The broker refuses them
//! instead of ignoring them: a listener that is meant to have TLS must not be served without it.
//! Each line goes when its key is applied.

use super::Config;
use super::listener::ListenerConfig;
use super::listener_draft::ListenerDraft;

/// A sentence for each key of the configuration that would have no effect.
pub fn unwired(config: &Config) -> Vec<String> {
    let mut sentences = Vec::new();
    for listener in &config.listeners {
        let keys = keys_of(listener).into_iter().filter(|(_, is_set)| *is_set);
        let origin = &listener.origin;
        sentences.extend(
            keys.map(|(key, _)| format!("{origin}: listeners.{key} is not in this version; leave it out")),
        );
    }
    sentences
}

/// Each key with whether the listener has it.
fn keys_of(listener: &ListenerConfig) -> Vec<(&'static str, bool)> {
    let default = ListenerDraft::default();
    vec![("mount_point", listener.mount_point != default.mount_point)]
}
