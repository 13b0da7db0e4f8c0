//! The numbers of the two recipes. `K` is our cookie, `S` the backend's ISN.

use crate::cookie::{ClientOptions, NO_SCALE};
use crate::layout::Flow;
use crate::options::Offered;

/// What a splice adds to numbers, and how it shifts windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// `Δ = K − S`.
    pub delta: u32,
    /// Our last TSval minus the backend's; 0 without timestamps.
    pub ts_delta: u32,
    /// Shift of windows from the client.
    pub client_shift: i8,
    /// Shift of windows from the backend.
    pub backend_shift: i8,
}

impl Numbers {
    /// From the cookie `K`, the sequence number `S` of the SYN-ACK, our last TSval and the backend's
    /// (`None` unless both sides use timestamps), the client's window scale, that which it was promised,
    /// and that which the backend offers.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_wrap,
        reason = "window scales are at most 15 (RFC 7323)"
    )]
    pub const fn new(
        cookie: u32,
        theirs: u32,
        timestamps: Option<(u32, u32)>,
        (client, promised, offered): (u8, u8, Option<u8>),
    ) -> Self {
        let (client_shift, backend_shift) = if client == NO_SCALE {
            // We offered no scaling to the backend: neither side scales.
            (0, 0)
        } else {
            match offered {
                Some(scale) => (0, scale as i8 - promised as i8),
                // Without the option in the SYN-ACK neither direction scales towards the backend, but
                // the client believes that both do (RFC 7323, section 2.2).
                None => (client as i8, -(promised as i8)),
            }
        };
        Self {
            delta: cookie.wrapping_sub(theirs),
            ts_delta: match timestamps {
                Some((ours, theirs)) => ours.wrapping_sub(theirs),
                None => 0,
            },
            client_shift,
            backend_shift,
        }
    }

    /// Puts the numbers into the recipe for packets from the client.
    #[inline(always)]
    pub const fn from_client(&self, flow: &mut Flow) {
        // Our ISN towards the backend was the client's, less the PROXY header.
        flow.seq_add = 0;
        flow.ack_add = self.delta.wrapping_neg();
        flow.tsval_add = 0;
        flow.tsecr_add = self.ts_delta.wrapping_neg();
        flow.window_shift = self.client_shift;
    }

    /// Puts the numbers into the recipe for packets from the backend.
    #[inline(always)]
    pub const fn from_backend(&self, flow: &mut Flow) {
        flow.seq_add = self.delta;
        flow.ack_add = 0;
        flow.tsval_add = self.ts_delta;
        flow.tsecr_add = 0;
        flow.window_shift = self.backend_shift;
    }
}

/// Whether a SYN-ACK offers what the client was promised: nothing that must be noted, or that rules a
/// splice out. Another window scale is made up for by shifts, and is nothing to note.
#[inline(always)]
#[must_use]
pub const fn may_splice(
    client: ClientOptions,
    timestamps: bool,
    mss: u16,
    offered: &Offered,
) -> bool {
    let scales = client.window_scale == NO_SCALE || offered.window_scale.is_some();
    let sack = !client.sack || offered.sack;
    let stamps = !timestamps || offered.timestamps.is_some();
    let large = match offered.mss {
        Some(theirs) => theirs >= mss,
        None => true,
    };
    scales && sack && stamps && large
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Timestamps;
    use proptest::prelude::*;

    proptest! {
        /// What one recipe adds, the other takes off.
        #[test]
        fn the_recipes_mirror_each_other(cookie: u32, theirs: u32, ours: u32, stamp: u32) {
            let n = Numbers::new(cookie, theirs, Some((ours, stamp)), (7, 9, Some(5)));
            let (mut from_client, mut from_backend) = (Flow::ZERO, Flow::ZERO);
            n.from_client(&mut from_client);
            n.from_backend(&mut from_backend);
            // The backend's first byte is the one behind our cookie, and acknowledged as its own.
            let seen = theirs.wrapping_add(1).wrapping_add(from_backend.seq_add);
            prop_assert_eq!(seen, cookie.wrapping_add(1));
            prop_assert_eq!(seen.wrapping_add(from_client.ack_add), theirs.wrapping_add(1));
            let seen = stamp.wrapping_add(from_backend.tsval_add);
            prop_assert_eq!(seen, ours);
            prop_assert_eq!(seen.wrapping_add(from_client.tsecr_add), stamp);
            prop_assert_eq!((from_client.seq_add, from_client.tsval_add), (0, 0));
            prop_assert_eq!((from_backend.ack_add, from_backend.tsecr_add), (0, 0));
        }
    }

    #[test]
    fn windows() {
        let shifts = |scales| {
            let n = Numbers::new(0, 0, None, scales);
            (n.client_shift, n.backend_shift)
        };
        assert_eq!(shifts((7, 9, Some(9))), (0, 0));
        assert_eq!(shifts((7, 9, Some(5))), (0, -4));
        assert_eq!(shifts((7, 2, Some(5))), (0, 3));
        assert_eq!(shifts((7, 9, None)), (7, -9));
        assert_eq!(shifts((NO_SCALE, 9, None)), (0, 0));
        assert_eq!(shifts((NO_SCALE, 9, Some(5))), (0, 0));
    }

    #[test]
    fn what_was_promised_must_be_offered() {
        let client = ClientOptions {
            mss_class: 7,
            window_scale: 7,
            sack: true,
        };
        let all = Offered {
            mss: Some(1400),
            window_scale: Some(9),
            sack: true,
            timestamps: Some(Timestamps::default()),
        };
        let plain = ClientOptions {
            mss_class: 2,
            window_scale: NO_SCALE,
            sack: false,
        };
        let none = Offered::default();
        assert!(may_splice(client, true, 1400, &all));
        assert!(may_splice(client, false, 1300, &all));
        assert!(may_splice(plain, false, 1400, &none));
        assert!(!may_splice(plain, true, 1400, &none));
        for lacking in [
            Offered {
                mss: Some(1399),
                ..all
            },
            Offered {
                window_scale: None,
                ..all
            },
            Offered { sack: false, ..all },
            Offered {
                timestamps: None,
                ..all
            },
        ] {
            assert!(!may_splice(client, true, 1400, &lacking), "{lacking:?}");
        }
    }
}
