//! The TLS variants of docker-compose.yml's balancers: the same nodes, behind TLS.

mod common;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lb_tests::emqx::node::Node;
use lb_tests::lab::Lab;
use lb_tests::raw::{self, Connect};
use lb_tests::recipe::{Kind, Options, Program, Recipe};
use lb_tests::websocket::WebSocket;

const MQTTS_PORT: u16 = 8883;
const WSS_PORT: u16 = 8084;
const HTTPS_PORT: u16 = 8443;

/// A TLS connection from the clients' namespace, by `openssl s_client`, which checks the certificate.
struct Tls {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Tls {
    fn connect(lab: &Lab, server: SocketAddr, certificate: &Path) -> Self {
        let mut openssl = lab.topology.clients.command("openssl").unwrap();
        openssl.args(["s_client", "-quiet", "-verify_return_error"]);
        openssl.args([
            "-verify_hostname",
            "mqtt.test",
            "-connect",
            &server.to_string(),
        ]);
        openssl.arg("-CAfile").arg(certificate);
        let (input, output) = (Stdio::piped(), Stdio::piped());
        openssl.stdin(input).stdout(output).stderr(Stdio::null());
        let mut child = openssl.spawn().expect("start openssl");
        let input = child.stdin.take().expect("stdin is piped");
        let output = child.stdout.take().expect("stdout is piped");
        Self {
            child,
            input,
            output,
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.input.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

/// A certificate for mqtt.test, and with its key as HAProxy reads it.
fn certificate(lab: &Lab) -> (PathBuf, PathBuf) {
    let directory = lab.directory();
    let (certificate, key) = (directory.join("certificate"), directory.join("key"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    openssl.args([
        "-subj",
        "/CN=mqtt.test",
        "-addext",
        "subjectAltName=DNS:mqtt.test",
    ]);
    openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    lb_tests::netns::run(&mut openssl).unwrap();
    // As docker-compose.yml mounts it: a directory with one file for each name.
    let directory = directory.join("certs");
    std::fs::create_dir(&directory).unwrap();
    let both = [&certificate, &key].map(|file| std::fs::read(file).unwrap());
    std::fs::write(directory.join("mqtt.test.pem"), both.concat()).unwrap();
    (certificate, directory)
}

fn connack(stream: &mut impl Read) {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("a CONNACK");
    assert_eq!(answer, raw::CONNACK);
}

#[test]
fn mqtt_websocket_and_the_front_are_served_behind_tls_with_the_same_memory() {
    for program in Program::all().unwrap() {
        eprintln!("{}", program.name);
        let lab = common::lab_without_brokers(3);
        let nodes = Node::start_all(&lab).unwrap();
        let (certificate, directory) = certificate(&lab);
        let options = Options {
            certificate: Some(directory),
            ..Options::weights([1, 1, 1])
        };
        let recipe = Recipe::start(&lab, &program, &options).unwrap();
        let at = |port| lab.topology.plan.vip().sockets(port);
        let busy = || {
            let counts = nodes.iter().map(|node| node.connections().unwrap());
            counts.collect::<Vec<_>>()
        };

        for server in at(MQTTS_PORT) {
            for id in ["one", "two", "three", "four"] {
                let connect = Connect::new(&format!("{id}-{server}")).encode();
                let mut plain = raw::open(&lab, at(1883)[0].ip(), &connect).unwrap();
                connack(&mut plain);
                let home = busy();
                drop(plain);
                wait_for(|| busy() == [0, 0, 0]);
                // The next one by turns would be another node.
                let mut tls = Tls::connect(&lab, server, &certificate);
                tls.write_all(&connect).unwrap();
                connack(&mut tls);
                assert_eq!(busy(), home, "{id}");
                drop(tls);
                wait_for(|| busy() == [0, 0, 0]);
            }
            let mut tls = Tls::connect(&lab, server, &certificate);
            tls.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            assert_eq!(tls.read(&mut [0]).unwrap(), 0, "no MQTT");
        }
        for server in at(WSS_PORT).into_iter().chain(at(HTTPS_PORT)) {
            let tls = Tls::connect(&lab, server, &certificate);
            let mut socket = WebSocket::upgrade(tls, "mqtt.test", "/mqtt").unwrap();
            socket.write_all(&Connect::new("web").encode()).unwrap();
            connack(&mut socket);
        }
        let statistics = match recipe.kind {
            Kind::HaProxy => ("/stats;csv", "emqx_mqtt,emqx1"),
            Kind::Mqlb => ("/stats", "emqx1"),
        };
        for (path, holds) in [("/", "dashboard of emqx"), statistics] {
            let mut tls = Tls::connect(&lab, at(HTTPS_PORT)[0], &certificate);
            write!(tls, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            tls.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(holds), "{answer}");
            let forwarded = answer.contains("x-forwarded-proto: https");
            assert!(forwarded || path != "/", "{answer}");
        }
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    common::wait_for("the sessions' end", Duration::from_secs(20), condition);
}
