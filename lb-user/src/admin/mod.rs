//! The admin HTTP interface: health, status, metrics and a page for people. It only shows; what changes
//! a running agent comes through [`control`].
//!
//! The agent implements [`Source`]; [`Server`] turns what it says into answers. [`model`] is what the
//! command line reads back.

pub mod control;
mod metrics;
pub mod model;
mod password;
mod query;
mod routes;
mod server;
mod stats;

use std::net::IpAddr;
use std::sync::Arc;

use model::{FlowFilter, FlowRow, Located, Status};
pub use query::encode as percent_encode;
pub use server::{BindError, Server};

/// Where the answers come from. Everything but [`Source::ready`] may block (it reads kernel maps):
/// the server calls it on threads for that.
pub trait Source: Send + Sync + 'static {
    /// Whether clients can be served: programs attached and the first health round done.
    fn ready(&self) -> bool;

    fn status(&self) -> Status;

    /// Which backend a client identifier belongs to.
    fn locate(&self, client_id: &[u8]) -> Located;

    /// Live flows, at most [`FlowFilter::limit`] of them.
    fn flows(&self, filter: FlowFilter) -> anyhow::Result<Vec<FlowRow>>;
}

/// What there is to see.
#[derive(Clone)]
pub struct Pages {
    source: Arc<dyn Source>,
    password: Option<Arc<str>>,
    /// Who asks is on this host, where no password keeps anybody from the numbers.
    local: bool,
}

impl Pages {
    #[must_use]
    pub fn new(source: Arc<dyn Source>, password: Option<&str>) -> Self {
        Self {
            source,
            password: password.map(Arc::from),
            local: false,
        }
    }

    /// For who asks from this address.
    fn seen_from(&self, peer: IpAddr) -> Self {
        Self {
            local: peer.to_canonical().is_loopback(),
            ..self.clone()
        }
    }

    /// The password that is asked for at `path`: of everybody at the page, at what else tells of clients
    /// only of those who aren't on this host, so that commands need none.
    fn password_of(&self, path: &str) -> Option<&str> {
        let asked = match path {
            "/healthz" | "/readyz" => false,
            "/stats" => true,
            _ => !self.local,
        };
        self.password.as_deref().filter(|_| asked)
    }

    /// Answers a request, also where it came to another server than the admin interface's.
    pub(crate) async fn answer<B>(&self, request: &hyper::Request<B>) -> routes::Answer {
        routes::answer(self, request).await
    }
}

#[cfg(test)]
mod tests;
