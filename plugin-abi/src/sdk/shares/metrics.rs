//! The metrics of [`super::Shares`] in the broker's `/metrics`.

use super::Full;
use crate::sdk::host::Host;
use crate::sdk::metric::{Counter, GaugePart};

/// The metrics that `/metrics` shows.
#[derive(Default, Debug)]
pub(super) struct Metrics {
    entries: GaugePart,
    bytes: GaugePart,
    owners: GaugePart,
    refused_owner: Option<Counter>,
    refused_total: Option<Counter>,
    evicted: Option<Counter>,
}

impl Metrics {
    pub(super) fn of(host: Host, name: &str) -> Metrics {
        let counter = |what: &str, help: &str| host.counter(&format!("{name}_{what}"), help).ok();
        let part = |name: &str, help: &str| GaugePart::of(host.gauge(name, help).ok());
        Metrics {
            entries: part(name, "Entries in use"),
            bytes: part(&format!("{name}_bytes"), "Bytes of memory that they take"),
            owners: part(&format!("{name}_owners"), "Clients or addresses with entries"),
            refused_owner: counter("refused_owner", "Entries refused because their owner's share was full"),
            refused_total: counter("refused_total", "Entries refused because the limit of all was reached"),
            evicted: counter("evicted", "Entries that went to make room for newer ones"),
        }
    }

    pub(super) fn moved(&mut self, entries: i64, bytes: i64, owners: i64) {
        self.entries.adjust(entries);
        self.bytes.adjust(bytes);
        self.owners.adjust(owners);
    }

    pub(super) fn refused(&self, full: Full) {
        let counter = if full.is_of_owner() { self.refused_owner } else { self.refused_total };
        if let Some(counter) = counter {
            counter.add_one();
        }
    }

    pub(super) fn evicted(&self) {
        if let Some(evicted) = self.evicted {
            evicted.add_one();
        }
    }
}
