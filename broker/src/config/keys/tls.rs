//! The keys of `[listeners.tls]`. Part of the list in `keys`.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::listener::ListenerKey;
use super::{Key, Printed, shown_word};
use crate::config::listener::{
    Certificate, ClientCertificate, ListenerConfig, TlsIdentity, TlsListener, TlsVersion,
};
use crate::config::listener_draft::{ListenerDraft, TlsDraft};
use crate::config::value::Value;

/// All of them.
pub(super) fn keys() -> impl Iterator<Item = ListenerKey> {
    certificate_keys().into_iter().chain(client_keys()).chain(handshake_keys())
}

/// A key of the table, which is there if one of its keys is.
fn key(
    path: &str,
    takes: &str,
    reason: &'static str,
    printed: Printed,
    set: impl Fn(&mut TlsDraft, &Value) -> Result<(), String> + 'static,
    get: impl Fn(&TlsListener) -> Json + 'static,
) -> ListenerKey {
    Key::new(
        &format!("tls.{path}"),
        takes,
        reason,
        printed,
        move |listener: &mut ListenerDraft, value| set(listener.tls(), value),
        move |listener: &ListenerConfig| listener.tls.as_ref().map_or(Json::Null, &get),
    )
}

/// `""` is no file.
fn file_or_none(value: &Value) -> Result<Option<PathBuf>, String> {
    if value.text()?.is_empty() { Ok(None) } else { value.path().map(Some) }
}

fn shown(path: &std::path::Path) -> Json {
    path.display().to_string().into()
}

fn certificates(value: &Value) -> Result<Vec<Certificate>, String> {
    let wrong = || "must be a list such as [{ cert = \"chain.pem\", key = \"key.pem\" }]".to_owned();
    let one = |item: toml::Value| {
        let toml::Value::Table(mut table) = item else { return Err(wrong()) };
        let mut file =
            |name: &str| Value::Toml(table.remove(name).ok_or_else(wrong)?).path().map_err(|_| wrong());
        let certificate = Certificate { cert: file("cert")?, key: file("key")? };
        if table.is_empty() { Ok(certificate) } else { Err(wrong()) }
    };
    value.list().map_err(|_| wrong())?.into_iter().map(one).collect()
}

fn certificate_keys() -> [ListenerKey; 4] {
    [
        key(
            "cert",
            "a path of a PEM file",
            "the certificate of the server with those that lead from it to an authority; short for certificates with one entry",
            Printed::Example("\"/etc/grapnel/chain.pem\"".to_owned()),
            |tls, value| {
                tls.cert = Some(value.path()?);
                Ok(())
            },
            // It is shown as an entry of `certificates`.
            |_| Json::Null,
        ),
        key(
            "key",
            "a path of a PEM file",
            "the private key of cert",
            Printed::Example("\"/etc/grapnel/key.pem\"".to_owned()),
            |tls, value| {
                tls.key = Some(value.path()?);
                Ok(())
            },
            |_| Json::Null,
        ),
        key(
            "certificates",
            "a list such as [{ cert = \"chain.pem\", key = \"key.pem\" }]",
            "several certificates: the server name that a client asks for chooses one, and the first is for all others. A reload of the configuration reads the files again",
            Printed::Example("[]".to_owned()),
            |tls, value| {
                tls.certificates = certificates(value)?;
                Ok(())
            },
            |tls| {
                let one = |one: &Certificate| json!({"cert": shown(&one.cert), "key": shown(&one.key)});
                tls.certificates.iter().map(one).collect::<Vec<_>>().into()
            },
        ),
        key(
            "version_min",
            "\"1.2\" or \"1.3\"",
            "oldest version of TLS; 1.2 is what devices of the last years can, and older ones are broken",
            Printed::Example("\"1.2\"".to_owned()),
            |tls, value| {
                tls.version_min = value.word(&TlsVersion::WORDS)?;
                Ok(())
            },
            |tls| shown_word(&TlsVersion::WORDS, tls.version_min),
        ),
    ]
}

fn client_keys() -> [ListenerKey; 4] {
    [
        key(
            "client_ca",
            "\"\" for none, or a path of a PEM file",
            "the authorities that sign certificates of clients",
            Printed::Example("\"/etc/grapnel/clients.pem\"".to_owned()),
            |tls, value| {
                tls.client_ca = file_or_none(value)?;
                Ok(())
            },
            |tls| tls.client_ca.as_deref().map_or("".into(), shown),
        ),
        key(
            "client_certificate",
            "\"none\", \"optional\" or \"required\"",
            "whether clients show a certificate; one that is shown must be valid. The default is required with client_ca, else none",
            Printed::Example("\"required\"".to_owned()),
            |tls, value| {
                tls.client_certificate = Some(value.word(&ClientCertificate::WORDS)?);
                Ok(())
            },
            |tls| shown_word(&ClientCertificate::WORDS, tls.client_certificate),
        ),
        key(
            "crl",
            "a list of paths of PEM files",
            "lists of revoked certificates of clients. A reload of the configuration reads them again",
            Printed::Example("[]".to_owned()),
            |tls, value| {
                let path = |text: String| Value::Plain(text).path();
                tls.crl = value.texts()?.into_iter().map(path).collect::<Result<_, _>>()?;
                Ok(())
            },
            |tls| tls.crl.iter().map(|path| shown(path)).collect::<Vec<_>>().into(),
        ),
        key(
            "identity",
            "\"none\", \"cn\", \"san\" or \"subject\"",
            "what of the certificate of a client is its user name: the common name, the first alternative name, or the subject. With none, the user name is that of CONNECT",
            Printed::Example("\"none\"".to_owned()),
            |tls, value| {
                tls.identity = value.word(&TlsIdentity::WORDS)?;
                Ok(())
            },
            |tls| shown_word(&TlsIdentity::WORDS, tls.identity),
        ),
    ]
}

fn handshake_keys() -> [ListenerKey; 3] {
    let defaults = TlsDraft::default();
    [
        key(
            "handshake_timeout_ms",
            "100 to 600000",
            "time from accept until the handshake is over; slow links need seconds, and an idle probe should not keep a socket",
            Printed::Example(defaults.handshake_timeout_ms.to_string()),
            |tls, value| {
                tls.handshake_timeout_ms = value.number(100, 600_000)? as u64;
                Ok(())
            },
            |tls| tls.handshake_timeout_ms.into(),
        ),
        key(
            "handshakes_max",
            "1 to 1000000",
            "handshakes per shard at a time; connections beyond it wait to be accepted, so that those of established clients are served",
            Printed::Example(defaults.handshakes_max.to_string()),
            |tls, value| {
                tls.handshakes_max = value.number(1, 1_000_000)? as u64;
                Ok(())
            },
            |tls| tls.handshakes_max.into(),
        ),
        key(
            "session_tickets",
            "true or false",
            "whether a client may resume its last TLS session, which saves the costly part of the handshake when many come back at once",
            Printed::Example(defaults.session_tickets.to_string()),
            |tls, value| {
                tls.session_tickets = value.flag()?;
                Ok(())
            },
            |tls| tls.session_tickets.into(),
        ),
    ]
}
