//! Raw Ethernet frames of one interface (packet(7)).

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

/// Bytes of the two addresses, which a tag follows (IEEE 802.1Q).
const ADDRESSES: usize = 12;

/// `TP_STATUS_VLAN_VALID` of linux/if_packet.h.
const VLAN_VALID: u32 = 1 << 4;

/// An Ethernet frame without its VLAN tag.
#[derive(Clone, Debug)]
pub struct Frame {
    pub bytes: Vec<u8>,
    /// The identifier of the tag that it had, or is to have.
    pub vlan: Option<u16>,
}

/// A socket that receives what arrives at an interface, and sends through it.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket on `device` of the calling thread's namespace.
    ///
    /// # Errors
    /// No such device, or not root.
    pub fn open(device: &str) -> io::Result<Self> {
        let name = CString::new(device)?;
        // SAFETY: `name` is a string with a final NUL that lives for the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // Protocol 0: nothing is received before `bind` says from which interface.
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket touches no memory.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor was just made, and nobody else has it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        // The kernel takes tags out of frames: this hands them over beside the frame.
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        // PACKET_IGNORE_OUTGOING: or the socket would see what it sends.
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, 8 << 20)?;

        // SAFETY: all bytes 0 is a valid value of this C structure.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        // SAFETY: `address` is a sockaddr_ll of the length given, and lives for the call.
        check(unsafe {
            libc::bind(
                socket.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(socket)
    }

    /// The next frame, or `None` if none is waiting.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn receive(&self) -> Result<Option<Frame>> {
        let mut bytes = vec![0_u8; 2048];
        // Room and alignment for one control message with a tpacket_auxdata.
        let mut control = [0_u64; 16];
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: all bytes 0 is a valid value of this C structure.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: `message` points to `part`, `bytes` and `control`, with their true lengths; all live
        // for the call.
        let length =
            unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error).context("receive a frame"),
            };
        };
        // Frames merged by GRO have lost their checksums, too.
        anyhow::ensure!(
            length <= bytes.len(),
            "a frame of {length} bytes: is GRO off?"
        );
        bytes.truncate(length);
        Ok(Some(Frame {
            bytes,
            vlan: tag_of(&message),
        }))
    }

    /// Sends a frame, with its tag. What does not fit the queue is lost, as on a real wire.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        let mut bytes = frame.bytes.clone();
        if let Some(vlan) = frame.vlan {
            let [high, low] = vlan.to_be_bytes();
            bytes.splice(ADDRESSES..ADDRESSES, [0x81, 0x00, high, low]);
        }
        // SAFETY: the pointer and length are those of `bytes`, which lives for the call.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => Ok(()),
            _ => Err(error).with_context(|| format!("send a frame of {} bytes", bytes.len())),
        }
    }

    /// Sends frames as fast as the device takes them, past its queue; gives how many it took.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn send_many(&self, frames: &[Vec<u8>]) -> Result<usize> {
        let mut parts: Vec<_> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all bytes 0 is a valid value of this C structure.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let count = libc::c_uint::try_from(messages.len())?;
        // SAFETY: `messages` point to `parts`, which point to `frames`, with their true lengths; all live
        // for the call, which only reads the frames.
        let sent = unsafe {
            libc::sendmmsg(
                self.0.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
            )
        };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => Ok(0),
            _ => Err(error).context("send frames"),
        }
    }

    /// From now on frames skip the queueing discipline.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn skip_queue(&self) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the pointer and length are those of `value`, which lives for the call.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }
}

/// Waits until one of the sockets has a frame, or `limit` has passed.
///
/// # Errors
/// poll(2) failed.
pub fn wait_readable(sockets: [&PacketSocket; 2], limit: Duration) -> io::Result<()> {
    let mut polled = sockets.map(|socket| libc::pollfd {
        fd: socket.0.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: the pointer and length are those of `polled`, which lives for the call.
    match unsafe {
        libc::poll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            milliseconds,
        )
    } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
        _ => Ok(()),
    }
}

/// The VLAN identifier in a received message's control data.
fn tag_of(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: `message` was filled by recvmsg, and its control buffer is still there.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside the buffer.
        let control = unsafe { &*header };
        if control.cmsg_level == libc::SOL_PACKET && control.cmsg_type == libc::PACKET_AUXDATA {
            // SAFETY: the data of a message of this type is a tpacket_auxdata, perhaps not aligned.
            let data = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned()
            };
            let identifier = data.tp_vlan_tci & 0x0fff;
            return (data.tp_status & VLAN_VALID != 0).then_some(identifier);
        }
        // SAFETY: `header` is a header of this message's control buffer.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
