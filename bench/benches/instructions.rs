//! Counts the instructions of one step of each unit with callgrind, through gungraun. `just
//! bench-instructions` runs it and compares the result with the committed baseline. gungraun's
//! attributes need each name in full.

#![allow(missing_docs)]

mod units;

use gungraun::{library_benchmark, library_benchmark_group, main};
use units::{Unit, prepare};

type Done = (Box<dyn Unit>, u64);

#[library_benchmark]
#[bench::decode_connect_v5(args = ("codec/decode_connect_v5"), setup = prepare)]
#[bench::decode_publish_v311(args = ("codec/decode_publish_v311"), setup = prepare)]
#[bench::decode_publish_v5(args = ("codec/decode_publish_v5"), setup = prepare)]
#[bench::decode_subscribe_v5(args = ("codec/decode_subscribe_v5"), setup = prepare)]
#[bench::encode_connack_v5(args = ("codec/encode_connack_v5"), setup = prepare)]
#[bench::encode_publish_v311(args = ("codec/encode_publish_v311"), setup = prepare)]
#[bench::encode_publish_v5(args = ("codec/encode_publish_v5"), setup = prepare)]
fn codec(mut unit: Box<dyn Unit>) -> Done {
    let done = unit.step();
    (unit, done)
}

#[library_benchmark]
#[bench::match_cached(args = ("trie/match_cached"), setup = prepare)]
#[bench::match_deep(args = ("trie/match_deep"), setup = prepare)]
#[bench::match_literal(args = ("trie/match_literal"), setup = prepare)]
#[bench::match_none(args = ("trie/match_none"), setup = prepare)]
#[bench::match_wildcards(args = ("trie/match_wildcards"), setup = prepare)]
#[bench::subscribe_literal(args = ("trie/subscribe_literal"), setup = prepare)]
#[bench::subscribe_wildcard(args = ("trie/subscribe_wildcard"), setup = prepare)]
fn trie(mut unit: Box<dyn Unit>) -> Done {
    let done = unit.step();
    (unit, done)
}

#[library_benchmark]
#[bench::idle_c_4(args = ("chain/idle_c_4"), setup = prepare)]
#[bench::idle_c_16(args = ("chain/idle_c_16"), setup = prepare)]
#[bench::idle_sdk_4(args = ("chain/idle_sdk_4"), setup = prepare)]
#[bench::idle_sdk_16(args = ("chain/idle_sdk_16"), setup = prepare)]
#[bench::idle_filtered_4(args = ("chain/idle_filtered_4"), setup = prepare)]
#[bench::idle_filtered_16(args = ("chain/idle_filtered_16"), setup = prepare)]
#[bench::links_0(args = ("chain/links_0"), setup = prepare)]
#[bench::links_1(args = ("chain/links_1"), setup = prepare)]
#[bench::links_4(args = ("chain/links_4"), setup = prepare)]
#[bench::links_16(args = ("chain/links_16"), setup = prepare)]
#[bench::rewrite_1(args = ("chain/rewrite_1"), setup = prepare)]
fn chain(mut unit: Box<dyn Unit>) -> Done {
    let done = unit.step();
    (unit, done)
}

#[library_benchmark]
#[bench::connect_disconnect(args = ("session/connect_disconnect"), setup = prepare)]
#[bench::fan_out_500_qos0(args = ("session/fan_out_500_qos0"), setup = prepare)]
#[bench::fan_out_500_qos1(args = ("session/fan_out_500_qos1"), setup = prepare)]
#[bench::ping(args = ("session/ping"), setup = prepare)]
#[bench::publish_qos0(args = ("session/publish_qos0"), setup = prepare)]
#[bench::publish_qos0_links_4(args = ("session/publish_qos0_links_4"), setup = prepare)]
#[bench::publish_qos0_v5(args = ("session/publish_qos0_v5"), setup = prepare)]
#[bench::publish_qos1(args = ("session/publish_qos1"), setup = prepare)]
#[bench::publish_qos2(args = ("session/publish_qos2"), setup = prepare)]
#[bench::publish_unrouted(args = ("session/publish_unrouted"), setup = prepare)]
#[bench::resume_10_queued(args = ("session/resume_10_queued"), setup = prepare)]
#[bench::retained_set_clear(args = ("session/retained_set_clear"), setup = prepare)]
#[bench::shared_10_members(args = ("session/shared_10_members"), setup = prepare)]
#[bench::subscribe_unsubscribe(args = ("session/subscribe_unsubscribe"), setup = prepare)]
fn session(mut unit: Box<dyn Unit>) -> Done {
    let done = unit.step();
    (unit, done)
}

library_benchmark_group!(name = units_group, benchmarks = [codec, trie, chain, session]);

main!(library_benchmark_groups = units_group);
