//! Open loop: requests leave when they are due, whatever became of those before. Latency counts from when a request
//! was due, so a stall is seen by everybody who would have come meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token};

use super::{Answered, Held, PATIENCE, nanoseconds};
use crate::bench::packets;

/// Requests under way at most: as many as packet identifiers tell apart.
const UNDER_WAY: usize = 1 << 16;
/// Requests before this share of the time warm up and are not counted.
const WARM_UP: u32 = 10;

/// Sends `rate` requests a second, of `payload` bytes, over all connections in turn, for `time`.
///
/// # Errors
/// A connection ended, 65,536 requests wait for an answer, or epoll fails.
pub fn run(held: &Held, rate: f64, payload: usize, time: Duration) -> Result<Answered> {
    let due: Vec<AtomicU64> = (0..UNDER_WAY).map(|_| AtomicU64::new(0)).collect();
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(held, &due, &sent, &over, start, time / WARM_UP));
        let result = send(held, &due, &sent, rate, payload, start, time);
        over.store(true, Relaxed);
        let received = match receiver.join() {
            Ok(received) => received,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        result?;
        received
    })
}

fn send(
    held: &Held,
    due: &[AtomicU64],
    sent: &AtomicU64,
    rate: f64,
    payload: usize,
    start: Instant,
    time: Duration,
) -> Result<()> {
    // Sleep as exactly as the clock can: the default lets the kernel add 50 µs.
    // SAFETY: this option takes a number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let topic = "bench/topic";
    let mut request = packets::publish(topic, &vec![b'x'; payload], Some(0));
    let (head, _) = packets::head(&request).context("a whole packet")?;
    let id_at = head + 2 + topic.len();
    for n in 0_u64.. {
        let at = Duration::from_secs_f64(n as f64 / rate);
        if at >= time {
            break;
        }
        std::thread::sleep(at.saturating_sub(start.elapsed()));
        let id = (n % UNDER_WAY as u64) as u16;
        // Zero is free; what is due at the very start is due a nanosecond later.
        let before = due[usize::from(id)].swap(nanoseconds(at).max(1), Relaxed);
        ensure!(
            before == 0,
            "{UNDER_WAY} requests are under way: {rate:.0}/s is too much"
        );
        sent.fetch_add(1, Relaxed);
        request[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
        let mut stream = &held[(n % held.len() as u64) as usize];
        let mut rest = &request[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error).context("send a request"),
            }
        }
    }
    Ok(())
}

fn receive(
    held: &Held,
    due: &[AtomicU64],
    sent: &AtomicU64,
    over: &AtomicBool,
    start: Instant,
    warm_up: Duration,
) -> Result<Answered> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(held.len());
    let mut clients: Vec<(mio::net::TcpStream, Vec<u8>)> = Vec::new();
    for (slot, stream) in held.iter().enumerate() {
        let mut stream = mio::net::TcpStream::from_std(stream.try_clone()?);
        poll.registry()
            .register(&mut stream, Token(slot), Interest::READABLE)?;
        clients.push((stream, Vec::new()));
    }
    let mut out = Answered::default();
    let mut answered = 0;
    let mut last = Instant::now();
    while !over.load(Relaxed) || answered < sent.load(Relaxed) {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            last = Instant::now();
            let (stream, partial) = &mut clients[event.token().0];
            read_all(stream, partial)?;
            let whole = partial.len() / 4 * 4;
            for answer in partial[..whole].chunks_exact(4) {
                let id = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
                let at = due[id].swap(0, Relaxed);
                ensure!(at != 0, "an answer to nothing: {answer:02x?}");
                answered += 1;
                if at >= nanoseconds(warm_up) {
                    let now = nanoseconds(start.elapsed());
                    out.latencies.push(now.saturating_sub(at));
                }
            }
            partial.drain(..whole);
        }
        if over.load(Relaxed) && last.elapsed() > PATIENCE {
            out.unanswered = sent.load(Relaxed) - answered;
            break;
        }
    }
    out.elapsed = start.elapsed();
    out.count = answered;
    out.latencies.sort_unstable();
    Ok(out)
}

fn read_all(stream: &mut mio::net::TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("a connection was closed between request and answer"),
            Ok(read) => into.extend(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read an answer"),
        }
    }
}

/// How many of the connections are open still: each sends a PINGREQ and gets its answer.
///
/// # Errors
/// A socket can't be switched to blocking.
pub fn alive(held: &Held) -> Result<u64> {
    let mut alive = 0;
    for stream in held {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream: &TcpStream = stream;
        let mut answer = packets::PINGRESP;
        let answered = stream
            .write_all(&crate::raw::PING)
            .and_then(|()| stream.read_exact(&mut answer));
        alive += u64::from(answered.is_ok());
        stream.set_nonblocking(true)?;
    }
    Ok(alive)
}
