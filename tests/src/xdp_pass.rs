//! An XDP program that passes everything, for the outer ends of the balancer's veth pairs.
//!
//! veth delivers what a program on one end answers with XDP_TX only if the other end has a program, too
//! (`veth_xdp_flush` in the kernel's drivers/net/veth.c). Two instructions need no toolchain: they are
//! loaded by bpf(2) directly.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands and constants of linux/bpf.h and linux/if_link.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS; exit`.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The head of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes the rest for 0.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The head of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// An attached program. Dropping it, or the end of this process, detaches it.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Attaches the program to `device` of the calling thread's namespace.
    ///
    /// # Errors
    /// No such device, it has a program already, or not root.
    pub fn attach(device: &str) -> io::Result<Self> {
        let name = CString::new(device)?;
        // SAFETY: `name` is a string with a final NUL that lives for the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let load = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: PASS.len() as u32,
            insns: PASS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        // SAFETY: `load` is laid out as the kernel reads it for this command, and points to constants.
        let program = unsafe { bpf(BPF_PROG_LOAD, &load) }?;
        let create = LinkCreate {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            target_ifindex: index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        // SAFETY: `create` is laid out as the kernel reads it for this command, and holds no pointer.
        let link = unsafe { bpf(BPF_LINK_CREATE, &create) }?;
        Ok(Self { _link: link })
    }
}

/// Calls bpf(2) for a command that returns a descriptor.
///
/// # Safety
/// `attr` must be laid out as the kernel expects it for `command`, and its pointers be valid.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the pointer and size are those of `attr`; the rest is the caller's promise.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
