//! Connects: TCP, CONNECT, CONNACK, and then DISCONNECT or not.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::{Held, PATIENCE, nanoseconds};
use crate::bench::packets;

/// Source ports that a dialer takes in turn, on each of its addresses.
const PORTS: std::ops::Range<u16> = 10_000..64_000;

/// Makes sockets. Each has another source, in turn, so that none meets the TIME_WAIT of another and no time is spent
/// on the search for a free port, which would depend on how many destinations there are.
#[derive(Debug)]
pub struct Dialer {
    sources: Vec<IpAddr>,
    targets: Vec<SocketAddr>,
    next: usize,
}

impl Dialer {
    pub fn new(sources: Vec<IpAddr>, targets: Vec<SocketAddr>) -> Self {
        Self {
            sources,
            targets,
            next: 0,
        }
    }

    /// A connection under way.
    fn dial(&mut self) -> std::io::Result<TcpStream> {
        loop {
            let at = self.next;
            self.next += 1;
            let port =
                PORTS.start + u16::try_from(at % PORTS.len()).expect("fewer than 65,536 ports");
            let source = self.sources[at / PORTS.len() % self.sources.len()];
            let target = self.targets[at % self.targets.len()];
            let socket = Socket::new(
                Domain::for_address(target),
                Type::STREAM.nonblocking(),
                None,
            )?;
            socket.set_reuse_address(true)?;
            match socket.bind(&SocketAddr::new(source, port).into()) {
                // A client that stays has it.
                Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
                result => result?,
            }
            socket.set_tcp_nodelay(true)?;
            match socket.connect(&target.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => return Ok(TcpStream::from_std(socket.into())),
            }
        }
    }
}

/// What came of many connects.
#[derive(Debug, Default)]
pub struct Dialled {
    pub connected: u64,
    pub failed: u64,
    /// Why the first of them failed.
    pub failure: Option<String>,
    /// Until the last CONNACK.
    pub elapsed: Duration,
    /// From connect() to the CONNACK, sorted; nanoseconds.
    pub latencies: Vec<u64>,
    /// If they are kept.
    pub held: Held,
}

impl Dialled {
    /// # Errors
    /// A connect failed.
    pub fn all(self) -> Result<Self> {
        match &self.failure {
            Some(why) => anyhow::bail!("{} connects failed, the first: {why}", self.failed),
            None => Ok(self),
        }
    }
}

/// Connects under way at a time, what becomes of the connections, and when no more are begun.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub window: usize,
    pub keep: bool,
    pub limit: Option<Duration>,
}

impl Plan {
    /// Everybody stays.
    pub fn keep(window: usize) -> Self {
        Self {
            window,
            keep: true,
            limit: None,
        }
    }
}

struct Attempt {
    stream: TcpStream,
    begun: Instant,
    connect: Option<Vec<u8>>,
    /// Bytes of the CONNACK that came.
    got: usize,
}

enum Step {
    Wait,
    Connected,
    Failed(String),
}

impl Attempt {
    fn go_on(&mut self) -> Step {
        if let Some(connect) = &self.connect {
            match self.stream.write(connect) {
                Ok(written) if written == connect.len() => self.connect = None,
                Ok(written) => {
                    return Step::Failed(format!("{written} bytes of a CONNECT were taken"));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Wait,
                Err(error) => return Step::Failed(format!("connect: {error}")),
            }
            // Its answer is a round trip away.
            return Step::Wait;
        }
        let mut answer = [0; packets::CONNACK.len()];
        match self.stream.read(&mut answer[self.got..]) {
            Ok(0) => return Step::Failed("closed before the CONNACK".into()),
            Ok(read) => self.got += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Wait,
            Err(error) => return Step::Failed(format!("read the CONNACK: {error}")),
        }
        match self.got {
            4 if answer[3] != 0 => Step::Failed(format!("refused by CONNACK {answer:02x?}")),
            4 => Step::Connected,
            _ => Step::Wait,
        }
    }
}

/// Says DISCONNECT on connections that are still open.
pub fn leave(held: &Held) {
    for mut stream in held {
        // Those that are closed already need none.
        let _ = stream.write(&packets::DISCONNECT);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Connects a client for each of `ids`, or until the plan's limit.
///
/// # Errors
/// Out of sockets, or epoll fails. What single connects meet is counted.
pub fn run(
    dialer: &mut Dialer,
    ids: &mut dyn Iterator<Item = String>,
    plan: Plan,
) -> Result<Dialled> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(plan.window.max(1));
    let mut slots: Vec<Option<Attempt>> = Vec::new();
    let mut out = Dialled::default();
    let start = Instant::now();
    let mut begin = |slot: usize, poll: &Poll| -> Result<Option<Attempt>> {
        if plan.limit.is_some_and(|limit| start.elapsed() >= limit) {
            return Ok(None);
        }
        let Some(id) = ids.next() else {
            return Ok(None);
        };
        let begun = Instant::now();
        let mut stream = dialer.dial().context("open a client's socket")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, Token(slot), interest)?;
        Ok(Some(Attempt {
            stream,
            begun,
            connect: Some(packets::connect(&id)),
            got: 0,
        }))
    };
    for slot in 0..plan.window {
        slots.push(begin(slot, &poll)?);
    }
    let mut busy = slots.iter().flatten().count();
    while busy > 0 {
        match poll.poll(&mut events, Some(Duration::from_secs(1))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let Token(slot) = event.token();
            let Some(attempt) = &mut slots[slot] else {
                continue;
            };
            let step = attempt.go_on();
            finish(&mut out, &poll, &mut slots[slot], step, plan.keep)?;
            if slots[slot].is_none() {
                slots[slot] = begin(slot, &poll)?;
                busy -= usize::from(slots[slot].is_none());
            }
        }
        for (slot, attempt) in slots.iter_mut().enumerate() {
            if !events.is_empty() {
                break;
            }
            if attempt
                .as_ref()
                .is_some_and(|attempt| attempt.begun.elapsed() > PATIENCE)
            {
                let step = Step::Failed(format!("no CONNACK within {PATIENCE:?}"));
                finish(&mut out, &poll, attempt, step, false)?;
                *attempt = begin(slot, &poll)?;
                busy -= usize::from(attempt.is_none());
            }
        }
    }
    out.elapsed = start.elapsed();
    out.latencies.sort_unstable();
    Ok(out)
}

fn finish(
    out: &mut Dialled,
    poll: &Poll,
    attempt: &mut Option<Attempt>,
    step: Step,
    keep: bool,
) -> Result<()> {
    let why = match step {
        Step::Wait => return Ok(()),
        Step::Connected => None,
        Step::Failed(why) => Some(why),
    };
    let Some(mut done) = attempt.take() else {
        return Ok(());
    };
    if let Some(why) = why {
        out.failed += 1;
        out.failure.get_or_insert(why);
        return Ok(());
    }
    out.connected += 1;
    out.latencies.push(nanoseconds(done.begun.elapsed()));
    if keep {
        poll.registry().deregister(&mut done.stream)?;
        out.held.push(done.stream.into());
    } else {
        // A connection that ended by itself counts all the same: it had its CONNACK.
        let _ = done.stream.write(&packets::DISCONNECT);
    }
    Ok(())
}
