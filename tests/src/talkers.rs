//! Clients that count: each subscribes to a topic of its own and publishes 1, 2, 3 … there, with QoS 0, so that
//! nobody but TCP repeats anything. A number that comes back out of turn, or never, was lost on the way.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::lab::Lab;
use crate::plan::MQTT_PORT;
use crate::raw::{Connect, publish, subscribe};

/// For what has to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients at work, on a thread of their own. Dropping them ends it.
pub struct Talkers {
    state: Arc<State>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct State {
    over: AtomicBool,
    connected: AtomicUsize,
    heard: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Talkers {
    /// Connects `count` clients, half of them over each address of the VIP, and has each say a number
    /// every `pause`.
    ///
    /// # Errors
    /// Not all of them are connected within 30 s.
    pub fn start(lab: &Lab, count: usize, pause: Duration) -> Result<Self> {
        let servers = lab.topology.plan.vip().sockets(MQTT_PORT);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = lab.topology.clients.spawn(move || {
            // Sockets belong to the namespace of the thread that opens them: one thread.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a tokio runtime");
            runtime.block_on(async {
                let mut all = JoinSet::new();
                for n in 0..count {
                    let (server, state) = (servers[n % servers.len()], Arc::clone(&shared));
                    // They shall not speak all at once, nor connect.
                    let first = pause.mul_f64(n as f64 / count as f64);
                    all.spawn(async move {
                        sleep(first).await;
                        let id = format!("talker-{n}");
                        if let Err(error) = talk(&id, server, pause, &state).await {
                            state.fault(format!("{id}: {error:#}"));
                        }
                    });
                }
                all.join_all().await;
            });
        })?;
        let talkers = Self {
            state,
            thread: Some(thread),
        };
        let start = Instant::now();
        while talkers.state.connected.load(Relaxed) < count {
            talkers.check()?;
            ensure!(start.elapsed() < PATIENCE, "not all talkers are connected");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(talkers)
    }

    /// # Errors
    /// A client lost a number or its connection; the message names up to five.
    pub fn check(&self) -> Result<()> {
        let faults = self.state.faults.lock();
        let faults = faults.unwrap_or_else(PoisonError::into_inner);
        if !faults.is_empty() {
            let first = faults.iter().take(5).cloned().collect::<Vec<_>>();
            bail!("{} talkers failed: {}", faults.len(), first.join("; "));
        }
        Ok(())
    }

    /// Has all of them stop, waits for the last numbers, and returns how many were heard.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn finish(mut self) -> Result<u64> {
        self.end()?;
        self.check()?;
        Ok(self.state.heard.load(Relaxed))
    }

    fn end(&mut self) -> Result<()> {
        self.state.over.store(true, Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().expect("a talker does not panic"),
            None => Ok(()),
        }
    }
}

impl Drop for Talkers {
    fn drop(&mut self) {
        // The test has failed already, if this does.
        let _ = self.end();
    }
}

impl State {
    fn fault(&self, what: String) {
        let faults = self.faults.lock();
        faults.unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// One client, until all is over.
async fn talk(id: &str, server: SocketAddr, pause: Duration, state: &Arc<State>) -> Result<()> {
    let stream = timeout(PATIENCE, TcpStream::connect(server)).await??;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    writer.write_all(&Connect::new(id).encode()).await?;
    expect(&mut reader, 0x20).await.context("CONNACK")?;
    writer.write_all(&subscribe(1, id)).await?;
    expect(&mut reader, 0x90).await.context("SUBACK")?;
    state.connected.fetch_add(1, Relaxed);

    let said = Arc::new(AtomicU64::new(0));
    let listener = tokio::spawn(listen(reader, Arc::clone(&said), Arc::clone(state)));
    let mut over = false;
    while !over && !listener.is_finished() {
        // One more, or the listener would wait for it.
        over = state.over.load(Relaxed);
        let number = said.fetch_add(1, Relaxed) + 1;
        writer
            .write_all(&publish(id, &number.to_be_bytes()))
            .await
            .with_context(|| format!("say {number}"))?;
        sleep(pause).await;
    }
    listener.await?
}

/// Hears the numbers, in their order, until all is over and none is missing.
async fn listen(
    mut reader: impl AsyncRead + Unpin,
    said: Arc<AtomicU64>,
    state: Arc<State>,
) -> Result<()> {
    let mut last = 0;
    loop {
        if state.over.load(Relaxed) && last == said.load(Relaxed) {
            return Ok(());
        }
        let heard = timeout(PATIENCE, expect(&mut reader, 0x30)).await;
        let message = heard
            .context("silence")
            .flatten()
            .with_context(|| format!("after {last}"))?;
        let number = message.last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        ensure!(number == Some(last + 1), "{number:?} after {last}");
        last += 1;
        state.heard.fetch_add(1, Relaxed);
    }
}

/// Reads an MQTT packet of this type (its first byte) and gives what follows the remaining length.
async fn expect(reader: &mut (impl AsyncRead + Unpin), first: u8) -> Result<Vec<u8>> {
    let mut head = [0; 2];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            bail!("the connection is closed")
        }
        Err(error) => return Err(error.into()),
    }
    ensure!(head[0] == first, "a packet that begins with {:#x}", head[0]);
    ensure!(head[1] < 0x80, "a packet of more than 127 bytes");
    let mut body = vec![0; head[1].into()];
    reader.read_exact(&mut body).await?;
    Ok(body)
}
