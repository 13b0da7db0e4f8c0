//! A backend's WebSocket (RFC 6455, section 4.1). The backend gets what the client asked for, key included: so its
//! answer has to be the one that the client has had from us.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, EXPECT, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Granted;
use super::upgrade::{is_wanted, tokens};
use crate::proxy::http::headers;

/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// What a backend is asked.
pub(super) fn request(granted: &Granted) -> Parts {
    let mut head = granted.head.clone();
    head.version = Version::HTTP_11;
    headers::strip(&mut head.headers);
    granted.forwarded.write(&mut head.headers, true);
    let headers = &mut head.headers;
    // We have agreed on none with the client.
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    headers.remove(EXPECT);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let protocol = HeaderValue::from_static(granted.protocol);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    head
}

/// Upgrades a connection; it, and what has come behind the backend's answer. `None`: the backend broke off, or
/// answered something else.
pub(super) async fn upgrade(
    tcp: TcpStream,
    request: Parts,
    granted: &Granted,
) -> Option<(TcpStream, Vec<u8>)> {
    let (mut sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_HEAD)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(tcp))
        .await
        .ok()?;
    let asked = async {
        let request = Request::from_parts(request, Empty::new());
        let response = sender.send_request(request).await.ok()?;
        if let Err(why) = check(&response, granted) {
            tracing::debug!("a backend refused a WebSocket: {why}");
            return None;
        }
        hyper::upgrade::on(response).await.ok()
    };
    let driven = async { connection.with_upgrades().await.ok() };
    let (asked, driven) = (std::pin::pin!(asked), std::pin::pin!(driven));
    let upgraded = match futures_util::future::select(asked, driven).await {
        futures_util::future::Either::Left((upgraded, _)) => upgraded?,
        // It is over with the connection's part once that is upgraded.
        futures_util::future::Either::Right((driven, asked)) => {
            driven?;
            asked.await?
        }
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf.into()))
}

/// Whether the answer fits what the client was told.
fn check<B>(response: &Response<B>, granted: &Granted) -> Result<(), String> {
    let headers = response.headers();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("it answered {}", response.status()));
    }
    if !is_wanted(headers)
        || !tokens(headers, CONNECTION.as_str()).any(|t| t.eq_ignore_ascii_case("upgrade"))
    {
        return Err("its answer upgrades to something else".to_owned());
    }
    if headers.get(SEC_WEBSOCKET_ACCEPT) != Some(&granted.accept) {
        return Err("Sec-WebSocket-Accept is wrong".to_owned());
    }
    if headers
        .get(SEC_WEBSOCKET_PROTOCOL)
        .is_none_or(|p| p != granted.protocol)
    {
        return Err(format!("it doesn't speak {}", granted.protocol));
    }
    if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err("it uses an extension that nobody offered".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http::forwarded::Forwarded;

    fn granted() -> Granted {
        let request = Request::get("/mqtt?x=1")
            .header("Host", "mqtt.example")
            .header("Connection", "Upgrade, X-Hop")
            .header("X-Hop", "1")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Protocol", "mqttv3.1, mqtt")
            .header("Sec-WebSocket-Extensions", "permessage-deflate")
            .header("Cookie", "a=b")
            .header("X-Forwarded-For", "203.0.113.9");
        let head = request.body(()).unwrap().into_parts().0;
        let peer = "192.0.2.7:4711".parse().unwrap();
        Granted {
            forwarded: Forwarded::of(peer, true, &[], &head.headers),
            head,
            protocol: "mqtt",
            accept: HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        }
    }

    #[test]
    fn the_backend_is_asked_what_the_client_asked() {
        let head = request(&granted());
        assert_eq!(head.uri, "/mqtt?x=1");
        let mut seen: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "connection: Upgrade",
                "cookie: a=b",
                "host: mqtt.example",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
                "sec-websocket-protocol: mqtt",
                "sec-websocket-version: 13",
                "upgrade: websocket",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: mqtt.example",
                "x-forwarded-port: 4711",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn answers_have_to_fit() {
        let answer = |changes: &[(&str, &str)]| {
            let mut response = Response::builder().status(101);
            for (name, value) in [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
                ("Sec-WebSocket-Protocol", "mqtt"),
                ("Sec-WebSocket-Extensions", ""),
            ] {
                let changed = changes.iter().find(|(changed, _)| *changed == name);
                let value = changed.map_or(value, |(_, value)| *value);
                if !value.is_empty() {
                    response = response.header(name, value);
                }
            }
            check(&response.body(()).unwrap(), &granted()).is_ok()
        };
        assert!(answer(&[]));
        for wrong in [
            ("Upgrade", "h2c"),
            ("Connection", "close"),
            ("Sec-WebSocket-Accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ("Sec-WebSocket-Accept", ""),
            ("Sec-WebSocket-Protocol", "mqttv3.1"),
            ("Sec-WebSocket-Protocol", ""),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ] {
            assert!(!answer(&[wrong]), "{wrong:?}");
        }
        let not_found = Response::builder().status(404).body(()).unwrap();
        assert!(check(&not_found, &granted()).is_err());
    }
}
