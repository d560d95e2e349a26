//! A listener that is being read, and what it becomes when all of its keys are there. Refuses
//! settings that contradict each other. Used by `draft` and by the keys of listeners.

use std::path::PathBuf;

use super::error::{Origin, Sources};
use super::listener::{
    Bind, Certificate, ClientCertificate, Forwarded, ListenerConfig, MountPoint, ProxyProtocol,
    SocketOptions, TlsIdentity, TlsListener, TlsVersion, UnixOptions, Versions, WebSocketListener,
};
use super::network::Network;

/// A listener that may be incomplete.
#[derive(Clone, Debug)]
pub(super) struct ListenerDraft {
    pub name: Option<String>,
    pub bind: Option<Bind>,
    pub unix: UnixOptions,
    pub allow_anonymous: Option<bool>,
    pub mount_point: MountPoint,
    pub connections_max: u64,
    pub connects_per_second_max: u64,
    pub versions: Versions,
    pub keep_alive_s_max: u16,
    pub socket: SocketOptions,
    pub proxy_protocol: bool,
    pub proxy_sources: Vec<Network>,
    pub tls: Option<TlsDraft>,
    pub websocket: Option<WebSocketListener>,
    pub origin: Option<Origin>,
    pub sources: Sources,
    /// A value of it was refused. Then nothing that may follow from that is reported too.
    pub refused: bool,
}

impl Default for ListenerDraft {
    fn default() -> Self {
        ListenerDraft {
            name: None,
            bind: None,
            unix: UnixOptions::default(),
            allow_anonymous: None,
            mount_point: MountPoint::default(),
            connections_max: 0,
            connects_per_second_max: 0,
            versions: Versions::ALL,
            keep_alive_s_max: u16::MAX,
            // Whole packets are sent at once, so Nagle's algorithm would only delay them.
            socket: SocketOptions {
                nodelay: true,
                keepalive_s: 0,
                send_buffer_bytes: 0,
                receive_buffer_bytes: 0,
            },
            proxy_protocol: false,
            proxy_sources: Vec::new(),
            tls: None,
            websocket: None,
            origin: None,
            sources: Sources::default(),
            refused: false,
        }
    }
}

/// `[listeners.tls]` that may be incomplete.
#[derive(Clone, Debug)]
pub(super) struct TlsDraft {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub certificates: Vec<Certificate>,
    pub client_ca: Option<PathBuf>,
    pub client_certificate: Option<ClientCertificate>,
    pub crl: Vec<PathBuf>,
    pub version_min: TlsVersion,
    pub handshake_timeout_ms: u64,
    pub handshakes_max: u64,
    pub identity: TlsIdentity,
    pub session_tickets: bool,
}

impl Default for TlsDraft {
    fn default() -> Self {
        TlsDraft {
            cert: None,
            key: None,
            certificates: Vec::new(),
            client_ca: None,
            client_certificate: None,
            crl: Vec::new(),
            version_min: TlsVersion::V1_2,
            handshake_timeout_ms: 10_000,
            handshakes_max: 1024,
            identity: TlsIdentity::None,
            session_tickets: true,
        }
    }
}

impl ListenerDraft {
    /// Its TLS table, which is made if it is not there.
    pub fn tls(&mut self) -> &mut TlsDraft {
        self.tls.get_or_insert_default()
    }

    /// Its WebSocket table, which is made if it is not there.
    pub fn websocket(&mut self) -> &mut WebSocketListener {
        self.websocket.get_or_insert_with(|| WebSocketListener {
            path: "/mqtt".to_owned(),
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::default(),
        })
    }

    /// The listener, if nothing is missing and nothing contradicts itself.
    ///
    /// # Errors
    /// A sentence for each fault; none if values of it were refused before.
    pub fn finish(self) -> Result<ListenerConfig, Vec<String>> {
        if self.refused {
            return Err(Vec::new());
        }
        let Some(bind) = self.bind.clone() else {
            let sentence =
                "this listener has no bind; say where it listens, such as bind = \"127.0.0.1:1883\"";
            return Err(vec![sentence.to_owned()]);
        };
        let mut faults = self.contradictions(&bind);
        let tls = match self.tls.map(TlsDraft::finish).transpose() {
            Ok(tls) => tls,
            Err(more) => {
                faults.extend(more);
                None
            }
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut listener = ListenerConfig {
            name: self.name.unwrap_or_else(|| bind.to_string()),
            unix: self.unix,
            allow_anonymous: false,
            bind,
            mount_point: self.mount_point,
            connections_max: self.connections_max,
            connects_per_second_max: self.connects_per_second_max,
            versions: self.versions,
            keep_alive_s_max: self.keep_alive_s_max,
            socket: self.socket,
            proxy: self.proxy_protocol.then_some(ProxyProtocol { sources: self.proxy_sources }),
            tls,
            websocket: self.websocket,
            origin: self.origin.unwrap_or(Origin::Default),
            sources: self.sources,
        };
        listener.allow_anonymous = self.allow_anonymous.unwrap_or_else(|| listener.is_for_this_machine());
        Ok(listener)
    }

    /// Keys that say something that the kind of the listener does not have.
    fn contradictions(&self, bind: &Bind) -> Vec<String> {
        let mut faults = Vec::new();
        let mut refuse = |wrong: bool, sentence: &str| {
            if wrong {
                faults.push(sentence.to_owned());
            }
        };
        let is_unix = matches!(bind, Bind::Unix(_));
        let is_set = |key: &str| *self.sources.of(key) != Origin::Default;
        let UnixOptions { mode, owner, group } = &self.unix;
        refuse(
            !is_unix && (mode.is_some() || owner.is_some() || group.is_some()),
            "listeners.unix_mode, unix_owner and unix_group are for Unix sockets; bind = \"unix:/path\" makes one",
        );
        refuse(
            is_unix && (is_set("tcp_nodelay") || is_set("tcp_keepalive_s")),
            "listeners.tcp_nodelay and tcp_keepalive_s are for TCP; leave them out of a listener on a Unix socket",
        );
        refuse(
            self.proxy_protocol && !is_unix && self.proxy_sources.is_empty(),
            "listeners.proxy_protocol needs proxy_sources: the addresses of the proxies, whose word about the client is believed, such as proxy_sources = [\"10.0.0.0/8\"]",
        );
        refuse(
            !self.proxy_protocol && !self.proxy_sources.is_empty(),
            "listeners.proxy_sources has no effect without proxy_protocol = true; set that or leave it out",
        );
        refuse(
            is_unix && !self.proxy_sources.is_empty(),
            "listeners.proxy_sources is for TCP: on a Unix socket every connection is that of a proxy; leave it out",
        );
        faults
    }
}

impl TlsDraft {
    fn finish(self) -> Result<TlsListener, Vec<String>> {
        let mut faults = Vec::new();
        let mut certificates = self.certificates;
        match (self.cert, self.key) {
            (None, None) => {}
            (Some(_), Some(_)) if !certificates.is_empty() => faults.push(
                "listeners.tls.cert and key are the short form of certificates; give one of the two forms"
                    .to_owned(),
            ),
            (Some(cert), Some(key)) => certificates.push(Certificate { cert, key }),
            (Some(_), None) => faults.push("listeners.tls.cert has no key; add key = \"key.pem\"".to_owned()),
            (None, Some(_)) => {
                faults.push("listeners.tls.key has no cert; add cert = \"chain.pem\"".to_owned())
            }
        }
        let mut refuse = |wrong: bool, sentence: &str| {
            if wrong {
                faults.push(sentence.to_owned());
            }
        };
        let has_ca = self.client_ca.is_some();
        let by_ca = if has_ca { ClientCertificate::Required } else { ClientCertificate::None };
        let client_certificate = self.client_certificate.unwrap_or(by_ca);
        let asks = client_certificate != ClientCertificate::None;
        refuse(
            asks && !has_ca,
            "listeners.tls.client_certificate needs client_ca, the authorities that sign certificates of clients; name their file, or set client_certificate = \"none\"",
        );
        refuse(
            !asks && has_ca,
            "listeners.tls.client_ca has no effect with client_certificate = \"none\"; leave one of them out",
        );
        refuse(
            !has_ca && !self.crl.is_empty(),
            "listeners.tls.crl needs client_ca, whose certificates it revokes; name that file, or leave crl out",
        );
        refuse(
            !asks && self.identity != TlsIdentity::None,
            "listeners.tls.identity needs certificates of clients; set client_ca, or identity = \"none\"",
        );
        if certificates.is_empty() && faults.is_empty() {
            faults.push(
                "listeners.tls has no certificate; add cert = \"chain.pem\" and key = \"key.pem\"".to_owned(),
            );
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(TlsListener {
            certificates,
            client_ca: self.client_ca,
            client_certificate,
            crl: self.crl,
            version_min: self.version_min,
            handshake_timeout_ms: self.handshake_timeout_ms,
            handshakes_max: self.handshakes_max,
            identity: self.identity,
            session_tickets: self.session_tickets,
        })
    }
}
