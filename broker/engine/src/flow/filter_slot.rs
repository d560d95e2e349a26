//! What the steps of a SUBSCRIBE or UNSUBSCRIBE share: the slot of the packet, the state of its
//! client, and the result of a step.

use crate::id::{ConnKey, SessionKey};
use crate::parts::Parts;
use crate::session::SlotBody;
use crate::session::filters::FilterPacket;

/// The slot of a packet.
#[derive(Clone, Copy)]
pub(crate) struct SlotId {
    pub(crate) session: SessionKey,
    pub(crate) number: u64,
    pub(crate) conn: Option<ConnKey>,
}

/// State of the client that a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientState {
    /// The connection of the packet is still there.
    Connected,
    /// That connection has ended. The session continues, with another connection or without.
    Away,
    /// The session has ended too.
    Ended,
}

/// Result of a step of a packet.
pub(crate) enum Step {
    /// The next step can follow.
    Goes,
    /// It waits for something that will wake the session.
    Waits,
    /// The turn's budget is used up.
    Later,
    /// The packet is finished.
    Over,
}

pub(crate) fn client_state(parts: &Parts, slot: SlotId, packet: &FilterPacket) -> ClientState {
    let Some(session) = parts.sessions.get(slot.session) else { return ClientState::Ended };
    // A plugin's subscription has no packet.
    if session.conn.is_some() && (packet.packet_id.is_none() || session.conn == slot.conn) {
        ClientState::Connected
    } else if session.is_usable() {
        ClientState::Away
    } else {
        ClientState::Ended
    }
}

pub(crate) fn filters_at(
    parts: &mut Parts,
    session_key: SessionKey,
    number: u64,
) -> Option<&mut FilterPacket> {
    match &mut parts.sessions.get_mut(session_key)?.slots.get_mut(number)?.body {
        SlotBody::Filters(packet) => Some(packet),
        _ => None,
    }
}
