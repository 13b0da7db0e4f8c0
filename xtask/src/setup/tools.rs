//! What the commands need from the system, how its presence is seen, and what it is called where.

use std::process::Command;

use super::Need;
use super::distro::Family;
use crate::root;

/// The LLVM of the pinned toolchain (`rustc -vV`): bpf-linker must read that one's bitcode.
pub const LLVM: u32 = 22;

/// How we see that something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A program in `PATH` or in a directory of system tools.
    Program(&'static str),
    File(&'static str),
    /// A module that `python3` can import: distributions leave some out of its package.
    PythonModule(&'static str),
}

impl Proof {
    pub fn holds(self) -> bool {
        match self {
            Self::Program(name) => root::find(name).is_some(),
            Self::File(path) => std::path::Path::new(path).exists(),
            Self::PythonModule(name) => imports(name),
        }
    }
}

fn imports(module: &str) -> bool {
    let mut python = Command::new("python3");
    let output = python.args(["-c", &format!("import {module}")]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Something from the distribution's packages.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    pub need: Need,
    pub proof: Proof,
    /// What it is for, to complete "… is missing:".
    pub purpose: &'static str,
    debian: &'static [&'static str],
    fedora: &'static [&'static str],
    arch: &'static [&'static str],
    alpine: &'static [&'static str],
}

/// Ubuntu has it as a snap only, which can't run with files of a test's own.
pub const BROWSER: Proof = Proof::Program("chromium");

/// Everything but bpf-linker, which cargo builds ([`super::linker`]).
pub const TOOLS: &[Tool] = &[
    Tool {
        need: Need::Build,
        proof: Proof::Program("cc"),
        purpose: "linker for the user side",
        debian: &["gcc", "libc6-dev"],
        fedora: &["gcc"],
        arch: &["gcc"],
        alpine: &["gcc", "musl-dev"],
    },
    Tool {
        need: Need::Linker,
        proof: Proof::File("/usr/lib/llvm-22/bin/llvm-config"),
        purpose: "LLVM 22, to build bpf-linker",
        debian: &["llvm-22-dev"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("ip"),
        purpose: "namespaces, links and routes",
        debian: &["iproute2"],
        fedora: &["iproute"],
        arch: &["iproute2"],
        alpine: &["iproute2"],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("ethtool"),
        purpose: "checksum offloads of veth pairs",
        debian: &["ethtool"],
        fedora: &["ethtool"],
        arch: &["ethtool"],
        alpine: &["ethtool"],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("nft"),
        purpose: "losing and reordering packets in tests",
        debian: &["nftables"],
        fedora: &["nftables"],
        arch: &["nftables"],
        alpine: &["nftables"],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("nsenter"),
        purpose: "running programs in a namespace",
        debian: &["util-linux"],
        fedora: &["util-linux"],
        arch: &["util-linux"],
        alpine: &["util-linux-misc"],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("sysctl"),
        purpose: "settings of a namespace",
        debian: &["procps"],
        fedora: &["procps-ng"],
        arch: &["procps-ng"],
        alpine: &["procps-ng"],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("mosquitto"),
        purpose: "a real broker for the tests",
        debian: &["mosquitto"],
        fedora: &["mosquitto"],
        arch: &["mosquitto"],
        alpine: &["mosquitto"],
    },
    Tool {
        need: Need::Kernel,
        proof: Proof::Program("mosquitto_pub"),
        purpose: "real clients for the tests",
        debian: &["mosquitto-clients"],
        fedora: &["mosquitto"],
        arch: &["mosquitto"],
        alpine: &["mosquitto-clients"],
    },
    Tool {
        need: Need::Compose,
        proof: Proof::Program("haproxy"),
        purpose: "the balancer of docker-compose.yml",
        debian: &["haproxy"],
        fedora: &["haproxy"],
        arch: &["haproxy"],
        alpine: &["haproxy"],
    },
    Tool {
        need: Need::Bench,
        proof: Proof::Program("haproxy"),
        purpose: "the balancer to compare with",
        debian: &["haproxy"],
        fedora: &["haproxy"],
        arch: &["haproxy"],
        alpine: &["haproxy"],
    },
    Tool {
        need: Need::Compose,
        proof: Proof::Program("openssl"),
        purpose: "a certificate and a TLS client for the tests",
        debian: &["openssl"],
        fedora: &["openssl"],
        arch: &["openssl"],
        alpine: &["openssl"],
    },
    Tool {
        need: Need::Compose,
        proof: Proof::Program("dockerd"),
        purpose: "an engine of the tests' own for docker-compose.yml",
        debian: &["docker.io"],
        fedora: &["moby-engine"],
        arch: &["docker"],
        alpine: &["docker"],
    },
    Tool {
        need: Need::Clients,
        proof: Proof::Program("node"),
        purpose: "mqtt.js, a client for the tests",
        debian: &["nodejs"],
        fedora: &["nodejs"],
        arch: &["nodejs"],
        alpine: &["nodejs"],
    },
    Tool {
        need: Need::Clients,
        proof: Proof::Program("npm"),
        purpose: "installing mqtt.js",
        debian: &["npm"],
        fedora: &["npm"],
        arch: &["npm"],
        alpine: &["npm"],
    },
    Tool {
        need: Need::Clients,
        // What a virtual environment is made with.
        proof: Proof::PythonModule("ensurepip"),
        purpose: "paho, a client for the tests",
        debian: &["python3", "python3-venv"],
        fedora: &["python3"],
        arch: &["python"],
        alpine: &["python3"],
    },
    Tool {
        need: Need::Clients,
        proof: BROWSER,
        purpose: "a browser, which is a client for the tests",
        debian: &["chromium"],
        fedora: &["chromium"],
        arch: &["chromium"],
        alpine: &["chromium"],
    },
    Tool {
        need: Need::Vm,
        proof: Proof::Program("qemu-system-x86_64"),
        purpose: "virtual machines for other kernels",
        debian: &["qemu-system-x86"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Vm,
        proof: Proof::Program("busybox"),
        purpose: "user space in the virtual machine",
        debian: &["busybox-static"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Vm,
        proof: Proof::Program("cpio"),
        purpose: "the virtual machine's file system",
        debian: &["cpio"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Static,
        proof: Proof::Program("musl-gcc"),
        purpose: "C compiler for the static program: ring, the cryptography, has C in it",
        debian: &["musl-tools"],
        fedora: &["musl-gcc"],
        arch: &["musl"],
        alpine: &[],
    },
    Tool {
        need: Need::Vm,
        proof: Proof::Program("modprobe"),
        purpose: "the virtual machine's kernel modules",
        debian: &["kmod"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Vm,
        proof: Proof::Program("xz"),
        purpose: "unpacking kernel modules",
        debian: &["xz-utils"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Vm,
        proof: Proof::File(super::archive::KEYRING),
        purpose: "the keys that Debian's kernels are signed with",
        debian: &["debian-archive-keyring"],
        fedora: &[],
        arch: &[],
        alpine: &[],
    },
    Tool {
        need: Need::Package,
        proof: Proof::Program("dpkg-deb"),
        purpose: "Debian's packages",
        debian: &["dpkg"],
        fedora: &["dpkg"],
        arch: &["dpkg"],
        alpine: &["dpkg"],
    },
    Tool {
        need: Need::Service,
        proof: Proof::Program("systemctl"),
        purpose: "the service manager that the package's test runs",
        debian: &["systemd"],
        fedora: &["systemd"],
        arch: &["systemd"],
        alpine: &[],
    },
];

impl Tool {
    /// The packages that bring it; none where we don't know.
    pub fn packages(&self, family: Family) -> &'static [&'static str] {
        match family {
            Family::Debian => self.debian,
            Family::Fedora => self.fedora,
            Family::Arch => self.arch,
            Family::Alpine => self.alpine,
            Family::Unknown => &[],
        }
    }
}

/// The tools for `needs` of which there is no proof.
pub fn missing(needs: &[Need], holds: impl Fn(Proof) -> bool) -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| needs.contains(&tool.need) && !holds(tool.proof))
        .collect()
}

/// The packages of all `tools`, each once, in order.
pub fn packages(tools: &[&Tool], family: Family) -> Vec<&'static str> {
    let mut names = Vec::new();
    for name in tools.iter().flat_map(|tool| tool.packages(family)) {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_missing_where_everything_is_there() {
        assert_eq!(
            missing(&[Need::Build, Need::Linker, Need::Kernel], |_| true),
            Vec::<&Tool>::new()
        );
    }

    #[test]
    fn only_what_is_needed_is_asked_for() {
        let tools = missing(&[Need::Build], |_| false);
        assert_eq!(packages(&tools, Family::Debian), ["gcc", "libc6-dev"]);
        let tools = missing(&[Need::Build, Need::Kernel], |proof| {
            proof != Proof::Program("nft")
        });
        assert_eq!(packages(&tools, Family::Debian), ["nftables"]);
    }

    #[test]
    fn a_package_is_named_once() {
        let tools = missing(&[Need::Kernel], |proof| {
            ![Proof::Program("mosquitto"), Proof::Program("mosquitto_pub")].contains(&proof)
        });
        assert_eq!(tools.len(), 2);
        assert_eq!(packages(&tools, Family::Fedora), ["mosquitto"]);
    }

    #[test]
    fn the_llvm_that_is_looked_for_is_the_one_that_is_built_against() {
        let tool = TOOLS.iter().find(|tool| {
            tool.packages(Family::Debian)
                .contains(&format!("llvm-{LLVM}-dev").as_str())
        });
        let prefix = format!("/usr/lib/llvm-{LLVM}/bin/llvm-config");
        assert!(matches!(tool.map(|tool| tool.proof), Some(Proof::File(file)) if file == prefix));
    }

    #[test]
    fn python_alone_is_no_virtual_environment() {
        assert!(!Proof::PythonModule("mqlb_has_no_such_module").holds());
        let tools = missing(&[Need::Clients], |proof| {
            proof != Proof::PythonModule("ensurepip")
        });
        assert!(packages(&tools, Family::Debian).contains(&"python3-venv"));
    }

    #[test]
    fn every_tool_has_a_package_on_debian() {
        assert!(
            TOOLS
                .iter()
                .all(|tool| !tool.packages(Family::Debian).is_empty())
        );
    }
}
