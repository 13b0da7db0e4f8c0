//! One lab, from its creation to its clean-up.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::broker::{Broker, Kind};
use crate::cards::Wires;
use crate::fleet::{self, Fleet};
use crate::plan::{FIRST_NETWORK, MQTT_PORT, Plan};
use crate::process::raise_descriptor_limit;
use crate::registry::Registration;
use crate::topology::{Arms, Ends, Topology};
use crate::wire;

/// What a lab consists of.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Backends: namespaces with an address each.
    pub backends: usize,
    /// What runs in them; `None`: nothing yet.
    pub broker: Option<Kind>,
    pub arms: Arms,
    /// What the wires at the balancer's interfaces do to frames; `None`: they are plain ones.
    pub wire: Option<wire::Options>,
    /// Make the VIP reachable from the host's own namespace.
    pub host: bool,
    /// Queues of each wire. With more than one, what a CPU sends takes the queue of its number.
    pub queues: u32,
    /// What the wires' ends do to frames.
    pub ends: Ends,
    /// What the wires at the balancer's interfaces are.
    pub wires: Wires,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backends: 3,
            broker: Some(Kind::Mosquitto),
            arms: Arms::Two,
            wire: None,
            host: false,
            queues: 1,
            ends: Ends::default(),
            wires: Wires::from_environment(),
        }
    }
}

/// Namespaces and brokers. Dropping it removes them; balancers and fleets go first.
#[derive(Debug)]
pub struct Lab {
    /// In the order of their addresses; empty without [`Options::broker`].
    pub brokers: Vec<Broker>,
    pub topology: Topology,
    /// Undoes the topology, so it is dropped after the processes above.
    registration: Registration,
    /// Held for its flock.
    _network: Option<File>,
}

impl Lab {
    /// Builds the lab and starts its brokers.
    ///
    /// # Errors
    /// Not root, a tool is missing, or a broker does not start. Nothing is left behind then.
    pub fn new(options: Options) -> Result<Self> {
        require_root()?;
        raise_descriptor_limit().context("raise the limit of open files")?;
        let registration = Registration::new()?;
        let (network, reserved) = if options.host {
            let (network, reserved) = Registration::reserve_network()?;
            (network, Some(reserved))
        } else {
            (FIRST_NETWORK, None)
        };
        let plan = Plan::new(network);
        let topology = Topology::build(&registration, plan, &options)?;
        if options.host {
            topology.connect_host(&registration, &format!("mqlb-lab{network}"))?;
        }
        let mut lab = Self {
            brokers: Vec::new(),
            topology,
            registration,
            _network: reserved,
        };
        if let Some(kind) = options.broker {
            for n in 0..options.backends {
                let broker = Broker::start(
                    kind,
                    Self::broker_name(n),
                    &lab.topology.brokers[n],
                    plan.broker(n),
                    lab.registration.directory(),
                )?;
                lab.brokers.push(broker);
            }
        }
        Ok(lab)
    }

    /// The name of backend `n` (from 0), in configurations and for its clients.
    pub fn broker_name(n: usize) -> String {
        format!("emqx{}", n + 1)
    }

    /// Unique on this host.
    pub fn id(&self) -> &str {
        self.registration.id()
    }

    /// For configurations and logs; removed with the lab.
    pub fn directory(&self) -> &Path {
        self.registration.directory()
    }

    /// Adds a shell command to what the end of the lab undoes, however it comes.
    ///
    /// # Errors
    /// The list cannot be written.
    pub fn undo_with(&self, command: &str) -> Result<()> {
        self.registration.undo_with(command)
    }

    /// A fleet in the clients' namespace that connects to the VIP, over IPv4 and IPv6.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn fleet(&self) -> Result<Fleet> {
        self.fleet_with(|_| {})
    }

    /// As [`Lab::fleet`], with other options.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn fleet_with(&self, change: impl FnOnce(&mut fleet::Options)) -> Result<Fleet> {
        let mut options = fleet::Options::new(self.topology.plan.vip().sockets(MQTT_PORT));
        change(&mut options);
        Fleet::new(&self.topology.clients, options)
    }

    /// Established connections per broker, counted at the brokers.
    ///
    /// # Errors
    /// A broker is dead.
    pub fn connections(&self) -> Result<BTreeMap<String, usize>> {
        without_checks(|| {
            let brokers = self.brokers.iter();
            brokers
                .map(|broker| Ok((broker.name.clone(), broker.connections()?)))
                .collect()
        })
    }
}

/// A health check's connection lives for less than a millisecond: the least of some counts leaves it out.
pub(crate) fn without_checks(
    count: impl Fn() -> Result<BTreeMap<String, usize>>,
) -> Result<BTreeMap<String, usize>> {
    let mut least = count()?;
    for _ in 1..3 {
        thread::sleep(Duration::from_millis(30));
        for (name, now) in count()? {
            let count = least.entry(name).or_insert(now);
            *count = now.min(*count);
        }
    }
    Ok(least)
}

/// # Errors
/// This process is not root's; the message says how to become it.
pub fn require_root() -> Result<()> {
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!(
            "the lab needs root, for network namespaces and XDP: run it with `sudo`, or as \
             `cargo xtask run` and `cargo xtask test`, which ask for it"
        );
    }
    Ok(())
}

/// The program `mqlb-lab`: this one, or for a test the one that cargo built with it.
///
/// # Errors
/// There is none.
pub fn own_binary() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    if this.file_name().is_some_and(|name| name == "mqlb-lab") {
        return Ok(this);
    }
    sibling_binary("mqlb-lab").context("cargo builds mqlb-lab with the tests of lb-tests")
}

/// The program `name` in the directory that cargo builds programs into.
///
/// # Errors
/// There is none.
pub fn sibling_binary(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    // A test is in deps/, a directory below.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} beside {}", this.display()))
}
