//! The machine that mqlb runs on.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_tests::cards::{End, wait_for};
use lb_tests::mqlb;
use lb_tests::netns::run as output;
use lb_tests::plan::{FIRST_NETWORK, Plan};
use lb_tests::process::Process;

use super::{Line, Order, PORT};

/// Does what it is told until the world hangs up; then nothing of mqlb is left.
pub fn run() -> Result<()> {
    let plan = Plan::new(FIRST_NETWORK);
    let sides = [(0, "front", plan.vip()), (1, "back", plan.gateway())];
    for (wire, device, address) in sides {
        let card = wait_for(wire, End::Balancer)?;
        output(Command::new("ip").args(["link", "set", &card, "name", device]))?;
        output(Command::new("ip").args(["link", "set", device, "up"]))?;
        for line in address.assign(device) {
            output(Command::new("ip").args(line.split(' ')))?;
        }
    }
    // A router, as in every lab.
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        std::fs::write(Path::new("/proc/sys").join(setting), "1")
            .with_context(|| format!("set {setting}"))?;
    }
    let listener = TcpListener::bind((plan.vip().v4, PORT)).context("listen for orders")?;
    println!("waiting for orders on port {PORT}");
    let (stream, world) = listener.accept()?;
    println!("orders come from {world}");
    let mut line = Line::new(stream);
    let mut balancer = Balancer {
        binary: mqlb::binary()?,
        config: "/run/mqlb.toml".into(),
        log: "/run/mqlb.log".into(),
        agent: None,
    };
    while let Some(order) = line.hear()? {
        println!("{}", brief(&order));
        let answer = balancer.obey(order);
        line.say(&answer.map_err(|error| format!("{error:#}")))?;
    }
    balancer.agent = None;
    let unloaded = balancer.mqlb(&["unload".into()])?;
    println!("{}", unloaded.trim());
    Ok(())
}

fn brief(order: &Order) -> String {
    match order {
        Order::Start(_) => "start".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

struct Balancer {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    agent: Option<Process>,
}

impl Balancer {
    fn obey(&mut self, order: Order) -> Result<String> {
        match order {
            Order::Start(configuration) => {
                std::fs::write(&self.config, configuration)?;
                self.start()
            }
            Order::Kill => {
                // Dropping it kills it.
                self.agent.take().context("no agent runs")?;
                Ok(String::new())
            }
            Order::Restart => self.start(),
            Order::Mqlb(arguments) => self.mqlb(&arguments),
            Order::Program(device) => {
                let driver = std::fs::read_link(format!("/sys/class/net/{device}/device/driver"))?;
                let driver = driver.file_name().context("a driver has a name")?;
                let link =
                    output(Command::new("ip").args(["-json", "link", "show", "dev", &device]))?;
                let link: serde_json::Value = serde_json::from_str(&link)?;
                Ok(format!(
                    "{} {}",
                    driver.to_string_lossy(),
                    link[0]["xdp"]["mode"]
                ))
            }
        }
    }

    fn start(&mut self) -> Result<String> {
        // The log is this agent's alone.
        std::fs::write(&self.log, "")?;
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(&self.config);
        let mut agent = Process::start("mqlb", command, &self.log)?;
        agent.wait_until("READY", Duration::from_secs(60), |agent| {
            agent.output().contains("READY")
        })?;
        self.agent = Some(agent);
        Ok(String::new())
    }

    fn mqlb(&self, arguments: &[String]) -> Result<String> {
        output(
            Command::new(&self.binary)
                .args(arguments)
                .arg("--config")
                .arg(&self.config),
        )
    }
}
