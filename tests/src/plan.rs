//! Who has which address in a lab.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | VIP, on the balancer's `eth0` | 10.77.0.2 | fd77::2 |
//! | clients | 10.77.0.10 | fd77::10 |
//! | their further address n (from 0) | 10.77.0.(128+n) | fd77::(80+n), hexadecimal |
//! | the host's own shell | 10.77.0.254 | fd77::fe |
//! | balancer, towards the brokers | 10.77.1.1 | fd77:1::1 |
//! | broker n (from 0) | 10.77.1.(2+n) | fd77:1::(2+n) |
//!
//! Inside namespaces these collide with nobody. Only labs with a link to the host need a network of
//! their own each: theirs have another number in place of 77.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The MQTT port of the VIP and of every broker.
pub const MQTT_PORT: u16 = 1883;

/// The lowest number of a lab's networks, and the only one of labs without a link to the host.
pub const FIRST_NETWORK: u8 = 77;

/// The addresses of one lab.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    network: u8,
}

/// An IPv4 and an IPv6 address of the same interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Plan {
    /// The plan for networks 10.`network`.0.0/16 and fd`network`::/32; `network` is from 77 to 99.
    pub fn new(network: u8) -> Self {
        assert!((FIRST_NETWORK..100).contains(&network));
        Self { network }
    }

    pub fn network(&self) -> u8 {
        self.network
    }

    pub fn vip(&self) -> Pair {
        self.pair(0, 2)
    }

    pub fn client(&self) -> Pair {
        self.pair(0, 10)
    }

    /// Further addresses of the clients, from 0: those who come from elsewhere.
    pub fn other_client(&self, n: u8) -> Pair {
        assert!(n < 64);
        self.pair(0, 128 + n)
    }

    pub fn host(&self) -> Pair {
        Pair {
            v6: self.pair(0, 0xfe).v6,
            ..self.pair(0, 254)
        }
    }

    /// The balancer's address towards the brokers: their default route.
    pub fn gateway(&self) -> Pair {
        self.pair(1, 1)
    }

    /// Broker `n`, from 0.
    pub fn broker(&self, n: usize) -> Pair {
        self.pair(
            1,
            2 + u8::try_from(n).expect("a lab has fewer than 200 brokers"),
        )
    }

    /// Network 0 is the clients' side, 1 the brokers'.
    fn pair(&self, side: u8, host: u8) -> Pair {
        let [tens, ones] = [self.network / 10, self.network % 10].map(u16::from);
        // The two digits of `network` are read as hexadecimal, so that both families look alike.
        let prefix = 0xfd00 | tens << 4 | ones;
        Pair {
            v4: Ipv4Addr::new(10, self.network, side, host),
            v6: Ipv6Addr::new(prefix, u16::from(side), 0, 0, 0, 0, 0, u16::from(host)),
        }
    }
}

impl Pair {
    /// Both addresses with a port, IPv4 first.
    pub fn sockets(self, port: u16) -> [SocketAddr; 2] {
        self.addresses()
            .map(|address| SocketAddr::new(address, port))
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// `ip` batch lines that give `device` both addresses, usable at once (no duplicate detection).
    pub fn assign(self, device: &str) -> [String; 2] {
        [
            format!("addr add {}/24 dev {device}", self.v4),
            format!("addr add {}/64 dev {device} nodad", self.v6),
        ]
    }

    /// `ip` batch lines that make this the default route.
    pub fn route(self) -> [String; 2] {
        [
            format!("route add default via {}", self.v4),
            format!("route add ::/0 via {}", self.v6),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_contract() {
        let plan = Plan::new(77);
        let text = |pair: Pair| pair.sockets(MQTT_PORT).map(|s| s.to_string());
        assert_eq!(text(plan.vip()), ["10.77.0.2:1883", "[fd77::2]:1883"]);
        assert_eq!(text(plan.broker(2)), ["10.77.1.4:1883", "[fd77:1::4]:1883"]);
        assert_eq!(
            text(Plan::new(80).host()),
            ["10.80.0.254:1883", "[fd80::fe]:1883"]
        );
    }
}
