//! Asks again when answers have had their time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

use super::source::{Reply, Source};
use super::{Answers, show};

/// Follows names. Dropping it ends what it is asking.
#[derive(Debug)]
pub struct Follower {
    source: Source,
    answers: Answers,
    /// Longest time from one question about a name to the next.
    most: Duration,
    /// Names whose question is out.
    asking: BTreeSet<String>,
    questions: JoinSet<(String, Reply)>,
}

impl Follower {
    /// Follows the names that there are answers about.
    pub fn new(source: Source, mut answers: Answers, most: Duration) -> Self {
        answers.hasten(most);
        Self {
            source,
            answers,
            most,
            asking: BTreeSet::new(),
            questions: JoinSet::new(),
        }
    }

    /// What the names stand for now.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Waits until some name stands for other addresses, and gives all answers. Without names it waits for
    /// ever. Cancel-safe: questions that are out go on, so it may be one branch of a busy `select!`.
    pub async fn changed(&mut self) -> &Answers {
        loop {
            let next = self.ask_what_is_due();
            tokio::select! {
                Some(reply) = self.questions.join_next() => {
                    if self.take(reply) {
                        return &self.answers;
                    }
                }
                () = until(next) => {}
            }
        }
    }

    /// Asks about every name whose time has come; when the next one's comes.
    fn ask_what_is_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (host, answer) in &self.answers.0 {
            if self.asking.contains(host) {
                continue;
            }
            if answer.due <= now {
                self.asking.insert(host.clone());
                self.questions.spawn(self.source.clone().ask(host.clone()));
            } else {
                next = Some(next.map_or(answer.due, |at| at.min(answer.due)));
            }
        }
        next
    }

    /// Takes a reply over; whether it changes something.
    fn take(&mut self, reply: Result<(String, Reply), JoinError>) -> bool {
        let now = Instant::now();
        let (host, reply) = match reply {
            Ok(reply) => reply,
            // Which one it was is not known. They all count as failed, so that they aren't asked in a loop.
            Err(error) => {
                let reply = Reply::failed(&error.to_string());
                for host in std::mem::take(&mut self.asking) {
                    self.answers.take(&host, &reply, self.most, now);
                }
                return false;
            }
        };
        self.asking.remove(&host);
        let known = |answers: &Answers| answers.0.get(&host).map(|a| a.addresses.clone());
        let before = known(&self.answers).unwrap_or_default();
        let changed = self.answers.take(&host, &reply, self.most, now);
        if changed {
            let after = known(&self.answers).unwrap_or_default();
            tracing::info!(
                "DNS: {host} is {} now, it was {}",
                show(&after),
                show(&before)
            );
        }
        changed
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
