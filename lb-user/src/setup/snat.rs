//! A free source address and port towards a backend.
//!
//! There is no list of free ports: the flow map is the list. A port is ours when the entry for the
//! backend's answers could be created, so a restarted agent, or a second one, can't collide with
//! live flows.

use super::interface::{Datapath, InsertError};
use super::rng::Rng;
use lb_common::layout::{Flow, FlowKey};

/// Most ports tried for one connection: beyond it the range is as good as full, and each try is a
/// system call.
const MAX_PROBES: u32 = 4096;

/// Why there is no port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoPort {
    /// All that were tried are taken.
    Exhausted,
    /// The flow map can't be written.
    Map(InsertError),
}

/// Creates the backend-side entry with a source address and port that are free towards
/// `backend`:`port`; gives its key. `flow_for` makes the entry for a key.
pub(super) fn allocate(
    datapath: &mut impl Datapath,
    rng: &mut Rng,
    addresses: &[[u8; 16]],
    ports: (u16, u16),
    backend: (&[u8; 16], [u8; 2]),
    flow_for: impl Fn(&FlowKey) -> Flow,
) -> Result<FlowKey, NoPort> {
    let per_address = u32::from(ports.1.saturating_sub(ports.0)) + 1;
    let addresses_len = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let total = per_address.saturating_mul(addresses_len);
    let start = rng.below(total);
    for probe in 0..total.min(MAX_PROBES) {
        let n = (start + probe) % total;
        // Address first: neighbours in the search differ in the address, so all are used evenly.
        let Some(address) = addresses.get((n % addresses_len) as usize) else {
            break;
        };
        let Ok(port) = u16::try_from(u32::from(ports.0) + n / addresses_len) else {
            break;
        };
        let key = FlowKey {
            src: *backend.0,
            dst: *address,
            src_port: backend.1,
            dst_port: port.to_be_bytes(),
        };
        match datapath.insert_new(&key, &flow_for(&key)) {
            Ok(()) => return Ok(key),
            Err(InsertError::Exists) => {}
            Err(other) => return Err(NoPort::Map(other)),
        }
    }
    Err(NoPort::Exhausted)
}
