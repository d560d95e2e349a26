//! Numbers of an answer's requests to the broker, which its replies carry.

/// Kinds of the broker's replies, in the two highest bits of the reply number. Below them is the
/// position of the message; the lower half is the number of the request.
pub(crate) const FILTER: u64 = 0;
pub(crate) const DELIVER: u64 = 1 << 62;
pub(crate) const PUBLISH: u64 = 2 << 62;
pub(crate) const END: u64 = 3 << 62;
pub(crate) const PLACE: u64 = (1 << 30) - 1;
/// The position of a large message, authorized before it is fetched. No other message reaches it.
pub(crate) const PLACE_OF_LARGE: u32 = PLACE as u32;

pub(crate) fn number_of(kind: u64, place: u32, number: u32) -> u64 {
    kind | (u64::from(place) & PLACE) << 32 | u64::from(number)
}
