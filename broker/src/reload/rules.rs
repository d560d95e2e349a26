//! What a listener says of its connections, made of its configuration. Reads the files of TLS.

use std::num::NonZeroU16;
use std::sync::Arc;

use grapnel_engine::shard::{ListenerInfo, MountPiece, MountPoint, Transport, Versions};

use crate::config::{
    self, Bind, ClientCertificate, Forwarded, ListenerConfig, Network, TlsIdentity, TlsListener, TlsVersion,
};
use crate::net::{LayerRules, ListenerRules, SocketOptions};
use crate::transport::address_list::AddressList;
use crate::transport::proxy::ProxySettings;
use crate::transport::tls::{
    ALPN_MQTT, ALPN_WEBSOCKET, CertificateFiles, ClientCertificates, Identity, SESSIONS_DEFAULT, TlsHandle,
    TlsSettings,
};
use crate::transport::tls::{TlsVersion as Version, TlsWarning};
use crate::transport::websocket::forwarded::ForwardedHeader;
use crate::transport::websocket::{Origins, WebSocketSettings};

/// Handshakes are not limited by listeners without TLS: `limits.connects_pending_max` is enough.
const NO_LIMIT: u64 = 0;

/// The rules of a listener. `before` is the listener as it was, with its rules: what is counted
/// goes on, and so do certificates whose files have not changed, with the sessions of clients.
///
/// # Errors
/// A sentence that names a file and the remedy.
pub(super) fn rules(
    listener: &ListenerConfig,
    before: Option<(&ListenerConfig, &ListenerRules)>,
) -> Result<Arc<ListenerRules>, String> {
    let tls = listener.tls.as_ref().map(|tls| handle(listener, tls, before)).transpose()?;
    let timing = listener.tls.as_ref().map(|tls| (tls.handshake_timeout_ms, tls.handshakes_max));
    let (handshake_timeout_ms, handshakes_max) = timing.unwrap_or((0, NO_LIMIT));
    let layers = LayerRules {
        proxy: listener.proxy.as_ref().map(|proxy| {
            let header_bytes_max = ProxySettings::HEADER_BYTES_MAX_DEFAULT;
            Arc::new(ProxySettings { sources: list(&proxy.sources), header_bytes_max })
        }),
        tls,
        websocket: listener.websocket.as_ref().map(|websocket| {
            Arc::new(WebSocketSettings {
                path: websocket.path.clone(),
                origins: origins(listener, &websocket.origins),
                trusted_proxies: list(&websocket.trusted_proxies),
                forwarded_header: match websocket.forwarded {
                    Forwarded::XForwardedFor => ForwardedHeader::XForwardedFor,
                    Forwarded::Rfc7239 => ForwardedHeader::Forwarded,
                },
            })
        }),
        handshake_timeout_ms,
        handshakes_max,
    };
    Ok(Arc::new(ListenerRules {
        info: Arc::new(info(listener)),
        socket: SocketOptions {
            nodelay: listener.socket.nodelay,
            keepalive_s: listener.socket.keepalive_s,
            send_buffer_bytes: listener.socket.send_buffer_bytes,
            receive_buffer_bytes: listener.socket.receive_buffer_bytes,
        },
        layers,
        connections_max: listener.connections_max,
        connects_per_second_max: listener.connects_per_second_max,
        counts: before.map(|(_, rules)| Arc::clone(&rules.counts)).unwrap_or_default(),
    }))
}

/// Pages that may connect. A listener that trusts whoever can reach it must not trust every page
/// that somebody on this machine looks at.
fn origins(listener: &ListenerConfig, listed: &[String]) -> Origins {
    match listed {
        [] if listener.allow_anonymous && listener.is_for_this_machine() => Origins::ThisMachine,
        [] => Origins::All,
        listed if listed.iter().any(|origin| origin == "*") => Origins::All,
        listed => Origins::Listed(listed.to_vec()),
    }
}

fn info(listener: &ListenerConfig) -> ListenerInfo {
    let versions = listener.versions;
    ListenerInfo {
        name: listener.name.as_str().into(),
        allow_anonymous: listener.allow_anonymous,
        transport: match (&listener.bind, &listener.tls, &listener.websocket) {
            (Bind::Unix(_), ..) => Transport::Unix,
            (_, None, None) => Transport::Tcp,
            (_, Some(_), None) => Transport::Tls,
            (_, None, Some(_)) => Transport::Ws,
            (_, Some(_), Some(_)) => Transport::Wss,
        },
        versions: Versions { v31: versions.v3_1, v311: versions.v3_1_1, v5: versions.v5 },
        keep_alive_max_s: NonZeroU16::new(listener.keep_alive_s_max).filter(|cap| cap.get() < u16::MAX),
        mount_point: mount_point(&listener.mount_point),
    }
}

fn mount_point(configured: &config::MountPoint) -> Option<MountPoint> {
    let piece = |piece: &config::MountPiece<'_>| match *piece {
        config::MountPiece::Text(text) => MountPiece::Text(text.into()),
        config::MountPiece::ClientId => MountPiece::ClientId,
        config::MountPiece::UserName => MountPiece::UserName,
    };
    let pieces = configured.pieces();
    (!pieces.is_empty()).then(|| MountPoint::new(pieces.iter().map(piece)))
}

fn list(networks: &[Network]) -> AddressList {
    let texts: Vec<String> = networks.iter().map(Network::to_string).collect();
    // The configuration has parsed them already.
    AddressList::parse(texts.iter().map(String::as_str)).unwrap_or_default()
}

/// The certificates of a listener.
fn handle(
    listener: &ListenerConfig,
    tls: &TlsListener,
    before: Option<(&ListenerConfig, &ListenerRules)>,
) -> Result<Arc<TlsHandle>, String> {
    let settings = settings(tls, listener.websocket.is_some());
    let kept = before.and_then(|(old, rules)| Some((old, rules.layers.tls.as_ref()?)));
    if let Some((old, handle)) = kept
        && old.tls.as_ref() == Some(tls)
        && old.websocket.is_some() == listener.websocket.is_some()
        && !handle.files_changed()
    {
        return Ok(Arc::clone(handle));
    }
    let (handle, warnings) = TlsHandle::new(settings).map_err(|error| error.to_string())?;
    log_warnings(&listener.name, &warnings);
    Ok(Arc::new(handle))
}

/// Logs what is not as it should be with certificates that are in force.
pub(super) fn log_warnings(listener: &str, warnings: &[TlsWarning]) {
    for warning in warnings {
        tracing::warn!("listener {listener}: {warning}");
    }
}

fn settings(tls: &TlsListener, is_websocket: bool) -> TlsSettings {
    let files = |certificate: &crate::config::Certificate| CertificateFiles {
        chain: certificate.cert.clone(),
        key: certificate.key.clone(),
    };
    let alpn = if is_websocket { ALPN_WEBSOCKET } else { ALPN_MQTT };
    TlsSettings {
        client_certificates: match tls.client_certificate {
            ClientCertificate::None => ClientCertificates::None,
            ClientCertificate::Optional => ClientCertificates::Optional,
            ClientCertificate::Required => ClientCertificates::Required,
        },
        client_ca: tls.client_ca.clone(),
        client_crl: tls.crl.clone(),
        version_min: match tls.version_min {
            TlsVersion::V1_2 => Version::V1_2,
            TlsVersion::V1_3 => Version::V1_3,
        },
        alpn: vec![alpn.to_owned()],
        tickets: tls.session_tickets,
        sessions_max: if tls.session_tickets { SESSIONS_DEFAULT } else { 0 },
        identity: match tls.identity {
            TlsIdentity::None => None,
            TlsIdentity::CommonName => Some(Identity::CommonName),
            TlsIdentity::AlternativeName => Some(Identity::AlternativeName),
            TlsIdentity::Subject => Some(Identity::Subject),
        },
        ..TlsSettings::new(tls.certificates.iter().map(files).collect())
    }
}
