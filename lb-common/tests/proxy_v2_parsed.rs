//! PROXY v2 headers as an unrelated parser reads them.

use core::net::{IpAddr, SocketAddr};

use lb_common::proxy_v2::{MAX_LEN, encode};
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

proptest! {
    #[test]
    fn any_addresses(
        src in any::<(IpAddr, u16)>(), dst in any::<(IpAddr, u16)>(), payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        assert_round_trip(src.into(), dst.into(), &payload)?;
    }
}
