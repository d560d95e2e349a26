//! Tools that users have, as they call them: mosquitto's clients, `openssl s_client` and curl.

use std::process::Command;

use grapnel_tests::certificates::CLIENT_NAME;
use grapnel_tests::process::{Process, command};
use grapnel_tests::{Client, Connect, Kind, PATIENCE, Publish, Site, Version};

fn port(site: &Site, kind: Kind) -> String {
    site.address(kind).port().to_string()
}

/// A command of mosquitto with what it needs for this listener.
fn mosquitto(site: &Site, program: &str, kind: Kind) -> Command {
    let files = site.certificates();
    let mut command = command(program);
    command.args(["-V", "mqttv5", "-q", "1", "-t", "tools"]);
    if kind == Kind::Unix {
        command.arg("--unix").arg(site.unix());
        return command;
    }
    command.args(["-h", "localhost", "-p", &port(site, kind)]);
    if kind.has_tls() {
        command.arg("--cafile").arg(files.authority());
    }
    if kind == Kind::Mutual {
        command.arg("--cert").arg(files.client()).arg("--key").arg(files.client_key());
    }
    command
}

on_both! {
    fn mosquittos_clients(site) {
        for kind in [Kind::Tls, Kind::Mutual, Kind::Unix] {
            let mut subscribe = mosquitto(site, "mosquitto_sub", kind);
            subscribe.args(["-d", "-C", "1", "-F", "got %p", "-i", "subscriber"]);
            let mut subscriber = Process::start("mosquitto_sub", subscribe, None);
            subscriber.wait_for_line("SUBACK", PATIENCE, |line| line.starts_with("Subscribed").then_some(()));
            let shown = site.broker().ctl_json(&["clients", "show", "subscriber"]);
            assert_eq!(shown["listener"], kind.name());
            if kind == Kind::Mutual {
                assert_eq!(shown["username"], CLIENT_NAME);
            }
            let mut publish = mosquitto(site, "mosquitto_pub", kind);
            publish.args(["-m", kind.name()]);
            Process::start("mosquitto_pub", publish, None).succeed(PATIENCE);
            let said = subscriber.succeed(PATIENCE);
            assert!(said.contains(&format!("got {}", kind.name())), "{said}");
        }
    }
}

/// `openssl s_client` for a listener.
fn s_client(site: &Site, kind: Kind, arguments: &[&str]) -> Command {
    let mut command = command("openssl");
    command.args(["s_client", "-connect", &site.address(kind).to_string(), "-verify_return_error"]);
    command.arg("-CAfile").arg(site.certificates().authority()).args(arguments);
    command
}

/// Runs it with this input. Returns what it printed.
#[track_caller]
fn said(command: Command, input: &[u8]) -> String {
    let mut process = Process::start("openssl s_client", command, Some(input));
    assert!(process.wait(PATIENCE).is_some(), "it does not end:\n{}", process.log());
    process.log()
}

/// CONNECT, a message to `tools`, DISCONNECT.
fn hello(text: &str) -> Vec<u8> {
    let connect = Connect::new(Version::V5, "s_client").encode();
    let publish = Publish::new("tools", text).encode(Version::V5);
    [&connect[..], &publish, &[0xE0, 0]].concat()
}

on_both! {
    /// Both versions of TLS, with and without ALPN (RFC 7301).
    fn openssl(site) {
        let mut subscriber = site.hello(Kind::Tcp, Version::V5, "subscriber");
        subscriber.subscribe("tools", 0);
        for version in ["-tls1_2", "-tls1_3"] {
            let name = if version == "-tls1_2" { "New, TLSv1.2" } else { "New, TLSv1.3" };
            // -quiet passes every byte on, and ends when the broker closes.
            said(s_client(site, Kind::Tls, &[version, "-quiet"]), &hello(version));
            assert_eq!(subscriber.message().text(), version);
            let text = said(s_client(site, Kind::Tls, &[version, "-alpn", "mqtt"]), b"");
            for wanted in ["Verification: OK", "ALPN protocol: mqtt", name] {
                assert!(text.contains(wanted), "{version}: {wanted:?} is not in:\n{text}");
            }
            let text = said(s_client(site, Kind::Tls, &[version, "-alpn", "http/1.1"]), b"");
            assert!(text.contains("no application protocol"), "{version}:\n{text}");
            let text = said(s_client(site, Kind::Wss, &[version, "-alpn", "http/1.1"]), b"");
            assert!(text.contains("ALPN protocol: http/1.1"), "{version}:\n{text}");
        }
        let text = said(s_client(site, Kind::Tls, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]), b"");
        assert!(text.contains("alert") && text.contains("New, (NONE)"), "{text}");
    }
}

on_both! {
    /// A session is resumed: by ticket in both versions.
    fn openssl_resumes_its_sessions(site) {
        let text = said(s_client(site, Kind::Tls, &["-tls1_2", "-reconnect"]), b"");
        assert_eq!(text.matches("Reused, TLSv1.2").count(), 5, "{text}");
        let file = site.certificates().folder().join("session");
        let file = file.to_str().unwrap();
        // The tickets of TLS 1.3 come after the handshake: it must read until the broker closes.
        said(s_client(site, Kind::Tls, &["-tls1_3", "-quiet", "-sess_out", file]), &hello("first"));
        let text = said(s_client(site, Kind::Tls, &["-tls1_3", "-sess_in", file]), b"");
        assert!(text.contains("Reused, TLSv1.3"), "{text}");
    }
}

on_both! {
    /// TLS 1.2 has renegotiation, which the broker refuses (RFC 5246 section 7.2.2); others are
    /// served.
    fn openssl_may_not_renegotiate(site) {
        let process = Process::start_listening("openssl", s_client(site, Kind::Tls, &["-tls1_2"]));
        process.wait_for_line("the handshake", PATIENCE, |line| line.contains("New, TLSv1.2").then_some(()));
        process.write(b"R\n".to_vec());
        process.wait_for_line("the attempt", PATIENCE, |line| line.contains("RENEGOTIATING").then_some(()));
        process.wait_for_line("the refusal", PATIENCE, |line| {
            let line = line.to_lowercase();
            (line.contains("no renegotiation") || line.contains("alert")).then_some(())
        });
        site.hello(Kind::Tls, Version::V5, "other").disconnect();
    }
}

/// curl for a WebSocket listener.
fn curl(site: &Site, kind: Kind, arguments: &[&str]) -> Command {
    let mut command = command("curl");
    command
        .args(["--silent", "--show-error", "--include", "--no-buffer", "--max-time", "20"])
        .args(arguments);
    command.arg("--cacert").arg(site.certificates().authority());
    let scheme = if kind.has_tls() { "https" } else { "http" };
    command.arg(format!("{scheme}://localhost:{}/mqtt", port(site, kind)));
    command
}

on_both! {
    /// A person who visits the port gets a sentence; an upgrade is answered as RFC 6455 section 1.3
    /// has it.
    fn curl_sees_what_the_port_is(site) {
        for kind in [Kind::Ws, Kind::Wss] {
            for version in ["--http1.1", "--http2"] {
                let text = Process::start("curl", curl(site, kind, &[version]), None).succeed(PATIENCE);
                assert!(text.starts_with("HTTP/1.1 426 "), "{kind:?} {version}: {text}");
                assert!(text.contains("This is an MQTT broker."), "{kind:?} {version}: {text}");
            }
            let headers = [
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Protocol: mqtt",
            ];
            let arguments: Vec<&str> = std::iter::once("--http1.1").chain(headers.iter().flat_map(|h| ["-H", h])).collect();
            let process = Process::start("curl", curl(site, kind, &arguments), None);
            process.wait_for_line("the status", PATIENCE, |line| line.starts_with("HTTP/1.1 101 ").then_some(()));
            process.wait_for_line("the key", PATIENCE, |line| {
                (line == "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").then_some(())
            });
        }
    }
}

/// A Unix socket has the mode of its listener.
#[test]
fn the_file_of_a_unix_socket_has_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::plan(grapnel_tests::Io::Ring).listener(Kind::Unix, "unix_mode = \"0600\"").start();
    let mode = std::fs::metadata(site.unix()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let mut client: Client = site.hello(Kind::Unix, Version::V5, "local");
    client.ping();
}
