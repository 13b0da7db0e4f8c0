//! Frames in and out. Built and read by etherparse, which shares no code with mqlb, so that both
//! checksums of whatever the program sends are recomputed in full by somebody else.

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};
use lb_common::layout::{FlowKey, v4_mapped};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

/// A TCP segment in its frame, down to every field that could be lost or made up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    /// TPID and TCI of each tag, outermost first.
    pub tags: Vec<(u16, u16)>,
    pub key: FlowKey,
    /// DSCP and ECN, or the traffic class.
    pub tos: u8,
    /// Identification (IPv4) or flow label (IPv6).
    pub id: u16,
    pub ttl: u8,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Segment {
    /// A bare ACK on `key`; everything else by the fields and by the methods below.
    pub fn new(key: FlowKey, (src_mac, dst_mac): ([u8; 6], [u8; 6])) -> Self {
        Self {
            dst_mac,
            src_mac,
            tags: vec![],
            key,
            tos: 0,
            id: 0x1234,
            ttl: 61,
            seq: 1,
            ack: 1,
            flags: ACK,
            window: 501,
            options: vec![],
            payload: vec![],
        }
    }

    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    pub fn ack(mut self, ack: u32) -> Self {
        self.ack = ack;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Self {
        assert_eq!(options.len() % 4, 0, "options are aligned by the row");
        self.options = options.to_vec();
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// The same, changed by `f`: the expected frame in terms of the one that came in.
    pub fn but(&self, f: impl FnOnce(&mut Self)) -> Self {
        let mut s = self.clone();
        f(&mut s);
        s
    }

    /// The frame's way back: MACs and tuple reversed, tags kept, a fresh IP header, nothing of TCP.
    pub fn turned(&self) -> Self {
        Self {
            dst_mac: self.src_mac,
            src_mac: self.dst_mac,
            tags: self.tags.clone(),
            key: self.key.reversed(),
            tos: 0,
            id: 0,
            ttl: 64,
            seq: 0,
            ack: 0,
            flags: 0,
            window: 0,
            options: vec![],
            payload: vec![],
        }
    }

    /// The RST that answers this segment (RFC 9293, section 3.10.7.1).
    pub fn reset(&self) -> Self {
        let length = u32::try_from(self.payload.len()).unwrap()
            + u32::from(self.flags & SYN != 0)
            + u32::from(self.flags & FIN != 0);
        self.turned().but(|r| {
            if self.flags & ACK != 0 {
                (r.seq, r.flags) = (self.ack, RST);
            } else {
                (r.ack, r.flags) = (self.seq.wrapping_add(length), RST | ACK);
            }
        })
    }

    /// Length of the IP packet, which is what the program counts.
    pub fn ip_len(&self) -> usize {
        let ip = if self.key.is_v4() { 20 } else { 40 };
        ip + 20 + self.options.len() + self.payload.len()
    }

    /// Where the IP header starts in the frame.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the TCP header starts in the frame.
    pub fn l4(&self) -> usize {
        self.l3() + if self.key.is_v4() { 20 } else { 40 }
    }

    /// The frame, checksums computed by etherparse.
    pub fn bytes(&self) -> Vec<u8> {
        let k = &self.key;
        let mut tcp = TcpHeader::new(
            u16::from_be_bytes(k.src_port),
            u16::from_be_bytes(k.dst_port),
            self.seq,
            self.window,
        );
        tcp.acknowledgment_number = self.ack;
        let has = |bit| self.flags & bit != 0;
        (tcp.fin, tcp.syn, tcp.rst) = (has(FIN), has(SYN), has(RST));
        (tcp.psh, tcp.ack, tcp.urg) = (has(PSH), has(ACK), has(32));
        (tcp.ece, tcp.cwr) = (has(ECE), has(CWR));
        tcp.set_options_raw(&self.options).unwrap();
        let length = tcp.header_len() + self.payload.len();

        let mut out = [self.dst_mac, self.src_mac].concat();
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        if k.is_v4() {
            let mut ip = Ipv4Header::new(
                u16::try_from(length).unwrap(),
                self.ttl,
                IpNumber::TCP,
                last4(&k.src),
                last4(&k.dst),
            )
            .unwrap();
            ip.dscp = (self.tos >> 2).try_into().unwrap();
            ip.ecn = (self.tos & 3).try_into().unwrap();
            ip.identification = self.id;
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
            out.extend([8, 0]);
            out.extend(ip.to_bytes());
        } else {
            let ip = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(u32::from(self.id)).unwrap(),
                payload_length: u16::try_from(length).unwrap(),
                next_header: IpNumber::TCP,
                hop_limit: self.ttl,
                source: k.src,
                destination: k.dst,
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
            out.extend([0x86, 0xdd]);
            out.extend(ip.to_bytes());
        }
        out.extend(tcp.to_bytes());
        out.extend(&self.payload);
        out
    }

    /// Reads a frame and insists on every checksum.
    pub fn read(frame: &[u8]) -> Self {
        let mut tags = vec![];
        let mut at = 12;
        let mut kind = be16(frame, at);
        while kind == 0x8100 || kind == 0x88a8 {
            tags.push((kind, be16(frame, at + 2)));
            at += 4;
            kind = be16(frame, at);
        }
        let rest = &frame[at + 2..];
        let (src, dst, tos, id, ttl, ip_payload);
        let (tcp, payload, sum);
        match kind {
            0x0800 => {
                let (ip, after) = Ipv4Header::from_slice(rest).unwrap();
                assert_eq!(
                    ip.header_checksum,
                    ip.calc_header_checksum(),
                    "checksum of the IPv4 header"
                );
                assert!(ip.dont_fragment && !ip.is_fragmenting_payload() && ip.options.is_empty());
                ip_payload = &after[..usize::from(ip.payload_len().unwrap())];
                (src, dst) = (v4_mapped(ip.source), v4_mapped(ip.destination));
                tos = (ip.dscp.value() << 2) | ip.ecn.value();
                (id, ttl) = (ip.identification, ip.time_to_live);
                (tcp, payload) = TcpHeader::from_slice(ip_payload).unwrap();
                sum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
            }
            0x86dd => {
                let (ip, after) = Ipv6Header::from_slice(rest).unwrap();
                assert_eq!(ip.next_header, IpNumber::TCP);
                ip_payload = &after[..usize::from(ip.payload_length)];
                (src, dst, tos) = (ip.source, ip.destination, ip.traffic_class);
                (id, ttl) = (u16::try_from(ip.flow_label.value()).unwrap(), ip.hop_limit);
                (tcp, payload) = TcpHeader::from_slice(ip_payload).unwrap();
                sum = tcp.calc_checksum_ipv6(&ip, payload).unwrap();
            }
            other => panic!("EtherType {other:#x}"),
        }
        // 0 and 0xffff are the same number in one's complement.
        assert_eq!(tcp.checksum % 0xffff, sum % 0xffff, "checksum of TCP");
        assert_eq!(tcp.urgent_pointer, 0);
        assert_eq!(ip_payload[12] & 15, 0, "reserved bits");
        Self {
            dst_mac: frame[..6].try_into().unwrap(),
            src_mac: frame[6..12].try_into().unwrap(),
            tags,
            key: FlowKey {
                src,
                dst,
                src_port: tcp.source_port.to_be_bytes(),
                dst_port: tcp.destination_port.to_be_bytes(),
            },
            tos,
            id,
            ttl,
            seq: tcp.sequence_number,
            ack: tcp.acknowledgment_number,
            flags: ip_payload[13],
            window: tcp.window_size,
            options: tcp.options.as_slice().to_vec(),
            payload: payload.to_vec(),
        }
    }
}

/// Sets bytes of a frame: for what no builder would build.
pub fn edit(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Aligned timestamps, as nearly every stack sends them.
pub fn timestamps(value: u32, echo: u32) -> Vec<u8> {
    let mut o = vec![1, 1, 8, 10];
    o.extend(value.to_be_bytes());
    o.extend(echo.to_be_bytes());
    o
}

/// A SACK option with these edges, after two NOPs.
pub fn sack(edges: &[u32]) -> Vec<u8> {
    let mut o = vec![1, 1, 5, u8::try_from(2 + edges.len() * 4).unwrap()];
    o.extend(edges.iter().flat_map(|e| e.to_be_bytes()));
    o
}

pub fn last4(a: &[u8; 16]) -> [u8; 4] {
    a[12..].try_into().unwrap()
}

pub fn be16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}
