//! PROXY protocol headers (HAProxy's `proxy-protocol.txt`): versions 1 and 2 that come from balancers in front of
//! this one (sections 2.1 and 2.2), and version 2 for backends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::layout::Verdict;
use lb_common::proxy_v2;
use tokio::net::TcpStream;

use super::tls::Session;
use crate::config::ProxyProtocol;

/// The longest header of version 1, its end included (section 2.1).
const V1_MOST: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2.
const V2_FIXED: usize = 16;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// The beginning of a header.
    Incomplete,
    /// No header.
    None,
    /// One that makes no sense.
    Wrong,
    /// Its length, and the client's and the VIP's address; `None`: the balancer speaks for itself, as for its health
    /// checks.
    Addresses(usize, Option<(SocketAddr, SocketAddr)>),
}

/// Takes the header off a connection, which must begin with one, and nothing behind it. What it says of the
/// client's and the VIP's address.
pub(super) async fn take(tcp: &TcpStream) -> Result<Option<(SocketAddr, SocketAddr)>, Verdict> {
    let mut bytes = Vec::new();
    loop {
        let taken = bytes.len();
        let mut chunk = [0; 512];
        let n = match tcp.peek(&mut chunk).await {
            Ok(0) | Err(_) => return Err(Verdict::ClosedEarly),
            Ok(n) => n,
        };
        bytes.extend_from_slice(&chunk[..n]);
        let header = read(&bytes);
        let belongs = match header {
            Header::Incomplete => n,
            Header::None | Header::Wrong => return Err(Verdict::RejectNotConnect),
            Header::Addresses(len, _) => len - taken,
        };
        // It is there, so all of it comes at once.
        match tcp.try_read(&mut chunk[..belongs]) {
            Ok(read) if read == belongs => {}
            _ => return Err(Verdict::ClosedEarly),
        }
        if let Header::Addresses(_, said) = header {
            return Ok(said);
        }
    }
}

/// Reads the header at the beginning of a connection.
fn read(bytes: &[u8]) -> Header {
    let begins = |start: &[u8]| {
        let n = start.len().min(bytes.len());
        bytes[..n] == start[..n]
    };
    if bytes.is_empty() {
        return Header::Incomplete;
    }
    if begins(V2_START) {
        return if bytes.len() < V2_FIXED {
            Header::Incomplete
        } else {
            v2(bytes)
        };
    }
    if !begins(V1_START) {
        return Header::None;
    }
    match bytes
        .windows(2)
        .take(V1_MOST - 1)
        .position(|two| two == b"\r\n")
    {
        Some(end) => v1(&bytes[..end]).map_or(Header::Wrong, |addresses| {
            Header::Addresses(end + 2, addresses)
        }),
        None if bytes.len() < V1_MOST => Header::Incomplete,
        None => Header::Wrong,
    }
}

/// A line without its end; `None`: it is wrong.
fn v1(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (from, to): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let v4 = match family {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let ports: (u16, u16) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    if from.is_ipv4() != v4 || to.is_ipv4() != v4 || words.next().is_some() {
        return None;
    }
    Some(Some((
        SocketAddr::new(from, ports.0),
        SocketAddr::new(to, ports.1),
    )))
}

/// At least the fixed part is there.
fn v2(bytes: &[u8]) -> Header {
    let len = V2_FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let Some(body) = bytes.get(V2_FIXED..len) else {
        return Header::Incomplete;
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match (bytes[12], bytes[13]) {
        // LOCAL
        (0x20, _) => Header::Addresses(len, None),
        (0x21, 0x11) if body.len() >= 12 => {
            let ip = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
            let from = SocketAddr::new(ip(0).into(), port(8));
            Header::Addresses(len, Some((from, SocketAddr::new(ip(4).into(), port(10)))))
        }
        (0x21, 0x21) if body.len() >= 36 => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                Ipv6Addr::from(octets).to_canonical()
            };
            let from = SocketAddr::new(ip(0), port(32));
            Header::Addresses(len, Some((from, SocketAddr::new(ip(16), port(34)))))
        }
        // UNSPEC
        (0x21, 0x00) => Header::Addresses(len, None),
        _ => Header::Wrong,
    }
}

/// The header for a backend: of what client at what VIP, and what its TLS handshake told.
pub(super) fn write(
    wanted: ProxyProtocol,
    (from, to): (SocketAddr, SocketAddr),
    session: Option<&Session>,
) -> Vec<u8> {
    match (wanted, session) {
        (ProxyProtocol::Off, _) => Vec::new(),
        (ProxyProtocol::V2Ssl | ProxyProtocol::V2SslCn, Some(session)) => {
            let tls = session.told(wanted == ProxyProtocol::V2SslCn);
            let mut header = [0; proxy_v2::MAX_TLS_LEN];
            let len = proxy_v2::encode_tls(from, to, &tls, &mut header);
            header[..len].to_vec()
        }
        _ => {
            let mut header = [0; proxy_v2::MAX_LEN];
            let len = proxy_v2::encode(from, to, &mut header);
            header[..len].to_vec()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1() {
        let both = Some((at("192.0.2.1:5000"), at("192.0.2.2:1883")));
        let six = Some((at("[2001:db8::1]:5000"), at("[2001:db8::2]:1883")));
        for (line, want) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n", both),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 5000 1883\r\n", six),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let mut bytes = line.as_bytes().to_vec();
            for n in 0..bytes.len() {
                assert_eq!(read(&bytes[..n]), Header::Incomplete, "{line:?} {n}");
            }
            bytes.extend_from_slice(b"\x10\x0c");
            assert_eq!(read(&bytes), Header::Addresses(line.len(), want));
        }
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
            "PROXY TCP4 192.0.2.1 2001:db8::2 5000 1883\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 5000 1883\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000 70000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883 1\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 5000 1883\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Header::Wrong, "{line:?}");
        }
        let long = [b"PROXY ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(read(&long), Header::Wrong);
        assert_eq!(read(b"\x10\x0c\0\x04MQTT"), Header::None);
    }

    #[test]
    fn version_2_as_we_send_it() {
        for (from, to) in [
            ("192.0.2.1:5000", "192.0.2.2:1883"),
            ("[2001:db8::1]:5000", "[2001:db8::2]:1883"),
            ("192.0.2.1:5000", "[2001:db8::2]:1883"),
        ] {
            let mut header = [0; proxy_v2::MAX_LEN];
            let n = proxy_v2::encode(at(from), at(to), &mut header);
            for part in 1..n {
                assert_eq!(read(&header[..part]), Header::Incomplete, "{part}");
            }
            let want = Header::Addresses(n, Some((at(from), at(to))));
            assert_eq!(read(&header[..n]), want);
        }
    }

    #[test]
    fn version_2_with_extras_and_mistakes() {
        let header = |command: u8, family: u8, body: &[u8]| {
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            [V2_START, &[command, family], &len, body].concat()
        };
        // A TLV behind the addresses.
        let body = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 0, 81, 4, 0, 1, 9];
        let want = Some((at("192.0.2.1:80"), at("192.0.2.2:81")));
        assert_eq!(
            read(&header(0x21, 0x11, &body)),
            Header::Addresses(32, want)
        );
        assert_eq!(read(&header(0x20, 0, &[])), Header::Addresses(16, None));
        assert_eq!(read(&header(0x21, 0, &[])), Header::Addresses(16, None));
        for (command, family, body) in [
            (0x21, 0x11, &body[..11]),
            (0x21, 0x21, &body[..]),
            (0x21, 0x12, &body[..]),
            (0x11, 0x11, &body[..]),
            (0x22, 0x11, &body[..]),
        ] {
            assert_eq!(read(&header(command, family, body)), Header::Wrong);
        }
    }
}
