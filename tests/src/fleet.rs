//! Many MQTT clients at once, in the clients' namespace.
//!
//! Client n is `PREFIX-00000n`, speaks MQTT 3.1.1 or 5 and uses one of the VIP's addresses, both by its
//! number. It connects, learns from the retained message of its broker where it is, sends itself a
//! message and stays.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task;

use crate::broker::NAME_TOPIC;
use crate::client::{Connection, Handle, Protocol, Seen};
use crate::comeback::{Comeback, Holder};
use crate::latency::Latencies;
use crate::netns::Netns;
use crate::pace::here;

/// How a fleet connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clients connect to, in turn.
    pub servers: Vec<SocketAddr>,
    /// First part of the client identifiers.
    pub prefix: String,
    /// Most connection attempts under way.
    pub parallel: usize,
    /// Most connection attempts started per second.
    pub rate: Option<u32>,
    pub keep_alive: Duration,
    /// From the SYN to the client's own message coming back.
    pub timeout: Duration,
    /// A client whose connection is lost connects again at once, and again until it succeeds.
    pub come_back: bool,
}

impl Options {
    pub fn new(servers: impl Into<Vec<SocketAddr>>) -> Self {
        Self {
            servers: servers.into(),
            prefix: "dev".into(),
            parallel: 64,
            rate: None,
            keep_alive: Duration::from_secs(120),
            timeout: here(Duration::from_secs(30)),
            come_back: false,
        }
    }
}

/// What came of connecting a range of clients.
#[derive(Debug, Default)]
pub struct Round {
    /// Which broker each client is on.
    pub placed: BTreeMap<u32, String>,
    /// Clients that had been connected before, and are on the same broker as then.
    pub returned: usize,
    pub failed: Vec<(u32, String)>,
    /// From the SYN to the CONNACK.
    pub latencies: Latencies,
    pub elapsed: Duration,
}

impl Round {
    /// How many clients each broker got.
    pub fn per_broker(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for broker in self.placed.values() {
            *counts.entry(broker.clone()).or_default() += 1;
        }
        counts
    }

    /// # Errors
    /// A client failed to connect.
    pub fn check(&self) -> Result<()> {
        match self.failed.first() {
            None => Ok(()),
            Some((number, error)) => bail!(
                "{} clients failed to connect, client {number} because: {error}",
                self.failed.len()
            ),
        }
    }
}

/// What can be watched while a fleet works.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connected now.
    pub connected: AtomicUsize,
    /// Successful connects since the start.
    pub connects: AtomicUsize,
    /// Attempts that failed since the start.
    pub failures: AtomicUsize,
    /// Connections that ended without our DISCONNECT.
    pub lost: AtomicUsize,
    /// Connects of clients that had been connected before.
    pub reconnects: AtomicUsize,
    /// Those of them that came back to the same broker.
    pub returned: AtomicUsize,
    latencies: Mutex<Vec<Duration>>,
    pub(crate) comebacks: Mutex<Vec<Comeback>>,
}

impl Gauges {
    /// The clients that have come back since the last call.
    pub fn take_comebacks(&self) -> Vec<Comeback> {
        let mut comebacks = self.comebacks.lock().expect("no panic while it is held");
        std::mem::take(&mut *comebacks)
    }

    /// The connect latencies measured since the last call.
    pub fn take_latencies(&self) -> Latencies {
        let mut latencies = self.latencies.lock().expect("no panic while it is held");
        std::mem::take(&mut *latencies).into_iter().collect()
    }
}

/// A fleet on a thread of its own. Dropping it closes all connections at once.
pub struct Fleet {
    pub gauges: Arc<Gauges>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<Result<()>>>,
}

enum Order {
    Connect(Range<u32>, oneshot::Sender<Round>),
    Disconnect(Range<u32>, oneshot::Sender<()>),
}

impl Fleet {
    /// A fleet in `netns` without any connection yet.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn new(netns: &Netns, options: Options) -> Result<Self> {
        Self::start(options, |work| netns.spawn(work))
    }

    /// A fleet in the namespace of this process, without any connection yet.
    ///
    /// # Errors
    /// None are known.
    pub fn here(options: Options) -> Result<Self> {
        Self::start(options, |work| {
            Ok(std::thread::spawn(|| {
                work();
                Ok(())
            }))
        })
    }

    fn start(
        options: Options,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> Result<JoinHandle<Result<()>>>,
    ) -> Result<Self> {
        let gauges = Arc::new(Gauges::default());
        let (orders, queue) = mpsc::unbounded_channel();
        let state = Arc::clone(&gauges);
        let thread = spawn(Box::new(move || {
            // Sockets belong to the namespace of the thread that opens them: one thread.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a tokio runtime");
            runtime.block_on(Commander::new(options, state).obey(queue));
        }))?;
        Ok(Self {
            gauges,
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Connects the clients with these numbers and waits for the last one.
    ///
    /// # Errors
    /// The fleet's thread is gone. Clients that fail are in the [`Round`].
    pub fn connect(&self, clients: Range<u32>) -> Result<Round> {
        self.order(|answer| Order::Connect(clients, answer))
    }

    /// Disconnects the clients with these numbers and waits for the last one.
    ///
    /// # Errors
    /// The fleet's thread is gone.
    pub fn disconnect(&self, clients: Range<u32>) -> Result<()> {
        self.order(|answer| Order::Disconnect(clients, answer))
    }

    fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let orders = self.orders.as_ref().context("the fleet has ended")?;
        if orders.send(order(answer)).is_err() {
            bail!("the fleet's thread has ended");
        }
        result
            .blocking_recv()
            .context("the fleet's thread has ended")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // Its result says whether the namespace could be entered; orders have failed if not.
            let _ = thread.join();
        }
    }
}

/// The part of a fleet that runs on its thread.
struct Commander {
    options: Arc<Options>,
    gauges: Arc<Gauges>,
    sessions: HashMap<u32, Session>,
    /// Where each client was when it was connected last.
    homes: HashMap<u32, String>,
}

struct Session {
    /// Of its present connection.
    handle: Arc<Mutex<Handle>>,
    task: task::JoinHandle<()>,
}

/// A client that is connected and knows its broker.
pub(crate) struct Established {
    pub connection: Connection,
    pub broker: String,
    pub latency: Duration,
}

/// What a connection attempt ends with: the client's number, and the client.
type Attempt = std::result::Result<(u32, Result<Established>), task::JoinError>;

impl Commander {
    fn new(options: Options, gauges: Arc<Gauges>) -> Self {
        Self {
            options: Arc::new(options),
            gauges,
            sessions: HashMap::new(),
            homes: HashMap::new(),
        }
    }

    async fn obey(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        // Whoever gave an order may have stopped waiting for the answer.
        while let Some(order) = orders.recv().await {
            match order {
                Order::Connect(clients, answer) => {
                    let _ = answer.send(self.connect(clients).await);
                }
                Order::Disconnect(clients, answer) => {
                    self.disconnect(clients).await;
                    let _ = answer.send(());
                }
            }
        }
    }

    async fn connect(&mut self, clients: Range<u32>) -> Round {
        let start = Instant::now();
        let free = Arc::new(Semaphore::new(self.options.parallel));
        let mut ticks = self
            .options
            .rate
            .map(|rate| tokio::time::interval(Duration::from_secs(1) / rate.max(1)));
        let mut attempts = task::JoinSet::new();
        let mut round = Round::default();
        let mut latencies = Vec::new();
        for number in clients {
            while let Some(finished) = attempts.try_join_next() {
                self.finish(finished, &mut round, &mut latencies);
            }
            let permit = Arc::clone(&free).acquire_owned().await;
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let options = Arc::clone(&self.options);
            attempts.spawn(async move {
                let _permit = permit;
                (number, establish(&options, number).await)
            });
        }
        while let Some(finished) = attempts.join_next().await {
            self.finish(finished, &mut round, &mut latencies);
        }
        round.latencies = latencies.into_iter().collect();
        round.elapsed = start.elapsed();
        round
    }

    /// Takes note of an attempt that is over.
    fn finish(&mut self, attempt: Attempt, round: &mut Round, latencies: &mut Vec<Duration>) {
        let (number, result) = attempt.expect("an attempt does not panic");
        match result {
            Ok(established) => {
                latencies.push(established.latency);
                self.keep(number, established, round);
            }
            Err(error) => {
                self.gauges.failures.fetch_add(1, Relaxed);
                round.failed.push((number, format!("{error:#}")));
            }
        }
    }

    fn keep(&mut self, number: u32, client: Established, round: &mut Round) {
        let gauges = &self.gauges;
        gauges.connects.fetch_add(1, Relaxed);
        gauges.connected.fetch_add(1, Relaxed);
        gauges
            .latencies
            .lock()
            .expect("no panic while it is held")
            .push(client.latency);
        if let Some(home) = self.homes.insert(number, client.broker.clone()) {
            gauges.reconnects.fetch_add(1, Relaxed);
            if home == client.broker {
                gauges.returned.fetch_add(1, Relaxed);
                round.returned += 1;
            }
        }
        round.placed.insert(number, client.broker.clone());
        let handle = Arc::new(Mutex::new(client.connection.handle()));
        let holder = Holder {
            options: Arc::clone(&self.options),
            gauges: Arc::clone(gauges),
            number,
            handle: Arc::clone(&handle),
        };
        let session = Session {
            handle,
            task: task::spawn(holder.hold(client)),
        };
        self.sessions.insert(number, session);
    }

    async fn disconnect(&mut self, clients: Range<u32>) {
        let leaving: Vec<_> = clients
            .filter_map(|number| self.sessions.remove(&number))
            .collect();
        for session in &leaving {
            // It fails if the connection has ended, which `hold` has counted.
            let handle = session.handle.lock().expect("no panic while it is held");
            let _ = handle.disconnect();
        }
        for session in leaving {
            session
                .task
                .await
                .expect("holding a session does not panic");
        }
    }
}

/// Connects client `number` and has it learn its broker and hear itself, in time.
pub(crate) async fn establish(options: &Options, number: u32) -> Result<Established> {
    let mut awaited = "CONNACK";
    let attempt = attempt(options, number, &mut awaited);
    match tokio::time::timeout(options.timeout, attempt).await {
        Ok(result) => result,
        Err(_) => bail!("no {awaited} within {:?}", options.timeout),
    }
}

/// As [`establish`], for as long as it takes; says what it waits for.
async fn attempt(
    options: &Options,
    number: u32,
    awaited: &mut &'static str,
) -> Result<Established> {
    let protocol = [Protocol::V4, Protocol::V5][number as usize % 2];
    // Not in step with the protocol, so that each address sees both.
    let server = options.servers[(number / 2) as usize % options.servers.len()];
    let id = format!("{}-{number:06}", options.prefix);
    let mut connection = Connection::new(protocol, &id, server, options.keep_alive);

    let start = Instant::now();
    while connection.next().await? != Seen::Connected {}
    let latency = start.elapsed();
    *awaited = "SUBACK";

    let handle = connection.handle();
    let own_topic = format!("lab/echo/{id}");
    handle.subscribe(NAME_TOPIC)?;
    handle.subscribe(&own_topic)?;
    let mut subscriptions = 0;
    let mut broker = None;
    let mut heard_itself = false;
    loop {
        match connection.next().await? {
            Seen::Subscribed => {
                subscriptions += 1;
                if subscriptions == 2 {
                    *awaited = "message of its own or no retained one";
                    handle.publish(&own_topic, id.as_bytes(), false)?;
                }
            }
            Seen::Message { topic, payload } if topic == NAME_TOPIC => {
                broker = Some(String::from_utf8(payload).context("the broker's name")?);
            }
            Seen::Message { topic, payload } => {
                if topic != own_topic || payload != id.as_bytes() {
                    bail!("{id} got the message {payload:?} of topic {topic}");
                }
                heard_itself = true;
            }
            _ => {}
        }
        if heard_itself && let Some(broker) = broker.take() {
            return Ok(Established {
                connection,
                broker,
                latency,
            });
        }
    }
}
