//! Who the client behind a proxy is, by the header of the upgrade request in which the proxy says
//! it. Called by `request.rs`; whether the proxy is to be believed is decided in `websocket.rs`.

use std::net::{IpAddr, SocketAddr};

use crate::transport::address_list::AddressList;

/// The header in which proxies name the client. One only: a proxy passes on a header that it does
/// not know, so a client could lie in the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardedHeader {
    /// `X-Forwarded-For`, a list of addresses.
    XForwardedFor,
    /// `Forwarded` (RFC 7239), a list of elements with `for=`.
    Forwarded,
}

impl ForwardedHeader {
    pub(super) fn name(self) -> &'static str {
        match self {
            ForwardedHeader::XForwardedFor => "X-Forwarded-For",
            ForwardedHeader::Forwarded => "Forwarded",
        }
    }
}

/// Why a header is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The client by the `values` of all headers of that name, if the sender of the request is trusted:
/// the last address of the list that is not itself a trusted proxy. Each proxy appends the address
/// that it saw, so what stands further left may be invented by the client. If all addresses are
/// proxies, the first one is the client. An element that is no address (`unknown`) ends the search,
/// and the proxy right of it stands for the client. Port 0 where none is given.
///
/// # Errors
/// [`Malformed`] if a header `Forwarded` is not well-formed. A client could otherwise begin a quoted
/// text that swallows what the proxy appends, and so hide its address.
pub(super) fn client<'a>(
    header: ForwardedHeader,
    values: impl Iterator<Item = &'a [u8]>,
    trusted: &AddressList,
) -> Result<Option<SocketAddr>, Malformed> {
    let mut nodes = Vec::new();
    for value in values {
        match header {
            ForwardedHeader::XForwardedFor => nodes.extend(plain_nodes(value)),
            ForwardedHeader::Forwarded => quoted_nodes(value, &mut nodes)?,
        }
    }
    let mut client = None;
    for node in nodes.into_iter().rev() {
        let Some(address) = address(node) else { return Ok(client) };
        client = Some(address);
        if !trusted.contains(address.ip()) {
            break;
        }
    }
    Ok(client)
}

/// The elements of a header `X-Forwarded-For`. It has no quotes. Empty elements are left out (RFC
/// 9110 section 5.6.1.2); what is no text is no address either.
fn plain_nodes(value: &[u8]) -> impl Iterator<Item = &str> {
    value
        .split(|&byte| byte == b',')
        .map(|element| std::str::from_utf8(element.trim_ascii()).unwrap_or("unknown"))
        .filter(|element| !element.is_empty())
}

/// Appends the value of `for` of each element, such as `for="[2001:db8::1]:4711";proto=https`. An
/// element without it counts as unknown.
fn quoted_nodes<'a>(value: &'a [u8], nodes: &mut Vec<&'a str>) -> Result<(), Malformed> {
    let value = std::str::from_utf8(value).map_err(|_| Malformed)?;
    for element in split(value, b',')? {
        let mut node = None;
        for pair in split(element, b';')? {
            let (name, value) = pair.split_once('=').ok_or(Malformed)?;
            if name.trim_ascii().eq_ignore_ascii_case("for") {
                // RFC 7239 section 4: a parameter occurs once in an element.
                let first = node.replace(value.trim_ascii()).is_none();
                first.then_some(()).ok_or(Malformed)?;
            }
        }
        let node = node.unwrap_or("unknown");
        nodes.push(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node));
    }
    Ok(())
}

/// Splits at `separator` where it stands outside of quotes; empty parts are left out.
fn split(value: &str, separator: u8) -> Result<Vec<&str>, Malformed> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(|character: char| {
        let ends = !quoted && character == char::from(separator);
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        ends
    });
    let parts = parts.map(str::trim_ascii).filter(|part| !part.is_empty()).collect();
    match quoted {
        true => Err(Malformed),
        false => Ok(parts),
    }
}

/// An address with or without port, an IPv6 address with or without brackets.
fn address(node: &str) -> Option<SocketAddr> {
    let bare = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
    let address = match (bare.parse::<IpAddr>(), node.parse::<SocketAddr>()) {
        (Ok(ip), _) => SocketAddr::new(ip, 0),
        (_, Ok(address)) => address,
        _ => return None,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
