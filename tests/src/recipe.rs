//! HAProxy in the balancer's namespace with the project's own configuration, `haproxy/haproxy.cfg`, as
//! docker-compose.yml and the hosted set-up run it: variables come from the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::http;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;

/// The HTTP front's port in tests, and that of the statistics.
pub const FRONT_PORT: u16 = 8080;
pub const STATS_PORT: u16 = 8888;

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("lb-tests lies in the workspace")
}

/// A HAProxy to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// "2.6.12", for messages.
    pub version: String,
    /// The program, and arguments that come before HAProxy's own.
    words: Vec<OsString>,
}

impl Program {
    /// Those that the configuration is tested with: the distribution's, and a newer one that
    /// `cargo xtask setup` unpacked, unless it noted why there is none.
    ///
    /// # Errors
    /// One of them is missing.
    pub fn all() -> Result<Vec<Self>> {
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
        let version = version.split('-').next().unwrap_or_default().to_owned();
        Ok(Self { version, words })
    }

    /// `haproxy ARGUMENTS…`, to be run in `netns`.
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
        ensure!(output.status.success(), "HAProxy {}: {said}", self.version);
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

/// How HAProxy is run in a lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// Added to the sample's variables, or in place of them. Hosts are the brokers' IPv4 addresses if nothing
    /// else is said.
    pub variables: Vec<(&'static str, String)>,
    /// With `tls.cfg` and this certificate.
    pub certificate: Option<PathBuf>,
    /// In place of the host's `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Nodes that are up before the start counts as done.
    pub up: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            variables: Vec::new(),
            certificate: None,
            resolv_conf: None,
            up: 3,
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

/// A running HAProxy. Dropping it kills it.
#[derive(Debug)]
pub struct Recipe {
    netns: Netns,
    stats: SocketAddr,
    process: Process,
}

impl Recipe {
    /// Starts HAProxy and waits until its checks have found the nodes.
    ///
    /// # Errors
    /// It refuses its configuration, or the nodes are not up within 20 s.
    pub fn start(lab: &Lab, program: &Program, options: &Options) -> Result<Self> {
        let netns = lab.topology.lb.clone();
        let mut command = program.command(&netns)?;
        command.arg("-db").arg("-f");
        command.arg(repository().join("haproxy/haproxy.cfg"));
        let mut variables = sample()?;
        for n in 0..lab.topology.brokers.len() {
            let host = lab.topology.plan.broker(n).v4.to_string();
            variables.insert(format!("EMQX{}_HOST", n + 1), host);
        }
        for (name, value) in &options.variables {
            variables.insert((*name).to_owned(), value.clone());
        }
        if let Some(certificate) = &options.certificate {
            command.arg("-f").arg(repository().join("haproxy/tls.cfg"));
            variables.insert("TLS_CERTIFICATE".into(), certificate.display().to_string());
        }
        command.env_clear().envs(&variables);
        if let Some(file) = &options.resolv_conf {
            crate::netns::replace_resolv_conf(&mut command, file)?;
        }
        let log = lab
            .directory()
            .join(format!("haproxy-{}.log", program.version));
        let process = Process::start("haproxy", command, &log)?;
        let stats = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, STATS_PORT));
        let mut recipe = Self {
            netns,
            stats,
            process,
        };
        recipe.wait_until_up(options.up)?;
        Ok(recipe)
    }

    /// Waits until this many nodes are up, no more and no fewer.
    ///
    /// # Errors
    /// They are not within 20 s.
    pub fn wait_until_up(&mut self, nodes: usize) -> Result<()> {
        let (netns, stats) = (self.netns.clone(), self.stats);
        let what = format!("{nodes} nodes that are up");
        self.process
            .wait_until(&what, Duration::from_secs(20), |_| {
                // With a password set they are not for us to see; the test then waits by itself.
                let Ok(table) = table(&netns, stats) else {
                    return netns
                        .enter(|| TcpStream::connect(stats).is_ok())
                        .unwrap_or(false)
                        && nodes == 0;
                };
                let up = |row: &&BTreeMap<String, String>| {
                    row["pxname"] == "emqx_mqtt"
                        && row["svname"].starts_with("emqx")
                        && row["status"].starts_with("UP")
                };
                table.iter().filter(up).count() == nodes
            })
    }

    /// A number of the statistics: of a proxy's server, or its FRONTEND or BACKEND.
    ///
    /// # Errors
    /// No statistics, or no such number in them.
    pub fn statistic(&self, proxy: &str, server: &str, field: &str) -> Result<u64> {
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

    /// What HAProxy logged.
    pub fn log(&self) -> String {
        self.process.output()
    }
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
