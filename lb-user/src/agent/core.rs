//! The loop: punted packets, timers, news of backends, sweeps, commands.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use lb_common::layout::{Punt, Settings as Secrets, Verdict};
use lb_common::limits::rate::Pace;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyMutGuard};
use tokio::sync::{mpsc, oneshot, watch};

use super::evict::Evictor;
use super::kernel::{Kernel, Tallies};
use super::kernel_setup::{self, SnatTable};
use super::limits::{Limits, Shared as Rules};
use super::moved::Moved;
use super::nodes::{self, Node};
use super::orders::Orders;
use super::paths::News;
use super::proxied;
use super::service::{self, Heartbeat};
use super::steering::{Steerer, Tally};
use super::sweep::{Found, Spans, Sweeper, pause_after};
use super::vips::{self, Vip};
use crate::admin::Pages;
use crate::admin::control::{Command, Refusal, Reply};
use crate::config::Config;
use crate::dataplane::{Credits, Loaded, Maps, Turns, clock};
use crate::health::{self, Checks, Event};
use crate::proxy::desk::Ask;
use crate::proxy::{self, Bound, Front};
use crate::setup::{Datapath as _, Settings, Setups, Stats};

/// A cookie lives for one to two of these.
const ROTATION: Duration = Duration::from_secs(60);
/// Between two writes of counters and shared state.
const TICK: Duration = Duration::from_millis(100);
/// Least pause between two sweeps for the sake of clients that were refused.
const CREDIT: Duration = Duration::from_millis(500);
/// Packets handled before timers get a turn.
const BURST: usize = 256;
/// Most connections in set-up, and bytes kept for them.
const SETUPS: usize = 65_536;
const SETUP_BYTES: usize = 256 << 20;

/// What the admin interface may look at.
#[derive(Debug)]
pub struct Shared {
    pub config: Arc<Config>,
    pub nodes: Vec<Node>,
    pub tally: Vec<Tally>,
    pub setups: Stats,
    pub found: Found,
    pub secrets: Secrets,
}

/// Something that the loop is asked to do, and where the answer goes.
pub enum Message {
    Command(Command, Answer),
    /// Another configuration takes effect.
    Configure(Box<Config>, Answer),
}

/// Where the answer to a [`Message`] goes.
pub type Answer = oneshot::Sender<Result<Reply, Refusal>>;

/// The agent's state. [`super::backends`] and [`super::reload`] have the rest of its methods.
pub struct Core {
    pub(super) config: Arc<Config>,
    pub(super) kernel: Kernel,
    pub(super) setups: Setups,
    pub(super) steerer: Steerer,
    pub(super) vips: Vec<Vip>,
    pub(super) secrets: Secrets,
    pub(super) snat: SnatTable,
    pub(super) orders: Orders,
    pub(super) evictor: Evictor,
    pub(super) checks: Checks,
    events: mpsc::UnboundedReceiver<Event>,
    /// The first judgement of all backends was made.
    pub(super) ready: bool,
    /// Addresses whose next hops are followed.
    pub(super) addresses: watch::Sender<Vec<SocketAddr>>,
    /// For the sweeper.
    pub(super) spans: watch::Sender<Spans>,
    shared: Arc<Mutex<Shared>>,
    /// Of each that others count, how much was counted already.
    expired: u64,
    ended: [u64; 2],
    stopping: bool,
    pub(super) limits: Limits,
    pub(super) number: u32,
    /// The other data path, and what its connections ask.
    pub(super) front: Front,
    asks: mpsc::Receiver<Ask>,
    /// Bound at the start, and served once the backends are known.
    pub(super) bound: Option<Bound>,
    /// Programs are attached.
    pub(super) xdp: bool,
    sweeping: Option<std::thread::Thread>,
    /// Refusals for want of credit, and when they made the sweeper walk.
    wanting: u64,
    /// Clients that found the flow map full, up to the last sweep.
    refused_full: u64,
    /// There are some, or would be if anybody came.
    full: bool,
    wanted: Instant,
    /// How long the last sweep took.
    walk: Duration,
}

/// What [`Core::new`] needs beside the configuration.
pub struct Parts {
    pub kernel: Kernel,
    pub orders: Orders,
    pub addresses: watch::Sender<Vec<SocketAddr>>,
    pub spans: watch::Sender<Spans>,
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// What set-up is told of the configuration.
pub(super) fn settings(config: &Config, secrets: &Secrets, agent: u32) -> Settings {
    Settings {
        agent,
        client_key: secrets.client_key,
        timestamp_offset: secrets.timestamp_offset,
        ports: (*config.snat.ports.start(), *config.snat.ports.end()),
        mqtt: lb_common::mqtt::Limits {
            client_id: config.limits.client_id,
            ..lb_common::mqtt::Limits::DEFAULT
        },
        sniff_timeout: nanos(config.timeouts.sniff),
        connect_timeout: nanos(config.timeouts.connect),
        idle: kernel_setup::idle_limits(config),
        sniff_bytes: config.limits.sniff_bytes,
        total_bytes: SETUP_BYTES,
        connections: SETUPS,
        refusals: match config.limits.refusal_rate {
            0 => None,
            rate => Some(Pace::new(rate, rate)),
        },
        ..Settings::default()
    }
}

impl Core {
    /// Numbers the backends and writes the secrets; nothing is served yet.
    pub fn new(config: Arc<Config>, parts: Parts, loaded: &Loaded) -> anyhow::Result<Self> {
        let Parts {
            mut kernel,
            orders,
            addresses,
            spans,
        } = parts;
        let secrets = vips::secrets(&mut kernel.maps, &config, loaded.adopted)?;
        let vips = vips::vips(&config, &vips::known(&kernel.maps)?)?;
        let nodes = nodes::number(&config, &kernel.backends()?, &[], &Moved::default())?;
        let (checks, events) = Checks::start(vips::random()?, []);
        let number = (vips::random()? >> 32) as u32;
        let settings = settings(&config, &secrets, number);
        let hash = move |id: &str| settings.client_hash(id.as_bytes());
        let limits = Limits::open(&loaded.home, &config.agent.state_dir, hash)?;
        let (asks_in, asks) = proxy::asks();
        let descriptors = health::raise_descriptor_limit().unwrap_or(1024);
        let most = SETUPS.min(usize::try_from(descriptors / 2).unwrap_or(SETUPS));
        let proxied_now = loaded.home.proxied.clone();
        let mut core = Self {
            front: Front::new(settings, limits.rules(), proxied_now, asks_in, most),
            asks,
            bound: None,
            xdp: loaded.home.has_xdp(),
            setups: Setups::new(settings, vips::random()?),
            number,
            steerer: Steerer::new(
                Maps::open(&loaded.home)?.bindings,
                Turns::open(&loaded.home)?,
                limits.rules(),
                Credits::open(&loaded.home)?,
            ),
            shared: Arc::new(Mutex::new(Shared {
                config: config.clone(),
                nodes: Vec::new(),
                tally: Vec::new(),
                setups: Stats::default(),
                found: Found::default(),
                secrets,
            })),
            evictor: Evictor::start(&loaded.home)?,
            checks,
            events,
            ready: false,
            snat: SnatTable::read(&kernel.maps)?,
            config,
            kernel,
            vips,
            secrets,
            orders,
            addresses,
            spans,
            expired: 0,
            ended: [0; 2],
            stopping: false,
            limits,
            sweeping: None,
            wanting: 0,
            refused_full: 0,
            full: false,
            wanted: Instant::now(),
            walk: Duration::ZERO,
        };
        core.man(nodes)?;
        let served = proxied::vips(&core.config, &core.vips);
        core.bound = Some(core.front.bind(&served)?);
        Ok(core)
    }

    /// This agent's number ([`Settings::agent`]).
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Who may connect, and how much; for the sweeper.
    pub fn rules(&self) -> Rules {
        self.limits.rules()
    }

    /// Makes the sweeper walk now, not when its pause is over: something has changed that it acts on.
    pub(super) fn sweep_now(&self) {
        if let Some(sweeper) = &self.sweeping {
            sweeper.unpark();
        }
    }

    /// What HTTP listeners show as statistics.
    pub fn show(&self, statistics: Pages) {
        self.front.show(statistics);
    }

    /// What the configuration says of it.
    pub fn stats_password(&self) -> Option<&str> {
        self.config.admin.stats_password.as_deref()
    }

    /// What others may look at.
    pub fn shared(&self) -> Arc<Mutex<Shared>> {
        self.shared.clone()
    }

    /// What the agent counted.
    pub fn tallies(&self) -> Arc<Tallies> {
        self.kernel.tallies()
    }

    /// Tells the data path and set-up what the VIPs promise now.
    pub fn publish(&mut self) -> anyhow::Result<()> {
        for vip in &mut self.vips {
            if vip.fit(&self.config, &self.steerer.nodes) {
                self.setups
                    .set_listener(vip.index, Some(vip.settings(&self.config)));
            }
        }
        vips::write(
            &mut self.kernel.maps,
            &self.config,
            &self.vips,
            &self.steerer.nodes,
        )?;
        let rules = self.limits.rules().get();
        kernel_setup::write_listeners(
            &mut self.kernel.maps,
            &self.config,
            &self.vips,
            &rules.listeners,
        )?;
        self.steerer.share_turns();
        self.share();
        Ok(())
    }

    fn share(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.config.clone_from(&self.config);
        shared.nodes.clone_from(&self.steerer.nodes);
        shared.tally = self.steerer.tally();
        shared.setups = self.setups.stats();
        let (sniffing, connecting) = self.front.set_ups();
        shared.setups.sniffing += sniffing;
        shared.setups.connecting += connecting;
        shared.secrets = self.secrets;
    }

    /// Writes what must outlive the agent.
    pub fn flush(&mut self) {
        self.kernel.flush();
    }

    /// Waits until every backend was checked once.
    pub async fn first_checks(&mut self) {
        self.checks.first_round().await;
        while let Ok(event) = self.events.try_recv() {
            self.checked(&event);
        }
    }

    /// Runs until it is told to stop, or something fails that can't be gone on without.
    pub async fn run(
        &mut self,
        punts: Option<RingBuf<MapData>>,
        mut news: mpsc::Receiver<News>,
        mut messages: mpsc::Receiver<Message>,
        sweeper: Sweeper,
        mut heartbeat: Heartbeat,
    ) -> anyhow::Result<()> {
        let mut punts = punts.map(reactor).transpose()?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rotation =
            tokio::time::interval_at(tokio::time::Instant::now() + ROTATION, ROTATION);
        let (swept_in, mut swept) = mpsc::channel(1);
        let sweeping = std::thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(move || sweep_on(sweeper, &swept_in))?;
        self.sweeping = Some(sweeping.thread().clone());
        while !self.stopping {
            // Here and not where the timer ends below: while packets keep coming, that one never does.
            self.setups
                .on_time(clock::now_ns(), &mut self.kernel, &mut self.steerer);
            self.suspect();
            let wait = self
                .setups
                .next_deadline()
                .map(|at| Duration::from_nanos(at.saturating_sub(clock::now_ns())));
            tokio::select! {
                ready = readable(&mut punts) => {
                    let mut ready = ready.context("the ring buffer can't be waited for")?;
                    if self.drain(ready.get_inner_mut()) {
                        ready.clear_ready();
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                _ = tick.tick() => {
                    // A wake-up that was missed costs no more than a tick.
                    if let Some(punts) = &mut punts {
                        self.drain(punts.get_mut());
                    }
                    self.count_ended();
                    self.kernel.flush();
                    self.credit_soon();
                    self.shrink_promises()?;
                    self.steerer.warm();
                    self.steerer.share_turns();
                    self.share();
                    heartbeat.beat(|| service::summary(&self.steerer.nodes));
                }
                _ = rotation.tick() => vips::rotate(&mut self.kernel.maps, &mut self.secrets)?,
                Some(ask) = self.asks.recv() => {
                    self.proxied(ask);
                    for _ in 1..BURST {
                        let Ok(ask) = self.asks.try_recv() else { break };
                        self.proxied(ask);
                    }
                }
                Some(n) = news.recv() => {
                    self.learn(&n);
                    self.publish()?;
                }
                Some(event) = self.events.recv() => {
                    self.checked(&event);
                    self.publish()?;
                }
                Some(found) = swept.recv() => self.swept(found)?,
                Some(message) = messages.recv() => self.obey(message),
            }
        }
        Ok(())
    }

    fn obey(&mut self, message: Message) {
        let (result, answer) = match message {
            Message::Command(Command::Stop, answer) => {
                self.stopping = true;
                let sessions = match proxied::vips(&self.config, &self.vips).is_empty() {
                    true => "the data path and its sessions go on",
                    false if self.xdp => "sessions go on, but for those through the proxy",
                    false => "its sessions end",
                };
                let done = vec![format!("the agent stops; {sessions}")];
                (Ok(Reply { done }), answer)
            }
            Message::Command(command, answer) => {
                let result = match &command {
                    Command::Block { target } => self.block(target),
                    Command::Unblock { target } => self.unblock(target),
                    Command::Blocked => Ok(self.blocked()),
                    command => self.order(command),
                };
                (result, answer)
            }
            Message::Configure(config, answer) => (self.apply(*config), answer),
        };
        // Whoever connects after the answer finds what was asked for.
        self.steerer.share_turns();
        self.share();
        // Who asked may have gone.
        let _ = answer.send(result);
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
            let Some(vip) = self.vips.iter().find(|v| v.index == index) else {
                continue;
            };
            let v4 = vip.address.is_ipv4();
            let pools = vips::pools(&self.config, vip.listener);
            // The backend isn't told apart here: what one can't keep, the pool doesn't promise.
            for path in self
                .steerer
                .nodes
                .iter_mut()
                .filter(|n| n.pool.is_some_and(|pool| pools.contains(&pool)))
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

    /// Whoever was refused because of a limit of connections comes again soon: what has closed by then
    /// should count.
    fn credit_soon(&mut self) {
        let tallies = self.kernel.tallies();
        let of = |verdict: Verdict| tallies.get(verdict).packets;
        let sources = self.kernel.maps.counter(Verdict::SourceFull).packets;
        let full = [
            Verdict::ListenerFull,
            Verdict::BackendsFull,
            Verdict::FlowsFull,
        ];
        let wanting = sources + full.map(of).iter().sum::<u64>();
        let pause = CREDIT.max(self.walk * 10);
        if wanting != self.wanting && self.wanted.elapsed() > pause {
            self.wanting = wanting;
            self.wanted = Instant::now();
            self.sweep_now();
        }
    }

    fn swept(&mut self, found: Found) -> anyhow::Result<()> {
        self.walk = found.took;
        for _ in self.expired..found.expired {
            self.kernel.count(Verdict::IdleExpired, 0);
        }
        self.expired = found.expired;
        self.steerer.counted(&found.by_slot);
        self.tell_when_full(found.entries);
        self.let_go(&found)?;
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .found = found;
        Ok(())
    }

    /// Says once that clients are refused for want of room, and once that they aren't any more.
    fn tell_when_full(&mut self, entries: u64) {
        let refused = self.kernel.tallies().get(Verdict::FlowsFull).packets
            + self.kernel.maps.counter(Verdict::FlowsFull).packets;
        let connections = entries.div_ceil(2);
        let full = refused != self.refused_full
            || self.full && connections >= u64::from(self.limits.flows());
        self.refused_full = refused;
        match (std::mem::replace(&mut self.full, full), full) {
            (false, true) => tracing::warn!(
                "the flow map is full: {connections} connections, those that closed a moment ago and those that \
                 are refused included; new clients are refused until others leave. `[xdp] max_flows` = {} \
                 says how many there may be",
                self.limits.flows()
            ),
            (true, false) => tracing::info!("the flow map has room again"),
            _ => {}
        }
    }

    /// Counts the connections that the evictor has ended.
    fn count_ended(&mut self) {
        let ended = &self.evictor.ended;
        let now = [ended.down.load(Relaxed), ended.drained.load(Relaxed)];
        for (i, verdict) in [Verdict::ResetDown, Verdict::ResetDrained]
            .into_iter()
            .enumerate()
        {
            for _ in self.ended[i]..now[i] {
                self.kernel.count(verdict, 0);
            }
        }
        self.ended = now;
    }
}

/// Waits for punted packets; for ever without XDP.
async fn readable(
    punts: &mut Option<AsyncFd<RingBuf<MapData>>>,
) -> std::io::Result<AsyncFdReadyMutGuard<'_, RingBuf<MapData>>> {
    match punts {
        Some(punts) => punts.readable_mut().await,
        None => std::future::pending().await,
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
            Ok(mut f) => {
                f.took = begun.elapsed();
                if found.blocking_send(f).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!("the flow map could not be swept: {error:#}"),
        }
        // Woken by `Core::sweep_now`.
        std::thread::park_timeout(pause_after(begun.elapsed()));
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
