//! The client's side of the handshake (RFC 6455, section 4.2). It is answered before a backend is known, because
//! the CONNECT comes after it.

use hyper::body::Body;
use hyper::header::{
    HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use tungstenite::handshake::server::create_response_with_body;

/// Subprotocols that are MQTT (MQTT 5, section 6; the older one is that of 3.1).
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Whether a request asks for a WebSocket.
pub(in crate::proxy) fn is_wanted(headers: &HeaderMap) -> bool {
    tokens(headers, UPGRADE.as_str()).any(|token| token.eq_ignore_ascii_case("websocket"))
}

/// The answer that grants a WebSocket, and its subprotocol; else the status that refuses it, and why.
pub(in crate::proxy) fn grant<B: Body>(
    request: &Request<B>,
) -> Result<(Response<()>, &'static str), (StatusCode, &'static str)> {
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    let headers = request.headers();
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_some_and(|v| v != "13")
    {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "only version 13 of WebSocket is spoken here",
        ));
    }
    if !headers.get(SEC_WEBSOCKET_KEY).is_some_and(is_key) {
        return bad("Sec-WebSocket-Key must be 16 bytes in base64");
    }
    if !request.body().is_end_stream() {
        return bad("a request for a WebSocket has no body");
    }
    let offered = || tokens(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
    let Some(protocol) = offered().find_map(|o| PROTOCOLS.into_iter().find(|p| *p == o)) else {
        return bad("offer the subprotocol mqtt (Sec-WebSocket-Protocol)");
    };
    let Ok(mut response) = create_response_with_body(request, || ()) else {
        return bad("this is no request for a WebSocket as RFC 6455, section 4.2.1, has it");
    };
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((response, protocol))
}

fn is_key(key: &HeaderValue) -> bool {
    let decoded = data_encoding::BASE64.decode(key.as_bytes());
    decoded.is_ok_and(|key| key.len() == 16)
}

/// The words of a list, over all its lines.
pub(in crate::proxy) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    let words = lines.filter_map(|line| line.to_str().ok());
    words.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Empty, Full};
    use hyper::body::Bytes;

    /// The request of RFC 6455, section 1.3, with other headers.
    fn request(changes: &[(&str, &str)]) -> Request<Empty<Bytes>> {
        let mut request = Request::get("/mqtt");
        for (name, value) in [
            ("Host", "server.example.com"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "chat, mqtt"),
            ("Sec-WebSocket-Version", "13"),
        ] {
            let changed = changes.iter().find(|(changed, _)| *changed == name);
            let value = changed.map_or(value, |(_, value)| *value);
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        request.body(Empty::new()).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc_is_granted() {
        let (response, protocol) = grant(&request(&[])).unwrap();
        assert_eq!(response.status(), 101);
        let accept = &response.headers()["sec-websocket-accept"];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(protocol, "mqtt");
        assert_eq!(response.headers()["sec-websocket-protocol"], "mqtt");
        assert!(response.headers().get("sec-websocket-extensions").is_none());
        for (changes, want) in [
            (
                &[("Sec-WebSocket-Protocol", "mqttv3.1,mqtt")][..],
                "mqttv3.1",
            ),
            (&[("Connection", "keep-alive, Upgrade")], "mqtt"),
            (&[("Upgrade", "WebSocket")], "mqtt"),
        ] {
            assert_eq!(grant(&request(changes)).unwrap().1, want);
        }
    }

    #[test]
    fn others_are_refused() {
        for (name, value, status) in [
            ("Sec-WebSocket-Version", "8", 426),
            ("Sec-WebSocket-Version", "", 400),
            ("Sec-WebSocket-Key", "", 400),
            ("Sec-WebSocket-Key", "c2hvcnQ=", 400),
            ("Sec-WebSocket-Key", "not base64 at all", 400),
            ("Sec-WebSocket-Protocol", "", 400),
            ("Sec-WebSocket-Protocol", "MQTT", 400),
            ("Sec-WebSocket-Protocol", "amqp", 400),
            ("Connection", "keep-alive", 400),
            ("Connection", "", 400),
        ] {
            let refused = grant(&request(&[(name, value)])).unwrap_err();
            assert_eq!(refused.0, status, "{name}: {value}");
        }
        let mut post = request(&[]);
        *post.method_mut() = hyper::Method::POST;
        assert_eq!(grant(&post).unwrap_err().0, 400);
        let with_body = request(&[]).map(|_| Full::new(Bytes::from_static(b"x")));
        assert_eq!(grant(&with_body).unwrap_err().0, 400);
        assert!(is_wanted(request(&[]).headers()));
        assert!(!is_wanted(request(&[("Upgrade", "h2c")]).headers()));
    }
}
