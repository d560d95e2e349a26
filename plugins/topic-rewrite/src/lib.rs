//! topic-rewrite: changes the topics of messages and subscriptions by rules, as EMQX does, and can
//! mark every message with the load of the plugin. The broker loads it as
//! `libgrapnel_topic_rewrite.so`.

pub mod config;
pub mod rule;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grapnel_plugin_abi::{Error, Host, Plugin, Publish, Refused, Subscribe, Unsubscribe, counted};

use config::{Action, Config};
use rule::{Client, Outcome, Rewriter, Rules};

/// The rules, and how often each produced an invalid topic.
#[derive(Debug)]
pub struct TopicRewrite {
    rules: Rules,
    refused: Box<[AtomicU64]>,
    stamp: Option<Stamp>,
    host: Host,
}

/// The user property that identifies this load.
#[derive(Clone, Debug)]
struct Stamp {
    key: String,
    value: String,
}

/// The rewriter of one shard.
#[derive(Debug)]
pub struct RewriteShard {
    shared: Arc<TopicRewrite>,
    rewriter: Rewriter,
    publishes: bool,
    subscribes: bool,
}

impl Plugin for TopicRewrite {
    type Config = Config;
    type Shard = RewriteShard;

    fn config_schema() -> Option<String> {
        Some(include_str!("schema.json").to_owned())
    }

    fn load(config: Config, host: &Host) -> Result<TopicRewrite, Error> {
        let rules = Rules::compile(&config.rules)?;
        let refused = (0..rules.len()).map(|_| AtomicU64::new(0)).collect();
        let stamp = config.stamp.map(|key| Stamp { key, value: host.handle().to_string() });
        Ok(TopicRewrite { rules, refused, stamp, host: *host })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<RewriteShard, Error> {
        Ok(RewriteShard {
            rewriter: Rewriter::new(&self.rules),
            publishes: self.rules.any(Action::Publish),
            subscribes: self.rules.any(Action::Subscribe),
            shared: Arc::clone(self),
        })
    }
}

impl TopicRewrite {
    /// Counts an invalid result of a rule, and logs the first one of each rule.
    fn refuse(&self, rule: usize, topic: &str, why: &dyn std::fmt::Display) {
        // Relaxed is enough: the counters are independent, and are read only at the end.
        if self.refused[rule - 1].fetch_add(1, Ordering::Relaxed) == 0 {
            self.host.warn(format_args!(
                "rule {rule} leaves {topic:?} as it is: {why} (said once for each rule; the number is logged at unload)"
            ));
        }
    }
}

impl Drop for TopicRewrite {
    fn drop(&mut self) {
        for (index, count) in self.refused.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let topics = counted(count, "topic");
                self.host.info(format_args!("rule {} did not rewrite {topics}", index + 1));
            }
        }
    }
}

impl RewriteShard {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        if self.publishes {
            let old = message.topic();
            let client = Client { id: message.client_id(), username: message.username() };
            match self.rewriter.rewrite(Action::Publish, old, client) {
                Outcome::Same => {}
                Outcome::New { rule, topic } => {
                    // The broker's limits may be lower than those of the specification.
                    if let Err(why) = message.set_topic(topic) {
                        self.shared.refuse(rule, old, &why);
                        // A refused topic would make this call a fault, which would also discard
                        // the stamp.
                        message.set_topic(old)?;
                    }
                }
                Outcome::Refused { rule, why } => self.shared.refuse(rule, old, &why),
            }
        }
        match &self.shared.stamp {
            Some(stamp) => message.add_user_property(&stamp.key, &stamp.value),
            None => Ok(()),
        }
    }

    fn subscribe(&mut self, packet: &mut Subscribe<'_>) {
        let Some((shared, rewriter)) = self.subscriptions() else { return };
        let client = Client { id: packet.client_id(), username: packet.username() };
        for index in 0.. {
            let Some(old) = packet.filter(index) else { break };
            rewrite_filter(shared, rewriter, old.filter, client, |new| packet.rewrite(index, new));
        }
    }

    fn unsubscribe(&mut self, packet: &mut Unsubscribe<'_>) {
        let Some((shared, rewriter)) = self.subscriptions() else { return };
        let client = Client { id: packet.client_id(), username: packet.username() };
        for index in 0.. {
            let Some(old) = packet.filter(index) else { break };
            rewrite_filter(shared, rewriter, old.filter, client, |new| packet.rewrite(index, new));
        }
    }

    fn subscriptions(&mut self) -> Option<(&TopicRewrite, &mut Rewriter)> {
        self.subscribes.then_some((&*self.shared, &mut self.rewriter))
    }
}

fn rewrite_filter(
    shared: &TopicRewrite,
    rewriter: &mut Rewriter,
    old: &str,
    client: Client<'_>,
    put: impl FnOnce(&str) -> Result<(), Refused>,
) {
    match rewriter.rewrite(Action::Subscribe, old, client) {
        Outcome::Same => {}
        Outcome::New { rule, topic } => {
            if let Err(why) = put(topic) {
                shared.refuse(rule, old, &why);
            }
        }
        Outcome::Refused { rule, why } => shared.refuse(rule, old, &why),
    }
}

// Early in every chain, so that other plugins see, count and authorize the final topic.
grapnel_plugin_abi::plugin!(TopicRewrite {
    message.publish(priority = 100) => RewriteShard::publish,
    client.subscribe(priority = 100) => RewriteShard::subscribe,
    client.unsubscribe(priority = 100) => RewriteShard::unsubscribe,
});

#[cfg(test)]
mod tests;
