//! Checks of small servers on loopback, over real connections.

mod http;
mod mqtt;
mod schedule;
mod tcp;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::check::{Failure, Finding, check};
use super::{Event, State, Target};
use crate::config::{Check, Health};

/// Long enough for whatever is meant to come in time, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

const IDENTIFIER: [u8; 23] = *b"mqlbcheck0123456789abcd";

/// A server that runs something for each connection, until it is dropped.
struct Server {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnMut(TcpStream) -> F + Send + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0", serve).await
    }

    async fn start_at<F: Future<Output = ()> + Send + 'static>(
        address: &str,
        mut serve: impl FnMut(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        connections.spawn(serve(stream));
                    }
                    Some(served) = connections.join_next() => served.unwrap(),
                }
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }
}

/// Where nobody listens.
async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Reads until the other side is done; panics if it resets.
async fn read_to_fin(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    received
}

async fn forever() {
    std::future::pending().await
}

fn target(id: u32, address: SocketAddr, check: Check) -> Target {
    Target {
        id,
        address,
        health: Health {
            check,
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(10),
            rise: 1,
            fall: 1,
            jitter: 10,
        },
        proxy_protocol: false,
    }
}

/// One check, whose time is never used up.
async fn once(target: &Target) -> Result<Finding, Failure> {
    check(target, &IDENTIFIER, true).await
}

/// One check that must fail on the backend's side: why.
async fn failure(target: &Target) -> String {
    match once(target).await {
        Err(Failure::Backend(reason)) => reason,
        other => panic!("not the backend's failure: {other:?}"),
    }
}

/// One check that must find it up: what it says.
async fn success(target: &Target) -> String {
    let finding = once(target).await.unwrap();
    assert_eq!(finding.state, State::Up, "{finding:?}");
    finding.reason
}

/// The same with little time.
fn impatient(mut target: Target) -> Target {
    target.health.timeout = Duration::from_millis(200);
    target
}

async fn next(events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> Event {
    tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("an event")
        .expect("the checks run")
}
