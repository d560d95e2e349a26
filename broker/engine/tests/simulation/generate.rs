//! Operations from a seed, by the weights that the seed gives its world.

use grapnel_engine::packet::Version;

use crate::op::{
    Act, Answer, Bad, BehalfAction, CLIENTS, Connect, FILTERS, Op, Publish, Scope, TOPICS, USERS, Will,
};
use crate::random::Random;
use crate::settings::{Weights, settings};

/// Generates so many operations.
pub fn generate(seed: u64, count: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    let settings = settings(seed);
    let mut ops = Vec::with_capacity(count + 16);
    for client in 0..CLIENTS {
        ops.push(Op::Connect(connect(&mut random, &settings.weights, client)));
    }
    while ops.len() < count {
        one(&mut random, &settings.weights, &mut ops);
    }
    ops.truncate(count);
    ops
}

fn client(random: &mut Random) -> u8 {
    random.below(u64::from(CLIENTS)) as u8
}

fn one(random: &mut Random, weights: &Weights, ops: &mut Vec<Op>) {
    let groups = [
        weights.connections,
        weights.publishes,
        weights.subscriptions,
        weights.sockets,
        weights.breaks,
        weights.time,
        weights.lanes,
        weights.plugins,
        weights.rules,
    ];
    match random.weighted(&groups) {
        0 => connections(random, weights, ops),
        1 => publishes(random, weights, ops),
        2 => subscriptions(random, ops),
        3 => ops.push(sockets(random)),
        4 => ops.push(Op::Break { client: client(random), how: bad(random) }),
        5 => ops.push(time(random)),
        6 => ops.push(lanes(random)),
        7 if random.chance(6) => replaced(random, ops),
        7 => ops.push(plugins(random)),
        _ => ops.push(rules(random)),
    }
}

fn connect(random: &mut Random, weights: &Weights, client: u8) -> Connect {
    let version = random.pick(&[Version::V31, Version::V311, Version::V5, Version::V5]);
    let v5 = version.is_v5();
    let small = v5 && random.chance(weights.small_clients_percent);
    Connect {
        client,
        // Mostly the same one.
        user: if random.chance(90) { client % USERS.len() as u8 } else { random.below(3) as u8 },
        version,
        clean: random.chance(30),
        expiry_s: if v5 {
            random.pick(&[None, Some(0), Some(5), Some(60), Some(600), Some(u32::MAX)])
        } else {
            None
        },
        keep_alive_s: random.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 10]),
        receive_maximum: small.then(|| random.pick(&[1, 2, 5])),
        packet_bytes_max: if small && random.chance(30) {
            Some(exact_size(random).max(30))
        } else if small {
            random.pick(&[None, Some(30), Some(60), Some(200), Some(400)])
        } else {
            None
        },
        alias_max: if v5 { random.pick(&[0, 0, 1, 3, 20]) } else { 0 },
        will: random.chance(40).then(|| Will {
            qos: random.below(3) as u8,
            retain: random.chance(20),
            delay_s: if v5 { random.pick(&[0, 0, 1, 10, 100]) } else { 0 },
        }),
        auth: v5 && random.chance(if weights.plugins > 0 { 10 } else { 0 }),
        shard: random.below(8) as u8,
    }
}

/// The size of a packet that a message exactly fits, without an alias.
fn exact_size(random: &mut Random) -> u32 {
    let topic = random.pick(&TOPICS).len() as u32;
    let size = random.pick(&[4, 10, 30, 100]);
    2 + 2 + topic + 2 + 1 + size
}

fn connections(random: &mut Random, weights: &Weights, ops: &mut Vec<Op>) {
    let client = client(random);
    match random.weighted(&[40, 25, 8, 2, 4, 25]) {
        0 => ops.push(Op::Connect(connect(random, weights, client))),
        1 => ops.push(Op::Close { client }),
        2 => ops.push(Op::CloseAfter { client, bytes: random.below(200) as u32 }),
        3 => ops.push(Op::Stuck { client }),
        4 => ops.push(Op::Kick { client, discard: random.chance(50) }),
        _ => {
            let reason = random.pick(&[0, 0, 0, 4, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x95, 0x97]);
            let expiry_s = random.pick(&[None, None, None, Some(0), Some(10), Some(100), Some(u32::MAX)]);
            ops.push(Op::Disconnect { client, reason, expiry_s });
        }
    }
}

fn publishes(random: &mut Random, weights: &Weights, ops: &mut Vec<Op>) {
    if random.chance(15) {
        let count = random.pick(&[1, 1, 2, 5, 50]);
        ops.push(Op::Acknowledge { client: client(random), count });
        return;
    }
    let publish = Publish {
        client: client(random),
        topic: random.below(TOPICS.len() as u64) as u8,
        qos: random.below(3) as u8,
        retain: random.chance(weights.retained_percent),
        size: random.pick(&[4, 4, 4, 10, 10, 30, 100, 100, 300, 1000, 3000]),
        expiry_s: random.chance(10).then(|| random.pick(&[1, 5, 60])),
        alias: random.pick(&[0, 0, 1, 2]),
    };
    let size = if publish.retain && random.chance(15) { 0 } else { publish.size };
    let size = if random.chance(1) && random.chance(20) { 5000 } else { size };
    let times = if random.chance(10) { random.below(8) + 1 } else { 1 };
    for _ in 0..times {
        ops.push(Op::Publish(Publish { size, ..publish.clone() }));
    }
}

fn subscriptions(random: &mut Random, ops: &mut Vec<Op>) {
    let client = client(random);
    let count = random.pick(&[1, 1, 1, 2, 3]);
    let filter = |random: &mut Random| random.below(FILTERS.len() as u64) as u8;
    if random.chance(25) {
        let filters = (0..count).map(|_| filter(random)).collect();
        ops.push(Op::Unsubscribe { client, filters });
        return;
    }
    let mut filters: Vec<(u8, u8)> = (0..count).map(|_| (filter(random), random.below(64) as u8)).collect();
    filters.sort_by_key(|(filter, _)| *filter);
    filters.dedup_by_key(|(filter, _)| *filter);
    ops.push(Op::Subscribe { client, filters, id: random.pick(&[0, 0, 1, 2, 77]) });
}

fn sockets(random: &mut Random) -> Op {
    let client = client(random);
    match random.weighted(&[15, 25, 15, 15, 15, 15, 3]) {
        0 => Op::Withhold { client, on: true },
        1 => Op::Withhold { client, on: false },
        2 => Op::Intake { client, bytes: random.pick(&[0, 1, 3, 50, u32::MAX, u32::MAX, u32::MAX]) },
        3 => Op::Cork { client, on: random.chance(50) },
        4 => Op::Pieces { client, bytes: random.pick(&[0, 0, 1, 5]) },
        5 if random.chance(5) => Op::Tiny { shard: random.below(8) as u8, bytes: random.pick(&[2, 10]) },
        5 => Op::Ping { client, count: random.pick(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 4000]) },
        _ => Op::Auth { client },
    }
}

fn bad(random: &mut Random) -> Bad {
    random.pick(&[
        Bad::Connect,
        Bad::Reserved,
        Bad::Qos3,
        Bad::PingResp,
        Bad::Oversized,
        Bad::PubAck,
        Bad::PubRel,
        Bad::Overrun,
        Bad::Alias,
    ])
}

fn time(random: &mut Random) -> Op {
    match random.below(3) {
        0 => Op::Rest,
        1 => Op::Pass { ms: random.pick(&[10, 100, 1000, 1000]) },
        _ => Op::Pass { ms: random.pick(&[1000, 5000, 5000, 20_000, 100_000, 700_000]) },
    }
}

fn lanes(random: &mut Random) -> Op {
    if random.chance(20) {
        return Op::Rest;
    }
    Op::Hold { from: random.below(8) as u8, to: random.below(8) as u8, on: random.chance(50) }
}

/// A plugin reads on behalf of clients while lanes are blocked and deliveries wait for verdicts,
/// and is replaced meanwhile, permanently or for a time.
fn replaced(random: &mut Random, ops: &mut Vec<Op>) {
    let (plugin, other) = (random.below(3) as u8, random.below(3) as u8);
    let lanes: Vec<(u8, u8)> = (0..4).map(|_| (random.below(8) as u8, random.below(8) as u8)).collect();
    let hold = |on: bool| lanes.iter().map(move |(from, to)| Op::Hold { from: *from, to: *to, on });
    ops.extend(hold(true));
    ops.push(Op::Arm { plugin: 0, point: 2, act: Act::Defer, calls: 10 });
    for _ in 0..=random.below(4) {
        let filter = random.below(FILTERS.len() as u64) as u8;
        let action = BehalfAction::Fetch(random.pick(&[0, 0, filter]));
        ops.push(Op::Behalf { plugin, client: client(random), action });
    }
    for ticket in 0..random.below(4) as u8 {
        ops.push(Op::Complete { ticket, answer: Answer::Continue, again: false });
    }
    ops.push(Op::Reload { plugin, hands_over: random.chance(90) });
    if random.chance(70) {
        ops.push(Op::TakeBack { plugin, comes_back: random.chance(80) });
    }
    ops.push(match random.below(3) {
        0 => Op::Unload { plugin: other },
        1 => Op::Load { plugin: other },
        _ => Op::Behalf { plugin, client: client(random), action: BehalfAction::Fetch(0) },
    });
    ops.extend(hold(false));
}

fn plugins(random: &mut Random) -> Op {
    let plugin = random.below(3) as u8;
    match random.weighted(&[50, 40, 4, 3, 6, 3, 3, 15]) {
        0 => Op::Arm {
            plugin,
            point: random.below(8) as u8,
            act: act(random),
            calls: random.pick(&[1, 1, 1, 2, 5]),
        },
        1 => Op::Complete {
            ticket: random.below(16) as u8,
            answer: random.pick(&[
                Answer::Continue,
                Answer::Continue,
                Answer::Continue,
                Answer::Change,
                Answer::Stop,
                Answer::Refuse,
                Answer::Fault,
                Answer::Round,
            ]),
            again: random.chance(10),
        },
        2 => Op::Load { plugin },
        3 => Op::Unload { plugin },
        4 => Op::Enable { plugin, on: random.chance(70) },
        5 => Op::Reload { plugin, hands_over: random.chance(80) },
        6 => Op::TakeBack { plugin, comes_back: random.chance(80) },
        _ => {
            let (filter, topic) = (random.below(FILTERS.len() as u64), random.below(TOPICS.len() as u64));
            let action = match random.weighted(&[70, 15, 15]) {
                0 => BehalfAction::Fetch(filter as u8),
                1 => BehalfAction::Publish(topic as u8),
                _ => BehalfAction::Subscribe(filter as u8),
            };
            Op::Behalf { plugin, client: client(random), action }
        }
    }
}

fn act(random: &mut Random) -> Act {
    random.pick(&[
        Act::Defer,
        Act::Defer,
        Act::Defer,
        Act::Defer,
        Act::ChangeAndDefer,
        Act::Change,
        Act::Stop,
        Act::Drop,
        Act::Reject,
        Act::Disconnect,
        Act::Fault,
        Act::ChangeAndFault,
        Act::Round,
    ])
}

fn rules(random: &mut Random) -> Op {
    let user = random.below(3) as u8;
    match random.below(3) {
        0 => Op::Invalidate(random.pick(&[
            Scope::All,
            Scope::Client(0),
            Scope::Client(3),
            Scope::User(1),
            Scope::Topics(1),
            Scope::Topics(9),
        ])),
        1 => Op::Rule { user, class: random.below(5) as u8, allow: false },
        _ => Op::Rule { user, class: random.below(5) as u8, allow: true },
    }
}
