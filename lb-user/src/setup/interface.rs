//! What connection set-up needs from the outside: the flow map and the wire, and the choice of a
//! backend. Tests have fakes for both.

use lb_common::layout::{Flow, FlowKey, Hop, Pending, Verdict};
use lb_common::mqtt::Refused;
use lb_common::options::Offered;
use std::sync::Arc;

/// Why an entry could not be written to the flow map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// There is an entry with this key.
    #[error("the flow map has an entry with this key")]
    Exists,
    /// The map has no room.
    #[error("the flow map is full")]
    Full,
    /// Anything else that the kernel said.
    #[error("the flow map was not written: {0}")]
    Other(String),
}

/// The flow map, the wire and the counters.
pub trait Datapath {
    /// Creates an entry; fails if there is one (`BPF_NOEXIST`).
    ///
    /// # Errors
    /// As [`InsertError`] says.
    fn insert_new(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError>;
    /// Creates or overwrites an entry.
    ///
    /// # Errors
    /// As [`InsertError`] says, never [`InsertError::Exists`].
    fn replace(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError>;
    /// Removes an entry, if there is one.
    fn remove(&mut self, key: &FlowKey);
    /// Reads an entry.
    fn get(&mut self, key: &FlowKey) -> Option<Flow>;
    /// A CONNECT that the XDP program keeps, by its ticket.
    fn pending(&mut self, ticket: u32) -> Option<Pending>;
    /// Transmits a whole frame on `hop.ifindex`; its Ethernet header is that of `hop` already.
    fn send(&mut self, hop: &Hop, frame: &[u8]);
    /// Counts a packet or connection; `bytes` from the IP header on, 0 where there is no packet.
    fn count(&mut self, verdict: Verdict, bytes: u64);
}

/// What a backend is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Listener's index.
    pub listener: u8,
    /// The client came over IPv4, so the backend must be reached over IPv4 (else IPv6).
    pub v4: bool,
    /// Keyed hash of the client identifier, 0 for none.
    pub client: u64,
    /// Its hash under the key that all balancers share ([`crate::select::shared_hash`]), 0 for none.
    pub shared: u64,
    /// The server that it asks for, if TLS is passed through.
    pub server: Option<&'a str>,
    /// Slots that were tried for this client already.
    pub tried: &'a [u16],
}

/// A backend to connect to.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Index into the backends map.
    pub slot: u16,
    /// Address, v4-mapped.
    pub address: [u8; 16],
    /// Port, network order.
    pub port: [u8; 2],
    /// Next hop towards it.
    pub hop: Hop,
    /// Generation of that hop.
    pub hop_generation: u32,
    /// Largest TCP segment that the path to it carries, without options.
    pub mss: u16,
    /// Source addresses for it, v4-mapped, of its family; unused with [`super::Source::Client`].
    pub snat: Arc<[[u8; 16]]>,
}

/// Why a client is refused before a backend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its identifier is on the block list.
    Blocked,
    /// Its identifier connects more often than one may.
    TooOften,
    /// The listener has as many connections as it may.
    ListenerFull,
    /// There are as many connections as the flow map is made for.
    FlowsFull,
}

impl Denied {
    /// How it is counted, and what the client hears.
    #[must_use]
    pub const fn verdict(self) -> (Verdict, Refused) {
        match self {
            Self::Blocked => (Verdict::ClientBlocked, Refused::Banned),
            Self::TooOften => (Verdict::ClientRate, Refused::Quota),
            Self::ListenerFull => (Verdict::ListenerFull, Refused::Quota),
            Self::FlowsFull => (Verdict::FlowsFull, Refused::Unavailable),
        }
    }
}

/// Why there is no backend to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// All were tried, or none is usable.
    NoneLeft,
    /// Those that are left have as many connections as they may.
    Full,
}

/// Why an attempt to connect to a backend was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It answered with RST.
    Refused,
    /// A router or the host said "unreachable" by ICMP.
    Unreachable,
    /// It didn't answer in time.
    Silent,
    /// It knows every tuple that we tried from an older connection (RFC 5961 challenge ACKs).
    TupleInUse,
    /// Another port of the node than its MQTT one failed, which says nothing about that.
    OtherPort,
    /// It answered our SYN, but never acknowledged the first bytes.
    Stalled,
}

/// The choice of a backend, and what becomes of it.
pub trait Steering {
    /// Whether a client is served whose CONNECT was read. Asked once for each connection, which counts
    /// if the answer is yes. `client` is the keyed hash of its identifier, 0 for none.
    ///
    /// # Errors
    /// Why it isn't.
    fn admit(&mut self, listener: u8, client: u64) -> Result<(), Denied>;
    /// Chooses a backend that is not among `request.tried`, and counts the connection to it.
    ///
    /// # Errors
    /// Why there is none.
    fn choose(&mut self, request: &Request<'_>) -> Result<Choice, NoChoice>;
    /// The backend in a slot, if it takes clients now: one that the XDP program has chosen by a binding.
    fn known(&mut self, slot: u16, v4: bool) -> Option<Choice>;
    /// A connection of `client` (0 for no binding) was opened to a backend.
    fn opened(&mut self, listener: u8, slot: u16, client: u64);
    /// An attempt failed.
    fn failed(&mut self, slot: u16, reason: Failure);
    /// A backend's SYN-ACK offers less than, or another window scale than, SYN-ACKs of the listener
    /// promise to clients; from now on they should promise no more than this.
    fn capabilities(&mut self, listener: u8, slot: u16, offered: &Offered);
}
