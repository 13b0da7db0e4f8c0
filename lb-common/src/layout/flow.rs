//! A flow entry: how one direction of a client's connection is rewritten.

use super::{by_words, v4_mapped};
use crate::checksum::Sum;
use crate::proxy_v2;

/// The 4-tuple as seen on the wire in one direction, addresses v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct FlowKey {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port, network order.
    pub src_port: [u8; 2],
    /// Destination port, network order.
    pub dst_port: [u8; 2],
}
const _: () = assert!(size_of::<FlowKey>() == 36);

impl FlowKey {
    /// The key of the opposite direction of the same connection, as the same host sees it.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }

    /// Whether the addresses are IPv4.
    #[inline(always)]
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.dst[..12] == super::V4_MAPPED
    }

    /// Key from two IPv4 endpoints; ports in host order.
    #[must_use]
    pub const fn v4(src: [u8; 4], src_port: u16, dst: [u8; 4], dst_port: u16) -> Self {
        Self {
            src: v4_mapped(src),
            dst: v4_mapped(dst),
            src_port: src_port.to_be_bytes(),
            dst_port: dst_port.to_be_bytes(),
        }
    }
}

/// What the XDP program does with a packet of this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Client side, no backend yet: everything but bare ACKs is punted.
    Sniff = 1,
    /// Backend side, our SYN is out: everything is punted.
    Setup = 2,
    /// Spliced.
    Open = 3,
    /// Either side: the program itself has sent the SYN (see [`Connecting`](super::Connecting)).
    Connecting = 4,
    /// Client side, and over: the agent has ended the connection. Whatever the client still says is answered
    /// with the RST that it accepts; a SYN begins anew (see [`Flow::cut`]).
    Cut = 5,
}

impl State {
    /// From the byte in [`Flow::state`].
    #[must_use]
    pub const fn from_u8(v: u8) -> Option<Self> {
        match v {
            1 => Some(Self::Sniff),
            2 => Some(Self::Setup),
            3 => Some(Self::Open),
            4 => Some(Self::Connecting),
            5 => Some(Self::Cut),
            _ => None,
        }
    }
}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// This entry's sender has sent FIN.
    pub const FIN_SELF: u8 = 1;
    /// The other side has sent FIN.
    pub const FIN_PEER: u8 = 2;
    /// Either side has sent RST.
    pub const RST: u8 = 4;
    /// Packets of this entry come from the client.
    pub const FROM_CLIENT: u8 = 8;
    /// The next hop is behind a VLAN tag (`Flow::vlan`).
    pub const TAGGED: u8 = 16;
    /// This entry's sender was the first of the two to send FIN (it will hold TIME_WAIT).
    pub const FIN_FIRST: u8 = 32;
    /// This entry's sender has sent the RST.
    pub const RST_SELF: u8 = 64;
    /// From the backend: when the connection was opened there were first bytes that only the agent could
    /// repeat (`Flow::ingress` and `Flow::hop_generation` say which, and which agent). From the client, in
    /// `Sniff`: the agent has acknowledged bytes that nobody else has.
    pub const OWNED: u8 = 128;
    /// From the client, in `Connecting` and `Open`: a PROXY header belongs in front of the client's first byte,
    /// `Flow::next_seq`, and the program writes it there whenever that byte comes, until the backend has
    /// acknowledged it.
    pub const HEADED: u8 = OWNED;
}

/// One direction of a connection: the rewrite recipe, the next hop and what is known of the sender.
///
/// The agent creates and replaces entries, and so does the XDP program where it sets a connection up
/// itself; from `Open` on only the program writes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// New source address.
    pub new_src: [u8; 16],
    /// New destination address.
    pub new_dst: [u8; 16],
    /// New source port, network order.
    pub new_src_port: [u8; 2],
    /// New destination port, network order.
    pub new_dst_port: [u8; 2],
    /// Added to the sequence number.
    pub seq_add: u32,
    /// Added to the acknowledgement number and to SACK edges.
    pub ack_add: u32,
    /// Added to TSval.
    pub tsval_add: u32,
    /// Added to TSecr (where ACK is set).
    pub tsecr_add: u32,
    /// One's complement sum of the change to the IPv4 header's addresses, native order.
    pub l3_diff: u16,
    /// The same for the TCP checksum: addresses and ports.
    pub l4_diff: u16,
    /// Interface that leads to the receiver.
    pub ifindex: u32,
    /// Destination MAC of the next hop.
    pub dst_mac: [u8; 6],
    /// Source MAC towards the next hop.
    pub src_mac: [u8; 6],
    /// VLAN id towards the next hop, 0 when untagged (see `flags::TAGGED`).
    pub vlan: u16,
    /// Index into the backends map of this connection's backend.
    pub backend: u16,
    /// From the client: digest of where its packets come in ([`Hop::signature`]), to notice a move. From the
    /// backend, with [`flags::OWNED`]: the acknowledgement number behind the agent's bytes.
    pub ingress: u32,
    /// From the client: generation of the backend's next hop that is cached above. From the backend, with
    /// [`flags::OWNED`]: the number of the agent.
    pub hop_generation: u32,
    /// Window re-scaling: positive shifts left, negative right.
    pub window_shift: i8,
    /// A [`State`].
    pub state: u8,
    /// See [`flags`].
    pub flags: u8,
    /// Listener's index.
    pub listener: u8,
    /// Keyed hash of the client identifier, 0 for none.
    pub client: u64,
    /// When the last packet of this direction was seen, in [`ticks`].
    pub last_seen: u32,
    /// Silence of the client, no ACK even, after which the connection ends, in [`ticks`]; 0 for never.
    pub idle_limit: u32,
    /// Next sequence number of the sender, as it sends it, when the connection was opened; with
    /// [`flags::HEADED`]: that of the client's first byte. In `Sniff` and `Connecting`: the client's ISN.
    pub next_seq: u32,
    /// Last acknowledgement number of the sender, as it sends it.
    pub last_ack: u32,
    /// Packets seen from the sender.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}
const _: () = assert!(size_of::<Flow>() == 128);

impl Flow {
    /// All zero: not a valid recipe, but a start for struct update syntax.
    pub const ZERO: Self = Self {
        new_src: [0; 16],
        new_dst: [0; 16],
        new_src_port: [0; 2],
        new_dst_port: [0; 2],
        seq_add: 0,
        ack_add: 0,
        tsval_add: 0,
        tsecr_add: 0,
        l3_diff: 0,
        l4_diff: 0,
        ifindex: 0,
        dst_mac: [0; 6],
        src_mac: [0; 6],
        vlan: 0,
        backend: 0,
        ingress: 0,
        hop_generation: 0,
        window_shift: 0,
        state: 0,
        flags: 0,
        listener: 0,
        client: 0,
        last_seen: 0,
        idle_limit: 0,
        next_seq: 0,
        last_ack: 0,
        packets: 0,
        bytes: 0,
    };

    /// What stays for a while of a client's connection that is ended: it leads nowhere.
    ///
    /// Without it, a client that asks whether the RST was meant (RFC 5961, section 3.2) may look like one
    /// that is yet to send its first bytes.
    #[must_use]
    pub const fn cut(listener: u8, now: u32) -> Self {
        Self {
            state: State::Cut as u8,
            flags: flags::FROM_CLIENT | flags::RST,
            listener,
            last_seen: now,
            ..Self::ZERO
        }
    }

    /// Sets the new addresses and ports and the checksum differences that follow from them.
    ///
    /// `key` is this entry's own key, `to` the tuple that leaves.
    #[must_use]
    pub fn towards(mut self, key: &FlowKey, to: &FlowKey) -> Self {
        self.lead(key, to);
        self
    }

    /// The same in place.
    #[inline(always)]
    pub fn lead(&mut self, key: &FlowKey, to: &FlowKey) {
        self.new_src = by_words(&to.src);
        self.new_dst = by_words(&to.dst);
        self.new_src_port = to.src_port;
        self.new_dst_port = to.dst_port;
        let mut addresses = Sum::ZERO;
        addresses.replace(&key.src, &to.src);
        addresses.replace(&key.dst, &to.dst);
        self.l3_diff = addresses.fold();
        addresses.replace(&key.src_port, &to.src_port);
        addresses.replace(&key.dst_port, &to.dst_port);
        self.l4_diff = addresses.fold();
    }

    /// The tuple of packets after this recipe.
    #[inline(always)]
    #[must_use]
    pub const fn outgoing(&self) -> FlowKey {
        FlowKey {
            src: self.new_src,
            dst: self.new_dst,
            src_port: self.new_src_port,
            dst_port: self.new_dst_port,
        }
    }

    /// The key of this connection's other entry.
    #[inline(always)]
    #[must_use]
    pub const fn pair(&self) -> FlowKey {
        self.outgoing().reversed()
    }

    /// Whether packets of this entry leave as the opposite direction of `key`: whether both entries
    /// are of one connection.
    #[inline(always)]
    #[must_use]
    pub fn leads_to(&self, key: &FlowKey) -> bool {
        // By hand: LLVM would call `bcmp` to compare arrays, which BPF doesn't have.
        let mut differs = (u16::from_ne_bytes(self.new_src_port) ^ u16::from_ne_bytes(key.dst_port))
            as u32
            | (u16::from_ne_bytes(self.new_dst_port) ^ u16::from_ne_bytes(key.src_port)) as u32;
        let mut i = 0;
        while i < 16 {
            differs |= word(&self.new_src, i) ^ word(&key.dst, i);
            differs |= word(&self.new_dst, i) ^ word(&key.src, i);
            i += 4;
        }
        differs == 0
    }

    /// Bytes of the PROXY header that goes in front of this client's first byte, or 0.
    #[inline(always)]
    #[must_use]
    pub const fn header(&self, v4: bool) -> u32 {
        if self.flags & flags::HEADED == 0 {
            0
        } else {
            proxy_v2::len(v4)
        }
    }

    /// Whether this is a backend that waits for first bytes which died with an agent, not with `agent`.
    #[must_use]
    pub const fn is_stranded(&self, agent: u32) -> bool {
        self.flags & (flags::FROM_CLIENT | flags::OWNED) == flags::OWNED
            && self.state == State::Open as u8
            && self.hop_generation != agent
            && self.last_ack.wrapping_sub(self.ingress) >= 1 << 31
    }

    /// Whether the connection is over: a RST, or a FIN from both sides.
    #[inline(always)]
    #[must_use]
    pub const fn closed(&self) -> bool {
        self.flags & flags::RST != 0
            || self.flags & (flags::FIN_SELF | flags::FIN_PEER) == flags::FIN_SELF | flags::FIN_PEER
    }
}

#[inline(always)]
const fn word(b: &[u8; 16], at: usize) -> u32 {
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Coarse time in a flow entry: 2^24 ns (16.8 ms) a tick, wrapping after 2.2 years.
pub mod ticks {
    /// From monotonic nanoseconds.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the wrap is part of the format"
    )]
    pub const fn from_ns(ns: u64) -> u32 {
        (ns >> 24) as u32
    }

    /// A span in ticks, rounded up, saturating at a year.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the minimum")]
    pub const fn span(ns: u64) -> u32 {
        const MAX: u64 = 1_880_000_000;
        let t = ns.div_ceil(1 << 24);
        if t > MAX { MAX as u32 } else { t as u32 }
    }

    /// Ticks from `then` to `now`; 0 when `then` is later.
    #[inline(always)]
    #[must_use]
    pub const fn since(now: u32, then: u32) -> u32 {
        let d = now.wrapping_sub(then);
        if d > u32::MAX / 2 { 0 } else { d }
    }

    /// A number of ticks in nanoseconds.
    #[must_use]
    pub const fn to_ns(ticks: u32) -> u64 {
        (ticks as u64) << 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_leads_to_each_other_and_to_nobody_else() {
        let client = FlowKey::v4([10, 0, 0, 1], 40000, [10, 0, 0, 2], 1883);
        let backend = FlowKey::v4([10, 1, 0, 3], 1883, [10, 1, 0, 2], 20000);
        let flow = Flow::ZERO.towards(&client, &backend.reversed());
        assert!(flow.leads_to(&backend));
        for at in 0..size_of::<FlowKey>() {
            let mut other = backend;
            match at {
                0..16 => other.src[at] ^= 1,
                16..32 => other.dst[at - 16] ^= 1,
                32..34 => other.src_port[at - 32] ^= 1,
                _ => other.dst_port[at - 34] ^= 1,
            }
            assert!(!flow.leads_to(&other), "byte {at}");
        }
    }
}
