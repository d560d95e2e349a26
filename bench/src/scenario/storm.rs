//! Connects as fast as the broker answers: connect, CONNECT, CONNACK, DISCONNECT, and again, with a
//! bounded number under way at once. `phases` calls it for `connect-storm`; `target` connects once
//! to check whether a broker is there.

use super::{Kind, Scenario};
use crate::engine::ledger::Ledger;
use crate::engine::{Books, Engine};
use crate::plan::{Setup, Version};
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Connects once. Fails with the reason if there is no successful CONNACK within a second.
pub fn connect_once(broker: SocketAddr, version: Version) -> Result<()> {
    let mut scenario = Scenario::new(Kind::ConnectStorm);
    (scenario.options.version, scenario.options.patience) = (version, Duration::from_secs(1));
    scenario.connections = 1;
    let setup = scenario.setup(broker);
    let mut engine = begin(&setup)?;
    finish(&mut engine, false, &AtomicBool::new(false))?;
    match engine.shared.counts.errors.keys().next() {
        Some(error) => bail!("{error}"),
        None => Ok(()),
    }
}

/// A storm before its first connect.
pub fn begin(setup: &Setup) -> Result<Engine<'_>> {
    Engine::new(setup, Books::Ledger(Ledger::new(&setup.shape, None)))
}

/// Continues until every connection has ended, or until `stop`; true if all have.
pub fn finish(engine: &mut Engine<'_>, spins: bool, stop: &AtomicBool) -> Result<bool> {
    let clients = engine.shared.setup.shape.clients();
    while engine.live > 0 || (engine.shared.counts.started as usize) < clients {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        engine.turn(spins, u64::MAX)?;
        let (now_ns, connected) = (engine.shared.now_ns, u64::from(engine.shared.counts.connected));
        engine.progress.show(now_ns, [connected, 0], |[per_s, _]| {
            format!("connect-storm: connecting  {connected} connected ({per_s:.0}/s)")
        });
    }
    Ok(true)
}
