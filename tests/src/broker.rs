//! One MQTT broker in its namespace.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::client::{Connection, Protocol, Seen};
use crate::netns::Netns;
use crate::plan::{MQTT_PORT, Pair};
use crate::process::Process;
use crate::sockets;

/// Every broker of a lab has a retained message here: its own name. That is how a client learns where
/// it landed.
pub const NAME_TOPIC: &str = "lab/broker";

/// Which broker software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The broker library in the lab's own program: nothing to install.
    #[default]
    Embedded,
    /// The distribution's mosquitto.
    Mosquitto,
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub struct Broker {
    pub name: String,
    pub address: Pair,
    pub netns: Netns,
    kind: Kind,
    directory: PathBuf,
    process: Process,
}

impl Broker {
    /// Starts a broker and waits until it serves.
    ///
    /// # Errors
    /// It could not be started or does not serve within 20 s.
    pub fn start(
        kind: Kind,
        name: String,
        netns: &Netns,
        address: Pair,
        directory: &Path,
    ) -> Result<Self> {
        let process = launch(kind, &name, netns, address, directory)?;
        let broker = Self {
            name,
            address,
            netns: netns.clone(),
            kind,
            directory: directory.to_owned(),
            process,
        };
        broker.announce()?;
        Ok(broker)
    }

    /// Starts it again after [`Broker::kill`], and waits until it serves.
    ///
    /// # Errors
    /// As for [`Broker::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.process = launch(
            self.kind,
            &self.name,
            &self.netns,
            self.address,
            &self.directory,
        )?;
        self.announce()
    }

    /// Sends it a signal: SIGSTOP freezes it, SIGCONT lets it go on.
    ///
    /// # Errors
    /// It is dead.
    pub fn signal(&mut self, signal: libc::c_int) -> Result<()> {
        self.process.signal(signal)
    }

    /// Established connections, counted in the broker's namespace.
    ///
    /// # Errors
    /// The broker is dead.
    pub fn connections(&self) -> Result<usize> {
        sockets::established(self.process.id(), MQTT_PORT)
            .with_context(|| format!("count connections of {}", self.name))
    }

    /// What the broker logged. mosquitto logs each connection with its address.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Kills the broker; its namespace and address stay, so connecting to it is refused.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Leaves the broker's name for its clients.
    fn announce(&self) -> Result<()> {
        let server = self.address.sockets(MQTT_PORT)[0];
        self.netns.enter(|| announce(&self.name, server))?
    }
}

/// Leaves a broker's name for its clients, from the namespace of this thread.
///
/// # Errors
/// It doesn't speak MQTT.
pub(crate) fn announce(name: &str, server: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let announced = runtime.block_on(async {
        let mut connection = Connection::new(Protocol::V4, "lab", server, Duration::from_secs(60));
        let handle = connection.handle();
        handle.publish(NAME_TOPIC, name.as_bytes(), true)?;
        while connection.next().await? != Seen::PublishAcknowledged {}
        handle.disconnect()?;
        while connection.next().await? != Seen::Disconnected {}
        anyhow::Ok(())
    });
    announced.with_context(|| format!("publish the name of {name}"))
}

fn launch(
    kind: Kind,
    name: &str,
    netns: &Netns,
    address: Pair,
    directory: &Path,
) -> Result<Process> {
    let command = match kind {
        Kind::Embedded => embedded(netns, address)?,
        Kind::Mosquitto => mosquitto(name, netns, address, directory)?,
    };
    let log = directory.join(format!("{name}.log"));
    let mut process = Process::start(name, command, &log)?;
    process.wait_until("an open port", Duration::from_secs(20), |_| {
        netns
            .enter(|| address.sockets(MQTT_PORT).iter().all(accepts))
            .unwrap_or(false)
    })?;
    Ok(process)
}

pub(crate) fn accepts(address: &SocketAddr) -> bool {
    TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok()
}

fn embedded(netns: &Netns, address: Pair) -> Result<Command> {
    let mut command = netns.command(crate::lab::own_binary()?)?;
    command.arg("broker");
    for socket in address.sockets(MQTT_PORT) {
        command.arg("--listen").arg(socket.to_string());
    }
    Ok(command)
}

fn mosquitto(name: &str, netns: &Netns, address: Pair, directory: &Path) -> Result<Command> {
    // It would become the user mosquitto, who cannot read the lab's directory.
    let mut conf = String::from(
        "user root\npersistence false\nallow_anonymous true\nsys_interval 0\nlog_dest stderr\n\
         set_tcp_nodelay true\n",
    );
    for address in address.addresses() {
        conf += &format!("listener {MQTT_PORT} {address}\nmax_connections -1\n");
    }
    let file = directory.join(format!("{name}.conf"));
    std::fs::write(&file, conf).with_context(|| format!("write {}", file.display()))?;
    // Debian puts it into /usr/sbin, which is not on everybody's PATH.
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("mosquitto");
    let mut command = netns.command(program)?;
    command.arg("-c").arg(file);
    Ok(command)
}
