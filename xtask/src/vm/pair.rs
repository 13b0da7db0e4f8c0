//! Two guests: the balancer has one, with a card on each side; clients and brokers have the other, and drive it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::{Acceleration, Guest};
use super::initramfs::quoted;
use super::kernel::Kernel;
use super::nic;
use super::suite::Built;

/// The clients' side and the brokers'.
const WIRES: u8 = 2;

/// # Errors
/// What was to be seen was not, or a guest did not end by itself.
pub fn run(
    kernel: &Kernel,
    built: &Built,
    acceleration: Acceleration,
    directory: &Path,
) -> Result<()> {
    let limit = Duration::from_secs(60) * acceleration.slowness();
    let job = |role| {
        format!(
            "export RUST_BACKTRACE=1 MQLB_BIN={}\nexec {} guest {role}\n",
            quoted(&built.mqlb),
            quoted(&built.lab)
        )
    };
    let guest = |name, job, end| Guest {
        kernel,
        acceleration,
        name,
        directory,
        megabytes: 1536,
        devices: nic::between(WIRES, end),
        job,
        limit,
    };
    let (balancer, world) = (job("balancer"), job("world"));
    let (balancer, world) = (guest("balancer", &balancer, 0), guest("world", &world, 1));
    for wire in 0..WIRES {
        // Of an earlier run.
        let _ = std::fs::remove_file(directory.join(nic::socket(wire)));
    }
    std::thread::scope(|scope| {
        let balancing = scope.spawn(|| balancer.run(|line| println!("balancer: {line}")));
        let start = Instant::now();
        while !(0..WIRES).all(|wire| directory.join(nic::socket(wire)).exists()) {
            if balancing.is_finished() || start.elapsed() > limit {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let seen = world.run(|line| println!("world: {line}"));
        let balancing = balancing.join().expect("it does not panic");
        match (seen?, balancing.context("the balancer's guest")?) {
            (0, 0) => Ok(()),
            (world, balancer) => bail!("exit codes: balancer {balancer}, world {world}"),
        }
    })
}
