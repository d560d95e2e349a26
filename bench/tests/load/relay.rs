//! A relay process, and clients on raw sockets with a dozen packets. Every wait is bounded.

use super::tool::{Ended, PATIENCE, Tool};
use grapnel_floor::wire::push_variable;
use procfs::process::Process;
use rustix::process::Signal;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// A running `grapnel-bench floor`, which ends with the test.
pub struct Floor {
    tool: Tool,
    pub addr: SocketAddr,
}

impl Floor {
    pub fn start() -> Self {
        Self::of(Tool::spawn(["floor", "--listen", "127.0.0.1:0"]))
    }

    /// Starts it with so many file descriptors.
    pub fn start_with_descriptors(count: u32) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {count} && exec \"$0\" floor --listen 127.0.0.1:0");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_grapnel-bench")]);
        Self::of(Tool::of(command))
    }

    fn of(mut tool: Tool) -> Self {
        let mut line = String::new();
        tool.stdout.read_line(&mut line).unwrap();
        let addr = line.trim_end().strip_prefix("listening on mqtt://").map(str::parse);
        let Some(Ok(addr)) = addr else { panic!("said instead: {line}") };
        Self { tool, addr }
    }

    /// Signals it, and waits for its end.
    pub fn end(self, signal: Signal) -> Ended {
        self.tool.signal(signal);
        self.tool.end()
    }

    /// Maximum of its memory, in bytes.
    pub fn memory_max(&self) -> u64 {
        let process = Process::new(i32::try_from(self.tool.child.id()).unwrap()).unwrap();
        process.status().unwrap().vmhwm.unwrap() * 1024
    }

    /// A connection that has sent nothing yet.
    pub fn socket(&self) -> Client {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream }
    }

    /// A client of MQTT 3.1.1.
    pub fn client(&self) -> Client {
        let mut client = self.socket();
        client.send(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c");
        client.expect(&[0x20, 2, 0, 0]);
        client
    }

    pub fn subscriber(&self, filter: &str, qos: u8) -> Client {
        let mut client = self.client();
        client.subscribe(filter, qos);
        client
    }
}

/// A raw socket.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Checks that these are the next bytes.
    pub fn expect(&mut self, bytes: &[u8]) {
        let got = self.take(bytes.len());
        assert!(got == bytes, "got {got:02x?} instead of {bytes:02x?}");
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut got = vec![0; count];
        self.stream.read_exact(&mut got).unwrap();
        got
    }

    /// Checks that nothing arrives before the answer to a ping, which follows everything under way.
    pub fn expect_nothing(&mut self) {
        self.send(&[0xC0, 0]);
        self.expect(&[0xD0, 0]);
    }

    /// Checks that the relay closes the connection, and sends only `bytes` before.
    pub fn expect_end(&mut self, bytes: &[u8]) {
        let mut got = Vec::new();
        match self.stream.read_to_end(&mut got) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(got, bytes);
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        self.send(&packet(0x82, &[&[0, 9], &text(filter), &[qos]]));
        self.expect(&[0x90, 3, 0, 9, qos]);
    }

    /// Sends `bytes` repeatedly, at most `times` times, until the socket accepts nothing for a
    /// second. Returns the number of times. The second is not critical: on a slow machine fewer are
    /// sent.
    pub fn send_until_blocked(&mut self, bytes: &[u8], times: usize) -> (usize, Vec<u8>) {
        self.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        for time in 0..times {
            let mut rest = bytes;
            while !rest.is_empty() {
                match self.stream.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.stream.set_write_timeout(Some(PATIENCE)).unwrap();
                        return (time, rest.to_vec());
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        panic!("the floor took all {times} of {} bytes each", bytes.len());
    }
}

/// Bytes of a packet.
pub fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut packet = vec![first];
    push_variable(body.len(), &mut packet);
    packet.extend(body);
    packet
}

/// A text with its length before it.
pub fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// A PUBLISH of MQTT 3.1.1.
pub fn publish(qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    packet(0x30 | qos << 1, &[&text(topic), if qos == 0 { &[] } else { &id }, payload])
}
