//! What the service manager is told, over the datagram socket that it names in `NOTIFY_SOCKET`
//! (sd_notify(3)), and how it sees that the loop lives ([`Heartbeat`]). Without a service manager all of
//! this does nothing.
//!
//! Not by the crate `sd-notify`: it waits for ever when the manager's queue is full, and the loop must
//! not wait for who supervises it. For the same reason a message that can't be sent is a warning only.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::nodes::Node;
use crate::dataplane::clock;
use crate::select::NodeState;

/// Longest wait for a place in the manager's queue.
const PATIENCE: Duration = Duration::from_millis(100);
/// Least pause between two looks at what the status line should say.
const STATUS: Duration = Duration::from_secs(1);

/// The service manager, if there is one.
#[derive(Clone, Debug)]
pub struct Service {
    socket: Option<OsString>,
    /// Without a sign of life for this long, it ends the agent and starts another one.
    watchdog: Option<Duration>,
}

impl Service {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        // Meant for another process if it names one.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self {
            socket: env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: number("WATCHDOG_USEC")
                .filter(|limit| ours && *limit > 0)
                .map(Duration::from_micros),
        }
    }

    /// The programs are attached and the first health checks are done.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The agent ends; the data path doesn't.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping; the data path and its sessions go on");
    }

    /// The configuration is read again, until the value is dropped.
    #[must_use = "the reload is over when it is dropped"]
    pub fn reloading(&self) -> Reloading {
        // `Type=notify-reload` wants to know since when.
        let now = clock::now_ns() / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
        Reloading(self.clone())
    }

    /// For the loop.
    pub fn heartbeat(self) -> Heartbeat {
        Heartbeat {
            // sd_watchdog_enabled(3) advises half; a quarter leaves room for a beat that got lost.
            every: self.watchdog.map(|limit| limit / 4),
            service: self,
            beaten: None,
            looked: None,
            said: String::new(),
        }
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, message) {
            tracing::warn!(
                "cannot tell the service manager at {} {message:?}: {error}",
                socket.display()
            );
        }
    }
}

/// `socket`: a path, or `@` and a name in the abstract namespace.
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(PATIENCE))?;
    sender.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// The status line: how many backends take clients.
pub fn summary(nodes: &[Node]) -> String {
    let configured = || nodes.iter().filter(|node| node.pool.is_some());
    let up = configured().filter(|node| node.state == NodeState::Up);
    format!(
        "serving; {} of {} backends up",
        up.count(),
        configured().count()
    )
}

/// A reload under way.
#[derive(Debug)]
pub struct Reloading(Service);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.ready();
    }
}

/// The loop's sign of life. A loop that hangs gives none, and the service manager starts the agent anew
/// (`WatchdogSec=`), which costs no session.
#[derive(Debug)]
pub struct Heartbeat {
    service: Service,
    /// `None`: nobody watches.
    every: Option<Duration>,
    beaten: Option<Instant>,
    looked: Option<Instant>,
    said: String,
}

impl Heartbeat {
    /// To be called by the loop, many times a second. `status` is one line about how things are.
    pub fn beat(&mut self, status: impl FnOnce() -> String) {
        let now = Instant::now();
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now - last >= every);
        if let Some(every) = self.every
            && due(self.beaten, every)
        {
            self.beaten = Some(now);
            self.service.tell("WATCHDOG=1");
        }
        if self.service.socket.is_some() && due(self.looked, STATUS) {
            self.looked = Some(now);
            let status = status();
            if status != self.said {
                self.service.tell(&format!("STATUS={status}"));
                self.said = status;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager that listens at a path, and one that is told of it.
    fn manager(watchdog: Option<Duration>) -> (tempfile::TempDir, UnixDatagram, Service) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let service = Service {
            socket: Some(path.into()),
            watchdog,
        };
        (dir, socket, service)
    }

    /// What has come, a datagram each.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 512];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec()))
            .map(|message| String::from_utf8(message).unwrap())
            .collect()
    }

    #[test]
    fn a_reload_says_when_it_began_and_that_it_is_over() {
        let (_dir, socket, service) = manager(None);
        let before = clock::now_ns() / 1000;
        let reloading = service.reloading();
        let begun = heard(&socket);
        assert_eq!(begun.len(), 1);
        let at: u64 = begun[0]
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap()
            .parse()
            .unwrap();
        assert!(at >= before && at <= clock::now_ns() / 1000);
        drop(reloading);
        assert_eq!(heard(&socket), ["READY=1"]);
        service.stopping();
        assert!(heard(&socket)[0].starts_with("STOPPING=1\nSTATUS="));
    }

    #[test]
    fn a_heart_beats_four_times_a_limit_and_says_only_what_is_new() {
        let (_dir, socket, service) = manager(Some(Duration::from_secs(3600)));
        let mut heart = service.heartbeat();
        for _ in 0..5 {
            heart.beat(|| "all is well".to_owned());
        }
        assert_eq!(heard(&socket), ["WATCHDOG=1", "STATUS=all is well"]);
        // Time passes.
        heart.every = Some(Duration::ZERO);
        heart.looked = None;
        heart.beat(|| "all is well".to_owned());
        heart.looked = None;
        heart.beat(|| "not so well".to_owned());
        assert_eq!(
            heard(&socket),
            ["WATCHDOG=1", "WATCHDOG=1", "STATUS=not so well"]
        );
        assert_eq!(
            manager(Some(Duration::from_secs(20))).2.heartbeat().every,
            Some(Duration::from_secs(5))
        );
    }

    #[test]
    fn nobody_watches_and_nobody_listens() {
        let (_dir, socket, service) = manager(None);
        service.heartbeat().beat(|| "fine".to_owned());
        assert_eq!(heard(&socket), ["STATUS=fine"]);
        let nobody = Service {
            socket: None,
            watchdog: Some(Duration::ZERO),
        };
        nobody.ready();
        nobody
            .heartbeat()
            .beat(|| unreachable!("nobody to tell it"));
    }

    #[test]
    fn an_abstract_socket_is_found() {
        let name = format!("mqlb-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        send(OsStr::new(&format!("@{name}")), "READY=1").unwrap();
        assert_eq!(heard(&socket), ["READY=1"]);
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let (_dir, _socket, service) = manager(None);
        let socket = service.socket.as_ref().unwrap();
        let begun = Instant::now();
        // net.unix.max_dgram_qlen is 512 at most by default.
        let refused = (0..100_000).find_map(|_| send(socket, "STATUS=1").err());
        assert_eq!(
            refused.map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
