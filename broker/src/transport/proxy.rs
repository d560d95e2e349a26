//! The PROXY protocol, versions 1 and 2: the header in which a proxy names the client of a
//! connection (haproxy's `doc/proxy-protocol.txt`, below "the specification"). `Layers` calls this
//! as the lowest layer. Whoever may send a header can name any client, so it is only taken from
//! listed addresses.
//!
//! This file collects the header, whose size is bounded before anything is stored, and passes on
//! what follows. `proxy/header.rs` says what a whole header means.

use std::net::SocketAddr;
use std::sync::Arc;

use super::address_list::AddressList;
use super::{Layer, LayerError, PeerFacts};
use header::{SIGNATURE, V1_PREFIX};

mod header;
#[cfg(test)]
mod tests;

/// Longest header of version 1 with its line end, bytes (section 2.1 of the specification).
const V1_BYTES_MAX: usize = 107;
/// Fixed part of a header of version 2, bytes; its last two are the length of what follows.
const V2_FIXED_BYTES: usize = 16;

/// What a listener with the PROXY protocol accepts. Its connections share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxySettings {
    /// Who may connect, and must send a header. Nobody if empty.
    pub sources: AddressList,
    /// Largest header of version 2 in bytes, 232 to 65551; a connection holds so much until its
    /// header is complete. 232 is a header with two unix addresses, the longest without extensions.
    pub header_bytes_max: usize,
}

impl ProxySettings {
    /// Default of `header_bytes_max`. The specification wants 536 bytes at least; a header with every
    /// extension that the broker reads has some 700.
    pub(crate) const HEADER_BYTES_MAX_DEFAULT: usize = 4096;
}

/// The layer of one connection.
#[derive(Debug)]
pub(crate) struct ProxyProtocol {
    header_bytes_max: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What has arrived of the header.
    Header(Vec<u8>),
    /// The header is over; bytes pass as they are.
    Open(PeerFacts),
    Refused,
}

impl ProxyProtocol {
    /// The layer of a new connection whose socket has the address `peer` on the other side; `None`
    /// for a Unix socket, whose every connection is that of a proxy.
    ///
    /// # Errors
    /// [`LayerError::Refused`] if `peer` is not a listed source. The connection is to be closed
    /// without an answer.
    pub(crate) fn new(
        settings: &Arc<ProxySettings>,
        peer: impl Into<Option<SocketAddr>>,
    ) -> Result<Self, LayerError> {
        if let Some(peer) = peer.into()
            && !settings.sources.contains(peer.ip())
        {
            let peer = peer.ip().to_canonical();
            return Err(LayerError::Refused(format!(
                "{peer} is not in the list of proxies that may send a PROXY protocol header"
            )));
        }
        Ok(ProxyProtocol { header_bytes_max: settings.header_bytes_max, state: State::Header(Vec::new()) })
    }

    /// Takes bytes of the header from the front of `input`, and gives what is known once it is
    /// complete.
    fn collect(&mut self, input: &mut &[u8]) -> Result<Option<PeerFacts>, String> {
        let State::Header(held) = &mut self.state else { return Ok(None) };
        loop {
            let progress = progress(held, self.header_bytes_max)?;
            let wanted = match progress {
                Progress::Wants(wanted) => wanted,
                Progress::Complete => return header::read(held).map(Some),
            };
            if input.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = input.split_at(wanted.min(input.len()));
            held.extend_from_slice(taken);
            *input = rest;
        }
    }
}

/// What a header needs to go on.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// So many bytes more belong to it for certain. At least 1.
    Wants(usize),
    Complete,
}

/// Checks the front of a header and says what it needs. Never wants a byte that may lie behind the
/// header, so version 1 goes on byte by byte when its line may end.
fn progress(held: &[u8], header_bytes_max: usize) -> Result<Progress, String> {
    let prefix = |wanted: &[u8]| held.len() < wanted.len() && wanted.starts_with(held);
    if held.is_empty() || prefix(V1_PREFIX) {
        // The first byte shows the version; both are longer than the prefix of version 1.
        return Ok(Progress::Wants(if held.is_empty() { 1 } else { V1_PREFIX.len() - held.len() }));
    }
    if prefix(SIGNATURE) {
        return Ok(Progress::Wants(V2_FIXED_BYTES - held.len()));
    }
    if held.starts_with(SIGNATURE) {
        return progress_of_v2(held, header_bytes_max);
    }
    if held.starts_with(V1_PREFIX) {
        return progress_of_v1(held);
    }
    Err("a PROXY protocol header is required here, and the connection begins with something else".to_owned())
}

fn progress_of_v1(held: &[u8]) -> Result<Progress, String> {
    match held {
        [.., b'\r', b'\n'] => Ok(Progress::Complete),
        // "The receiver may … wait for the CRLF sequence" (section 2.1), but only as far as this.
        _ if held.len() >= V1_BYTES_MAX => {
            Err(format!("the PROXY protocol header of version 1 has no end within {V1_BYTES_MAX} bytes"))
        }
        [.., b'\n'] => Err("a line of the PROXY protocol header ends without a carriage return".to_owned()),
        _ => Ok(Progress::Wants(1)),
    }
}

fn progress_of_v2(held: &[u8], header_bytes_max: usize) -> Result<Progress, String> {
    let Some(&[version_and_command, _family, high, low]) = held.get(SIGNATURE.len()..V2_FIXED_BYTES) else {
        return Ok(Progress::Wants(V2_FIXED_BYTES - held.len()));
    };
    if version_and_command >> 4 != 2 {
        return Err(format!("the PROXY protocol has no version {}", version_and_command >> 4));
    }
    let whole = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if whole > header_bytes_max {
        return Err(format!(
            "the PROXY protocol header has {whole} bytes; at most {header_bytes_max} are taken"
        ));
    }
    match whole - held.len() {
        0 => Ok(Progress::Complete),
        missing => Ok(Progress::Wants(missing)),
    }
}

impl Layer for ProxyProtocol {
    fn receive(
        &mut self,
        mut input: &[u8],
        above: &mut Vec<u8>,
        _below: &mut Vec<u8>,
    ) -> Result<(), LayerError> {
        match self.state {
            State::Header(_) => {}
            State::Open(_) => {
                above.extend_from_slice(input);
                return Ok(());
            }
            State::Refused => return Err(LayerError::Closed),
        }
        match self.collect(&mut input) {
            Ok(None) => Ok(()),
            Ok(Some(facts)) => {
                self.state = State::Open(facts);
                above.extend_from_slice(input);
                Ok(())
            }
            Err(text) => {
                self.state = State::Refused;
                Err(LayerError::Refused(text))
            }
        }
    }

    fn send(&mut self, bytes: &[u8], below: &mut Vec<u8>) -> Result<(), LayerError> {
        below.extend_from_slice(bytes);
        Ok(())
    }

    fn close(&mut self, _below: &mut Vec<u8>) {}

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    fn memory_bytes(&self) -> usize {
        let held = match &self.state {
            State::Header(held) => held.capacity(),
            State::Open(_) | State::Refused => 0,
        };
        size_of::<Self>() + held
    }

    fn describe(&self, facts: &mut PeerFacts) {
        if let State::Open(told) = &self.state {
            facts.clone_from(told);
        }
    }
}
