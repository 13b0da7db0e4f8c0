//! The wires of a lab: namespaces, bridges and addresses.
//!
//! ```text
//!  clients ── eth0 ┐                                        ┌ eth0 ── broker 0
//!                  ├─ bridge "front" ── eth0 │ lb │ eth1 ── bridge "back" ─┤
//!  host ───────────┘      (switch)                (switch)  └ eth0 ── broker n
//! ```
//!
//! With one arm the brokers sit on "front" too and the balancer has both addresses on `eth0`.
//!
//! What veth needs for XDP: frames redirected out of the balancer are only taken by a peer with NAPI,
//! which "gro on" gives it; what XDP_TX sends, only by a peer with a program ([`XdpPass`]); and whoever
//! originates traffic must compute checksums itself ("tx off"), or XDP sees partial ones.

use anyhow::{Context, Result};

use crate::cards::{Cards, End, Wires};
use crate::lab::Options;
use crate::netns::{Netns, run};
use crate::plan::{Pair, Plan};
use crate::registry::Registration;
use crate::wire::{self, Wire};
use crate::xdp_pass::XdpPass;

/// How the balancer is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arms {
    /// Clients and brokers on one interface.
    One,
    /// Clients on `eth0`, brokers on `eth1`.
    #[default]
    Two,
}

/// What the wires' ends do to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// What XDP needs: complete checksums everywhere, and takers of redirected frames.
    #[default]
    Xdp,
    /// For the kernel's stack on the balancer, with its offloads. Clients and brokers write complete checksums, as
    /// they come from a network; no XDP program anywhere.
    Kernel,
    /// As the kernel makes them: checksums are left out and segments of 64 KB stay whole, which no network can do.
    Offloads,
}

/// The namespaces of a lab.
#[derive(Debug)]
pub struct Topology {
    pub plan: Plan,
    pub lb: Netns,
    pub clients: Netns,
    pub switch: Netns,
    pub brokers: Vec<Netns>,
    /// The balancer's interfaces, for its configuration.
    pub interfaces: Vec<&'static str>,
    /// The bad wires at the balancer's interfaces, in their order; none if they are plain ones.
    pub wires: Vec<Wire>,
    /// On the outer ends of the balancer's interfaces.
    programs: Vec<XdpPass>,
    /// Queues of each wire.
    queues: u32,
    ends: Ends,
    /// In place of veth pairs.
    cards: Option<Cards>,
}

impl Topology {
    /// Creates all namespaces with their wires and addresses; `registration` undoes them.
    ///
    /// # Errors
    /// Not root, or the kernel lacks veth or bridges.
    pub fn build(registration: &Registration, plan: Plan, options: &Options) -> Result<Self> {
        let &Options { arms, wire, .. } = options;
        // A card here has one queue.
        let wires = match options.queues {
            1 => options.wires,
            _ => Wires::Veth,
        };
        let create = |role: &str| {
            let name = format!("{}-{role}", registration.id());
            registration.undo_with(&format!("ip netns del {name}"))?;
            Netns::create(name)
        };
        let mut topology = Self {
            plan,
            lb: create("lb")?,
            clients: create("clients")?,
            switch: create("switch")?,
            brokers: (1..=options.backends)
                .map(|n| create(&format!("broker{n}")))
                .collect::<Result<_>>()?,
            interfaces: match arms {
                Arms::One => vec!["eth0"],
                Arms::Two => vec!["eth0", "eth1"],
            },
            wires: Vec::new(),
            programs: Vec::new(),
            queues: options.queues,
            ends: options.ends,
            cards: Cards::take(wires)?,
        };
        topology.bridges()?;
        topology.balancer(arms, wire)?;
        topology.clients()?;
        topology.brokers(arms)?;
        if wire.is_some_and(|wire| wire.vlan.is_some()) {
            topology.know_neighbours(arms)?;
            if topology.cards.is_some() {
                // No VLAN device stands for the tag, and these cards filter by those (docs/operating.md).
                let promiscuous = |device| format!("link set {device} promisc on");
                topology
                    .lb
                    .ip(topology.interfaces.iter().map(promiscuous))?;
            }
        }
        Ok(topology)
    }

    /// Connects the host's own namespace to the clients' side, through an interface named `device`.
    ///
    /// # Errors
    /// The host has an interface of that name.
    pub fn connect_host(&self, registration: &Registration, device: &str) -> Result<()> {
        registration.undo_with(&format!("ip link del {device}"))?;
        let pid = std::process::id();
        self.switch.ip([
            format!("link add host type veth peer name {device} netns {pid}"),
            "link set host master front up".into(),
        ])?;
        let mut ip = std::process::Command::new("ip");
        ip.args(["link", "set", device, "up"]);
        run(&mut ip)?;
        for line in self.plan.host().assign(device) {
            run(std::process::Command::new("ip").args(line.split(' ')))?;
        }
        run(std::process::Command::new("ethtool").args(["-K", device, "tx", "off"]))?;
        Ok(())
    }

    fn bridges(&self) -> Result<()> {
        for bridge in ["front", "back"] {
            self.switch.ip([format!("link add {bridge} type bridge")])?;
            self.switch
                .sysctl(&[(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1")])?;
            self.switch.ip([format!("link set {bridge} up")])?;
        }
        Ok(())
    }

    fn balancer(&mut self, arms: Arms, wire: Option<wire::Options>) -> Result<()> {
        // A router: health checks and whatever is not steered pass through the stack.
        self.lb.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        let (vip, gateway) = (self.plan.vip(), self.plan.gateway());
        self.plug_balancer(0, "eth0", "lb0", vip)?;
        self.assign(vip, "eth0")?;
        self.join("lb0", "front", wire)?;
        match arms {
            Arms::One => self.assign(gateway, "eth0"),
            Arms::Two => {
                self.plug_balancer(1, "eth1", "lb1", gateway)?;
                self.assign(gateway, "eth1")?;
                self.join("lb1", "back", wire)
            }
        }
    }

    /// Wire `n` of the balancer, from its `device` to `port` in the switch.
    fn plug_balancer(&self, n: u8, device: &str, port: &str, own: Pair) -> Result<()> {
        let Some(cards) = &self.cards else {
            return self.plug(&self.lb, device, port, own);
        };
        cards.place(n, End::Outer, &self.switch, port, None)?;
        match cards.wires {
            Wires::Elsewhere => Ok(()),
            _ => {
                let address = link_address(own);
                cards.place(n, End::Balancer, &self.lb, device, Some(&address))
            }
        }
    }

    /// Gives the balancer an address, if it is here.
    fn assign(&self, pair: Pair, device: &str) -> Result<()> {
        match &self.cards {
            Some(cards) if cards.wires == Wires::Elsewhere => Ok(()),
            _ => self.lb.ip(pair.assign(device)),
        }
    }

    /// Whether the balancer's interfaces are network cards, whose driver takes XDP programs.
    pub fn has_cards(&self) -> bool {
        self.cards.is_some()
    }

    /// Connects the outer end of one of the balancer's interfaces to a bridge.
    fn join(&mut self, port: &str, bridge: &str, wire: Option<wire::Options>) -> Result<()> {
        if self.ends == Ends::Xdp && self.cards.is_none() {
            self.ethtool(&self.switch, port, &["gro", "on"])?;
            let program = self
                .switch
                .enter(|| XdpPass::attach(port))?
                .with_context(|| format!("attach an XDP program to {port} in the switch"))?;
            self.programs.push(program);
        }
        let Some(options) = wire else {
            return self.switch.ip([format!("link set {port} master {bridge}")]);
        };
        let near = format!("{port}-wire");
        self.switch.ip([
            // NAPI as "gro on" gives it, but nothing merged: the wire carries frames as they were sent.
            format!("link set {port} gro_max_size 1"),
            // Outside of a bridge a card takes only what is addressed to itself.
            format!("link set {port} promisc on"),
            format!("link add {near} type veth peer name {port}-port"),
            format!("link set {near} up"),
            format!("link set {port}-port master {bridge} up"),
        ])?;
        self.wires
            .push(Wire::connect(&self.switch, &near, port, options)?);
        Ok(())
    }

    /// Tells everybody the balancer's link addresses and the balancer everybody's: on a trunk it has no
    /// VLAN interface that would answer ARP and neighbour solicitations.
    fn know_neighbours(&self, arms: Arms) -> Result<()> {
        let plan = self.plan;
        let (vip, gateway) = (plan.vip(), plan.gateway());
        let lb_back = match arms {
            Arms::One => ("eth0", vip),
            Arms::Two => ("eth1", gateway),
        };
        self.clients.ip(neighbours(vip, vip, "eth0"))?;
        self.lb
            .ip(neighbours(plan.client(), plan.client(), "eth0"))?;
        for (n, netns) in self.brokers.iter().enumerate() {
            netns.ip(neighbours(gateway, lb_back.1, "eth0"))?;
            self.lb
                .ip(neighbours(plan.broker(n), plan.broker(n), lb_back.0))?;
        }
        Ok(())
    }

    fn clients(&self) -> Result<()> {
        // Tens of thousands of connections to one VIP, and reconnects while old ports are in TIME_WAIT.
        self.clients
            .sysctl(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
        self.endpoint(
            &self.clients,
            "clients",
            "front",
            self.plan.client(),
            self.plan.vip(),
        )
    }

    /// Gives the clients their further address `n`, which only those get that bind to it.
    ///
    /// # Errors
    /// They have it already.
    pub fn add_client(&self, n: u8) -> Result<Pair> {
        let pair = self.plan.other_client(n);
        self.clients.ip([
            format!("addr add {}/24 dev eth0", pair.v4),
            format!("addr add {}/64 dev eth0 nodad preferred_lft 0", pair.v6),
        ])?;
        Ok(pair)
    }

    fn brokers(&self, arms: Arms) -> Result<()> {
        let bridge = match arms {
            Arms::One => "front",
            Arms::Two => "back",
        };
        for (n, netns) in self.brokers.iter().enumerate() {
            let port = format!("broker{}", n + 1);
            self.endpoint(
                netns,
                &port,
                bridge,
                self.plan.broker(n),
                self.plan.gateway(),
            )?;
        }
        Ok(())
    }

    /// A namespace with one interface, `eth0`, and a default route.
    fn endpoint(
        &self,
        netns: &Netns,
        port: &str,
        bridge: &str,
        own: Pair,
        gateway: Pair,
    ) -> Result<()> {
        self.plug(netns, "eth0", port, own)?;
        self.switch
            .ip([format!("link set {port} master {bridge}")])?;
        netns.ip(own.assign("eth0"))?;
        netns.ip(gateway.route())
    }

    /// A plain wire from `device` in `netns` to `port` in the switch. `own` names its link address.
    fn plug(&self, netns: &Netns, device: &str, port: &str, own: Pair) -> Result<()> {
        let queues = format!("numtxqueues {0} numrxqueues {0}", self.queues);
        self.switch.ip([
            format!(
                "link add {port} {queues} type veth peer name {device} address {} {queues} netns {}",
                link_address(own),
                netns.name()
            ),
            format!("link set {port} up"),
        ])?;
        let complete = match self.ends {
            Ends::Xdp => true,
            Ends::Kernel => netns.name() != self.lb.name(),
            Ends::Offloads => false,
        };
        if complete {
            self.ethtool(netns, device, &["tx", "off"])?;
        }
        if self.queues > 1 {
            // Both ends: a bridge forgets which queue a packet came from.
            spread(netns, device, self.queues)?;
            spread(&self.switch, port, self.queues)?;
        }
        netns.ip([format!("link set {device} up")])
    }

    fn ethtool(&self, netns: &Netns, device: &str, features: &[&str]) -> Result<()> {
        run(netns
            .command("ethtool")?
            .args(["-K", device])
            .args(features))?;
        Ok(())
    }
}

/// Gives each CPU the queue of its number (Documentation/networking/scaling.rst, XPS). sysfs shows the
/// devices of the namespace that it was mounted in, so it is mounted anew.
fn spread(netns: &Netns, device: &str, queues: u32) -> Result<()> {
    for queue in 0..queues {
        let file = format!("/sys/class/net/{device}/queues/tx-{queue}/xps_cpus");
        let write = format!("echo {:x} > {file}", 1u32 << queue);
        let mut ip = std::process::Command::new("ip");
        run(ip.args(["netns", "exec", netns.name(), "sh", "-c", &write]))?;
    }
    Ok(())
}

/// A locally administered link address that shows the IPv4 address.
fn link_address(pair: Pair) -> String {
    let bytes = link_bytes(pair).map(|byte| format!("{byte:02x}"));
    bytes.join(":")
}

/// The same in bytes.
pub fn link_bytes(pair: Pair) -> [u8; 6] {
    let [a, b, c, d] = pair.v4.octets();
    [2, 0, a, b, c, d]
}

/// `ip` batch lines: both addresses of `pair` are at the link address of the interface that `at` is on.
pub fn neighbours(pair: Pair, at: Pair, device: &str) -> [String; 2] {
    pair.addresses().map(|address| {
        let link = link_address(at);
        format!("neigh replace {address} lladdr {link} dev {device} nud permanent")
    })
}
