//! Where `mqlb-lab run` happens: a lab of namespaces, or the loopback interface.

use std::collections::BTreeMap;

use anyhow::Result;
use lb_tests::balancer::{self, Balancer};
use lb_tests::fleet::Fleet;
use lb_tests::lab::{self, Lab};
use lb_tests::loopback::Loopback;
use lb_tests::mqlb::{Mqlb, Steered};
use lb_tests::plan::MQTT_PORT;

/// Balancer and brokers, ready for clients.
pub enum Stage {
    /// The balancer goes first.
    Lab(Balancer, Box<Lab>),
    Loopback(Loopback),
}

impl Stage {
    /// In namespaces.
    ///
    /// # Errors
    /// Not root, or a program doesn't start.
    pub fn lab(options: lab::Options, kind: balancer::Kind, weights: &[u16]) -> Result<Self> {
        let lab = Lab::new(options)?;
        let options = balancer::Options {
            weights: weights.to_vec(),
            ..balancer::Options::default()
        };
        let balancer = Balancer::start(kind, &lab, &options)?;
        Ok(Self::Lab(balancer, Box::new(lab)))
    }

    /// A fleet that connects to the VIP.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn fleet(&self) -> Result<Fleet> {
        match self {
            Self::Lab(_, lab) => lab.fleet(),
            Self::Loopback(loopback) => loopback.fleet(),
        }
    }

    /// Established connections per broker, counted at the brokers.
    ///
    /// # Errors
    /// A broker is dead.
    pub fn connections(&self) -> Result<BTreeMap<String, usize>> {
        match self {
            Self::Lab(_, lab) => lab.connections(),
            Self::Loopback(loopback) => loopback.connections(),
        }
    }

    /// Who steered, by mqlb's own count; `None` for another balancer.
    ///
    /// # Errors
    /// mqlb doesn't answer.
    pub fn steered(&self) -> Result<Option<Steered>> {
        match self {
            Self::Lab(balancer, _) => balancer.mqlb().map(Mqlb::steered).transpose(),
            Self::Loopback(loopback) => loopback.steered().map(Some),
        }
    }

    /// What a user may try meanwhile.
    pub fn hints(&self) -> String {
        let (mut text, command) = match self {
            Self::Lab(balancer, lab) => {
                let [v4, v6] = lab.topology.plan.vip().sockets(MQTT_PORT);
                (
                    format!(
                        "VIP {v4} and {v6}, also from this host: mosquitto_sub -h {} -t '#' -v",
                        v4.ip()
                    ),
                    balancer.mqlb().map(|mqlb| mqlb.shell_command("status")),
                )
            }
            Self::Loopback(loopback) => {
                let vip = loopback.vip();
                (
                    format!(
                        "VIP {vip}: mosquitto_sub -h {} -p {} -t '#' -v",
                        vip.ip(),
                        vip.port()
                    ),
                    Some(loopback.shell_command("status")),
                )
            }
        };
        if let Some(command) = command {
            text += &format!("\nmqlb in the lab: {command}");
        }
        text
    }
}
