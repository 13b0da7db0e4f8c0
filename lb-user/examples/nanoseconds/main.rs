//! What a packet costs in the XDP program: nanoseconds by BPF_PROG_TEST_RUN, and the program's size.
//!
//! ```text
//! cargo run --release -p lb-user --example nanoseconds [-- --json]
//! ```
//! Needs root and a BPF file system on /sys/fs/bpf; attaches nothing and leaves nothing behind.
//! Close other programs first: the figures are of one CPU that is shared with everybody.
//!
//! The kernel runs a program again and again on one buffer, so a packet meets what the run before it
//! left. Spliced packets therefore walk through a chain of flows: each one's outgoing tuple is the next
//! one's key. With one flow in the map the chain is a loop of length one; with 100,000 every packet
//! needs another entry, in random order. The TTL that every splice takes is given back by the program
//! `mqlb_measured`, which is the packet path with those few instructions before it; they are part of
//! the figure. After a million splices the packet's checksums must still be right.
//!
//! A SYN becomes a SYN-ACK, which isn't for us, so it runs once a call: with cold caches, and by an
//! indirect call. The column `empty` is the empty program under the same conditions, in calls between
//! those of the row; `net` is the difference.
//!
//! - [`frames`]: the packets; [`scene`]: programs and maps; [`rows`], [`known`]: what is measured;
//!   [`table`]: shown

mod frames;
mod known;
mod rows;
mod scene;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use scene::Scene;

/// The maps are pinned by name: they get a directory of their own.
struct PinDirectory(PathBuf);

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

fn main() -> anyhow::Result<()> {
    let json = match std::env::args().skip(1).collect::<Vec<_>>()[..] {
        [] => false,
        [ref only] if only == "--json" => true,
        _ => bail!("wrong use; the only argument is --json"),
    };
    let path = Path::new("/sys/fs/bpf").join(format!("mqlb-nanoseconds-{}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| {
        format!(
            "create {} (root? a BPF file system on /sys/fs/bpf?)",
            path.display()
        )
    })?;
    let pins = PinDirectory(path);
    let mut scene = Scene::load(&pins.0)?;
    let rows = rows::measure(&mut scene)?;
    let sizes = scene.sizes()?;
    if json {
        table::print_json(&rows, &sizes)?;
    } else {
        table::print(&rows, &sizes);
    }
    Ok(())
}
