//! Network namespaces without a name: one lives as long as the thread that made it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own; dropping it ends both.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's number, by which `ip` finds the namespace.
    tid: libc::pid_t,
}

impl Namespace {
    /// `None`, with the reason printed, if this is not root.
    pub fn new() -> Option<Self> {
        // SAFETY: geteuid has no preconditions and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: making a network namespace needs root");
            return None;
        }
        let (jobs, received) = mpsc::channel::<Job>();
        let (ready, made) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: both calls take no pointers; unshare moves only this thread.
            let (result, tid) = unsafe { (libc::unshare(libc::CLONE_NEWNET), libc::gettid()) };
            ready
                .send((result, std::io::Error::last_os_error(), tid))
                .unwrap();
            received.into_iter().for_each(|job| job());
        });
        let (result, error, tid) = made.recv().unwrap();
        assert_eq!(
            result, 0,
            "root must be able to make a network namespace: {error}"
        );
        let namespace = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid,
        };
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// By this `ip … netns` finds the namespace.
    pub fn tid(&self) -> libc::pid_t {
        self.tid
    }

    /// Runs `work` in the namespace. A panic in it is a panic here.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = mpsc::channel::<Result<R, Box<dyn Any + Send>>>();
        let job: Job = Box::new(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result
            .recv()
            .unwrap()
            .unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs `work` in the namespace, on a runtime that never leaves its thread.
    pub fn block_on<F, R>(&self, work: impl FnOnce() -> F + Send + 'static) -> R
    where
        F: Future<Output = R>,
        R: Send + 'static,
    {
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work())
        })
    }

    /// Runs `ip` with blank-separated arguments in the namespace.
    pub fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || {
            let output = Command::new("ip")
                .args(arguments.split_whitespace())
                .output()
                .expect("iproute2 is needed");
            assert!(
                output.status.success(),
                "ip {arguments}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        });
    }

    /// Whether this kernel has VLAN devices (CONFIG_VLAN_8021Q); says so if not.
    pub fn has_vlan_devices(&self) -> bool {
        let output = self.run(|| {
            let add = "link add link lo name probe type vlan id 1";
            Command::new("ip")
                .args(add.split(' '))
                .output()
                .expect("iproute2 is needed")
        });
        let text = String::from_utf8_lossy(&output.stderr);
        let missing = text.contains("Unknown device type");
        if missing {
            eprintln!(
                "skipped in part: this kernel has no VLAN devices ({})",
                text.trim()
            );
        }
        !missing
    }

    /// Writes a file under `/proc/sys/net`.
    pub fn sysctl(&self, path: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/net/{path}"), value.to_owned());
        self.run(move || {
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"))
        });
    }

    /// Makes a veth pair, `device` here and in `peer`, both up.
    pub fn wire(&self, device: &str, mac: &str, peer: &Self, peer_mac: &str) {
        self.ip(&format!("link add {device} address {mac} type veth peer name {device} address {peer_mac} netns {}", peer.tid));
        for (namespace, host) in [(self, 1), (peer, 2)] {
            // Link-local addresses by hand, ready at once: neighbour solicitations need them, and the
            // kernel's own would be announced a second later, in the midst of a test.
            namespace.ip(&format!("link set {device} addrgenmode none up"));
            namespace.ip(&format!("addr add fe80::{host}/64 dev {device} nodad"));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().unwrap().join();
    }
}

/// What most tests need: the balancer's namespace and the network's, joined by `eth0`.
/// Addresses: .1 and ::1 here, .2 and ::2 there.
pub fn pair() -> Option<(Namespace, Namespace)> {
    let (here, there) = (Namespace::new()?, Namespace::new()?);
    here.wire("eth0", HERE_MAC, &there, THERE_MAC);
    for (namespace, host) in [(&here, 1), (&there, 2)] {
        namespace.ip(&format!("addr add 10.77.1.{host}/24 dev eth0"));
        namespace.ip(&format!("addr add fd77:1::{host}/64 dev eth0 nodad"));
    }
    Some((here, there))
}

pub const HERE_MAC: &str = "02:00:00:00:01:01";
pub const THERE_MAC: &str = "02:00:00:00:01:02";
