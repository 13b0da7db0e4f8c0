//! How WebSockets end that no backend has got.

use lb_common::layout::Verdict;
use lb_common::mqtt::{self, Protocol, Refused};
use lb_common::websocket::{Kind, close, server_header};

use crate::proxy::Common;
use crate::proxy::refuse::end;
use crate::proxy::set_up::No;
use crate::proxy::stream::Stream;

/// A frame of ours.
pub(super) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = server_header(kind, payload.len());
    // None of ours is longer than one may be.
    header.map_or(Vec::new(), |header| [&header, payload].concat())
}

/// For a client whose connection is ended: it should come back, to another node perhaps.
pub(in crate::proxy) fn going_away() -> Vec<u8> {
    frame(Kind::Close, &close::GOING_AWAY.to_be_bytes())
}

/// Closes with a code; it is counted what for.
pub(super) async fn wrong(common: &Common, stream: Stream, verdict: Verdict, code: u16) {
    common.desk.count(verdict, 0).await;
    end(common, stream, &frame(Kind::Close, &code.to_be_bytes())).await;
}

/// Says no in MQTT's terms, then in WebSocket's.
pub(super) async fn refuse(
    common: &Common,
    stream: Stream,
    protocol: Protocol,
    (verdict, why): No,
) {
    common.desk.count(verdict, 0).await;
    let code = match why {
        Refused::Banned => close::POLICY,
        Refused::Unavailable | Refused::Quota => close::TRY_AGAIN,
    };
    let connack = frame(Kind::Data, mqtt::refusal(protocol, why));
    let last = frame(Kind::Close, &code.to_be_bytes());
    end(common, stream, &[connack, last].concat()).await;
}
