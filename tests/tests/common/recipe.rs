//! What the tests of the set-up of docker-compose.yml share.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use lb_tests::emqx::node::Node;
use lb_tests::http::{self, Response};
use lb_tests::lab::Lab;
use lb_tests::raw::{self, Connect};
use lb_tests::recipe::{Options, Program, Recipe};
use lb_tests::websocket::WebSocket;

pub const EQUAL: [u16; 3] = [1, 1, 1];

/// Runs `test` with three nodes behind each balancer.
pub fn with_each(options: &Options, test: impl Fn(&Lab, &mut Vec<Node>, &mut Recipe)) {
    for program in Program::all().unwrap_or_else(|error| panic!("{error:#}")) {
        eprintln!("{}", program.name);
        let lab = super::lab_without_brokers(3);
        let mut nodes = Node::start_all(&lab).unwrap();
        let recipe = Recipe::start(&lab, &program, options);
        let mut recipe = recipe.unwrap_or_else(|error| panic!("{error:#}"));
        let tested = catch_unwind(AssertUnwindSafe(|| test(&lab, &mut nodes, &mut recipe)));
        if let Err(panic) = tested {
            // The test's sessions are over by now: HAProxy tells of one, with its retries, when it ends.
            std::thread::sleep(Duration::from_secs(1));
            println!("{}", recipe.log());
            resume_unwind(panic);
        }
    }
}

/// The balancer's addresses of both families, with a port.
pub fn at(lab: &Lab, port: u16) -> [SocketAddr; 2] {
    lab.topology.plan.vip().sockets(port)
}

/// Numbers of the nodes, in their order.
pub fn each<const N: usize>(
    nodes: &[Node],
    number: impl Fn(&Node) -> anyhow::Result<usize>,
) -> [usize; N] {
    let numbers: Vec<_> = nodes.iter().map(|node| number(node).unwrap()).collect();
    numbers.try_into().expect("as many nodes as numbers")
}

/// The same, sorted.
pub fn spread(nodes: &[Node], number: impl Fn(&Node) -> anyhow::Result<usize>) -> [usize; 3] {
    let mut numbers = each(nodes, number);
    numbers.sort_unstable();
    numbers
}

pub fn request(lab: &Lab, server: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Response {
    let answer = http::request(&lab.topology.clients, server, "GET", path, fields);
    answer.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Connects with MQTT and returns the session's socket after the CONNACK.
pub fn session(lab: &Lab, id: &str) -> TcpStream {
    let vip = lab.topology.plan.vip().v4.into();
    let mut stream = raw::open(lab, vip, &Connect::new(id).encode()).unwrap();
    super::expect_connack(&mut stream);
    stream
}

/// Opens MQTT sessions over WebSocket, both address families in turn.
pub fn websockets(lab: &Lab, port: u16, count: usize) -> Vec<WebSocket<TcpStream>> {
    (0..count)
        .map(|n| {
            let server = at(lab, port)[n % 2];
            let mut socket = WebSocket::connect(&lab.topology.clients, server, "/mqtt").unwrap();
            let connect = Connect::new(&format!("web-{port}-{n}")).encode();
            socket.write_all(&connect).unwrap();
            let mut answer = [0; 4];
            socket.read_exact(&mut answer).unwrap();
            assert_eq!(answer, raw::CONNACK);
            socket
        })
        .collect()
}
