//! A lab for whoever isn't root: brokers, mqlb's proxy data path and clients, all on the loopback interface of
//! the host, at an address of its own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::broker::{accepts, announce};
use crate::fleet::{self, Fleet};
use crate::lab::{self, Lab};
use crate::mqlb::{Steered, binary, ready_lines};
use crate::plan::MQTT_PORT;
use crate::process::{Process, raise_descriptor_limit};
use crate::registry::Registration;
use crate::{http, sockets};

/// How long a program may take to start.
const START: Duration = Duration::from_secs(30);

/// Brokers, and mqlb before them. Dropping it ends them; fleets go first.
#[derive(Debug)]
pub struct Loopback {
    brokers: Vec<Broker>,
    mqlb: Process,
    binary: PathBuf,
    config: PathBuf,
    vip: SocketAddr,
    admin: SocketAddr,
    /// Removes the files when the processes above are gone.
    _registration: Registration,
}

#[derive(Debug)]
struct Broker {
    name: String,
    address: SocketAddr,
    process: Process,
}

impl Loopback {
    /// Starts a broker for each of `weights`, and mqlb.
    ///
    /// # Errors
    /// A program is missing or doesn't start.
    pub fn new(weights: &[u16]) -> Result<Self> {
        raise_descriptor_limit().context("raise the limit of open files")?;
        let registration = Registration::new()?;
        let ports = free_addresses(weights.len() + 2)?;
        let [vip, admin, brokers @ ..] = &ports[..] else {
            unreachable!("at least two were asked for");
        };
        let directory = registration.directory();
        let brokers = (0..)
            .zip(brokers)
            .map(|(n, address)| {
                let name = Lab::broker_name(n);
                let mut command = Command::new(lab::own_binary()?);
                command
                    .arg("broker")
                    .arg("--listen")
                    .arg(address.to_string());
                let log = directory.join(format!("{name}.log"));
                let mut process = Process::start(&name, command, &log)?;
                process.wait_until("an open port", START, |_| accepts(address))?;
                announce(&name, *address)?;
                Ok(Broker {
                    name,
                    address: *address,
                    process,
                })
            })
            .collect::<Result<Vec<_>>>()?;

        let state = directory.join("state").display().to_string();
        let id = registration.id();
        let mut text = format!(
            "[admin]\nhttp = \"{admin}\"\n\n[agent]\nname = \"{id}\"\nstate_dir = \"{state}\"\n\n\
             [[listener]]\nname = \"mqtt\"\nbind = [\"{vip}\"]\npool = \"emqx\"\ndatapath = \"proxy\"\n\n\
             [pool.emqx]\nhealth = {{ kind = \"tcp\", interval = \"1s\", timeout = \"500ms\", rise = 1, fall = 2 }}\n"
        );
        for (Broker { name, address, .. }, weight) in brokers.iter().zip(weights) {
            text += &format!(
                "\n[[pool.emqx.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n"
            );
        }
        let config = directory.join("mqlb.toml");
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let binary = binary()?;
        let mut command = Command::new(&binary);
        command.args(["run", "--config"]).arg(&config);
        let mut mqlb = Process::start("mqlb", command, &directory.join("mqlb.log"))?;
        mqlb.wait_until("READY", START, |process| ready_lines(process) > 0)?;
        Ok(Self {
            brokers,
            mqlb,
            binary,
            config,
            vip: *vip,
            admin: *admin,
            _registration: registration,
        })
    }

    /// Where clients connect to.
    pub fn vip(&self) -> SocketAddr {
        self.vip
    }

    /// A fleet that connects to the VIP.
    ///
    /// # Errors
    /// None are known.
    pub fn fleet(&self) -> Result<Fleet> {
        Fleet::here(fleet::Options::new([self.vip]))
    }

    /// Established connections per broker, counted at the brokers.
    ///
    /// # Errors
    /// A broker is dead.
    pub fn connections(&self) -> Result<BTreeMap<String, usize>> {
        lab::without_checks(|| {
            self.brokers
                .iter()
                .map(|broker| {
                    let count = sockets::established(broker.process.id(), broker.address.port());
                    let count =
                        count.with_context(|| format!("count connections of {}", broker.name))?;
                    Ok((broker.name.clone(), count))
                })
                .collect()
        })
    }

    /// Connections steered, by mqlb's own count.
    ///
    /// # Errors
    /// It doesn't answer.
    pub fn steered(&self) -> Result<Steered> {
        Steered::of(&self.status()?)
    }

    /// `GET /api/v1/status`.
    ///
    /// # Errors
    /// mqlb doesn't answer.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&http::get_here(
            self.admin,
            "/api/v1/status",
        )?)?)
    }

    /// How a user runs a command against this mqlb.
    pub fn shell_command(&self, command: &str) -> String {
        let (binary, config) = (self.binary.display(), self.config.display());
        format!("{binary} {command} --config {config}")
    }

    /// What mqlb logged.
    pub fn log(&self) -> String {
        self.mqlb.output()
    }
}

/// Ports that nobody listens at; the first is MQTT's usual one if that is free.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    // All of 127.0.0.0/8 is this host. No other lab has this process's number, of at most 22 bits.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | high, middle, low);
    let bind = |port| TcpListener::bind((address, port));
    // All at once, so that none is given twice.
    let mut held = vec![bind(MQTT_PORT).or_else(|_| bind(0))?];
    for _ in 1..count {
        held.push(bind(0)?);
    }
    let addresses = held.iter().map(TcpListener::local_addr);
    Ok(addresses.collect::<std::io::Result<_>>()?)
}
