//! Finds out how each backend is reached and what TCP it speaks, and finds out again when links,
//! routes or neighbours change. A task of its own; the agent gets what changed by a channel.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use rtnetlink::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::net::{self, Hop, PeerTcp, Watch, hop_to};

/// How long a neighbour may take to answer, and a backend to accept.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Pause between attempts to find what couldn't be found.
const RETRY: Duration = Duration::from_secs(2);

/// What was found about a backend's address.
#[derive(Debug)]
pub struct News {
    pub address: SocketAddr,
    /// The way to it, or why there is none.
    pub hop: Result<Hop, net::NetError>,
    /// What it negotiates, if it was asked and answered.
    pub tcp: Option<PeerTcp>,
}

/// Looks at one address; asks its TCP only with `ask`.
async fn look(handle: Handle, address: SocketAddr, ask: bool) -> News {
    let hop = hop_to(&handle, address.ip(), PATIENCE).await;
    let mut tcp = None;
    if ask && hop.is_ok() {
        match net::probe(address, None, PATIENCE).await {
            Ok(found) => tcp = Some(found),
            Err(error) => tracing::warn!("backend {address} does not answer yet: {error}"),
        }
    }
    News { address, hop, tcp }
}

/// Looks at all addresses side by side, and once more at those that nothing was found of: a network
/// that has just come up takes a moment.
pub async fn look_at_all(handle: &Handle, addresses: &[SocketAddr]) -> Vec<News> {
    let mut found: Vec<News> = Vec::new();
    for last in [false, true] {
        let mut looks = JoinSet::new();
        for address in addresses {
            if !found.iter().any(|n| n.address == *address) {
                looks.spawn(look(handle.clone(), *address, true));
            }
        }
        let good = |n: &News| last || n.hop.is_ok() && n.tcp.is_some();
        found.extend(looks.join_all().await.into_iter().filter(good));
    }
    found
}

/// Goes on looking for ever. `found` is what [`look_at_all`] gave: what is missing in it is asked again.
/// `addresses` are those to look at; they change with the configuration.
pub async fn follow(
    handle: Handle,
    mut watch: Watch,
    found: &[News],
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    news: mpsc::Sender<News>,
) {
    // Whether the address has a hop, and whether its TCP is known.
    let mut state: HashMap<SocketAddr, (bool, bool)> = found
        .iter()
        .map(|n| (n.address, (n.hop.is_ok(), n.tcp.is_some())))
        .collect();
    loop {
        let incomplete = state.values().any(|(hop, tcp)| !hop || !tcp);
        let changed = tokio::select! {
            change = watch.changed() => match change {
                Ok(_) => true,
                Err(error) => {
                    tracing::error!("{error}; changes of links and routes go unnoticed from now on");
                    return;
                }
            },
            change = addresses.changed() => {
                if change.is_err() {
                    return;
                }
                let wanted = addresses.borrow_and_update().clone();
                state.retain(|address, _| wanted.contains(address));
                for address in wanted {
                    state.entry(address).or_default();
                }
                false
            }
            () = tokio::time::sleep(RETRY), if incomplete => false,
        };
        let mut looks = JoinSet::new();
        for (address, (hop, tcp)) in &state {
            if changed || !hop || !tcp {
                looks.spawn(look(handle.clone(), *address, !tcp));
            }
        }
        while let Some(done) = looks.join_next().await {
            let Ok(n) = done else { continue };
            if let Some(s) = state.get_mut(&n.address) {
                *s = (n.hop.is_ok(), s.1 || n.tcp.is_some());
            }
            if news.send(n).await.is_err() {
                return;
            }
        }
    }
}
