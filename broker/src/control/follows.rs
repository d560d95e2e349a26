//! Computes the consequences of removing hooks from the chains, before a plugin is unloaded or
//! disabled or a hook is unmounted: which hook points lose which hooks, which rule applies if none
//! is left, and how many clients this concerns. Changes nothing.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use grapnel_plugin_abi::counted;
use serde::Deserialize;

use super::answer::{ApiError, Json, Parameters};
use super::api::Api;
use super::plugins::blocking;
use super::wire::{Follows, Listener};
use crate::config::NoMatch;
use crate::plugin::{HookChange, HookRow};

/// Its routes.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/v1/follows", get(follows))
}

/// The hooks that are removed from the chains.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovedHooks {
    /// The plugin.
    pub plugin: String,
    /// The hook point, if one hook is removed. Without it, all hooks of the plugin are removed.
    #[serde(default)]
    pub point: Option<String>,
    /// The name of that hook.
    #[serde(default)]
    pub hook: Option<String>,
    /// Instead of `point` and `hook`: several hooks as `POINT/HOOK`, separated by commas.
    #[serde(default)]
    pub hooks: Option<String>,
}

impl RemovedHooks {
    /// All hooks of a plugin.
    pub fn plugin(name: &str) -> RemovedHooks {
        RemovedHooks { plugin: name.to_owned(), point: None, hook: None, hooks: None }
    }

    /// The hooks that a change removes; `None` if it removes none.
    pub fn hook(wanted: &HookChange) -> Option<RemovedHooks> {
        let leaves = wanted.change.mounted == Some(false);
        let first = format!("{}/{}", wanted.point, wanted.hook);
        let all = || std::iter::once(first.as_str()).chain(wanted.also.iter().map(String::as_str));
        leaves.then(|| RemovedHooks {
            hooks: Some(all().collect::<Vec<_>>().join(",")),
            ..RemovedHooks::plugin(&wanted.plugin)
        })
    }

    fn names(&self, row: &HookRow) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let is = |key: &str| key.split_once('/') == Some((&row.point, &row.hook));
        let listed = self.hooks.as_ref().is_none_or(|hooks| hooks.split(',').any(is));
        row.plugin == self.plugin && fits(&self.point, &row.point) && fits(&self.hook, &row.hook) && listed
    }
}

/// `GET /api/v1/follows`.
async fn follows(
    State(api): State<Api>,
    Parameters(leaving): Parameters<RemovedHooks>,
) -> Result<Json<Follows>, ApiError> {
    Ok(Json(Follows { follows: of(&api, &leaving).await? }))
}

/// One sentence for each consequence; empty if there is none.
pub(super) async fn of(api: &Api, leaving: &RemovedHooks) -> Result<Vec<String>, ApiError> {
    let report = blocking(api, |api| api.plugins.hooks(false)).await?;
    let allowed = api.config().authorization.no_match == NoMatch::Allow;
    let mut sentences = sentences(&report.rows, leaving, &api.listeners(), allowed);
    if sentences.is_empty() {
        return Ok(sentences);
    }
    let gathered = api.shards.call_all(|shard| *shard.counters()).await;
    let sum = |of: fn(&grapnel_engine::shard::Counters) -> u64| -> u64 {
        gathered.answers.iter().map(|(_, counters)| of(counters)).sum()
    };
    let at_least = if gathered.unanswered.is_empty() { "" } else { "at least " };
    sentences.push(format!(
        "{at_least}{} and {} go on without it",
        counted(sum(|counters| counters.connections_count), "connection"),
        counted(sum(|counters| counters.sessions_count), "session")
    ));
    Ok(sentences)
}

fn sentences(rows: &[HookRow], leaving: &RemovedHooks, listeners: &[Listener], allowed: bool) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut rest = rows;
    while let Some(first) = rest.first() {
        // The rows of a hook point are adjacent.
        let end = rest.iter().position(|row| row.point != first.point).unwrap_or(rest.len());
        let (of_point, others) = rest.split_at(end);
        rest = others;
        let links = of_point.iter().filter(|row| row.place > 0 && row.mounted);
        let (removed, remaining): (Vec<&HookRow>, Vec<&HookRow>) = links.partition(|row| leaving.names(row));
        if removed.is_empty() {
            continue;
        }
        let (point, removed) = (&first.point, links_shown(&removed));
        sentences.push(match (remaining.is_empty(), if_nobody_decides(point, listeners, allowed)) {
            (false, _) => format!("{point} loses {removed} and keeps {}", links_shown(&remaining)),
            (true, None) => format!("{point} loses {removed} and has no hook left"),
            (true, Some(then)) => format!("{point} loses {removed} and has no hook left: {then}"),
        });
    }
    sentences
}

fn links_shown(rows: &[&HookRow]) -> String {
    rows.iter().map(|row| format!("{}/{}", row.plugin, row.hook)).collect::<Vec<_>>().join(", ")
}

/// The rule of the configuration that applies if no hook of a point decides.
fn if_nobody_decides(point: &str, listeners: &[Listener], allowed: bool) -> Option<String> {
    match point {
        "client.authorize" if allowed => {
            Some("every publish and subscription is allowed (authorization.no_match = \"allow\")".to_owned())
        }
        "client.authorize" => {
            Some("every publish and subscription is refused (authorization.no_match = \"deny\")".to_owned())
        }
        "client.authenticate" => {
            let part = |so: &str, why: &str, which: fn(&Listener) -> bool| {
                let these = listeners.iter().filter(|listener| which(listener));
                let these: Vec<&str> = these.map(|listener| listener.address.as_str()).collect();
                (!these.is_empty()).then(|| format!("{so} {} ({why})", these.join(" and ")))
            };
            let parts = [
                part("everybody may connect to", "allow_anonymous = true", |one| one.allow_anonymous),
                // The certificate is the login there, whatever plugins there are.
                part(
                    "only a client with a certificate can connect to",
                    "allow_anonymous = false, tls.identity",
                    |one| !one.allow_anonymous && one.identity.is_some(),
                ),
                part("nobody can connect to", "allow_anonymous = false", |one| {
                    !one.allow_anonymous && one.identity.is_none()
                }),
            ];
            Some(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(links: &[(&str, &str, &str)]) -> Vec<HookRow> {
        let row = |(place, (point, plugin, hook)): (u32, &(&str, &str, &str))| HookRow {
            point: (*point).to_owned(),
            plugin: (*plugin).to_owned(),
            hook: (*hook).to_owned(),
            place,
            mounted: true,
            ..HookRow::default()
        };
        (1..).zip(links).map(row).collect()
    }

    #[test]
    fn each_point_lists_removed_hooks_remaining_hooks_and_the_effect() {
        let mut rows = rows(&[
            ("client.authenticate", "other", "login"),
            ("client.authorize", "acl", "authorize"),
            ("client.authorize", "other", "unmounted"),
            ("message.publish", "acl", "a"),
            ("message.publish", "other", "b"),
            ("message.publish", "acl", "c"),
            ("message.acked", "acl", "acked"),
        ]);
        rows[2].mounted = false;
        rows[2].place = 0;
        let leaving = RemovedHooks::plugin("acl");
        assert_eq!(
            sentences(&rows, &leaving, &[], true),
            [
                "client.authorize loses acl/authorize and has no hook left: every publish and subscription is allowed \
                 (authorization.no_match = \"allow\")",
                "message.publish loses acl/a, acl/c and keeps other/b",
                "message.acked loses acl/acked and has no hook left",
            ]
        );
        assert!(sentences(&rows, &leaving, &[], false)[0].contains("is refused (authorization.no_match"));
        let change = HookChange {
            plugin: "acl".to_owned(),
            point: "message.publish".to_owned(),
            hook: "a".to_owned(),
            also: Vec::new(),
            clear: false,
            change: crate::config::HookOverride { mounted: Some(false), ..Default::default() },
            force: false,
        };
        let one = RemovedHooks::hook(&change).expect("it takes a hook out");
        assert_eq!(
            sentences(&rows, &one, &[], true),
            ["message.publish loses acl/a and keeps other/b, acl/c"]
        );
        let two = HookChange { also: vec!["message.acked/acked".to_owned()], ..change.clone() };
        let two = RemovedHooks::hook(&two).expect("it takes hooks out");
        assert_eq!(
            sentences(&rows, &two, &[], true),
            [
                "message.publish loses acl/a and keeps other/b, acl/c",
                "message.acked loses acl/acked and has no hook left"
            ]
        );
        let mounts = HookChange { change: crate::config::HookOverride::default(), ..change };
        assert_eq!(RemovedHooks::hook(&mounts), None);
        assert_eq!(sentences(&rows, &RemovedHooks::plugin("nobody"), &[], true), [""; 0]);
    }

    #[test]
    fn without_an_authenticator_each_listener_decides_about_logins() {
        let listener = |address: &str, allow_anonymous| Listener {
            name: address.to_owned(),
            address: address.to_owned(),
            allow_anonymous,
            identity: address.ends_with(":8883").then(|| "cn".to_owned()),
        };
        let listeners = [
            listener("127.0.0.1:1", true),
            listener("0.0.0.0:2", false),
            listener("0.0.0.0:8883", false),
            listener("[::]:3", false),
        ];
        assert_eq!(
            sentences(
                &rows(&[("client.authenticate", "a", "b")]),
                &RemovedHooks::plugin("a"),
                &listeners,
                true
            ),
            ["client.authenticate loses a/b and has no hook left: everybody may connect to 127.0.0.1:1 \
                 (allow_anonymous = true); only a client with a certificate can connect to 0.0.0.0:8883 \
                 (allow_anonymous = false, tls.identity); nobody can connect to 0.0.0.0:2 and [::]:3 (allow_anonymous = false)"]
        );
    }
}
