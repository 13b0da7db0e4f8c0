//! HAProxy, or mqlb, in the balancer's namespace with the configurations of docker-compose.yml and the hosted
//! set-up, `haproxy/haproxy.cfg` and `mqlb/mqlb.toml`: variables come from the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;
use crate::{http, mqlb};

/// The HTTP front's port in tests, and that of the statistics.
pub const FRONT_PORT: u16 = 8080;
pub const STATS_PORT: u16 = 8888;

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("lb-tests lies in the workspace")
}

/// A balancer to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// "HAProxy 2.6.12", for messages.
    pub name: String,
    pub kind: Kind,
    /// The program, and arguments that come before its own.
    words: Vec<OsString>,
}

/// Whose configuration it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    HaProxy,
    Mqlb,
}

impl Program {
    /// Every HAProxy, and mqlb.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn all() -> Result<Vec<Self>> {
        let mut programs = Self::haproxies()?;
        programs.push(Self::mqlb()?);
        Ok(programs)
    }

    /// mqlb alone.
    ///
    /// # Errors
    /// It is missing.
    pub fn mqlb() -> Result<Self> {
        Ok(Self {
            name: "mqlb".to_owned(),
            kind: Kind::Mqlb,
            words: vec![mqlb::binary()?.into()],
        })
    }

    /// The HAProxies that the configuration is tested with: the distribution's, and a newer one that
    /// `cargo xtask setup` unpacked, unless it noted why there is none.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn haproxies() -> Result<Vec<Self>> {
        let mut programs = vec![Self::new(vec!["/usr/sbin/haproxy".into()])?];
        let newer = repository().join("target/newer-packages");
        if newer.join("root").is_dir() {
            programs.push(Self::unpacked(&newer.join("root"))?);
        } else if let Ok(reason) = std::fs::read_to_string(newer.join("UNAVAILABLE")) {
            eprintln!("HAProxy 3.x is not tested: {}", reason.trim());
        } else {
            bail!(
                "no newer HAProxy in {}: run `cargo xtask setup`",
                newer.display()
            );
        }
        Ok(programs)
    }

    /// Packages unpacked beside the system: its own dynamic linker and libraries go with the program.
    fn unpacked(root: &Path) -> Result<Self> {
        let libraries = std::fs::read_dir(root.join("usr/lib"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.join("libc.so.6").exists())
            .with_context(|| format!("no C library in {}", root.display()))?;
        let linker = std::fs::read_dir(&libraries)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("ld-linux")
            })
            .with_context(|| format!("no dynamic linker in {}", libraries.display()))?;
        Self::new(vec![
            linker.into(),
            "--library-path".into(),
            libraries.into(),
            root.join("usr/sbin/haproxy").into(),
        ])
    }

    fn new(words: Vec<OsString>) -> Result<Self> {
        let output = Command::new(&words[0])
            .args(&words[1..])
            .arg("-v")
            .output()
            .with_context(|| format!("start {words:?}: run `cargo xtask setup`"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split(' ').nth(2);
        let version = version.with_context(|| format!("no version in {text:?}"))?;
        let version = version.split('-').next().unwrap_or_default();
        Ok(Self {
            name: format!("HAProxy {version}"),
            kind: Kind::HaProxy,
            words,
        })
    }

    /// The program with its configuration, to be run in `netns`.
    fn run(&self, netns: &Netns, tls: bool) -> Result<Command> {
        let mut command = self.command(netns)?;
        let file = |name: &str| repository().join(name);
        match self.kind {
            Kind::HaProxy => {
                command.arg("-db").arg("-f");
                command.arg(file("haproxy/haproxy.cfg"));
                if tls {
                    command.arg("-f").arg(file("haproxy/tls.cfg"));
                }
            }
            Kind::Mqlb => {
                let name = if tls {
                    "mqlb/tls.toml"
                } else {
                    "mqlb/mqlb.toml"
                };
                command.args(["run", "--config"]).arg(file(name));
            }
        }
        Ok(command)
    }

    /// `PROGRAM ARGUMENTS…`, to be run in `netns`.
    fn command(&self, netns: &Netns) -> Result<Command> {
        let mut command = netns.command(&self.words[0])?;
        command.args(&self.words[1..]);
        Ok(command)
    }

    /// `haproxy -c` on configuration files of the repository. Returns what it said.
    ///
    /// # Errors
    /// HAProxy refuses the configuration.
    pub fn check(&self, files: &[&str], variables: &BTreeMap<String, String>) -> Result<String> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(["-c", "-V"]);
        for file in files {
            command.arg("-f").arg(repository().join(file));
        }
        let output = command.env_clear().envs(variables).output()?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said += &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", self.name);
        Ok(said)
    }
}

/// The variables of `.env.sample`, with their defaults.
///
/// # Errors
/// The file is gone.
pub fn sample() -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(repository().join(".env.sample")).context(".env.sample")?;
    Ok(text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// How a balancer is run in a lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// Added to the sample's variables, or in place of them. Hosts are the brokers' IPv4 addresses if nothing
    /// else is said.
    pub variables: Vec<(&'static str, String)>,
    /// With TLS, and the certificates of this directory.
    pub certificate: Option<PathBuf>,
    /// In place of the host's `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Nodes that are up before the start counts as done; `None`: as soon as it listens.
    pub up: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            variables: Vec::new(),
            certificate: None,
            resolv_conf: None,
            up: Some(3),
        }
    }
}

impl Options {
    /// These weights for the three nodes.
    pub fn weights(weights: [u16; 3]) -> Self {
        let variables = ["EMQX1_WEIGHT", "EMQX2_WEIGHT", "EMQX3_WEIGHT"];
        let values = weights.map(|weight| weight.to_string());
        Self {
            variables: variables.into_iter().zip(values).collect(),
            ..Self::default()
        }
    }
}

/// A running balancer. Dropping it kills it.
#[derive(Debug)]
pub struct Recipe {
    pub kind: Kind,
    netns: Netns,
    stats: SocketAddr,
    process: Process,
}

impl Recipe {
    /// Starts it and waits until its checks have found the nodes.
    ///
    /// # Errors
    /// It refuses its configuration, or the nodes are not up within 20 s.
    pub fn start(lab: &Lab, program: &Program, options: &Options) -> Result<Self> {
        let netns = lab.topology.lb.clone();
        let mut command = program.run(&netns, options.certificate.is_some())?;
        let mut variables = sample()?;
        for n in 0..lab.topology.brokers.len() {
            let host = lab.topology.plan.broker(n).v4.to_string();
            variables.insert(format!("EMQX{}_HOST", n + 1), host);
        }
        for (name, value) in &options.variables {
            variables.insert((*name).to_owned(), value.clone());
        }
        if let Some(certificate) = &options.certificate {
            variables.insert("TLS_CERTIFICATE".into(), certificate.display().to_string());
        }
        // mqlb keeps its state under its name.
        variables.insert("MQLB_NAME".into(), lab.id().to_owned());
        lab.undo_with(&format!("rm -rf /var/lib/mqlb/{}", lab.id()))?;
        command.env_clear().envs(&variables);
        if let Some(file) = &options.resolv_conf {
            crate::netns::replace_resolv_conf(&mut command, file)?;
        }
        let log = lab.directory().join(format!("{}.log", program.name));
        let process = Process::start(&program.name, command, &log)?;
        let stats = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, STATS_PORT));
        let mut recipe = Self {
            kind: program.kind,
            netns,
            stats,
            process,
        };
        match options.up {
            Some(nodes) => recipe.wait_until_up(nodes)?,
            None => recipe.wait_until_open()?,
        }
        Ok(recipe)
    }

    /// Waits until this many nodes are up, no more and no fewer.
    ///
    /// # Errors
    /// They are not within 40 s.
    pub fn wait_until_up(&mut self, nodes: usize) -> Result<()> {
        let (netns, stats, kind) = (self.netns.clone(), self.stats, self.kind);
        let what = format!("{nodes} nodes that are up");
        self.process
            .wait_until(&what, Duration::from_secs(40), |_| {
                let up = match kind {
                    Kind::HaProxy => table(&netns, stats).map(|table| {
                        let up = |row: &&BTreeMap<String, String>| {
                            row["pxname"] == "emqx_mqtt"
                                && row["svname"].starts_with("emqx")
                                && row["status"].starts_with("UP")
                        };
                        table.iter().filter(up).count()
                    }),
                    Kind::Mqlb => backends(&netns, stats).map(|backends| {
                        let up = |backend: &&Value| backend["state"] == "up";
                        backends.iter().filter(up).count()
                    }),
                };
                up.is_ok_and(|up| up == nodes)
            })
    }

    fn wait_until_open(&mut self) -> Result<()> {
        let (netns, stats) = (self.netns.clone(), self.stats);
        let open = || TcpStream::connect(stats).is_ok();
        self.process
            .wait_until("an open port", Duration::from_secs(40), |_| {
                netns.enter(open).unwrap_or(false)
            })
    }

    /// How many MQTT sessions it has led to nodes so far, and how many it turned away.
    ///
    /// # Errors
    /// It has no statistics, or not these in them.
    pub fn led_and_rejected(&self) -> Result<(u64, u64)> {
        let number = |value: &Value| value.as_u64().context("no number in the status");
        match self.kind {
            Kind::HaProxy => {
                let led = ["emqx1", "emqx2", "emqx3"]
                    .map(|server| self.statistic("emqx_mqtt", server, "stot"));
                let led = led.into_iter().sum::<Result<u64>>()?;
                Ok((led, self.statistic("mqtt", "FRONTEND", "dreq")?))
            }
            Kind::Mqlb => {
                let status = status(&self.netns, self.stats)?;
                let rejects = status["rejects"].as_object().context("no rejects")?;
                let rejected = rejects.values().map(number).sum::<Result<u64>>()?;
                Ok((number(&status["steered"]["agent"])?, rejected))
            }
        }
    }

    /// A number of HAProxy's statistics: of a proxy's server, or its FRONTEND or BACKEND.
    fn statistic(&self, proxy: &str, server: &str, field: &str) -> Result<u64> {
        let table = table(&self.netns, self.stats)?;
        let row = table
            .iter()
            .find(|row| row["pxname"] == proxy && row["svname"] == server)
            .with_context(|| format!("no {proxy}/{server} in the statistics"))?;
        let value = row
            .get(field)
            .with_context(|| format!("no field {field}"))?;
        value
            .parse()
            .with_context(|| format!("{field} is {value:?}"))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

/// mqlb's status.
fn status(netns: &Netns, admin: SocketAddr) -> Result<Value> {
    Ok(serde_json::from_str(&http::get(
        netns,
        admin,
        "/api/v1/status",
    )?)?)
}

/// The backends in mqlb's status.
fn backends(netns: &Netns, admin: SocketAddr) -> Result<Vec<Value>> {
    let backends = status(netns, admin)?["pools"][0]["backends"].take();
    Ok(serde_json::from_value(backends)?)
}

/// The statistics as CSV (HAProxy's management guide, section 9.1), a map for each row.
fn table(netns: &Netns, stats: SocketAddr) -> Result<Vec<BTreeMap<String, String>>> {
    let text = http::get(netns, stats, "/stats;csv")?;
    let mut lines = text.trim_start_matches("# ").lines();
    let names: Vec<_> = lines.next().context("no header")?.split(',').collect();
    Ok(lines
        .map(|line| {
            let values = line.split(',').map(str::to_owned);
            names
                .iter()
                .map(|name| (*name).to_owned())
                .zip(values)
                .collect()
        })
        .filter(|row: &BTreeMap<_, _>| {
            ["pxname", "svname", "status"]
                .iter()
                .all(|&name| row.contains_key(name))
        })
        .collect())
}
