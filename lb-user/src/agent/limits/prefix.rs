//! A source prefix as text, and as the maps have it.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::layout::V4_MAPPED;
use lb_common::limits::source::masked;

use crate::agent::nodes::mapped;
use crate::config::Prefix;

/// What is wrong with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// Not an address, with or without a length.
    #[error(
        "{0:?} is neither an address nor a prefix; write `192.0.2.7`, `192.0.2.0/24` or `2001:db8::/32`"
    )]
    Syntax(String),
    /// Longer than an address.
    #[error("{prefix}: a prefix of this family has at most {most} bits")]
    Length { prefix: String, most: u8 },
    /// Bits behind the length.
    #[error("{0} has bits behind its length that are not 0; write {1}")]
    HostBits(String, Prefix),
    /// `::/0`, `::ffff:192.0.2.1` and the like.
    #[error(
        "{0} is, or holds, IPv4 addresses in IPv6's notation; write those as IPv4, and `2000::/3` for all of IPv6"
    )]
    InIpv6(Prefix),
}

/// Reads `ADDRESS` or `ADDRESS/LENGTH`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_prefix(text: &str) -> Result<Prefix, BadPrefix> {
    let syntax = || BadPrefix::Syntax(text.to_owned());
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| syntax())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| syntax())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(most);
    if length > most {
        return Err(BadPrefix::Length {
            prefix: text.to_owned(),
            most,
        });
    }
    let prefix = Prefix { address, length };
    if prefix.masked() != prefix {
        return Err(BadPrefix::HostBits(text.to_owned(), prefix.masked()));
    }
    key(&prefix)?;
    Ok(prefix)
}

/// A prefix's leading bits as the maps have addresses, and how many there are.
///
/// # Errors
/// It is IPv6 but holds IPv4 addresses.
pub fn key(prefix: &Prefix) -> Result<([u8; 16], u8), BadPrefix> {
    let bits = match prefix.address {
        IpAddr::V4(_) => 96 + prefix.length.min(32),
        IpAddr::V6(_) => prefix.length.min(128),
    };
    let address = masked(&mapped(prefix.address), bits);
    if prefix.address.is_ipv6() {
        let mut ipv4 = [0; 16];
        ipv4[..12].copy_from_slice(&V4_MAPPED);
        if bits <= 96 && masked(&ipv4, bits) == address
            || Ipv6Addr::from(address).to_ipv4_mapped().is_some()
        {
            return Err(BadPrefix::InIpv6(*prefix));
        }
    }
    Ok((address, bits))
}
