//! What the data path is told of the configuration: VIPs, backends' addresses, our own addresses,
//! secrets.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use lb_common::layout::{Endpoint, EndpointKey, EndpointKind, Settings};
use lb_common::proxy_v2;

use super::kernel_setup;
use super::nodes::{Node, mapped, socket_address};
use super::steering::promise;
use crate::config::{self, Config, Datapath, Kind};
use crate::dataplane::Maps;
use crate::setup::{ListenerSettings, Source};

/// Window that SYN-ACKs announce: room for a CONNECT until a backend's own window takes over.
const WINDOW: u16 = 16_384;

/// No SYN-ACK promises less, whatever goes in front of the first segment: Linux's `net.ipv4.tcp_min_snd_mss` is
/// little lower.
const LEAST_MSS: u16 = 88;

/// One address that clients connect to.
#[derive(Clone, Debug)]
pub struct Vip {
    /// Its number in the data path, which flow entries name.
    pub index: u8,
    /// Index into the configuration's listeners.
    pub listener: usize,
    pub address: SocketAddr,
    /// What its SYN-ACKs say.
    pub endpoint: Endpoint,
}

/// All VIPs of the configuration. Those in `known` keep their numbers.
///
/// # Errors
/// There are more than a number of one byte can tell apart.
pub fn vips(config: &Config, known: &HashMap<SocketAddr, u8>) -> anyhow::Result<Vec<Vip>> {
    let binds = || {
        let listeners = config.listeners.iter().enumerate();
        listeners.flat_map(|(i, l)| l.bind.iter().map(move |address| (i, *address)))
    };
    let kept: HashSet<u8> = binds()
        .filter_map(|(_, a)| known.get(&a).copied())
        .collect();
    let mut free = (0..=u8::MAX).filter(|index| !kept.contains(index));
    binds()
        .map(|(listener, address)| {
            let index = known.get(&address).copied().or_else(|| free.next());
            Ok(Vip {
                index: index.with_context(|| {
                    format!(
                        "there are {} addresses in `bind`; at most 256 fit",
                        binds().count()
                    )
                })?,
                listener,
                address,
                endpoint: Endpoint::default(),
            })
        })
        .collect()
}

/// The numbers of the VIPs that the data path serves already.
///
/// # Errors
/// The map can't be read.
pub fn known(maps: &Maps) -> anyhow::Result<HashMap<SocketAddr, u8>> {
    let mut known = HashMap::new();
    for entry in maps.endpoints.iter() {
        let (key, endpoint) = entry?;
        if endpoint.kind == EndpointKind::Vip as u8 {
            known.insert(socket_address(key.address, key.port), endpoint.listener);
        }
    }
    Ok(known)
}

impl Vip {
    /// Fits the promises to what the pool's backends can keep; `true` if they changed.
    pub fn fit(&mut self, config: &Config, nodes: &[Node]) -> bool {
        let v4 = self.address.is_ipv4();
        let mut endpoint = Endpoint {
            kind: EndpointKind::Vip as u8,
            listener: self.index,
            window: WINDOW,
            ..promise(nodes, &pools(config, self.listener), v4)
        };
        if config.listeners[self.listener].proxy_protocol.is_sent() {
            // The header goes into the client's first segment.
            let header = u16::try_from(proxy_v2::len(v4)).unwrap_or(u16::MAX);
            endpoint.mss = endpoint.mss.saturating_sub(header).max(LEAST_MSS);
        }
        std::mem::replace(&mut self.endpoint, endpoint) != endpoint
    }

    /// What set-up must know.
    #[must_use]
    pub fn settings(&self, config: &Config) -> ListenerSettings {
        let listener = &config.listeners[self.listener];
        ListenerSettings {
            window_scale: self.endpoint.window_scale,
            window: self.endpoint.window,
            mss: self.endpoint.mss,
            sack: self.endpoint.answers & Endpoint::SACK != 0,
            source: match listener.source {
                config::Source::Snat => Source::Snat,
                config::Source::Client => Source::Client,
            },
            proxy_protocol: listener.proxy_protocol.is_sent(),
            tls: matches!(listener.kind, Kind::TlsPassthrough(_)),
        }
    }
}

/// Where a listener's clients may go: to its own pool, and those of its routes.
pub fn pools(config: &Config, listener: usize) -> Vec<usize> {
    let listener = &config.listeners[listener];
    let all = 0..config.pools.len();
    all.filter(|pool| config.leads(listener, *pool)).collect()
}

/// The routes of a listener, as the selector knows pools.
pub fn routes(config: &Config, listener: &config::Listener) -> Vec<(String, usize)> {
    let Kind::TlsPassthrough(routes) = &listener.kind else {
        return Vec::new();
    };
    let pool = |name: &str| config.pools.iter().position(|pool| pool.name == name);
    let routes = routes.0.iter();
    routes
        .filter_map(|(server, name)| Some((server.clone(), pool(name)?)))
        .collect()
}

fn key(address: IpAddr, port: u16) -> EndpointKey {
    EndpointKey {
        address: mapped(address),
        port: port.to_be_bytes(),
        _pad: [0; 2],
    }
}

/// Makes the endpoints map say what the configuration says, and nothing else.
pub fn write(maps: &mut Maps, config: &Config, vips: &[Vip], nodes: &[Node]) -> anyhow::Result<()> {
    let mut wanted = HashMap::new();
    let of = |kind: EndpointKind| Endpoint {
        kind: kind as u8,
        ..Endpoint::default()
    };
    for path in nodes.iter().flat_map(|n| &n.paths) {
        wanted.insert(
            key(path.address.ip(), path.address.port()),
            of(EndpointKind::Backend),
        );
        for source in path.snat.iter() {
            wanted.insert(
                EndpointKey {
                    address: *source,
                    port: [0; 2],
                    _pad: [0; 2],
                },
                of(EndpointKind::Address),
            );
        }
    }
    // The proxy's are the host's own.
    let proxied = |vip: &&Vip| config.listeners[vip.listener].datapath == Datapath::Proxy;
    for vip in vips.iter().filter(|vip| !proxied(vip)) {
        wanted.insert(key(vip.address.ip(), 0), of(EndpointKind::Address));
        wanted.insert(key(vip.address.ip(), vip.address.port()), vip.endpoint);
    }
    let there: Vec<EndpointKey> = maps.endpoints.keys().collect::<Result<_, _>>()?;
    for (key, endpoint) in &wanted {
        maps.endpoints
            .insert(key, endpoint, 0)
            .context("the endpoints map is full: fewer VIPs and backends")?;
    }
    for key in there {
        if !wanted.contains_key(&key) {
            maps.endpoints.remove(&key)?;
        }
    }
    Ok(())
}

/// A number that nobody can guess.
pub fn random() -> anyhow::Result<u64> {
    getrandom::u64().map_err(|e| anyhow::anyhow!("the kernel gives no random numbers: {e}"))
}

/// Secrets of an earlier agent go on, or its cookies and bindings would be void; new ones otherwise.
pub fn secrets(maps: &mut Maps, config: &Config, adopted: bool) -> anyhow::Result<Settings> {
    let mut settings = maps.settings.get(&0, 0)?;
    if !adopted || settings.client_key == [0; 2] {
        settings.cookie_keys = [[random()?, random()?], [random()?, random()?]];
        settings.client_key = [random()?, random()?];
        settings.timestamp_offset = u32::try_from(random()? >> 32)?;
    }
    configure(&mut settings, config);
    write_secrets(maps, &settings)?;
    Ok(settings)
}

/// What of the secrets' neighbours the configuration says.
pub fn configure(settings: &mut Settings, config: &Config) {
    settings.snat_first = *config.snat.ports.start();
    settings.snat_last = *config.snat.ports.end();
    settings.reset_rate = config.limits.rst_rate;
    kernel_setup::limits(settings, config);
}

/// Writes them to their map.
pub fn write_secrets(maps: &mut Maps, settings: &Settings) -> anyhow::Result<()> {
    Ok(maps.settings.set(0, settings, 0)?)
}

/// A new cookie key; cookies of the one before are good until the next rotation.
pub fn rotate(maps: &mut Maps, settings: &mut Settings) -> anyhow::Result<()> {
    let next = settings.cookie_epoch.wrapping_add(1);
    settings.cookie_keys[(next & 1) as usize] = [random()?, random()?];
    settings.cookie_epoch = next;
    write_secrets(maps, settings)
}
