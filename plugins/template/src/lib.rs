//! template: marks the messages of some topics with a user property that counts them. Loaded as
//! `libgrapnel_template.so`; `scripts/new-plugin` makes other plugins from it.

use std::sync::Arc;

use grapnel_plugin_abi::{Error, Host, Plugin, Publish, Refused, counted};

/// The configuration, in `[plugins.template] config` or with `--set` of ctl.
#[derive(serde::Deserialize)]
struct Config {
    /// Topic names with this prefix are marked; all if it is empty.
    #[serde(default)]
    topic_prefix: String,
    /// Name of the user property.
    #[serde(default = "default_property")]
    property: String,
}

fn default_property() -> String {
    "template".to_owned()
}

/// The shared part: one for the broker, read by all shards.
struct TemplatePlugin {
    config: Config,
}

/// The instance of one shard. No other thread uses it, so that its state needs no lock.
struct TemplateShard {
    shared: Arc<TemplatePlugin>,
    marked: u64,
}

impl Plugin for TemplatePlugin {
    type Config = Config;
    type Shard = TemplateShard;

    fn load(config: Config, host: &Host) -> Result<TemplatePlugin, Error> {
        if config.property.is_empty() {
            return Err(Error::new("the property needs a name"));
        }
        host.info(format_args!("marks messages on {}", counted(host.shards(), "shard")));
        Ok(TemplatePlugin { config })
    }

    fn init_shard(self: &Arc<Self>, _shard: u32) -> Result<TemplateShard, Error> {
        Ok(TemplateShard { shared: Arc::clone(self), marked: 0 })
    }
}

impl TemplateShard {
    fn publish(&mut self, message: &mut Publish<'_>) -> Result<(), Refused> {
        let config = &self.shared.config;
        if message.topic().starts_with(&config.topic_prefix) {
            self.marked += 1;
            message.add_user_property(&config.property, &self.marked.to_string())?;
        }
        Ok(())
    }
}

grapnel_plugin_abi::plugin!(TemplatePlugin { message.publish => TemplateShard::publish });

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use grapnel_plugin_abi::testing::{self, FakeEvent, Outcome};

    use super::*;

    #[test]
    fn it_counts_the_messages_of_its_topics_on_each_shard() {
        let mut plugin = testing::load_on::<TemplatePlugin>(2, r#"{"topic_prefix": "a/"}"#).unwrap();
        for (shard, topic, mark) in
            [(0, "a/b", Some("1")), (0, "a/c", Some("2")), (1, "a/b", Some("1")), (0, "b", None)]
        {
            let mut message = FakeEvent::publish(topic, b"hello");
            assert_eq!(plugin.run_on(shard, &mut message), Outcome::Continue);
            let marks = message.user_properties();
            assert_eq!(marks.first().map(|(_, value)| value.as_str()), mark, "{topic} on shard {shard}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let error_of = |config| testing::load::<TemplatePlugin>(config).unwrap_err();
        assert_eq!(error_of(r#"{"property": ""}"#), "the property needs a name");
        assert_eq!(
            error_of(r#"{"prefix": "a/"}"#),
            "the key prefix is not known; did you mean topic_prefix?"
        );
    }
}
