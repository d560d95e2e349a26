//! Options of TLS and WebSocket, checked as a whole: what contradicts itself is refused, and what a
//! remedy needs is in the sentence.

use super::trust::{self, TrustAll};
use super::{Tls, Transport};
use anyhow::{Context, Result, ensure};
use clap::{ArgAction, Args, ValueEnum};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::Arc;

/// How clients connect.
#[derive(Debug, Clone, Default, Args)]
pub struct TransportArgs {
    /// Whether clients connect through TLS: true or false; without a value, true
    #[arg(short = 'S', long, alias = "ssl", value_name = "BOOL", num_args = 0..=1, default_value_t = false,
          default_missing_value = "true", action = ArgAction::Set)]
    pub tls: bool,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// With TLS, the certificate of the clients, a PEM file with the CAs below the root behind it
    #[arg(long, alias = "certfile", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The key of --cert, a PEM file
    #[arg(long, alias = "keyfile", value_name = "FILE")]
    key: Option<PathBuf>,
    /// With TLS, the name that is sent to the broker and that its certificate must have [default: the host]
    #[arg(long, alias = "server-name", value_name = "NAME")]
    sni: Option<String>,
    /// With TLS, the only version that is spoken [default: both, which makes it 1.3 where the broker can]
    #[arg(long, value_name = "VERSION")]
    tls_version: Option<TlsVersion>,
    /// With TLS, make a full handshake for each connection; otherwise a connection resumes the session of an earlier
    /// one, of this client or of another
    #[arg(long)]
    no_resume: bool,
    /// Whether clients connect by WebSocket, with --tls through TLS: true or false; without a value, true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true",
          action = ArgAction::Set)]
    ws: bool,
    /// With --ws, the path that is requested [default: /mqtt]
    #[arg(long, value_name = "PATH")]
    ws_path: Option<String>,
}

/// Which brokers are trusted.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArgs {
    /// With TLS, the certificates of the CAs that are trusted, a PEM file
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// With TLS, trust every broker, whatever certificate it has
    #[arg(long)]
    insecure: bool,
}

impl TrustArgs {
    /// Whether any is.
    pub fn is_given(&self) -> bool {
        self.cafile.is_some() || self.insecure
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TlsVersion {
    /// TLS 1.2
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3
    #[value(name = "1.3")]
    V13,
}

impl TransportArgs {
    /// Checks the options and reads the files.
    pub fn settle(&self) -> Result<Transport> {
        for (option, is_given) in [
            ("--cafile", self.trust.cafile.is_some()),
            ("--insecure", self.trust.insecure),
            ("--cert", self.cert.is_some()),
            ("--key", self.key.is_some()),
            ("--sni", self.sni.is_some()),
            ("--tls-version", self.tls_version.is_some()),
            ("--no-resume", self.no_resume),
        ] {
            ensure!(self.tls || !is_given, "{option} belongs to TLS: add --tls, or leave {option} out");
        }
        let path = self.ws_path.as_deref();
        ensure!(
            self.ws || path.is_none(),
            "--ws-path belongs to WebSocket: add --ws, or leave --ws-path out"
        );
        let path = path.unwrap_or("/mqtt");
        let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(is_path, "--ws-path {path:?} must begin with / and can have no spaces");
        let websocket = self.ws.then(|| path.to_owned());
        let tls = if self.tls { Some(self.settle_tls()?) } else { None };
        Ok(Transport { tls, websocket, host: None })
    }

    fn settle_tls(&self) -> Result<Tls> {
        let TrustArgs { cafile, insecure } = &self.trust;
        ensure!(
            self.trust.is_given(),
            "--tls needs --cafile with the CAs that are trusted, or --insecure to trust every broker"
        );
        ensure!(
            cafile.is_none() || !insecure,
            "--insecure trusts every broker and --cafile only some; leave one of them out"
        );
        let versions: &[_] = match self.tls_version {
            None => rustls::DEFAULT_VERSIONS,
            Some(TlsVersion::V12) => &[&rustls::version::TLS12],
            Some(TlsVersion::V13) => &[&rustls::version::TLS13],
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .context("ring has no cipher suite for this version of TLS")?;
        let builder = match cafile {
            Some(cafile) => builder.with_root_certificates(trust::roots(cafile)?),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAll(provider))),
        };
        let config =
            match (&self.cert, &self.key) {
                (None, None) => builder.with_no_client_auth(),
                (Some(cert), Some(key)) => builder
                    .with_client_auth_cert(trust::chain(cert)?, trust::key(key)?)
                    .with_context(|| format!("--cert {} and --key do not fit together", cert.display()))?,
                (Some(_), None) => anyhow::bail!("--cert needs its key; add --key"),
                (None, Some(_)) => anyhow::bail!("--key needs its certificate; add --cert"),
            };
        let name = |sni: &String| {
            ServerName::try_from(sni.clone()).ok().with_context(|| {
                format!("--sni {sni:?} is no name that a certificate can have; give a host name")
            })
        };
        let name = self.sni.as_ref().map(name).transpose()?;
        Ok(Tls { config: Arc::new(config), name, resumes: !self.no_resume })
    }
}
