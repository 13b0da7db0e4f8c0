//! `mqlb` in the balancer's namespace.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::balancer::Options;
use crate::http;
use crate::lab::{Lab, sibling_binary};
use crate::netns::{Netns, replace_resolv_conf, run};
use crate::pace::slowness;
use crate::plan::{MQTT_PORT, Pair};
use crate::process::Process;

/// Where the HTTP interface listens, inside the balancer's namespace.
const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8888);

/// A running `mqlb`. Dropping it kills the agent and unloads its programs.
#[derive(Debug)]
pub struct Mqlb {
    netns: Netns,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    resolv_conf: Option<PathBuf>,
    starter: Vec<String>,
    process: Process,
}

impl Mqlb {
    /// Writes the configuration, starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// No binary, or the agent is not ready within 30 s; the message holds its log.
    pub fn start(lab: &Lab, options: &Options) -> Result<Self> {
        let (binary, directory) = match &options.directory {
            Some(directory) => (directory.join("mqlb"), directory.as_path()),
            None => (binary()?, lab.directory()),
        };
        let netns = lab.topology.lb.clone();
        let config = directory.join("mqlb.toml");
        std::fs::write(&config, configuration(lab, options))
            .with_context(|| format!("write {}", config.display()))?;
        // From any namespace: pins don't belong to one, and the lab's are gone by then.
        lab.undo_with(&format!(
            "timeout 20 {} unload --config {}",
            binary.display(),
            config.display()
        ))?;
        let log = lab.directory().join("mqlb.log");
        let resolv_conf = options.resolv_conf.clone();
        let mut mqlb = Self {
            process: launch(
                &netns,
                &options.starter,
                &binary,
                &config,
                &log,
                resolv_conf.as_deref(),
            )?,
            starter: options.starter.clone(),
            netns,
            binary,
            config,
            log,
            resolv_conf,
        };
        mqlb.wait_ready(1)?;
        Ok(mqlb)
    }

    /// Kills the agent (SIGKILL); the data path stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks the agent to end (SIGTERM) and waits for it; the data path stays.
    ///
    /// # Errors
    /// It doesn't end.
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        self.process.terminate(Duration::from_secs(10))
    }

    /// Starts an agent again after [`Mqlb::kill`], and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready within 30 s.
    pub fn restart(&mut self) -> Result<()> {
        let ready_before = ready_lines(&self.process);
        self.launch()?;
        self.wait_ready(ready_before + 1)
    }

    /// Starts an agent again, and waits for nothing.
    ///
    /// # Errors
    /// It can't be started.
    pub fn launch(&mut self) -> Result<()> {
        self.kill();
        let resolv_conf = self.resolv_conf.as_deref();
        self.process = launch(
            &self.netns,
            &self.starter,
            &self.binary,
            &self.config,
            &self.log,
            resolv_conf,
        )?;
        Ok(())
    }

    /// Runs one more agent, which should end by itself; it is ended after 20 s if it doesn't.
    ///
    /// # Errors
    /// It can't be started.
    pub fn second(&self) -> Result<std::process::Output> {
        let mut command = self.netns.command("timeout")?;
        command
            .arg("20")
            .arg(&self.binary)
            .args(["run", "--config"]);
        Ok(command.arg(&self.config).output()?)
    }

    /// The next agent is started from another file.
    pub fn upgrade(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Writes another configuration; the agent doesn't know yet.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_configuration(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(&self.config, text)?)
    }

    /// The configuration as it was written last.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn configuration(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.config)?)
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn signal(&mut self, signal: libc::c_int) -> Result<()> {
        self.process.signal(signal)
    }

    /// One field of a backend's status.
    ///
    /// # Errors
    /// No status, or no such backend in it.
    pub fn backend(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let pools = status["pools"].as_array().into_iter().flatten();
        pools
            .flat_map(|pool| pool["backends"].as_array().into_iter().flatten())
            .find(|backend| backend["name"] == name)
            .cloned()
            .with_context(|| format!("no backend {name} in the status: {status}"))
    }

    /// Waits until a backend is in a state.
    ///
    /// # Errors
    /// It isn't within `limit`.
    pub fn wait_for_state(&self, name: &str, state: &str, limit: Duration) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            // It may be new.
            let backend = self.backend(name);
            if backend.as_ref().is_ok_and(|b| b["state"] == state) {
                return Ok(());
            }
            if start.elapsed() > limit {
                bail!("{name} is not {state} after {limit:?}: {backend:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The agent's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// A `mqlb` command against this instance: `mqlb ARGS… --config FILE`. Returns its standard output.
    ///
    /// # Errors
    /// The command failed.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        run(self
            .netns
            .command(&self.binary)?
            .args(arguments)
            .arg("--config")
            .arg(&self.config))
    }

    /// How a user runs a command against this instance.
    pub fn shell_command(&self, command: &str) -> String {
        format!(
            "nsenter --net={} {} {command} --config {}",
            self.netns.path().display(),
            self.binary.display(),
            self.config.display()
        )
    }

    /// `GET /api/v1/status`.
    ///
    /// # Errors
    /// The agent does not answer, or not with JSON.
    pub fn status(&self) -> Result<Value> {
        let body = http::get(&self.netns, ADMIN, "/api/v1/status")?;
        serde_json::from_str(&body).with_context(|| format!("status is not JSON: {body}"))
    }

    /// Connections steered by the kernel and by the agent.
    ///
    /// # Errors
    /// No status, or not these numbers in it.
    pub fn steered(&self) -> Result<Steered> {
        Steered::of(&self.status()?)
    }

    /// Packets counted under a verdict's name.
    ///
    /// # Errors
    /// No status, or no such counter in it.
    pub fn counter(&self, verdict: &str) -> Result<u64> {
        let status = self.status()?;
        let counter = &status["counters"][verdict];
        counter
            .as_u64()
            .or_else(|| counter["packets"].as_u64())
            .with_context(|| format!("no counter {verdict} in the status: {status}"))
    }

    /// Prints what a failed test's reader wants to know: the end of the log, and the counters.
    fn tell(&self) {
        const LINES: usize = 60;
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
        let counters = self.status().map(|status| status["counters"].to_string());
        println!("the end of mqlb's log:\n{end}\nits counters: {counters:?}");
    }

    fn wait_ready(&mut self, lines: usize) -> Result<()> {
        self.process
            .wait_until("READY", Duration::from_secs(30), |process| {
                ready_lines(process) >= lines
            })
    }
}

impl Drop for Mqlb {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        self.process.kill();
        if let Err(error) = self.command(&["unload"]) {
            eprintln!("mqlb unload: {error:#}");
        }
    }
}

/// Who steered connections, since the programs were loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Steered {
    pub kernel: u64,
    pub agent: u64,
}

impl Steered {
    /// # Errors
    /// There are no such numbers in the status.
    pub fn of(status: &Value) -> Result<Self> {
        let number = |who: &str| {
            status["steered"][who]
                .as_u64()
                .with_context(|| format!("no number steered.{who} in the status: {status}"))
        };
        Ok(Self {
            kernel: number("kernel")?,
            agent: number("agent")?,
        })
    }
}

/// The `mqlb` to test: `MQLB_BIN`, or the one built beside this program.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MQLB_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("MQLB_BIN is {}, which is no file", path.display());
        }
        return Ok(path.canonicalize()?);
    }
    sibling_binary("mqlb").context("no mqlb binary: run `cargo xtask build` and set MQLB_BIN to it")
}

pub(crate) fn ready_lines(process: &Process) -> usize {
    let ready = |line: &&str| line.contains("READY");
    process.output().lines().filter(ready).count()
}

fn launch(
    netns: &Netns,
    starter: &[String],
    binary: &Path,
    config: &Path,
    log: &Path,
    resolv_conf: Option<&Path>,
) -> Result<Process> {
    let mut words: Vec<&OsStr> = starter.iter().map(OsStr::new).collect();
    words.extend([binary.as_os_str(), "run".as_ref(), "--config".as_ref()]);
    let mut command = netns.command(words[0])?;
    command.args(&words[1..]).arg(config);
    if let Some(file) = resolv_conf {
        replace_resolv_conf(&mut command, file)?;
    }
    Process::start("mqlb", command, log)
}

/// The pool's line for checks of this kind: interval and time limit in ms on processors of one's own, rise and fall.
pub fn health(kind: &str, (interval, timeout): (u32, u32), (rise, fall): (u32, u32)) -> String {
    let (interval, timeout) = (interval * slowness(), timeout * slowness());
    format!(
        "health = {{ kind = \"{kind}\", interval = \"{interval}ms\", timeout = \"{timeout}ms\", rise = {rise}, fall = {fall} }}\n"
    )
}

/// The file for `lab` and `options`.
pub fn configuration(lab: &Lab, options: &Options) -> String {
    let name = lab.id();
    let mode = match options.mode {
        // Nobody shall think that the driver ran the programs, if it did not.
        "auto" if lab.topology.has_cards() => "native",
        mode => mode,
    };
    let source = options.source;
    let directory = options.directory.as_deref().unwrap_or(lab.directory());
    let state = directory.join("state");
    let interfaces = quoted(&lab.topology.interfaces);
    let vip = sockets(lab.topology.plan.vip());
    let proxy = if options.proxy_protocol { "v2" } else { "off" };
    let mut text = format!(
        "[admin]\nhttp = \"{ADMIN}\"\n\n\
         [agent]\nname = \"{name}\"\nstate_dir = \"{}\"\n\n\
         [xdp]\ninterfaces = [{interfaces}]\nmode = \"{mode}\"\n{}\n\n\
         [[listener]]\nname = \"mqtt\"\nbind = [{vip}]\npool = \"emqx\"\n\
         source = \"{source}\"\nproxy_protocol = \"{proxy}\"\n{}\n\n\
         [pool.emqx]\n{}\n",
        state.display(),
        options.xdp,
        options.listener,
        options.pool
    );
    if options.health && !options.pool.contains("health") {
        text += &health("tcp", (1000, 500), (1, 2));
    }
    for n in 0..lab.topology.brokers.len() {
        text += &format!(
            "\n[[pool.emqx.backend]]\nname = \"{}\"\naddress = [{}]\nweight = {}\n",
            Lab::broker_name(n),
            sockets(lab.topology.plan.broker(n)),
            options.weights.get(n).unwrap_or(&1)
        );
        if let Some(most) = options.max_flows.get(n) {
            text += &format!("max_flows = {most}\n");
        }
    }
    text + &options.extra
}

fn sockets(pair: Pair) -> String {
    quoted(&pair.sockets(MQTT_PORT))
}

fn quoted<T: ToString>(items: &[T]) -> String {
    let quoted: Vec<_> = items
        .iter()
        .map(|item| format!("\"{}\"", item.to_string()))
        .collect();
    quoted.join(", ")
}
