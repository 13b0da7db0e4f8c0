//! No backend is left, or a limit is reached: the client is told in MQTT's terms, then the connection
//! is closed.

use super::connection::{Connection, Context, Phase, distance};
use super::interface::{Datapath, Steering};
use super::settings::{MS, SECOND};
use lb_common::layout::Verdict;
use lb_common::mqtt::{self, Protocol, Refused};
use lb_common::wire::flag;

const FIRST_RETRANSMIT: u64 = 200 * MS;
const TRIES: u8 = 4;
/// How long the client's FIN is still answered once it has the refusal.
const LINGER: u64 = SECOND;

/// A CONNACK with a FIN behind it, on its way to the client.
#[derive(Debug)]
pub(super) struct Refusal {
    connack: &'static [u8],
    sent: u8,
    interval: u64,
    /// The client has all of it.
    acknowledged: bool,
}

impl Refusal {
    /// Sequence space of it: the CONNACK and the FIN.
    pub const fn seq_len(&self) -> u32 {
        distance(self.connack.len()) + 1
    }
}

impl Connection {
    /// Begins to refuse. The client's entry stays, so that its FIN comes to us.
    pub fn refuse<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        verdict: Verdict,
        why: Refused,
    ) {
        cx.count(verdict);
        if self.settings.tls {
            return self.abandon(cx);
        }
        let pace = cx.settings.refusals;
        let Some(next) = pace.and_then(|pace| pace.take(*cx.refusals, cx.now)) else {
            cx.count(Verdict::RefusalLimited);
            return self.abandon(cx);
        };
        *cx.refusals = next;
        let protocol = self
            .connect
            .map_or(Protocol::V311, |connect| connect.protocol);
        self.phase = Phase::Refuse(Refusal {
            connack: mqtt::refusal(protocol, why),
            sent: 0,
            interval: FIRST_RETRANSMIT,
            acknowledged: false,
        });
        self.refusal_timer(cx);
    }

    /// The timer, while refusing: sends the CONNACK (again), or forgets the connection.
    pub fn refusal_timer<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Phase::Refuse(refusal) = &mut self.phase else {
            return;
        };
        if refusal.acknowledged || refusal.sent == TRIES {
            // What the client may still send is answered with RST by the XDP program.
            return self.forget(cx);
        }
        refusal.sent += 1;
        self.deadline = cx.now + refusal.interval;
        refusal.interval *= 2;
        let connack = refusal.connack;
        let (seq, ack) = (self.cookie.wrapping_add(1), self.ack_of_all());
        let flags = flag::FIN | flag::PSH | flag::ACK;
        self.send_to_client(cx, seq, ack, flags, connack);
    }

    /// The refused client sent something else than a bare ACK: its FIN, or data that crossed.
    pub fn refused_client_sent<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        ack: u32,
    ) {
        let Phase::Refuse(refusal) = &mut self.phase else {
            return;
        };
        let end = self.cookie.wrapping_add(1).wrapping_add(refusal.seq_len());
        if ack == end && !refusal.acknowledged {
            refusal.acknowledged = true;
            self.deadline = cx.now + LINGER;
        }
        let ack = self.ack_of_all();
        self.send_to_client(cx, end, ack, flag::ACK, &[]);
    }
}
