//! MQTT over WebSocket and over TLS with WebSocket, by the clients and the broker that people use: mqtt.js in Node and in
//! headless Chromium, paho, and mosquitto. `cargo xtask setup` installs them.

mod front;
mod proxied;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use lb_tests::process::Process;
use proxied::{Agent, Authority, Directory, eventually, free_port};
use rcgen::{KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

fn installed(path: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/test-clients");
    let installed = root.join(path);
    assert!(
        installed.exists(),
        "{} is missing: run `cargo xtask setup`",
        installed.display()
    );
    installed
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(name)
}

/// Runs a client; what it has heard.
fn heard(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|l| l.strip_prefix("heard "))
        .map(str::to_owned)
        .collect()
}

/// mosquitto behind `mqlb`.
struct Stage {
    agent: Agent,
    ws: SocketAddr,
    wss: SocketAddr,
    /// SHA-256 of the certificate's public key, as browsers want it.
    pin: String,
    mosquitto: Process,
    files: Directory,
}

impl Stage {
    fn new() -> Self {
        let files = Directory::new();
        // Its WebSocket listens on every address, so the port must be one of its own.
        let (mqtt, broker_ws) = (SocketAddr::new(front::address(), 1883), free_port());
        let text = format!(
            "user root\npersistence false\nallow_anonymous true\nlog_dest stderr\n\
             listener 1883 {}\nlistener {} 127.0.0.1\nprotocol websockets\n",
            mqtt.ip(),
            broker_ws.port()
        );
        let mut mosquitto = Command::new("/usr/sbin/mosquitto");
        mosquitto
            .arg("-c")
            .arg(files.write("mosquitto.conf", &text));
        let log = files.path().join("mosquitto.log");
        let mosquitto = Process::start("mosquitto", mosquitto, &log).unwrap();
        let authority = Authority::new("test");
        let identity = authority.sign("localhost", &["localhost", "127.0.0.1"]);
        let key = KeyPair::from_pem(&identity.key).unwrap();
        let pin = BASE64.encode(&Sha256::digest(key.subject_public_key_info()));
        let cert = files.write("server.crt", &identity.cert);
        let key = files.write("server.key", &identity.key);
        let (ws, wss) = (free_port(), free_port());
        let port = broker_ws.port();
        let listeners = format!(
            "[[listener]]\nname = \"ws\"\nkind = \"ws\"\nbind = [\"{ws}\"]\npool = \"emqx\"\nws_port = {port}\n\
             [[listener]]\nname = \"wss\"\nkind = \"ws\"\nbind = [\"{wss}\"]\npool = \"emqx\"\nws_port = {port}\n\
             tls = {{ cert = \"{}\", key = \"{}\" }}\n",
            cert.display(),
            key.display()
        );
        let agent = Agent::start("", &listeners, &[mqtt]);
        eventually("mosquitto serves", || {
            TcpStream::connect((mqtt.ip(), port)).is_ok()
        });
        Self {
            agent,
            ws,
            wss,
            pin,
            mosquitto,
            files,
        }
    }

    fn urls(&self) -> [String; 2] {
        [
            format!("ws://{}/mqtt", self.ws),
            format!("wss://{}/mqtt", self.wss),
        ]
    }
}

#[test]
fn mqtt_js_and_paho_reach_mosquitto() {
    let mut stage = Stage::new();
    for url in stage.urls() {
        let mut node = Command::new("node");
        node.env("NODE_PATH", installed("node_modules"));
        let heard = heard(node.arg(script("websocket.js")).arg(url));
        assert_eq!(heard, ["js-3", "js-4", "js-5"]);
    }
    let mut paho = Command::new(installed("venv/bin/python"));
    paho.arg(script("websocket.py"))
        .args(["127.0.0.1", &stage.ws.port().to_string()]);
    assert_eq!(heard(&mut paho), ["py-4", "py-5"]);
    stage.agent.counted("steered_agent", 8);
    stage.mosquitto.kill();
}

/// Whether there is a browser; there must be one but on Ubuntu, which has no package of it.
fn has_chromium() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("chromium").exists());
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    assert!(
        found || system.contains("ID=ubuntu"),
        "chromium is missing: run `cargo xtask setup`"
    );
    found
}

#[test]
fn mqtt_js_in_chromium_reaches_mosquitto() {
    if !has_chromium() {
        println!("no chromium: the browser is not tested");
        return;
    }
    let mut stage = Stage::new();
    let (said, says) = channel();
    let page = free_port();
    let listener = TcpListener::bind(page).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let said = said.clone();
            // Browsers open connections that they don't use.
            thread::spawn(move || drop(serve_page(stream, &said)));
        }
    });
    let query = stage.urls().map(|url| format!("url={url}")).join("&");
    let mut chromium = Command::new("chromium");
    // Nothing but the page, and no certificate but this one is taken on trust.
    chromium
        .args(
            "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage"
                .split(' '),
        )
        .args(
            "--no-first-run --disable-background-networking --disable-component-update".split(' '),
        )
        .args(["--disable-sync", "--no-proxy-server"])
        .arg(format!(
            "--ignore-certificate-errors-spki-list={}",
            stage.pin
        ))
        .arg(format!(
            "--user-data-dir={}",
            stage.files.path().join("chromium").display()
        ))
        .arg(format!("http://{page}/?{query}"))
        .env("HOME", stage.files.path());
    let log = stage.files.path().join("chromium.log");
    let mut chromium = Process::start("chromium", chromium, &log).unwrap();
    // On a busy machine it takes long to start.
    let heard = says.recv_timeout(Duration::from_secs(180));
    let heard = heard.unwrap_or_else(|_| panic!("nothing heard: {}", chromium.output()));
    assert_eq!(heard, "heard ws-4\nheard ws-5\nheard wss-4\nheard wss-5");
    stage.agent.counted("steered_agent", 4);
    // So that it ends its own children, which still write to its files.
    let group = libc::pid_t::try_from(chromium.id()).unwrap();
    chromium.terminate(Duration::from_secs(60)).unwrap();
    // SAFETY: kill touches no memory, and signal 0 nobody.
    eventually(
        "its children have ended",
        || unsafe { libc::kill(-group, 0) } != 0,
    );
    stage.mosquitto.kill();
}

/// Answers one request: the page, its scripts, or what it has to say.
fn serve_page(stream: TcpStream, said: &Sender<String>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap();
            }
            Some(_) => {}
            None => break,
        }
    }
    let page = "<!doctype html><script src=/mqtt.js></script><script src=/browser.js></script>";
    let (kind, body) = match path.split('?').next().unwrap_or_default() {
        "/" => ("text/html", page.into()),
        "/mqtt.js" => {
            let bundle = installed("node_modules/mqtt/dist/mqtt.min.js");
            ("text/javascript", std::fs::read(bundle)?)
        }
        "/browser.js" => ("text/javascript", std::fs::read(script("browser.js"))?),
        "/heard" => {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            // The test may be over.
            let _ = said.send(String::from_utf8_lossy(&body).into_owned());
            ("text/plain", Vec::new())
        }
        _ => ("text/plain", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(&[head.as_bytes(), &body].concat())
}
