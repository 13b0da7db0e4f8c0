//! Packet pointers with their bounds checks, and what is known of a frame once it is parsed.

use aya_ebpf::helpers::bpf_xdp_adjust_tail;
use aya_ebpf::programs::XdpContext;
use lb_common::layout::FlowKey;
use lb_common::limits::repeat::Segment;
use lb_common::wire::{ETH_LEN, Eth, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, Tcp};

/// A parsed TCP packet. Offsets are from the start of the frame.
///
/// Aligned to 8 because it is on the stack (see `punt::Reason`).
#[repr(C, align(8))]
pub struct Parsed {
    /// The 4-tuple.
    pub key: FlowKey,
    /// Where the IP header starts: 14, 18 or 22.
    pub l3: usize,
    /// Length of the IP packet.
    pub length: u32,
    /// Length of the TCP header.
    pub tcp_len: u32,
    /// Length of the payload.
    pub payload: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Whether the frame is VLAN-tagged.
    pub tagged: bool,
    /// Whether it has two tags, which `l3` tells, too. But `l3` mustn't be compared: 6.1's verifier knows it as a
    /// constant, follows one of the three, takes the others to be alike because it doesn't trace reads through a
    /// pointer to a caller's stack, and then hard-wires the comparison.
    pub two_tags: bool,
    /// VLAN id, 0 when untagged.
    pub vlan: u16,
    /// IPv4, otherwise IPv6.
    pub v4: bool,
}

impl Parsed {
    /// What tells it from other segments of its connection.
    #[inline(always)]
    pub const fn segment(&self) -> Segment {
        Segment {
            seq: self.seq,
            payload: self.payload,
            flags: self.flags,
        }
    }

    /// Where the TCP header starts.
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        self.l3 + if self.v4 { IPV4_LEN } else { IPV6_LEN }
    }
}

/// Something on the stack where LLVM may write it in words: with unaligned access enabled it does so at
/// any alignment, and the verifier refuses that ("misaligned stack access").
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// IPv4 and TCP header in one piece: one bounds check.
#[repr(C)]
pub struct V4 {
    pub ip: Ipv4,
    pub tcp: Tcp,
}

/// IPv6 and TCP header in one piece.
#[repr(C)]
pub struct V6 {
    pub ip: Ipv6,
    pub tcp: Tcp,
}

/// Start of the packet.
#[inline(always)]
pub fn data(ctx: &XdpContext) -> usize {
    // SAFETY: `ctx` is the program's own context. Volatile, or LLVM hoists the load and hands packet
    // pointers to subprograms as arguments, which the verifier refuses ("arithmetic on pkt_end prohibited").
    unsafe { core::ptr::read_volatile(&raw const (*ctx.ctx).data) as usize }
}

/// End of the packet.
#[inline(always)]
pub fn data_end(ctx: &XdpContext) -> usize {
    // SAFETY: as in `data`.
    unsafe { core::ptr::read_volatile(&raw const (*ctx.ctx).data_end) as usize }
}

/// A `T` (of alignment 1) at an offset, if the frame reaches that far.
#[inline(always)]
pub fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    const { assert!(align_of::<T>() == 1) };
    let start = data(ctx) + offset;
    if start + size_of::<T>() > data_end(ctx) {
        return None;
    }
    Some(start as *mut T)
}

/// Length of the frame.
#[inline(always)]
pub fn length(ctx: &XdpContext) -> usize {
    data_end(ctx) - data(ctx)
}

/// Length of what follows the link header: what is counted of a packet whose own length isn't known.
#[inline(always)]
pub fn after(ctx: &XdpContext, l3: usize) -> u32 {
    // LLVM would add up the pointers and `l3` in 32 bits ("32-bit pointer arithmetic prohibited"
    // from 6.18).
    (opaque(length(ctx) as u64) - l3 as u64) as u32
}

/// Cuts the frame to `length` bytes, but not below an Ethernet frame's least length without FCS, so
/// that no driver has to pad. `false` if the driver refuses.
#[inline(always)]
pub fn cut(ctx: &XdpContext, length: usize) -> bool {
    let wanted = if length < 60 { 60 } else { length };
    let now = self::length(ctx);
    if now <= wanted {
        return true;
    }
    // SAFETY: the context is ours; packet pointers from before are not used afterwards.
    unsafe { bpf_xdp_adjust_tail(ctx.ctx, wanted as i32 - now as i32) == 0 }
}

/// Swaps the MACs: the frame goes back to where it came from.
#[inline(always)]
pub fn turn_round(ctx: &XdpContext) -> bool {
    let Some(eth) = at::<Eth>(ctx, 0) else {
        return false;
    };
    // SAFETY: `at` checked the bounds; the two fields don't overlap.
    unsafe { core::mem::swap(&mut (*eth).src, &mut (*eth).dst) };
    const { assert!(ETH_LEN == 14) };
    true
}

/// Writes a fresh IP header from the packet's destination to its source, around `tcp_len` bytes, and
/// gives the TCP header that follows it.
#[inline(always)]
pub fn reply_ip(ctx: &XdpContext, p: &Parsed, tcp_len: u16) -> Option<*mut Tcp> {
    if p.v4 {
        let head = at::<V4>(ctx, p.l3)?;
        // SAFETY: `at` checked the bounds of both headers.
        unsafe {
            let (src, dst) = ((*head).ip.src, (*head).ip.dst);
            (*head).ip = Ipv4::new(dst, src, IPV4_LEN as u16 + tcp_len);
            Some(&raw mut (*head).tcp)
        }
    } else {
        let head = at::<V6>(ctx, p.l3)?;
        // SAFETY: `at` checked the bounds of both headers.
        unsafe {
            (*head).ip = Ipv6::new(p.key.dst, p.key.src, tcp_len);
            Some(&raw mut (*head).tcp)
        }
    }
}

/// `n` if it is from 1 to `max`, in a way that the verifier can follow.
///
/// LLVM would merge both comparisons into one of `n - 1`, after which the verifier doesn't know that
/// `n` isn't 0 ("R4 invalid zero-sized read: u64=[0,2047]" from 6.18).
#[inline(always)]
pub fn bounded(n: u32, max: u32) -> Option<u32> {
    // In 64 bits: in 32, LLVM compares a shifted copy, and the verifier loses the connection.
    let n = opaque(n as u64);
    if n > max as u64 {
        return None;
    }
    let n = opaque(n);
    // 6.1 learns nothing from a comparison for equality ("invalid access to memory … size=0"), and LLVM
    // would make one of `n < 1` if it knew the 1.
    if n < opaque(1) { None } else { Some(n as u32) }
}

/// The same number, of which LLVM knows nothing any more.
#[inline(always)]
pub fn opaque(mut n: u64) -> u64 {
    // SAFETY: an empty instruction sequence that only claims to change `n`.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) n) };
    n
}
