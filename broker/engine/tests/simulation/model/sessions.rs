//! The sessions that the broker must have, and those that it must not have; they are compared with
//! CONNACK. A session that may just be ending is uncertain.

/// What is known of the session of a client.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    None,
    Connected {
        expiry_s: u32,
    },
    Away {
        until_ms: u64,
    },
    /// The session may exist or not.
    Unsure,
    /// The operator has discarded it.
    Discarded,
}

/// Sessions by client.
#[derive(Default)]
pub struct Sessions {
    states: Vec<(State, u8)>,
}

/// Maximum delay of an expiry: the timer wheel turns once a second.
const SLACK_MS: u64 = 2500;

impl Sessions {
    pub fn new(clients: usize) -> Sessions {
        Sessions { states: vec![(State::None, 0); clients] }
    }

    /// Adds a client.
    pub fn add(&mut self) {
        self.states.push((State::None, 0));
    }

    pub fn connected(&mut self, client: usize, user: u8, expiry_s: u32) {
        self.states[client] = (State::Connected { expiry_s }, user);
    }

    /// The connection has ended; `unsure` means that the engine may not have processed that yet.
    pub fn disconnected(&mut self, client: usize, expiry_s: u32, now_ms: u64, unsure: bool) {
        let until_ms = now_ms + u64::from(expiry_s) * 1000;
        self.states[client].0 = match expiry_s {
            _ if unsure => State::Unsure,
            0 => State::None,
            _ => State::Away { until_ms },
        };
    }

    pub fn discarded(&mut self, client: usize) {
        self.states[client].0 = State::Discarded;
    }

    /// Whether the operator has discarded the last session.
    pub fn is_discarded(&self, client: usize) -> bool {
        matches!(self.states[client].0, State::Discarded)
    }

    /// The owner of the session.
    pub fn user(&self, client: usize) -> u8 {
        self.states[client].1
    }

    /// Whether a CONNECT without a clean start finds a session; `None` if uncertain.
    pub fn present(&self, client: usize, now_ms: u64) -> Option<bool> {
        match self.states[client].0 {
            State::None | State::Discarded => Some(false),
            State::Connected { expiry_s } => Some(expiry_s > 0),
            State::Away { until_ms } if now_ms + SLACK_MS < until_ms => Some(true),
            State::Away { until_ms } if now_ms > until_ms + SLACK_MS => Some(false),
            State::Away { .. } | State::Unsure => None,
        }
    }

    /// Clients whose session certainly exists.
    pub fn there(&self, now_ms: u64) -> Vec<usize> {
        (0..self.states.len()).filter(|client| self.present(*client, now_ms) == Some(true)).collect()
    }
}
