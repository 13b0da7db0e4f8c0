//! The XDP programs of mqlb. They only translate: what a packet means and how it is rewritten is
//! decided by `lb_common`, the same code that is tested in user space.
//!
//! - [`steer`]: from the Ethernet header to one of the handlers
//! - [`straight`]: the fast path, what nearly every packet is
//! - [`splice`]: any packet of a known flow
//! - [`newcomer`]: a packet for a VIP that belongs to no flow
//! - [`connect`]: set-up of known clients, without the agent
//! - [`syn`], [`reset`]: answers made in place
//! - [`limits`]: who may begin a connection; [`punt`]: hand a packet to the agent
//! - [`icmp`]: errors about our own packets
//! - [`note`]: messages, if they are asked for
//! - [`measure`]: programs that only measurements run
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "map keys and values by reference: by value they would be copied to the stack, which has 512 bytes"
)]
// For the one-line register barriers before helper calls (`frame::opaque`).
#![feature(asm_experimental_arch)]

mod atomic;
mod clock;
mod connect;
mod count;
mod frame;
mod icmp;
mod limits;
mod maps;
mod marks;
mod measure;
mod newcomer;
mod note;
mod punt;
mod reset;
mod splice;
mod steer;
mod straight;
mod syn;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// The packet path.
#[xdp]
pub fn mqlb(ctx: XdpContext) -> u32 {
    steer::steer(&ctx)
}

/// The least program there is: what measurements are compared with.
#[xdp]
pub fn mqlb_empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The first part of a set-up in the kernel, for measurements.
#[xdp]
pub fn mqlb_glance(ctx: XdpContext) -> u32 {
    measure::glance(&ctx)
}

/// The packet path on a packet that it has met before: what measurements repeat.
#[xdp]
pub fn mqlb_measured(ctx: XdpContext) -> u32 {
    measure::measured(&ctx)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: nothing here panics, and the verifier would refuse the loop if it were.
    loop {}
}
