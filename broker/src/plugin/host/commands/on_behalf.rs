//! Requests on behalf of clients: checked here, and passed to the shard of the client's session.

use grapnel_engine::hook::view::Action;
use grapnel_engine::hook::{PluginHandle, outgoing};
use grapnel_engine::message::FlowPart;
use grapnel_engine::packet::QoS;
use grapnel_engine::session::Identity;
use grapnel_engine::session::fetch::{Fetch, FetchPlace};
use grapnel_engine::shard::{BehalfAction, BehalfClient, Command, OnBehalf, home_of_keys};
use grapnel_engine::topic;
use grapnel_plugin_abi::host::{self, Behalf, PageRequest, PluginMessage};
use grapnel_plugin_abi::raw::{Action as RawAction, Status};

use super::{CommandQueue, read};

impl CommandQueue {
    pub(in crate::plugin) fn publish_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        message: &PluginMessage<'_>,
    ) -> Result<(), Status> {
        let account = self.leading_account(plugin)?;
        if message.store_only {
            // Not possible on behalf of a client.
            return Err(Status::INVALID);
        }
        let bounds = self.bounds();
        let (_, ancestry) = account.origin_of_command();
        let flow = message.flow;
        let mut message = outgoing::message_of(message, behalf.client.client_id(), ancestry, &bounds.limits)?;
        message.flow = (flow > 0).then(|| FlowPart::of(account.flows().count(flow)));
        let client = behalf_client(behalf)?;
        if !account.may_publish(self.begin.elapsed().as_secs(), bounds.shell.plugin_publishes_per_second_max)
        {
            return Err(Status::FULL);
        }
        self.submit_behalf(plugin, behalf, client, BehalfAction::Publish(message))
    }

    pub(in crate::plugin) fn subscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        options: u8,
        id: u32,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        let options = self.options_of(filter, options, id)?;
        let action = BehalfAction::Subscribe { filter: filter.into(), options, id };
        self.submit_behalf(plugin, behalf, behalf_client(behalf)?, action)
    }

    pub(in crate::plugin) fn unsubscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        topic::parse_filter(filter).map_err(|_| Status::INVALID)?;
        self.submit_behalf(
            plugin,
            behalf,
            behalf_client(behalf)?,
            BehalfAction::Unsubscribe { filter: filter.into() },
        )
    }

    pub(in crate::plugin) fn authorize_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        action: RawAction,
        topic: &str,
        (qos, retain): (u8, bool),
    ) -> Result<(), Status> {
        self.account(plugin)?;
        let action = match action {
            RawAction::PUBLISH => Action::Publish,
            RawAction::SUBSCRIBE => Action::Subscribe,
            RawAction::DELIVER => Action::Deliver,
            _ => return Err(Status::INVALID),
        };
        match action {
            Action::Subscribe => drop(self.filter_of(topic)?),
            _ => {
                topic::validate_name(topic).map_err(|_| Status::INVALID)?;
                self.check_topic(topic, topic)?;
            }
        }
        let qos = QoS::from_u8(qos).ok_or(Status::INVALID)?;
        self.submit_behalf(
            plugin,
            behalf,
            behalf_client(behalf)?,
            BehalfAction::Authorize { action, topic: topic.into(), qos, retain },
        )
    }

    pub(in crate::plugin) fn fetch_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        page: PageRequest<'_>,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        // A shared subscription gets no retained messages [MQTT 5.0 section 4.8.2].
        let fits = self.filter_of(filter)? == filter && page.messages_max > 0 && page.bytes_max > 0;
        let place = FetchPlace::decode(page.place)
            .filter(|place| fits && place.is_within(read(&self.shards).len()))
            .ok_or(Status::INVALID)?;
        let qos = QoS::from_u8(page.qos).ok_or(Status::INVALID)?;
        let PageRequest { messages_max, bytes_max, .. } = page;
        let fetch = Fetch { filter: filter.into(), qos, place, messages_max, bytes_max };
        self.submit_behalf(plugin, behalf, behalf_client(behalf)?, BehalfAction::Fetch(fetch))
    }

    /// Passes a request to the shard of the client's session.
    fn submit_behalf(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        client: BehalfClient,
        action: BehalfAction,
    ) -> Result<(), Status> {
        let shards = read(&self.shards);
        let home = home_of_keys(shards.len(), *read(&self.home_keys), behalf.client.client_id());
        let shard = shards.get(home.index()).ok_or(Status::WRONG_MOMENT)?;
        let (account, asked_max) = (self.account(plugin)?, self.bounds().limits.behalf_requests_max);
        let suspended = behalf.answer.map(|_| account.suspended());
        if let Some(suspended) = &suspended
            && !suspended.may_request(&account.name, behalf.client.client_id(), asked_max)
        {
            shard.refuse_request();
            return Err(Status::FULL);
        }
        let (plugin, answer) = (PluginHandle(plugin), behalf.answer);
        let handed = self.submit(shard, Command::As(Box::new(OnBehalf { plugin, client, answer, action })));
        handed.inspect_err(|_| suspended.iter().for_each(|suspended| suspended.give_back()))
    }
}

/// Converts the identity to the engine's form.
fn behalf_client(behalf: &Behalf<'_>) -> Result<BehalfClient, Status> {
    Ok(match behalf.client {
        host::BehalfClient::Client(client_id) => BehalfClient::Client(client_id.into()),
        host::BehalfClient::Identity(kept) => {
            BehalfClient::Identity(Box::new(Identity::from_stored(&kept).ok_or(Status::INVALID)?))
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use grapnel_engine::limits::Limits;
    use grapnel_plugin_abi::host::ClientIdentity;

    use super::super::tests::{command_queue, message};
    use super::super::{Bounds, write};
    use super::*;
    use crate::shard::limits::ShellLimits;

    fn somebody(client_id: &str) -> ClientIdentity<'_> {
        ClientIdentity {
            client_id,
            username: Some("ann"),
            is_certified: false,
            superuser: false,
            anonymous: false,
            clean_start: true,
            proto_ver: 5,
            keep_alive_s: 0,
            expiry_s: 0,
            receive_maximum: 1,
            connected_at_ms: 0,
            connection: 1,
            session: 1,
            peer: None,
            local: None,
            listener: "default",
            transport: "tcp",
            tls: None,
            properties: b"",
        }
    }

    #[test]
    fn requests_on_behalf_of_a_client_go_to_its_shard_with_its_identity() {
        let (commands, shards) = command_queue();
        for number in 0..20 {
            let name = format!("c{number}");
            let home = home_of_keys(2, [0; 4], &name).index();
            let identity = host::BehalfClient::Identity(somebody(&name));
            for client in [identity, host::BehalfClient::Client(&name)] {
                let behalf = Behalf { client, answer: Some(number) };
                commands.publish_as(5, &behalf, &message(b"a/b")).unwrap();
                let Some(Command::As(request)) = shards[home].next_plugin_command() else {
                    panic!("{name} went to the other shard")
                };
                let OnBehalf { plugin, answer, action: BehalfAction::Publish(message), .. } = *request else {
                    panic!()
                };
                assert_eq!((plugin, answer), (PluginHandle(5), Some(number)));
                assert_eq!((&*message.from, message.ancestry), (&*name, 1 << 9));
            }
        }
        assert!(commands.end_generation(PluginHandle(5)), "it has led to messages");
    }

    #[test]
    fn requests_of_a_suspended_plugin_are_limited() {
        let (commands, shards) = command_queue();
        let limits = Arc::new(Limits { behalf_requests_max: 3, ..Limits::default() });
        *write(&commands.bounds) = Arc::new(Bounds { limits, shell: ShellLimits::default() });
        let home = &shards[home_of_keys(2, [0; 4], "c").index()];
        let unsubscribe = |answer| {
            let behalf = Behalf { client: host::BehalfClient::Client("c"), answer };
            (0..5).map(|_| commands.unsubscribe_as(5, &behalf, "a").is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(unsubscribe(Some(1)), [true; 5]);
        commands.set_suspended(PluginHandle(5), true);
        assert_eq!(unsubscribe(None), [true; 5], "it is told nothing");
        assert_eq!(unsubscribe(Some(1)), [true, true, true, false, false]);
        assert_eq!((home.take_refused_requests(), home.take_refused_requests()), (2, 0));
        assert_eq!(
            std::iter::from_fn(|| home.next_plugin_command()).count(),
            13,
            "nothing is done of the others"
        );
        // A version that has taken over the state shares the count with the old one.
        let next = PluginHandle(1 << 32 | 5);
        commands.admit(next, &"five".into(), 9, false);
        commands.share_waiting_requests(PluginHandle(5), next);
        commands.set_suspended(next, true);
        let behalf = Behalf { client: host::BehalfClient::Client("c"), answer: Some(1) };
        assert_eq!(commands.unsubscribe_as(next.0, &behalf, "a"), Err(Status::FULL));
        commands.set_suspended(next, false);
        assert_eq!(unsubscribe(Some(1)), [true; 5]);
        while home.next_plugin_command().is_some() {}
        // A command that the shard refuses is not counted.
        commands.set_suspended(PluginHandle(5), true);
        let limits = Arc::new(Limits { behalf_requests_max: 3, ..Limits::default() });
        let shell = ShellLimits { plugin_commands_max: 0, ..ShellLimits::default() };
        *write(&commands.bounds) = Arc::new(Bounds { limits: Arc::clone(&limits), shell });
        assert_eq!(unsubscribe(Some(1)), [false; 5]);
        *write(&commands.bounds) = Arc::new(Bounds { limits, shell: ShellLimits::default() });
        assert_eq!(unsubscribe(Some(1)), [true, true, true, false, false]);
    }

    #[test]
    fn invalid_requests_on_behalf_of_a_client_are_refused() {
        let (commands, shards) = command_queue();
        let good = Behalf { client: host::BehalfClient::Client("c"), answer: None };
        // Properties that no CONNECT may have.
        let wrong = ClientIdentity { properties: b"\x01\x00", ..somebody("c") };
        let wrong = Behalf { client: host::BehalfClient::Identity(wrong), answer: None };
        let publish = |behalf, topic| commands.publish_as(5, behalf, &message(topic));
        assert_eq!(publish(&wrong, b"a/b"), Err(Status::INVALID));
        assert_eq!(publish(&good, b"a/+"), Err(Status::INVALID));
        assert_eq!(commands.subscribe_as(5, &good, "a/#/b", 0, 0), Err(Status::INVALID));
        assert_eq!(commands.subscribe_as(5, &good, "a", 3, 0), Err(Status::INVALID));
        assert_eq!(commands.subscribe_as(5, &good, "a", 0, 268_435_456), Err(Status::INVALID));
        assert_eq!(commands.unsubscribe_as(5, &good, ""), Err(Status::INVALID));
        for (action, topic) in [
            (RawAction::WILL, "a"),
            (RawAction(9), "a"),
            (RawAction::PUBLISH, "a/#"),
            (RawAction::SUBSCRIBE, "a#"),
        ] {
            assert_eq!(
                commands.authorize_as(5, &good, action, topic, (0, false)),
                Err(Status::INVALID),
                "{topic}"
            );
        }
        assert_eq!(
            commands.authorize_as(5, &good, RawAction::PUBLISH, "a", (3, false)),
            Err(Status::INVALID)
        );
        let page = PageRequest { qos: 1, place: &[], messages_max: 256, bytes_max: 1 << 20 };
        for (filter, wrong) in [
            ("a/#/b", page),
            // A shared subscription gets no retained messages.
            ("$share/g/a", page),
            ("a", PageRequest { qos: 3, ..page }),
            ("a", PageRequest { messages_max: 0, ..page }),
            ("a", PageRequest { bytes_max: 0, ..page }),
            // Places: invalid, of another layout, of a shard that does not exist, and not UTF-8.
            ("a", PageRequest { place: b"x", ..page }),
            ("a", PageRequest { place: b"\x02\x00", ..page }),
            ("a", PageRequest { place: b"\x01\x02a", ..page }),
            ("a", PageRequest { place: b"\x01\x00\xff", ..page }),
        ] {
            assert_eq!(
                commands.fetch_as(5, &good, filter, wrong),
                Err(Status::INVALID),
                "{filter} {wrong:?}"
            );
        }
        assert!(shards.iter().all(|shard| shard.next_plugin_command().is_none()));
        commands.fetch_as(5, &good, "a/#", PageRequest { place: b"\x01\x01a", ..page }).unwrap();
        commands.fetch_as(5, &good, "a/#", PageRequest { messages_max: 1, bytes_max: 1, ..page }).unwrap();
        // The limits of the settings apply to a page.
        let all = PageRequest { messages_max: u32::MAX, bytes_max: u32::MAX, ..page };
        commands.fetch_as(5, &good, "a/#", all).unwrap();
        assert_eq!(commands.publish_as(6, &good, &message(b"a/b")), Err(Status::STALE));
        commands.subscribe_as(5, &good, "$share/g/a/#", 1, 7).unwrap();
        commands.authorize_as(5, &good, RawAction::SUBSCRIBE, "$share/g/a/#", (0, false)).unwrap();
    }
}
