//! SYN to SYN-ACK.

use lb_common::cookie::{self, Check, ClientOptions, NO_SCALE};
use lb_common::layout::{Endpoint, FlowKey, Verdict};

use crate::clock;
use crate::frame::{ACK, CWR, ECE, PSH, SYN, Segment};
use crate::place::{self, FROM_CLIENT, SETTINGS, VIP};
use crate::row::{Row, table};
use crate::world::Action;

/// MSS, SACK permitted, timestamps, window scale 7: the SYN of Linux.
const LINUX: [u8; 20] = [
    2, 4, 5, 0xb4, 4, 2, 8, 10, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0, 1, 3, 3, 7,
];
/// What the VIPs say to it; our TSval (bytes 8 to 11) is the clock's.
const LINUX_ANSWERED: [u8; 20] = [
    2, 4, 5, 0x64, 4, 2, 8, 10, 0, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd, 1, 3, 3, 9,
];
/// What the cookie keeps of it.
const LINUX_KEPT: ClientOptions = ClientOptions {
    mss_class: 7,
    window_scale: 7,
    sack: true,
};
/// What the cookie keeps of a SYN with a small MSS and nothing else.
const NOTHING_KEPT: ClientOptions = ClientOptions {
    mss_class: 2,
    window_scale: NO_SCALE,
    sack: false,
};

const ISN: u32 = 0xffff_ffff;

fn syn(key: FlowKey) -> Segment {
    Segment::new(key, FROM_CLIENT)
        .flags(SYN)
        .seq(ISN)
        .ack(0)
        .but(|s| s.tos = 0x10)
}

/// `syn` is answered with these options, and the cookie keeps `kept`. `tsval` is where our TSval is.
fn answered(
    name: &'static str,
    syn: Segment,
    options: &[u8],
    tsval: Option<usize>,
    kept: ClientOptions,
) -> Row {
    let options = options.to_vec();
    let whole = syn.bytes().len();
    let least = (syn.l4() + 20 + syn.options.len()).max(60).min(whole);
    Row::new(name, &syn)
        .gives(Action::Tx, &[Verdict::SynAck])
        .looks(move |got| {
            assert_eq!(
                cookie::check(
                    &SETTINGS.cookie_keys,
                    SETTINGS.cookie_epoch,
                    &syn.key,
                    syn.seq.wrapping_add(1),
                    got.seq.wrapping_add(1)
                ),
                Check::First
            );
            assert_eq!(ClientOptions::from_byte(got.seq.to_be_bytes()[3]), kept);
            let mut expected = syn.turned().but(|s| {
                s.seq = got.seq;
                s.ack = syn.seq.wrapping_add(1);
                s.flags = SYN | ACK;
                s.window = VIP.window;
                s.options = options.clone();
            });
            if let Some(at) = tsval {
                let value: [u8; 4] = got.options[at..at + 4].try_into().unwrap();
                let ms = (clock::fine_ns() / 1_000_000 % (1 << 32)) as u32;
                let ours = ms.wrapping_add(SETTINGS.timestamp_offset);
                let age = ours.wrapping_sub(u32::from_be_bytes(value));
                assert!(age < 5000, "TSval is {age} ms old");
                expected.options[at..at + 4].copy_from_slice(&value);
            }
            assert_eq!(*got, expected);
        })
        .then(move |world, run| {
            assert_eq!(run.frame.len(), least, "the frame is cut, never grown");
            assert_eq!(world.flows.keys().count(), 0, "a SYN leaves no trace");
        })
}

/// The same VIP with other answers.
fn answering(row: Row, answers: u8) -> Row {
    row.with(move |world| {
        let key = place::client_v4();
        let vip = Endpoint { answers, ..VIP };
        world
            .endpoints
            .insert(place::endpoint(key.dst, key.dst_port), vip, 0)
            .unwrap();
    })
}

#[test]
fn syn_ack() {
    let v4 = || syn(place::client_v4());
    let v6 = || syn(place::client_v6());
    let only_mss = [2, 4, 2, 0x18];
    let only_mss_answered = [2, 4, 5, 0x64];
    let linux = |name, syn: Segment| {
        answered(
            name,
            syn.options(&LINUX),
            &LINUX_ANSWERED,
            Some(8),
            LINUX_KEPT,
        )
    };
    let without_stamps = [
        2, 4, 5, 0x64, 4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 9,
    ];
    let lwip = v4().options(&only_mss);
    assert_eq!(lwip.bytes().len(), 58);
    table(
        "syn-ack",
        vec![
            linux("Linux, IPv4", v4()),
            linux("Linux, IPv6", v6()),
            answered(
                "only MSS, as lwIP: 58 bytes",
                lwip,
                &only_mss_answered,
                None,
                NOTHING_KEPT,
            ),
            answered(
                "only MSS, IPv6",
                v6().options(&only_mss),
                &only_mss_answered,
                None,
                NOTHING_KEPT,
            ),
            answered("no options: 536 is assumed", v4(), &[], None, NOTHING_KEPT),
            answered(
                "no options, IPv6: 1220 is assumed",
                v6(),
                &[],
                None,
                ClientOptions {
                    mss_class: 3,
                    ..NOTHING_KEPT
                },
            ),
            answered(
                "Fast Open with a cookie and MPTCP become NOPs",
                v4().options(&[
                    2, 4, 5, 0xb4, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 30, 12, 0, 0x81, 1, 2, 3, 4, 5,
                    6, 7, 8, 1, 1,
                ]),
                &[[2, 4, 5, 0x64].as_slice(), &[1; 24]].concat(),
                None,
                ClientOptions {
                    mss_class: 7,
                    ..NOTHING_KEPT
                },
            ),
            answered(
                "40 bytes of options",
                v4().options(
                    &[
                        LINUX.as_slice(),
                        &[
                            34, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1,
                        ],
                    ]
                    .concat(),
                ),
                &[LINUX_ANSWERED.as_slice(), &[1; 20]].concat(),
                Some(8),
                LINUX_KEPT,
            ),
            answered(
                "a window scale of 15 is read as 14",
                v4().options(&[3, 3, 15, 0]),
                &[3, 3, 9, 0],
                None,
                ClientOptions {
                    window_scale: 14,
                    ..NOTHING_KEPT
                },
            ),
            answered(
                "nothing counts after the end of options",
                v4().options(&[4, 2, 0, 0, 3, 3, 7, 1]),
                &[4, 2, 0, 0, 3, 3, 7, 1],
                None,
                ClientOptions {
                    sack: true,
                    ..NOTHING_KEPT
                },
            ),
            linux(
                "data is neither acknowledged nor sent back",
                v4().payload(&[0x10; 900]),
            ),
            answered(
                "data of one byte behind a short header",
                v4().options(&only_mss).payload(b"x"),
                &only_mss_answered,
                None,
                NOTHING_KEPT,
            ),
            linux("ECN is not answered", v4().flags(SYN | ECE | CWR)),
            linux("PSH is no reason to refuse", v4().flags(SYN | PSH)),
            linux("a VLAN tag is kept", v4().tag(0x8100, 0x6064)),
            linux("a VLAN tag is kept, IPv6", v6().tag(0x8100, 0x6064)),
            linux("two VLAN tags are kept", v4().tag(0x88a8, 5).tag(0x8100, 7)),
            answering(
                answered(
                    "a VIP without timestamps",
                    v4().options(&LINUX),
                    &without_stamps,
                    None,
                    LINUX_KEPT,
                ),
                Endpoint::SACK | Endpoint::WINDOW_SCALE,
            ),
            answering(
                answered(
                    "a VIP that answers nothing but the MSS",
                    v4().options(&LINUX),
                    &[[2, 4, 5, 0x64].as_slice(), &[1; 16]].concat(),
                    None,
                    ClientOptions {
                        mss_class: 7,
                        ..NOTHING_KEPT
                    },
                ),
                0,
            ),
            Row::new(
                "an option longer than the header",
                &v4().options(&[2, 9, 5, 0xb4]),
            )
            .drops(Verdict::BadOptions),
            Row::new("an option of length 1", &v4().options(&[2, 1, 5, 0xb4]))
                .drops(Verdict::BadOptions),
            Row::new("an option of length 0, IPv6", &v6().options(&[8, 0, 1, 1]))
                .drops(Verdict::BadOptions),
            Row::new("an option without its length", &v4().options(&[1, 1, 1, 8]))
                .drops(Verdict::BadOptions),
        ],
    );
}
