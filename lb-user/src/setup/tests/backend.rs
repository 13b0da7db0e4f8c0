//! A backend's TCP: one listener, as many connections as come. It checks that every connection that it
//! sees is consistent.

use super::world::{MS, OUR_MAC, frame, segment};
use lb_common::layout::{FlowKey, Hop, v4_mapped};
use lb_common::options::{Offered, Timestamps, offered};
use lb_common::wire::{Emit, Packet, SynOptions, flag};
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Normal,
    Refuses,
    Silent,
    /// Knows this many of the tuples from before.
    Challenges(u32),
}

pub struct Backend {
    pub address: [u8; 16],
    pub tag: Hop,
    pub number: u8,
    pub mode: Mode,
    pub mss: u16,
    /// Clients in the test keep to it as well.
    pub checks_mss: bool,
    pub scale: Option<u8>,
    pub sack: bool,
    pub timestamps: Option<u32>,
    /// As it stands in the header.
    pub window: u16,
    /// Sent once `reply_after` bytes have come.
    pub reply: Vec<u8>,
    pub reply_after: usize,
    /// Doesn't see data segments before this, ns.
    pub deaf_until: u64,
    pub connections: HashMap<FlowKey, Connection>,
    pub syns: Vec<(u64, FlowKey, Offered, u16)>,
    pub resets: usize,
    isn: u32,
}

pub struct Connection {
    hop: Hop,
    isn: u32,
    theirs: u32,
    options: Offered,
    pub established: bool,
    pub reset: bool,
    bytes: Vec<Option<u8>>,
    pub fin: Option<usize>,
    acked_reply: usize,
    replied: bool,
    /// TSvals of the first and the last SYN-ACK.
    pub snt: (u32, u32),
    ts_recent: u32,
    /// Window in bytes, as last heard.
    pub window: u32,
    pub old_timestamps: usize,
    silent_since: u64,
}

impl Connection {
    pub fn stream(&self) -> Vec<u8> {
        self.bytes.iter().map_while(|b| *b).collect()
    }

    fn rcv_nxt(&self) -> u32 {
        let len = self.bytes.iter().take_while(|b| b.is_some()).count();
        let ended = self.fin.is_some_and(|f| f == len);
        self.theirs
            .wrapping_add(1)
            .wrapping_add(len as u32)
            .wrapping_add(u32::from(ended))
    }
}

impl Backend {
    pub fn v4(number: u8) -> Self {
        Self::new(v4_mapped([10, 77, 1, number]), number)
    }

    pub fn v6(number: u8) -> Self {
        let mut address = [0xfe; 16];
        address[15] = number;
        Self::new(address, number)
    }

    fn new(address: [u8; 16], number: u8) -> Self {
        Self {
            address,
            tag: Hop::default(),
            number,
            mode: Mode::Normal,
            mss: 1460,
            checks_mss: true,
            scale: Some(7),
            sack: true,
            timestamps: Some(0x8000_0000),
            window: 500,
            reply: b"\x20\x02\x00\x00".to_vec(),
            reply_after: usize::MAX,
            deaf_until: 0,
            connections: HashMap::new(),
            syns: Vec::new(),
            resets: 0,
            isn: 0x1234_5678,
        }
    }

    pub fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 2, 0, self.number]
    }

    fn clock(&self, now: u64) -> u32 {
        ((now / MS) as u32).wrapping_add(self.timestamps.unwrap_or(0))
    }

    /// The only connection.
    pub fn only(&self) -> &Connection {
        assert_eq!(self.connections.len(), 1);
        self.connections.values().next().unwrap()
    }

    pub fn on_frame(&mut self, now: u64, bytes: &[u8]) -> Vec<Vec<u8>> {
        let p = Packet::parse(bytes).unwrap();
        assert!(p.checksum_ok());
        let hop = Hop {
            src_mac: self.mac(),
            dst_mac: OUR_MAC,
            ..p.reply
        };
        let answer =
            |seq, ack, flags| vec![frame(&hop, &segment(p.key.reversed(), seq, ack, flags))];
        if p.tcp.has(flag::RST) {
            self.resets += 1;
            if let Some(c) = self.connections.get_mut(&p.key)
                && p.tcp.seq() == c.rcv_nxt()
            {
                c.reset = true;
            }
            return vec![];
        }
        if p.tcp.has(flag::SYN) {
            assert!(!p.tcp.has(flag::ACK));
            assert_eq!((p.payload_len, p.tcp.ack()), (0, 0));
            let o = offered(p.options);
            assert_eq!(o.timestamps.map_or(0, |t| t.echo), 0);
            self.syns
                .push((now, p.key, o, u16::from_be_bytes(p.tcp.window)));
            match &mut self.mode {
                Mode::Silent => return vec![],
                Mode::Refuses => {
                    return answer(0, p.tcp.seq().wrapping_add(1), flag::RST | flag::ACK);
                }
                Mode::Challenges(n) if *n > 0 => {
                    *n -= 1;
                    return answer(0x0bad_0000, 0x0bad_1111, flag::ACK);
                }
                _ => {}
            }
            return self.on_syn(now, &p, hop, o);
        }
        if self.mode == Mode::Silent {
            return vec![];
        }
        if !self.connections.contains_key(&p.key) {
            return answer(p.tcp.ack(), 0, flag::RST);
        }
        self.on_segment(now, &p)
    }

    fn on_syn(&mut self, now: u64, p: &Packet<'_>, hop: Hop, options: Offered) -> Vec<Vec<u8>> {
        if self
            .connections
            .get(&p.key)
            .is_none_or(|c| c.reset || c.theirs != p.tcp.seq())
        {
            self.isn = self.isn.wrapping_mul(0x9e37_79b1).wrapping_add(77);
            let clock = self.clock(now);
            self.connections.insert(
                p.key,
                Connection {
                    hop,
                    isn: self.isn,
                    theirs: p.tcp.seq(),
                    options,
                    established: false,
                    reset: false,
                    bytes: Vec::new(),
                    fin: None,
                    acked_reply: 0,
                    replied: false,
                    snt: (clock, clock),
                    ts_recent: options.timestamps.map_or(0, |t| t.value),
                    window: u32::from(u16::from_be_bytes(p.tcp.window)),
                    old_timestamps: 0,
                    silent_since: now,
                },
            );
        }
        vec![self.syn_ack(now, p.key)]
    }

    fn syn_ack(&mut self, now: u64, key: FlowKey) -> Vec<u8> {
        let clock = self.clock(now);
        let (sack, scale, mss, timestamps) = (self.sack, self.scale, self.mss, self.timestamps);
        let window = self.window;
        let c = self.connections.get_mut(&key).unwrap();
        c.snt.1 = clock;
        c.silent_since = now;
        let e = Emit {
            window,
            syn: SynOptions {
                mss: Some(mss),
                window_scale: scale.filter(|_| c.options.window_scale.is_some()),
                sack: sack && c.options.sack,
            },
            timestamps: timestamps.and(c.options.timestamps).map(|_| Timestamps {
                value: clock,
                echo: c.ts_recent,
            }),
            ..segment(
                key.reversed(),
                c.isn,
                c.theirs.wrapping_add(1),
                flag::SYN | flag::ACK,
            )
        };
        frame(&c.hop, &e)
    }

    fn on_segment(&mut self, now: u64, p: &Packet<'_>) -> Vec<Vec<u8>> {
        let clock = self.clock(now);
        let (reply_len, ours, scale) = (self.reply.len(), self.timestamps, self.scale);
        let c = self.connections.get_mut(&p.key).unwrap();
        if c.reset {
            return vec![];
        }
        assert!(p.tcp.has(flag::ACK));
        let acked = p.tcp.ack().wrapping_sub(c.isn).wrapping_sub(1) as usize;
        let sent = if c.replied { reply_len } else { 0 };
        assert!(
            acked <= sent,
            "acknowledges {acked} of {sent} bytes that were sent"
        );
        assert!(
            !self.checks_mss || p.payload_len + p.options.len() <= usize::from(self.mss),
            "larger than the MSS"
        );
        let ts = ours.is_some() && c.options.timestamps.is_some();
        if p.seq_len() == 0 && p.tcp.seq().wrapping_sub(c.rcv_nxt()) >= 1 << 31 {
            // Behind a RST that the agent's sweep sent: without timestamps.
            return vec![self.ack(now, p.key)];
        }
        if ts {
            let t = p.timestamps().expect("timestamps were negotiated");
            // As Linux 6.14 does: the first ACK must echo a SYN-ACK.
            let (first, last) = c.snt;
            if !c.established && t.echo.wrapping_sub(first) > last.wrapping_sub(first) {
                return vec![];
            }
            // Later ones may echo what the client heard from us before the backend's SYN-ACK, but
            // nothing of the future.
            assert!(
                clock.wrapping_sub(t.echo) < 4_000_000,
                "an echo that was never sent"
            );
            if t.value.wrapping_sub(c.ts_recent) >= 1 << 31 {
                c.old_timestamps += 1;
                return vec![self.ack(now, p.key)];
            }
            if p.tcp.seq().wrapping_sub(c.rcv_nxt()) as i32 <= 0 {
                c.ts_recent = t.value;
            }
        } else {
            assert_eq!(p.timestamps(), None);
        }
        c.established = true;
        let shift = if scale.is_some() {
            c.options.window_scale.unwrap_or(0)
        } else {
            0
        };
        c.window = u32::from(u16::from_be_bytes(p.tcp.window)) << shift;
        c.acked_reply = c.acked_reply.max(acked);
        if now < self.deaf_until {
            return vec![];
        }
        let offset = p.tcp.seq().wrapping_sub(c.theirs).wrapping_sub(1) as i32;
        for (i, byte) in p.payload.iter().enumerate() {
            let Ok(at) = usize::try_from(offset + i as i32) else {
                continue;
            };
            assert!(at < 1 << 20, "a sequence number far off");
            if c.bytes.len() <= at {
                c.bytes.resize(at + 1, None);
            }
            assert!(c.bytes[at].is_none_or(|b| b == *byte), "byte {at} changed");
            c.bytes[at] = Some(*byte);
        }
        if p.tcp.has(flag::FIN) {
            let at = offset as usize + p.payload_len;
            assert!(c.fin.is_none_or(|f| f == at));
            c.fin = Some(at);
        }
        let mut out = Vec::new();
        if p.seq_len() > 0 {
            out.push(self.ack(now, p.key));
        }
        let c = self.connections.get_mut(&p.key).unwrap();
        if !c.replied && c.stream().len() >= self.reply_after {
            c.replied = true;
            out.push(self.send_reply(now, p.key));
        }
        out
    }

    fn make(&mut self, now: u64, key: FlowKey, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (clock, window) = (self.clock(now), self.window);
        let ours = self.timestamps;
        let c = self.connections.get_mut(&key).unwrap();
        let e = Emit {
            window,
            timestamps: ours.and(c.options.timestamps).map(|_| Timestamps {
                value: clock,
                echo: c.ts_recent,
            }),
            payload,
            ..segment(key.reversed(), seq, c.rcv_nxt(), flags)
        };
        frame(&c.hop, &e)
    }

    fn ack(&mut self, now: u64, key: FlowKey) -> Vec<u8> {
        let c = &self.connections[&key];
        let sent = if c.replied {
            self.reply.len() as u32
        } else {
            0
        };
        let seq = c.isn.wrapping_add(1).wrapping_add(sent);
        self.make(now, key, seq, flag::ACK, &[])
    }

    fn send_reply(&mut self, now: u64, key: FlowKey) -> Vec<u8> {
        let seq = self.connections[&key].isn.wrapping_add(1);
        let reply = self.reply.clone();
        self.connections.get_mut(&key).unwrap().silent_since = now;
        self.make(now, key, seq, flag::ACK | flag::PSH, &reply)
    }

    pub fn on_timer(&mut self, now: u64) -> Vec<Vec<u8>> {
        let len = self.reply.len();
        let due = |c: &Connection| !c.reset && now >= c.silent_since + 300 * MS;
        let due: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, c)| due(c))
            .map(|(k, c)| (*k, c.established, c.replied && c.acked_reply < len))
            .collect();
        let mut out = Vec::new();
        for (key, established, unacked) in due {
            if !established {
                out.push(self.syn_ack(now, key));
            } else if unacked {
                out.push(self.send_reply(now, key));
            }
        }
        out
    }
}
