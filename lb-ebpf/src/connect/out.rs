//! What leaves: the headers in front of TCP, and the way out.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{Flow, Verdict, flags};
use lb_common::wire::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, IPV4_LEN, Ipv4, Ipv6, VLAN_LEN,
};

use crate::count::count;
use crate::frame::{Parsed, at, cut, length};

/// Tag protocol identifier of the tags that we write.
const TPID: [u8; 2] = [0x81, 0];

/// Writes Ethernet and IP headers of a packet that leaves by the recipe `flow`, around `tcp_len` bytes of
/// TCP. They have the lengths that they had in `p`.
#[inline(never)]
pub fn headers(ctx: &XdpContext, p: &Parsed, flow: &Flow, tcp_len: u32) -> bool {
    let Some(eth) = at::<Eth>(ctx, 0) else {
        return false;
    };
    let kind = if p.v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }.to_be_bytes();
    // SAFETY: `at` checked the bounds, here and below.
    unsafe {
        (*eth).dst = flow.dst_mac;
        (*eth).src = flow.src_mac;
        (*eth).kind = kind;
    }
    if p.tagged {
        let Some(tag) = at::<[u8; VLAN_LEN]>(ctx, ETH_LEN) else {
            return false;
        };
        let id = flow.vlan.to_be_bytes();
        // SAFETY: as above.
        unsafe {
            (*eth).kind = TPID;
            *tag = [id[0], id[1], kind[0], kind[1]];
        }
    }
    let (s, d) = (&flow.new_src, &flow.new_dst);
    if p.v4 {
        let Some(ip) = at::<Ipv4>(ctx, p.l3) else {
            return false;
        };
        let (s, d) = ([s[12], s[13], s[14], s[15]], [d[12], d[13], d[14], d[15]]);
        // SAFETY: as above.
        unsafe { *ip = Ipv4::new(s, d, (IPV4_LEN as u32 + tcp_len) as u16) };
    } else {
        let Some(ip) = at::<Ipv6>(ctx, p.l3) else {
            return false;
        };
        // SAFETY: as above.
        unsafe { *ip = Ipv6::new(*s, *d, tcp_len as u16) };
    }
    true
}

/// Transmits by the recipe's way.
#[inline(always)]
pub fn leave(ctx: &XdpContext, flow: &Flow, verdict: Verdict, bytes: u32) -> u32 {
    count(verdict, bytes);
    way(ctx, flow)
}

/// The recipe's way.
#[inline(always)]
pub fn way(ctx: &XdpContext, flow: &Flow) -> u32 {
    // SAFETY: the context is ours; the helper takes any interface index, an unknown one drops the packet.
    unsafe {
        if flow.ifindex == (*ctx.ctx).ingress_ifindex {
            return xdp_action::XDP_TX;
        }
        bpf_redirect(flow.ifindex, 0) as u32
    }
}

/// Whether a frame that is tagged as in `p` can leave by the recipe's way.
#[inline(always)]
pub fn tag_fits(p: &Parsed, flow: &Flow) -> bool {
    p.tagged == (flow.flags & flags::TAGGED != 0)
}

/// Makes the frame `wanted` bytes long, at either end: whatever it holds is written anew. `false` if the
/// driver has no room; then it may have grown a little.
#[inline(never)]
pub fn resize(ctx: &XdpContext, wanted: u32) -> bool {
    /// On veth there are 54 bytes behind the frame, and about 200 in front.
    const BEHIND: i32 = 48;
    let now = length(ctx) as i32;
    let more = wanted as i32 - now;
    if more <= 0 {
        return cut(ctx, wanted as usize);
    }
    // SAFETY: the context is ours; packet pointers from before are not used afterwards.
    unsafe {
        bpf_xdp_adjust_tail(ctx.ctx, more) == 0
            || bpf_xdp_adjust_head(ctx.ctx, -more) == 0
            || more > BEHIND
                && bpf_xdp_adjust_tail(ctx.ctx, BEHIND) == 0
                && bpf_xdp_adjust_head(ctx.ctx, BEHIND - more) == 0
    }
}
