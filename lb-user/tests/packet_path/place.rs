//! The addresses, endpoints and connections that the rows play with.

use lb_common::layout::{
    Backend, Endpoint, EndpointKey, EndpointKind, Flow, FlowKey, Hop, IdleLimits, Listener,
    Settings, State, flags,
};
use lb_common::limits::client::ClientPace;
use lb_common::limits::rate::Pace;

use crate::frame::{ACK, Segment, timestamps};
use crate::world::World;

/// Interface that all frames come in on: loopback, which is always there.
pub const IFINDEX: u32 = 1;
/// Interface towards the backend. The program only names it, so it need not exist.
pub const OUT_IFINDEX: u32 = 4711;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0xc1, 0x1e, 0x17];
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0xba, 0x1a, 1];
pub const OUR_OUT_MAC: [u8; 6] = [2, 0, 0, 0xba, 0x1a, 2];
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0xbb, 0xbb, 1];
/// Source and destination MAC of frames from the client.
pub const FROM_CLIENT: ([u8; 6], [u8; 6]) = (CLIENT_MAC, OUR_MAC);
/// Source and destination MAC of frames from the backend.
pub const FROM_BACKEND: ([u8; 6], [u8; 6]) = (BACKEND_MAC, OUR_OUT_MAC);

/// Listener of the VIPs.
pub const LISTENER: u8 = 5;
/// Pool of the listeners that steer.
pub const POOL: u16 = 3;
/// Slot of the one backend.
pub const BACKEND_SLOT: u16 = 3;
/// Generation of its next hop.
pub const GENERATION: u32 = 9;

pub const CURRENT_KEY: [u64; 2] = [0x0123_4567, 0x89ab_cdef];
pub const PREVIOUS_KEY: [u64; 2] = [0xfeed, 0xbeef];

/// `cookie_epoch` is odd, so the current key is the second one.
pub const SETTINGS: Settings = Settings {
    cookie_keys: [PREVIOUS_KEY, CURRENT_KEY],
    client_key: [1, 2],
    cookie_epoch: 7,
    timestamp_offset: 0x8000_0000,
    snat_first: 20_000,
    snat_last: 29_999,
    reset_rate: 1_000_000,
    idle: IdleLimits {
        grace: 0,
        least: 0,
        zero: 0,
    },
    linger: 0,
    connect_timeout: 0,
    client_id: 0,
    _pad: 0,
};

/// The listener without limits; each address is a source.
pub const UNLIMITED: Listener = Listener {
    steer: 0,
    source: 0,
    window_scale: 0,
    answers: 0,
    pool: 4,
    credit: 5,
    source_flows: 0,
    v4_bits: 128,
    v6_bits: 64,
    mss: 0,
    source_pace: Pace::NONE,
    client_pace: ClientPace {
        interval: 0,
        tolerance: 0,
    },
    _room: [0; 3],
};

/// What the VIPs on port 1883 answer.
pub const VIP: Endpoint = Endpoint {
    kind: EndpointKind::Vip as u8,
    listener: LISTENER,
    window_scale: 9,
    answers: Endpoint::TIMESTAMPS | Endpoint::SACK | Endpoint::WINDOW_SCALE,
    mss: 1380,
    window: 16_384,
};

pub fn client_v4() -> FlowKey {
    FlowKey::v4([10, 9, 0, 7], 40_000, [10, 77, 0, 2], 1883)
}

pub fn backend_v4() -> FlowKey {
    FlowKey::v4([10, 77, 1, 2], 1883, [10, 77, 1, 1], 23_456)
}

fn v6(net: u8, host: u8) -> [u8; 16] {
    [0xfd, 0x77, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

fn v6_key(src: [u8; 16], src_port: u16, dst: [u8; 16], dst_port: u16) -> FlowKey {
    FlowKey {
        src,
        dst,
        src_port: src_port.to_be_bytes(),
        dst_port: dst_port.to_be_bytes(),
    }
}

pub fn client_v6() -> FlowKey {
    v6_key(v6(9, 7), 40_000, v6(0, 2), 1883)
}

pub fn backend_v6() -> FlowKey {
    v6_key(v6(1, 2), 1883, v6(1, 1), 23_456)
}

/// The backend's next hop.
pub const HOP: Hop = Hop {
    ifindex: OUT_IFINDEX,
    dst_mac: BACKEND_MAC,
    src_mac: OUR_OUT_MAC,
    vlan: 0,
    tagged: 0,
};

pub fn backend() -> Backend {
    Backend {
        address: backend_v4().src,
        port: backend_v4().src_port,
        state: 1,
        hop: HOP,
        generation: GENERATION,
        ..Backend::default()
    }
}

pub fn endpoint(address: [u8; 16], port: [u8; 2]) -> EndpointKey {
    EndpointKey {
        address,
        port,
        _pad: [0; 2],
    }
}

pub fn endpoints() -> Vec<(EndpointKey, Endpoint)> {
    let kind = |kind: EndpointKind| Endpoint {
        kind: kind as u8,
        listener: LISTENER,
        ..Endpoint::default()
    };
    let mut all = vec![];
    for (client, backend) in [(client_v4(), backend_v4()), (client_v6(), backend_v6())] {
        all.push((endpoint(client.dst, client.dst_port), VIP));
        all.push((endpoint(client.dst, [0; 2]), kind(EndpointKind::Address)));
        all.push((endpoint(backend.dst, [0; 2]), kind(EndpointKind::Address)));
        all.push((
            endpoint(backend.src, backend.src_port),
            kind(EndpointKind::Backend),
        ));
    }
    all
}

/// An open connection: the two keys and what the recipe does.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Client to VIP.
    pub client: FlowKey,
    /// Backend to SNAT address.
    pub backend: FlowKey,
    /// Cookie minus the backend's ISN.
    pub delta: u32,
    /// Our last TSval minus the backend's.
    pub ts_delta: u32,
    /// Shift of the backend's window.
    pub shift: i8,
}

impl Connection {
    pub fn v4() -> Self {
        Self {
            client: client_v4(),
            backend: backend_v4(),
            delta: 0x9000_0001,
            ts_delta: 0xf000_0003,
            shift: 0,
        }
    }

    pub fn v6() -> Self {
        Self {
            client: client_v6(),
            backend: backend_v6(),
            ..Self::v4()
        }
    }

    /// The client's entry: out by another interface.
    pub fn client_entry(&self) -> Flow {
        Flow {
            ack_add: self.delta.wrapping_neg(),
            tsecr_add: self.ts_delta.wrapping_neg(),
            ifindex: OUT_IFINDEX,
            dst_mac: BACKEND_MAC,
            src_mac: OUR_OUT_MAC,
            backend: BACKEND_SLOT,
            ingress: Hop::signature(IFINDEX, &CLIENT_MAC, 0),
            hop_generation: GENERATION,
            state: State::Open as u8,
            flags: flags::FROM_CLIENT,
            listener: LISTENER,
            client: 77,
            idle_limit: 1000,
            // The backend's sequence numbers are around 5000 in the rows; the client sees them moved.
            last_ack: self.delta.wrapping_add(5000),
            ..Flow::ZERO
        }
        .towards(&self.client, &self.backend.reversed())
    }

    /// The backend's entry: out by the interface that frames come in on.
    pub fn backend_entry(&self) -> Flow {
        Flow {
            seq_add: self.delta,
            tsval_add: self.ts_delta,
            window_shift: self.shift,
            ifindex: IFINDEX,
            dst_mac: CLIENT_MAC,
            src_mac: OUR_MAC,
            backend: BACKEND_SLOT,
            state: State::Open as u8,
            listener: LISTENER,
            client: 77,
            idle_limit: 1000,
            // The client's sequence numbers are around 1000 in the rows.
            last_ack: 1000,
            ..Flow::ZERO
        }
        .towards(&self.backend, &self.client.reversed())
    }

    /// Enters both directions.
    pub fn open(&self, world: &mut World) {
        self.enter(world, self.client_entry(), self.backend_entry());
    }

    /// Enters these two.
    pub fn enter(&self, world: &mut World, client: Flow, backend: Flow) {
        world.flows.insert(self.client, client, 0).unwrap();
        world.flows.insert(self.backend, backend, 0).unwrap();
    }

    pub fn client_segment(&self) -> Segment {
        Segment::new(self.client, FROM_CLIENT).seq(1000).ack(5000)
    }

    pub fn backend_segment(&self) -> Segment {
        Segment::new(self.backend, FROM_BACKEND).seq(5000).ack(1000)
    }

    /// What `client_segment` or the like becomes: tuple, MACs, numbers; timestamps if they are aligned.
    pub fn spliced(&self, s: &Segment) -> Segment {
        let from_client = s.key == self.client;
        let stamps = s.options.starts_with(&[1, 1, 8, 10]).then(|| {
            let at = |i: usize| u32::from_be_bytes(s.options[i..i + 4].try_into().unwrap());
            (at(4), at(8))
        });
        s.but(|s| {
            s.ttl -= 1;
            if from_client {
                s.key = self.backend.reversed();
                (s.src_mac, s.dst_mac) = (OUR_OUT_MAC, BACKEND_MAC);
                if s.flags & ACK != 0 {
                    s.ack = s.ack.wrapping_sub(self.delta);
                }
            } else {
                s.key = self.client.reversed();
                (s.src_mac, s.dst_mac) = (OUR_MAC, CLIENT_MAC);
                s.seq = s.seq.wrapping_add(self.delta);
            }
            if let Some((value, echo)) = stamps {
                let new = if !from_client {
                    timestamps(value.wrapping_add(self.ts_delta), echo)
                } else if s.flags & ACK != 0 {
                    timestamps(value, echo.wrapping_sub(self.ts_delta))
                } else {
                    timestamps(value, echo)
                };
                s.options[..12].copy_from_slice(&new);
            }
        })
    }
}
