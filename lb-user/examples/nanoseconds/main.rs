//! What a packet costs in the XDP program: nanoseconds by BPF_PROG_TEST_RUN, and the program's size.
//!
//! ```text
//! cargo run --release -p lb-user --example nanoseconds [-- [--flows] [--json]]
//! ```
//! With `--flows`: what many flows cost ([`flows`]), which takes 2 GB.
//!
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
//! - [`frames`]: the packets; [`scene`]: programs and maps, in [`pins`]; [`rows`], [`known`]: what is measured;
//!   [`table`]: shown

mod flows;
mod frames;
mod known;
mod pins;
mod rows;
mod scene;
mod table;

use anyhow::bail;

use pins::PinDirectory;
use scene::{MANY, Scene};

fn main() -> anyhow::Result<()> {
    let (mut json, mut many) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--flows" => many = true,
            _ => bail!("wrong use; the only arguments are --flows and --json"),
        }
    }
    if many {
        let rows = flows::measure()?;
        if json {
            flows::print_json(&rows)?;
        } else {
            flows::print(&rows);
        }
        return Ok(());
    }
    let pins = PinDirectory::new("nanoseconds")?;
    let mut scene = Scene::load(pins.path(), 2 * MANY)?;
    let rows = rows::measure(&mut scene)?;
    let sizes = scene.sizes()?;
    if json {
        table::print_json(&rows, &sizes)?;
    } else {
        table::print(&rows, &sizes);
    }
    Ok(())
}
