//! What is measured: ways from the clients to the brokers.

pub mod arena;
mod haproxy;
mod nftables;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub use arena::Arena;
pub use haproxy::Stick;

use crate::topology::Ends;

/// One of them. Its name says which, in options and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    pub name: String,
    pub kind: Kind,
    pub ends: Ends,
}

impl System {
    /// Forwards by XDP.
    pub fn is_xdp(&self) -> bool {
        self.kind == Kind::MqlbXdp
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The balancer's namespace forwards, and the clients know the brokers' addresses: the floor.
    Direct,
    /// DNAT by connection tracking: a balancer that doesn't know MQTT.
    Nftables,
    HaProxy {
        program: PathBuf,
        threads: u8,
        stick: Stick,
        splice: bool,
    },
    MqlbXdp,
    MqlbProxy,
}

/// What is measured unless the user says otherwise.
pub const USUAL: [&str; 5] = ["direct", "nftables", "haproxy", "mqlb-xdp", "mqlb-proxy"];
/// Variants to be asked for.
pub const VARIANTS: [&str; 6] = [
    "haproxy-1t",
    "haproxy-hash",
    "haproxy-splice",
    "haproxy-hash-1t",
    "haproxy-offloads",
    "direct-offloads",
];
/// Where Debian and others put it.
const HAPROXY: &str = "/usr/sbin/haproxy";

impl System {
    /// By its name; `haproxy…@PATH` is another program than the installed one.
    ///
    /// # Errors
    /// There is no such system.
    pub fn named(text: &str) -> Result<Self> {
        let (words, program) = text.split_once('@').unwrap_or((text, HAPROXY));
        let (base, variants) = match words.split_once('-') {
            Some(("mqlb", _)) | None => (words, ""),
            Some(parts) => parts,
        };
        let mut ends = Ends::Kernel;
        let mut kind = match base {
            "direct" => Kind::Direct,
            "nftables" => Kind::Nftables,
            "mqlb-xdp" => {
                ends = Ends::Xdp;
                Kind::MqlbXdp
            }
            "mqlb-proxy" => Kind::MqlbProxy,
            "haproxy" => Kind::HaProxy {
                program: program.into(),
                threads: 2,
                stick: Stick::Table,
                splice: false,
            },
            _ => bail!(
                "no system is named {text}; there are {}, {}",
                USUAL.join(", "),
                VARIANTS.join(", ")
            ),
        };
        for variant in variants.split('-').filter(|word| !word.is_empty()) {
            match (&mut kind, variant) {
                (Kind::HaProxy { threads, .. }, "1t") => *threads = 1,
                (Kind::HaProxy { stick, .. }, "hash") => *stick = Stick::Hash,
                (Kind::HaProxy { splice, .. }, "splice") => *splice = true,
                (_, "offloads") => ends = Ends::Offloads,
                _ => bail!(
                    "{base} has no variant {variant}; there are {}",
                    VARIANTS.join(", ")
                ),
            }
        }
        Ok(Self {
            name: text.to_owned(),
            kind,
            ends,
        })
    }

    /// What the program says of its version; none for what is in the kernel.
    ///
    /// # Errors
    /// It can't be started.
    pub fn version(&self) -> Result<Option<String>> {
        let program = match &self.kind {
            Kind::Direct | Kind::Nftables => return Ok(None),
            Kind::HaProxy { program, .. } => program.clone(),
            Kind::MqlbXdp | Kind::MqlbProxy => crate::mqlb::binary()?,
        };
        let mut command = std::process::Command::new(&program);
        let said = crate::netns::run(command.arg(match self.kind {
            Kind::HaProxy { .. } => "-v",
            _ => "--version",
        }))
        .with_context(|| format!("ask {} for its version", program.display()))?;
        Ok(said.lines().next().map(str::to_owned))
    }

    pub fn is_haproxy(&self) -> bool {
        matches!(self.kind, Kind::HaProxy { .. })
    }

    /// Remembers clients by their identifier.
    pub fn is_sticky(&self) -> bool {
        !matches!(self.kind, Kind::Direct | Kind::Nftables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_run() {
        for name in USUAL.iter().chain(&VARIANTS) {
            assert_eq!(System::named(name).unwrap().name, *name);
        }
        let one = System::named("haproxy-hash-1t@/opt/haproxy").unwrap();
        let expected = Kind::HaProxy {
            program: "/opt/haproxy".into(),
            threads: 1,
            stick: Stick::Hash,
            splice: false,
        };
        assert_eq!((one.kind, one.ends), (expected, Ends::Kernel));
        assert_eq!(System::named("mqlb-xdp").unwrap().ends, Ends::Xdp);
        for wrong in ["", "haproxi", "haproxy-3t", "direct-hash", "mqlb"] {
            assert!(System::named(wrong).is_err(), "{wrong}");
        }
    }
}
