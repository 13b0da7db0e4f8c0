//! The two recipes of a connection, and packets that were punted before they were in force.

use super::connection::Context;
use super::interface::{Datapath, Steering};
use lb_common::layout::{Flow, FlowKey, Hop, flags};
use lb_common::options::Timestamps;
use lb_common::window::rescale;
use lb_common::wire::{Emit, Packet, SynOptions, flag};

/// Puts a next hop into an entry.
pub(super) const fn via(mut flow: Flow, hop: &Hop) -> Flow {
    flow.ifindex = hop.ifindex;
    flow.dst_mac = hop.dst_mac;
    flow.src_mac = hop.src_mac;
    flow.vlan = 0;
    flow.flags &= !flags::TAGGED;
    if hop.tagged != 0 {
        flow.vlan = hop.vlan;
        flow.flags |= flags::TAGGED;
    }
    flow
}

/// The next hop in an entry.
pub(crate) fn hop(flow: &Flow) -> Hop {
    Hop {
        ifindex: flow.ifindex,
        dst_mac: flow.dst_mac,
        src_mac: flow.src_mac,
        vlan: flow.vlan,
        tagged: u16::from(flow.flags & flags::TAGGED != 0),
    }
}

/// Both entries as they were written when the connection was opened.
#[derive(Clone, Debug)]
pub(super) struct Recipes {
    pub client_key: FlowKey,
    pub backend_key: FlowKey,
    /// Of packets from the client.
    pub to_backend: Flow,
    /// Of packets from the backend.
    pub to_client: Flow,
    /// The client's window when it was opened, as the backend reads it.
    pub window: u16,
    /// When to forget this, ns.
    pub until: u64,
}

impl Recipes {
    /// Forwards a packet that was punted before the splice, as the splice would have. A duplicate is
    /// harmless; dropping a first copy would cost a retransmission time-out.
    pub fn forward<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        packet: &Packet<'_>,
        from_client: bool,
    ) {
        let tcp = &packet.tcp;
        let (key, flow) = if from_client {
            (&self.client_key, &self.to_backend)
        } else {
            (&self.backend_key, &self.to_client)
        };
        if tcp.has(flag::SYN) {
            if !from_client {
                self.acknowledge_syn(cx, packet);
            }
            return;
        }
        let mut bits = tcp.flags;
        if packet.payload.len() != packet.payload_len {
            bits &= !(flag::FIN | flag::PSH);
        }
        let ack_add = if tcp.has(flag::ACK) { flow.ack_add } else { 0 };
        let segment = Emit {
            key: flow.outgoing(),
            seq: tcp.seq().wrapping_add(flow.seq_add),
            ack: tcp.ack().wrapping_add(ack_add),
            flags: bits,
            window: rescale(u16::from_be_bytes(tcp.window), flow.window_shift),
            syn: SynOptions::default(),
            timestamps: packet.timestamps().map(|t| Timestamps {
                value: t.value.wrapping_add(flow.tsval_add),
                echo: t.echo.wrapping_add(flow.tsecr_add),
            }),
            payload: packet.payload,
        };
        // Before it goes out: the answer, which the XDP program notes, must not come in between.
        if bits & (flag::FIN | flag::RST) != 0 {
            note_end(cx.datapath, key, bits);
        }
        cx.send(&hop(flow), &segment);
    }

    /// The backend sent its SYN-ACK again: our ACK is still on its way, or lost.
    fn acknowledge_syn<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        packet: &Packet<'_>,
    ) {
        let segment = Emit {
            key: self.to_backend.outgoing(),
            seq: packet.tcp.ack(),
            ack: packet.tcp.seq().wrapping_add(1),
            flags: flag::ACK,
            window: self.window,
            syn: SynOptions::default(),
            // Its TSecr is the TSval of our SYN.
            timestamps: packet.timestamps().map(|t| Timestamps {
                value: t.echo,
                echo: t.value,
            }),
            payload: &[],
        };
        cx.send(&hop(&self.to_backend), &segment);
    }
}

/// Writes into both entries that the sender of `key` has sent FIN or RST: the XDP program doesn't see
/// what the agent sends.
fn note_end(datapath: &mut impl Datapath, key: &FlowKey, bits: u8) {
    let Some(mut own) = datapath.get(key) else {
        return;
    };
    let pair = own.pair();
    let Some(mut other) = datapath.get(&pair) else {
        return;
    };
    if bits & flag::RST != 0 {
        own.flags |= flags::RST | flags::RST_SELF;
        other.flags |= flags::RST;
    } else {
        if own.flags & (flags::FIN_SELF | flags::FIN_PEER) == 0 {
            own.flags |= flags::FIN_FIRST;
        }
        own.flags |= flags::FIN_SELF;
        other.flags |= flags::FIN_PEER;
    }
    for (key, flow) in [(key, &own), (&pair, &other)] {
        if let Err(error) = datapath.replace(key, flow) {
            tracing::warn!(%error, "a closing connection's entry stays until its idle limit");
        }
    }
}
