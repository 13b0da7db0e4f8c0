//! Headers that don't go on: those that are for one connection only (RFC 9110, section 7.6.1), and our cookie.

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, COOKIE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::proxy::ws::upgrade::tokens;

/// Says which backend a browser stays with.
pub(super) const NODE_COOKIE: &str = "MQLB_NODE";

/// Removes what is for one connection only.
pub(in crate::proxy) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, CONNECTION.as_str())
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Takes our cookie out of a request: the node that it names.
pub(super) fn take_node(headers: &mut HeaderMap) -> Option<String> {
    let mut node = None;
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let Ok(text) = line.to_str() else {
            headers.append(COOKIE, line);
            continue;
        };
        let mut others = Vec::new();
        for pair in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some((NODE_COOKIE, value)) => node = Some(value.to_owned()),
                _ => others.push(pair),
            }
        }
        if let Some(value) = (!others.is_empty())
            .then(|| HeaderValue::from_str(&others.join("; ")).ok())
            .flatten()
        {
            headers.append(COOKIE, value);
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_for_one_connection_goes() {
        let mut headers = map(&[
            ("connection", "close, x-private"),
            ("connection", "X-Other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("authorization", "stays"),
            ("content-length", "3"),
        ]);
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length"]);
    }

    #[test]
    fn our_cookie_stays_with_us() {
        for (line, node, left) in [
            ("MQLB_NODE=emqx2", Some("emqx2"), None),
            ("a=b; MQLB_NODE=emqx2; c=d", Some("emqx2"), Some("a=b; c=d")),
            ("a=MQLB_NODE=emqx2", None, Some("a=MQLB_NODE=emqx2")),
            ("XMQLB_NODE=emqx2", None, Some("XMQLB_NODE=emqx2")),
        ] {
            let mut headers = map(&[("cookie", line)]);
            assert_eq!(take_node(&mut headers).as_deref(), node, "{line}");
            let rest = headers.get(COOKIE).map(|v| v.to_str().unwrap());
            assert_eq!(rest, left, "{line}");
        }
    }
}
