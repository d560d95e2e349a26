//! Tests of the last plugin that decides about logins or rights on a broker with a public listener:
//! only `--force` removes it.

use grapnel::config::HookOverride;
use grapnel::plugin::{HookChange, LoadRequest, OpenListener};
use grapnel_engine::hook::HookPoint;
use serde_json::json;

use super::shards::{Fixture, plugin_file, request};

fn fixture(address: &str, allow_anonymous: bool) -> Fixture {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let listener =
        OpenListener { address: address.into(), allow_anonymous, identity: false, behind_proxy: false };
    Fixture::with(2, |settings| settings.listeners = vec![listener])
}

fn authenticators(broker: &Fixture) -> usize {
    broker.shards.links(1, HookPoint::ClientAuthenticate).len()
}

/// A new version that does not mount the hook removes it as well.
#[test]
fn a_reload_that_leaves_nobody_to_decide_needs_force() {
    let broker = fixture("0.0.0.0:1883", true);
    let file = broker.dir.path().join("x.so");
    std::fs::copy(plugin_file("slow-auth"), &file).unwrap();
    let config = json!({"delay_ms": 0, "threads": 1});
    let wanted = LoadRequest { name: Some("x".to_owned()), ..request(&file.display().to_string(), config) };
    broker.manager.load(wanted).unwrap();
    std::fs::copy(plugin_file("noop"), &file).unwrap();
    let refused = "cannot reload x, because other machines can reach the broker: client.authenticate would have no hook left, and \
                   then anybody may connect to 0.0.0.0:1883, with any user name and any password (allow_anonymous = true); load \
                   another plugin that decides first, or give --force (force=true in the API); version 0.1.0 goes on";
    assert_eq!(broker.manager.reload("x", Some(json!({}))).unwrap_err().to_string(), refused);
    assert_eq!(authenticators(&broker), 1, "nothing has changed");
    broker.manager.reload_with("x", Some(json!({})), true).unwrap();
    assert_eq!((authenticators(&broker), broker.loaded()), (0, vec!["x".to_owned()]));
}

/// `--force` is needed only for the last one, only if it is in force, and only beyond loopback.
#[test]
fn force_is_wanted_for_the_last_one_beyond_loopback_alone() {
    for (address, beyond) in [
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("10.0.0.1:1", true),
        ("127.0.0.9:1", false),
        ("[::1]:1", false),
    ] {
        let broker = fixture(address, false);
        let load = |name: &str| {
            let file = plugin_file("slow-auth").display().to_string();
            let config = json!({"delay_ms": 0, "threads": 1});
            broker
                .manager
                .load(LoadRequest { name: Some(name.to_owned()), ..request(&file, config) })
                .unwrap();
        };
        load("a");
        load("b");
        broker.manager.disable("a").unwrap();
        // A disabled plugin decides nothing, so that b is the last one.
        assert_eq!(broker.manager.disable("b").is_err(), beyond, "{address}");
        assert_eq!(broker.manager.unload("b").is_err(), beyond, "{address}");
        if !beyond {
            continue;
        }
        broker.manager.unload("a").unwrap();
        load("a");
        let hook = |force: bool| HookChange {
            plugin: "b".to_owned(),
            point: "client.authenticate".to_owned(),
            hook: "authenticate".to_owned(),
            also: Vec::new(),
            clear: false,
            change: HookOverride { mounted: Some(false), ..HookOverride::default() },
            force,
        };
        broker.manager.override_hook(&hook(false)).unwrap();
        let error = broker.manager.unload("a").unwrap_err().to_string();
        let follows = format!("and then nobody can connect to {address} (allow_anonymous = false); ");
        assert!(error.starts_with("cannot unload a, ") && error.contains(&follows), "{error}");
        assert_eq!(authenticators(&broker), 1);
        broker.manager.unload_with("a", true).unwrap();
        assert_eq!(authenticators(&broker), 0);
    }
}
