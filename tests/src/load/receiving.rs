//! The subscribers of the load: every message is checked against the phases in which it was under
//! way, and acknowledged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Phase, Shared, read_payload};
use crate::line::{Line, ready};
use crate::wire::Ack;
use crate::{Packet, Publish, Version};

pub(super) fn run(shared: &Shared, mut lines: Vec<Line>) {
    let mut next = vec![0u64; lines.len()];
    loop {
        for pair in ready(lines.iter(), 1000) {
            let mut publishes = Vec::new();
            let mut others = Vec::new();
            let read = lines[pair].read(|packet| match packet {
                Packet::Publish(publish) => publishes.push(publish),
                other => others.push(other),
            });
            // Checked first: packets before the end count.
            for publish in publishes {
                if let Some(id) = publish.id {
                    lines[pair].queue(&Packet::Puback(Ack::of(id)).encode(Version::V5));
                }
                check(shared, pair, &mut next[pair], &publish);
            }
            let flushed = lines[pair].flush();
            if let Err(error) = read.and(flushed) {
                return shared.wrong(format!("subscriber {pair} {error}"));
            }
            for other in others {
                shared.wrong(format!("subscriber {pair}: {other:?}"));
            }
        }
        if shared.published_all.load(Ordering::SeqCst)
            && shared.received.load(Ordering::SeqCst) >= shared.published.load(Ordering::SeqCst)
        {
            break;
        }
    }
    for line in &mut lines {
        line.queue(&[0xE0, 0]);
        // An error here changes no result.
        drop(line.flush());
    }
}

fn check(shared: &Shared, pair: usize, next: &mut u64, publish: &Publish) {
    shared.received.fetch_add(1, Ordering::SeqCst);
    let Some([publisher, place, sent_us, sent_in]) = read_payload(&publish.payload) else {
        return shared.wrong(format!("subscriber {pair}: not a payload of ours: {publish:?}"));
    };
    if publisher != pair as u64 || place != *next {
        let what = format!("message {place} of {publisher}");
        shared.wrong(format!("subscriber {pair}: {what} instead of {next}: lost, doubled or out of order"));
    }
    *next = place + 1;
    let stamps = publish.properties.user(&shared.plan.stamp);
    if !stamps.is_empty() {
        shared.stamped.fetch_add(1, Ordering::SeqCst);
    }
    let mut judgement = shared.judgement();
    let longest = shared.start.elapsed().saturating_sub(Duration::from_micros(sent_us));
    judgement.longest = judgement.longest.max(longest);
    // Under the lock, so that no phase begins meanwhile.
    let now = shared.phase.load(Ordering::SeqCst);
    let phases = judgement.phases[sent_in as usize..=now as usize].to_vec();
    // A plugin that leaves the topic unchanged is visible by its stamp alone.
    let rewritten = if shared.plan.rewritten == shared.plan.original {
        stamps.len() == 1
    } else {
        publish.topic == format!("{}/{pair}", shared.plan.rewritten)
    };
    if let Err(what) = fits(&phases, stamps.len(), rewritten) {
        drop(judgement);
        let seen = format!("{what}: {stamps:?} on {} during {phases:?}", publish.topic);
        return shared.wrong(format!("subscriber {pair}, message {place}: {seen}"));
    }
    if sent_in != now {
        return;
    }
    shared.settled.fetch_add(1, Ordering::SeqCst);
    let Some(stamp) = stamps.into_iter().next() else { return };
    let old = judgement.earlier.contains(&stamp);
    if phases == [Phase::StampedByOne] {
        judgement.current.insert(stamp);
        if old || judgement.current.len() > 1 {
            let seen = format!("{:?}, of which some are old: {old}", judgement.current);
            drop(judgement);
            shared.wrong(format!("subscriber {pair}, message {place}: stamps {seen}"));
        }
    }
}

/// Whether a message that was under way during `phases` may have this form.
fn fits(phases: &[Phase], stamps: usize, rewritten: bool) -> Result<(), &'static str> {
    let stamped = |phase: &Phase| matches!(phase, Phase::Stamped | Phase::StampedByOne);
    if stamps > 1 {
        return Err("two stamps");
    }
    if (stamps == 1) != rewritten {
        return Err("half of what the plugin does");
    }
    if phases.iter().all(stamped) && stamps != 1 {
        return Err("no stamp although the plugin was loaded");
    }
    if phases.iter().all(|phase| *phase == Phase::Plain) && stamps != 0 {
        return Err("a stamp although no plugin was loaded");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_checked_against_each_phase_in_which_it_was_in_flight() {
        use Phase::{Changing, Plain, Stamped, StampedByOne};
        let cases: &[(&[Phase], usize, bool, bool)] = &[
            (&[Plain], 0, false, true),
            (&[Plain], 1, true, false),
            (&[Stamped], 1, true, true),
            (&[Stamped, StampedByOne], 0, false, false),
            (&[Plain, Changing], 1, true, true),
            (&[Plain, Changing], 0, false, true),
            (&[Plain, Changing], 1, false, false),
            (&[Changing], 0, true, false),
            (&[Changing], 2, true, false),
        ];
        for (phases, stamps, rewritten, right) in cases {
            assert_eq!(fits(phases, *stamps, *rewritten).is_ok(), *right, "{phases:?} {stamps} {rewritten}");
        }
    }
}
