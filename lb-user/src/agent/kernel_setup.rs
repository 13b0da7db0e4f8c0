//! What the XDP program must know to set up connections by itself: listeners, source
//! addresses, limits.

use anyhow::Context as _;
use lb_common::layout::{
    IdleLimits, Listener, SNAT_ADDRESSES, Settings, source_mode, steer, ticks,
};

use super::sweep::lifetime;
use super::vips::Vip;
use crate::config::{self, Config, Kind, SetUp};
use crate::dataplane::Maps;

fn span(d: std::time::Duration) -> u32 {
    ticks::span(nanos(d))
}

fn nanos(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// From a CONNECT's keep-alive to an idle limit.
#[must_use]
pub fn idle_limits(config: &Config) -> IdleLimits {
    IdleLimits {
        grace: nanos(config.timeouts.grace),
        least: nanos(config.timeouts.keepalive_least),
        zero: nanos(config.timeouts.keepalive_zero),
    }
}

/// Puts the limits into the settings.
pub fn limits(settings: &mut Settings, config: &Config) {
    settings.idle = idle_limits(config);
    settings.linger = span(lifetime(config.bindings.linger));
    settings.connect_timeout = span(config.timeouts.connect);
    settings.client_id = u32::try_from(config.limits.client_id).unwrap_or(u32::MAX);
}

/// The entry of a VIP with these limits.
fn listener(config: &Config, vip: &Vip, limits: Listener) -> Listener {
    let listener = &config.listeners[vip.listener];
    Listener {
        steer: match (&listener.kind, listener.proxy_protocol.is_sent()) {
            _ if config.xdp.set_up == SetUp::None => steer::AGENT,
            (Kind::Mqtt, false) => steer::KERNEL,
            (Kind::Mqtt, true) => steer::KERNEL_PROXY,
            // The program reads no TLS.
            _ => steer::AGENT,
        },
        source: match listener.source {
            config::Source::Snat => source_mode::SNAT,
            config::Source::Client => source_mode::CLIENT,
        },
        window_scale: vip.endpoint.window_scale,
        answers: vip.endpoint.answers,
        mss: vip.endpoint.mss,
        ..limits
    }
}

/// Tells the program of the listeners, whose limits are in `limits` by the VIP's index. Called with every
/// change of what VIPs promise.
pub fn write_listeners(
    maps: &mut Maps,
    config: &Config,
    vips: &[Vip],
    limits: &[Listener],
) -> anyhow::Result<()> {
    for index in 0..=u8::MAX {
        let vip = vips.iter().find(|vip| vip.index == index);
        // Those that are served no more are nobody's.
        let limits = limits.get(usize::from(index)).copied().unwrap_or_default();
        let wanted = vip.map_or(limits, |vip| listener(config, vip, limits));
        let index = u32::from(index);
        if maps.listeners.get(&index, 0)? != wanted {
            maps.listeners.set(index, wanted, 0)?;
        }
    }
    Ok(())
}

/// Place and length of a list of source addresses.
type Range = (u16, u16);

/// The map of source addresses. Places that backends name are never given to other addresses while the map
/// lives: lists are only added, and equal ones share a place.
pub struct SnatTable(Vec<[u8; 16]>);

impl SnatTable {
    /// With what an earlier agent has entered.
    pub fn read(maps: &Maps) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        for index in 0..SNAT_ADDRESSES {
            let address = maps
                .snat
                .get(&index, 0)
                .context("the map SNAT can't be read")?;
            if address == [0; 16] {
                break;
            }
            addresses.push(address);
        }
        Ok(Self(addresses))
    }

    /// Place and length of a list of addresses, which is entered if it isn't there. Length 0 if the map is
    /// full: then the agent opens all connections to that backend.
    pub fn range(&mut self, maps: &mut Maps, list: &[[u8; 16]]) -> anyhow::Result<Range> {
        let (range, new) = self.find(list);
        for (at, address) in new {
            maps.snat
                .set(at, address, 0)
                .context("the map SNAT can't be written")?;
        }
        Ok(range)
    }

    /// The same, with the entries that are to be written.
    fn find(&mut self, list: &[[u8; 16]]) -> (Range, Vec<(u32, [u8; 16])>) {
        let Ok(len) = u16::try_from(list.len()) else {
            return ((0, 0), Vec::new());
        };
        if list.is_empty() {
            return ((0, 0), Vec::new());
        }
        let there = self.0.windows(list.len()).position(|w| w == list);
        let first = there.unwrap_or(self.0.len());
        let Ok(place) = u16::try_from(first) else {
            return ((0, 0), Vec::new());
        };
        if there.is_some() {
            return ((place, len), Vec::new());
        }
        if first + list.len() > SNAT_ADDRESSES as usize {
            tracing::warn!(
                "more than {SNAT_ADDRESSES} source addresses, past ones included: connections to some backends are opened by the agent only, until `mqlb unload`"
            );
            return ((0, 0), Vec::new());
        }
        self.0.extend(list);
        let new = (u32::from(place)..).zip(list.iter().copied()).collect();
        ((place, len), new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_share_a_place_and_places_stay() {
        let mut table = SnatTable(vec![]);
        let [a, b, c] = [[1; 16], [2; 16], [3; 16]];
        assert_eq!(table.find(&[a, b]), ((0, 2), vec![(0, a), (1, b)]));
        assert_eq!(table.find(&[c]), ((2, 1), vec![(2, c)]));
        assert_eq!(table.find(&[a, b]), ((0, 2), vec![]));
        assert_eq!(table.find(&[b]), ((1, 1), vec![]));
        assert_eq!(table.find(&[b, a]), ((3, 2), vec![(3, b), (4, a)]));
        assert_eq!(table.find(&[]), ((0, 0), vec![]));
    }

    #[test]
    fn a_full_map_takes_no_more_lists() {
        let address = |n: u32| {
            let mut address = [9; 16];
            address[..4].copy_from_slice(&n.to_be_bytes());
            address
        };
        let mut table = SnatTable((0..SNAT_ADDRESSES - 1).map(address).collect());
        assert_eq!(
            table.find(&[address(5000), address(5001)]),
            ((0, 0), vec![])
        );
        assert_eq!(table.find(&[address(5000)]).0, (1023, 1));
        assert_eq!(table.find(&[address(5001)]).0, (0, 0));
        assert_eq!(table.find(&[address(7)]).0, (7, 1));
    }
}
