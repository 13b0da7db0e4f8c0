//! A client's connection: TCP, or TLS over it. Set-up, refusals and the relay are written against this one
//! type.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// See the module.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    /// In a box: there may be many connections, and most have none of this.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Closes with a RST.
    pub fn reset(self) {
        reset(self.tcp());
    }
}

/// Lets the connection end with a RST when it is dropped.
pub(super) fn reset(tcp: &TcpStream) {
    // If it can't be set, the close is a FIN.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Appends what comes to `bytes`, as far as there may be `most` of them; 0: the other side has closed.
/// Who waits holds no buffer.
pub(super) async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    most: usize,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut chunk = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let room = most.saturating_sub(bytes.len()).clamp(1, chunk.len());
        let mut chunk = ReadBuf::uninit(&mut chunk[..room]);
        std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut chunk))?;
        bytes.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    })
    .await
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => match Pin::new(tls).poll_read(cx, buffer) {
                // Closed without close_notify, as many devices do. MQTT's packets say where they end,
                // so nothing can be mistaken for whole that isn't.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
