//! The messages that may be retained for each topic. A publish is stored at some time between its
//! read and its acknowledgement, or the time when nothing of its client waits. Two publishes whose
//! times overlap may be stored in either order, unless they have the same publisher, whose order is
//! kept. A publish that was certainly followed by another is no candidate.

use std::collections::BTreeMap;

use super::{Message, Publisher, topic_text};
use crate::checker::{Checker, Rule};

/// A retained publish.
struct Version {
    number: u32,
    publisher: Publisher,
    /// Step in which the engine read it.
    begun: u64,
    /// Step by which it was certainly stored.
    done: Option<u64>,
    empty: bool,
    expires: bool,
    /// It was sent again; that has an effect only if the first one had none.
    again: bool,
}

#[derive(Default)]
pub struct Retained {
    topics: BTreeMap<u8, Vec<Version>>,
    pub step: u64,
    /// The client that subscribes to everything at the end, and its messages.
    pub reader: Option<(usize, BTreeMap<u8, Vec<u32>>)>,
}

impl Retained {
    pub fn published(&mut self, number: u32, message: &Message, empty: bool) {
        let versions = self.topics.entry(message.topic).or_default();
        versions.push(Version {
            again: message.again > 0,
            number,
            publisher: message.publisher,
            begun: self.step,
            done: None,
            empty,
            expires: message.expires,
        });
    }

    /// A client has received a message.
    pub fn received(&mut self, client: usize, topic: u8, number: u32) {
        if let Some((reader, got)) = &mut self.reader
            && *reader == client
        {
            got.entry(topic).or_default().push(number);
        }
    }

    /// A publish has been acknowledged.
    pub fn done(&mut self, number: u32, topic: u8) {
        let step = self.step;
        let versions = self.topics.entry(topic).or_default();
        versions.iter_mut().filter(|version| version.number == number).for_each(|version| {
            version.done.get_or_insert(step);
        });
    }

    /// The message that is certainly retained for a topic, and that no pending publish replaces.
    pub fn settled(&self, topic: u8, messages: &[Message]) -> Option<u32> {
        let versions = self.topics.get(&topic)?;
        let refused = |version: &&Version| is_refused(&messages[version.number as usize]);
        let last = versions.iter().rfind(|version| !refused(version))?;
        let message = &messages[last.number as usize];
        let sure = message.accepted == Some(true) && !message.touched && !last.again && last.done.is_some();
        let before = |version: &Version| {
            std::ptr::eq(version, last) || version.done.is_some_and(|done| done < last.begun)
        };
        let alone = versions.iter().filter(|version| !refused(version)).all(before);
        (sure && alone && !last.empty && !last.expires).then_some(last.number)
    }

    /// Every publish has taken effect, except those of clients with waiting packets.
    pub fn is_settled(&mut self, waits: impl Fn(usize) -> bool) {
        let step = self.step;
        for version in self.topics.values_mut().flatten().filter(|version| !waits(version.publisher.client)) {
            version.done.get_or_insert(step);
        }
    }

    /// Compares what a subscriber to everything has received with what is expected. `lacks` allows
    /// missing messages: for a valid reason, or for one that another rule covers.
    pub fn compare(
        &self,
        checker: &mut Checker,
        messages: &[Message],
        got: &BTreeMap<u8, Vec<u32>>,
        lacks: Option<Option<Rule>>,
    ) {
        for (topic, versions) in &self.topics {
            let accepted = |version: &&Version| {
                let message = &messages[version.number as usize];
                message.accepted == Some(true) && !message.touched && !version.again
            };
            let possible = |version: &&Version| !is_refused(&messages[version.number as usize]);
            let outdone = |place: usize, version: &Version| {
                let later = |(at, other): (usize, &Version)| {
                    version.done.is_some_and(|done| other.begun > done)
                        || (other.publisher == version.publisher && at > place)
                };
                versions.iter().enumerate().filter(|(_, other)| accepted(other)).any(later)
            };
            let candidates: Vec<&Version> = versions
                .iter()
                .enumerate()
                .filter(|(place, version)| possible(version) && !outdone(*place, version))
                .map(|(_, version)| version)
                .collect();
            let may_lack = !versions.iter().any(|version| accepted(&version))
                || candidates.iter().any(|version| version.empty || version.expires);
            let name = topic_text(*topic);
            match got.get(topic).map(Vec::as_slice) {
                None | Some([]) if lacks == Some(None) => {}
                None | Some([]) => {
                    checker.check(may_lack, lacks.flatten().unwrap_or(Rule::RetainedMissing), || {
                        format!("nothing is retained for {name}, one of {:?} should be", numbers(&candidates))
                    })
                }
                Some([number]) => {
                    let known = candidates.iter().any(|version| version.number == *number);
                    checker.check(known || lacks == Some(None), Rule::RetainedWrong, || {
                        format!("{number} is retained for {name}, not one of {:?}", numbers(&candidates))
                    });
                }
                Some(several) => {
                    checker.broken(Rule::RetainedTwice, || format!("{several:?} came for {name}"));
                }
            }
        }
    }
}

/// Whether a message had no effect. For a message that was sent again, a refusal does not show that
/// the first one had no effect.
fn is_refused(message: &Message) -> bool {
    message.accepted == Some(false) && message.again == 0
}

fn numbers(versions: &[&Version]) -> Vec<u32> {
    versions.iter().map(|version| version.number).collect()
}
