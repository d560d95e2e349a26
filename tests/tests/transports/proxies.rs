//! haproxy and nginx in front of the broker, each with a configuration of the test's own: the
//! client's address arrives in the PROXY protocol or in X-Forwarded-For, and TLS may end at the
//! proxy.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

use grapnel_tests::broker::free_port;
use grapnel_tests::layers::Layers;
use grapnel_tests::process::{Process, command};
use grapnel_tests::{Client, Connect, Kind, PATIENCE, Publish, Site, Version};

/// A proxy and the ports that it listens on.
struct Proxy {
    process: Process,
    ports: Vec<u16>,
}

impl Proxy {
    /// Starts a proxy and waits until it accepts connections on all ports.
    #[track_caller]
    fn start(name: &str, mut command: std::process::Command, ports: Vec<u16>) -> Proxy {
        // Debian has them where a user's path does not lead.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let proxy = Proxy { process: Process::start(name, command, None), ports };
        let until = Instant::now() + PATIENCE;
        for &port in &proxy.ports {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < until, "{name} does not listen:\n{}", proxy.process.log());
                std::thread::yield_now();
            }
        }
        proxy
    }

    #[track_caller]
    fn dial(&self, site: &Site, place: usize, tls: bool, path: Option<&str>) -> Client {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports[place]));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = tls.then(|| site.certificates().client_config(true, rustls::DEFAULT_VERSIONS));
        let layers = (tls || path.is_some()).then(|| {
            Layers::open(&mut stream, config, path)
                .unwrap_or_else(|error| panic!("{error}\n{}", self.process.log()))
        });
        Client::over(stream, layers, Version::V5)
    }
}

/// Logs in, checks the address that the broker shows, and exchanges a message.
#[track_caller]
fn check(site: &Site, client: &mut Client, name: &str, peer: Option<&str>) {
    let connack = client.log_in(&Connect::new(Version::V5, name));
    assert_eq!(connack.code, 0, "{name}");
    let local = client.stream().local_addr().unwrap().to_string();
    let shown = site.broker().ctl_json(&["clients", "show", name]);
    assert_eq!(shown["peer"], peer.unwrap_or(&local), "{name}");
    client.subscribe(name, 1);
    let payload = name.repeat(5_000);
    assert_eq!(client.publish(&Publish::new(name, &payload).qos(1)), 0, "{name}");
    assert_eq!(client.message().text(), payload);
}

fn haproxy(site: &Site) -> Proxy {
    let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
    let files = site.certificates();
    let (proxy, proxy_tls) = (site.address(Kind::Proxy), site.address(Kind::ProxyTls));
    let (both, ca) = (files.server_both(), files.authority());
    let (both, ca) = (both.display(), ca.display());
    let ssl = "proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c";
    let parts = [
        ("v1", String::new(), format!("{proxy} send-proxy")),
        ("v2", String::new(), format!("{proxy} send-proxy-v2 check inter 200")),
        (
            "ends-tls",
            format!("ssl crt {both} ca-file {ca} verify optional"),
            format!("{proxy} send-proxy-v2-ssl-cn {ssl}"),
        ),
        ("passes-tls", String::new(), format!("{proxy_tls} send-proxy-v2")),
    ];
    let mut text = "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n".to_owned();
    for ((name, bind, server), port) in parts.iter().zip(&ports) {
        text += &format!("listen {name}\n  bind 127.0.0.1:{port} {bind}\n  server one {server}\n");
    }
    let file = files.folder().join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let mut command = command("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Proxy::start("haproxy", command, ports)
}

on_both! {
    fn haproxy_in_front(site) {
        let proxy = haproxy(site);
        check(site, &mut proxy.dial(site, 0, false, None), "v1", None);
        check(site, &mut proxy.dial(site, 1, false, None), "v2", None);
        check(site, &mut proxy.dial(site, 2, true, None), "ends-tls", None);
        check(site, &mut proxy.dial(site, 3, true, None), "passes-tls", None);
    }
}

/// One process: workers would outlive a master that is killed with the test.
fn nginx(site: &Site) -> Proxy {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let files = site.certificates();
    let folder = files.folder().join("nginx");
    std::fs::create_dir(&folder).unwrap();
    let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {}/{name};\n", folder.display()))
        .concat();
    let (cert, key) = (files.server(), files.server_key());
    let text = format!(
        "load_module {module};
daemon off;
master_process off;
error_log stderr warn;
pid {folder}/pid;
events {{ worker_connections 200; }}
stream {{
  server {{ listen 127.0.0.1:{plain}; proxy_pass {proxy}; proxy_protocol on; }}
  server {{
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    proxy_pass {proxy};
    proxy_protocol on;
  }}
}}
http {{
{places}  access_log off;
  server {{
    listen 127.0.0.1:{web} ssl;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    location /mqtt {{
      proxy_pass http://{ws};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection \"upgrade\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_read_timeout 1h;
    }}
  }}
}}
",
        module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so").display(),
        folder = folder.display(),
        plain = ports[0],
        tls = ports[1],
        web = ports[2],
        proxy = site.address(Kind::Proxy),
        ws = site.address(Kind::Ws),
        cert = cert.display(),
        key = key.display(),
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = command("nginx");
    command.arg("-c").arg(file).args(["-e", "stderr"]);
    Proxy::start("nginx", command, ports)
}

on_both! {
    fn nginx_in_front(site in |plan| plan.websocket("trusted_proxies = [\"127.0.0.1\"]")) {
        let proxy = nginx(site);
        check(site, &mut proxy.dial(site, 0, false, None), "stream", None);
        check(site, &mut proxy.dial(site, 1, true, None), "ends-tls", None);
        // X-Forwarded-For names no port, and its last address that is no proxy is the client's. Here
        // all are proxies, so that the first is.
        check(site, &mut proxy.dial(site, 2, true, Some("/mqtt")), "web", Some("127.0.0.1:0"));
    }
}
