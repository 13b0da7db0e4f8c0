//! What makes the packet path measurable. Nothing here is ever attached.
//!
//! BPF_PROG_TEST_RUN repeats a program on one buffer, and every splice takes one from the TTL: after
//! 254 runs the packet would be dropped. So the TTL that the run before took is given back first. That
//! costs a few instructions, which stay in the figures: they are above those of the packet path alone.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::XdpContext;
use lb_common::checksum::Sum;
use lb_common::wire::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, IPV4_LEN, IPV6_LEN, TCP_LEN};

use crate::frame::at;
use crate::{connect, steer};

/// A client's segment copied, the CONNECT in it read, its identifier hashed and looked up.
#[inline(always)]
pub fn glance(ctx: &XdpContext) -> u32 {
    // IPv4 and aligned timestamps.
    let start = (ETH_LEN + IPV4_LEN + TCP_LEN + 12) as u32;
    connect::glance(ctx, start);
    xdp_action::XDP_DROP
}

/// The packet path, on a packet whose TTL (or hop limit) is one higher than it came in with.
#[inline(always)]
pub fn measured(ctx: &XdpContext) -> u32 {
    let Some(eth) = at::<Eth>(ctx, 0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: `at` checked the bounds.
    match u16::from_be_bytes(unsafe { (*eth).kind }) {
        ETHERTYPE_IPV4 => {
            let Some(ip) = at::<[u8; IPV4_LEN]>(ctx, ETH_LEN) else {
                return xdp_action::XDP_ABORTED;
            };
            // TTL, protocol and checksum in one access, as the splice has them: reading in one piece
            // what was written in several would stall the processor, as it never does on the wire.
            // SAFETY: `at` checked the bounds, and the accesses need no alignment.
            unsafe {
                let word = ip.byte_add(8).cast::<u32>();
                let [ttl, protocol, c0, c1] = word.read_unaligned().to_ne_bytes();
                let more = ttl.wrapping_add(1);
                let mut sum = Sum::of_field([c0, c1]);
                sum.replace(&[ttl, protocol], &[more, protocol]);
                let [c0, c1] = sum.field();
                word.write_unaligned(u32::from_ne_bytes([more, protocol, c0, c1]));
            }
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = at::<[u8; IPV6_LEN]>(ctx, ETH_LEN) else {
                return xdp_action::XDP_ABORTED;
            };
            // SAFETY: `at` checked the bounds.
            unsafe { (*ip)[7] = (*ip)[7].wrapping_add(1) };
        }
        _ => {}
    }
    steer::steer(ctx)
}
