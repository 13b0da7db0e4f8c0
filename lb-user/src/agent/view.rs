//! What the admin interface shows: the agent's shared state, and the kernel's maps by handles of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lb_common::layout::{self, Flow, FlowKey, State, Verdict, flags, ticks};

use super::core::Shared;
use super::kernel::Tallies;
use super::nodes::{Node, socket_address};
use crate::admin::Source;
use crate::admin::model::{
    BackendState, BackendStatus, BindingUsage, CertificateStatus, Counter, FlowFilter, FlowRow,
    FlowUsage, InterfaceStatus, ListenerStatus, Located, PoolStatus, Setups, Status, Steered,
    XdpMode,
};
use crate::config::Listener;
use crate::dataplane::{Attached, Home, Maps, clock};
use crate::select::{NodeState, node_of};
use crate::setup;

/// Read-only access for others.
pub struct View {
    maps: Maps,
    interfaces: Vec<InterfaceStatus>,
    shared: Arc<Mutex<Shared>>,
    tallies: Arc<Tallies>,
    started: Instant,
    flow_capacity: u64,
    binding_capacity: u64,
}

fn mode(native: bool) -> XdpMode {
    if native {
        XdpMode::Native
    } else {
        XdpMode::Generic
    }
}

impl View {
    /// Opens handles of its own to the maps.
    pub fn new(
        home: &Home,
        interfaces: Vec<(Attached, bool)>,
        shared: Arc<Mutex<Shared>>,
        tallies: Arc<Tallies>,
    ) -> anyhow::Result<Self> {
        let (flows, bindings) = Maps::capacities(home)?;
        Ok(Self {
            maps: Maps::open(home)?,
            interfaces: interfaces
                .into_iter()
                .map(|(a, native)| InterfaceStatus {
                    name: a.interface,
                    mode: mode(native),
                    ifindex: a.ifindex,
                })
                .collect(),
            flow_capacity: flows.into(),
            binding_capacity: bindings.into(),
            shared,
            tallies,
            started: Instant::now(),
        })
    }

    fn shared<T>(&self, f: impl FnOnce(&Shared) -> T) -> T {
        f(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pools(&self, shared: &Shared, by_slot: &BTreeMap<u16, u64>) -> Vec<PoolStatus> {
        let backend = |n: &Node| BackendStatus {
            name: n.name.clone(),
            address: n.paths.iter().map(|p| p.address.to_string()).collect(),
            state: match n.state {
                NodeState::Up => BackendState::Up,
                NodeState::Down => BackendState::Down,
                NodeState::Draining => BackendState::Draining,
                NodeState::Disabled => BackendState::Disabled,
            },
            reason: reason(n),
            removed: n.pool.is_none(),
            weight: u32::from(n.share()),
            flows: by_slot
                .iter()
                .filter(|(slot, _)| node_of(**slot) == n.number)
                .map(|(_, flows)| flows)
                .sum(),
            assigned_total: shared
                .tally
                .get(usize::from(n.number))
                .map_or(0, |t| t.assigned),
            failures_total: shared
                .tally
                .get(usize::from(n.number))
                .map_or(0, |t| t.failures),
        };
        let of = |belongs: &dyn Fn(&Node) -> bool| {
            let nodes = shared.nodes.iter();
            nodes
                .filter(|n| belongs(n))
                .map(backend)
                .collect::<Vec<_>>()
        };
        let pools = shared.config.pools.iter().enumerate();
        let mut pools: Vec<_> = pools
            .map(|(i, pool)| PoolStatus {
                name: pool.name.clone(),
                policy: pool.policy.as_str().to_owned(),
                backends: of(&|n| n.pool.map_or(n.pool_name == pool.name, |p| p == i)),
            })
            .collect();
        let known = |name: &str| shared.config.pools.iter().any(|p| p.name == name);
        let homeless = of(&|n| n.pool.is_none() && !known(&n.pool_name));
        if !homeless.is_empty() {
            pools.push(PoolStatus {
                name: "(removed)".to_owned(),
                policy: String::new(),
                backends: homeless,
            });
        }
        pools
    }
}

fn certificates(listener: &Listener) -> Vec<CertificateStatus> {
    let all = listener.tls.iter().flat_map(|tls| &tls.certificates);
    all.map(|certificate| CertificateStatus {
        file: certificate.file.display().to_string(),
        names: certificate.names.clone(),
        not_after_seconds: u64::try_from(certificate.validity.until).unwrap_or(0),
    })
    .collect()
}

/// What the last checks said, of every address.
fn reason(node: &Node) -> Option<String> {
    let reasons: Vec<&str> = node
        .paths
        .iter()
        .map(|p| match (&p.hop, &*p.reason) {
            (None, "") if !p.direct => "no way to it is known",
            (_, reason) => reason,
        })
        .filter(|reason| !reason.is_empty())
        .collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

impl Source for View {
    fn ready(&self) -> bool {
        // The server serves only once the programs are attached and the backends were looked at.
        true
    }

    fn status(&self) -> Status {
        let mut by_slot = BTreeMap::new();
        let mut entries = 0u64;
        let read = self.maps.each_flow(|_, flow| {
            entries += 1;
            if flow.state == State::Open as u8
                && flow.flags & flags::FROM_CLIENT != 0
                && !flow.closed()
            {
                *by_slot.entry(flow.backend).or_default() += 1;
            }
        });
        if let Err(error) = read {
            tracing::warn!("the flow map could not be read: {error}");
        }
        let mut counters = self.maps.counters().unwrap_or_else(|error| {
            tracing::warn!("the counters could not be read: {error}");
            vec![layout::Counter::default(); Verdict::ALL.len()]
        });
        for (counter, verdict) in counters.iter_mut().zip(Verdict::ALL) {
            let ours = self.tallies.get(*verdict);
            counter.packets += ours.packets;
            counter.bytes += ours.bytes;
        }
        let config = self.shared(|shared| shared.config.clone());
        let packets = |v: Verdict| counters[v as usize].packets;
        let named = |v: &Verdict| (v.name().to_owned(), counters[*v as usize]);
        let listeners = config.listeners.iter().map(|l| ListenerStatus {
            name: l.name.clone(),
            kind: l.kind.as_str().to_owned(),
            bind: l.bind.iter().map(ToString::to_string).collect(),
            pool: config.pool(l.pool).name.clone(),
            datapath: l.datapath.as_str().to_owned(),
            source: l.source.as_str().to_owned(),
            proxy_protocol: l.proxy_protocol.as_str().to_owned(),
            certificates: certificates(l),
        });
        self.shared(|shared| Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: config.agent.name.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: true,
            mode: if self.interfaces.is_empty() {
                XdpMode::Off
            } else {
                mode(self.interfaces.iter().all(|i| i.mode == XdpMode::Native))
            },
            interfaces: self.interfaces.clone(),
            listeners: listeners.collect(),
            pools: self.pools(shared, &by_slot),
            steered: Steered {
                kernel: packets(Verdict::SteeredKernel),
                agent: packets(Verdict::SteeredAgent),
            },
            flows: FlowUsage {
                current: entries.div_ceil(2),
                capacity: self.flow_capacity,
            },
            bindings: BindingUsage {
                current_estimate: None,
                capacity: self.binding_capacity,
            },
            setups: Setups {
                sniffing: shared.setups.sniffing as u64,
                connecting: shared.setups.connecting as u64,
            },
            counters: Verdict::ALL
                .iter()
                .map(|v| {
                    let (name, c) = named(v);
                    (
                        name,
                        Counter {
                            packets: c.packets,
                            bytes: c.bytes,
                        },
                    )
                })
                .collect(),
            rejects: Verdict::ALL
                .iter()
                .filter(|v| v.name().starts_with("reject_"))
                .map(|v| {
                    (
                        v.name().trim_start_matches("reject_").to_owned(),
                        packets(*v),
                    )
                })
                .collect(),
        })
    }

    fn locate(&self, client_id: &[u8]) -> Located {
        let settings = self.shared(|s| setup::Settings {
            client_key: s.secrets.client_key,
            ..setup::Settings::default()
        });
        let hash = settings.client_hash(client_id);
        let mut located = Located {
            client_id_hash: format!("{hash:016x}"),
            backend: None,
            pool: None,
            last_seen_seconds: None,
            connected: false,
        };
        if hash == 0 {
            return located;
        }
        let mut slot = None;
        if let Ok(binding) = self.maps.bindings.get(&hash, 0) {
            let age = ticks::since(ticks::from_ns(clock::now_ns()), binding.last_seen);
            located.last_seen_seconds = Some(ticks::to_ns(age) / 1_000_000_000);
            slot = Some(binding.backend);
        }
        let read = self.maps.each_flow(|_, flow| {
            if flow.client == hash
                && flow.flags & flags::FROM_CLIENT != 0
                && flow.state == State::Open as u8
                && !flow.closed()
            {
                located.connected = true;
                slot = Some(flow.backend);
            }
        });
        if let Err(error) = read {
            tracing::warn!("the flow map could not be read: {error}");
        }
        self.shared(|shared| {
            if let Some(node) =
                slot.and_then(|slot| shared.nodes.iter().find(|n| n.number == node_of(slot)))
            {
                located.backend = Some(node.name.clone());
                located.pool = Some(node.pool_name.clone());
            }
        });
        located
    }

    fn flows(&self, filter: FlowFilter) -> anyhow::Result<Vec<FlowRow>> {
        let nodes = self.shared(|shared| shared.nodes.clone());
        let mut chosen: Vec<(FlowKey, Flow, String)> = Vec::new();
        self.maps.each_flow(|key, flow| {
            if chosen.len() >= filter.limit
                || flow.flags & flags::FROM_CLIENT == 0
                || flow.state != State::Open as u8
            {
                return;
            }
            let name = nodes
                .iter()
                .find(|n| n.number == node_of(flow.backend))
                .map_or("?", |n| n.name.as_str());
            if filter
                .backend
                .as_deref()
                .is_none_or(|wanted| wanted == name)
            {
                chosen.push((*key, *flow, name.to_owned()));
            }
        })?;
        let now = ticks::from_ns(clock::now_ns());
        Ok(chosen
            .into_iter()
            .map(|(key, flow, backend)| {
                let down = self.maps.flow(&flow.pair()).unwrap_or(Flow::ZERO);
                let idle = ticks::since(now, flow.last_seen).min(ticks::since(now, down.last_seen));
                FlowRow {
                    client: socket_address(key.src, key.src_port),
                    vip: socket_address(key.dst, key.dst_port),
                    snat: socket_address(flow.new_src, flow.new_src_port),
                    backend,
                    backend_address: socket_address(flow.new_dst, flow.new_dst_port),
                    state: state(&flow).to_owned(),
                    idle_seconds: ticks::to_ns(idle) / 1_000_000_000,
                    packets_up: flow.packets,
                    bytes_up: flow.bytes,
                    packets_down: down.packets,
                    bytes_down: down.bytes,
                    client_id_hash: (flow.client != 0).then(|| format!("{:016x}", flow.client)),
                }
            })
            .collect())
    }
}

fn state(flow: &Flow) -> &'static str {
    if flow.flags & flags::RST != 0 {
        "reset"
    } else if flow.closed() {
        "closed"
    } else if flow.flags & (flags::FIN_SELF | flags::FIN_PEER) != 0 {
        "closing"
    } else {
        "open"
    }
}
