//! Tests of listeners that are opened, changed and closed while the shards run.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use grapnel_engine::shard::ListenerInfo;

use super::client::{Client, connect};
use super::{Broker, End, wait_for};
use crate::net::{Listen, ListenerRules, bind};

fn rules(name: &str, allow_anonymous: bool) -> Arc<ListenerRules> {
    let info = ListenerInfo { name: name.into(), allow_anonymous, ..ListenerInfo::default() };
    Arc::new(ListenerRules::plain(Arc::new(info)))
}

/// The reason code of CONNACK; `None` if the connection is not answered.
fn connack(address: SocketAddr) -> Option<u8> {
    let mut client = Client::open(address);
    client.send(&connect("x"));
    let mut bytes = [0; 4];
    match client.socket.read_exact(&mut bytes) {
        Ok(()) => Some(bytes[3]),
        Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()) => None,
        Err(error) => panic!("nothing came: {error}"),
    }
}

#[test]
fn a_listener_comes_and_goes_while_the_clients_of_all_stay() {
    let broker = Broker::start(4);
    let listeners = broker.shards.listeners();
    let mut before = broker.connect("before");
    let second = super::listen("second");
    let bound = bind(&second, 4, 128).unwrap();
    let address = super::tcp(&bound.local);
    listeners.listen(bound);
    let mut through: Vec<Client> = (0..16).map(|_| Client::open(address)).collect();
    for (n, client) in through.iter_mut().enumerate() {
        client.send(&connect(&format!("through-{n}")));
        assert_eq!(client.packet(), super::client::CONNACK);
    }
    listeners.unlisten(&"second".into());
    wait_for("its port to be closed", || TcpStream::connect(address).is_err().then_some(()));
    let again = Listen { bind: address.into(), ..second };
    wait_for("nothing to hold the port", || bind(&again, 4, 128).ok());
    through.iter_mut().for_each(Client::ping);
    before.ping();
    broker.connect("after").ping();
    drop((before, through));
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn a_listener_that_is_closed_before_it_has_opened_does_not_open() {
    let broker = Broker::start(2);
    let listeners = broker.shards.listeners();
    let listen = super::listen("short");
    for _ in 0..50 {
        let bound = bind(&listen, 2, 128).unwrap();
        let address = super::tcp(&bound.local);
        listeners.listen(bound);
        listeners.unlisten(&"short".into());
        wait_for("its port to be closed", || TcpStream::connect(address).is_err().then_some(()));
    }
    assert_eq!(broker.drain(), End::Signal(15));
}

#[test]
fn new_connections_get_the_new_properties_of_their_listener() {
    let broker = Broker::start(2);
    let listeners = broker.shards.listeners();
    let mut before = broker.connect("before");
    assert_eq!(connack(broker.address), Some(0));
    listeners.relisten(&"test".into(), &rules("renamed", false));
    wait_for("anonymous clients to be refused", || (connack(broker.address) != Some(0)).then_some(()));
    // Both shards accept from it, and each has taken the request when it has answered this one.
    broker.count("connections_count");
    (0..16).for_each(|_| assert_ne!(connack(broker.address), Some(0)));
    before.ping();
    // It is found by its new name only.
    listeners.unlisten(&"test".into());
    broker.count("connections_count");
    assert_ne!(connack(broker.address), Some(0));
    listeners.unlisten(&"renamed".into());
    wait_for("its port to be closed", || TcpStream::connect(broker.address).is_err().then_some(()));
    before.ping();
    drop(before);
    assert_eq!(broker.drain(), End::Signal(15));
}
