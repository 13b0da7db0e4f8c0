//! A client of a fleet after it is connected: it stays, and may come back when its connection is lost.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::client::{Handle, Seen};
use crate::fleet::{Established, Gauges, Options, establish};

/// A client that lost its connection and is connected again ([`Options::come_back`]).
#[derive(Clone, Debug)]
pub struct Comeback {
    pub client: u32,
    /// The broker that it was connected to, and the one that it is connected to now.
    pub brokers: [String; 2],
    pub lost: Instant,
    pub back: Instant,
    /// Attempts to connect that failed in between.
    pub failures: Vec<String>,
}

/// Keeps a client connected.
pub(crate) struct Holder {
    pub options: Arc<Options>,
    pub gauges: Arc<Gauges>,
    pub number: u32,
    pub handle: Arc<Mutex<Handle>>,
}

impl Holder {
    /// Until our DISCONNECT is sent, or the connection ends for good.
    pub async fn hold(self, mut client: Established) {
        loop {
            match client.connection.next().await {
                Ok(Seen::Disconnected) => break,
                Ok(_) => continue,
                Err(_) => {
                    self.gauges.lost.fetch_add(1, Relaxed);
                    if !self.options.come_back {
                        break;
                    }
                }
            }
            let lost = Instant::now();
            self.gauges.connected.fetch_sub(1, Relaxed);
            let (again, failures) = self.come_back().await;
            self.gauges.connected.fetch_add(1, Relaxed);
            let before = std::mem::replace(&mut client, again);
            *self.handle.lock().expect("no panic while it is held") = client.connection.handle();
            let comeback = Comeback {
                client: self.number,
                brokers: [before.broker, client.broker.clone()],
                lost,
                back: Instant::now(),
                failures,
            };
            let mut comebacks = self
                .gauges
                .comebacks
                .lock()
                .expect("no panic while it is held");
            comebacks.push(comeback);
        }
        self.gauges.connected.fetch_sub(1, Relaxed);
    }

    /// Connects again, and what failed on the way.
    async fn come_back(&self) -> (Established, Vec<String>) {
        let mut failures = Vec::new();
        // Every client library waits a moment, most of them a second. Without any pause the first ones
        // would be back while a broker that is being killed still accepts connections, for some
        // milliseconds, and be cut off once more.
        let moment = Duration::from_millis(20 + u64::from(self.number % 32));
        tokio::time::sleep(moment).await;
        loop {
            match establish(&self.options, self.number).await {
                Ok(established) => return (established, failures),
                Err(error) => failures.push(format!("{error:#}")),
            }
            self.gauges.failures.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
