//! What DNS names stand for: asked side by side, kept with the time that each answer is good for, asked
//! again when that ends.
//!
//! Names come from `/etc/hosts` and from the name servers of `/etc/resolv.conf`, both read anew each time.
//! Other sources of the system's resolver (`nsswitch.conf`) know no time to live and are not asked.

mod follow;
mod source;

pub use follow::Follower;
pub use source::Source;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use source::{Outcome, Reply};

/// Shortest time to the next question about a name, also after a failure.
const LEAST: Duration = Duration::from_secs(1);
/// Longest time that an answer is kept before anybody said how long.
const MOST: Duration = Duration::from_secs(86_400);

/// What names stand for.
#[derive(Clone, Debug, Default)]
pub struct Answers(BTreeMap<String, Answer>);

/// What one name stands for.
#[derive(Clone, Debug)]
struct Answer {
    /// Sorted. Empty only if it was never answered.
    addresses: Vec<IpAddr>,
    /// When to ask again.
    due: Instant,
    /// Failures in a row.
    failures: u32,
    /// The last of them.
    error: String,
}

/// Asks for all of `hosts` side by side. A name that can't be resolved keeps the addresses that are
/// `known`.
pub async fn resolve(
    source: &Source,
    hosts: impl IntoIterator<Item = String>,
    known: &Answers,
) -> Answers {
    let mut answers = Answers::default();
    let mut asked = JoinSet::new();
    for host in hosts {
        let answer = known.0.get(&host).cloned().unwrap_or_else(Answer::unasked);
        answers.0.insert(host.clone(), answer);
        asked.spawn(source.clone().ask(host));
    }
    while let Some(reply) = asked.join_next().await {
        // One that broke off counts as not answered; the follower asks again.
        if let Ok((host, reply)) = reply {
            answers.take(&host, &reply, MOST, Instant::now());
        }
    }
    answers
}

impl Answers {
    /// Every address of a host, with the port. This is what [`crate::config::parse`] wants.
    ///
    /// # Errors
    /// Why there is none.
    pub fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self.0.get(host) {
            Some(answer) if !answer.addresses.is_empty() => {
                let socket = |ip: &IpAddr| SocketAddr::new(*ip, port);
                Ok(answer.addresses.iter().map(socket).collect())
            }
            Some(answer) => Err(io::Error::other(answer.error.clone())),
            None => Err(io::Error::other("it was not asked for")),
        }
    }

    /// Takes a reply over; whether the host's addresses are others than before.
    fn take(&mut self, host: &str, reply: &Reply, most: Duration, now: Instant) -> bool {
        self.0
            .get_mut(host)
            .is_some_and(|answer| answer.take(host, reply, most, now))
    }

    /// Has every name asked for again within `most`.
    fn hasten(&mut self, most: Duration) {
        let latest = Instant::now() + most;
        for answer in self.0.values_mut() {
            answer.due = answer.due.min(latest);
        }
    }
}

impl Answer {
    fn unasked() -> Self {
        Self {
            addresses: Vec::new(),
            due: Instant::now(),
            failures: 0,
            error: "there was no answer".to_owned(),
        }
    }

    /// A family that there was no answer about keeps its addresses; and so do both if none would be left,
    /// because a name that is gone is more often a mistake in DNS than the end of all brokers.
    fn take(&mut self, host: &str, reply: &Reply, most: Duration, now: Instant) -> bool {
        let mut addresses = Vec::new();
        let mut ttl = most;
        let mut error = None;
        for (is_ipv4, outcome) in [(true, &reply.v4), (false, &reply.v6)] {
            match outcome {
                Outcome::Addresses(found, good_for) => {
                    addresses.extend(found);
                    ttl = ttl.min(*good_for);
                }
                Outcome::None => {}
                Outcome::Failed(why) => {
                    addresses.extend(self.addresses.iter().filter(|ip| ip.is_ipv4() == is_ipv4));
                    error = Some(why.clone());
                }
            }
        }
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            addresses.clone_from(&self.addresses);
            error.get_or_insert_with(|| "it has no address".to_owned());
        }
        let changed = addresses != self.addresses;
        let wait = self.wait(host, ttl, error, &addresses);
        self.due = now + wait.clamp(LEAST, most.max(LEAST));
        self.addresses = addresses;
        changed
    }

    /// How long to wait before it is asked again. A row of failures is one line in the log, and its end
    /// another.
    fn wait(
        &mut self,
        host: &str,
        ttl: Duration,
        error: Option<String>,
        addresses: &[IpAddr],
    ) -> Duration {
        match error {
            None => {
                if self.failures > 0 {
                    tracing::info!("DNS answers about {host} again");
                }
                self.failures = 0;
                ttl
            }
            Some(error) => {
                if self.failures == 0 && !addresses.is_empty() {
                    tracing::warn!(
                        "DNS has no full answer about {host}: {error}; what is known stays ({}), it is asked again",
                        show(addresses)
                    );
                }
                let wait = LEAST.saturating_mul(1 << self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                self.error = error;
                wait
            }
        }
    }
}

/// Addresses for a message.
fn show(addresses: &[IpAddr]) -> String {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
