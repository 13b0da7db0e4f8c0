//! The packets that are measured.

use anyhow::{Context, ensure};
use lb_common::checksum::Sum;
use lb_common::layout::{FlowKey, Hop};
use lb_common::options::Timestamps;
use lb_common::wire::{ETH_LEN, Emit, IPV4_LEN, IPV6_LEN, Packet, SynOptions, TCP_LEN, emit, flag};

pub const VIP: [u8; 4] = [10, 77, 0, 2];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub const STAMPS: Timestamps = Timestamps {
    value: 77,
    echo: 88,
};

/// Options of a spliced packet.
#[derive(Clone, Copy)]
pub enum Options {
    None,
    /// NOP, NOP, timestamps.
    Stamps,
    /// The same, then NOP, NOP and so many SACK blocks.
    Sack(u8),
    /// Timestamps, NOP, NOP: allowed, but nobody's usual layout.
    Unaligned,
}

impl Options {
    fn bytes(self) -> Vec<u8> {
        let stamps = [
            &[8, 10][..],
            &STAMPS.value.to_be_bytes(),
            &STAMPS.echo.to_be_bytes(),
        ]
        .concat();
        match self {
            Self::None => vec![],
            Self::Stamps => [&[1, 1][..], &stamps].concat(),
            Self::Sack(blocks) => {
                let mut bytes = [&[1, 1][..], &stamps, &[1, 1, 5, 2 + 8 * blocks]].concat();
                bytes.extend((0..8 * blocks).map(|n| n * 3));
                bytes
            }
            Self::Unaligned => [&stamps[..], &[1, 1]].concat(),
        }
    }
}

/// The `n`th tuple: clients of a few networks.
pub fn flow_key(n: u32) -> FlowKey {
    let [_, _, high, low] = (n / 50).to_be_bytes();
    FlowKey::v4([10, 9, high, low], 40_000 + (n % 50) as u16, VIP, 1883)
}

/// A tuple of IPv6.
pub fn flow_key_v6() -> FlowKey {
    let mut key = FlowKey {
        src: [0; 16],
        dst: [0; 16],
        ..flow_key(0)
    };
    (key.src[0], key.src[15], key.dst[0], key.dst[15]) = (0xfd, 1, 0xfd, 2);
    key
}

pub fn segment(key: FlowKey) -> Emit<'static> {
    Emit {
        key,
        seq: 1000,
        ack: 2000,
        flags: flag::ACK,
        window: 500,
        syn: SynOptions::default(),
        timestamps: None,
        payload: &[],
    }
}

pub fn frame(e: &Emit<'_>) -> anyhow::Result<Vec<u8>> {
    let hop = Hop {
        dst_mac: OUR_MAC,
        src_mac: CLIENT_MAC,
        ..Hop::default()
    };
    let mut out = vec![0; 512];
    let length = emit(e, &hop, &mut out).context("the frame is too long")?;
    out.truncate(length);
    Ok(out)
}

/// A packet of an open connection.
pub fn spliced(key: FlowKey, options: Options, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut frame = frame(&Emit {
        payload,
        ..segment(key)
    })?;
    let l4 = ETH_LEN + if key.is_v4() { IPV4_LEN } else { IPV6_LEN };
    let options = options.bytes();
    let added = u8::try_from(options.len())?;
    frame.splice(l4 + TCP_LEN..l4 + TCP_LEN, options.iter().copied());
    // The checksums follow: the length counts in the IPv4 header's and in the pseudo-header.
    let mut sum = Sum::of_field([frame[l4 + 16], frame[l4 + 17]]);
    sum.0 += lb_common::checksum::sum(&options);
    sum.add2([0, added]);
    sum.add2([added << 2, 0]);
    frame[l4 + 12] += added << 2;
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.field());
    if key.is_v4() {
        frame[ETH_LEN + 3] += added;
        let mut sum = Sum::of_field([frame[ETH_LEN + 10], frame[ETH_LEN + 11]]);
        sum.add2([0, added]);
        frame[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&sum.field());
    } else {
        frame[ETH_LEN + 5] += added;
    }
    check(&frame)?;
    Ok(frame)
}

/// # Errors
/// The frame isn't a TCP packet with right checksums.
pub fn check(frame: &[u8]) -> anyhow::Result<()> {
    let packet = Packet::parse(frame).map_err(|e| anyhow::anyhow!("no TCP packet: {e:?}"))?;
    ensure!(packet.checksum_ok(), "wrong TCP checksum");
    if packet.key.is_v4() {
        let header = &frame[ETH_LEN..ETH_LEN + IPV4_LEN];
        let sum = Sum(lb_common::checksum::sum(header)).fold();
        ensure!(sum == 0xffff, "wrong IPv4 checksum");
    }
    Ok(())
}

/// TTL or hop limit.
pub fn ttl(frame: &[u8]) -> u8 {
    let at = if frame[12..14] == [8, 0] { 8 } else { 7 };
    frame[ETH_LEN + at]
}

pub fn arp() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &CLIENT_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.resize(60, 0);
    frame
}
