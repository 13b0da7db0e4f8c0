//! Learns which TCP options a backend negotiates, by one ordinary connection that is reset at once.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpSocket;

use super::{NetError, Result};

/// `enum tcp_info` option bits (linux/tcp.h).
const TCPI_OPT_TIMESTAMPS: u8 = 1;
const TCPI_OPT_SACK: u8 = 2;
const TCPI_OPT_WSCALE: u8 = 4;

/// A timestamps option with its padding, bytes (RFC 7323, appendix A).
const TIMESTAMPS_LENGTH: u32 = 12;

/// What a TCP peer negotiated with this host.
///
/// An option is only seen if this host offers it too: `net.ipv4.tcp_timestamps`, `tcp_sack` and
/// `tcp_window_scaling` must be on here, as they are by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerTcp {
    /// Shift count of the windows that the peer announces (RFC 7323), 0 to 14; `None`: it does not
    /// scale.
    pub window_scale: Option<u8>,
    pub timestamps: bool,
    pub sack: bool,
    /// Largest segment that may be sent to the peer, bytes, options included as in the MSS option:
    /// the smaller of what the peer announced and what the path MTU allows. (Linux lowers it further
    /// to half of the peer's window, which shows on loopback only.)
    pub mss: u16,
    /// Of the handshake. `None` if the SYN had to be repeated and the peer has no timestamps: nobody
    /// knows then which SYN was answered.
    pub rtt: Option<Duration>,
}

/// Connects to `addr`, from address `source` if given, and closes by RST.
///
/// The socket is opened when the future is first polled, in that thread's network namespace. A
/// broker may log such a connection: probe when a backend comes up, not regularly.
///
/// # Errors
/// [`NetError::Refused`], [`NetError::Silent`] after `timeout`, or [`NetError::Connect`].
pub async fn probe(addr: SocketAddr, source: Option<IpAddr>, timeout: Duration) -> Result<PeerTcp> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => NetError::Refused { addr },
        io::ErrorKind::TimedOut => NetError::Silent { addr, timeout },
        _ => NetError::Connect { addr, source },
    };
    let socket = open(addr, source).map_err(failed)?;
    let stream = match tokio::time::timeout(timeout, socket.connect(addr)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(NetError::Silent { addr, timeout }),
    };
    let info = tcp_info(stream.as_fd()).map_err(NetError::io("cannot read TCP_INFO"))?;
    Ok(PeerTcp::from(&info))
}

fn open(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // Closing then sends RST: no TIME_WAIT here, and the broker is rid of the connection at once.
    socket.set_linger(Some(Duration::ZERO))?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(TcpSocket::from_std_stream(TcpStream::from(socket)))
}

impl From<&libc::tcp_info> for PeerTcp {
    fn from(info: &libc::tcp_info) -> Self {
        let has = |option| info.tcpi_options & option != 0;
        let timestamps = has(TCPI_OPT_TIMESTAMPS);
        // Linux counts the payload of a full segment, from which the options of every segment are
        // already taken.
        let options = if timestamps { TIMESTAMPS_LENGTH } else { 0 };
        // Two bit fields of four bits: the peer's shift comes first, our own second.
        let shift = if cfg!(target_endian = "little") {
            info.tcpi_snd_rcv_wscale & 0x0f
        } else {
            info.tcpi_snd_rcv_wscale >> 4
        };
        Self {
            window_scale: has(TCPI_OPT_WSCALE).then_some(shift),
            timestamps,
            sack: has(TCPI_OPT_SACK),
            mss: u16::try_from(info.tcpi_snd_mss + options).unwrap_or(u16::MAX),
            rtt: (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into())),
        }
    }
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is plain integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` is writable for `length` bytes; the kernel writes at most that many, fewer if
    // it is older than the structure, and the rest stays zero.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(info)
    } else {
        Err(io::Error::last_os_error())
    }
}
