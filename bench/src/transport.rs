//! What carries MQTT to the broker: TCP alone, TLS, WebSocket, or WebSocket through TLS. The options
//! of `pub`, `sub`, `conn`, `run` and `compare` become a [`Transport`]; the engine makes the layers
//! of each connection of it. Files are read here, once; nothing here opens a connection.

mod args;
mod sessions;
mod trust;

pub use args::{TransportArgs, TrustArgs};

use anyhow::{Result, ensure};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use sessions::Sessions;
use std::net::SocketAddr;
use std::sync::Arc;

/// What carries MQTT. The default is TCP alone.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    /// TLS, if any.
    pub tls: Option<Tls>,
    /// Path of the WebSocket, if it is one.
    pub websocket: Option<String>,
    /// Name of the broker; without it, its address is the name.
    host: Option<String>,
}

/// Settings of TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Versions, certificates, and the sessions that earlier connections have left.
    pub config: Arc<ClientConfig>,
    /// The name that the broker's certificate must have, if it is not that of the host.
    name: Option<ServerName<'static>>,
    /// Whether sessions are resumed.
    resumes: bool,
}

impl Transport {
    /// Whether anything is between MQTT and TCP.
    pub fn is_layered(&self) -> bool {
        self.tls.is_some() || self.websocket.is_some()
    }

    /// `mqtt`, `mqtts`, `ws` or `wss`.
    pub fn scheme(&self) -> &'static str {
        match (&self.tls, &self.websocket) {
            (None, None) => "mqtt",
            (Some(_), None) => "mqtts",
            (None, Some(_)) => "ws",
            (Some(_), Some(_)) => "wss",
        }
    }

    /// The same for the host of this name. Fails if TLS has no other name and cannot use this one.
    pub fn with_host(mut self, host: &str) -> Result<Self> {
        let needs_name = self.tls.as_ref().is_some_and(|tls| tls.name.is_none());
        ensure!(
            !needs_name || ServerName::try_from(host).is_ok(),
            "--host {host} is no name that a certificate can have; give the name with --sni"
        );
        self.host = Some(host.to_owned());
        Ok(self)
    }

    /// The same without the sessions of earlier runs.
    pub fn fresh(&self) -> Self {
        let mut fresh = self.clone();
        if let Some(tls) = &mut fresh.tls {
            let mut config = ClientConfig::clone(&tls.config);
            config.resumption = if tls.resumes {
                Resumption::store(Arc::<Sessions>::default())
            } else {
                Resumption::disabled()
            };
            tls.config = Arc::new(config);
        }
        fresh
    }

    /// Host and port for the request of a WebSocket.
    pub fn authority(&self, broker: SocketAddr) -> String {
        match &self.host {
            Some(host) if !host.contains(':') => format!("{host}:{}", broker.port()),
            _ => broker.to_string(),
        }
    }

    /// The name that the certificate of the broker must have.
    pub fn server_name(&self, broker: SocketAddr) -> ServerName<'static> {
        let given = self.tls.as_ref().and_then(|tls| tls.name.clone());
        let of_host = || ServerName::try_from(self.host.clone()?).ok();
        given.or_else(of_host).unwrap_or_else(|| broker.ip().into())
    }
}
