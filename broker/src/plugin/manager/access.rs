//! Which plugins decide about logins and about the rights of clients. Logs changes, and refuses a
//! change after which no plugin would decide while other machines can reach the broker. Used by
//! every transaction on plugins.

use grapnel_engine::hook::{Chain, ChainTable, FaultPolicy, HookPoint, Link};

use super::active::PluginSlot;
use super::overrides::Overrides;
use crate::net::Address;
use crate::plugin::error::LoadError;

/// The parts of a listener that matter for access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenListener {
    /// The address on which it listens.
    pub address: Address,
    /// Whether a client may connect if no link of client.authenticate decides.
    pub allow_anonymous: bool,
    /// Whether a client with a verified certificate may connect unless a link refuses it, because
    /// the listener takes the user name from it.
    pub identity: bool,
    /// Whether its connections are those of proxies, whose clients may be anywhere.
    pub behind_proxy: bool,
}

impl OpenListener {
    /// Whether other machines can reach it.
    fn is_beyond_loopback(&self) -> bool {
        self.behind_proxy || !self.address.is_local()
    }
}

/// The hook points that decide, each with what it decides about.
const POINTS: [(HookPoint, &str); 2] =
    [(HookPoint::ClientAuthenticate, "logins"), (HookPoint::ClientAuthorize, "permissions")];

/// What applies if no plugin decides, and what was logged last.
pub(in crate::plugin) struct Access {
    listeners: Vec<OpenListener>,
    no_match_allow: bool,
    /// For each of [`POINTS`], the last sentence in the log.
    logged: [String; POINTS.len()],
}

impl Access {
    pub(in crate::plugin) fn new(listeners: Vec<OpenListener>, no_match_allow: bool) -> Access {
        Access { listeners, no_match_allow, logged: Default::default() }
    }

    /// Replaces what applies if no plugin decides.
    pub(in crate::plugin) fn set(&mut self, listeners: Vec<OpenListener>, no_match_allow: bool) {
        self.listeners = listeners;
        self.no_match_allow = no_match_allow;
    }

    /// Logs who decides from now on, one line for each point for which that has changed.
    pub(in crate::plugin) fn log(&mut self, table: &ChainTable) {
        for (at, (point, what)) in POINTS.into_iter().enumerate() {
            let chain = table.chain(point);
            let sentence = self.sentence(point, what, chain);
            if sentence == self.logged[at] {
                continue;
            }
            let exposed = chain.is_empty() && self.listeners.iter().any(OpenListener::is_beyond_loopback);
            if exposed || chain.links().any(|(link, _)| link.entry.is_tripped()) {
                tracing::warn!("access: {sentence}");
            } else {
                tracing::info!("access: {sentence}");
            }
            self.logged[at] = sentence;
        }
    }

    fn sentence(&self, point: HookPoint, what: &str, chain: &Chain) -> String {
        if chain.is_empty() {
            let follows = self.follows(point, |_| true);
            return format!("{what}: no plugin has a hook at {}, so {follows}", point.name());
        }
        let links: Vec<String> = chain.links().map(|(link, _)| shown(link, point)).collect();
        let mut sentence = format!("{what}: decided by {}", links.join(", then "));
        let open = addresses(self.listeners.iter().filter(|listener| listener.allow_anonymous));
        let certified = addresses(self.listeners.iter().filter(|listener| listener.identity));
        if point == HookPoint::ClientAuthenticate && !certified.is_empty() {
            sentence += &format!(
                "; a client with a certificate may connect to {certified} if none of these hooks refuses it \
                 (tls.identity)"
            );
        }
        match point {
            HookPoint::ClientAuthenticate if !open.is_empty() => {
                sentence += &format!(
                    "; a client without a user name may connect to {open} if none of these hooks refuses it \
                     (allow_anonymous = true)"
                );
            }
            HookPoint::ClientAuthenticate => {}
            _ => {
                let (so, no_match) =
                    if self.no_match_allow { ("allowed", "allow") } else { ("refused", "deny") };
                sentence += &format!(
                    "; a request that none of these hooks answers is {so} (authorization.no_match = \"{no_match}\")"
                );
            }
        }
        sentence
    }

    /// The consequence for these listeners if no plugin decides at this point.
    fn follows(&self, point: HookPoint, which: impl Fn(&OpenListener) -> bool) -> String {
        if point == HookPoint::ClientAuthorize {
            let so = if self.no_match_allow {
                "every client may publish and subscribe to everything (authorization.no_match = \"allow\")"
            } else {
                "no client may publish or subscribe (authorization.no_match = \"deny\")"
            };
            return so.to_owned();
        }
        let listeners = |open: bool, identity: &[bool]| {
            addresses(self.listeners.iter().filter(|listener| {
                which(listener) && listener.allow_anonymous == open && identity.contains(&listener.identity)
            }))
        };
        let open = listeners(true, &[false, true]);
        let (certified, closed) = (listeners(false, &[true]), listeners(false, &[false]));
        let mut parts = Vec::new();
        if !open.is_empty() {
            parts.push(format!(
                "anybody may connect to {open}, with any user name and any password (allow_anonymous = true)"
            ));
        }
        if !certified.is_empty() {
            parts.push(format!(
                "only a client with a certificate can connect to {certified} (allow_anonymous = false, tls.identity)"
            ));
        }
        if !closed.is_empty() {
            parts.push(format!("nobody can connect to {closed} (allow_anonymous = false)"));
        }
        parts.join("; ")
    }

    /// Refuses a change that takes the last hook from a point that decides, if other machines can
    /// reach the broker. `doing` and `name` describe the request in the error.
    ///
    /// # Errors
    /// [`LoadError::LastDecider`].
    pub(in crate::plugin) fn check(
        &self,
        (doing, name): (&'static str, &str),
        before: (&[PluginSlot], &Overrides),
        after: (&[PluginSlot], &Overrides),
    ) -> Result<(), LoadError> {
        if !self.listeners.iter().any(OpenListener::is_beyond_loopback) {
            return Ok(());
        }
        let is_removed = |point: HookPoint| is_decided(point, before) && !is_decided(point, after);
        let follows: Vec<String> = POINTS
            .into_iter()
            .filter(|(point, _)| is_removed(*point))
            .map(|(point, _)| {
                let follows = self.follows(point, OpenListener::is_beyond_loopback);
                format!("{} would have no hook left, and then {follows}", point.name())
            })
            .collect();
        if follows.is_empty() {
            return Ok(());
        }
        Err(LoadError::LastDecider { doing, name: name.to_owned(), follows })
    }
}

fn shown(link: &Link, point: HookPoint) -> String {
    if !link.entry.is_tripped() {
        return link.name.to_string();
    }
    let does = match (link.policy, point) {
        (FaultPolicy::Ignore, _) => "it is passed over",
        (FaultPolicy::Deny, HookPoint::ClientAuthenticate) => "it refuses every login with 0x88",
        (FaultPolicy::Deny, _) => "it refuses everything",
    };
    format!("{} (tripped: {does})", link.name)
}

fn addresses<'a>(listeners: impl Iterator<Item = &'a OpenListener>) -> String {
    listeners.map(|listener| listener.address.to_string()).collect::<Vec<_>>().join(" and ")
}

/// Whether an enabled plugin has a hook mounted on a point, with the operator's overrides applied.
fn is_decided(point: HookPoint, (slots, overrides): (&[PluginSlot], &Overrides)) -> bool {
    let mut enabled = slots.iter().filter(|slot| slot.enabled);
    enabled.any(|slot| slot.plugin.mounts_at(point, &overrides.of(&slot.plugin.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(listeners: &[(&str, bool)], no_match_allow: bool) -> Access {
        let listener = |(address, allow_anonymous): &(&str, bool)| OpenListener {
            address: Address::Tcp(address.parse().unwrap_or_else(|_| panic!("{address} is no address"))),
            allow_anonymous: *allow_anonymous,
            identity: address.ends_with(":8883"),
            behind_proxy: address.ends_with(":1885"),
        };
        Access::new(listeners.iter().map(listener).collect(), no_match_allow)
    }

    #[test]
    fn the_effect_of_a_missing_plugin_is_given_for_each_listener() {
        let table = ChainTable::empty();
        let line = |access: &Access, at: usize| {
            let (point, what) = POINTS[at];
            access.sentence(point, what, table.chain(point))
        };
        let both = access(&[("127.0.0.1:1883", true), ("0.0.0.0:1884", false), ("[::]:1885", false)], true);
        assert_eq!(
            line(&both, 0),
            "logins: no plugin has a hook at client.authenticate, so anybody may connect to 127.0.0.1:1883, with any user name \
             and any password (allow_anonymous = true); nobody can connect to 0.0.0.0:1884 and [::]:1885 (allow_anonymous = false)"
        );
        assert_eq!(
            line(&both, 1),
            "permissions: no plugin has a hook at client.authorize, so every client may publish and subscribe to everything \
             (authorization.no_match = \"allow\")"
        );
        let certified = access(&[("0.0.0.0:8883", false), ("0.0.0.0:1883", false)], true);
        assert!(
            line(&certified, 0).ends_with(
                "so only a client with a certificate can connect to 0.0.0.0:8883 (allow_anonymous = false, \
                 tls.identity); nobody can connect to 0.0.0.0:1883 (allow_anonymous = false)"
            ),
            "{}",
            line(&certified, 0)
        );
        let behind = OpenListener { behind_proxy: true, ..certified.listeners[1].clone() };
        let local = |address: &str| Address::Tcp(address.parse().unwrap());
        assert!(OpenListener { address: local("127.0.0.1:1"), ..behind.clone() }.is_beyond_loopback());
        assert!(
            !OpenListener { address: local("127.0.0.1:1"), behind_proxy: false, ..behind }
                .is_beyond_loopback()
        );
        let denies = access(&[("0.0.0.0:1884", true)], false);
        assert!(
            line(&denies, 1)
                .ends_with("no client may publish or subscribe (authorization.no_match = \"deny\")")
        );
        assert!(line(&denies, 0).contains("anybody may connect to 0.0.0.0:1884"));
    }
}
