//! Closed loop: each connection has a fixed number of requests under way.
//!
//! A request is a PUBLISH with QoS 1, its answer the PUBACK.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Answered, Held, PATIENCE, nanoseconds};
use crate::bench::packets;

/// What each connection does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests under way on each connection.
    pub depth: usize,
    pub payload: usize,
    /// No more are sent afterwards; answers are waited for.
    pub time: Duration,
}

struct Client {
    stream: TcpStream,
    /// When the requests under way were sent, oldest first: answers come in order.
    sent: std::collections::VecDeque<Instant>,
    /// Bytes of an answer that came in part.
    partial: usize,
}

/// Runs all connections of `held`, and leaves them open.
///
/// # Errors
/// One of them ended, or epoll fails.
pub fn run(held: &Held, plan: Plan) -> Result<Answered> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(held.len());
    let request = packets::publish("bench/topic", &vec![b'x'; plan.payload], Some(1));
    let mut clients = Vec::new();
    for (slot, stream) in held.iter().enumerate() {
        let mut stream = TcpStream::from_std(stream.try_clone()?);
        poll.registry()
            .register(&mut stream, Token(slot), Interest::READABLE)?;
        clients.push(Client {
            stream,
            sent: std::collections::VecDeque::with_capacity(plan.depth),
            partial: 0,
        });
    }
    let mut out = Answered::default();
    let start = Instant::now();
    for client in &mut clients {
        client.send(&request, plan.depth)?;
    }
    let mut under_way = clients.len() * plan.depth;
    let mut last = Instant::now();
    while under_way > 0 {
        match poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        let more = start.elapsed() < plan.time;
        for event in &events {
            last = Instant::now();
            let client = &mut clients[event.token().0];
            let answers = client.receive(&mut out.latencies)?;
            if more {
                client.send(&request, answers)?;
            } else {
                under_way -= answers;
            }
        }
        if last.elapsed() > PATIENCE {
            out.unanswered = u64::try_from(under_way)?;
            break;
        }
    }
    out.elapsed = start.elapsed();
    out.count = u64::try_from(out.latencies.len())?;
    out.latencies.sort_unstable();
    Ok(out)
}

impl Client {
    fn send(&mut self, request: &[u8], count: usize) -> Result<()> {
        for _ in 0..count {
            self.sent.push_back(Instant::now());
            let written = self.stream.write(request).context("send a request")?;
            ensure!(written == request.len(), "a request was taken in part");
        }
        Ok(())
    }

    /// How many answers came.
    fn receive(&mut self, latencies: &mut Vec<u64>) -> Result<usize> {
        let mut buffer = [0; 4096];
        let mut answers = 0;
        loop {
            let read = match self.stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("a connection was closed between request and answer"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answers),
                Err(error) => return Err(error).context("read an answer"),
            };
            let bytes = self.partial + read;
            self.partial = bytes % packets::puback([0; 2]).len();
            for _ in 0..bytes / packets::puback([0; 2]).len() {
                let sent = self.sent.pop_front().context("an answer to nothing")?;
                latencies.push(nanoseconds(sent.elapsed()));
                answers += 1;
            }
            if read < buffer.len() {
                return Ok(answers);
            }
        }
    }
}
