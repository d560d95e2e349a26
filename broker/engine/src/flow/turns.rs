//! Work that one turn does not finish: large fan-outs, scans, sessions that are taken down. Each
//! turn does a slice.

use std::rc::Rc;

use super::{
    admission, authority, commands, deliver, ending, filters, instance_message, memory, notify, pages,
    reading, settle, subscriptions, timers, wake,
};
use crate::hook::notification::RetainedChange;
use crate::message::MessageView;
use crate::parts::Parts;
use crate::time::Now;

/// Filters whose interest is withdrawn in one turn.
const SWEEP: usize = 256;
/// Retained messages that expire in one turn.
const EXPIRE: usize = 256;

/// Sets the time of the step and runs what is due: keep alive, deadlines, expiry, delayed wills,
/// sliced work. Returns whether sliced work is left; the shell then calls again after other tasks
/// have run.
pub(crate) fn advance(parts: &mut Parts, now: Now) -> bool {
    parts.clock.set(now);
    wake::begin_step(parts);
    parts.work.begin_turn(parts.setup.limits.turn_budget_deliveries / 2);
    memory::settle_memory(parts);
    timers::run_timers(parts);
    settle::settle(parts);
    fan_out(parts);
    filters::continue_filters(parts);
    // Subscriptions get half of the budget, pages that plugins read a quarter, other retained
    // messages a quarter, so that none of them blocks the others.
    parts.work.add_to_turn(parts.setup.limits.turn_budget_deliveries / 4);
    pages::continue_page_reads(parts);
    parts.work.add_to_turn(parts.setup.limits.turn_budget_deliveries / 4);
    pages::scan_pages(parts);
    ending::end_sessions(parts);
    subscriptions::continue_group_updates(parts);
    instance_message::continue_stored_messages(parts);
    commands::replay(parts);
    authority::recheck(parts);
    authority::authorize_deliveries(parts);
    admission::serve_takeovers(parts);
    settle::settle(parts);
    reading::resume_reads_after_work(parts);
    parts.router.sweep(SWEEP);
    if parts.retained.next_expiry_ms().is_some_and(|at| at <= now.mono_ms) {
        let mut gone = Vec::new();
        parts.retained.expire(now.mono_ms, EXPIRE, |_, message| gone.push(message));
        for message in gone {
            notify::notify_retained(parts, &message.view(), RetainedChange::Expired);
        }
    }
    has_work(parts)
}

/// Whether the last step left sliced work. The shell then calls [`Shard::advance`] again after
/// other tasks have run.
pub(crate) fn has_work(parts: &Parts) -> bool {
    parts.work.is_left()
        || parts.clock.has_due()
        || settle::has_ready(parts)
        || instance_message::has_stored_messages(parts)
        || commands::has_replays(parts)
        || parts.hooks.has_pages()
        || authority::has_rechecks(parts)
}

fn fan_out(parts: &mut Parts) {
    let mut left = parts.setup.limits.turn_budget_deliveries as usize;
    while left > 0 {
        let Some(mut fanout) = parts.work.pop_fanout() else { return };
        let end = fanout.matched.local.len().min(fanout.next + left);
        let mut shared = Some(Rc::clone(&fanout.message));
        let view = MessageView { stored: fanout.stored, ..fanout.message.view() };
        parts.encoder.begin();
        // A session gets nothing for a subscription that has ended meanwhile [MQTT-3.10.4-2].
        let is_old = !Rc::ptr_eq(&parts.router.matches(view.topic), &fanout.matched);
        for target in &fanout.matched.local[fanout.next..end] {
            if is_old {
                let mut target = target.clone();
                let session = target.session;
                target.subs.retain(|sub| parts.router.is_subscribed(session, sub.filter, view.topic));
                deliver::serve_target(parts, &target, &view, &mut shared);
            } else {
                deliver::serve_target(parts, target, &view, &mut shared);
            }
        }
        parts.counters.work_units += (end - fanout.next) as u64;
        left -= end - fanout.next;
        fanout.next = end;
        if fanout.next < fanout.matched.local.len() {
            parts.work.put_back_fanout(fanout);
        }
    }
}
