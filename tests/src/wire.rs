//! A bad wire: a relay between two interfaces that loses, repeats, delays (and so reorders) frames, or
//! is a trunk: frames on its far side carry an 802.1Q tag.
//!
//! In user space, over AF_PACKET (packet(7)), because not every kernel has netem and VLAN interfaces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::packet_socket::{Frame, PacketSocket, wait_readable};

/// What a wire does to the frames it carries, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Frames lost, of a hundred.
    pub lost: u32,
    /// Frames that arrive twice, of a hundred.
    pub repeated: u32,
    /// Frames that are overtaken by later ones, of a hundred.
    pub delayed: u32,
    /// The VLAN whose tag frames get on their way to the far side, and must have on their way back.
    pub vlan: Option<u16>,
}

/// How long a delayed frame is held.
const DELAY: Duration = Duration::from_millis(2);

/// What a wire has done so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub carried: AtomicU64,
    pub lost: AtomicU64,
    pub repeated: AtomicU64,
    pub delayed: AtomicU64,
    /// Frames from the far side that had no tag or another one, and were not carried.
    pub untagged: AtomicU64,
}

/// A wire at work. Dropping it cuts it.
#[derive(Debug)]
pub struct Wire {
    pub counts: Arc<Counts>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Wire {
    /// Connects two interfaces of a namespace.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn connect(netns: &Netns, near: &str, far: &str, options: Options) -> Result<Self> {
        let open = |device: &str| {
            netns
                .enter(|| PacketSocket::open(device))?
                .with_context(|| format!("open a packet socket on {device}"))
        };
        let (near, far) = (open(near)?, open(far)?);
        let counts = Arc::new(Counts::default());
        let over = Arc::new(AtomicBool::new(false));
        let relay = Relay {
            options,
            counts: Arc::clone(&counts),
            random: Random(0x9e37_79b9_7f4a_7c15),
            held: VecDeque::new(),
        };
        let stop = Arc::clone(&over);
        let thread = netns.spawn(move || relay.run(&near, &far, &stop))?;
        Ok(Self {
            counts,
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        let Some(thread) = self.thread.take() else {
            return;
        };
        match thread.join() {
            Ok(Ok(Ok(()))) => {}
            failed => eprintln!("wire: {failed:?}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Near,
    Far,
}

struct Relay {
    options: Options,
    counts: Arc<Counts>,
    random: Random,
    /// Delayed frames, when they go out, and to which side.
    held: VecDeque<(Instant, Side, Frame)>,
}

impl Relay {
    fn run(mut self, near: &PacketSocket, far: &PacketSocket, over: &AtomicBool) -> Result<()> {
        while !over.load(Relaxed) {
            wait_readable([near, far], DELAY / 2)?;
            for (from, to, side) in [(near, far, Side::Far), (far, near, Side::Near)] {
                // Some at a time, so that one direction cannot starve the other.
                for _ in 0..64 {
                    let Some(frame) = from.receive()? else { break };
                    if let Some(frame) = self.tag(frame, side) {
                        self.pass(frame, to, side)?;
                    }
                }
            }
            while let Some((time, ..)) = self.held.front()
                && *time <= Instant::now()
            {
                if let Some((_, side, frame)) = self.held.pop_front() {
                    match side {
                        Side::Near => near.send(&frame)?,
                        Side::Far => far.send(&frame)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives a frame the tag that it should have where it goes; `None` if it did not have the right one.
    fn tag(&self, mut frame: Frame, to: Side) -> Option<Frame> {
        let Some(vlan) = self.options.vlan else {
            return Some(frame);
        };
        match to {
            Side::Far => frame.vlan = Some(vlan),
            Side::Near => {
                if frame.vlan != Some(vlan) {
                    self.counts.untagged.fetch_add(1, Relaxed);
                    return None;
                }
                frame.vlan = None;
            }
        }
        Some(frame)
    }

    fn pass(&mut self, frame: Frame, to: &PacketSocket, side: Side) -> Result<()> {
        let chance = self.random.below_100();
        let Options {
            lost,
            repeated,
            delayed,
            ..
        } = self.options;
        if chance < lost {
            self.counts.lost.fetch_add(1, Relaxed);
            return Ok(());
        }
        if chance < lost + delayed {
            self.counts.delayed.fetch_add(1, Relaxed);
            self.held.push_back((Instant::now() + DELAY, side, frame));
            return Ok(());
        }
        if chance < lost + delayed + repeated {
            self.counts.repeated.fetch_add(1, Relaxed);
            to.send(&frame)?;
        }
        self.counts.carried.fetch_add(1, Relaxed);
        to.send(&frame)
    }
}

/// xorshift64 (Marsaglia, 2003): the same decisions in each run.
struct Random(u64);

impl Random {
    fn below_100(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % 100).expect("less than 100")
    }
}
