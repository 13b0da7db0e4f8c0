//! The XDP program's part in connecting known clients, as far as the agent meets it.

use super::super::splice::{hop, via};
use super::super::*;
use super::world::{TO_BACKENDS, World, frame, segment};
use lb_common::layout::{
    Connecting, FlowKey, Hop, IdleLimits, PENDING_DATA, Pending, flags, ticks,
};
use lb_common::mqtt::{Glance, Seen};
use lb_common::opening::Numbers;
use lb_common::options::offered;
use lb_common::wire::{Emit, SynOptions};

/// What the program does of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Nothing.
    Off,
    /// Begins connections to the backend in slot 0; hands over whatever the backend says.
    Begins,
    /// The same, but opens them; has no room for the CONNECT in its ACK.
    Opens,
}

/// The first SNAT port of its connections.
const PORT: u16 = 15_000;

impl World {
    /// First data of a client; `false` if the agent is to do it.
    pub fn kernel_begins(&mut self, ifindex: u32, p: &Packet<'_>) -> bool {
        let mut glance = Box::new(Glance::EMPTY);
        let key = self.setups.settings.client_key;
        if self.kernel == Kernel::Off || glance.read_all(p.payload, &key, 256) != Seen::Connect {
            return false;
        }
        let choice = self.steering.choices[0].clone();
        let back = |port: u16| FlowKey {
            src: choice.address,
            dst: choice.snat[0],
            src_port: choice.port,
            dst_port: port.to_be_bytes(),
        };
        let mut free = (PORT..).map(back);
        let back = free
            .find(|key| !self.datapath.map.contains_key(key))
            .unwrap();
        let ticket = self.keep(p);
        let t = p.timestamps();
        let seen = Connecting {
            ticket,
            tsval: t.map_or(0, |t| t.value),
            echo: t.map_or(0, |t| t.echo),
            timestamps: t.is_some(),
            window: u16::from_be_bytes(p.tcp.window),
            promised: self.listener.window_scale,
        };
        let reply = Hop { ifindex, ..p.reply };
        let common = Flow {
            state: State::Connecting as u8,
            listener: 3,
            backend: choice.slot,
            client: glance.client,
            idle_limit: IdleLimits::default().limit(u16::try_from(glance.keep_alive).unwrap()),
            last_seen: ticks::from_ns(self.now),
            ..Flow::ZERO
        };
        let headed = if self.listener.proxy_protocol {
            flags::HEADED
        } else {
            0
        };
        let mut client = Flow {
            flags: flags::FROM_CLIENT | headed,
            ingress: Hop::signature(ifindex, &reply.dst_mac, reply.vlan),
            next_seq: p.tcp.seq().wrapping_sub(1),
            last_ack: p.tcp.ack(),
            ..common
        };
        seen.store(&mut client);
        let client = via(client, &choice.hop).towards(&p.key, &back.reversed());
        let backend = via(common, &reply).towards(&back, &p.key.reversed());
        self.datapath.insert_new(&back, &backend).unwrap();
        self.datapath.insert_new(&p.key, &client).unwrap();
        self.kernel_syn(&client);
        true
    }

    /// Keeps a payload, gives its ticket.
    fn keep(&mut self, p: &Packet<'_>) -> u32 {
        let ticket = u32::try_from(self.datapath.pending.len()).unwrap() + 1;
        let mut data = [0; PENDING_DATA];
        data[..p.payload.len()].copy_from_slice(p.payload);
        let sum = lb_common::checksum::Sum(lb_common::checksum::sum(p.payload)).fold();
        let pending = Pending {
            ticket: ticket.into(),
            len: u16::try_from(p.payload.len()).unwrap(),
            sum,
            key: p.key,
            tsval: p.timestamps().map_or(0, |t| t.value),
            window: u16::from_be_bytes(p.tcp.window),
            _pad: 0,
            data,
            check: ticket.into(),
        };
        self.datapath.pending.insert(ticket, pending);
        ticket
    }

    fn kernel_syn(&mut self, client: &Flow) {
        let seen = Connecting::load(client);
        let options = ClientOptions::from_byte(client.last_ack.wrapping_sub(1).to_be_bytes()[3]);
        let header = client.header(client.outgoing().is_v4());
        let isn = client.next_seq.wrapping_sub(header);
        let syn = Emit {
            window: 0xffff,
            syn: SynOptions {
                mss: Some(options.mss()),
                window_scale: (options.window_scale < 15).then_some(options.window_scale),
                sack: options.sack,
            },
            timestamps: seen.timestamps.then_some(lb_common::options::Timestamps {
                value: seen.tsval,
                echo: 0,
            }),
            ..segment(client.outgoing(), isn, 0, flag::SYN)
        };
        let hop = hop(client);
        self.datapath.sent.push((hop, frame(&hop, &syn)));
    }

    /// A packet of an entry in `Connecting`.
    pub fn kernel_connecting(&mut self, ifindex: u32, p: &Packet<'_>, frame: &[u8], flow: Flow) {
        if flow.flags & flags::FROM_CLIENT == 0 {
            return self.kernel_answered(ifindex, p, frame);
        }
        if p.payload_len == 0 {
            return;
        }
        let age = ticks::since(ticks::from_ns(self.now), flow.last_seen);
        if ticks::to_ns(age) > self.setups.settings.connect_timeout {
            return self.punt(PuntKind::Client, ifindex, flow.next_seq, frame);
        }
        self.kernel_syn(&flow);
    }

    fn kernel_answered(&mut self, ifindex: u32, p: &Packet<'_>, frame: &[u8]) {
        if self.kernel != Kernel::Opens || !p.tcp.has(flag::SYN) {
            return self.punt(PuntKind::Backend, ifindex, 0, frame);
        }
        let mut backend = self.datapath.map[&p.key];
        let key = backend.pair();
        let mut client = self.datapath.map[&key];
        let seen = Connecting::load(&client);
        let options = ClientOptions::from_byte(client.last_ack.wrapping_sub(1).to_be_bytes()[3]);
        let offered = offered(p.options);
        let numbers = Numbers::new(
            client.last_ack.wrapping_sub(1),
            p.tcp.seq(),
            offered.timestamps.map(|t| (seen.echo, t.value)),
            (options.window_scale, seen.promised, offered.window_scale),
        );
        numbers.from_client(&mut client);
        numbers.from_backend(&mut backend);
        client.state = State::Open as u8;
        backend.state = State::Open as u8;
        backend.last_ack = p.tcp.ack();
        client.next_seq = p.tcp.ack().wrapping_add(client.header(key.is_v4()));
        self.datapath.replace(&p.key, &backend).unwrap();
        self.datapath.replace(&key, &client).unwrap();
        let ticket = seen.ticket;
        assert_eq!(ifindex, TO_BACKENDS);
        self.punt(PuntKind::Deliver, ifindex, ticket, frame);
    }
}
