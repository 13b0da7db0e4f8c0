//! The maps. ARCHITECTURE.md says who writes to which one.
//!
//! Sizes are defaults; the loader sets those that the configuration knows. All are pinned by name.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use lb_common::handshake::Answer;
use lb_common::layout::{
    Backend, Binding, Bucket, Counter, Endpoint, EndpointKey, Flow, FlowKey, Listener, Settings,
    Source, SourceKey, Verdict,
};
use lb_common::limits::credit::{self, Credit};
use lb_common::rewrite::Options;

/// Two entries a connection. Refuses when full; never evicts.
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::pinned(524_288, 0);

/// VIPs, backends and the balancer's own addresses.
#[map]
pub static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::pinned(4096, 0);

/// Backends by their slot.
#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(1024, 0);

/// Hash of a client identifier → backend.
#[map]
pub static BINDINGS: LruHashMap<u64, Binding> = LruHashMap::pinned(1_048_576, 0);

/// Secrets and limits.
#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);

/// Packets and bytes by verdict.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(Verdict::CAPACITY, 0);

/// The same for what the agent decides; only the agent writes to it.
#[map]
pub static AGENT_COUNTERS: Array<Counter> = Array::pinned(Verdict::CAPACITY, 0);

/// Token bucket of the RSTs.
#[map]
pub static BUCKETS: PerCpuArray<Bucket> = PerCpuArray::pinned(1, 0);

/// What a listener demands of its clients.
#[map]
pub static LISTENERS: Array<Listener> = Array::pinned(256, 0);

/// Sources that sent first data with a right cookie.
#[map]
pub static SOURCES: LruHashMap<SourceKey, Source> = LruHashMap::pinned(65_536, 0);

/// Connections at a time, of listeners and of backends. The agent adds to it as well, so it has the
/// map in its memory.
#[map]
pub static CREDITS: Array<Credit> = Array::pinned(credit::CELLS, BPF_F_MMAPABLE);

/// Source prefixes (v4-mapped) whose packets are dropped. Takes memory as it fills.
#[map]
pub static BLOCKED: LpmTrie<[u8; 16], u32> = LpmTrie::pinned(65_536, 0);

/// Packets for the agent.
#[map]
pub static PUNTS: RingBuf = RingBuf::pinned(4 << 20, 0);

/// Working memory that doesn't fit the stack or is indexed by variables.
#[repr(C)]
pub struct Scratch {
    pub answer: Answer,
    pub options: Options,
    pub flow: Flow,
    pub source_key: SourceKey,
    pub source: Source,
}

#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
