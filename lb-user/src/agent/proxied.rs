//! What the proxy's connections ask: the answers are those that set-up gets for XDP, from the same tables.

use std::net::{IpAddr, SocketAddr};

use lb_common::layout::{Source, SourceKey, Verdict};
use lb_common::limits::credit::Credit;

use super::core::Core;
use super::nodes::{Node, mapped, socket_address};
use super::vips::{self, Vip};
use crate::config::{Config, Datapath};
use crate::dataplane::clock;
use crate::proxy::desk::{Ask, Client, Excess, Page, Target, Wish};
use crate::proxy::{self, Options};
use crate::select::NodeState;
use crate::setup::{Choice, Datapath as _, NoChoice, Request, Steering as _};

/// The VIPs that the proxy serves.
pub fn vips(config: &Config, vips: &[Vip]) -> Vec<proxy::Vip> {
    vips.iter()
        .filter(|vip| config.listeners[vip.listener].datapath == Datapath::Proxy)
        .map(|vip| {
            let listener = &config.listeners[vip.listener];
            proxy::Vip {
                index: vip.index,
                address: vip.address,
                options: Options {
                    kind: listener.kind.clone(),
                    proxy_protocol: listener.proxy_protocol,
                    tls: listener.tls.clone(),
                    handshake: config.timeouts.handshake,
                    sticky: listener.sticky,
                    trusted: listener.trusted_proxies.clone(),
                    edges: listener.trusted_edges.clone(),
                    sources: config.snat.addresses.clone(),
                },
            }
        })
        .collect()
}

fn target(choice: &Choice) -> Target {
    let address: SocketAddr = socket_address(choice.address, choice.port);
    Target {
        slot: choice.slot,
        address,
    }
}

impl Core {
    /// Answers one question of the proxy.
    pub(super) fn proxied(&mut self, ask: Ask) {
        // Whoever asked may have gone: what it was granted counts until the next sweep.
        match ask {
            Ask::Source(listener, source, answer) => {
                let _ = answer.send(self.source(listener, source));
            }
            Ask::Admit(client, answer) => {
                let _ = answer.send(self.steerer.admit(client.listener, client.id));
            }
            Ask::Choose(client, server, tried, answer) => {
                let _ = answer.send(self.choose(&client, server.as_deref(), &tried));
            }
            Ask::Page(wish, answer) => {
                let _ = answer.send(self.page(&wish));
            }
            Ask::Opened(client, slot) => {
                self.steerer.opened(client.listener, slot, client.id);
                self.kernel.count(Verdict::SteeredAgent, 0);
            }
            Ask::Failed(slot, failure) => {
                self.steerer.failed(slot, failure);
            }
            Ask::Count(verdict, bytes) => self.kernel.count(verdict, bytes),
        }
    }

    /// A backend of the client's address family; of the other if there is none, which a proxy can.
    fn choose(
        &mut self,
        client: &Client,
        server: Option<&str>,
        tried: &[u16],
    ) -> Result<Target, NoChoice> {
        let mut of = |v4| {
            let request = Request {
                listener: client.listener,
                v4,
                client: client.id,
                shared: client.shared,
                server,
                tried,
            };
            self.steerer.choose(&request)
        };
        match of(client.v4) {
            Ok(choice) => Ok(target(&choice)),
            Err(why) => of(!client.v4).map(|c| target(&c)).map_err(|_| why),
        }
    }

    /// The node that a browser was at, if it can serve; else one that takes clients, at random by weight.
    fn page(&self, wish: &Wish) -> Option<Page> {
        let vip = self.vips.iter().find(|vip| vip.index == wish.listener)?;
        let pool = self.config.listeners[vip.listener].pool.0;
        let of = |node: &Node| {
            let paths = node.paths.iter().filter(|p| p.usable());
            let mut paths = paths
                .filter(|p| !wish.tried.contains(&p.slot))
                .collect::<Vec<_>>();
            paths.sort_by_key(|p| p.address.is_ipv4() != wish.v4);
            let path = paths.first()?;
            Some(Page {
                slot: path.slot,
                name: node.name.clone(),
                address: path.address,
            })
        };
        let mut nodes = self.steerer.nodes.iter().filter(|n| n.pool == Some(pool));
        let stays = |n: &&Node| {
            Some(&n.name) == wish.node.as_ref()
                && matches!(n.state, NodeState::Up | NodeState::Draining)
        };
        if let Some(page) = nodes.clone().find(stays).and_then(of) {
            return Some(page);
        }
        let able: Vec<(u64, Page)> = nodes
            .by_ref()
            .filter(|n| n.state == NodeState::Up)
            .filter_map(|n| Some((u64::from(n.share()), of(n)?)))
            .collect();
        let all: u64 = able.iter().map(|(weight, _)| weight).sum();
        // Those of weight 0 are better than none.
        let mut at = vips::random().unwrap_or(0) % all.max(1);
        let drawn = able.iter().position(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        able.into_iter()
            .nth(drawn.unwrap_or(0))
            .map(|(_, page)| page)
    }

    /// Whether a source may begin a connection, as the XDP program decides it.
    fn source(&mut self, listener: u8, address: IpAddr) -> Result<(), Excess> {
        let rules = self.limits.rules().get();
        let Some(limits) = rules.listeners.get(usize::from(listener)) else {
            return Ok(());
        };
        let key = SourceKey::new(limits, &mapped(address), address.is_ipv4());
        let sources = &mut self.kernel.maps.sources;
        let mut source = sources.get(&key, 0).unwrap_or(Source {
            credit: Credit {
                opened: 0,
                // The sweeper corrects this if the source has connections already.
                open_until: Credit::until(0, limits.source_flows, 0),
            },
            ..Source::default()
        });
        if limits.source_flows != 0 && source.credit.left() == 0 {
            return Err(Excess::TooMany);
        }
        let next = limits.source_pace.take(source.connects, clock::now_ns());
        source.connects = next.ok_or(Excess::TooOften)?;
        source.credit.opened = source.credit.opened.wrapping_add(1);
        if let Err(error) = sources.insert(key, source, 0) {
            tracing::warn!("a source can't be written: {error}");
        }
        Ok(())
    }
}
