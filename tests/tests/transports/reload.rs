//! Reloads of the configuration and changes of certificates while clients work, connect and leave.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use grapnel_tests::bystander::{Bystanders, resident};
use grapnel_tests::{Client, Io, Kind, PATIENCE, Publish, Site, Version};

/// The certificate that the broker shows to a new connection, DER.
fn shown(client: &mut Client) -> Vec<u8> {
    let tls = client.layers().tls().expect("it has TLS");
    tls.peer_certificates().expect("the handshake is over")[0].to_vec()
}

/// Connects, exchanges a message and disconnects, until `stop`.
fn come_and_go(site: &Site, stop: &AtomicBool, rounds: &AtomicU64, kind: Kind) {
    while !stop.load(Ordering::Relaxed) {
        let mut client = site.hello(kind, Version::V5, &format!("{kind:?} comes"));
        let topic = format!("{kind:?}");
        client.subscribe(&topic, 1);
        client.publish(&Publish::new(&topic, "x").qos(1));
        assert_eq!(client.message().text(), "x");
        client.disconnect();
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Open descriptors of the broker.
fn descriptors(site: &Site) -> usize {
    let folder = format!("/proc/{}/fd", site.broker().process().id());
    std::fs::read_dir(folder).unwrap().count()
}

/// Reloads so often; every few reloads with another certificate. Clients of every TLS listener stay,
/// and others come and go.
fn reloads(count: usize, changes: usize) {
    let site = Site::plan(Io::Ring).start();
    let tls = [Kind::Tls, Kind::Mutual, Kind::Wss, Kind::ProxyTls];
    let mut staying: Vec<Client> = tls.map(|kind| site.hello(kind, Version::V5, kind.name())).into();
    let open_before = descriptors(&site);
    let bystanders = Bystanders::start(site.broker());
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = resident(site.broker());
    std::thread::scope(|scope| {
        for kind in [Kind::Tls, Kind::Wss] {
            let (site, stop, rounds) = (&site, &stop, &rounds);
            scope.spawn(move || come_and_go(site, stop, rounds, kind));
        }
        let work = || {
            let mut last = shown(&mut site.dial(Kind::Tls, Version::V5));
            for n in 0..count {
                let changed = n % (count / changes).max(1) == 0;
                if changed {
                    site.certificates().renew_server(&format!("grapnel {n}"));
                }
                site.broker().ctl_ok(&["config", "reload"]);
                for kind in tls.into_iter().filter(|_| changed) {
                    let now = shown(&mut site.dial(kind, Version::V5));
                    assert!(kind != Kind::Tls || now != last, "reload {n}: the old certificate is shown");
                    last = if kind == Kind::Tls { now } else { last };
                }
            }
        };
        // Ends the threads after a panic too, which a scope waits for.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bystanders.beside("", "reloads with changes of certificates", work);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
    });
    bystanders.finish();
    for client in &mut staying {
        client.ping();
    }
    let until = Instant::now() + PATIENCE;
    while descriptors(&site) > open_before {
        let open = descriptors(&site);
        assert!(Instant::now() < until, "{open} descriptors are open, {open_before} were before");
        std::thread::yield_now();
    }
    let (grown, rounds) = (resident(site.broker()).saturating_sub(before) >> 10, rounds.into_inner());
    eprintln!(
        "{count} reloads, {changes} new certificates: {rounds} clients came and went, {grown} KiB more"
    );
    assert!(grown < 32 << 10, "the broker has grown by {grown} KiB");
    assert!(rounds > 0, "clients came and went");
}

#[test]
fn reloads_and_new_certificates_under_load() {
    reloads(50, 20);
}

#[test]
#[ignore = "just reloads: takes some minutes"]
fn a_thousand_reloads_and_new_certificates_under_load() {
    reloads(1000, 200);
}

/// The broker finds changed files by itself. A certificate without its key is refused, and what was
/// loaded stays in force until both are there.
#[test]
fn changed_certificates_are_found() {
    let site = Site::plan(Io::Epoll).start();
    let mut staying = site.hello(Kind::Tls, Version::V5, "staying");
    let old = shown(&mut site.dial(Kind::Tls, Version::V5));
    let files = site.certificates();
    let keep = std::fs::read(files.server_key()).unwrap();
    files.renew_server("half");
    let new_key = std::fs::read(files.server_key()).unwrap();
    std::fs::write(files.server_key(), keep).unwrap();
    site.broker().ctl_refused(&["config", "reload"]);
    assert_eq!(shown(&mut site.dial(Kind::Tls, Version::V5)), old, "nothing has changed");
    std::fs::write(files.server_key(), new_key).unwrap();
    let until = Instant::now() + 3 * PATIENCE;
    while shown(&mut site.dial(Kind::Tls, Version::V5)) == old {
        assert!(Instant::now() < until, "the new certificate is not found");
        staying.ping();
    }
    staying.ping();
}
