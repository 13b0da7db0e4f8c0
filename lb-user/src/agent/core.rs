//! The loop: punted packets, timers, news of backends, sweeps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use lb_common::layout::{Punt, Settings as Secrets, Verdict};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::kernel::{Kernel, Tallies};
use super::kernel_setup::{self, SnatTable};
use super::nodes::{self, Node};
use super::paths::News;
use super::steering::{Steerer, Tally};
use super::sweep::{Found, Sweeper};
use super::vips::{self, Vip};
use crate::config::Config;
use crate::dataplane::{Loaded, Maps, clock};
use crate::select::NodeState;
use crate::setup::{Datapath as _, Settings, Setups, Stats};

/// A cookie lives for one to two of these.
const ROTATION: Duration = Duration::from_secs(60);
/// Between two writes of counters and shared state.
const TICK: Duration = Duration::from_millis(100);
/// Least pause between two sweeps; a long sweep is followed by a pause of ten times its length.
const SWEEP: Duration = Duration::from_secs(2);
/// Packets handled before timers get a turn.
const BURST: usize = 256;
/// Most connections in set-up, and bytes kept for them.
const SETUPS: usize = 65_536;
const SETUP_BYTES: usize = 256 << 20;

/// What the admin interface may look at.
#[derive(Debug, Default)]
pub struct Shared {
    pub nodes: Vec<Node>,
    pub tally: Vec<Tally>,
    pub setups: Stats,
    pub found: Found,
    pub secrets: Secrets,
}

/// The agent's state.
pub struct Core {
    config: Arc<Config>,
    kernel: Kernel,
    setups: Setups,
    steerer: Steerer,
    vips: Vec<Vip>,
    secrets: Secrets,
    snat: SnatTable,
    shared: Arc<Mutex<Shared>>,
    expired: u64,
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Core {
    /// Numbers the backends and writes the secrets; nothing is served yet.
    pub fn new(config: Arc<Config>, mut kernel: Kernel, loaded: &Loaded) -> anyhow::Result<Self> {
        let secrets = vips::secrets(&mut kernel.maps, &config, loaded.adopted)?;
        let vips = vips::vips(&config)?;
        let nodes = nodes::number(&config, &kernel.maps)?;
        let pools = vips
            .iter()
            .map(|v| config.listeners[v.listener].pool.0)
            .collect();
        let bindings = Maps::open(&loaded.dir)?.bindings;
        let settings = Settings {
            client_key: secrets.client_key,
            timestamp_offset: secrets.timestamp_offset,
            ports: (*config.snat.ports.start(), *config.snat.ports.end()),
            mqtt: lb_common::mqtt::Limits {
                client_id: config.limits.client_id,
                ..lb_common::mqtt::Limits::DEFAULT
            },
            sniff_timeout: nanos(config.timeouts.sniff),
            connect_timeout: nanos(config.timeouts.connect),
            idle: kernel_setup::idle_limits(&config),
            sniff_bytes: config.limits.sniff_bytes,
            total_bytes: SETUP_BYTES,
            connections: SETUPS,
        };
        let seed = getrandom::u64()
            .map_err(|e| anyhow::anyhow!("the kernel gives no random numbers: {e}"))?;
        let steerer = Steerer::new(&config, nodes, pools, bindings);
        Ok(Self {
            setups: Setups::new(settings, seed),
            snat: SnatTable::read(&kernel.maps)?,
            config,
            kernel,
            steerer,
            vips,
            secrets,
            shared: Arc::default(),
            expired: 0,
        })
    }

    /// What others may look at.
    pub fn shared(&self) -> Arc<Mutex<Shared>> {
        self.shared.clone()
    }

    /// What the agent counted.
    pub fn tallies(&self) -> Arc<Tallies> {
        self.kernel.tallies()
    }

    /// Takes news of a backend's address into the backends map; [`Self::publish`] tells the rest.
    pub fn learn(&mut self, news: &News) -> anyhow::Result<()> {
        for i in 0..self.steerer.nodes.len() {
            let node = &mut self.steerer.nodes[i];
            for path in node.paths.iter_mut().filter(|p| p.address == news.address) {
                match &news.hop {
                    Ok(hop) => {
                        if path.set_hop(hop, &self.config.snat.addresses) {
                            path.snat_range = self.snat.range(&mut self.kernel.maps, &path.snat)?;
                            let entry = path.entry(NodeState::Up as u8);
                            self.kernel
                                .maps
                                .backends
                                .set(u32::from(path.slot), entry, 0)?;
                            tracing::info!(
                                "backend {} {} is reached by interface {}",
                                node.name,
                                path.address,
                                hop.ifindex
                            );
                        }
                    }
                    // Live flows keep the hop that they have; new ones don't go there.
                    Err(error) => {
                        kernel_setup::take_out(&mut self.kernel.maps, path.slot)?;
                        if path.hop.take().is_some() || path.generation == 0 {
                            tracing::warn!(
                                "backend {} {} can't be reached: {error}",
                                node.name,
                                path.address
                            );
                        }
                    }
                }
                if news.tcp.is_some() {
                    path.tcp = news.tcp;
                }
            }
            self.steerer.refresh(i);
        }
        Ok(())
    }

    /// Tells the data path and set-up what the VIPs promise now.
    pub fn publish(&mut self) -> anyhow::Result<()> {
        for (i, vip) in self.vips.iter_mut().enumerate() {
            if vip.fit(i, &self.config, &self.steerer.nodes) {
                self.setups
                    .set_listener(vip.endpoint.listener, Some(vip.settings(&self.config)));
            }
        }
        vips::write(&mut self.kernel.maps, &self.vips, &self.steerer.nodes)?;
        kernel_setup::write_listeners(&mut self.kernel.maps, &self.config, &self.vips)?;
        self.share();
        Ok(())
    }

    fn share(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.nodes.clone_from(&self.steerer.nodes);
        shared.tally.clone_from(&self.steerer.tally);
        shared.setups = self.setups.stats();
        shared.secrets = self.secrets;
    }

    /// Writes what must outlive the agent.
    pub fn flush(&mut self) {
        self.kernel.flush();
    }

    /// Runs until something fails that can't be gone on without.
    pub async fn run(
        &mut self,
        punts: RingBuf<MapData>,
        mut news: mpsc::Receiver<News>,
        sweeper: Sweeper,
    ) -> anyhow::Result<()> {
        let mut punts = reactor(punts)?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rotation =
            tokio::time::interval_at(tokio::time::Instant::now() + ROTATION, ROTATION);
        let (swept_in, mut swept) = mpsc::channel(1);
        let _sweeping = std::thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(move || sweep_on(sweeper, &swept_in))?;
        loop {
            // Here and not where the timer ends below: while packets keep coming, that one never does.
            self.setups
                .on_time(clock::now_ns(), &mut self.kernel, &mut self.steerer);
            let wait = self
                .setups
                .next_deadline()
                .map(|at| Duration::from_nanos(at.saturating_sub(clock::now_ns())));
            tokio::select! {
                ready = punts.readable_mut() => {
                    let mut ready = ready.context("the ring buffer can't be waited for")?;
                    if self.drain(ready.get_inner_mut()) {
                        ready.clear_ready();
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                _ = tick.tick() => {
                    // A wake-up that was missed costs no more than a tick.
                    self.drain(punts.get_mut());
                    self.kernel.flush();
                    self.shrink_promises()?;
                    self.share();
                }
                _ = rotation.tick() => vips::rotate(&mut self.kernel.maps, &mut self.secrets)?,
                Some(n) = news.recv() => {
                    self.learn(&n)?;
                    self.publish()?;
                }
                Some(found) = swept.recv() => self.swept(found),
            }
        }
    }

    /// Handles a burst of punted packets; `true` when the ring is empty.
    fn drain(&mut self, ring: &mut RingBuf<MapData>) -> bool {
        for _ in 0..BURST {
            let Some(record) = ring.next() else {
                return true;
            };
            if let Some((punt, frame)) = Punt::read(&record) {
                self.setups.on_punt(
                    clock::now_ns(),
                    &punt,
                    frame,
                    &mut self.kernel,
                    &mut self.steerer,
                );
            }
        }
        false
    }

    /// A backend's SYN-ACK offered less than we promise: promise no more than that from now on.
    fn shrink_promises(&mut self) -> anyhow::Result<()> {
        if self.steerer.learnt.is_empty() {
            return Ok(());
        }
        for (index, offered) in std::mem::take(&mut self.steerer.learnt) {
            let Some(vip) = self.vips.get(usize::from(index)) else {
                continue;
            };
            let (pool, v4) = (
                self.config.listeners[vip.listener].pool.0,
                vip.address.is_ipv4(),
            );
            // The backend isn't told apart here: what one can't keep, the pool doesn't promise.
            for path in self
                .steerer
                .nodes
                .iter_mut()
                .filter(|n| n.pool == pool)
                .flat_map(|n| &mut n.paths)
            {
                if path.address.is_ipv4() == v4
                    && let Some(tcp) = &mut path.tcp
                {
                    tcp.timestamps &= offered.timestamps.is_some();
                    tcp.sack &= offered.sack;
                    tcp.mss = tcp.mss.min(offered.mss.unwrap_or(u16::MAX));
                }
            }
        }
        self.publish()
    }

    fn swept(&mut self, found: Found) {
        for _ in self.expired..found.expired {
            self.kernel.count(Verdict::IdleExpired, 0);
        }
        self.expired = found.expired;
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .found = found;
    }
}

/// Puts something that becomes readable into tokio's reactor.
fn reactor<T: std::os::fd::AsRawFd>(source: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: `source` owns its file descriptor and is owned by the AsyncFd, which deregisters it first.
    Ok(unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }?)
}

/// Sweeps until nobody listens any more.
fn sweep_on(mut sweeper: Sweeper, found: &mpsc::Sender<Found>) {
    loop {
        let begun = Instant::now();
        match sweeper.sweep() {
            Ok(f) => {
                if found.blocking_send(f).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!("the flow map could not be swept: {error:#}"),
        }
        std::thread::sleep(SWEEP.max(begun.elapsed() * 10));
    }
}

/// Shows the programs' own messages, if they were built with any.
pub fn follow_kernel_log(ebpf: &mut aya::Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => {
            tokio::spawn(async move {
                let Ok(mut logger) = reactor(logger) else {
                    return;
                };
                while let Ok(mut guard) = logger.readable_mut().await {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            });
        }
        Err(error) => tracing::warn!(
            "this mqlb's programs log nothing ({error}); build it with `--features kernel-log`"
        ),
    }
}
