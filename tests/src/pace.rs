//! How slow this machine is, for tests that measure time.

use std::time::Duration;

/// How many times as long everything may take as on processors of one's own: `MQLB_SLOWNESS`, which `cargo xtask vm
/// test` sets for guests whose processors are emulated. Else 1.
///
/// # Panics
/// It is set, and is no number.
pub fn slowness() -> u32 {
    let said = std::env::var("MQLB_SLOWNESS").ok();
    said.map_or(1, |text| text.parse().expect("MQLB_SLOWNESS is a number"))
}

/// So long on processors of one's own, on this machine.
pub fn here(time: Duration) -> Duration {
    time * slowness()
}

/// So many, or so many a second, on processors of one's own; as much work in the same time on this machine.
pub fn fewer(number: u32) -> u32 {
    (number / slowness()).max(1)
}
