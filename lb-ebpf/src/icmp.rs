//! ICMP errors that quote a packet of ours go to the agent: a backend that can't be reached, a path
//! that wants smaller packets. Everything else is the host's.

use aya_ebpf::programs::XdpContext;
use lb_common::layout::{FlowKey, PuntKind, Verdict, v4_mapped};
use lb_common::wire::{IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, PROTO_TCP};

use crate::count::pass;
use crate::frame::{after, at};
use crate::maps::FLOWS;
use crate::punt::{self, Reason};

/// ICMP header, then the quoted IPv4 header and the first 8 bytes of TCP (RFC 792).
#[repr(C)]
struct QuoteV4 {
    icmp: [u8; 8],
    ip: Ipv4,
    ports: [[u8; 2]; 2],
    seq: [u8; 4],
}

/// ICMPv6 header, then the quoted IPv6 header and the beginning of TCP (RFC 4443).
#[repr(C)]
struct QuoteV6 {
    icmp: [u8; 8],
    ip: Ipv6,
    ports: [[u8; 2]; 2],
    seq: [u8; 4],
}

/// An ICMP packet over IPv4 (no options, no fragment); `l3` is where its IP header is.
#[inline(never)]
pub fn v4(ctx: &XdpContext, l3: usize) -> u32 {
    let bytes = after(ctx, l3);
    let Some(q) = at::<QuoteV4>(ctx, l3 + IPV4_LEN) else {
        return pass(bytes);
    };
    // SAFETY: `at` checked the bounds.
    let q = unsafe { &*q };
    // Destination unreachable.
    if q.icmp[0] != 3 || q.ip.version_ihl != 0x45 || q.ip.protocol != PROTO_TCP {
        return pass(bytes);
    }
    // What comes back on a quoted packet's tuple has it reversed.
    let key = FlowKey {
        src: v4_mapped(q.ip.dst),
        dst: v4_mapped(q.ip.src),
        src_port: q.ports[1],
        dst_port: q.ports[0],
    };
    about(ctx, &key, bytes)
}

/// An ICMPv6 packet; `l3` is where its IP header is.
#[inline(never)]
pub fn v6(ctx: &XdpContext, l3: usize) -> u32 {
    let bytes = after(ctx, l3);
    let Some(q) = at::<QuoteV6>(ctx, l3 + IPV6_LEN) else {
        return pass(bytes);
    };
    // SAFETY: `at` checked the bounds.
    let q = unsafe { &*q };
    // Destination unreachable, packet too big.
    if q.icmp[0] != 1 && q.icmp[0] != 2 || q.ip.next_header != PROTO_TCP {
        return pass(bytes);
    }
    let key = FlowKey {
        src: q.ip.dst,
        dst: q.ip.src,
        src_port: q.ports[1],
        dst_port: q.ports[0],
    };
    about(ctx, &key, bytes)
}

#[inline(always)]
fn about(ctx: &XdpContext, key: &FlowKey, bytes: u32) -> u32 {
    let Some(flow) = FLOWS.get_ptr(key) else {
        return pass(bytes);
    };
    // SAFETY: a map value stays valid for the run of the program.
    let listener = unsafe { (*flow).listener };
    punt::punt(
        ctx,
        &Reason {
            kind: PuntKind::Icmp,
            listener,
            isn: 0,
            verdict: Verdict::PuntedIcmp,
            bytes,
        },
    )
}
