//! Bytes both ways, until both sides have closed, either breaks, or somebody ends the connection.
//!
//! A connection that is silent holds no buffer: it waits until a side can be read, borrows the thread's
//! buffer and writes what it has read at once. Only what the other side doesn't take is kept, and then the
//! sender is not read until it is gone. So TCP's own back-pressure reaches the sender.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::refuse::reset;
use super::set_up::Open;
use crate::dataplane::{From, Registered};

/// Read at a time.
const BUFFER: usize = 64 << 10;

thread_local! {
    static BORROWED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// One direction.
struct Way {
    from: From,
    /// Read and not yet written, from `written` on; empty most of the time, and then it holds no memory.
    kept: Vec<u8>,
    written: usize,
    /// The sender has closed; `done`: and the receiver was told.
    closed: bool,
    done: bool,
}

impl Way {
    const fn new(from: From, kept: Vec<u8>) -> Self {
        Self {
            from,
            kept,
            written: 0,
            closed: false,
            done: false,
        }
    }

    /// Moves what can be moved; ready when there will be no more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        registered: &Registered,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            ready!(self.write_kept(cx, sink))?;
            if self.closed {
                SockRef::from(sink).shutdown(Shutdown::Write)?;
                self.done = true;
                break;
            }
            ready!(source.poll_read_ready(cx))?;
            BORROWED.with_borrow_mut(|buffer| match source.try_read(buffer) {
                Ok(0) => {
                    self.closed = true;
                    registered.live().ended(self.from);
                    Ok(())
                }
                Ok(n) => {
                    registered.live().read(self.from, n);
                    let written = match sink.try_write(&buffer[..n]) {
                        Ok(written) => written,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        Err(error) => return Err(error),
                    };
                    self.kept.extend_from_slice(&buffer[written..n]);
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                Err(error) => Err(error),
            })?;
        }
        Poll::Ready(Ok(()))
    }

    fn write_kept(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            match sink.try_write(&self.kept[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(sink.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.kept.is_empty() {
            self.kept = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

/// Relays a connection to its end.
pub(super) async fn relay(open: Open) {
    let Open {
        client,
        backend,
        first,
        registered,
    } = open;
    let mut up = Way::new(From::Client, first);
    let mut down = Way::new(From::Backend, Vec::new());
    let orderly = {
        let mut cut = pin!(registered.cut());
        poll_fn(|cx| {
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            let (there, back) = (
                up.poll(cx, &client, &backend, &registered),
                down.poll(cx, &backend, &client, &registered),
            );
            match (there, back) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(false),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(true),
                _ => Poll::Pending,
            }
        })
        .await
    };
    if !orderly {
        // One side broke, or was told to: the other hears it as TCP would say it.
        reset(client);
        reset(backend);
    }
}
