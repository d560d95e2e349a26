//! Assigns the bits of a message's ancestry to plugins, by name, so that all generations of a
//! plugin share a bit. A retained message may live as long as the broker, so two names never share
//! a bit. Called by the services when a generation begins and ends.

use std::sync::Arc;

/// Maximum number of plugins in an ancestry.
pub(in crate::plugin) const PLACES: usize = 64;

struct AncestryBit {
    name: Arc<str>,
    /// Live generations.
    live: u32,
    /// Whether a message may carry the bit.
    may_carry_bit: bool,
}

/// The plugins that have a bit, indexed by bit.
#[derive(Default)]
pub(in crate::plugin) struct AncestryBits(Vec<AncestryBit>);

impl AncestryBits {
    /// The bit of a name, for one more generation. `None` if all bits belong to plugins that are
    /// loaded or whose bit messages may carry.
    pub(in crate::plugin) fn take(&mut self, name: &Arc<str>) -> Option<u8> {
        let known = self.0.iter().position(|place| place.name == *name);
        let place = match known {
            Some(known) => known,
            None if self.0.len() < PLACES => {
                self.0.push(AncestryBit { name: Arc::clone(name), live: 0, may_carry_bit: false });
                self.0.len() - 1
            }
            None => {
                let free = self.0.iter().position(|place| place.live == 0 && !place.may_carry_bit)?;
                self.0[free].name = Arc::clone(name);
                free
            }
        };
        self.0[place].live += 1;
        u8::try_from(place).ok()
    }

    /// A generation has ended; `may_carry_bit` says whether messages may carry its bit.
    pub(in crate::plugin) fn leave(&mut self, bit: u8, may_carry_bit: bool) {
        if let Some(place) = self.0.get_mut(usize::from(bit)) {
            place.live = place.live.saturating_sub(1);
            place.may_carry_bit |= may_carry_bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(number: usize) -> Arc<str> {
        format!("plugin-{number}").into()
    }

    #[test]
    fn each_plugin_name_keeps_a_bit_of_its_own() {
        let mut slots = AncestryBits::default();
        let bits: Vec<_> = (0..PLACES).map(|number| slots.take(&named(number))).collect();
        assert_eq!(bits, (0..64).map(Some).collect::<Vec<_>>());
        assert_eq!(slots.take(&named(7)), Some(7), "another generation of it");
        assert_eq!(slots.take(&named(64)), None);
        slots.leave(7, false);
        assert_eq!(slots.take(&named(64)), None, "the other one lives");
        slots.leave(9, true);
        assert_eq!(slots.take(&named(64)), None, "what it led to may be kept");
        assert_eq!(slots.take(&named(9)), Some(9));
        slots.leave(9, false);
        assert_eq!(slots.take(&named(64)), None, "also what an earlier one led to");
        slots.leave(7, false);
        assert_eq!((slots.take(&named(64)), slots.take(&named(7))), (Some(7), None));
    }
}
