//! How connections end that aren't served.

use std::time::Duration;

use lb_common::layout::Verdict;
use lb_common::mqtt::{self, Protocol, Refused};
use std::sync::PoisonError;
use tokio::io::AsyncWriteExt as _;

use super::Common;
use super::stream::{Stream, read_more};
use crate::dataplane::clock;

/// How long a refused client has to close.
const LINGER: Duration = Duration::from_secs(1);

/// Says no in MQTT's terms, then closes.
pub(super) async fn refuse(
    common: &Common,
    stream: Stream,
    protocol: Protocol,
    (verdict, why): (Verdict, Refused),
) {
    common.desk.count(verdict, 0).await;
    end(common, stream, mqtt::refusal(protocol, why)).await;
}

/// Sends the last words, and waits a little for the client to close.
pub(super) async fn end(common: &Common, mut stream: Stream, last: &[u8]) {
    if !may_refuse(common) {
        common.desk.count(Verdict::RefusalLimited, 0).await;
        return stream.reset();
    }
    // Whether it has read them or not, it has gone then.
    tell(&mut stream, last).await;
}

/// Sends the last words; whether the client has closed within a short time.
pub(super) async fn tell(stream: &mut Stream, last: &[u8]) -> bool {
    let told = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        // What it still sends would be answered with a RST, which may overtake the last words.
        let mut rest = Vec::new();
        while read_more(stream, &mut rest, 512).await? > 0 {
            rest.clear();
        }
        std::io::Result::Ok(())
    };
    matches!(tokio::time::timeout(LINGER, told).await, Ok(Ok(())))
}

/// Takes one of the refusals that may be sent in a second.
fn may_refuse(common: &Common) -> bool {
    let Some(pace) = common.settings().refusals else {
        return false;
    };
    let mut state = common
        .refusals
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match pace.take(*state, clock::now_ns()) {
        Some(next) => {
            *state = next;
            true
        }
        None => false,
    }
}
