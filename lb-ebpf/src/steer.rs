//! From the Ethernet header to the handler: parse once, look the flow up, decide.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{EndpointKey, FlowKey, Verdict, by_words, v4_mapped};
use lb_common::wire::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, PROTO_ICMP,
    PROTO_ICMPV6, PROTO_TCP, TCP_LEN, Tcp, VLAN_LEN, is_v6_extension, is_vlan,
};

use crate::connect::{self, header};
use crate::count::{drop, pass};
use crate::frame::{Parsed, V4, V6, after, at, length, opaque};
use crate::maps::{ENDPOINTS, FLOWS};
use crate::straight::{self, Way};
use crate::{icmp, newcomer, splice};

/// No action: the packet was parsed.
const PARSED: u32 = u32::MAX;

/// Next header value of the IPv6 fragment header (RFC 8200, section 4.5).
const FRAGMENT: u8 = 44;

/// Where the IP header is.
struct Link {
    l3: usize,
    kind: u16,
    tagged: bool,
    two_tags: bool,
    vlan: u16,
}

/// The whole program.
///
/// The general way comes together in one call of each handler, because the verifier walks a function
/// anew from every place that calls it.
#[inline(always)]
pub fn steer(ctx: &XdpContext) -> u32 {
    let lookup = match straight::splice(ctx) {
        Way::Gone(action) => return action,
        Way::General(lookup) => lookup,
    };
    let mut parsed = MaybeUninit::uninit();
    let action = parse(ctx, &mut parsed);
    if action != PARSED {
        return action;
    }
    // SAFETY: that is what `PARSED` says.
    let p = unsafe { parsed.assume_init_ref() };
    let flow = if lookup.done {
        lookup.flow
    } else {
        FLOWS.get_ptr_mut(&p.key).unwrap_or_default()
    };
    // SAFETY: a map value stays valid for the run of the program (RCU); other CPUs may write to the
    // counters at the same time, which are statistics, and the agent replaces values as a whole.
    if let Some(flow) = unsafe { flow.as_mut() } {
        if !splice::begins_anew(p, flow) {
            // Not within `known`: the stack has 512 bytes for the whole chain of calls.
            if header::is_due(p, flow) && !header::prepend(ctx, p) {
                return drop(Verdict::HelperFailed, p.length);
            }
            return splice::known(ctx, p, flow);
        }
        // A backend's entry stays until it has lingered, so that its port isn't used again too early.
        connect::withdraw(flow);
        let _ = FLOWS.remove(&p.key);
    }
    newcomer::unknown(ctx, p)
}

/// Parses any frame: [`PARSED`], or what is to be done with it.
#[inline(never)]
fn parse(ctx: &XdpContext, parsed: &mut MaybeUninit<Parsed>) -> u32 {
    let Some(link) = link(ctx) else {
        return xdp_action::XDP_PASS;
    };
    let action = match link.kind {
        ETHERTYPE_IPV4 => ipv4(ctx, &link, parsed),
        ETHERTYPE_IPV6 => ipv6(ctx, &link, parsed),
        // ARP, LLDP …
        _ => pass(after(ctx, link.l3)),
    };
    if action != PARSED {
        return action;
    }
    // SAFETY: that is what `PARSED` says.
    let p = unsafe { parsed.assume_init_ref() };
    if p.tcp_len < TCP_LEN as u32 || p.payload > 0xffff || p.l3 + p.length as usize > length(ctx) {
        return unless_ours(p.key.dst, Verdict::Malformed, p.length);
    }
    PARSED
}

/// Reads the Ethernet header and up to two VLAN tags; the outer one is kept.
#[inline(always)]
fn link(ctx: &XdpContext) -> Option<Link> {
    let eth = at::<Eth>(ctx, 0)?;
    // SAFETY: `at` checked the bounds.
    let kind = u16::from_be_bytes(unsafe { (*eth).kind });
    let mut link = Link {
        l3: ETH_LEN,
        kind,
        tagged: false,
        two_tags: false,
        vlan: 0,
    };
    if is_vlan(kind) {
        let tag = at::<[u8; VLAN_LEN]>(ctx, ETH_LEN)?;
        // SAFETY: `at` checked the bounds.
        let tag = unsafe { *tag };
        link.tagged = true;
        link.vlan = u16::from_be_bytes([tag[0], tag[1]]) & 0xfff;
        link.kind = u16::from_be_bytes([tag[2], tag[3]]);
        link.l3 = ETH_LEN + VLAN_LEN;
        if is_vlan(link.kind) {
            let inner = at::<[u8; VLAN_LEN]>(ctx, ETH_LEN + VLAN_LEN)?;
            // SAFETY: `at` checked the bounds.
            let inner = unsafe { *inner };
            link.kind = u16::from_be_bytes([inner[2], inner[3]]);
            link.l3 = ETH_LEN + 2 * VLAN_LEN;
            link.two_tags = true;
        }
    }
    Some(link)
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, link: &Link, parsed: &mut MaybeUninit<Parsed>) -> u32 {
    let Some(ip) = at::<Ipv4>(ctx, link.l3) else {
        return pass(after(ctx, link.l3));
    };
    // SAFETY: `at` checked the bounds of the header.
    let (first, protocol, fragment, dst, total) = unsafe {
        (
            (*ip).version_ihl,
            (*ip).protocol,
            (*ip).is_fragment(),
            (*ip).dst,
            u16::from_be_bytes((*ip).total_len) as u32,
        )
    };
    if protocol != PROTO_TCP {
        if protocol == PROTO_ICMP && first == 0x45 && !fragment {
            return icmp::v4(ctx, link.l3);
        }
        return pass(total);
    }
    if first != 0x45 {
        return unless_ours(v4_mapped(dst), Verdict::IpExtension, total);
    }
    if fragment {
        return unless_ours(v4_mapped(dst), Verdict::Fragment, total);
    }
    let Some(head) = at::<V4>(ctx, link.l3) else {
        return unless_ours(v4_mapped(dst), Verdict::Malformed, total);
    };
    // SAFETY: `at` checked the bounds of both headers.
    let (ip, tcp) = unsafe { (&(*head).ip, &(*head).tcp) };
    let tcp_len = tcp.header_len() as u32;
    let (src, dst) = mapped(ip.src, ip.dst);
    let (src_port, dst_port) = ports(tcp);
    parsed.write(Parsed {
        key: FlowKey {
            src,
            dst,
            src_port,
            dst_port,
        },
        l3: link.l3,
        length: total,
        tcp_len,
        payload: total.wrapping_sub(IPV4_LEN as u32 + tcp_len),
        seq: tcp.seq(),
        ack: tcp.ack(),
        flags: tcp.flags,
        tagged: link.tagged,
        two_tags: link.two_tags,
        vlan: link.vlan,
        v4: true,
    });
    PARSED
}

/// A function of its own: if both families were inlined, LLVM would merge their writes to `parsed`, word
/// by word over the stack.
#[inline(never)]
fn ipv6(ctx: &XdpContext, link: &Link, parsed: &mut MaybeUninit<Parsed>) -> u32 {
    let Some(ip) = at::<Ipv6>(ctx, link.l3) else {
        return pass(after(ctx, link.l3));
    };
    // SAFETY: `at` checked the bounds of the header.
    let ip = unsafe { &*ip };
    let payload_len = u16::from_be_bytes(ip.payload_len) as u32;
    let total = IPV6_LEN as u32 + payload_len;
    if ip.next_header != PROTO_TCP {
        if ip.next_header == PROTO_ICMPV6 {
            return icmp::v6(ctx, link.l3);
        }
        if is_v6_extension(ip.next_header) {
            let verdict = if ip.next_header == FRAGMENT {
                Verdict::Fragment
            } else {
                Verdict::IpExtension
            };
            // Every extension header begins with what follows it. Around UDP or ICMPv6 it is the host's.
            let inner = at::<[u8; 1]>(ctx, link.l3 + IPV6_LEN);
            // SAFETY: `at` checked the bounds.
            let inner = inner.map_or(PROTO_TCP, |b| unsafe { (*b)[0] });
            if inner == PROTO_TCP || is_v6_extension(inner) {
                return unless_ours(ip.dst, verdict, total);
            }
        }
        return pass(total);
    }
    let Some(head) = at::<V6>(ctx, link.l3) else {
        return unless_ours(ip.dst, Verdict::Malformed, total);
    };
    // SAFETY: `at` checked the bounds of both headers.
    let (ip, tcp) = unsafe { (&(*head).ip, &(*head).tcp) };
    let tcp_len = tcp.header_len() as u32;
    let (src_port, dst_port) = ports(tcp);
    parsed.write(Parsed {
        key: FlowKey {
            src: by_words(&ip.src),
            dst: by_words(&ip.dst),
            src_port,
            dst_port,
        },
        l3: link.l3,
        length: total,
        tcp_len,
        payload: payload_len.wrapping_sub(tcp_len),
        seq: tcp.seq(),
        ack: tcp.ack(),
        flags: tcp.flags,
        tagged: link.tagged,
        two_tags: link.two_tags,
        vlan: link.vlan,
        v4: false,
    });
    PARSED
}

/// Both addresses v4-mapped, in words of which LLVM doesn't know that most are zero: it would call
/// `memset`, a loop over bytes, and reading those again as words (to hash the key) stalls the processor.
#[inline(always)]
pub fn mapped(src: [u8; 4], dst: [u8; 4]) -> ([u8; 16], [u8; 16]) {
    let z = (opaque(0) as u32).to_ne_bytes();
    let f = [0, 0, 0xff, 0xff];
    let whole = |v4: [u8; 4]| {
        [
            z[0], z[1], z[2], z[3], z[0], z[1], z[2], z[3], f[0], f[1], f[2], f[3], v4[0], v4[1],
            v4[2], v4[3],
        ]
    };
    (whole(src), whole(dst))
}

/// Both ports, kept apart from the addresses that they follow: LLVM would copy the last bytes of the
/// address and the ports as one word to the stack ("misaligned stack access" from 6.18).
#[inline(always)]
pub fn ports(tcp: &Tcp) -> ([u8; 2], [u8; 2]) {
    let both = opaque(u32::from_ne_bytes([
        tcp.src_port[0],
        tcp.src_port[1],
        tcp.dst_port[0],
        tcp.dst_port[1],
    ]) as u64);
    let b = (both as u32).to_ne_bytes();
    ([b[0], b[1]], [b[2], b[3]])
}

/// A packet that can't be read: dropped if it is for one of our addresses, otherwise none of our business.
#[inline(never)]
fn unless_ours(dst: [u8; 16], verdict: Verdict, bytes: u32) -> u32 {
    let key = EndpointKey {
        address: dst,
        port: [0; 2],
        _pad: [0; 2],
    };
    if ENDPOINTS.get_ptr(&key).is_some() {
        drop(verdict, bytes)
    } else {
        pass(bytes)
    }
}
