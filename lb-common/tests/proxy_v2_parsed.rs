//! PROXY v2 headers as an unrelated parser reads them.

use core::net::{IpAddr, SocketAddr};

use lb_common::proxy_v2::{MAX_LEN, MAX_TEXT, MAX_TLS_LEN, Shown, Tls, encode, encode_tls};
use ppp::v2::{Addresses, Command, Header, Protocol, Version};
use proptest::prelude::*;

fn assert_round_trip(
    src: SocketAddr,
    dst: SocketAddr,
    payload: &[u8],
) -> Result<(), TestCaseError> {
    let mut out = [0; MAX_LEN];
    let len = encode(src, dst, &mut out);
    // The CONNECT follows at once: the header must say where it ends.
    let stream = [&out[..len], payload].concat();
    let header =
        Header::try_from(&stream[..]).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(header.len(), len);
    prop_assert_eq!(header.version, Version::Two);
    prop_assert_eq!(header.command, Command::Proxy);
    prop_assert_eq!(header.protocol, Protocol::Stream);
    let (read_src, read_dst) = match header.addresses {
        Addresses::IPv4(a) => (
            (IpAddr::V4(a.source_address), a.source_port),
            (IpAddr::V4(a.destination_address), a.destination_port),
        ),
        Addresses::IPv6(a) => (
            (IpAddr::V6(a.source_address), a.source_port),
            (IpAddr::V6(a.destination_address), a.destination_port),
        ),
        other => return Err(TestCaseError::fail(format!("{other:?}"))),
    };
    prop_assert_eq!(read_src.0.is_ipv4(), src.is_ipv4() && dst.is_ipv4());
    prop_assert_eq!(
        (read_src.0.to_canonical(), read_src.1),
        (src.ip().to_canonical(), src.port())
    );
    prop_assert_eq!(
        (read_dst.0.to_canonical(), read_dst.1),
        (dst.ip().to_canonical(), dst.port())
    );
    Ok(())
}

/// The extensions of a header, or of the one that has extensions of its own.
fn tlvs(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        found.push((*kind, value));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half an extension: {bytes:?}");
    found
}

proptest! {
    #[test]
    fn what_tls_told(
        src in any::<(IpAddr, u16)>(), dst in any::<(IpAddr, u16)>(),
        common_name in prop::option::of("[a-zü]{0,140}"), authority in prop::option::of("[a-z.]{0,300}"),
        alpn in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        certificate in prop::sample::select(vec![None, Some(Shown::Now), Some(Shown::Before)]),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let tls = Tls {
            version: "TLSv1.2",
            certificate,
            common_name: common_name.as_deref(),
            authority: authority.as_deref(),
            alpn: alpn.as_deref(),
        };
        let mut out = [0xEE; MAX_TLS_LEN];
        let len = encode_tls(src.into(), dst.into(), &tls, &mut out);
        prop_assert!(out[len..].iter().all(|byte| *byte == 0xEE));
        let stream = [&out[..len], &payload].concat();
        let header = Header::try_from(&stream[..])
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(header.len(), len);
        let found = tlvs(header.tlv_bytes());
        let of = |kind: u8| found.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value);
        let short = |text: &&[u8]| text.len() <= MAX_TEXT;
        prop_assert_eq!(of(1), tls.alpn.filter(short));
        prop_assert_eq!(of(2), tls.authority.map(str::as_bytes).filter(short));
        let ssl = of(0x20).unwrap();
        let flags = match certificate { None => 1, Some(Shown::Before) => 5, Some(Shown::Now) => 7 };
        prop_assert_eq!(ssl[0], flags);
        prop_assert_eq!(ssl[1..5] == [0; 4], certificate.is_some());
        let inner = tlvs(&ssl[5..]);
        prop_assert_eq!(inner[0], (0x21, &b"TLSv1.2"[..]));
        let name = inner.get(1).map(|(kind, value)| { assert_eq!(*kind, 0x22); *value });
        prop_assert_eq!(name, tls.common_name.map(str::as_bytes).filter(short));
    }

    #[test]
    fn any_addresses(
        src in any::<(IpAddr, u16)>(), dst in any::<(IpAddr, u16)>(), payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        assert_round_trip(src.into(), dst.into(), &payload)?;
    }
}
