//! Finds lost, duplicated and reordered messages by their sequence numbers. The subscriber's side
//! calls it for each message that has one; the usual case, the next number, is one comparison.
//! Independent of packets and clients.

use crate::header::Publisher;
use ahash::AHasher;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// The numbers that one receiver, or the members of one shared subscription together, have seen, by
/// publisher.
#[derive(Debug, Default)]
pub struct Tracker(HashMap<Publisher, Stream, BuildHasherDefault<AHasher>>);

impl Tracker {
    /// Counts one message. `gaps_max` limits the stored gaps of a publisher; beyond it the oldest
    /// are counted as lost.
    pub fn see(&mut self, publisher: Publisher, sequence: u64, gaps_max: usize) {
        let begin = || Stream { next: sequence, first: sequence, ..Stream::default() };
        self.0.entry(publisher).or_insert_with(begin).see(sequence, gaps_max);
    }

    /// Every publisher seen, with its counts, in any order.
    pub fn tallies(&self) -> impl Iterator<Item = (Publisher, Tally)> + '_ {
        self.0.iter().map(|(publisher, stream)| (*publisher, stream.tally()))
    }
}

/// The counts of one publisher at one receiver, or sums of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Numbers missing between the first and the highest received.
    pub lost: u64,
    /// Numbers received again.
    pub duplicated: u64,
    /// Numbers received after a higher one.
    pub out_of_order: u64,
    /// Numbers below the first received: lost, or sent before the subscription.
    pub before_first: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: Tally) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.before_first += other.before_first;
    }

    /// Number of errors, to select the worst.
    pub fn weight(&self) -> u64 {
        self.lost + self.duplicated + self.out_of_order + self.before_first
    }
}

/// Meaning of a number for its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The next one.
    Next,
    /// One above the next: so many numbers before it are missing so far.
    Ahead(u64),
    /// One that was missing.
    Late,
    /// One that was seen before.
    Again,
}

/// The numbers of one publisher as one receiver sees them.
#[derive(Debug, Default)]
pub struct Stream {
    /// One above the highest number received.
    next: u64,
    /// Lowest number received.
    first: u64,
    duplicated: u64,
    out_of_order: u64,
    /// Missing numbers between `first` and `next`: disjoint half-open ranges, ascending.
    gaps: Vec<(u64, u64)>,
    /// Number of missing numbers of gaps that are no longer stored; all are below `floor`.
    written_off: u64,
    floor: u64,
}

impl Stream {
    /// The stream of a receiver that gets every message, beginning with number 1.
    pub fn from_the_start() -> Self {
        Self { next: 1, first: 1, ..Self::default() }
    }

    /// The next expected number: one above the highest received.
    pub fn awaited(&self) -> u64 {
        self.next
    }

    /// Counts one number. `gaps_max` limits the stored gaps; beyond it the oldest are counted as
    /// lost.
    #[inline]
    pub fn see(&mut self, sequence: u64, gaps_max: usize) -> Seen {
        if sequence == self.next {
            self.next += 1;
            return Seen::Next;
        }
        if sequence < self.next {
            return self.see_reordered(sequence);
        }
        let missing = sequence - self.next;
        self.gaps.push((self.next, sequence));
        self.next = sequence + 1;
        if self.gaps.len() > gaps_max {
            self.write_off();
        }
        Seen::Ahead(missing)
    }

    #[cold]
    fn see_reordered(&mut self, sequence: u64) -> Seen {
        if sequence < self.first {
            // Below the first message that arrived: the numbers in between are missing so far.
            if sequence + 1 < self.first {
                self.gaps.insert(0, (sequence + 1, self.first));
            }
            self.first = sequence;
            self.out_of_order += 1;
            return Seen::Late;
        }
        let at = self.gaps.partition_point(|gap| gap.1 <= sequence);
        match self.gaps.get(at).copied() {
            Some((from, to)) if from <= sequence => {
                self.out_of_order += 1;
                self.fill(at, from, to, sequence);
                Seen::Late
            }
            // Below the floor the gaps are not stored: if any number is still missing, it may be
            // this one.
            _ if sequence < self.floor && self.written_off > 0 => {
                self.out_of_order += 1;
                self.written_off -= 1;
                Seen::Late
            }
            _ => {
                self.duplicated += 1;
                Seen::Again
            }
        }
    }

    fn fill(&mut self, at: usize, from: u64, to: u64, sequence: u64) {
        match (from == sequence, sequence + 1 == to) {
            (true, true) => drop(self.gaps.remove(at)),
            (true, false) => self.gaps[at].0 = sequence + 1,
            (false, true) => self.gaps[at].1 = sequence,
            (false, false) => {
                self.gaps[at].1 = sequence;
                self.gaps.insert(at + 1, (sequence + 1, to));
            }
        }
    }

    /// Removes the older half of the gaps, so that this is rare.
    fn write_off(&mut self) {
        let half = self.gaps.len().div_ceil(2);
        for (from, to) in self.gaps.drain(..half) {
            self.written_off += to - from;
            self.floor = to;
        }
    }

    /// The errors so far.
    pub fn tally(&self) -> Tally {
        Tally {
            lost: self.written_off + self.gaps.iter().map(|gap| gap.1 - gap.0).sum::<u64>(),
            duplicated: self.duplicated,
            out_of_order: self.out_of_order,
            before_first: self.first.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(sequence: &[u64], gaps_max: usize) -> Tally {
        let mut tracker = Tracker::default();
        for number in sequence {
            tracker.see(Publisher::new(1, 1), *number, gaps_max);
        }
        let mut sum = Tally::default();
        tracker.tallies().for_each(|(_, each)| sum.add(each));
        sum
    }

    fn expect(lost: u64, duplicated: u64, out_of_order: u64, before_first: u64) -> Tally {
        Tally { lost, duplicated, out_of_order, before_first }
    }

    #[test]
    fn an_unbroken_sequence_is_clean() {
        assert_eq!(tally(&[1, 2, 3, 4], 8), expect(0, 0, 0, 0));
        assert_eq!(tally(&[], 8), expect(0, 0, 0, 0));
    }

    #[test]
    fn gaps_are_lost_until_they_are_filled() {
        assert_eq!(tally(&[1, 2, 5], 8), expect(2, 0, 0, 0));
        assert_eq!(tally(&[1, 2, 5, 3], 8), expect(1, 0, 1, 0));
        assert_eq!(tally(&[1, 2, 5, 4, 3], 8), expect(0, 0, 2, 0));
        assert_eq!(tally(&[1, 9, 5, 5], 8), expect(6, 1, 1, 0), "a number inside a gap splits it");
    }

    #[test]
    fn a_number_seen_before_is_a_duplicate_not_a_late_one() {
        assert_eq!(tally(&[1, 1, 2, 2, 1], 8), expect(0, 3, 0, 0));
        assert_eq!(tally(&[1, 2, 5, 5, 2], 8), expect(2, 2, 0, 0));
    }

    #[test]
    fn messages_before_the_first_received_one_do_not_count_as_lost() {
        assert_eq!(tally(&[4, 5], 8), expect(0, 0, 0, 3));
        assert_eq!(tally(&[4, 5, 2], 8), expect(1, 0, 1, 1));
        assert_eq!(tally(&[4, 3, 2, 1], 8), expect(0, 0, 3, 0));
    }

    #[test]
    fn forgotten_gaps_stay_counted_as_lost() {
        let every_second: Vec<u64> = (0..100).map(|n| n * 2 + 1).collect();
        assert_eq!(tally(&every_second, 8), expect(99, 0, 0, 0));
        let mut late = every_second.clone();
        late.push(2);
        assert_eq!(tally(&late, 8), expect(98, 0, 1, 0));
    }

    #[test]
    fn publishers_do_not_mix() {
        let mut tracker = Tracker::default();
        for (client, number) in [(1, 1), (2, 1), (1, 2), (2, 3), (1, 3)] {
            tracker.see(Publisher::new(9, client), number, 8);
        }
        let mut tallies: Vec<_> = tracker.tallies().collect();
        tallies.sort_by_key(|(publisher, _)| *publisher);
        assert_eq!(
            tallies,
            [
                (Publisher::new(9, 1), Tally::default()),
                (Publisher::new(9, 2), Tally { lost: 1, ..Tally::default() })
            ]
        );
    }
}
