//! A network between a client and the broker that a test can cut and restore. A cut loses nothing
//! that the client has read, and passes nothing afterwards.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Up,
    /// Connections are accepted and closed at once.
    Down,
    /// The test is over.
    Ended,
}

struct State {
    mode: Mode,
    /// Both sockets of each connection.
    open: Vec<TcpStream>,
}

/// Forwards connections to the broker. Dropping it closes them.
pub struct Link {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Link {
    /// A link to `broker` that is up.
    pub fn new(broker: SocketAddr) -> Link {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State { mode: Mode::Up, open: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = lock(&shared);
                match state.mode {
                    Mode::Ended => return,
                    Mode::Down => {}
                    Mode::Up => state.open.extend(forward(&client, broker)),
                }
            }
        });
        Link { address, state }
    }

    /// The port that a client is to connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes all connections, and all new ones until it is restored.
    pub fn cut(&self) {
        self.set(Mode::Down);
    }

    /// Passes connections again.
    pub fn mend(&self) {
        self.set(Mode::Up);
    }

    fn set(&self, mode: Mode) {
        let mut state = lock(&self.state);
        state.mode = mode;
        for socket in state.open.drain(..) {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Mode::Ended);
        // Wakes the thread, which reads the mode.
        drop(TcpStream::connect(self.address));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies in both directions until either end closes. Returns the two sockets.
fn forward(client: &TcpStream, broker: SocketAddr) -> Vec<TcpStream> {
    let Ok(server) = TcpStream::connect(broker) else { return Vec::new() };
    let again = |socket: &TcpStream| socket.try_clone().expect("descriptors are left");
    for (from, to) in [(client, &server), (&server, client)] {
        to.set_nodelay(true).expect("a fresh socket takes options");
        let (mut from, mut to) = (again(from), again(to));
        std::thread::spawn(move || {
            // An error ends the connection like its end.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    vec![again(client), server]
}
