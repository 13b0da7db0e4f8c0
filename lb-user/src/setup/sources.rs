//! Connections that are being read, by where their clients are: one address (IPv6: one /64) may not
//! take the places of all others by beginning CONNECTs that it never ends.

use lb_common::layout::FlowKey;
use lb_common::limits::source::masked;
use std::collections::{BTreeSet, HashMap};

/// See the module. Numbers of connections grow with time.
#[derive(Debug, Default)]
pub(super) struct Sources {
    counts: HashMap<[u8; 16], usize>,
    order: BTreeSet<([u8; 16], u64)>,
}

fn source(client: &FlowKey) -> [u8; 16] {
    masked(&client.src, if client.is_v4() { 128 } else { 64 })
}

impl Sources {
    /// Notes a connection.
    pub fn insert(&mut self, client: &FlowKey, id: u64) {
        let source = source(client);
        if self.order.insert((source, id)) {
            *self.counts.entry(source).or_default() += 1;
        }
    }

    /// Takes it back.
    pub fn remove(&mut self, client: &FlowKey, id: u64) {
        let source = source(client);
        if self.order.remove(&(source, id))
            && let Some(count) = self.counts.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
    }

    /// The oldest connection of a client's source, if there are `most` of it or more.
    pub fn oldest(&self, client: &FlowKey, most: usize) -> Option<u64> {
        let source = source(client);
        if self.counts.get(&source).copied().unwrap_or(0) < most {
            return None;
        }
        let (of, id) = self.order.range((source, 0)..).next()?;
        (*of == source).then_some(*id)
    }

    /// Nothing is noted.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: u8, port: u16) -> FlowKey {
        FlowKey::v4([10, 0, 0, host], port, [10, 0, 1, 1], 1883)
    }

    #[test]
    fn the_oldest_of_the_same_address() {
        let mut sources = Sources::default();
        for id in 0..6 {
            sources.insert(&client(u8::try_from(id % 2).unwrap(), 1), id);
        }
        assert_eq!(sources.oldest(&client(1, 9), 4), None);
        assert_eq!(sources.oldest(&client(1, 9), 3), Some(1));
        assert_eq!(sources.oldest(&client(0, 9), 3), Some(0));
        assert_eq!(sources.oldest(&client(7, 9), 1), None);
        sources.remove(&client(1, 1), 1);
        sources.remove(&client(1, 1), 1);
        assert_eq!(sources.oldest(&client(1, 9), 3), None);
        assert_eq!(sources.oldest(&client(1, 9), 2), Some(3));
        for id in 0..6 {
            sources.remove(&client(u8::try_from(id % 2).unwrap(), 1), id);
        }
        assert!(sources.is_empty());
    }

    #[test]
    fn ipv6_addresses_of_one_network_are_one_source() {
        let key = |last: u8, net: u8| {
            let mut src = [0; 16];
            (src[0], src[7], src[15]) = (0xfd, net, last);
            FlowKey {
                src,
                dst: src,
                src_port: [0; 2],
                dst_port: [0; 2],
            }
        };
        let mut sources = Sources::default();
        sources.insert(&key(1, 1), 4);
        assert_eq!(sources.oldest(&key(2, 1), 1), Some(4));
        assert_eq!(sources.oldest(&key(1, 2), 1), None);
    }
}
