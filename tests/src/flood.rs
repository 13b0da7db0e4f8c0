//! Floods: packets that attackers send to a VIP, by one thread at the full rate that it can.
//!
//! Frames are made by hand and leave through a packet socket. Their sources are nobody's addresses
//! (198.18.0.0/15, RFC 2544), so the clients' kernel neither knows of the flood nor answers for it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::packet_socket::{PacketSocket, wait_readable};
use crate::plan::MQTT_PORT;
use crate::topology::link_bytes;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs, each from another address.
    Syn,
    /// ACKs with nothing in them and random numbers.
    BareAck,
    /// Data with random numbers: no cookie of anybody's.
    BadCookie,
    /// RSTs with random numbers.
    Rst,
    /// The whole handshake from one address, then one byte of a CONNECT, then nothing more.
    HalfConnect,
    /// One connection of it, and then bytes at ever other places of its CONNECT.
    OneFlow,
}

/// Frames given to the kernel at a time.
const BATCH: usize = 64;

mod tcp {
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// Keeps the calling thread, and the threads and processes that it starts, on one CPU.
///
/// # Errors
/// There is no such CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: plain old data, for which zero means no CPU.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET ignores CPUs beyond the set's size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the size are those of the set.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A flood under way. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Flood {
    /// Begins to flood the lab's IPv4 VIP from the clients' namespace, with so many frames a second, or
    /// as fast as one thread can, on CPU `cpu` alone if it is given.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn start(lab: &Lab, kind: Kind, rate: Option<u32>, cpu: Option<usize>) -> Result<Self> {
        let plan = lab.topology.plan;
        let (sent, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, stop) = (Arc::clone(&sent), Arc::clone(&over));
        let mut source = Source {
            vip: plan.vip().v4,
            to: link_bytes(plan.vip()),
            from: link_bytes(plan.client()),
            random: 0x9e37_79b9_7f4a_7c15,
            port: 1024,
            flow: None,
            place: 0,
        };
        let thread = lab.topology.clients.spawn(move || {
            if let Some(cpu) = cpu {
                pin(cpu).with_context(|| format!("run on CPU {cpu}"))?;
            }
            let socket = PacketSocket::open("eth0").context("open a packet socket on eth0")?;
            socket.skip_queue()?;
            let begun = Instant::now();
            while !stop.load(Relaxed) {
                if let Some(rate) = rate {
                    let due = counted.load(Relaxed) as f64 / f64::from(rate);
                    std::thread::sleep(
                        Duration::from_secs_f64(due).saturating_sub(begun.elapsed()),
                    );
                }
                let frames = match kind {
                    Kind::HalfConnect | Kind::OneFlow => source.handshakes(&socket, kind)?,
                    _ => (0..BATCH).map(|_| source.blind(kind)).collect(),
                };
                let taken = socket.send_many(&frames)?;
                counted.fetch_add(u64::try_from(taken)?, Relaxed);
            }
            Ok(())
        })?;
        Ok(Self {
            sent,
            over,
            thread: Some(thread),
        })
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Ends the flood; gives how many frames were sent.
    ///
    /// # Errors
    /// It could not be kept up.
    pub fn stop(mut self) -> Result<u64> {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(result) => result??,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !matches!(ended, Ok(Ok(Ok(())))) {
                eprintln!("flood: {ended:?}");
            }
        }
    }
}

/// Where the one source is that shakes hands.
const HANDSHAKER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

struct Source {
    vip: Ipv4Addr,
    to: [u8; 6],
    from: [u8; 6],
    random: u64,
    port: u16,
    /// The one connection of [`Kind::OneFlow`], by its SYN-ACK: client's port, sequence number,
    /// acknowledgement; and how many bytes of it were sent.
    flow: Option<(u16, u32, u32)>,
    place: u32,
}

/// The numbers of a segment.
struct Segment {
    from: Ipv4Addr,
    port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    data: &'static [u8],
}

impl Source {
    /// xorshift64 (Marsaglia, 2003).
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A frame that needs no answer.
    fn blind(&mut self, kind: Kind) -> Vec<u8> {
        let (a, b) = (self.next().to_be_bytes(), self.next().to_be_bytes());
        let word = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let (flags, data): (u8, &'static [u8]) = match kind {
            Kind::Syn => (tcp::SYN, &[]),
            Kind::Rst => (tcp::RST, &[]),
            Kind::BadCookie => (tcp::ACK | tcp::PSH, b"\x10\x0e\0\x04MQTT"),
            Kind::BareAck | Kind::HalfConnect | Kind::OneFlow => (tcp::ACK, &[]),
        };
        self.frame(&Segment {
            from: Ipv4Addr::new(198, 18 | a[0] & 1, a[1], a[2]),
            port: u16::from_be_bytes([a[3], a[4]]) | 1024,
            seq: word(0),
            ack: if flags == tcp::SYN { 0 } else { word(4) },
            flags,
            data,
        })
    }

    /// The next SYNs, and the first data for all SYN-ACKs that have come.
    fn handshakes(&mut self, socket: &PacketSocket, kind: Kind) -> Result<Vec<Vec<u8>>> {
        if let Some(flow) = self.flow {
            return Ok(self.one_flow(flow));
        }
        let mut frames = Vec::with_capacity(2 * BATCH);
        let fresh = match kind {
            Kind::OneFlow if self.port > 1024 => 0,
            Kind::OneFlow => 1,
            _ => BATCH / 2,
        };
        for _ in 0..fresh {
            self.port = self.port.checked_add(1).unwrap_or(1024);
            let seq = u32::try_from(self.next() >> 32)?;
            let port = self.port;
            frames.push(self.frame(&Segment {
                from: HANDSHAKER,
                port,
                seq,
                ack: 0,
                flags: tcp::SYN,
                data: &[],
            }));
        }
        if kind == Kind::OneFlow {
            wait_readable([socket, socket], Duration::from_millis(100))?;
        }
        for _ in 0..BATCH {
            let Some(frame) = socket.receive()? else {
                break;
            };
            let Some((port, seq, ack)) = syn_ack(&frame.bytes) else {
                continue;
            };
            if kind == Kind::OneFlow {
                self.flow = Some((port, seq, ack));
                break;
            }
            frames.push(self.frame(&Segment {
                from: HANDSHAKER,
                port,
                seq: ack,
                ack: seq.wrapping_add(1),
                flags: tcp::ACK | tcp::PSH,
                data: b"\x10",
            }));
        }
        Ok(frames)
    }

    /// Bytes of one connection, each at another place.
    fn one_flow(&mut self, (port, seq, ack): (u16, u32, u32)) -> Vec<Vec<u8>> {
        (0..BATCH)
            .map(|_| {
                // The first byte comes first; what is beyond what is kept is no attack.
                let place = if self.place == 0 {
                    0
                } else {
                    2 + self.place % 8_000
                };
                self.place += 1;
                self.frame(&Segment {
                    from: HANDSHAKER,
                    port,
                    seq: ack.wrapping_add(place),
                    ack: seq.wrapping_add(1),
                    flags: tcp::ACK | tcp::PSH,
                    data: b"\x10",
                })
            })
            .collect()
    }

    fn frame(&self, s: &Segment) -> Vec<u8> {
        // Linux's usual options: MSS 1460, SACK permitted, window scale 7.
        let options: &[u8] = match s.flags {
            tcp::SYN => &[2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7],
            _ => &[],
        };
        let tcp_len = 20 + options.len() + s.data.len();
        let mut f = Vec::with_capacity(34 + tcp_len);
        f.extend(self.to);
        f.extend(self.from);
        f.extend([8, 0]);
        let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        f.extend([0x45, 0]);
        f.extend(length(20 + tcp_len));
        f.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        f.extend(s.from.octets());
        f.extend(self.vip.octets());
        let check = checksum(&f[14..34], 0);
        f[24..26].copy_from_slice(&check);
        f.extend(s.port.to_be_bytes());
        f.extend(MQTT_PORT.to_be_bytes());
        f.extend(s.seq.to_be_bytes());
        f.extend(s.ack.to_be_bytes());
        let offset = u8::try_from((20 + options.len()) / 4 * 16).unwrap_or(0x50);
        f.extend([offset, s.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        f.extend(options);
        f.extend(s.data);
        // Over the pseudo-header, too: both addresses, protocol and length (RFC 9293, section 3.1).
        let pseudo = 6 + u32::try_from(tcp_len).unwrap_or(0);
        let mut summed = f[26..34].to_vec();
        summed.extend(&f[34..]);
        let check = checksum(&summed, pseudo);
        f[50..52].copy_from_slice(&check);
        f
    }
}

/// Client's port, sequence number and acknowledgement of a SYN-ACK for the one that shakes hands.
fn syn_ack(frame: &[u8]) -> Option<(u16, u32, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    let ours = frame.get(12..14)? == [8, 0] && frame.get(30..34)? == HANDSHAKER.octets();
    if !ours || *frame.get(47)? != tcp::SYN | tcp::ACK {
        return None;
    }
    let port = u16::from_be_bytes(frame.get(36..38)?.try_into().ok()?);
    Some((port, word(38)?, word(42)?))
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_sound() {
        let mut source = Source {
            vip: Ipv4Addr::new(10, 77, 0, 2),
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            random: 7,
            port: 1024,
            flow: None,
            place: 0,
        };
        for kind in [Kind::Syn, Kind::BareAck, Kind::BadCookie, Kind::Rst] {
            let frame = source.blind(kind);
            assert_eq!(checksum(&frame[14..34], 0), [0, 0], "{kind:?}");
            let total = u16::from_be_bytes([frame[16], frame[17]]);
            assert_eq!(usize::from(total) + 14, frame.len());
            let mut summed = frame[26..34].to_vec();
            summed.extend(&frame[34..]);
            let pseudo = 6 + u32::try_from(frame.len() - 34).unwrap();
            assert_eq!(checksum(&summed, pseudo), [0, 0], "{kind:?}");
        }
    }
}
