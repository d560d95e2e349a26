//! Which sessions the broker must still have, and which it must not: what CONNACK says is compared with it.
//! Where a session may just be ending, nobody can say.

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
    /// It may be there or not.
    Unsure,
    /// The operator has thrown it away.
    Discarded,
}

/// Sessions by client.
#[derive(Default)]
pub struct Sessions {
    states: Vec<(State, u8)>,
}

/// How much later than due a session may expire: the wheel turns once a second.
const SLACK_MS: u64 = 2500;

impl Sessions {
    pub fn new(clients: usize) -> Sessions {
        Sessions { states: vec![(State::None, 0); clients] }
    }

    /// One more client.
    pub fn add(&mut self) {
        self.states.push((State::None, 0));
    }

    pub fn connected(&mut self, client: usize, user: u8, expiry_s: u32) {
        self.states[client] = (State::Connected { expiry_s }, user);
    }

    /// The connection that was in has ended; `unsure` says that the engine may not be through with it.
    pub fn away(&mut self, client: usize, expiry_s: u32, now_ms: u64, unsure: bool) {
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

    /// Whether the operator has thrown the last session away.
    pub fn is_discarded(&self, client: usize) -> bool {
        matches!(self.states[client].0, State::Discarded)
    }

    /// Whose session it is.
    pub fn user(&self, client: usize) -> u8 {
        self.states[client].1
    }

    /// Whether a CONNECT without a clean start finds a session; `None` where nobody can say.
    pub fn present(&self, client: usize, now_ms: u64) -> Option<bool> {
        match self.states[client].0 {
            State::None | State::Discarded => Some(false),
            State::Connected { expiry_s } => Some(expiry_s > 0),
            State::Away { until_ms } if now_ms + SLACK_MS < until_ms => Some(true),
            State::Away { until_ms } if now_ms > until_ms + SLACK_MS => Some(false),
            State::Away { .. } | State::Unsure => None,
        }
    }

    /// Clients whose session is there for certain.
    pub fn there(&self, now_ms: u64) -> Vec<usize> {
        (0..self.states.len()).filter(|client| self.present(*client, now_ms) == Some(true)).collect()
    }
}
