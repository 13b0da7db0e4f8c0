//! Whether XDP can run, and if not why: listeners with `datapath = "auto"` go through the proxy then.

use std::path::Path;

use crate::config::{Config, Datapath};
use crate::dataplane::{self, Loaded};

/// The capabilities that the XDP data path needs, by bit (include/uapi/linux/capability.h).
const NEEDED: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
const CAP_SYS_ADMIN: u32 = 21;
/// Magic number of a BPF file system (include/uapi/linux/magic.h).
const BPF_FS: i128 = 0xcafe_4a11;

/// Decides for every listener, and loads the XDP programs if any has use for them.
///
/// # Errors
/// XDP is asked for and can't run, or something is wrong with it that a change of data path must not hide.
pub fn load(config: &mut Config) -> anyhow::Result<Loaded> {
    let wants = |d| config.listeners.iter().any(|l| l.only() == d);
    let (must, may) = (wants(Some(Datapath::Xdp)), wants(None));
    if !must && !may {
        config.settle(false);
        return Ok(Loaded::without_xdp(config));
    }
    if !must {
        let why = match obstacle(config) {
            // Sessions that an agent with more rights left must not be forgotten.
            Some(why) if !left_behind(config) => Some(why),
            _ => None,
        };
        if let Some(why) = why {
            tracing::warn!(
                "XDP can't run: {why}. Clients go through the proxy; `datapath = \"proxy\"` says that this is meant"
            );
            config.settle(false);
            return Ok(Loaded::without_xdp(config));
        }
    }
    let loaded = dataplane::load(config)?;
    config.settle(true);
    Ok(loaded)
}

/// What keeps XDP from running, if it is something that a host may lack rather than a mistake.
fn obstacle(config: &Config) -> Option<String> {
    if config.xdp.interfaces.is_empty() {
        return Some("[xdp] interfaces names none".to_owned());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing(&status);
    if !missing.is_empty() {
        return Some(format!("this process lacks {}", missing.join(", ")));
    }
    let pins = config.agent.pin_dir.parent().unwrap_or(Path::new("/"));
    if !is_bpf_fs(&config.agent.pin_dir) && !is_bpf_fs(pins) {
        return Some(format!(
            "there is no BPF file system at {} (`mount -t bpf bpf /sys/fs/bpf`)",
            pins.display()
        ));
    }
    None
}

/// The needed capabilities that `/proc/PID/status` doesn't have.
fn missing(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // Where nothing is said, the kernel says it later.
    let has = |bit: u32| effective.is_none_or(|caps| caps >> bit & 1 == 1);
    NEEDED
        .into_iter()
        // CAP_SYS_ADMIN includes what was split off it (capabilities(7)).
        .filter(|(bit, _)| !(has(*bit) || *bit >= 38 && has(CAP_SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

fn left_behind(config: &Config) -> bool {
    dataplane::version_dir(&config.agent.pin_dir)
        .join("FLOWS")
        .exists()
}

/// The nearest directory that exists is one.
fn is_bpf_fs(path: &Path) -> bool {
    let there = path.ancestors().find(|p| p.exists());
    let Some(path) =
        there.and_then(|p| std::ffi::CString::new(p.as_os_str().as_encoded_bytes()).ok())
    else {
        return false;
    };
    // SAFETY: all zero is a valid `statfs`.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `stat` has room; both live for the call.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut stat) };
    // Signed in one C library and unsigned in the other.
    result == 0 && i128::from(stat.f_type) == BPF_FS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        let of = |hex: &str| missing(&format!("Name:\tmqlb\nCapEff:\t{hex}\nSeccomp:\t0\n"));
        assert!(of("000001ffffffffff").is_empty());
        assert_eq!(of("0000000000000000").len(), 4);
        assert_eq!(of("000000c000003000"), [] as [&str; 0]);
        assert_eq!(of("0000000000203000"), [] as [&str; 0]);
        // Docker's default.
        assert_eq!(
            of("00000000a80425fb"),
            ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]
        );
    }
}
