//! Network cards of guests, and what they are plugged into.
//!
//! The driver takes an XDP program only if the card hands it frames as they were on the wire: no merged segments, no
//! checksums left out (virtio_net's `virtnet_xdp_set`: "Can't set XDP while host is implementing GRO_HW/CSUM").
//! These backends know no such offloads anyway; they are named so that others don't bring them in.

/// The first bytes of our cards' link addresses, by which the lab knows them (`tests/src/cards.rs`). The next byte is
/// the wire's number, the last one its end.
const PREFIX: &str = "52:54:00:77";

/// What both ends of every wire have: no offloads.
const PLAIN: &str = "csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,\
                     host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,rx_queue_size=1024";

/// qemu's arguments for `wires` wires with both ends in the same guest.
pub fn inside(wires: u8) -> Vec<String> {
    let ends = (0..wires).flat_map(|wire| [(wire, 0), (wire, 1)]);
    ends.flat_map(|(wire, end)| {
        let backend = format!("hubport,id=wire{wire}-{end},hubid={wire}");
        plug(&backend, wire, end)
    })
    .collect()
}

/// One end of wires `0..wires` that lead to another guest, through sockets in qemu's directory. End 0 has to be there
/// first.
pub fn between(wires: u8, end: u8) -> Vec<String> {
    let server = if end == 0 { "on" } else { "off" };
    (0..wires)
        .flat_map(|wire| {
            let socket = socket(wire);
            let backend = format!(
                "stream,id=wire{wire}-{end},server={server},addr.type=unix,addr.path={socket}"
            );
            plug(&backend, wire, end)
        })
        .collect()
}

/// The name of a wire's socket.
pub fn socket(wire: u8) -> String {
    format!("wire{wire}.socket")
}

fn plug(backend: &str, wire: u8, end: u8) -> [String; 4] {
    let card =
        format!("virtio-net-pci,netdev=wire{wire}-{end},mac={PREFIX}:{wire:02x}:{end:02x},{PLAIN}");
    ["-netdev".into(), backend.into(), "-device".into(), card]
}
