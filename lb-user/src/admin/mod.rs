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
    /// Of `/stats`.
    password: Option<Arc<str>>,
}

impl Pages {
    #[must_use]
    pub fn new(source: Arc<dyn Source>, password: Option<&str>) -> Self {
        Self {
            source,
            password: password.map(Arc::from),
        }
    }

    /// Answers a request, also where it came to another server than the admin interface's.
    pub(crate) async fn answer<B>(&self, request: &hyper::Request<B>) -> routes::Answer {
        routes::answer(self, request).await
    }
}

#[cfg(test)]
mod tests;
