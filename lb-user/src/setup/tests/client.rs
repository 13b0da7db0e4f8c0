//! A client's TCP, as strict as RFC 9293, 7323 and 5961 and no smarter: go-back-N.

use super::world::{MS, OUR_MAC, frame, segment};
use lb_common::layout::{FlowKey, Hop};
use lb_common::options::{Timestamps, offered};
use lb_common::wire::{Emit, Packet, SynOptions, flag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    SynSent,
    Established,
    /// Ended by a RST.
    Reset,
}

pub struct Client {
    pub key: FlowKey,
    pub hop: Hop,
    pub isn: u32,
    pub mss: u16,
    pub scale: Option<u8>,
    pub sack: bool,
    /// Added to its clock, if it uses timestamps.
    pub timestamps: Option<u32>,
    /// As it stands in the header.
    pub window: u16,
    pub stream: Vec<u8>,
    /// Lengths of its segments, over and over.
    pub cuts: Vec<usize>,
    /// Sends a segment only when the one before is acknowledged.
    pub waits: bool,
    /// Closes behind the stream.
    pub closes: bool,
    /// Answers what has not the number that it expects (RFC 5961, section 3.2), which nobody should send to
    /// those that don't.
    pub challenges: bool,
    pub state: State,
    pub una: usize,
    pub next: usize,
    /// The largest `next` so far.
    pub highest: usize,
    pub received: Vec<u8>,
    pub their_fin: bool,
    /// Their ISN.
    pub k: u32,
    /// Their window scale, as the SYN-ACK said.
    pub their_scale: u8,
    /// Their window in bytes, as last heard.
    pub their_window: u32,
    pub ts_recent: u32,
    pub old_timestamps: usize,
    pub segments: usize,
    pub silent_since: u64,
    pub first_tsval: u32,
}

impl Client {
    pub fn v4(port: u16, stream: Vec<u8>) -> Self {
        Self::new(
            FlowKey::v4([192, 0, 2, 5], port, [10, 77, 0, 2], 1883),
            stream,
        )
    }

    pub fn v6(port: u16, stream: Vec<u8>) -> Self {
        let key = FlowKey {
            src: [0x20; 16],
            dst: [0xfd; 16],
            src_port: port.to_be_bytes(),
            dst_port: 1883u16.to_be_bytes(),
        };
        Self::new(key, stream)
    }

    fn new(key: FlowKey, stream: Vec<u8>) -> Self {
        Self {
            key,
            hop: Hop {
                ifindex: 0,
                dst_mac: OUR_MAC,
                src_mac: [2, 0, 0, 1, key.src_port[0], key.src_port[1]],
                vlan: 0,
                tagged: 0,
            },
            isn: 0xffff_fff0,
            mss: 1460,
            scale: Some(3),
            sack: true,
            timestamps: Some(77),
            window: 8000,
            stream,
            cuts: vec![1400],
            waits: false,
            closes: false,
            challenges: false,
            state: State::SynSent,
            una: 0,
            next: 0,
            highest: 0,
            received: Vec::new(),
            their_fin: false,
            k: 0,
            their_scale: 0,
            their_window: 0,
            ts_recent: 0,
            old_timestamps: 0,
            segments: 0,
            silent_since: 0,
            first_tsval: 0,
        }
    }

    fn clock(&self, now: u64) -> u32 {
        ((now / MS) as u32).wrapping_add(self.timestamps.unwrap_or(0))
    }

    pub fn rcv_nxt(&self) -> u32 {
        self.k
            .wrapping_add(1)
            .wrapping_add(self.received.len() as u32)
            .wrapping_add(u32::from(self.their_fin))
    }

    pub fn start(&mut self, now: u64) -> Vec<Vec<u8>> {
        self.first_tsval = self.clock(now);
        self.silent_since = now;
        vec![self.syn(now)]
    }

    fn syn(&self, now: u64) -> Vec<u8> {
        let value = self.clock(now);
        let e = Emit {
            window: 60_000,
            syn: SynOptions {
                mss: Some(self.mss),
                window_scale: self.scale,
                sack: self.sack,
            },
            timestamps: self.timestamps.map(|_| Timestamps { value, echo: 0 }),
            ..segment(self.key, self.isn, 0, flag::SYN)
        };
        frame(&self.hop, &e)
    }

    /// A segment with this offset into the stream.
    pub fn make(&self, now: u64, offset: usize, flags: u8, payload: &[u8]) -> Vec<u8> {
        let value = self.clock(now);
        let seq = self.isn.wrapping_add(1).wrapping_add(offset as u32);
        let e = Emit {
            window: self.window,
            timestamps: self.timestamps.map(|_| Timestamps {
                value,
                echo: self.ts_recent,
            }),
            payload,
            ..segment(self.key, seq, self.rcv_nxt(), flags)
        };
        frame(&self.hop, &e)
    }

    /// Sends what may be sent.
    fn push(&mut self, now: u64) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while self.next < self.stream.len() {
            let flight = self.next - self.una;
            if (self.waits && flight > 0) || flight as u32 >= self.their_window.max(1) {
                break;
            }
            let len = self.cuts[self.segments % self.cuts.len()];
            self.segments += 1;
            let end = (self.next + len).min(self.stream.len());
            out.push(self.make(
                now,
                self.next,
                flag::ACK | flag::PSH,
                &self.stream[self.next..end],
            ));
            self.next = end;
        }
        if self.closes && self.next == self.stream.len() && !(self.waits && self.una < self.next) {
            out.push(self.make(now, self.next, flag::ACK | flag::FIN, &[]));
            self.next += 1;
        }
        self.highest = self.highest.max(self.next);
        out
    }

    pub fn on_timer(&mut self, now: u64) -> Vec<Vec<u8>> {
        if now < self.silent_since + 300 * MS {
            return vec![];
        }
        self.silent_since = now;
        match self.state {
            State::SynSent => vec![self.syn(now)],
            State::Established if self.una < self.highest => {
                self.next = self.una;
                self.push(now)
            }
            _ => vec![],
        }
    }

    pub fn on_frame(&mut self, now: u64, frame: &[u8]) -> Vec<Vec<u8>> {
        let p = Packet::parse(frame).unwrap();
        assert!(p.checksum_ok());
        assert_eq!(p.key, self.key.reversed());
        if self.state == State::Reset {
            return vec![];
        }
        if p.tcp.has(flag::RST) {
            let expected = if self.state == State::SynSent {
                return vec![];
            } else {
                self.rcv_nxt()
            };
            if self.challenges && p.tcp.seq() != expected {
                return vec![self.make(now, self.next, flag::ACK, &[])];
            }
            assert_eq!(
                p.tcp.seq(),
                expected,
                "a RST that the client would not accept"
            );
            self.state = State::Reset;
            return vec![];
        }
        if p.tcp.has(flag::SYN) {
            return self.on_syn_ack(now, &p);
        }
        if self.state == State::SynSent {
            return vec![];
        }
        assert!(p.tcp.has(flag::ACK));
        let old = p.tcp.seq().wrapping_sub(self.rcv_nxt()) >= 1 << 31;
        if self.challenges && p.seq_len() == 0 && old && p.timestamps().is_none() {
            return vec![self.make(now, self.next, flag::ACK, &[])];
        }
        if let Some(ours) = self.timestamps {
            let t = p.timestamps().expect("timestamps were negotiated");
            let _ = ours;
            assert!(
                t.echo.wrapping_sub(self.first_tsval)
                    <= self.clock(now).wrapping_sub(self.first_tsval),
                "an echo that was never sent"
            );
            if t.value.wrapping_sub(self.ts_recent) >= 1 << 31 {
                self.old_timestamps += 1;
                return vec![];
            }
            if p.tcp.seq().wrapping_sub(self.rcv_nxt()) as i32 <= 0 {
                self.ts_recent = t.value;
            }
        } else {
            assert_eq!(p.timestamps(), None, "timestamps were not negotiated");
        }
        let acked = p.tcp.ack().wrapping_sub(self.isn).wrapping_sub(1) as i32;
        assert!(
            acked <= self.highest as i32,
            "acknowledges what was never sent"
        );
        if acked > self.una as i32 {
            self.una = acked as usize;
            self.next = self.next.max(self.una);
            self.silent_since = now;
        }
        self.their_window = u32::from(u16::from_be_bytes(p.tcp.window)) << self.their_scale;
        let mut out = Vec::new();
        if p.seq_len() > 0 {
            if p.tcp.seq() == self.rcv_nxt() && !self.their_fin {
                self.received.extend_from_slice(p.payload);
                self.their_fin = p.tcp.has(flag::FIN);
            }
            out.push(self.make(now, self.next, flag::ACK, &[]));
        }
        out.extend(self.push(now));
        out
    }

    fn on_syn_ack(&mut self, now: u64, p: &Packet<'_>) -> Vec<Vec<u8>> {
        if self.state == State::Established {
            // RFC 5961, section 4: a challenge ACK.
            return vec![self.make(now, self.next, flag::ACK, &[])];
        }
        if !p.tcp.has(flag::ACK) || p.tcp.ack() != self.isn.wrapping_add(1) {
            return vec![];
        }
        let o = offered(p.options);
        self.state = State::Established;
        self.k = p.tcp.seq();
        self.their_scale = if self.scale.is_some() {
            o.window_scale.unwrap_or(0)
        } else {
            0
        };
        self.their_window = u32::from(u16::from_be_bytes(p.tcp.window));
        self.ts_recent = o.timestamps.map_or(0, |t| t.value);
        let mut out = vec![self.make(now, 0, flag::ACK, &[])];
        out.extend(self.push(now));
        out
    }
}
