//! A backend that does whatever a test wants after the first packet, in place of a broker.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::plan::MQTT_PORT;

/// A listening backend. Dropping it closes the port; connections go on.
#[derive(Debug)]
pub struct StandIn {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl StandIn {
    /// Listens at both addresses of backend `n` and runs `serve` for each connection that sends something,
    /// on a thread of its own. Connections without a byte (health checks) are left alone.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(
        lab: &Lab,
        n: usize,
        serve: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for address in lab.topology.plan.broker(n).sockets(MQTT_PORT) {
            let listener = listen(lab, n, address)?;
            let over = Arc::clone(&over);
            let serve = serve.clone();
            threads.push(thread::spawn(move || accept(&listener, &over, &serve)));
        }
        Ok(Self { over, threads })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic: connections are served on threads of their own.
            let _ = thread.join();
        }
    }
}

fn listen(lab: &Lab, n: usize, address: SocketAddr) -> Result<TcpListener> {
    // A socket stays in the namespace it was opened in, whoever uses it.
    let listener = lab.topology.brokers[n]
        .enter(|| TcpListener::bind(address))?
        .with_context(|| format!("listen at {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(
    listener: &TcpListener,
    over: &AtomicBool,
    serve: &(impl Fn(TcpStream) + Clone + Send + 'static),
) {
    while !over.load(Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let serve = serve.clone();
                thread::spawn(move || {
                    if says_something(&stream) {
                        serve(stream);
                    }
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => eprintln!("stand-in: accept: {error}"),
        }
    }
}

/// Waits for the first byte, without taking it.
fn says_something(stream: &TcpStream) -> bool {
    // Blocking mode is not inherited from the listener on Linux.
    stream.peek(&mut [0]).is_ok_and(|length| length == 1)
}

/// Reads a PROXY protocol v2 header (specification, section 2.2) and returns the source that it names.
///
/// # Errors
/// The connection ended, or what it sent is no such header for TCP.
pub fn read_proxy_v2(stream: &mut TcpStream) -> Result<SocketAddr> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    anyhow::ensure!(
        head[..12] == *b"\r\n\r\n\0\r\nQUIT\n",
        "no signature of PROXY v2: {head:02x?}"
    );
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut rest)?;
    anyhow::ensure!(head[12] == 0x21, "not version 2, PROXY: {:#x}", head[12]);
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match (head[13], rest.len()) {
        (0x11, 12..) => {
            let ip: [u8; 4] = rest[..4].try_into()?;
            Ok(SocketAddr::from((ip, port(8))))
        }
        (0x21, 36..) => {
            let ip: [u8; 16] = rest[..16].try_into()?;
            Ok(SocketAddr::from((ip, port(32))))
        }
        (family, length) => anyhow::bail!("family {family:#x} with {length} bytes"),
    }
}
