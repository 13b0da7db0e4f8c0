//! Values of the configuration as people read them, in `mqlb check` and in the log.

use std::fmt::{Display, Formatter, Result};

use super::model::{BackendAddress, Check, Kind, Policy, Prefix, Rate, SourceLimits};

impl Display for BackendAddress {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.host {
            Some(host) => write!(f, "{} ({host})", self.socket),
            None => write!(f, "{}", self.socket),
        }
    }
}

impl Display for Prefix {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// As written in the file.
impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}/s", self.per_second)?;
        if self.burst != self.per_second {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

/// With what belongs to it.
impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.as_str())?;
        if let Self::TlsPassthrough(routes) = self {
            for (server, pool) in &routes.0 {
                write!(f, " {server}: {pool}")?;
            }
        }
        if let Some(websocket) = self.websocket() {
            write!(f, " {} :{}", websocket.path, websocket.port)?;
        }
        match self.dashboard() {
            Some(port) => write!(f, ", dashboard :{port}"),
            None => Ok(()),
        }
    }
}

impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Policy::RoundRobin | Policy::LeastConnections => f.write_str(self.as_str()),
            Policy::Consistent { max_load } => {
                write!(f, "{}, at most {max_load}%", self.as_str())
            }
        }
    }
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (kind, port) = match self {
            Check::Http {
                port,
                path,
                availability,
            } => {
                write!(f, "http :{port}{path}")?;
                return match availability {
                    Some(path) => write!(f, " and {path}"),
                    None => Ok(()),
                };
            }
            Check::Tcp { port } => ("tcp", port),
            Check::Mqtt { port } => ("mqtt", port),
        };
        match port {
            Some(port) => write!(f, "{kind} :{port}"),
            None => f.write_str(kind),
        }
    }
}

/// What a source may do, and what is a source; `-` for no limit.
impl Display for SourceLimits {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let SourceLimits {
            v4_prefix,
            v6_prefix,
            max_flows,
            connects,
        } = self;
        let flows = max_flows.map(|most| format!("{most} flows"));
        let connects = connects.map(|rate| format!("{rate} CONNECTs"));
        let limits: Vec<String> = flows.into_iter().chain(connects).collect();
        if limits.is_empty() {
            return f.write_str("-");
        }
        write!(f, "{} each /{v4_prefix}, /{v6_prefix}", limits.join(", "))
    }
}
