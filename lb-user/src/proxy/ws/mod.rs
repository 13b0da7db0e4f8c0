//! MQTT over WebSocket (MQTT 5, section 6): from a granted handshake to a backend's WebSocket. From there on the
//! relay passes bytes, as it does for TCP: the client's frames are masked already and the backend's must not be,
//! so they need no change.
//!
//! - [`upgrade`]: the client's handshake; [`sniff`]: the CONNECT in its first frames
//! - [`backend`]: the backend's handshake
//! - [`closing`]: CONNACKs that refuse, and close frames

mod backend;
mod closing;
mod sniff;
pub(super) mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::request;
use lb_common::layout::Verdict;
use lb_common::websocket::{Kind, close};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::http::forwarded::Forwarded;
use super::refuse::end;
use super::set_up::{
    self, Arrived, Attempt, Counted, Open, Read, connect, dial, opened, proxy_header, sort,
};
use super::silent::Place;
use super::stream::{Stream, read_more};
use super::{Common, Options};
use crate::setup::{Failure, Settings};
use sniff::{Found, Sniffer};

/// A handshake that was answered.
#[derive(Clone, Debug)]
pub(super) struct Granted {
    /// The client's request.
    pub head: request::Parts,
    pub protocol: &'static str,
    /// Sec-WebSocket-Accept for its key.
    pub accept: HeaderValue,
    pub forwarded: Forwarded,
}

/// Why no CONNECT was read.
enum Ended {
    /// The client went.
    Gone(Verdict),
    /// It closes, and gets this back.
    Closed(Vec<u8>),
    Wrong(Verdict, u16),
}

/// From the frames that have come already to a backend; `None`: the client was not served, and knows.
pub(super) async fn set_up(
    common: &Arc<Common>,
    options: &Options,
    arrived: &Arrived,
    granted: &Granted,
    (mut stream, early): (Stream, Vec<u8>),
    place: Place,
) -> Option<Open> {
    let settings = common.settings();
    let limit = Duration::from_nanos(settings.sniff_timeout);
    let read = read(&settings, &mut stream, early, arrived);
    let read = tokio::time::timeout(limit, read).await;
    drop(place);
    let late = Err(Ended::Wrong(Verdict::SniffTimeout, close::POLICY));
    let read = match read.unwrap_or(late) {
        Ok(read) => read,
        Err(Ended::Gone(verdict)) => {
            common.desk.count(verdict, 0).await;
            return None;
        }
        Err(Ended::Closed(payload)) => {
            common.desk.count(Verdict::ClosedEarly, 0).await;
            end(common, stream, &closing::frame(Kind::Close, &payload)).await;
            return None;
        }
        Err(Ended::Wrong(verdict, code)) => {
            closing::wrong(common, stream, verdict, code).await;
            return None;
        }
    };
    if let Err(denied) = common.desk.admit(read.client).await? {
        closing::refuse(common, stream, read.protocol, denied.verdict()).await;
        return None;
    }
    let _connecting = Counted::new(&common.connecting);
    let dialler = Dialler {
        options,
        granted,
        request: backend::request(granted),
        header: proxy_header(options, arrived),
        port: arrived.addresses.0.port(),
    };
    let port = options.kind.websocket().map(|websocket| websocket.port);
    let connected = connect(common, &settings, &read, port, &dialler).await?;
    let ((backend, back), slot) = match connected {
        Ok(connected) => connected,
        Err(why) => {
            closing::refuse(common, stream, read.protocol, why).await;
            return None;
        }
    };
    let registered = opened(common, arrived, &read, &backend, slot).await?;
    Some(Open {
        client: stream,
        backend,
        first: read.bytes,
        back,
        registered,
    })
}

/// Opens backends' WebSockets.
struct Dialler<'a> {
    options: &'a Options,
    granted: &'a Granted,
    request: request::Parts,
    /// PROXY header that goes before it.
    header: Vec<u8>,
    /// The client's, to spread connections by.
    port: u16,
}

impl set_up::Dialler for Dialler<'_> {
    type Opened = (TcpStream, Vec<u8>);

    async fn attempt(&self, address: SocketAddr) -> Result<Self::Opened, Attempt> {
        let mut tcp = dial(address, self.options, self.port).await.map_err(sort)?;
        tcp.write_all(&self.header).await.map_err(sort)?;
        let upgraded = backend::upgrade(tcp, self.request.clone(), self.granted).await;
        upgraded.ok_or(Attempt::Failed(Failure::Refused))
    }
}

/// Reads as far as the client identifier. Pings are answered on the way.
async fn read(
    settings: &Settings,
    stream: &mut Stream,
    early: Vec<u8>,
    arrived: &Arrived,
) -> Result<Read, Ended> {
    let gone = |_| Ended::Gone(Verdict::ClosedEarly);
    let mut sniffer = Sniffer::new(settings.mqtt, settings.sniff_bytes);
    *sniffer.buffer() = early;
    loop {
        match sniffer.look() {
            Found::Incomplete => {
                let room = sniffer.room();
                match read_more(stream, sniffer.buffer(), room).await {
                    Ok(0) | Err(_) => return Err(Ended::Gone(Verdict::ClosedEarly)),
                    Ok(_) => {}
                }
            }
            Found::Connect => break,
            Found::Ping(payload) => {
                let pong = closing::frame(Kind::Pong, &payload);
                stream.write_all(&pong).await.map_err(gone)?;
                stream.flush().await.map_err(gone)?;
            }
            Found::Close(payload) => return Err(Ended::Closed(payload)),
            Found::Wrong(verdict, code) => return Err(Ended::Wrong(verdict, code)),
        }
    }
    let Some(connect) = sniffer.connect() else {
        return Err(Ended::Gone(Verdict::ClosedEarly));
    };
    let read = Read::new(settings, arrived, &connect);
    Ok(Read {
        bytes: sniffer.into_frames(),
        ..read
    })
}
