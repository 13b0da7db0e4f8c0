//! What a policy is.

/// A node of a pool, for one choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node's number: what a policy remembers of a node follows it, not its place among the others.
    pub number: u16,
    /// [`node_key`](super::node_key) of its name.
    pub key: u64,
    /// Share of new clients, in 1/256 of what is configured, as slow start has it now; 0: takes none.
    pub weight: u32,
    /// It may be chosen now.
    pub usable: bool,
    /// Connections that it has now, those included that it was chosen for since they were counted.
    pub flows: u32,
}

impl Candidate {
    /// Whether a client that is bound to no node may go there.
    #[must_use]
    pub const fn takes_new(&self) -> bool {
        self.usable && self.weight > 0
    }
}

/// A rule by which a pool's nodes get their clients.
pub trait Policy {
    /// The place of the chosen one among `candidates`, which are all nodes of the pool in any order;
    /// `None` if none [`takes_new`](Candidate::takes_new). `client` is the
    /// [`shared_hash`](super::shared_hash) of the client identifier, 0 for none.
    fn choose(&mut self, client: u64, candidates: &[Candidate]) -> Option<usize>;

    /// If choices don't depend on clients and connections: the numbers of the nodes that follow each other,
    /// `most` at most, after which all begins anew.
    fn round(&self, candidates: &[Candidate], most: usize) -> Option<Vec<u16>> {
        let _ = (candidates, most);
        None
    }

    /// A node left the pool: its number may come back as another one's.
    fn forget(&mut self, number: u16);
}
