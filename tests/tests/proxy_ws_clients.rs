//! MQTT over WebSocket and over TLS with WebSocket, by the clients and the broker that people use: mqtt.js, paho and
//! mosquitto. `cargo xtask setup` installs the clients.

mod front;
mod proxied;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use lb_tests::process::Process;
use proxied::{Agent, Authority, Directory, eventually, free_port};

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

#[test]
fn mqtt_js_and_paho_reach_mosquitto() {
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
    let mut mosquitto = Process::start("mosquitto", mosquitto, &log).unwrap();
    let authority = Authority::new("test");
    let identity = authority.sign("localhost", &["localhost", "127.0.0.1"]);
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
        std::net::TcpStream::connect((mqtt.ip(), port)).is_ok()
    });
    let javascript = |url: String| {
        let mut node = Command::new("node");
        node.env("NODE_PATH", installed("node_modules"));
        heard(node.arg(script("websocket.js")).arg(url))
    };
    for url in [format!("ws://{ws}/mqtt"), format!("wss://{wss}/mqtt")] {
        assert_eq!(javascript(url), ["js-3", "js-4", "js-5"]);
    }
    let mut paho = Command::new(installed("venv/bin/python"));
    paho.arg(script("websocket.py"))
        .args(["127.0.0.1", &ws.port().to_string()]);
    assert_eq!(heard(&mut paho), ["py-4", "py-5"]);
    agent.counted("steered_agent", 8);
    mosquitto.kill();
}
