//! A system, running: a lab of its own with brokers that answer and clients that can be measured.
//!
//! All arenas of a run exist at the same time and rest while another is measured, so that the systems can take turns
//! without being started anew.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Kind, System, haproxy, nftables};
use crate::balancer;
use crate::bench::cpu::{Meter, Used};
use crate::bench::load::Held;
use crate::bench::load::dial::{self, Dialer, Dialled};
use crate::lab::{self, Lab};
use crate::mqlb::Mqlb;
use crate::plan::MQTT_PORT;
use crate::process::Process;
use crate::sockets;

/// Clients' addresses beside the first.
const OTHER_CLIENTS: u8 = 15;

/// Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Arena {
    pub system: System,
    running: Running,
    brokers: Vec<Option<Process>>,
    dialer: Dialer,
    /// Identifiers that nobody used before end in this.
    fresh: u64,
    /// Clients that were connected by [`Arena::know`].
    known: usize,
    pub lab: Lab,
}

#[derive(Debug)]
enum Running {
    Kernel,
    HaProxy(Process),
    Mqlb(Box<Mqlb>),
}

impl Arena {
    /// Builds and starts it.
    ///
    /// # Errors
    /// Not root, or a program is missing or doesn't start.
    pub fn new(system: System, brokers: usize) -> Result<Self> {
        let name = system.name.clone();
        Self::build(system, brokers).with_context(|| format!("start {name}"))
    }

    fn build(system: System, backends: usize) -> Result<Self> {
        let lab = Lab::new(lab::Options {
            backends,
            broker: None,
            ends: system.ends,
            ..lab::Options::default()
        })?;
        tune(&lab)?;
        let brokers = (0..backends)
            .map(|n| responder(&lab, n).map(Some))
            .collect::<Result<_>>()?;
        let plan = lab.topology.plan;
        let vip = plan.vip().sockets(MQTT_PORT)[0];
        let mut targets = vec![vip];
        let running = match &system.kind {
            Kind::Direct => {
                targets = (0..backends)
                    .map(|n| plan.broker(n).sockets(MQTT_PORT)[0])
                    .collect();
                Running::Kernel
            }
            Kind::Nftables => {
                nftables::load(&lab)?;
                Running::Kernel
            }
            Kind::HaProxy { .. } => Running::HaProxy(start_haproxy(&lab, &system.kind)?),
            Kind::MqlbXdp => mqlb(&lab, "xdp")?,
            Kind::MqlbProxy => mqlb(&lab, "proxy")?,
        };
        let mut sources = vec![plan.client().addresses()[0]];
        for n in 0..OTHER_CLIENTS {
            sources.push(lab.topology.add_client(n)?.addresses()[0]);
        }
        let arena = Self {
            system,
            running,
            brokers,
            dialer: Dialer::new(sources, targets),
            fresh: 0,
            known: 0,
            lab,
        };
        Ok(arena)
    }

    /// The clock of everything that takes part.
    ///
    /// # Errors
    /// A process is gone.
    pub fn meter(&self) -> Result<Meter> {
        let brokers = self.brokers.iter().flatten().map(Process::id);
        Meter::new(&brokers.chain(self.balancer()).collect::<Vec<_>>())
    }

    /// The balancer's process, if it has one.
    pub fn balancer(&self) -> Option<u32> {
        match &self.running {
            Running::Kernel => None,
            Running::HaProxy(process) => Some(process.id()),
            Running::Mqlb(mqlb) => Some(mqlb.pid()),
        }
    }

    pub fn mqlb(&self) -> Option<&Mqlb> {
        match &self.running {
            Running::Mqlb(mqlb) => Some(mqlb),
            _ => None,
        }
    }

    /// Runs `work` as the clients and measures the CPU time of everything that takes part.
    ///
    /// # Errors
    /// `work` failed, or a process is gone.
    pub fn measured<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<(T, Used)> {
        let meter = self.meter()?;
        let begun = meter.begin()?;
        let result = self.lab.topology.clients.enter(work)??;
        let used = meter.since(&begun)?;
        Ok((result, used))
    }

    /// Connects clients from where they are, as [`dial::run`].
    ///
    /// # Errors
    /// A socket can't be had, or a process is gone.
    pub fn dial(
        &mut self,
        ids: &mut (dyn Iterator<Item = String> + Send),
        plan: dial::Plan,
    ) -> Result<(Dialled, Used)> {
        let meter = self.meter()?;
        let begun = meter.begin()?;
        let dialer = &mut self.dialer;
        let dialled = self
            .lab
            .topology
            .clients
            .enter(|| dial::run(dialer, ids, plan))??;
        let used = meter.since(&begun)?;
        Ok((dialled, used))
    }

    /// Connects `count` clients once, if that was not done yet: whoever remembers clients does so from then on.
    ///
    /// # Errors
    /// One of them failed.
    pub fn know(&mut self, count: usize) -> Result<()> {
        if self.known < count {
            let mut ids = (self.known..count).map(Self::known_id);
            let plan = dial::Plan {
                keep: false,
                ..dial::Plan::keep(64)
            };
            self.dial(&mut ids, plan)?.0.all()?;
            self.known = count;
        }
        Ok(())
    }

    /// The identifier of known client `n`.
    pub fn known_id(n: usize) -> String {
        format!("known-{n:013}")
    }

    /// As [`Arena::dial`], with identifiers that nobody used before.
    ///
    /// # Errors
    /// As there.
    pub fn dial_new(&mut self, count: usize, plan: dial::Plan) -> Result<(Dialled, Used)> {
        let first = self.fresh;
        // As many as are used at most; what isn't is never used.
        self.fresh += u64::try_from(count.min(1 << 40))?;
        let mut ids = (first..).take(count).map(|n| format!("new-{n:015}"));
        self.dial(&mut ids, plan)
    }

    /// So many new clients, all of them connected.
    ///
    /// # Errors
    /// As for [`Arena::dial`], or a connect failed.
    pub fn hold(&mut self, count: usize, window: usize) -> Result<Held> {
        let (dialled, _) = self.dial_new(count, dial::Plan::keep(window))?;
        Ok(dialled.all()?.held)
    }

    /// Ends the balancer's process at once, and starts another, as an upgrade would; `gracefully`: by SIGTERM.
    ///
    /// # Errors
    /// It doesn't end or doesn't start again.
    pub fn restart(&mut self, gracefully: bool) -> Result<()> {
        match &mut self.running {
            Running::Kernel => bail!("{} has no process to restart", self.system.name),
            Running::HaProxy(process) => {
                if gracefully {
                    process.terminate(Duration::from_secs(20))?;
                } else {
                    process.kill();
                }
                self.running = Running::HaProxy(start_haproxy(&self.lab, &self.system.kind)?);
            }
            Running::Mqlb(mqlb) => {
                if gracefully {
                    mqlb.terminate()?;
                } else {
                    mqlb.kill();
                }
                mqlb.restart()?;
            }
        }
        Ok(())
    }

    /// Forwards by XDP.
    pub fn is_xdp(&self) -> bool {
        self.system.is_xdp()
    }

    /// Waits until no client is connected to any broker.
    ///
    /// # Errors
    /// There still are some after 30 s.
    pub fn settle(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let brokers = self.brokers.iter().flatten();
            let counts = brokers.map(|broker| sockets::established(broker.id(), MQTT_PORT));
            let left: usize = counts.sum::<Result<_>>()?;
            // A health check may be there.
            if left <= self.brokers.len() {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "{left} connections are still open"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What broker `n` calls itself.
    pub fn broker_address(&self, n: usize) -> String {
        self.lab.topology.plan.broker(n).sockets(MQTT_PORT)[0].to_string()
    }

    /// Waits until the balancer has noticed that a broker went or came back. Asking each kind of balancer would be
    /// more exact, but here nothing is measured.
    pub fn wait_for_checks(&self) {
        // Twice what two checks in a row need, at one a second.
        std::thread::sleep(Duration::from_secs(5));
    }

    /// Ends broker `n`; its connections are reset.
    pub fn kill_broker(&mut self, n: usize) {
        self.brokers[n] = None;
    }

    /// # Errors
    /// It doesn't start.
    pub fn start_broker(&mut self, n: usize) -> Result<()> {
        self.brokers[n] = Some(responder(&self.lab, n)?);
        Ok(())
    }
}

/// What any operator of so many connections sets, on every host and for every system the same.
fn tune(lab: &Lab) -> Result<()> {
    let topology = &lab.topology;
    for netns in topology
        .brokers
        .iter()
        .chain([&topology.lb, &topology.clients])
    {
        netns.sysctl(&[
            ("net/core/somaxconn", "65535"),
            ("net/ipv4/tcp_max_syn_backlog", "65535"),
            ("net/ipv4/ip_local_port_range", "1024 65535"),
            ("net/ipv4/tcp_tw_reuse", "1"),
        ])?;
    }
    // Where Docker has been, bridges give each frame to the firewall's hooks, which no switch does.
    let filter = [
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    ];
    if filter
        .iter()
        .all(|key| std::path::Path::new("/proc/sys").join(key).exists())
    {
        topology.switch.sysctl(&filter.map(|key| (key, "0")))?;
    }
    Ok(())
}

fn responder(lab: &Lab, n: usize) -> Result<Process> {
    let netns = &lab.topology.brokers[n];
    let address = lab.topology.plan.broker(n).sockets(MQTT_PORT)[0];
    let mut command = netns.command(lab::own_binary()?)?;
    command.args(["responder", "--listen", &address.to_string()]);
    let name = Lab::broker_name(n);
    let log = lab.directory().join(format!("{name}.log"));
    let mut process = Process::start(&name, command, &log)?;
    process.wait_until("an open port", Duration::from_secs(20), |_| {
        let open = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        netns.enter(open).unwrap_or(false)
    })?;
    Ok(process)
}

fn start_haproxy(lab: &Lab, kind: &Kind) -> Result<Process> {
    let Kind::HaProxy {
        program,
        threads,
        stick,
        splice,
    } = kind
    else {
        bail!("{kind:?} is no HAProxy");
    };
    let options = haproxy::Options {
        program,
        threads: *threads,
        stick: *stick,
        splice: *splice,
    };
    haproxy::start(lab, options)
}

fn mqlb(lab: &Lab, datapath: &str) -> Result<Running> {
    let options = balancer::Options {
        listener: format!("datapath = \"{datapath}\""),
        extra: "\n[snat]\nports = \"1024-65535\"\n".into(),
        ..balancer::Options::default()
    };
    Ok(Running::Mqlb(Box::new(Mqlb::start(lab, &options)?)))
}
