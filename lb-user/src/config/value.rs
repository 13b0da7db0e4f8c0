//! The small languages inside strings: lengths of time, port ranges, addresses, names.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::model::{Prefix, Rate};

/// What is wrong with a value, and what to write.
pub(super) type Complaint = (String, String);

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// `500ms`, `10s`, `1h30m`. Units: ms, s, m, h, d.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (_, milliseconds) = UNITS.iter().find(|(name, _)| *name == &rest[..unit])?;
        rest = &rest[unit..];
        total = total.checked_add(number.checked_mul(*milliseconds)?)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// The way back from [`duration`]; what is below a millisecond is dropped.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (name, milliseconds) in UNITS.iter().rev() {
        if rest >= *milliseconds {
            out += &format!("{}{name}", rest / milliseconds);
            rest %= milliseconds;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// `10000-32767`, both ends included. Ports below 1024 belong to services.
pub(super) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.split_once('-')?;
    let (low, high): (u16, u16) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (1024 <= low && low <= high).then_some(low..=high)
}

/// Most events a second that a rate can allow.
pub(super) const MAX_RATE: u32 = 10_000_000;

/// `500/s`
pub(super) fn pace(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix("/s")?.trim_end();
    let number = Some(number).filter(|n| n.bytes().all(|byte| byte.is_ascii_digit()));
    number?.parse().ok().filter(|n| (1..=MAX_RATE).contains(n))
}

/// `100/s`, or `100/s burst 300`. Without a burst, what comes in a second may come at once.
pub(super) fn rate(text: &str) -> Option<Rate> {
    let Some((per_second, burst)) = text.split_once("burst") else {
        let per_second = pace(text)?;
        return Some(Rate {
            per_second,
            burst: per_second,
        });
    };
    let burst = burst.trim();
    Some(Rate {
        per_second: pace(per_second)?,
        // The same small language for the number.
        burst: pace(&format!("{burst}/s"))?,
    })
}

/// `203.0.113.0/24`, `2001:db8::/32`, or one address. Bits behind the length must be 0.
pub(super) fn prefix(text: &str) -> Result<Prefix, Complaint> {
    let example = "write \"203.0.113.0/24\", \"2001:db8::/32\" or one address";
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err((
            format!("{text:?} is not an address or a prefix"),
            example.into(),
        ));
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length.map(str::parse::<u8>) {
        None => bits,
        Some(Ok(length)) if (1..=bits).contains(&length) => length,
        Some(_) => {
            let what = format!("{text:?} has no prefix length from 1 to {bits}");
            return Err((what, example.into()));
        }
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let help = format!("write {v4}/{}", length.saturating_sub(96).max(1));
        return Err((format!("{text:?} is IPv4 in IPv6 clothing"), help));
    }
    let prefix = Prefix { address, length };
    let masked = prefix.masked();
    if masked != prefix {
        let what = format!("{text:?} has bits behind its length that are not 0");
        return Err((what, format!("write \"{masked}\" or \"{address}\"")));
    }
    Ok(prefix)
}

/// What listeners, pools, backends and agents may be called.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// What Linux lets an interface be called (`dev_valid_name`).
pub(super) fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace())
}

/// Where a backend is, as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Socket(SocketAddr),
    Host(String, u16),
}

/// `address:port` or `name:port`; IPv6 addresses in brackets.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Complaint> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return usable(socket).map(Endpoint::Socket);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(without_port(text, ip));
    }
    let example = "write \"10.0.0.1:1883\", \"[fd00::1]:1883\" or \"broker.example:1883\"";
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err((
            format!("{text:?} has no port"),
            format!("write \"{text}:1883\""),
        ));
    };
    let port = match port.parse::<u16>() {
        Ok(0) | Err(_) => {
            return Err((
                format!("{port:?} is not a port"),
                "write a port from 1 to 65535".into(),
            ));
        }
        Ok(port) => port,
    };
    if is_host(host) {
        Ok(Endpoint::Host(host.to_owned(), port))
    } else {
        Err((
            format!("{host:?} is neither an address nor a DNS name"),
            example.into(),
        ))
    }
}

/// `address:port` that clients can connect to. Where it is a `socket`'s, the address may stand for all.
pub(super) fn vip(text: &str, socket: bool) -> Result<SocketAddr, Complaint> {
    if let Ok(all) = text.parse::<SocketAddr>()
        && all.ip().is_unspecified()
        && all.port() != 0
    {
        return if socket {
            Ok(SocketAddr::new(all.ip(), all.port()))
        } else {
            let help = "write one address, or datapath = \"proxy\"";
            Err((
                format!(
                    "{} stands for every address, which XDP can't take",
                    all.ip()
                ),
                help.into(),
            ))
        };
    }
    match endpoint(text)? {
        Endpoint::Socket(socket) => Ok(socket),
        Endpoint::Host(host, port) => Err((
            format!("{host:?} is a name, a VIP is an address"),
            format!("write the address that clients connect to: \"10.0.0.1:{port}\""),
        )),
    }
}

/// A DNS name: labels of at most 63 letters, digits, - and _. One whose last label is a number is
/// a mistyped IPv4 address (RFC 1123, section 2.1).
pub(super) fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.chars().all(|c| c.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(label) && !name.rsplit('.').next().is_some_and(number)
}

fn without_port(text: &str, ip: IpAddr) -> Complaint {
    match ip {
        IpAddr::V4(_) => (
            format!("{text:?} has no port"),
            format!("write \"{text}:1883\""),
        ),
        IpAddr::V6(_) => (
            format!("{text:?} has no port, or no brackets around the address"),
            format!("write \"[{text}]:1883\""),
        ),
    }
}

/// Refuses sockets that no TCP connection can have at its far end.
pub(super) fn usable(socket: SocketAddr) -> Result<SocketAddr, Complaint> {
    if socket.port() == 0 {
        return Err((
            format!("port 0 of {socket} is not a port"),
            "write a port from 1 to 65535".into(),
        ));
    }
    if let SocketAddr::V6(v6) = socket
        && v6.scope_id() != 0
    {
        return Err((
            format!("{socket} has a zone"),
            "write a global or unique local address without %".into(),
        ));
    }
    unicast(socket.ip())?;
    Ok(socket)
}

/// Refuses addresses that name no single host.
pub(super) fn unicast(ip: IpAddr) -> Result<IpAddr, Complaint> {
    let (what, help) = match ip {
        _ if ip.is_unspecified() => ("stands for every address", "write one address".to_owned()),
        _ if ip.is_multicast() => (
            "is a multicast address",
            "write a unicast address".to_owned(),
        ),
        IpAddr::V4(v4) if v4.is_broadcast() => (
            "is the broadcast address",
            "write a unicast address".to_owned(),
        ),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => ("is an IPv4 address in IPv6 clothing", format!("write {v4}")),
            None => return link_local(v6),
        },
        IpAddr::V4(_) => return Ok(ip),
    };
    Err((format!("{ip} {what}"), help))
}

/// Link-local addresses mean nothing without an interface.
fn link_local(ip: Ipv6Addr) -> Result<IpAddr, Complaint> {
    if ip.is_unicast_link_local() {
        let help = "write a global or unique local address".to_owned();
        return Err((format!("{ip} is only valid on one link"), help));
    }
    Ok(IpAddr::V6(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("30m", 1_800_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "1.5s",
            "-1s",
            "10sec",
            "10S",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("10000-32767"), Some(10000..=32767));
        assert_eq!(port_range("2000 - 2000"), Some(2000..=2000));
        for text in [
            "",
            "10000",
            "10000-",
            "-2",
            "3000-2000",
            "80-90",
            "1024-65536",
            "a-b",
        ] {
            assert_eq!(port_range(text), None, "{text}");
        }
    }

    #[test]
    fn rates() {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        for (text, want) in [
            ("100/s", rate(100, 100)),
            ("1/s burst 20", rate(1, 20)),
            ("10000000/s", rate(MAX_RATE, MAX_RATE)),
            ("10 /s  burst  5 ", rate(10, 5)),
            ("", None),
            ("/s", None),
            ("100", None),
            ("0/s", None),
            ("+5/s", None),
            ("-5/s", None),
            ("1.5/s", None),
            ("10000001/s", None),
            ("100/m", None),
            ("100/s burst", None),
            ("100/s burst 0", None),
            ("burst 5", None),
            ("100/s burst 5/s", None),
            ("100/s burst 5 burst 5", None),
        ] {
            assert_eq!(super::rate(text), want, "{text:?}");
            if let Some(rate) = want {
                assert_eq!(super::rate(&rate.to_string()), want, "{rate}");
            }
        }
        assert_eq!(pace("500/s"), Some(500));
        assert_eq!(pace("500/s burst 500"), None);
    }

    #[test]
    fn prefixes() {
        for (text, want) in [
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("203.0.113.7", "203.0.113.7/32"),
            ("128.0.0.0/1", "128.0.0.0/1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(prefix(text).unwrap().to_string(), want);
        }
        for (text, message, help) in [
            ("", "not an address", "203.0.113.0/24"),
            ("mqtt.example", "not an address", "2001:db8::/32"),
            ("203.0.113/24", "not an address", "203.0.113.0/24"),
            ("203.0.113.0/33", "from 1 to 32", "203.0.113.0/24"),
            ("203.0.113.0/", "from 1 to 32", "203.0.113.0/24"),
            ("0.0.0.0/0", "from 1 to 32", "one address"),
            ("2001:db8::/129", "from 1 to 128", "one address"),
            (
                "203.0.113.7/24",
                "not 0",
                "\"203.0.113.0/24\" or \"203.0.113.7\"",
            ),
            ("2001:db8::1/32", "not 0", "\"2001:db8::/32\""),
            ("::ffff:10.0.0.0/104", "IPv4 in IPv6", "write 10.0.0.0/8"),
        ] {
            let (complaint, advice) = prefix(text).unwrap_err();
            assert!(complaint.contains(message), "{text}: {complaint}");
            assert!(advice.contains(help), "{text}: {advice}");
        }
    }

    #[test]
    fn endpoints() {
        let socket = |text: &str| Ok(Endpoint::Socket(text.parse().unwrap()));
        assert_eq!(endpoint("10.77.1.2:1883"), socket("10.77.1.2:1883"));
        assert_eq!(endpoint("[fd77::2]:1883"), socket("[fd77::2]:1883"));
        assert_eq!(
            endpoint("emqx-1.mqtt_net.:1883"),
            Ok(Endpoint::Host("emqx-1.mqtt_net.".into(), 1883))
        );
        for (text, message, help) in [
            ("10.0.0.1", "no port", "\"10.0.0.1:1883\""),
            ("emqx1", "no port", "\"emqx1:1883\""),
            ("fd77::2", "no port, or no brackets", "\"[fd77::2]:1883\""),
            ("fd77::2:1883", "brackets", "[fd77::2:1883]"),
            (
                "10.0.0.300:1883",
                "neither an address nor a DNS name",
                "10.0.0.1:1883",
            ),
            ("a b:1883", "neither", "broker.example:1883"),
            (":1883", "neither", "broker.example:1883"),
            ("emqx1:0", "not a port", "1 to 65535"),
            ("10.0.0.1:0", "not a port", "1 to 65535"),
            ("emqx1:65536", "not a port", "1 to 65535"),
            ("emqx1:mqtt", "not a port", "1 to 65535"),
            ("0.0.0.0:1883", "every address", "one address"),
            ("[::]:1883", "every address", "one address"),
            ("224.0.0.1:1883", "multicast", "unicast"),
            ("[ff02::1]:1883", "multicast", "unicast"),
            ("255.255.255.255:1883", "broadcast", "unicast"),
            ("[::ffff:10.0.0.1]:1883", "IPv4", "10.0.0.1"),
            ("[fe80::1]:1883", "one link", "unique local"),
            ("[fe80::1%3]:1883", "zone", "without %"),
        ] {
            let (complaint, advice) = endpoint(text).unwrap_err();
            assert!(complaint.contains(message), "{text}: {complaint}");
            assert!(advice.contains(help), "{text}: {advice}");
        }
        assert!(
            vip("emqx1:1883", true)
                .unwrap_err()
                .0
                .contains("a VIP is an address")
        );
    }

    #[test]
    fn names() {
        assert!(is_name("emqx-1.eu_west") && is_name("1") && is_name(&"x".repeat(64)));
        assert!(
            !is_name("")
                && !is_name("-x")
                && !is_name("a/b")
                && !is_name("ü")
                && !is_name(&"x".repeat(65))
        );
        assert!(is_interface("eth0.100") && is_interface("veth-1234567890"));
        assert!(
            !is_interface("")
                && !is_interface("..")
                && !is_interface("a b")
                && !is_interface(&"x".repeat(16))
        );
    }

    proptest! {
        #[test]
        fn durations_survive_a_round_trip(milliseconds in 0u64..10_000_000_000) {
            let expected = Duration::from_millis(milliseconds);
            prop_assert_eq!(duration(&show_duration(expected)), Some(expected));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = (duration(&text), port_range(&text), is_name(&text), is_interface(&text), endpoint(&text));
            let _ = (pace(&text), rate(&text), prefix(&text));
        }
    }
}
