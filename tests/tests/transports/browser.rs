//! mqtt.js in a page in Chromium, over ws and wss. The page is served on loopback; what it has done
//! is seen by the messages that it publishes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

use grapnel_tests::process::{Process, command};
use grapnel_tests::{Io, Kind, PATIENCE, Site, Version, plugin};

const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>test</title><script src="mqtt.js"></script><script>
const [wss, ws] = location.hash.slice(1).split(',').map((port, n) => `${n ? 'ws' : 'wss'}://localhost:${port}/mqtt`);
const run = (name, url) => new Promise((done) => {
  const client = mqtt.connect(url, { protocolVersion: 5, clientId: `page ${name}`, reconnectPeriod: 0 });
  client.on('connect', async () => {
    await client.subscribeAsync(`to/page/${name}`, { qos: 1 });
    await client.publishAsync(`from/page/${name}`, 'hello', { qos: 2 });
  });
  client.on('message', async (_, body) => {
    await client.publishAsync(`from/page/${name}`, `got ${body}`, { qos: 1 });
    client.end();
  });
  client.on('error', () => {});
  client.on('close', () => done(client.disconnected));
});
run('ws', ws).then(() => run('wss', wss));
</script>"#;

/// Serves the page and the library until the test ends.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let library = plugin::directory().parent().unwrap().join("node/node_modules/mqtt/dist/mqtt.min.js");
    let library = std::fs::read_to_string(library).expect("scripts/test --prepare installs mqtt.js");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let library = library.clone();
            // A browser opens connections on which it sends nothing.
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(request)) = lines.next() else { return };
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let (kind, body) = if request.starts_with("GET /mqtt.js ") {
                    ("text/javascript", library.as_str())
                } else {
                    ("text/html", PAGE)
                };
                let length = body.len();
                // It may have left.
                drop(write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                ));
            });
        }
    });
    address
}

/// A browser with an empty profile that fetches nothing of its own.
fn chromium(site: &Site, url: &str) -> Process {
    let profile = site.certificates().folder().join("profile");
    let mut command = command("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-dev-shm-usage", "--ignore-certificate-errors", "--remote-debugging-port=0"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(url);
    Process::start("chromium", command, None)
}

#[test]
fn a_page_in_a_browser() {
    let page = serve();
    let origin = format!("http://localhost:{}", page.port());
    let site = Site::plan(Io::Ring).websocket(&format!("origins = [{origin:?}]")).start();
    let mut watcher = site.hello(Kind::Tcp, Version::V5, "watcher");
    watcher.subscribe("from/page/#", 2);
    let (wss, ws) = (site.address(Kind::Wss).port(), site.address(Kind::Ws).port());
    let mut browser = chromium(&site, &format!("{origin}/#{wss},{ws}"));
    for name in ["ws", "wss"] {
        // The browser needs some seconds for its start on a busy machine.
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watcher.message()));
        let got = got.unwrap_or_else(|_| panic!("nothing from the page over {name}:\n{}", browser.log()));
        assert_eq!((got.topic, got.payload), (format!("from/page/{name}"), b"hello".to_vec()));
        let shown = site.broker().ctl_json(&["clients", "show", &format!("page {name}")]);
        assert_eq!(shown["listener"], name);
        watcher.publish(&grapnel_tests::Publish::new(&format!("to/page/{name}"), "hello page").qos(1));
        assert_eq!(watcher.message().text(), "got hello page");
    }
    browser.signal(rustix::process::Signal::TERM);
    assert!(browser.wait(PATIENCE).is_some(), "chromium ends on SIGTERM");
}

/// A page of another origin may not connect (RFC 6455 section 10.2).
#[test]
fn a_page_of_another_origin() {
    let page = serve();
    let site = Site::plan(Io::Ring).websocket("origins = [\"https://example.org\"]").start();
    let (wss, ws) = (site.address(Kind::Wss).port(), site.address(Kind::Ws).port());
    let browser = chromium(&site, &format!("http://localhost:{}/#{wss},{ws}", page.port()));
    let refused =
        |line: &str| line.contains("Origin").then_some(()).or(line.contains("origin").then_some(()));
    site.broker().process().wait_for_lines("the refusals", 1, PATIENCE, refused);
    let clients = site.broker().ctl_json(&["clients", "list"]);
    assert_eq!(clients["clients"].as_array().unwrap().len(), 0, "{clients}");
    drop(browser);
}
