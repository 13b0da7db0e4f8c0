//! The PROXY protocol header, version 2 (HAProxy's `proxy-protocol.txt`, section 2.2).

use core::net::{IpAddr, SocketAddr};

use crate::checksum::Sum;

/// Bytes of a header for TCP over IPv4.
pub const V4_LEN: usize = 28;
/// Bytes of a header for TCP over IPv6, the longest that [`encode`] writes.
pub const MAX_LEN: usize = 52;
/// Longest text that [`encode_tls`] writes of a client's: a longer one is left out, because a part of a name is
/// another name.
pub const MAX_TEXT: usize = 255;
/// Bytes of the longest header that [`encode_tls`] writes: name, protocol, and of TLS the version and the common
/// name.
pub const MAX_TLS_LEN: usize =
    MAX_LEN + 2 * (TLV + MAX_TEXT) + (TLV + TLS_FIXED) + (TLV + MAX_VERSION) + (TLV + MAX_TEXT);

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Type and length of an extension.
const TLV: usize = 3;
/// `client` and `verify`.
const TLS_FIXED: usize = 5;
const MAX_VERSION: usize = 16;

/// Types of extensions (sections 2.2.1 to 2.2.7).
mod pp2 {
    pub const ALPN: u8 = 0x01;
    pub const AUTHORITY: u8 = 0x02;
    pub const SSL: u8 = 0x20;
    pub const SUBTYPE_SSL_VERSION: u8 = 0x21;
    pub const SUBTYPE_SSL_CN: u8 = 0x22;
    pub const CLIENT_SSL: u8 = 1;
    pub const CLIENT_CERT_CONN: u8 = 2;
    pub const CLIENT_CERT_SESS: u8 = 4;
}

/// What a TLS handshake told of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// As OpenSSL names it: `TLSv1.3`.
    pub version: &'a str,
    /// The client showed a certificate, which was verified.
    pub certificate: Option<Shown>,
    /// Its common name.
    pub common_name: Option<&'a str>,
    /// The name that the client asked for (SNI).
    pub authority: Option<&'a str>,
    /// The protocol that was agreed on.
    pub alpn: Option<&'a [u8]>,
}

/// When a certificate was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Over this connection.
    Now,
    /// Over another one, whose session this one resumes.
    Before,
}

/// Length of the header of a connection in bytes.
#[inline(always)]
#[must_use]
pub const fn len(v4: bool) -> u32 {
    if v4 { V4_LEN as u32 } else { MAX_LEN as u32 }
}

/// Words of the longest header.
pub const WORDS: usize = MAX_LEN / 4;

/// What [`encode`] writes, for the XDP program: in words as they lie in memory, every one at a place that is known
/// at compile time. Gives their sum. Words of `out` behind [`len`] are left alone.
#[inline(always)]
pub fn write(
    (src, src_port): (&[u8; 16], [u8; 2]),
    (dst, dst_port): (&[u8; 16], [u8; 2]),
    v4: bool,
    out: &mut [u32; WORDS],
) -> Sum {
    let s = SIGNATURE;
    let mut put = Words {
        out,
        sum: Sum::ZERO,
    };
    put.at(0, [s[0], s[1], s[2], s[3]]);
    put.at(1, [s[4], s[5], s[6], s[7]]);
    put.at(2, [s[8], s[9], s[10], s[11]]);
    let ports = [src_port[0], src_port[1], dst_port[0], dst_port[1]];
    let word = |a: &[u8; 16], i: usize| [a[i], a[i + 1], a[i + 2], a[i + 3]];
    if v4 {
        put.at(3, [VERSION_COMMAND, TCP_OVER_IPV4, 0, 12]);
        put.at(4, word(src, 12));
        put.at(5, word(dst, 12));
        put.at(6, ports);
    } else {
        put.at(3, [VERSION_COMMAND, TCP_OVER_IPV6, 0, 36]);
        let mut i = 0;
        while i < 4 {
            put.at(4 + i, word(src, 4 * i));
            put.at(8 + i, word(dst, 4 * i));
            i += 1;
        }
        put.at(12, ports);
    }
    put.sum
}

/// Words that are written, and their sum.
struct Words<'a> {
    out: &'a mut [u32; WORDS],
    sum: Sum,
}

impl Words<'_> {
    #[inline(always)]
    const fn at(&mut self, at: usize, bytes: [u8; 4]) {
        self.out[at] = u32::from_ne_bytes(bytes);
        self.sum.add4(bytes);
    }
}

/// Writes the header for a connection of a client at `src` to the VIP at `dst`; returns its length in bytes,
/// [`V4_LEN`] or [`MAX_LEN`]. Addresses and ports are in network byte order, as everywhere in the header.
///
/// The header has one family for both addresses: if only one is IPv4, it is written as IPv4-mapped IPv6
/// address (RFC 4291, section 2.5.5.2). Bytes of `out` behind the returned length are left alone.
pub fn encode(src: SocketAddr, dst: SocketAddr, out: &mut [u8; MAX_LEN]) -> usize {
    let mut writer = Writer { out, len: 0 };
    writer.start(src, dst, 0);
    writer.len
}

/// The same with what a TLS handshake told, as HAProxy's `send-proxy-v2-ssl-cn` has it. Texts longer than
/// [`MAX_TEXT`] are left out.
pub fn encode_tls(
    src: SocketAddr,
    dst: SocketAddr,
    tls: &Tls<'_>,
    out: &mut [u8; MAX_TLS_LEN],
) -> usize {
    let fits = |text: &&[u8]| text.len() <= MAX_TEXT;
    let alpn = tls.alpn.filter(fits);
    let authority = tls.authority.map(str::as_bytes).filter(fits);
    let common_name = tls.common_name.map(str::as_bytes).filter(fits);
    let version = tls.version.as_bytes();
    let version = version.get(..MAX_VERSION).unwrap_or(version);
    let size = |text: Option<&[u8]>| text.map_or(0, |text| TLV + text.len());
    let ssl = TLS_FIXED + size(Some(version)) + size(common_name);

    let mut writer = Writer { out, len: 0 };
    writer.start(src, dst, size(alpn) + size(authority) + TLV + ssl);
    writer.extension(pp2::ALPN, alpn);
    writer.extension(pp2::AUTHORITY, authority);
    writer.type_and_length(pp2::SSL, ssl);
    let shown = match tls.certificate {
        None => 0,
        Some(Shown::Now) => pp2::CLIENT_CERT_CONN | pp2::CLIENT_CERT_SESS,
        Some(Shown::Before) => pp2::CLIENT_CERT_SESS,
    };
    // "zero if the client presented a certificate and it was successfully verified, and non-zero otherwise"
    let verify = u32::from(tls.certificate.is_none());
    writer.put(&[pp2::CLIENT_SSL | shown]);
    writer.put(&verify.to_be_bytes());
    writer.extension(pp2::SUBTYPE_SSL_VERSION, Some(version));
    writer.extension(pp2::SUBTYPE_SSL_CN, common_name);
    writer.len
}

impl Writer<'_> {
    /// All but the extensions, which are `more` bytes.
    fn start(&mut self, src: SocketAddr, dst: SocketAddr, more: usize) {
        self.put(&SIGNATURE);
        if let (IpAddr::V4(src_ip), IpAddr::V4(dst_ip)) = (src.ip(), dst.ip()) {
            self.put(&[VERSION_COMMAND, TCP_OVER_IPV4]);
            self.length(12 + more);
            self.put(&src_ip.octets());
            self.put(&dst_ip.octets());
        } else {
            self.put(&[VERSION_COMMAND, TCP_OVER_IPV6]);
            self.length(36 + more);
            self.put(&as_ipv6(src.ip()));
            self.put(&as_ipv6(dst.ip()));
        }
        self.put(&src.port().to_be_bytes());
        self.put(&dst.port().to_be_bytes());
    }

    /// At most [`MAX_TLS_LEN`], so it fits.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    fn length(&mut self, length: usize) {
        self.put(&(length as u16).to_be_bytes());
    }

    fn type_and_length(&mut self, kind: u8, length: usize) {
        self.put(&[kind]);
        self.length(length);
    }

    fn extension(&mut self, kind: u8, text: Option<&[u8]>) {
        if let Some(text) = text {
            self.type_and_length(kind, text.len());
            self.put(text);
        }
    }
}

fn as_ipv6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Appends without a bound check that could panic.
struct Writer<'a> {
    out: &'a mut [u8],
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
    fn what_tls_told() {
        let mut out = [0xEE; MAX_TLS_LEN];
        let (src, dst) = ("192.0.2.1:50000", "198.51.100.7:8883");
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        let mut tls = Tls {
            version: "TLSv1.3",
            certificate: Some(Shown::Now),
            common_name: Some("dev"),
            authority: Some("a.b"),
            alpn: Some(b"mqtt"),
        };
        let extensions = [
            &[0x01, 0, 4][..],
            b"mqtt",
            &[0x02, 0, 3],
            b"a.b",
            &[0x20, 0, 21, 0x07, 0, 0, 0, 0],
            &[0x21, 0, 7],
            b"TLSv1.3",
            &[0x22, 0, 3],
            b"dev",
        ]
        .concat();
        let len = encode_tls(src, dst, &tls, &mut out);
        let plain = header("192.0.2.1:50000", "198.51.100.7:8883");
        assert_eq!(out[..14], plain[..14]);
        assert_eq!(usize::from(out[15]), 12 + extensions.len());
        assert_eq!(out[16..28], plain[16..]);
        assert_eq!(out[28..len], extensions);
        // The longest, and what is too long.
        let long = "x".repeat(MAX_TEXT);
        tls.common_name = Some(&long);
        tls.authority = Some(&long);
        tls.alpn = Some(long.as_bytes());
        tls.version = "a version with a long name";
        let v6 = "[fd77::2]:1".parse().unwrap();
        assert_eq!(encode_tls(v6, v6, &tls, &mut out), MAX_TLS_LEN);
        let longer = "x".repeat(MAX_TEXT + 1);
        tls.common_name = Some(&longer);
        let without = encode_tls(v6, v6, &tls, &mut out);
        assert_eq!(without, MAX_TLS_LEN - TLV - MAX_TEXT);
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
    fn the_program_writes_the_same() {
        for (src, dst, v4) in [
            ("192.0.2.1:50000", "198.51.100.7:1883", true),
            ("[2001:db8::1]:65535", "[fd77::2]:8883", false),
        ] {
            let parts = |text: &str| {
                let socket: SocketAddr = text.parse().unwrap();
                (as_ipv6(socket.ip()), socket.port().to_be_bytes())
            };
            let ((src_ip, src_port), (dst_ip, dst_port)) = (parts(src), parts(dst));
            let mut out = [0xEEEE_EEEE; WORDS];
            let sum = write((&src_ip, src_port), (&dst_ip, dst_port), v4, &mut out);
            let bytes: Vec<_> = out.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let (head, rest) = bytes.split_at(len(v4) as usize);
            assert_eq!(head, header(src, dst));
            assert!(rest.iter().all(|&byte| byte == 0xEE));
            assert_eq!(sum.fold(), Sum(crate::checksum::sum(head)).fold());
        }
    }

    #[test]
    fn mixed_families_become_ipv6() {
        let mixed = header("192.0.2.1:1", "[fd77::2]:2");
        assert_eq!(mixed, header("[::ffff:192.0.2.1]:1", "[fd77::2]:2"));
        assert_eq!(mixed[13], TCP_OVER_IPV6);
    }
}
