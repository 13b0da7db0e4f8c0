//! How connections end that aren't served.

use std::time::Duration;

use lb_common::layout::Verdict;
use lb_common::mqtt::{self, Protocol, Refused};
use socket2::SockRef;
use std::sync::PoisonError;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Common;
use crate::dataplane::clock;

/// How long a refused client has to close.
const LINGER: Duration = Duration::from_secs(1);

/// Closes with a RST.
pub(super) fn reset(stream: TcpStream) {
    // If it can't be set, the close is a FIN.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Says no in MQTT's terms, then closes.
pub(super) async fn refuse(
    common: &Common,
    mut stream: TcpStream,
    protocol: Protocol,
    (verdict, why): (Verdict, Refused),
) {
    common.desk.count(verdict, 0).await;
    if !may_refuse(common) {
        common.desk.count(Verdict::RefusalLimited, 0).await;
        return reset(stream);
    }
    let connack = mqtt::refusal(protocol, why);
    let told = async {
        stream.write_all(connack).await?;
        stream.shutdown().await?;
        // What it still sends would be answered with a RST, which may overtake the CONNACK.
        let mut rest = [0; 512];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    // Whether it has read it or not, it has gone then.
    let _ = tokio::time::timeout(LINGER, told).await;
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
