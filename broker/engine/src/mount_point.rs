//! Mount points: what the broker puts in front of all topics and filters of a client, and takes off
//! again before the client sees a topic. A listener has the template, a client what it makes of it.
//! Flows call it at the edge of the broker: inside, every topic has its mount point.

use crate::reason::ReasonCode;
use crate::topic;

/// The mount point of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint(Box<[MountPiece]>);

/// A piece of a [`MountPoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountPiece {
    /// This text.
    Text(Box<str>),
    /// The client identifier.
    ClientId,
    /// The user name.
    UserName,
}

/// Why a client cannot have the mount point of its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// There is no user name, or it is empty.
    #[error("the mount point of this listener needs a user name")]
    NoUserName,
    /// The user name is no level of a topic.
    #[error(
        "the user name is a level of the mount point of this listener: it must not contain /, + or #, or control characters, nor begin with $"
    )]
    UserName,
    /// The client identifier is no level of a topic.
    #[error(
        "the client identifier is a level of the mount point of this listener: it must not contain /, + or #, or control characters, nor begin with $"
    )]
    ClientId,
}

impl MountError {
    /// The code for CONNACK.
    pub fn reason(self) -> ReasonCode {
        match self {
            MountError::NoUserName | MountError::UserName => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
            MountError::ClientId => ReasonCode::CLIENT_ID_NOT_VALID,
        }
    }
}

impl MountPoint {
    /// A mount point of these pieces. They must end with a `/`, have no wildcard, and have at most
    /// one name in a level, so that no client reaches into the topics of another one.
    pub fn new(pieces: impl IntoIterator<Item = MountPiece>) -> MountPoint {
        MountPoint(pieces.into_iter().collect())
    }

    /// The mount point of a client.
    ///
    /// # Errors
    /// What keeps a name out of it. A name with a `/` or a wildcard would lead out of the topics
    /// that are meant for the client, and an empty one would be shared.
    pub(crate) fn of_client(&self, client_id: &str, username: Option<&str>) -> Result<Mount, MountError> {
        let mut prefix = String::new();
        for piece in &self.0 {
            let (name, error) = match piece {
                MountPiece::Text(text) => {
                    prefix.push_str(text);
                    continue;
                }
                MountPiece::ClientId => (client_id, MountError::ClientId),
                MountPiece::UserName => (username.unwrap_or_default(), MountError::UserName),
            };
            if name.is_empty() && error == MountError::UserName {
                return Err(MountError::NoUserName);
            }
            // A topic that begins with `$` is not one of clients [MQTT-4.7.2-1].
            let leads_out = name.starts_with('$') && prefix.is_empty();
            if name.is_empty()
                || leads_out
                || name.contains(['/', '+', '#'])
                || name.contains(char::is_control)
            {
                return Err(error);
            }
            prefix.push_str(name);
        }
        Ok(Mount { prefix: prefix.into() })
    }
}

/// The mount point of a client: text that ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    prefix: Box<str>,
}

impl Mount {
    /// Bytes that it is charged for.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Mount>() + self.prefix.len()
    }

    /// Writes the topic as the broker has it over `out`.
    pub(crate) fn put_topic(&self, topic: &str, out: &mut String) {
        out.clear();
        out.push_str(&self.prefix);
        out.push_str(topic);
    }

    /// The filter as the broker has it. The filter of a shared subscription keeps its share name in
    /// front.
    pub(crate) fn filter(&self, filter: &str) -> String {
        let own = match topic::parse_filter(filter) {
            Ok(parsed) if parsed.share.is_some() => parsed.filter,
            _ => filter,
        };
        let share = &filter[..filter.len() - own.len()];
        [share, &self.prefix, own].concat()
    }

    /// What is in front of a topic that is below the mount point, bytes; 0 for one that is not, and
    /// for the mount point itself, which has no name below it.
    pub(crate) fn prefix_bytes(&self, topic: &str) -> usize {
        match topic.strip_prefix(&*self.prefix) {
            Some(below) if !below.is_empty() => self.prefix.len(),
            _ => 0,
        }
    }

    /// Whether a topic or filter, without a share name, is below the mount point.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.prefix_bytes(topic) > 0
    }
}

/// A topic or filter, without a share name, as a client with this mount point sees it. What is not
/// below the mount point stays as it is.
#[inline]
pub(crate) fn seen<'a>(mount: Option<&Mount>, topic: &'a str) -> &'a str {
    match mount {
        None => topic,
        Some(mount) => &topic[mount.prefix_bytes(topic)..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> MountPiece {
        MountPiece::Text(text.into())
    }

    fn of_names() -> MountPoint {
        MountPoint::new([text("a/"), MountPiece::UserName, text("/x-"), MountPiece::ClientId, text("/")])
    }

    #[test]
    fn a_client_gets_the_names_in_their_places() {
        let mount = of_names().of_client("c 1", Some("änn")).unwrap();
        let mut topic = "old".to_owned();
        mount.put_topic("t/u", &mut topic);
        assert_eq!(topic, "a/änn/x-c 1/t/u");
        assert_eq!(seen(Some(&mount), &topic), "t/u");
        assert_eq!(mount.filter("+/#"), "a/änn/x-c 1/+/#");
        assert_eq!(mount.filter("$share/g/+/u"), "$share/g/a/änn/x-c 1/+/u");
        assert_eq!(mount.filter("$share"), "a/änn/x-c 1/$share");
    }

    #[test]
    fn what_is_not_below_it_stays_as_it_is() {
        let mount = MountPoint::new([text("a/b/")]).of_client("c", None).unwrap();
        for topic in ["a/b", "a/b/", "a", "x/a/b/c", "a/bc", "A/b/c"] {
            assert_eq!(seen(Some(&mount), topic), topic);
            assert!(!mount.has(topic), "{topic}");
        }
        assert_eq!(seen(Some(&mount), "a/b//"), "/");
        assert_eq!(seen(None, "a/b/c"), "a/b/c");
    }

    #[test]
    fn no_name_leads_out_of_it() {
        let wrong = ["a/b", "/", "+", "#", "a+", "x#", "a\u{1}", "\0", "\u{85}"];
        for name in wrong {
            assert_eq!(of_names().of_client("c", Some(name)), Err(MountError::UserName), "{name:?}");
            assert_eq!(of_names().of_client(name, Some("ann")), Err(MountError::ClientId), "{name:?}");
        }
        assert_eq!(of_names().of_client("", Some("ann")), Err(MountError::ClientId));
        for nobody in [None, Some("")] {
            assert_eq!(of_names().of_client("c", nobody), Err(MountError::NoUserName));
        }
        // `$SYS` and `$share` are special at the beginning of a topic only.
        let first = MountPoint::new([MountPiece::UserName, text("/")]);
        assert_eq!(first.of_client("c", Some("$SYS")), Err(MountError::UserName));
        assert!(first.of_client("c", Some("a$")).is_ok());
        assert!(of_names().of_client("$c", Some("$SYS")).is_ok());
    }
}
