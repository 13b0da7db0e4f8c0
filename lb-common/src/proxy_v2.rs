//! The PROXY protocol header, version 2 (HAProxy's `proxy-protocol.txt`, section 2.2).

use core::net::{IpAddr, SocketAddr};

/// Bytes of a header for TCP over IPv4.
pub const V4_LEN: usize = 28;
/// Bytes of a header for TCP over IPv6, the longest that [`encode`] writes.
pub const MAX_LEN: usize = 52;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Writes the header for a connection of a client at `src` to the VIP at `dst`; returns its length in bytes,
/// [`V4_LEN`] or [`MAX_LEN`]. Addresses and ports are in network byte order, as everywhere in the header.
///
/// The header has one family for both addresses: if only one is IPv4, it is written as IPv4-mapped IPv6
/// address (RFC 4291, section 2.5.5.2). Bytes of `out` behind the returned length are left alone.
pub fn encode(src: SocketAddr, dst: SocketAddr, out: &mut [u8; MAX_LEN]) -> usize {
    let mut writer = Writer { out, len: 0 };
    writer.put(&SIGNATURE);
    if let (IpAddr::V4(src_ip), IpAddr::V4(dst_ip)) = (src.ip(), dst.ip()) {
        writer.put(&[VERSION_COMMAND, TCP_OVER_IPV4, 0, 12]);
        writer.put(&src_ip.octets());
        writer.put(&dst_ip.octets());
    } else {
        writer.put(&[VERSION_COMMAND, TCP_OVER_IPV6, 0, 36]);
        writer.put(&as_ipv6(src.ip()));
        writer.put(&as_ipv6(dst.ip()));
    }
    writer.put(&src.port().to_be_bytes());
    writer.put(&dst.port().to_be_bytes());
    writer.len
}

fn as_ipv6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Appends without a bound check that could panic.
struct Writer<'a> {
    out: &'a mut [u8; MAX_LEN],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        for (to, from) in self.out.iter_mut().skip(self.len).zip(bytes) {
            *to = *from;
        }
        self.len += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(src: &str, dst: &str) -> Vec<u8> {
        let mut out = [0xEE; MAX_LEN];
        let len = encode(src.parse().unwrap(), dst.parse().unwrap(), &mut out);
        assert!(
            out[len..].iter().all(|&byte| byte == 0xEE),
            "written behind the header"
        );
        out[..len].to_vec()
    }

    #[test]
    fn tcp_over_ipv4() {
        let expected = [
            0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54,
            0x0A, // signature
            0x21, 0x11, 0x00, 0x0C, // version 2, PROXY; TCP over IPv4; 12 bytes follow
            192, 0, 2, 1, 198, 51, 100, 7, // addresses
            0xC3, 0x50, 0x07, 0x5B, // ports 50000 and 1883
        ];
        assert_eq!(expected.len(), V4_LEN);
        assert_eq!(header("192.0.2.1:50000", "198.51.100.7:1883"), expected);
    }

    #[test]
    fn tcp_over_ipv6() {
        let expected = [
            0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54,
            0x0A, // signature
            0x21, 0x21, 0x00, 0x24, // version 2, PROXY; TCP over IPv6; 36 bytes follow
            0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
            0xFD, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // destination
            0xFF, 0xFF, 0x22, 0xB3, // ports 65535 and 8883
        ];
        assert_eq!(expected.len(), MAX_LEN);
        assert_eq!(header("[2001:db8::1]:65535", "[fd77::2]:8883"), expected);
    }

    #[test]
    fn mixed_families_become_ipv6() {
        let mixed = header("192.0.2.1:1", "[fd77::2]:2");
        assert_eq!(mixed, header("[::ffff:192.0.2.1]:1", "[fd77::2]:2"));
        assert_eq!(mixed[13], TCP_OVER_IPV6);
    }
}
