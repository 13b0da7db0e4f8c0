//! virtio network cards as the wires at the balancer's interfaces, in place of veth pairs: the XDP programs then run
//! in a driver of real devices.
//!
//! The guests of `cargo xtask vm test` have such cards (`xtask/src/vm/nic.rs`), whose link addresses say which wire
//! they are an end of: 52:54:00:77:WIRE:END. Wires come in sets of two, one for each side of the balancer, and a lab
//! has a set for itself. Cards outlive namespaces: at the end of one they come back to the namespace they came from,
//! where the next lab waits for them.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::netns::{Netns, run};
use crate::registry::Registration;

/// How the balancer's interfaces are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wires {
    Veth,
    /// Both ends are cards of this machine, which has so many sets of them.
    Cards {
        sets: u8,
    },
    /// The outer ends are cards of this machine; the balancer is another one.
    Elsewhere,
}

impl Wires {
    /// Cards, if `MQLB_LAB_CARDS` says how many sets there are.
    pub fn from_environment() -> Self {
        match std::env::var("MQLB_LAB_CARDS") {
            Ok(sets) => Self::Cards {
                sets: sets.parse().expect("MQLB_LAB_CARDS is a number of sets"),
            },
            Err(_) => Self::Veth,
        }
    }
}

/// Which end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Balancer,
    Outer,
}

/// For cards to come back, and for a set to be free.
const PATIENCE: Duration = Duration::from_secs(300);

/// A set of two wires, held until it is dropped.
#[derive(Debug)]
pub struct Cards {
    set: u8,
    pub wires: Wires,
    /// Held for its flock.
    _lock: Option<File>,
}

impl Cards {
    /// Waits for a free set; `None` with veth.
    ///
    /// # Errors
    /// Others keep them all.
    pub fn take(wires: Wires) -> Result<Option<Self>> {
        let sets = match wires {
            Wires::Veth => return Ok(None),
            Wires::Elsewhere => {
                return Ok(Some(Self {
                    set: 0,
                    wires,
                    _lock: None,
                }));
            }
            Wires::Cards { sets } => sets,
        };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for set in 0..sets {
                if let Some(lock) = Registration::reserve_cards(set)? {
                    return Ok(Some(Self {
                        set,
                        wires,
                        _lock: Some(lock),
                    }));
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("none of {sets} sets of network cards became free within {PATIENCE:?}")
    }

    /// Moves an end of this set's wire `n` (0 or 1) into `netns`, as `device` with this link address, and brings it up.
    ///
    /// # Errors
    /// The card doesn't come back from the namespace it was in last.
    pub fn place(
        &self,
        n: u8,
        end: End,
        netns: &Netns,
        device: &str,
        address: Option<&str>,
    ) -> Result<()> {
        let card = wait_for(self.set * 2 + n, end)?;
        let mut ip = Command::new("ip");
        ip.args(["link", "set", &card, "netns", netns.name(), "name", device]);
        run(&mut ip)?;
        // Whoever had it last may have changed it.
        netns.ip([format!("link set {device} mtu 1500 promisc off")])?;
        if let Some(address) = address {
            netns.ip([format!("link set {device} address {address}")])?;
        }
        netns.ip([format!("link set {device} up")])
    }
}

/// The name of the card at this end of a wire, as soon as it is in this namespace.
///
/// # Errors
/// It doesn't come.
pub fn wait_for(wire: u8, end: End) -> Result<String> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let links = run(Command::new("ip").args(["-json", "link", "show"]))?;
        let links = serde_json::from_str(&links).context("ip's JSON")?;
        if let Some(name) = find(&links, wire, end) {
            return Ok(name);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("no network card for the {end:?} end of wire {wire} within {PATIENCE:?}")
}

fn find(links: &Value, wire: u8, end: End) -> Option<String> {
    let end = match end {
        End::Balancer => 0,
        End::Outer => 1,
    };
    let built_in = format!("52:54:00:77:{wire:02x}:{end:02x}");
    let link = links.as_array()?.iter().find(|link| {
        // The permanent address is shown only if the present one is another.
        let address = link.get("permaddr").unwrap_or(&link["address"]);
        address == built_in.as_str()
    })?;
    Some(link["ifname"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_the_address_they_were_built_with() {
        let links = serde_json::json!([
            {"ifname": "lo", "address": "00:00:00:00:00:00"},
            {"ifname": "eth3", "address": "02:00:0a:4d:00:02", "permaddr": "52:54:00:77:01:00"},
            {"ifname": "eth4", "address": "52:54:00:77:01:01"},
        ]);
        assert_eq!(find(&links, 1, End::Balancer).as_deref(), Some("eth3"));
        assert_eq!(find(&links, 1, End::Outer).as_deref(), Some("eth4"));
        assert_eq!(find(&links, 2, End::Outer), None);
    }
}
