//! TLS and WebSocket between MQTT and a socket, without I/O: `link` hands bytes in and gets bytes
//! out. A connection over TCP alone has none of this.

mod websocket;

use super::failure::Failure;
use crate::plan::Setup;
use bytes::{BufMut, BytesMut};
use rustls::{AlertDescription, CertificateError, ClientConnection, Error, HandshakeKind};
use std::io::{BufRead, IoSlice, Write};
use std::sync::Arc;
use websocket::WebSocket;

/// The layers of one connection; at least one of them is there.
#[derive(Debug)]
pub struct Layers {
    tls: Option<ClientConnection>,
    websocket: Option<WebSocket>,
    has_ended: bool,
}

impl Layers {
    /// The layers of a new connection, if the load has any.
    pub fn new(setup: &Setup) -> Result<Option<Box<Self>>, Failure> {
        let (transport, broker) = (&setup.transport, setup.broker);
        if !transport.is_layered() {
            return Ok(None);
        }
        let connect = |tls: &crate::transport::Tls| {
            let mut tls = ClientConnection::new(Arc::clone(&tls.config), transport.server_name(broker))?;
            // What is not sent is bounded by `link`: a publisher waits while there is some.
            tls.set_buffer_limit(None);
            Ok(tls)
        };
        let tls = transport.tls.as_ref().map(connect).transpose().map_err(|error| explain(&error))?;
        let request = |path: &String| WebSocket::new(path, &transport.authority(broker));
        let websocket = transport.websocket.as_ref().map(request);
        Ok(Some(Box::new(Self { tls, websocket, has_ended: false })))
    }

    /// Whether MQTT can begin.
    pub fn is_open(&self) -> bool {
        !self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
            && self.websocket.as_ref().is_none_or(WebSocket::is_open)
    }

    /// The kind of the TLS handshake, once it is over.
    pub fn handshake(&self) -> Option<HandshakeKind> {
        self.tls.as_ref()?.handshake_kind()
    }

    /// The socket is connected: appends what opens the layers to `wire`. TLS keeps the request of a
    /// WebSocket until its handshake is over.
    pub fn begin(&mut self, wire: &mut BytesMut) -> std::io::Result<()> {
        let request = self.websocket.as_mut().map(WebSocket::take_request).unwrap_or_default();
        self.put(request.as_bytes(), wire)
    }

    /// Appends `plain` to `wire`, as the layers have it. Changes the bytes of `plain`.
    pub fn seal(&mut self, plain: &mut [u8], wire: &mut BytesMut) -> std::io::Result<()> {
        if plain.is_empty() {
            return Ok(());
        }
        let Some(websocket) = &self.websocket else { return self.put(plain, wire) };
        let (head, length) = websocket.mask(plain);
        match &mut self.tls {
            None => {
                wire.put_slice(&head[..length]);
                wire.put_slice(plain);
                Ok(())
            }
            Some(tls) => {
                // One record for both if there is room. There is no limit, so all of it is taken.
                let frame = [IoSlice::new(&head[..length]), IoSlice::new(plain)];
                if tls.writer().write_vectored(&frame)? < length + plain.len() {
                    return Err(std::io::ErrorKind::WriteZero.into());
                }
                self.put(&[], wire)
            }
        }
    }

    /// Appends `bytes` to `wire` through TLS, if there is TLS, and what TLS itself has to send.
    fn put(&mut self, bytes: &[u8], wire: &mut BytesMut) -> std::io::Result<()> {
        let Some(tls) = &mut self.tls else {
            wire.put_slice(bytes);
            return Ok(());
        };
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut wire.writer())?;
        }
        Ok(())
    }

    /// Appends to `plain` what `raw`, which has come from the socket, contains of MQTT, and to
    /// `wire` what the layers answer by themselves. Both also hold if it fails.
    pub fn open(&mut self, mut raw: &[u8], plain: &mut Vec<u8>, wire: &mut BytesMut) -> Result<(), Failure> {
        let mut replies = Vec::new();
        let Self { tls, websocket, .. } = self;
        let mut take = |bytes: &[u8]| match websocket {
            Some(websocket) => websocket.read(bytes, plain, &mut replies),
            None => {
                plain.extend_from_slice(bytes);
                Ok(())
            }
        };
        let mut taken = Ok(());
        match tls {
            None => taken = take(raw),
            Some(tls) => {
                // After close_notify it takes no more.
                while taken.is_ok() && !raw.is_empty() && tls.read_tls(&mut raw)? > 0 {
                    let state = tls.process_new_packets();
                    // What came before a fault is read.
                    let mut reader = tls.reader();
                    while taken.is_ok()
                        && let Ok(bytes @ [_, ..]) = reader.fill_buf()
                    {
                        let length = bytes.len();
                        taken = take(bytes);
                        reader.consume(length);
                    }
                    taken = taken.and(state.map(drop).map_err(|error| explain(&error)));
                }
            }
        }
        self.put(&replies, wire)?;
        taken
    }

    /// Appends what ends the layers to `wire`, once.
    pub fn end(&mut self, wire: &mut BytesMut) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let goodbye = self.websocket.as_ref().map(WebSocket::goodbye).unwrap_or_default();
        if let Some(tls) = &mut self.tls {
            let _ = tls.writer().write_all(&goodbye);
            tls.send_close_notify();
        }
        // A vector takes all bytes; without TLS these are the ones to send.
        let _ = self.put(if self.tls.is_none() { &goodbye } else { &[] }, wire);
    }
}

/// The failure for an error of TLS, with a remedy where there is one.
fn explain(error: &Error) -> Failure {
    use CertificateError as Bad;
    let remedy = match error {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "; --cafile must have the CA that issued it, or --insecure trusts every broker"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "; --sni gives another name than the host"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => "; give one with --cert and --key",
        Error::InvalidMessage(_) => "; does the broker speak TLS on this port?",
        _ => "",
    };
    Failure::Tls(format!("{error}{remedy}"))
}
