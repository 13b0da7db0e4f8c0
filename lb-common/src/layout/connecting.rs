//! What a client's entry holds while the XDP program connects to the backend by itself.

use super::Flow;

/// The fields of a client-side entry in [`State::Connecting`](super::State) that have another meaning
/// there. Addresses, next hop, backend, client hash and idle limit are those of the recipe to be,
/// `next_seq` and `last_ack` are the client's ISN and `K + 1` as in `Sniff`, `last_seen` is when the first
/// SYN went out.
///
/// The backend-side entry in this state is a recipe without its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Connecting {
    /// Ticket of the CONNECT ([`Pending`](super::Pending)).
    pub ticket: u32,
    /// TSval of its CONNECT.
    pub tsval: u32,
    /// Our last TSval, which the client echoed.
    pub echo: u32,
    /// The client uses timestamps.
    pub timestamps: bool,
    /// The window of its CONNECT, as it stands in the header.
    pub window: u16,
    /// Window scale that the client was promised.
    pub promised: u8,
}

impl Connecting {
    /// Reads them.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "put there by `store`"
    )]
    pub const fn load(flow: &Flow) -> Self {
        Self {
            ticket: flow.seq_add,
            tsval: flow.tsval_add,
            echo: flow.tsecr_add,
            timestamps: flow.ack_add & 0x1_0000 != 0,
            window: flow.ack_add as u16,
            promised: flow.window_shift as u8,
        }
    }

    /// Puts them into an entry.
    #[inline(always)]
    #[expect(clippy::cast_possible_wrap, reason = "a window scale is at most 15")]
    pub const fn store(&self, flow: &mut Flow) {
        flow.seq_add = self.ticket;
        flow.tsval_add = self.tsval;
        flow.tsecr_add = self.echo;
        flow.ack_add = self.window as u32 | (self.timestamps as u32) << 16;
        flow.window_shift = self.promised as i8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded() {
        for (timestamps, window, promised) in [(false, 0, 0), (true, 0xffff, 14), (true, 7, 15)] {
            let it = Connecting {
                ticket: 0xdead_beef,
                tsval: 0xffff_ffff,
                echo: 0x8000_0000,
                timestamps,
                window,
                promised,
            };
            let mut flow = Flow::ZERO;
            it.store(&mut flow);
            assert_eq!(Connecting::load(&flow), it);
        }
    }
}
