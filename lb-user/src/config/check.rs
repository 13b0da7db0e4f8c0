//! What must hold between the sections of a file.

use std::net::SocketAddr;

use super::listener::Draft as ListenerDraft;
use super::model::{Kind, Listener, Pool, PoolId, Snat, Source};
use super::pool::Draft as PoolDraft;
use super::problem::{At, Problems};
use super::suggest::{alternatives, nearest};

/// Puts listeners and pools together; what comes out is only of use if no problem was reported.
pub(super) fn assemble(
    problems: &Problems,
    listeners: Vec<ListenerDraft>,
    pools: Vec<PoolDraft>,
    snat: &Snat,
) -> (Vec<Listener>, Vec<Pool>) {
    duplicate_names(problems, &listeners);
    duplicate_vips(problems, &listeners);
    backends_that_are_vips(problems, &listeners, &pools);
    let listeners = listeners
        .into_iter()
        .filter_map(|draft| {
            let pool = find_pool(problems, draft.pool.as_ref()?, &pools)?;
            families(problems, &draft, &pools[pool.0], snat);
            let mut kind = draft.kind.clone();
            if let Kind::TlsPassthrough(routes) = &mut kind {
                for (server, wanted) in &draft.routes {
                    let pool = find_pool(problems, wanted, &pools)?;
                    families(problems, &draft, &pools[pool.0], snat);
                    routes.0.push((server.clone(), wanted.value.clone()));
                }
            }
            Some(Listener {
                name: draft.name?.value,
                kind,
                bind: draft.bind.into_iter().map(|vip| vip.value).collect(),
                pool,
                datapath: draft.datapath,
                source: draft.source,
                trusted_proxies: draft.trusted_proxies,
                trusted_edges: draft.trusted_edges,
                proxy_protocol: draft.proxy_protocol,
                tls: draft.tls,
                sticky: draft.sticky,
                max_flows: draft.max_flows,
            })
        })
        .collect();
    (
        listeners,
        pools.into_iter().map(|draft| draft.pool).collect(),
    )
}

fn duplicate_names(problems: &Problems, listeners: &[ListenerDraft]) {
    let mut seen: Vec<&At<String>> = Vec::new();
    for name in listeners
        .iter()
        .filter_map(|listener| listener.name.as_ref())
    {
        if let Some(first) = seen.iter().find(|first| first.value == name.value) {
            let line = problems.line(first.span.start);
            problems.report(
                &name.span,
                format!(
                    "the listener {:?} is already defined in line {line}",
                    name.value
                ),
                "give each listener a name of its own",
            );
        }
        seen.push(name);
    }
}

fn duplicate_vips(problems: &Problems, listeners: &[ListenerDraft]) {
    let mut seen: Vec<&At<SocketAddr>> = Vec::new();
    for vip in listeners.iter().flat_map(|listener| &listener.bind) {
        let same = |one: SocketAddr, other: SocketAddr| {
            let all = one.ip().is_unspecified() || other.ip().is_unspecified();
            one == other || (all && one.is_ipv4() == other.is_ipv4() && one.port() == other.port())
        };
        if let Some(first) = seen.iter().find(|first| same(first.value, vip.value)) {
            let line = problems.line(first.span.start);
            let what = if first.value == vip.value {
                format!("{} is already bound in line {line}", vip.value)
            } else {
                format!("{} and {} of line {line} overlap", vip.value, first.value)
            };
            problems.report(
                &vip.span,
                what,
                "write another address or port, or remove one of the two",
            );
        }
        seen.push(vip);
    }
}

/// A backend that is a VIP would send clients round and round.
fn backends_that_are_vips(problems: &Problems, listeners: &[ListenerDraft], pools: &[PoolDraft]) {
    let ports: Vec<u16> = listeners
        .iter()
        .flat_map(|l| {
            let websocket = l.kind.websocket().map(|websocket| websocket.port);
            [websocket, l.kind.dashboard()]
        })
        .flatten()
        .collect();
    for vip in listeners.iter().flat_map(|listener| &listener.bind) {
        let backends = pools.iter().flat_map(|draft| &draft.pool.backends);
        for backend in backends {
            let is_vip = |socket: SocketAddr| {
                let ip = socket.ip();
                let mut all = ports.iter().map(|port| SocketAddr::new(ip, *port));
                socket == vip.value || all.any(|other| other == vip.value)
            };
            if backend
                .addresses
                .iter()
                .any(|address| is_vip(address.socket))
            {
                problems.report(
                    &vip.span,
                    format!(
                        "{} is also the address of the backend {:?}",
                        vip.value, backend.name
                    ),
                    "write an address that no broker listens on",
                );
            }
        }
    }
}

fn find_pool(problems: &Problems, wanted: &At<String>, pools: &[PoolDraft]) -> Option<PoolId> {
    if let Some(index) = pools
        .iter()
        .position(|draft| draft.name.value == wanted.value)
    {
        return Some(PoolId(index));
    }
    let names = || pools.iter().map(|draft| draft.name.value.as_str());
    let help = match (nearest(&wanted.value, names()), pools.is_empty()) {
        (Some(name), _) => format!(
            "did you mean {name:?}? defined pools: {}",
            alternatives(names())
        ),
        (None, false) => format!(
            "write pool = {}, or define [pool.{}]",
            alternatives(names()),
            wanted.value
        ),
        (None, true) => format!("define [pool.{}] with its backends", wanted.value),
    };
    problems.report(
        &wanted.span,
        format!("no pool is named {:?}", wanted.value),
        help,
    );
    None
}

/// A VIP's clients are only sent to backends, and from sources, of the VIP's own address family.
fn families(problems: &Problems, listener: &ListenerDraft, pool: &PoolDraft, snat: &Snat) {
    for vip in &listener.bind {
        let same = |is_ipv4: bool| is_ipv4 == vip.value.is_ipv4();
        let (family, example) = if vip.value.is_ipv4() {
            ("IPv4", "10.0.0.2:1883")
        } else {
            ("IPv6", "[fd00::2]:1883")
        };
        let mut backends = pool.pool.backends.iter();
        // The proxy can lead from one family to the other.
        let forwarded = !listener.proxied;
        if forwarded
            && pool.complete
            && !backends.any(|b| b.addresses.iter().any(|a| same(a.socket.is_ipv4())))
        {
            problems.report(
                &vip.span,
                format!(
                    "{} is {family}, but no backend of the pool {:?} has an {family} address",
                    vip.value, pool.name.value
                ),
                format!("add {example:?} to the address of a backend, or remove this VIP"),
            );
        }
        let snat_lacks =
            !snat.addresses.is_empty() && !snat.addresses.iter().any(|ip| same(ip.is_ipv4()));
        if forwarded && listener.source == Source::Snat && snat_lacks {
            problems.report(
                &vip.span,
                format!(
                    "{} is {family}, but [snat] addresses has no {family} address",
                    vip.value
                ),
                format!("add an {family} address to [snat] addresses, or leave addresses out"),
            );
        }
    }
}
