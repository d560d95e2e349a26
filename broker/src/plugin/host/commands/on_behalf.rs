//! Requests on behalf of clients: checked here, and passed to the shard of the client's session.

use grapnel_engine::hook::view::Action;
use grapnel_engine::hook::{PluginHandle, outgoing};
use grapnel_engine::message::FlowPart;
use grapnel_engine::packet::QoS;
use grapnel_engine::session::Identity;
use grapnel_engine::session::fetch::{Fetch, FetchPlace};
use grapnel_engine::shard::{Command, OnBehalf, Whom, Wish, home_among};
use grapnel_engine::topic;
use grapnel_plugin_abi::host::{self, Behalf, PageWanted, PluginMessage};
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
        let (_, ancestry) = account.led_here();
        let flow = message.flow;
        let mut message = outgoing::message_of(message, behalf.whom.client_id(), ancestry, &bounds.limits)?;
        message.flow = (flow > 0).then(|| FlowPart::of(account.flows().count(flow)));
        let whom = whom_of(behalf)?;
        if !account.may_publish(self.begin.elapsed().as_secs(), bounds.shell.plugin_publishes_per_second_max)
        {
            return Err(Status::FULL);
        }
        self.hand_as(plugin, behalf, whom, Wish::Publish(message))
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
        let wish = Wish::Subscribe { filter: filter.into(), options, id };
        self.hand_as(plugin, behalf, whom_of(behalf)?, wish)
    }

    pub(in crate::plugin) fn unsubscribe_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        topic::parse_filter(filter).map_err(|_| Status::INVALID)?;
        self.hand_as(plugin, behalf, whom_of(behalf)?, Wish::Unsubscribe { filter: filter.into() })
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
        self.hand_as(
            plugin,
            behalf,
            whom_of(behalf)?,
            Wish::Authorize { action, topic: topic.into(), qos, retain },
        )
    }

    pub(in crate::plugin) fn fetch_as(
        &self,
        plugin: u64,
        behalf: &Behalf<'_>,
        filter: &str,
        page: PageWanted<'_>,
    ) -> Result<(), Status> {
        self.account(plugin)?;
        // A shared subscription gets no retained messages [MQTT 5.0 section 4.8.2].
        let fits = self.filter_of(filter)? == filter && page.messages_max > 0 && page.bytes_max > 0;
        let place = FetchPlace::decode(page.place)
            .filter(|place| fits && place.is_within(read(&self.shards).len()))
            .ok_or(Status::INVALID)?;
        let qos = QoS::from_u8(page.qos).ok_or(Status::INVALID)?;
        let PageWanted { messages_max, bytes_max, .. } = page;
        let fetch = Fetch { filter: filter.into(), qos, place, messages_max, bytes_max };
        self.hand_as(plugin, behalf, whom_of(behalf)?, Wish::Fetch(fetch))
    }

    /// Passes a request to the shard of the client's session.
    fn hand_as(&self, plugin: u64, behalf: &Behalf<'_>, whom: Whom, wish: Wish) -> Result<(), Status> {
        let shards = read(&self.shards);
        let home = home_among(shards.len(), *read(&self.home_keys), behalf.whom.client_id());
        let shard = shards.get(home.index()).ok_or(Status::WRONG_MOMENT)?;
        let (account, asked_max) = (self.account(plugin)?, self.bounds().limits.behalf_requests_max);
        let suspended = behalf.answer.map(|_| account.suspended());
        if let Some(suspended) = &suspended
            && !suspended.may_request(&account.name, behalf.whom.client_id(), asked_max)
        {
            shard.refuse_question();
            return Err(Status::FULL);
        }
        let (plugin, answer) = (PluginHandle(plugin), behalf.answer);
        let handed = self.hand(shard, Command::As(Box::new(OnBehalf { plugin, whom, answer, wish })));
        handed.inspect_err(|_| suspended.iter().for_each(|suspended| suspended.give_back()))
    }
}

/// Converts the identity to the engine's form.
fn whom_of(behalf: &Behalf<'_>) -> Result<Whom, Status> {
    Ok(match behalf.whom {
        host::Whom::Client(client_id) => Whom::Client(client_id.into()),
        host::Whom::Identity(kept) => {
            Whom::Identity(Box::new(Identity::from_stored(&kept).ok_or(Status::INVALID)?))
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
            properties: b"",
        }
    }

    #[test]
    fn what_is_asked_on_behalf_of_a_client_goes_to_its_shard_and_in_its_name() {
        let (commands, shards) = command_queue();
        for number in 0..20 {
            let name = format!("c{number}");
            let home = home_among(2, [0; 4], &name).index();
            let identity = host::Whom::Identity(somebody(&name));
            for whom in [identity, host::Whom::Client(&name)] {
                let behalf = Behalf { whom, answer: Some(number) };
                commands.publish_as(5, &behalf, &message(b"a/b")).unwrap();
                let Some(Command::As(request)) = shards[home].next_plugin_command() else {
                    panic!("{name} went to the other shard")
                };
                let OnBehalf { plugin, answer, wish: Wish::Publish(message), .. } = *request else {
                    panic!()
                };
                assert_eq!((plugin, answer), (PluginHandle(5), Some(number)));
                assert_eq!((&*message.from, message.ancestry), (&*name, 1 << 9));
            }
        }
        assert!(commands.dismiss(PluginHandle(5)), "it has led to messages");
    }

    #[test]
    fn a_plugin_that_is_not_called_asks_so_much_and_is_refused_then() {
        let (commands, shards) = command_queue();
        let limits = Arc::new(Limits { behalf_requests_max: 3, ..Limits::default() });
        *write(&commands.bounds) = Arc::new(Bounds { limits, shell: ShellLimits::default() });
        let home = &shards[home_among(2, [0; 4], "c").index()];
        let asks = |answer| {
            let behalf = Behalf { whom: host::Whom::Client("c"), answer };
            (0..5).map(|_| commands.unsubscribe_as(5, &behalf, "a").is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(asks(Some(1)), [true; 5]);
        commands.set_suspended(PluginHandle(5), true);
        assert_eq!(asks(None), [true; 5], "it is told nothing");
        assert_eq!(asks(Some(1)), [true, true, true, false, false]);
        assert_eq!((home.take_refused_questions(), home.take_refused_questions()), (2, 0));
        assert_eq!(
            std::iter::from_fn(|| home.next_plugin_command()).count(),
            13,
            "nothing is done of the others"
        );
        // A version that has taken over the state shares the count with the old one.
        let next = PluginHandle(1 << 32 | 5);
        commands.admit(next, &"five".into(), 9, false);
        commands.share_resting(PluginHandle(5), next);
        commands.set_suspended(next, true);
        let behalf = Behalf { whom: host::Whom::Client("c"), answer: Some(1) };
        assert_eq!(commands.unsubscribe_as(next.0, &behalf, "a"), Err(Status::FULL));
        commands.set_suspended(next, false);
        assert_eq!(asks(Some(1)), [true; 5]);
        while home.next_plugin_command().is_some() {}
        // A command that the shard refuses is not counted.
        commands.set_suspended(PluginHandle(5), true);
        let limits = Arc::new(Limits { behalf_requests_max: 3, ..Limits::default() });
        let shell = ShellLimits { plugin_commands_max: 0, ..ShellLimits::default() };
        *write(&commands.bounds) = Arc::new(Bounds { limits: Arc::clone(&limits), shell });
        assert_eq!(asks(Some(1)), [false; 5]);
        *write(&commands.bounds) = Arc::new(Bounds { limits, shell: ShellLimits::default() });
        assert_eq!(asks(Some(1)), [true, true, true, false, false]);
    }

    #[test]
    fn what_cannot_be_asked_on_behalf_of_a_client_is_refused() {
        let (commands, shards) = command_queue();
        let good = Behalf { whom: host::Whom::Client("c"), answer: None };
        // Properties that no CONNECT may have.
        let wrong = ClientIdentity { properties: b"\x01\x00", ..somebody("c") };
        let wrong = Behalf { whom: host::Whom::Identity(wrong), answer: None };
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
        let page = PageWanted { qos: 1, place: &[], messages_max: 256, bytes_max: 1 << 20 };
        for (filter, wrong) in [
            ("a/#/b", page),
            // A shared subscription gets no retained messages.
            ("$share/g/a", page),
            ("a", PageWanted { qos: 3, ..page }),
            ("a", PageWanted { messages_max: 0, ..page }),
            ("a", PageWanted { bytes_max: 0, ..page }),
            // Places: invalid, of another layout, of a shard that does not exist, and not UTF-8.
            ("a", PageWanted { place: b"x", ..page }),
            ("a", PageWanted { place: b"\x02\x00", ..page }),
            ("a", PageWanted { place: b"\x01\x02a", ..page }),
            ("a", PageWanted { place: b"\x01\x00\xff", ..page }),
        ] {
            assert_eq!(
                commands.fetch_as(5, &good, filter, wrong),
                Err(Status::INVALID),
                "{filter} {wrong:?}"
            );
        }
        assert!(shards.iter().all(|shard| shard.next_plugin_command().is_none()));
        commands.fetch_as(5, &good, "a/#", PageWanted { place: b"\x01\x01a", ..page }).unwrap();
        commands.fetch_as(5, &good, "a/#", PageWanted { messages_max: 1, bytes_max: 1, ..page }).unwrap();
        // The limits of the settings apply to a page.
        let all = PageWanted { messages_max: u32::MAX, bytes_max: u32::MAX, ..page };
        commands.fetch_as(5, &good, "a/#", all).unwrap();
        assert_eq!(commands.publish_as(6, &good, &message(b"a/b")), Err(Status::STALE));
        commands.subscribe_as(5, &good, "$share/g/a/#", 1, 7).unwrap();
        commands.authorize_as(5, &good, RawAction::SUBSCRIBE, "$share/g/a/#", (0, false)).unwrap();
    }
}
