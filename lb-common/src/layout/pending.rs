//! A CONNECT that waits for its backend's SYN-ACK.

use super::FlowKey;

/// Most bytes of payload that are kept. A segment on an Ethernet with an MTU of 1500 has at most 1460.
pub const PENDING_DATA: usize = 1472;
/// Entries of the map, a power of two. It is a ring: each new one overwrites the oldest.
pub const PENDING_SLOTS: u32 = 8192;

/// Value of the map `PENDING`, an array that the XDP program uses as a ring. The entry of a ticket is at
/// `ticket % PENDING_SLOTS`.
///
/// It may be overwritten at any time: whoever reads it compares the ticket before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Pending {
    /// Whose it is, a number of 32 bits; 0 while it is being written, and where nothing was yet.
    pub ticket: u64,
    /// Bytes of `data`.
    pub len: u16,
    /// One's complement sum of `data`, native order.
    pub sum: u16,
    /// The client's tuple, as it comes in.
    pub key: FlowKey,
    /// TSval of the segment, 0 for none.
    pub tsval: u32,
    /// Its window, as it stands in the header.
    pub window: u16,
    /// Named padding.
    pub _pad: u16,
    /// The first segment's payload; nothing in particular beyond `len`.
    pub data: [u8; PENDING_DATA],
    /// The ticket once more, behind everything else.
    pub check: u64,
}
const _: () = assert!(size_of::<Pending>() == 1536);

impl Pending {
    /// The payload, if this is the entry of `ticket` and of the client `key`, and whole.
    #[must_use]
    pub fn payload(&self, ticket: u32, key: &FlowKey) -> Option<&[u8]> {
        let wanted = u64::from(ticket);
        let whole = self.ticket == wanted && self.check == wanted && ticket != 0;
        if !whole || self.key != *key {
            return None;
        }
        let data = self.data.get(..usize::from(self.len))?;
        // A copy that was made while the program wrote.
        let sum = crate::checksum::Sum(crate::checksum::sum(data)).fold();
        same(sum, self.sum).then_some(data)
    }
}

/// Equal in one's complement, which has two zeros.
const fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{Sum, sum};

    #[test]
    fn a_payload_is_given_only_whole_and_to_its_owner() {
        let key = FlowKey::v4([10, 0, 0, 1], 1, [10, 0, 0, 2], 2);
        let mut data = [0; PENDING_DATA];
        data[..3].copy_from_slice(b"abc");
        let good = Pending {
            ticket: 7,
            len: 3,
            sum: Sum(sum(b"abc")).fold(),
            key,
            tsval: 0,
            window: 0,
            _pad: 0,
            data,
            check: 7,
        };
        assert_eq!(good.payload(7, &key), Some(&b"abc"[..]));
        let other = FlowKey {
            src_port: [9, 9],
            ..key
        };
        assert_eq!(good.payload(7, &other), None);
        assert_eq!(good.payload(8, &key), None);
        let torn = |change: fn(&mut Pending)| {
            let mut it = good;
            change(&mut it);
            it.payload(7, &key).is_some()
        };
        assert!(!torn(|p| p.check = 6));
        assert!(!torn(|p| p.ticket = 0));
        assert!(!torn(|p| p.data[1] = b'x'));
        assert!(!torn(|p| p.len = 1473));
        let none = Pending {
            ticket: 0,
            check: 0,
            ..good
        };
        assert_eq!(none.payload(0, &key), None);
    }
}
