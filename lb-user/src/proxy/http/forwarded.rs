//! Who asks, for backends: X-Forwarded-For and its like. What clients say of themselves is replaced. What a trusted
//! edge says of its clients is believed and passed on, with the edge's own address behind it.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HOST, HeaderName, HeaderValue};

use crate::config::Prefix;
use crate::proxy::ws::upgrade::tokens;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const BY_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Forwarded {
    /// Who asks. The port is the connection's where an edge doesn't tell the client's.
    pub client: SocketAddr,
    /// It came by TLS, at least to the edge.
    pub secure: bool,
    /// The client's own port, if it is known.
    port: Option<u16>,
    /// The client, and the edges behind it; `None`: the client itself is connected to us.
    path: Option<Vec<IpAddr>>,
}

impl Forwarded {
    /// Who sends a request over a connection of `peer`, which may be one of the trusted `edges`: then it is the last
    /// one in X-Forwarded-For who is no edge. What stands before is what that one says.
    pub fn of(peer: SocketAddr, secure: bool, edges: &[Prefix], headers: &HeaderMap) -> Self {
        let is_edge = |address: IpAddr| edges.iter().any(|edge| edge.holds(address));
        let mut forwarded = Self {
            client: peer,
            secure,
            port: Some(peer.port()),
            path: None,
        };
        if !is_edge(peer.ip()) {
            return forwarded;
        }
        let lines = headers.get_all(FOR).into_iter();
        let entries = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let entries: Vec<_> = entries.map(<[u8]>::trim_ascii).collect();
        let mut path = vec![peer.ip()];
        forwarded.port = None;
        for entry in entries.into_iter().rev().filter(|entry| !entry.is_empty()) {
            // Nothing can be said of what comes before one that isn't understood.
            let Some((address, port)) = node(entry).filter(|_| is_edge(forwarded.client.ip()))
            else {
                break;
            };
            forwarded.client = SocketAddr::new(address, port.unwrap_or(peer.port()));
            forwarded.port = port;
            path.push(address);
        }
        path.reverse();
        forwarded.path = Some(path);
        if let Some(first) = tokens(headers, PROTO.as_str()).next() {
            forwarded.secure = ["https", "wss"]
                .iter()
                .any(|s| first.eq_ignore_ascii_case(s));
        }
        forwarded
    }

    /// In place of whatever the client itself says of this. `port`: the client's too, where EMQX looks for it.
    pub fn write(&self, headers: &mut HeaderMap, port: bool) {
        headers.remove(FORWARDED);
        headers.remove(FOR);
        if self.path.is_none() {
            for name in [PORT, PROTO, BY_HOST] {
                headers.remove(name);
            }
        }
        let host = headers.get(HOST).cloned();
        let path = match &self.path {
            Some(path) => path.iter().map(ToString::to_string).collect::<Vec<_>>(),
            None => vec![self.client.ip().to_string()],
        };
        let proto = if self.secure { "https" } else { "http" };
        let own_port = self.port.filter(|_| port);
        let text = |text: &str| HeaderValue::from_str(text).ok();
        for (name, value) in [
            (FOR, text(&path.join(", "))),
            (PROTO, text(proto)),
            (PORT, own_port.map(HeaderValue::from)),
            (BY_HOST, host),
        ] {
            // What is still there is an edge's.
            if let Some(value) = value.filter(|_| !headers.contains_key(&name)) {
                headers.insert(name, value);
            }
        }
    }
}

/// One entry of X-Forwarded-For: an address, in brackets perhaps, and perhaps with a port.
fn node(entry: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    let entry = std::str::from_utf8(entry).ok()?;
    let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(entry).parse::<IpAddr>() {
        return Some((address.to_canonical(), None));
    }
    let with_port: SocketAddr = entry.parse().ok()?;
    Some((with_port.ip().to_canonical(), Some(with_port.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn edges() -> Vec<Prefix> {
        [("10.0.0.0", 8), ("fd00::", 8), ("203.0.113.80", 32)]
            .map(|(address, length)| Prefix {
                address: address.parse().unwrap(),
                length,
            })
            .into()
    }

    #[test]
    fn clients_do_not_say_who_they_are() {
        let mut headers = map(&[
            ("host", "emqx.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-host", "other.example"),
            ("forwarded", "for=10.0.0.1"),
        ]);
        let peer = "[2001:db8::7]:4711".parse().unwrap();
        let forwarded = Forwarded::of(peer, false, &edges(), &headers);
        assert_eq!((forwarded.client, forwarded.secure), (peer, false));
        let all = |headers: &HeaderMap, name| {
            let values = headers.get_all(name).iter();
            values
                .map(|v| v.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for (port, want) in [(false, vec![]), (true, vec!["4711"])] {
            forwarded.write(&mut headers, port);
            assert_eq!(all(&headers, "x-forwarded-for"), ["2001:db8::7"]);
            assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
            assert_eq!(all(&headers, "x-forwarded-host"), ["emqx.example"]);
            assert_eq!(all(&headers, "x-forwarded-port"), want);
            assert!(all(&headers, "forwarded").is_empty());
        }
    }

    #[test]
    fn edges_do() {
        let edge = "10.1.2.3:999";
        for (peer, lines, client, path) in [
            (
                edge,
                &["192.0.2.7"][..],
                "192.0.2.7:999",
                "192.0.2.7, 10.1.2.3",
            ),
            // What the client says of itself, and what isn't understood, is nobody's word.
            (
                edge,
                &["8.8.8.8, 192.0.2.7"],
                "192.0.2.7:999",
                "192.0.2.7, 10.1.2.3",
            ),
            (
                edge,
                &["8.8.8.8", "192.0.2.7"],
                "192.0.2.7:999",
                "192.0.2.7, 10.1.2.3",
            ),
            (edge, &["8.8.8.8, unknown"], edge, "10.1.2.3"),
            (
                edge,
                &["8.8.8.8", "\u{fc}, 10.0.0.1"],
                "10.0.0.1:999",
                "10.0.0.1, 10.1.2.3",
            ),
            // Edges behind edges.
            (
                edge,
                &["8.8.8.8, 192.0.2.7,203.0.113.80", "fd00::9"],
                "192.0.2.7:999",
                "192.0.2.7, 203.0.113.80, fd00::9, 10.1.2.3",
            ),
            (
                edge,
                &["10.9.9.9, 10.8.8.8"],
                "10.9.9.9:999",
                "10.9.9.9, 10.8.8.8, 10.1.2.3",
            ),
            // All that is written in there.
            (
                edge,
                &["192.0.2.7:4711"],
                "192.0.2.7:4711",
                "192.0.2.7, 10.1.2.3",
            ),
            (
                edge,
                &["[2001:db8::7]:4711"],
                "[2001:db8::7]:4711",
                "2001:db8::7, 10.1.2.3",
            ),
            (
                edge,
                &["[2001:db8::7]"],
                "[2001:db8::7]:999",
                "2001:db8::7, 10.1.2.3",
            ),
            (
                edge,
                &["2001:db8::7, , "],
                "[2001:db8::7]:999",
                "2001:db8::7, 10.1.2.3",
            ),
            (
                edge,
                &["::ffff:192.0.2.7"],
                "192.0.2.7:999",
                "192.0.2.7, 10.1.2.3",
            ),
            (edge, &[], edge, "10.1.2.3"),
            (edge, &[""], edge, "10.1.2.3"),
            (
                "[fd00::1]:5",
                &["192.0.2.7"],
                "192.0.2.7:5",
                "192.0.2.7, fd00::1",
            ),
            ("192.0.2.1:5", &["192.0.2.7"], "192.0.2.1:5", "192.0.2.1"),
        ] {
            let lines: Vec<_> = lines.iter().map(|l| ("x-forwarded-for", *l)).collect();
            let mut headers = map(&lines);
            let peer = peer.parse().unwrap();
            let forwarded = Forwarded::of(peer, false, &edges(), &headers);
            assert_eq!(forwarded.client.to_string(), client, "{lines:?}");
            forwarded.write(&mut headers, true);
            let written: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
            assert_eq!(written, [path], "{lines:?}");
        }
    }

    #[test]
    fn what_else_edges_say_is_passed_on() {
        let of = |lines: &[(&'static str, &str)], secure| {
            let mut headers = map(lines);
            let peer = "10.1.2.3:999".parse().unwrap();
            let forwarded = Forwarded::of(peer, secure, &edges(), &headers);
            forwarded.write(&mut headers, true);
            let one = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
            let told = ["port", "proto", "host"].map(|n| one(&format!("x-forwarded-{n}")));
            assert_eq!(one("forwarded"), None);
            (forwarded.secure, told)
        };
        let said = [
            ("host", "inner.example"),
            ("x-forwarded-for", "192.0.2.7:4711"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer.example"),
            ("forwarded", "for=192.0.2.7"),
        ];
        let some = |text: &str| Some(text.to_owned());
        let all = [some("443"), some("https"), some("outer.example")];
        assert_eq!(of(&said, false), (true, all));
        // What it doesn't say is said by us, as far as it is known.
        let own = [some("4711"), some("https"), some("inner.example")];
        assert_eq!(of(&said[..2], true), (true, own));
        let own = [None, some("http"), some("inner.example")];
        assert_eq!(of(&said[..1], false), (false, own));
        assert!(!of(&[("x-forwarded-proto", "http")], true).0);
    }
}
