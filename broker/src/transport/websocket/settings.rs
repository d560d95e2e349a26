//! The settings of WebSocket on a listener. Made from the configuration; read by `request.rs` for each
//! upgrade, and by `websocket.rs`.

use super::forwarded::ForwardedHeader;
use crate::transport::address_list::AddressList;

/// What a listener with WebSocket accepts. Its connections share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebSocketSettings {
    /// The path that clients request, without query, such as `/mqtt`.
    pub path: String,
    /// Origins that a page of a browser may come from.
    pub origins: Origins,
    /// Proxies whose `forwarded_header` is believed.
    pub trusted_proxies: AddressList,
    /// The header in which these proxies name their clients.
    pub forwarded_header: ForwardedHeader,
}

/// Origins that a page of a browser may come from. Clients that are no browsers send no origin and
/// are not concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Any.
    #[default]
    All,
    /// These, such as `https://example.com`.
    Listed(Vec<String>),
    /// Pages that this machine serves to itself. A name that leads to this machine is not enough:
    /// anybody may have such a name.
    ThisMachine,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        WebSocketSettings {
            path: "/mqtt".to_owned(),
            origins: Origins::All,
            trusted_proxies: AddressList::default(),
            forwarded_header: ForwardedHeader::XForwardedFor,
        }
    }
}
