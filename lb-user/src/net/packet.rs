//! Sends whole Ethernet frames: how the agent puts packets of its own next to those of XDP.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Socket, Type};

use super::{NetError, Result};

/// Two addresses and an EtherType.
const ETHERNET_HEADER: usize = 14;

/// A socket that sends frames on any device of its network namespace, and receives nothing.
#[derive(Debug)]
pub struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens the socket in the calling thread's network namespace. Needs CAP_NET_RAW.
    ///
    /// Frames pass the queueing discipline by (PACKET_QDISC_BYPASS), as XDP's do: both leave in the
    /// order in which they were sent, and a full device queue is told to the caller.
    pub fn open() -> Result<Self> {
        let failed = || NetError::io("cannot open a packet socket (it needs CAP_NET_RAW)");
        // Protocol 0 subscribes to nothing.
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, None).map_err(failed())?;
        let on: libc::c_int = 1;
        // SAFETY: the option value is a live c_int and its size is given; the kernel copies it.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(failed()(io::Error::last_os_error()));
        }
        Ok(Self(socket))
    }

    /// Sends `frame` on device `ifindex` as it is: Ethernet header first, VLAN tags included,
    /// checksums complete, no FCS.
    ///
    /// # Errors
    /// `WouldBlock` (EAGAIN) if the socket's send buffer is full and ENOBUFS if the device dropped
    /// the frame: the caller may send it again. EMSGSIZE if it is longer than the device's MTU,
    /// ENETDOWN or ENXIO if the device is down or gone, `InvalidInput` if there is no whole header.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        if frame.len() < ETHERNET_HEADER {
            let text = format!(
                "a frame of {} bytes has no whole Ethernet header",
                frame.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // SAFETY: sockaddr_ll is plain integers, for which zero is a value.
        let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
        to.sll_family = libc::AF_PACKET as libc::c_ushort;
        to.sll_ifindex = libc::c_int::try_from(ifindex)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENXIO))?;
        // In network byte order both here and in the frame.
        to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
        // SAFETY: pointer and length describe `frame`, and address and length describe `to`; both
        // outlive the call, which only reads them.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                mem::size_of_val(&to) as libc::socklen_t,
            )
        };
        // A packet socket sends all of a frame or nothing.
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
