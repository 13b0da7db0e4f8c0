//! A name server for a private network with IPv6 only: it answers AAAA queries (RFC 1035, RFC 3596) from a table
//! that a test changes as it goes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Type AAAA, class IN, as a query has them.
const AAAA_IN: [u8; 4] = [0, 28, 0, 1];

type Table = Arc<Mutex<BTreeMap<String, Ipv6Addr>>>;

/// A running name server. Dropping it ends it.
#[derive(Debug)]
pub struct NameServer {
    table: Table,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Listens at `address` in `netns`; knows no name yet.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        // A socket stays in the namespace it was opened in, whoever uses it.
        let socket = netns
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("name server at {address}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let table = Table::default();
        let over = Arc::new(AtomicBool::new(false));
        let (known, stop) = (Arc::clone(&table), Arc::clone(&over));
        let thread = std::thread::spawn(move || serve(&socket, &known, &stop));
        Ok(Self {
            table,
            over,
            thread: Some(thread),
        })
    }

    /// From now on, `name` is at `address`.
    pub fn set(&self, name: &str, address: Ipv6Addr) {
        let mut table = self.table.lock().expect("no panic while it is held");
        table.insert(name.to_owned(), address);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it has shown itself on standard error.
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, table: &Table, over: &AtomicBool) {
    let mut buffer = [0; 1500];
    while !over.load(Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let known = |name: &str| {
                    let table = table.lock().expect("no panic while it is held");
                    table.get(name).copied()
                };
                if let Some(answer) = answer(&buffer[..length], known) {
                    // The client may be gone.
                    let _ = socket.send_to(&answer, from);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => eprintln!("name server: {error}"),
        }
    }
}

/// The answer to a query with one question; none to what is no such query.
fn answer(query: &[u8], known: impl Fn(&str) -> Option<Ipv6Addr>) -> Option<Vec<u8>> {
    let (id, questions) = (query.get(..2)?, query.get(4..6)?);
    if questions != [0, 1] {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let question = query.get(12..at + 4)?;
    let address = known(&labels.join("."));
    let asked = question.ends_with(&AAAA_IN);
    // Response, authoritative, recursion available; NXDOMAIN if the name is unknown.
    let flags = [0x85, if address.is_some() { 0x80 } else { 0x83 }];
    let answers = u8::from(asked && address.is_some());
    let mut message = [id, &flags, &[0, 1, 0, answers, 0, 0, 0, 0], question].concat();
    if let Some(address) = address.filter(|_| asked) {
        // The question's name again, AAAA, IN, one second, 16 bytes.
        message.extend([0xc0, 12]);
        message.extend(AAAA_IN);
        message.extend([0, 0, 0, 1, 0, 16]);
        message.extend(address.octets());
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_answered_by_what_is_asked() {
        let query = |kind: u8| {
            let mut query =
                b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x08internal\0".to_vec();
            query.extend([0, kind, 0, 1]);
            query
        };
        let known = |name: &str| (name == "a.internal").then_some(Ipv6Addr::LOCALHOST);
        let full = answer(&query(28), known).unwrap();
        assert_eq!(full[..8], *b"\x12\x34\x85\x80\x00\x01\x00\x01");
        assert!(full.ends_with(&Ipv6Addr::LOCALHOST.octets()));
        let empty = answer(&query(1), known).unwrap();
        assert_eq!((empty[3], empty[7]), (0x80, 0), "no address of IPv4");
        let unknown = answer(&query(28), |_| None).unwrap();
        assert_eq!((unknown[3], unknown[7]), (0x83, 0));
        assert!(answer(&query(28)[..20], known).is_none());
    }
}
