//! What connections of the proxy ask the agent's loop, which alone decides.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::layout::Verdict;
use tokio::sync::{mpsc, oneshot};

use crate::setup::{Denied, Failure, NoChoice};

/// Why a source may not begin a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Beyond its rate of CONNECTs.
    TooOften,
    /// It has as many connections as it may.
    TooMany,
}

/// Who asks for a backend.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Number of the VIP.
    pub listener: u8,
    /// It came over IPv4.
    pub v4: bool,
    /// Keyed hash of its identifier, 0 for none.
    pub id: u64,
    /// The hash under the key that all balancers share.
    pub shared: u64,
}

/// Where to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub slot: u16,
    pub address: SocketAddr,
}

/// Whose dashboard a browser wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Number of the VIP.
    pub listener: u8,
    pub v4: bool,
    /// Name of the node that it was at.
    pub node: Option<String>,
    /// In these slots are those that failed.
    pub tried: Vec<u16>,
}

/// The node that it gets.
#[derive(Clone, Debug)]
pub struct Page {
    pub slot: u16,
    pub name: String,
    /// Its address for MQTT.
    pub address: SocketAddr,
}

/// A question or a report.
pub enum Ask {
    /// May a client from there begin a connection? It is counted if so.
    Source(u8, IpAddr, oneshot::Sender<Result<(), Excess>>),
    /// May this client? It is counted if so.
    Admit(Client, oneshot::Sender<Result<(), Denied>>),
    /// Which backend, for the server that is asked for, other than those in these slots?
    Choose(
        Client,
        Option<Arc<str>>,
        Vec<u16>,
        oneshot::Sender<Result<Target, NoChoice>>,
    ),
    /// Which node's dashboard? Nothing is counted.
    Page(Wish, oneshot::Sender<Option<Page>>),
    /// A connection is open.
    Opened(Client, u16),
    /// An attempt failed.
    Failed(u16, Failure),
    /// Something that is counted.
    Count(Verdict, u64),
}

/// The way to the loop.
#[derive(Clone)]
pub(super) struct Desk(pub mpsc::Sender<Ask>);

impl Desk {
    /// Asks; `None`: the agent is stopping.
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.tell(ask(answer)).await;
        answered.await.ok()
    }

    /// Reports.
    pub async fn tell(&self, ask: Ask) {
        // Nobody takes it when the agent is stopping.
        let _ = self.0.send(ask).await;
    }

    pub async fn count(&self, verdict: Verdict, bytes: usize) {
        self.tell(Ask::Count(verdict, bytes as u64)).await;
    }

    pub async fn source(&self, listener: u8, source: IpAddr) -> Option<Result<(), Excess>> {
        self.ask(|answer| Ask::Source(listener, source, answer))
            .await
    }

    pub async fn admit(&self, client: Client) -> Option<Result<(), Denied>> {
        self.ask(|answer| Ask::Admit(client, answer)).await
    }

    pub async fn page(&self, wish: Wish) -> Option<Option<Page>> {
        self.ask(|answer| Ask::Page(wish, answer)).await
    }

    pub async fn choose(
        &self,
        client: Client,
        server: Option<Arc<str>>,
        tried: Vec<u16>,
    ) -> Option<Result<Target, NoChoice>> {
        self.ask(|answer| Ask::Choose(client, server, tried, answer))
            .await
    }
}
