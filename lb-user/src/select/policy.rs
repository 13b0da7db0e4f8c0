//! What a policy is.

/// A node of a pool, for one choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Share of new clients; 0: takes none.
    pub weight: u16,
    /// It may be chosen now.
    pub usable: bool,
    /// Connections that it has now.
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
    /// The place of the chosen one among `candidates`, which are all nodes of the pool, always in the
    /// same places; `None` if none [`takes_new`](Candidate::takes_new). `client` is the hash of the
    /// client identifier, 0 for none.
    fn choose(&mut self, client: u64, candidates: &[Candidate]) -> Option<usize>;
}
