//! How WebSockets end that no backend has got.

use std::time::Duration;

use lb_common::mqtt::{self, Protocol, Refused};
use lb_common::websocket::{Kind, close, server_header};
use tokio::io::AsyncWriteExt as _;

use crate::proxy::Common;
use crate::proxy::refuse::may_refuse;
use crate::proxy::set_up::No;
use crate::proxy::stream::{Stream, read_more};
use lb_common::layout::Verdict;

/// How long a client has to close.
const LINGER: Duration = Duration::from_secs(1);

/// A frame of ours.
pub(super) fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = server_header(kind, payload.len());
    // None of ours is longer than one may be.
    header.map_or(Vec::new(), |header| [&header, payload].concat())
}

/// Closes with a code; it is counted what for.
pub(super) async fn wrong(common: &Common, stream: Stream, verdict: Verdict, code: u16) {
    common.desk.count(verdict, 0).await;
    end(common, stream, frame(Kind::Close, &code.to_be_bytes())).await;
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
    end(common, stream, [connack, last].concat()).await;
}

/// Sends the last words, and waits a little for the client's.
pub(super) async fn end(common: &Common, mut stream: Stream, last: Vec<u8>) {
    if !may_refuse(common) {
        common.desk.count(Verdict::RefusalLimited, 0).await;
        return stream.reset();
    }
    let told = async {
        stream.write_all(&last).await?;
        stream.shutdown().await?;
        // What it still sends would be answered with a RST, which may overtake the last words.
        let mut rest = Vec::new();
        while read_more(&mut stream, &mut rest, 512).await? > 0 {
            rest.clear();
        }
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, told).await;
}
