//! Clients that haven't said yet who they are. There are only so many, and the oldest goes first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// All of them.
#[derive(Clone, Debug)]
pub struct Silent {
    most: usize,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By age.
    tasks: BTreeMap<u64, AbortHandle>,
}

/// A place among the silent, given back when dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    of: Silent,
}

impl Silent {
    /// At most so many, at least 1.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            waiting: Arc::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task of a newcomer; `true` if the oldest had to go for it.
    pub fn begin(&self, start: impl FnOnce(Place) -> AbortHandle) -> bool {
        let mut waiting = self.waiting();
        let oldest = if waiting.tasks.len() >= self.most {
            waiting.tasks.pop_first()
        } else {
            None
        };
        let number = waiting.next;
        waiting.next += 1;
        // Its place can't be given back before it is taken: that waits for the lock.
        let task = start(Place {
            number,
            of: self.clone(),
        });
        waiting.tasks.insert(number, task);
        drop(waiting);
        // An aborted task drops its place, maybe at once.
        oldest.inspect(|(_, task)| task.abort()).is_some()
    }

    /// The oldest goes, because something is short; `false` if there is none.
    pub fn give_up_oldest(&self) -> bool {
        let oldest = self.waiting().tasks.pop_first();
        oldest.inspect(|(_, task)| task.abort()).is_some()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting().tasks.len()
    }
}

impl Place {
    /// It isn't silent for now.
    pub fn leave(&mut self) -> Away {
        Away(self.of.waiting().tasks.remove(&self.number))
    }

    /// It is again, and younger than all others.
    pub fn come_back(&mut self, away: Away) {
        let Some(task) = away.0 else { return };
        let mut waiting = self.of.waiting();
        self.number = waiting.next;
        waiting.next += 1;
        waiting.tasks.insert(self.number, task);
    }
}

/// Of a place that is left for a while.
#[derive(Debug)]
pub struct Away(Option<AbortHandle>);

impl Drop for Place {
    fn drop(&mut self) {
        self.of.waiting().tasks.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_first() {
        let silent = Silent::new(2);
        let (gone_in, mut gone) = tokio::sync::mpsc::unbounded_channel();
        struct Tell(u32, tokio::sync::mpsc::UnboundedSender<u32>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.1.send(self.0);
            }
        }
        let start = |n| {
            let tell = Tell(n, gone_in.clone());
            silent.begin(|place| {
                tokio::spawn(async move {
                    let _both = (tell, place);
                    std::future::pending::<()>().await;
                })
                .abort_handle()
            })
        };
        assert!(!start(0) && !start(1));
        assert_eq!(silent.count(), 2);
        assert!(start(2));
        assert_eq!(gone.recv().await, Some(0));
        assert!(silent.give_up_oldest());
        assert_eq!(gone.recv().await, Some(1));
        assert_eq!(silent.count(), 1);
    }

    #[tokio::test]
    async fn who_was_away_is_the_youngest() {
        let silent = Silent::new(9);
        let places = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let mut task = None;
                silent.begin(|place| {
                    places.lock().unwrap().push(place);
                    let spawned = tokio::spawn(std::future::pending::<()>());
                    let handle = spawned.abort_handle();
                    task = Some(spawned);
                    handle
                });
                task.unwrap()
            })
            .collect();
        let mut places = std::mem::take(&mut *places.lock().unwrap());
        let away = places[0].leave();
        assert_eq!(silent.count(), 1);
        places[0].come_back(away);
        assert_eq!(silent.count(), 2);
        assert!(silent.give_up_oldest());
        for (task, ended) in tasks.into_iter().zip([false, true]) {
            let done = tokio::time::timeout(std::time::Duration::from_millis(200), task).await;
            assert_eq!(done.is_ok(), ended);
        }
    }
}
