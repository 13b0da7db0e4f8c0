//! Bytes both ways, until both sides have closed, either breaks, or somebody ends the connection.
//!
//! A connection that is silent holds no buffer: it borrows the thread's when a side can be read, and writes
//! what it has read at once. Only what the other side doesn't take is kept, and then the sender is not read
//! until it is gone. So TCP's own back-pressure reaches the sender.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::set_up::Open;
use super::ws::{Passed, closing};
use super::{refuse, stream};
use crate::dataplane::{From, Registered};

/// Read at a time.
const BUFFER: usize = 64 << 10;

thread_local! {
    static BORROWED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// One direction.
struct Way {
    from: From,
    /// The frames in it, where somebody has to know.
    frames: Option<Passed>,
    /// Read and not yet written, from `written` on; empty most of the time, and then it holds no memory.
    kept: Vec<u8>,
    written: usize,
    /// What was written may still be in the sink's own buffers, which TLS has.
    unflushed: bool,
    /// The sender has closed; `done`: and the receiver was told.
    closed: bool,
    done: bool,
}

impl Way {
    fn new(from: From, kept: Vec<u8>, mut frames: Option<Passed>) -> Self {
        if let Some(frames) = &mut frames {
            frames.pass(&kept);
        }
        Self {
            from,
            frames,
            kept,
            written: 0,
            unflushed: false,
            closed: false,
            done: false,
        }
    }

    /// Moves what can be moved; ready when there will be no more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        registered: &Registered,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            ready!(self.write_kept(cx, sink))?;
            if self.closed {
                ready!(Pin::new(&mut *sink).poll_shutdown(cx))?;
                self.done = true;
                break;
            }
            ready!(BORROWED.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer))?;
                let read = buffer.filled();
                if read.is_empty() {
                    self.closed = true;
                    registered.live().ended(self.from);
                    return Poll::Ready(Ok(()));
                }
                registered.live().read(self.from, read.len());
                if let Some(frames) = &mut self.frames {
                    frames.pass(read);
                }
                let written = match Pin::new(&mut *sink).poll_write(cx, read) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                };
                self.unflushed = true;
                self.kept.extend_from_slice(&read[written..]);
                Poll::Ready(io::Result::Ok(()))
            }))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it is one of frames, and all that was read has been written and ends with a frame's end.
    fn at_boundary(&self) -> bool {
        let may_close = self.frames.as_ref().is_some_and(Passed::may_close);
        may_close && self.kept.is_empty() && !self.closed
    }

    fn write_kept(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            let rest = &self.kept[self.written..];
            self.written += ready!(Pin::new(&mut *sink).poll_write(cx, rest))?;
            self.unflushed = true;
        }
        if !self.kept.is_empty() {
            self.kept = Vec::new();
            self.written = 0;
        }
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both sides have closed.
    Orderly,
    /// Either broke.
    Broken,
    /// Somebody ended it.
    Cut,
}

/// Relays a connection to its end.
pub(super) async fn relay(open: Open) {
    let Open {
        mut client,
        mut backend,
        first,
        back,
        frames,
        registered,
    } = open;
    let mut up = Way::new(From::Client, first, None);
    let mut down = Way::new(From::Backend, back, frames);
    let end = {
        let mut cut = pin!(registered.cut());
        poll_fn(|cx| {
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            let (there, back) = (
                up.poll(cx, &mut client, &mut backend, &registered),
                down.poll(cx, &mut backend, &mut client, &registered),
            );
            match (there, back) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(End::Broken),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Orderly),
                _ => Poll::Pending,
            }
        })
        .await
    };
    if end == End::Orderly {
        return;
    }
    // One side broke, or was told to: the other hears it as TCP would say it.
    stream::reset(&backend);
    drop((backend, registered));
    if end == End::Cut
        && down.at_boundary()
        && refuse::tell(&mut client, &closing::going_away()).await
    {
        return;
    }
    client.reset();
}
