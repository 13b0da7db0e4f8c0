//! `mqlb-lab guest`: the balancer and everything else as two machines, which virtio-net cards connect. `cargo xtask vm
//! test` boots them.
//!
//! The world has the clients and the brokers, in namespaces as in any lab, and drives the test. The balancer has two
//! cards and nothing else; it is told what to do over a connection to a port of its own that is no VIP's.

mod balancer;
mod world;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

/// Where the balancer listens for orders.
const PORT: u16 = 7783;

#[derive(clap::Subcommand)]
pub enum Role {
    /// Run mqlb as told.
    Balancer,
    /// Clients and brokers, and what is to be seen.
    World,
}

/// # Errors
/// Something wasn't as it should be.
pub fn run(role: &Role) -> Result<()> {
    match role {
        Role::Balancer => balancer::run(),
        Role::World => world::run(),
    }
}

/// What the balancer is told.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Write this configuration, start the agent and wait until it is ready.
    Start(String),
    /// SIGKILL.
    Kill,
    /// Start another agent and wait until it is ready.
    Restart,
    /// Run `mqlb` with these arguments, and the configuration.
    Mqlb(Vec<String>),
    /// The driver of an interface, and what `ip` says of the program on it.
    Program(String),
}

/// What the balancer says: what was asked for, or what went wrong.
type Answer = std::result::Result<String, String>;

/// A connection between the two.
struct Line {
    reader: BufReader<TcpStream>,
}

impl Line {
    fn new(stream: TcpStream) -> Self {
        Self {
            reader: BufReader::new(stream),
        }
    }

    fn say(&mut self, what: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(what)? + "\n";
        Ok(self.reader.get_mut().write_all(text.as_bytes())?)
    }

    /// `None` at the end of the connection.
    fn hear<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>> {
        let mut text = String::new();
        match self.reader.read_line(&mut text)? {
            0 => Ok(None),
            _ => serde_json::from_str(&text)
                .map(Some)
                .with_context(|| format!("not understood: {text}")),
        }
    }

    /// Has the balancer do something.
    fn order(&mut self, order: &Order) -> Result<String> {
        self.say(order)?;
        let Some(answer) = self.hear::<Answer>()? else {
            bail!("the balancer hung up at {order:?}");
        };
        answer.map_err(|error| anyhow!("the balancer, at {order:?}: {error}"))
    }
}
