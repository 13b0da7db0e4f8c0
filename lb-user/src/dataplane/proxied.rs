//! The connections that go through the proxy, shown as flow entries: who counts, limits, lists and ends
//! connections needn't know which data path they take.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::layout::{Flow, FlowKey, State, flags, ticks, v4_mapped};
use tokio::sync::Notify;

use super::clock;

/// All of them, by the tuples of both their sides.
#[derive(Debug, Default)]
pub struct Proxied(Mutex<HashMap<FlowKey, Arc<Live>>>);

/// One of them.
#[derive(Debug)]
pub struct Live {
    /// From the client to us.
    client: FlowKey,
    /// From us to the backend.
    backend: FlowKey,
    slot: u16,
    listener: u8,
    /// Keyed hash of the client identifier, 0 for none.
    id: u64,
    /// In ticks; 0 for never.
    idle_limit: u32,
    /// From the client, and from the backend.
    sides: [Side; 2],
    /// Somebody has ended it: both sides get a RST.
    cut: Notify,
}

#[derive(Debug, Default)]
struct Side {
    last_seen: AtomicU32,
    reads: AtomicU64,
    bytes: AtomicU64,
    flags: AtomicU8,
}

/// What a connection is registered with.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The client and the VIP.
    pub client: (SocketAddr, SocketAddr),
    /// Somebody in front of us said so.
    pub told: bool,
    /// Our own address towards the backend, and the backend's.
    pub backend: (SocketAddr, SocketAddr),
    pub slot: u16,
    pub listener: u8,
    pub id: u64,
    pub idle_limit: u32,
}

/// One of the two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Client = 0,
    Backend = 1,
}

/// A registered connection; dropping it takes it off the list.
#[derive(Debug)]
pub struct Registered {
    live: Arc<Live>,
    of: Arc<Proxied>,
}

fn key((from, to): (SocketAddr, SocketAddr)) -> FlowKey {
    let address = |a: SocketAddr| match a.ip() {
        std::net::IpAddr::V4(v4) => v4_mapped(v4.octets()),
        std::net::IpAddr::V6(v6) => v6.octets(),
    };
    FlowKey {
        src: address(from),
        dst: address(to),
        src_port: from.port().to_be_bytes(),
        dst_port: to.port().to_be_bytes(),
    }
}

impl Proxied {
    fn all(&self) -> MutexGuard<'_, HashMap<FlowKey, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection onto the list.
    #[must_use]
    pub fn register(self: &Arc<Self>, opened: &Opened) -> Registered {
        let mut all = self.all();
        let mut client = key(opened.client);
        // Of what is told, nothing makes sure that it is unique: several balancers may stand before us, or one that
        // doesn't know the client's port.
        for port in 1..=u16::MAX {
            if !opened.told || !all.contains_key(&client) {
                break;
            }
            client.src_port = opened.client.0.port().wrapping_add(port).to_be_bytes();
        }
        let live = Arc::new(Live {
            client,
            backend: key(opened.backend),
            slot: opened.slot,
            listener: opened.listener,
            id: opened.id,
            idle_limit: opened.idle_limit,
            sides: Default::default(),
            cut: Notify::new(),
        });
        live.read(From::Client, 0);
        live.read(From::Backend, 0);
        all.insert(live.client, live.clone());
        all.insert(live.backend.reversed(), live.clone());
        Registered {
            live,
            of: self.clone(),
        }
    }

    /// Calls `f` with both entries of every connection.
    pub fn each(&self, mut f: impl FnMut(&FlowKey, &Flow)) {
        // `f` may take its time.
        let all: Vec<_> = self
            .all()
            .iter()
            .map(|(k, live)| (*k, live.clone()))
            .collect();
        for (key, live) in all {
            f(&key, &live.entry(&key));
        }
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, key: &FlowKey) -> Option<Flow> {
        self.all().get(key).map(|live| live.entry(key))
    }

    /// Removes an entry and ends its connection; `false` if there is none.
    pub fn cut(&self, key: &FlowKey) -> bool {
        let live = self.all().remove(key);
        if let Some(live) = &live {
            // It is kept until the connection's task looks.
            live.cut.notify_one();
        }
        live.is_some()
    }
}

impl Live {
    /// Notes that so much came from one side.
    pub fn read(&self, from: From, bytes: usize) {
        let side = &self.sides[from as usize];
        side.last_seen
            .store(ticks::from_ns(clock::now_ns()), Relaxed);
        if bytes > 0 {
            side.reads.fetch_add(1, Relaxed);
            side.bytes.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// Notes that one side will send no more.
    pub fn ended(&self, from: From) {
        let (this, other) = match from {
            From::Client => (0, 1),
            From::Backend => (1, 0),
        };
        self.sides[this].flags.fetch_or(flags::FIN_SELF, Relaxed);
        self.sides[other].flags.fetch_or(flags::FIN_PEER, Relaxed);
    }

    /// As the XDP program would have it.
    fn entry(&self, key: &FlowKey) -> Flow {
        let from_client = *key == self.client;
        let side = &self.sides[usize::from(!from_client)];
        let seen = |side: &Side| side.last_seen.load(Relaxed);
        let last_seen = match (from_client, seen(&self.sides[0]), seen(&self.sides[1])) {
            // Its ACKs aren't seen here. No more is read from the backend than the client takes.
            (true, client, backend) if ticks::since(backend, client) > 0 => backend,
            (true, client, _) => client,
            (false, _, backend) => backend,
        };
        let (to, direction) = match from_client {
            true => (self.backend, flags::FROM_CLIENT),
            false => (self.client.reversed(), 0),
        };
        Flow {
            backend: self.slot,
            state: State::Open as u8,
            flags: side.flags.load(Relaxed) | direction,
            listener: self.listener,
            client: self.id,
            last_seen,
            idle_limit: self.idle_limit,
            packets: side.reads.load(Relaxed),
            bytes: side.bytes.load(Relaxed),
            ..Flow::ZERO
        }
        .towards(key, &to)
    }
}

impl Registered {
    /// The connection's counts.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Waits until somebody ends the connection.
    pub async fn cut(&self) {
        self.live.cut.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = self.of.all();
        for key in [self.live.client, self.live.backend.reversed()] {
            // Another connection may have the tuple by now.
            if all.get(&key).is_some_and(|l| Arc::ptr_eq(l, &self.live)) {
                all.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_two_entries_until_it_is_dropped_or_cut() {
        let table = Arc::new(Proxied::default());
        let at = |text: &str| text.parse().unwrap();
        let opened = Opened {
            client: (at("10.0.0.1:4000"), at("10.0.0.2:1883")),
            told: false,
            backend: (at("10.0.1.1:5000"), at("10.0.1.2:1883")),
            slot: 4,
            listener: 1,
            id: 7,
            idle_limit: 9,
        };
        let one = table.register(&opened);
        one.live().read(From::Client, 100);
        let mut seen = Vec::new();
        table.each(|key, flow| seen.push((*key, *flow)));
        seen.sort_by_key(|(_, flow)| flow.flags);
        let [(backend_key, backend), (client_key, client)] = seen[..] else {
            panic!("{seen:?}");
        };
        assert!(client.leads_to(&backend_key) && backend.leads_to(&client_key));
        assert_eq!(client.pair(), backend_key);
        assert_eq!((client.bytes, backend.bytes), (100, 0));
        assert_eq!((client.flags, client.client, client.backend), (8, 7, 4));
        one.live().ended(From::Client);
        assert!(!table.get(&client_key).unwrap().closed());
        one.live().ended(From::Backend);
        assert!(table.get(&client_key).unwrap().closed());
        // The same tuple again: the end of the first doesn't concern it.
        let two = table.register(&opened);
        drop(one);
        assert!(table.get(&client_key).is_some());
        assert!(table.cut(&client_key));
        assert!(!table.cut(&client_key));
        drop(two);
        assert!(table.get(&backend_key).is_none());
        // What is only told may be told of two connections.
        let told = |port| {
            let backend = (at(&format!("10.0.1.1:{port}")), opened.backend.1);
            table.register(&Opened {
                told: true,
                backend,
                ..opened
            })
        };
        let both = (told(1), told(2));
        let mut seen = 0;
        table.each(|_, flow| {
            let pair = table.get(&flow.pair()).unwrap();
            assert_eq!(pair.client, 7);
            seen += 1;
        });
        assert_eq!(seen, 4);
        drop(both);
        table.each(|key, _| panic!("{key:?}"));
    }
}
