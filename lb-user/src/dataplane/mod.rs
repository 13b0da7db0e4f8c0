//! The kernel's side as the agent sees it: programs loaded and attached, maps opened, everything
//! pinned under one directory, so that it outlives the agent.
//!
//! - [`lock`]: one agent at a time
//! - [`load`]: programs and maps, new or adopted; [`unload`]: all gone
//! - [`home`]: where the tables are; [`table`]: the kernel's maps, or the same in memory; [`proxied`]: the
//!   connections of the proxy among those of the flow map
//! - [`maps`]: typed handles; [`batch`]: reading the flow map in large pieces; [`mapped`]: a map in
//!   memory, as [`credits`] and [`turns`] are; [`count`]: how much is in one
//! - [`clock`]: the kernel's monotonic clock, which the program stamps by

mod batch;
pub mod clock;
mod count;
mod credits;
mod home;
mod load;
mod lock;
mod mapped;
mod maps;
mod proxied;
mod table;
mod turns;
mod unload;

pub use batch::Batches;
pub use credits::Credits;
pub use home::Home;
pub use load::{Attached, Loaded, load};
pub use lock::{Lock, LockError};
pub use maps::Maps;
pub use proxied::{From, Opened, Proxied, Registered};
pub use table::Table;
pub use turns::Turns;
pub use unload::{Unloaded, unload};

use std::path::{Path, PathBuf};

use lb_common::layout::VERSION;

/// Entries of the flow map beyond those of connections. A client that is one too many needs one to be told
/// so, and the kernel calls a map full while its CPUs still keep some entries to themselves.
pub const RESERVE: u32 = 8192;

/// The directory of this layout version below an instance's pin directory.
#[must_use]
pub fn version_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("v{VERSION}"))
}
