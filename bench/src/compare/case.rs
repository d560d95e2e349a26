//! A case of a comparison: a scenario with its options, written as `pairs,qos=1,size=1024`.

use crate::scenario::args::LoadArgs;
use crate::scenario::{Kind, Scenario};
use crate::transport::TrustArgs;
use anyhow::{Result, anyhow};
use clap::ValueEnum;

/// The default cases: every scenario, with QoS or size where they change the work.
pub const USUAL: &[&str] = &[
    "one-to-one",
    "one-to-one,qos=1",
    "one-to-one,qos=2",
    "one-to-one,size=1024",
    "one-to-one,size=16384,window=64,burst=8",
    "ping-pong",
    "pairs",
    "pairs,qos=1",
    "pairs,qos=2",
    "pairs-one",
    "fan-out",
    "fan-out-burst",
    "fan-out-burst,qos=1",
    "fan-in",
    "fan-in,qos=1",
    "paced",
    // Longer, so that all topics have been seen when measuring begins.
    "wildcards,warm-up=2",
    "connect-storm",
    "idle",
];

/// Further default cases, where brokers with TLS and WebSocket are compared.
pub const LAYERED: &[&str] = &[
    "ping-pong,tls",
    "one-to-one,tls",
    "one-to-one,tls,size=16384,window=64,burst=8",
    "pairs,tls",
    "pairs,ws",
    "pairs,tls,ws",
    // Fewer than over TCP, as a full handshake costs a broker as much as some hundred messages.
    "connect-storm,tls,no-resume,connections=4000",
    "connect-storm,tls,connections=4000",
    "idle,tls,connections=2000",
];

/// A load with its name.
#[derive(Debug, Clone)]
pub struct Case {
    /// As it was written.
    pub name: String,
    /// Its scenario.
    pub scenario: Scenario,
}

impl Case {
    /// Reads `SCENARIO[,OPTION=VALUE]…`, with the options of `grapnel-bench run`. A case with TLS
    /// that does not say whom it trusts trusts as `trust` says.
    pub fn parse(text: &str, trust: &TrustArgs) -> Result<Case> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let kind = Kind::from_str(name, false).map_err(|_| {
            anyhow!("there is no scenario {name:?}; grapnel-bench run list says what there is")
        })?;
        let options = words.map(|word| format!("--{word}"));
        let mut load = LoadArgs::parse(options).map_err(|error| anyhow!("in the case {text:?}: {error}"))?;
        if load.transport.tls && !load.transport.trust.is_given() {
            load.transport.trust = trust.clone();
        }
        let scenario = load.scenario(kind).map_err(|error| anyhow!("in the case {text:?}: {error:#}"))?;
        Ok(Case { name: text.to_owned(), scenario })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Case> {
        Case::parse(text, &TrustArgs::default())
    }

    #[test]
    fn a_case_is_a_scenario_with_the_options_of_run() {
        let case = parse("pairs,qos=1,size=1024,pairs=7").unwrap();
        let Scenario { kind, options, .. } = case.scenario;
        assert_eq!((kind, options.qos, options.size), (Kind::Pairs, 1, 1024));
        assert_eq!(case.scenario.publishers, 7);
        for usual in USUAL {
            assert_eq!(parse(usual).unwrap().name, *usual);
        }
    }

    #[test]
    fn an_unknown_case_is_refused_by_name() {
        for (text, part) in [
            ("fly", "\"fly\""),
            ("pairs,qos=3", "\"pairs,qos=3\""),
            ("idle,rate=5", "sends no messages"),
            ("pairs,tls", "needs --cafile"),
        ] {
            let refusal = format!("{:#}", parse(text).unwrap_err());
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}
