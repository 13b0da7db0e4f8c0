//! Next hops: VLAN tags, interfaces, and a backend's hop that changes.

use lb_common::layout::{Backend, Flow, Hop, Verdict, flags};

use crate::frame::timestamps;
use crate::place::{
    BACKEND_SLOT, CLIENT_MAC, Connection, GENERATION, HOP, IFINDEX, OUT_IFINDEX, backend,
};
use crate::row::{Row, table};
use crate::spliced::{becomes, with_backend_entry, with_client_entry};
use crate::world::{Action, World};

#[test]
fn next_hops() {
    let c = Connection::v4();
    let tagged_out = |f: &mut Flow| {
        f.vlan = 300;
        f.flags |= flags::TAGGED;
    };
    // Clients behind VLAN 100, which the entry has learnt.
    let behind_vlan =
        |vlan: u16| move |f: &mut Flow| f.ingress = Hop::signature(IFINDEX, &CLIENT_MAC, vlan);
    let mut rows = vec![];

    // VLANs: the id is the next hop's; priority and DEI stay.
    let s = c.backend_segment().tag(0x8100, 0xb064);
    rows.push(
        becomes(
            "VLAN id is rewritten",
            c,
            s.clone(),
            c.spliced(&s).but(|s| s.tags[0].1 = 0xb12c),
        )
        .with(with_backend_entry(c, tagged_out)),
    );
    let s = c.backend_segment().tag(0x8100, 0xb12c);
    rows.push(
        becomes("the same VLAN id", c, s.clone(), c.spliced(&s))
            .with(with_backend_entry(c, tagged_out)),
    );
    let s = c
        .backend_segment()
        .tag(0x88a8, 100)
        .tag(0x8100, 200)
        .options(&timestamps(1, 2));
    rows.push(
        becomes(
            "of two tags the outer one",
            c,
            s.clone(),
            c.spliced(&s).but(|s| s.tags[0].1 = 300),
        )
        .with(with_backend_entry(c, tagged_out)),
    );
    let s = c.client_segment().tag(0x8100, 100);
    rows.push(
        becomes(
            "from the client, IPv4",
            c,
            s.clone(),
            c.spliced(&s).but(|s| s.tags[0].1 = 300),
        )
        .with(with_client_entry(c, move |f| {
            tagged_out(f);
            behind_vlan(100)(f);
        })),
    );
    rows.push(
        Row::new("untagged for a tagged next hop", &c.backend_segment())
            .with(with_backend_entry(c, tagged_out))
            .drops(Verdict::VlanMismatch),
    );
    rows.push(
        Row::new(
            "tagged for an untagged next hop",
            &c.backend_segment().tag(0x8100, 100),
        )
        .with(move |w| c.open(w))
        .drops(Verdict::VlanMismatch),
    );

    // The way out.
    rows.push(
        becomes(
            "one interface for both sides",
            c,
            c.client_segment(),
            c.spliced(&c.client_segment()),
        )
        .with(with_client_entry(c, |f| f.ifindex = IFINDEX))
        .gives(Action::Tx, &[Verdict::Spliced]),
    );
    rows.push(
        becomes(
            "two interfaces",
            c,
            c.backend_segment(),
            c.spliced(&c.backend_segment()),
        )
        .with(with_backend_entry(c, |f| f.ifindex = OUT_IFINDEX))
        .gives(Action::Redirect, &[Verdict::Spliced]),
    );

    // The backend's next hop changes: the entry follows by the generation.
    let new_hop = Hop {
        ifindex: IFINDEX,
        dst_mac: [2, 9, 9, 9, 9, 1],
        src_mac: [2, 9, 9, 9, 9, 2],
        vlan: 0,
        tagged: 0,
    };
    let set = move |hop: Hop, generation: u32| {
        move |w: &mut World| {
            w.backends
                .set(
                    u32::from(BACKEND_SLOT),
                    Backend {
                        hop,
                        generation,
                        ..backend()
                    },
                    0,
                )
                .unwrap();
        }
    };
    let moved = |hop: Hop| {
        c.spliced(&c.client_segment())
            .but(|s| (s.dst_mac, s.src_mac) = (hop.dst_mac, hop.src_mac))
    };
    rows.push(
        becomes(
            "the backend's next hop is followed",
            c,
            c.client_segment(),
            moved(new_hop),
        )
        .with(set(new_hop, GENERATION + 1))
        .gives(Action::Tx, &[Verdict::Spliced])
        .then(move |w, _| {
            let flow = w.flow(&c.client).unwrap();
            assert_eq!(
                (
                    flow.ifindex,
                    flow.dst_mac,
                    flow.src_mac,
                    flow.hop_generation
                ),
                (IFINDEX, new_hop.dst_mac, new_hop.src_mac, GENERATION + 1)
            );
            assert_eq!(w.flow(&c.backend).unwrap().dst_mac, CLIENT_MAC);
        }),
    );
    rows.push(
        becomes(
            "the same generation: the cached hop",
            c,
            c.client_segment(),
            moved(HOP),
        )
        .with(set(new_hop, GENERATION)),
    );
    let tagged_hop = Hop {
        vlan: 300,
        tagged: 1,
        ..new_hop
    };
    rows.push(
        Row::new(
            "the new next hop is tagged, the frame is not",
            &c.client_segment(),
        )
        .with(move |w| c.open(w))
        .with(set(tagged_hop, GENERATION + 1))
        .drops(Verdict::VlanMismatch),
    );
    let s = c.client_segment().tag(0x8100, 100);
    rows.push(
        becomes(
            "the new next hop is tagged, and so is the frame",
            c,
            s,
            moved(tagged_hop).tag(0x8100, 300),
        )
        .with(with_client_entry(c, behind_vlan(100)))
        .with(set(tagged_hop, GENERATION + 1))
        .gives(Action::Tx, &[Verdict::Spliced]),
    );
    let s = c.backend_segment();
    rows.push(
        becomes(
            "the backend's entry has no business with it",
            c,
            s.clone(),
            c.spliced(&s),
        )
        .with(set(new_hop, GENERATION + 1))
        .then(move |w, _| {
            assert_eq!(w.flow(&c.backend).unwrap().hop_generation, 0);
        }),
    );
    table("next-hops", rows);
}
