//! The client's side before the splice: its segments are put in order and read as far as the client
//! identifier.

use super::connection::{Connect, Connection, Context, Phase, later};
use super::hello;
use super::interface::{Datapath, Steering};
use super::settings::Settings;
use crate::select::shared_hash;
use lb_common::layout::{Flow, Hop, State, Verdict, flags};
use lb_common::mqtt::{self, Protocol, Reject, Sniff};
use lb_common::tls;
use lb_common::wire::{Packet, flag};

/// The verdict that counts a reason.
pub(crate) const fn verdict(reject: Reject) -> Verdict {
    match reject {
        Reject::NotConnect => Verdict::RejectNotConnect,
        Reject::BadRemainingLength => Verdict::RejectRemainingLength,
        Reject::OversizedPacket => Verdict::RejectOversizedPacket,
        Reject::BadProtocolName => Verdict::RejectProtocolName,
        Reject::BadProtocolLevel => Verdict::RejectProtocolLevel,
        Reject::BadFlags => Verdict::RejectFlags,
        Reject::BadProperties => Verdict::RejectProperties,
        Reject::BadClientId => Verdict::RejectClientId,
        Reject::EmptyClientId => Verdict::RejectEmptyClientId,
        Reject::OversizedClientId => Verdict::RejectOversizedClientId,
        Reject::BadPayload => Verdict::RejectPayload,
    }
}

impl Connect {
    /// From a client's first bytes; `None`: more has to come.
    pub fn read(settings: &Settings, first_bytes: &[u8]) -> Result<Option<Self>, Verdict> {
        match mqtt::sniff_within(first_bytes, &settings.mqtt) {
            Err(reject) => Err(verdict(reject)),
            Ok(Sniff::Incomplete) => Ok(None),
            Ok(Sniff::Connect(connect)) => Ok(Some(Self {
                protocol: connect.protocol,
                keep_alive: connect.keep_alive,
                client: settings.client_hash(connect.client_id),
                shared: shared_hash(connect.client_id),
                complete: connect.complete,
            })),
        }
    }

    /// The same from the ClientHello of a client at `address`. It hears nothing of refusals but a RST: the TLS is
    /// not ours.
    fn read_hello(
        settings: &Settings,
        address: &[u8; 16],
        first_bytes: &[u8],
    ) -> Result<Option<Self>, Verdict> {
        match tls::sniff(first_bytes) {
            Err(reject) => Err(hello::verdict(reject)),
            Ok(tls::Sniff::Incomplete) => Ok(None),
            Ok(tls::Sniff::Hello(server)) => {
                let name = hello::known_by(address, server.as_ref());
                Ok(Some(Self {
                    protocol: Protocol::V311,
                    // TLS doesn't say.
                    keep_alive: 0,
                    client: settings.client_hash(&name),
                    shared: shared_hash(&name),
                    complete: true,
                }))
            }
        }
    }
}

impl Connection {
    /// A segment from the client, checksum verified, in `Sniff`, `Connect` or `Refuse`.
    pub fn on_client<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        packet: &Packet<'_>,
        ifindex: u32,
    ) {
        let tcp = &packet.tcp;
        let offset = self.offset_of(tcp.seq());
        if tcp.has(flag::RST) {
            // Only within what we take in: a blind RST must guess (RFC 5961, section 3.2).
            if usize::try_from(offset).is_ok_and(|o| o <= cx.settings.sniff_bytes) {
                self.closed_by_reset(cx);
            }
            return;
        }
        if tcp.has(flag::SYN) || !tcp.has(flag::ACK) || !self.acknowledges_us(tcp.ack()) {
            return;
        }
        self.learn(packet, ifindex);
        let grew = self
            .received
            .insert(offset, packet.payload, cx.settings.sniff_bytes);
        if tcp.has(flag::FIN) && packet.payload.len() == packet.payload_len {
            let len = i64::try_from(packet.payload_len).unwrap_or(0);
            self.received.end_at(offset + len);
        }
        match self.phase {
            Phase::Sniff => self.sniff(cx),
            Phase::Connect(_) if grew => self.check_the_rest(cx),
            Phase::Refuse(_) => self.refused_client_sent(cx, tcp.ack()),
            _ => {}
        }
    }

    /// Whether an acknowledgement number is one that this client can send: we sent nothing but a
    /// SYN-ACK, and perhaps a refusal.
    fn acknowledges_us(&self, ack: u32) -> bool {
        let sent = match &self.phase {
            Phase::Refuse(refusal) => refusal.seq_len(),
            _ => 0,
        };
        ack.wrapping_sub(self.cookie).wrapping_sub(1) <= sent
    }

    /// Notes where the client is, its window and its timestamps.
    fn learn(&mut self, packet: &Packet<'_>, ifindex: u32) {
        let (hop, ingress) = way_back(packet, ifindex);
        self.client.hop = hop;
        self.client.ingress = ingress;
        self.client.window = u16::from_be_bytes(packet.tcp.window);
        if let (Some(tsval), Some(new)) = (self.client.tsval, packet.timestamps()) {
            self.client.tsval = Some(later(tsval, new.value));
            self.tsval = later(self.tsval, new.echo);
        }
    }

    /// The client reset the connection.
    fn closed_by_reset<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        if let Phase::Connect(attempt) = &self.phase {
            attempt.withdraw(cx);
        }
        if !matches!(self.phase, Phase::Refuse(_)) {
            cx.count(Verdict::ClosedEarly);
        }
        self.forget(cx);
    }

    /// Reads what has come.
    fn sniff<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let first_bytes = self.received.contiguous();
        let read = if self.settings.tls {
            Connect::read_hello(cx.settings, &self.key.src, first_bytes)
        } else {
            Connect::read(cx.settings, first_bytes)
        };
        match read {
            Err(verdict) => self.reject(cx, verdict),
            Ok(Some(connect)) => {
                self.connect = Some(connect);
                self.admit(cx);
            }
            Ok(None) if self.received.ended() => {
                self.reject(cx, Verdict::ClosedEarly);
            }
            Ok(None) if first_bytes.len() >= cx.settings.sniff_bytes => {
                self.reject(cx, Verdict::RejectOversizedPacket);
            }
            // The client may wait for an acknowledgement before it sends the rest (RFC 896). These
            // bytes are ours from now on. A duplicate is acknowledged again: ours may be lost.
            Ok(None) if !first_bytes.is_empty() => {
                let owned = first_bytes.len();
                if self.acknowledged == 0 && !self.note_owned(cx) {
                    return;
                }
                self.acknowledged = owned;
                let (seq, ack) = (self.cookie.wrapping_add(1), self.ack_of_all());
                self.send_to_client(cx, seq, ack, flag::ACK, &[]);
            }
            Ok(None) => {}
        }
    }

    /// Notes in the client's entry that bytes are about to be ours: should this agent die, nobody has them.
    fn note_owned<D: Datapath, S: Steering>(&self, cx: &mut Context<'_, D, S>) -> bool {
        let sniffing = |f: &Flow| f.state == State::Sniff as u8 && f.next_seq == self.isn;
        let Some(mut entry) = cx.datapath.get(&self.key).filter(sniffing) else {
            return false;
        };
        entry.flags |= flags::OWNED;
        // Without it nothing is acknowledged; the client comes again.
        cx.datapath.replace(&self.key, &entry).is_ok()
    }

    /// The identifier is known: goes on to a backend, or refuses.
    fn admit<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let client = self.connect.map_or(0, |connect| connect.client);
        let (verdict, why) = match cx.steering.admit(self.listener, client) {
            Ok(()) => return self.next_backend(cx),
            Err(denied) => denied.verdict(),
        };
        self.refuse(cx, verdict, why);
    }

    /// While a backend is being connected to: what comes behind the identifier may still be wrong,
    /// and then no broker should see it.
    fn check_the_rest<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Some(connect) = &mut self.connect else {
            return;
        };
        if connect.complete {
            return;
        }
        match mqtt::sniff_within(self.received.contiguous(), &cx.settings.mqtt) {
            Ok(Sniff::Connect(now)) => connect.complete = now.complete,
            Ok(Sniff::Incomplete) => {}
            Err(reject) => self.reject(cx, verdict(reject)),
        }
    }

    fn reject<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>, verdict: Verdict) {
        cx.count(verdict);
        self.abandon(cx);
    }
}

/// Where a reply to a packet goes, and the digest of where the packet came in.
pub(super) fn way_back(packet: &Packet<'_>, ifindex: u32) -> (Hop, u32) {
    let hop = Hop {
        ifindex,
        ..packet.reply
    };
    (hop, Hop::signature(ifindex, &hop.dst_mac, hop.vlan))
}
