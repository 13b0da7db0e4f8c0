//! Loads and attaches the programs. What is pinned already is adopted: maps are taken as they are,
//! and a link's program is replaced in one step, so no packet is lost.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use super::count;
use super::{Home, Maps, RESERVE, version_dir};
use crate::config::{Config, Mode};

/// A program on an interface.
#[derive(Clone, Debug)]
pub struct Attached {
    pub interface: String,
    pub ifindex: u32,
}

/// The data path, up.
pub struct Loaded {
    /// Holds the program's file descriptors; dropping it ends nothing, everything is pinned. `None` without
    /// XDP.
    pub ebpf: Option<Ebpf>,
    /// Where everything is pinned; of no meaning without XDP.
    pub dir: PathBuf,
    /// The tables.
    pub home: Home,
    pub attached: Vec<Attached>,
    /// Maps of an earlier agent were found and taken over.
    pub adopted: bool,
}

impl Loaded {
    /// Nothing is attached, the tables are in memory: everybody goes through the proxy.
    #[must_use]
    pub fn without_xdp(config: &Config) -> Self {
        Self {
            ebpf: None,
            dir: PathBuf::new(),
            home: Home::memory(config),
            attached: Vec::new(),
            adopted: false,
        }
    }
}

/// Loads the programs and attaches them to the interfaces of the configuration.
pub fn load(config: &Config) -> anyhow::Result<Loaded> {
    let pin_dir = &config.agent.pin_dir;
    refuse_other_versions(pin_dir)?;
    let dir = version_dir(pin_dir);
    let links = dir.join("links");
    let adopted = dir.join("FLOWS").exists();
    std::fs::create_dir_all(&links).with_context(|| {
        format!("cannot create {}: is a BPF file system mounted there (`mount -t bpf bpf /sys/fs/bpf`), and are you root?", links.display())
    })?;
    let flows = config.xdp.max_flows.saturating_mul(2) + RESERVE;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(&dir)
        .map_max_entries("FLOWS", flows)
        .map_max_entries("BINDINGS", config.bindings.capacity)
        .load(crate::PROGRAMS)
        .context("the kernel does not take the maps; `[xdp] max_flows` and `[bindings] capacity` decide how much memory they need")?;
    if adopted {
        for (is, wanted, key) in [
            (
                Maps::most_flows(&dir)?,
                config.xdp.max_flows,
                "[xdp] max_flows",
            ),
            (
                Maps::capacity(&dir, "BINDINGS")?,
                config.bindings.capacity,
                "[bindings] capacity",
            ),
        ] {
            if is != wanted {
                tracing::warn!(
                    "{key} stays {is} and doesn't become {wanted}: it takes effect after `mqlb unload`, which ends all sessions"
                );
            }
        }
    }
    let program: &mut Xdp = ebpf
        .program_mut("mqlb")
        .context("the embedded object has no program mqlb")?
        .try_into()?;
    program
        .load()
        .context("the kernel refuses the XDP program; Linux 6.1 or newer is needed")?;
    detach_others(&links, &config.xdp.interfaces)?;
    let attached = config
        .xdp
        .interfaces
        .iter()
        .map(|name| attach(program, name, config.xdp.mode, &links.join(name)))
        .collect::<anyhow::Result<_>>()?;
    Ok(Loaded {
        ebpf: Some(ebpf),
        home: Home::pinned(&dir),
        dir,
        attached,
        adopted,
    })
}

/// Interfaces that the configuration no longer names lose the program.
fn detach_others(links: &Path, interfaces: &[String]) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(links)?.flatten() {
        let name = entry.file_name();
        if !interfaces.iter().any(|i| name == i.as_str()) {
            tracing::info!(
                "{} is no longer in `[xdp] interfaces`: detached",
                name.display()
            );
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Another layout's maps can't be taken over.
fn refuse_other_versions(pin_dir: &Path) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(pin_dir) else {
        return Ok(());
    };
    let ours = version_dir(pin_dir);
    for entry in entries.flatten() {
        if entry.path() != ours {
            let sessions = match count::entries(&entry.path().join("FLOWS")) {
                Some(0) => "no connection goes through it".to_owned(),
                // Each connection has two.
                Some(entries) => format!("about {} connections go through it", entries.div_ceil(2)),
                None => "connections may go through it".to_owned(),
            };
            bail!(
                "{} was left by an mqlb with another map layout, which can't be taken over; {sessions}, and `mqlb unload` ends them and removes it; the mqlb that made it can still be started",
                entry.path().display()
            );
        }
    }
    Ok(())
}

fn attach(program: &mut Xdp, name: &str, mode: Mode, pin: &Path) -> anyhow::Result<Attached> {
    let c_name = std::ffi::CString::new(name)?;
    // SAFETY: the pointer is to a C string that lives through the call.
    let ifindex = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    if ifindex == 0 {
        bail!("there is no interface {name} (`[xdp] interfaces`); `ip link` shows what there is");
    }
    if pin.exists() {
        match adopt(program, pin) {
            Ok(()) => {
                return Ok(Attached {
                    interface: name.to_owned(),
                    ifindex,
                });
            }
            // The interface went and came back: the link is dead.
            Err(error) => {
                tracing::warn!("{name} is attached anew, its old link can't be used: {error:#}");
                std::fs::remove_file(pin)
                    .with_context(|| format!("cannot remove {}", pin.display()))?;
            }
        }
    }
    let id = match mode {
        Mode::Native => program.attach_to_if_index(ifindex, XdpMode::Driver),
        Mode::Generic => program.attach_to_if_index(ifindex, XdpMode::Skb),
        Mode::Auto => program.attach_to_if_index(ifindex, XdpMode::Driver).or_else(|error| {
            tracing::warn!("the driver of {name} does not run XDP ({error}): generic mode is used there, which is slower");
            program.attach_to_if_index(ifindex, XdpMode::Skb)
        }),
    }
    .with_context(|| format!("cannot attach the program to {name}; is another XDP program there (`ip link show {name}`)?"))?;
    let link: FdLink = program
        .take_link(id)?
        .try_into()
        .with_context(|| format!("{name}: the kernel has no BPF links for XDP, so nothing would outlive the agent; Linux 6.1 or newer is needed"))?;
    link.pin(pin)
        .with_context(|| format!("cannot pin the link {}", pin.display()))?;
    Ok(Attached {
        interface: name.to_owned(),
        ifindex,
    })
}

/// Puts the new program into a pinned link.
fn adopt(program: &mut Xdp, pin: &Path) -> anyhow::Result<()> {
    let link: FdLink = PinnedLink::from_pin(pin)?.into();
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    // The pin keeps the link; our own file descriptor may go.
    drop(program.take_link(id)?);
    Ok(())
}
