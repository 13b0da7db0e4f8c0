//! IP and TCP headers that can't be read, and ICMP errors about our connections.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use lb_common::layout::{State, Verdict};

use crate::frame::{ACK, SYN, Segment, edit, last4};
use crate::place::{self, Connection, FROM_BACKEND, FROM_CLIENT, LISTENER};
use crate::row::{Row, table};

/// The same packet to a VIP and to another host: the one is dropped and counted, the other passes.
fn both(
    rows: &mut Vec<Row>,
    names: [&'static str; 2],
    segment: &Segment,
    verdict: Verdict,
    damage: impl Fn(&Segment) -> (Vec<u8>, usize),
) {
    let (frame, bytes) = damage(segment);
    rows.push(Row::raw(names[0], frame, bytes).drops(verdict));
    let other = segment.but(|s| s.key.dst[15] ^= 0x80);
    let (frame, bytes) = damage(&other);
    rows.push(Row::raw(names[1], frame, bytes));
}

/// Puts an IPv6 extension header in front of TCP.
fn extended(s: &Segment, kind: u8, header: [u8; 8]) -> (Vec<u8>, usize) {
    let mut frame = edit(s.bytes(), s.l3() + 6, &[kind]);
    let length = u16::try_from(s.ip_len() - 40 + 8).unwrap();
    frame = edit(frame, s.l3() + 4, &length.to_be_bytes());
    frame.splice(s.l4()..s.l4(), header);
    (frame, s.ip_len() + 8)
}

/// Puts 4 bytes of IPv4 options in front of TCP.
fn with_ip_options(s: &Segment) -> (Vec<u8>, usize) {
    let mut frame = edit(s.bytes(), s.l3(), &[0x46]);
    let length = u16::try_from(s.ip_len() + 4).unwrap();
    frame = edit(frame, s.l3() + 2, &length.to_be_bytes());
    frame.splice(s.l4()..s.l4(), [0x94, 4, 0, 0]);
    (frame, s.ip_len() + 4)
}

#[test]
fn unreadable() {
    let v4 = Segment::new(place::client_v4(), FROM_CLIENT).payload(b"payload");
    let v6 = Segment::new(place::client_v6(), FROM_CLIENT).payload(b"payload");
    let tagged = v4.but(|s| s.tags.push((0x8100, 7)));
    let mut rows = vec![];
    let r = &mut rows;
    let at3 = |at: usize, bytes: &'static [u8]| {
        move |s: &Segment| (edit(s.bytes(), s.l3() + at, bytes), s.ip_len())
    };
    let at4 = |at: usize, bytes: &'static [u8]| {
        move |s: &Segment| (edit(s.bytes(), s.l4() + at, bytes), s.ip_len())
    };
    use Verdict::{Fragment, IpExtension, Malformed};
    both(
        r,
        ["first fragment", "first fragment for another"],
        &v4,
        Fragment,
        at3(6, &[0x20, 0]),
    );
    both(
        r,
        [
            "first fragment, tagged",
            "first fragment, tagged, for another",
        ],
        &tagged,
        Fragment,
        at3(6, &[0x20, 0]),
    );
    both(
        r,
        ["later fragment", "later fragment for another"],
        &v4,
        Fragment,
        at3(6, &[0, 0xb9]),
    );
    both(
        r,
        ["middle fragment", "middle fragment for another"],
        &v4,
        Fragment,
        at3(6, &[0x21, 0]),
    );
    both(
        r,
        ["IPv6 fragment header", "IPv6 fragment header for another"],
        &v6,
        Fragment,
        |s| extended(s, 44, [6, 0, 0, 1, 0, 0, 0, 9]),
    );
    both(
        r,
        ["IPv6 later fragment", "IPv6 later fragment for another"],
        &v6,
        Fragment,
        |s| extended(s, 44, [6, 0, 5, 0xa8, 0, 0, 0, 9]),
    );
    both(
        r,
        ["IPv6 hop-by-hop", "IPv6 hop-by-hop for another"],
        &v6,
        IpExtension,
        |s| extended(s, 0, [6, 0, 5, 2, 0, 0, 1, 0]),
    );
    both(
        r,
        [
            "IPv6 destination options",
            "IPv6 destination options for another",
        ],
        &v6,
        IpExtension,
        |s| extended(s, 60, [6, 0, 1, 4, 0, 0, 0, 0]),
    );
    both(
        r,
        ["IPv6 routing", "IPv6 routing for another"],
        &v6,
        IpExtension,
        |s| extended(s, 43, [6, 0, 4, 0, 0, 0, 0, 0]),
    );
    // IPsec, and what is not around TCP, is the host's, for a VIP too.
    for (name, kind, next) in [
        ("IPv6 authentication", 51, 6),
        ("IPv6 encapsulation", 50, 6),
        ("IPv6 fragment of UDP", 44, 17),
        ("IPv6 hop-by-hop around ICMPv6", 0, 58),
    ] {
        let (frame, bytes) = extended(&v6, kind, [next, 0, 0, 0, 0, 0, 0, 0]);
        r.push(Row::raw(name, frame, bytes));
    }
    both(
        r,
        ["IPv4 options", "IPv4 options for another"],
        &v4,
        IpExtension,
        with_ip_options,
    );
    // 7 bytes of payload are in the frame; the header claims 8, or many more.
    both(
        r,
        [
            "IP length beyond the frame",
            "IP length beyond the frame, for another",
        ],
        &v4,
        Malformed,
        |s| (edit(s.bytes(), s.l3() + 2, &[0, 48]), 48),
    );
    both(
        r,
        ["IP length of 65535", "IP length of 65535, for another"],
        &v4,
        Malformed,
        |s| (edit(s.bytes(), s.l3() + 2, &[0xff, 0xff]), 0xffff),
    );
    both(
        r,
        [
            "IPv6 length beyond the frame",
            "IPv6 length beyond the frame, for another",
        ],
        &v6,
        Malformed,
        |s| (edit(s.bytes(), s.l3() + 4, &[0, 28]), 68),
    );
    both(
        r,
        [
            "IP length that ends in TCP",
            "IP length that ends in TCP, for another",
        ],
        &v4,
        Malformed,
        |s| (edit(s.bytes(), s.l3() + 2, &[0, 39]), 39),
    );
    both(
        r,
        [
            "IPv6 length that ends in TCP",
            "IPv6 length that ends in TCP, for another",
        ],
        &v6,
        Malformed,
        |s| (edit(s.bytes(), s.l3() + 4, &[0, 19]), 59),
    );
    both(
        r,
        ["IP length of 0", "IP length of 0, for another"],
        &v4,
        Malformed,
        |s| (edit(s.bytes(), s.l3() + 2, &[0, 0]), 0),
    );
    both(
        r,
        [
            "a frame that ends in TCP",
            "a frame that ends in TCP, for another",
        ],
        &v4,
        Malformed,
        |s| (s.bytes()[..s.l4() + 19].to_vec(), s.ip_len()),
    );
    both(
        r,
        [
            "data offset of 16 bytes",
            "data offset of 16 bytes, for another",
        ],
        &v4,
        Malformed,
        at4(12, &[0x40]),
    );
    both(
        r,
        [
            "data offset of 0, IPv6",
            "data offset of 0, IPv6, for another",
        ],
        &v6,
        Malformed,
        at4(12, &[0]),
    );
    both(
        r,
        [
            "data offset beyond the packet",
            "data offset beyond the packet, for another",
        ],
        &v4,
        Malformed,
        at4(12, &[0xf0]),
    );
    table("unreadable", rows);
}

/// An ICMP error about `about`, which the balancer sent: the first 8 bytes of TCP are quoted.
fn icmp(about: &Segment, kind: u8, code: u8, quoted: usize) -> (Vec<u8>, usize) {
    let (from, to) = (about.key.dst, about.key.src);
    let message = [
        &[kind, code, 0, 0, 0, 0, 0, 0][..],
        &about.bytes()[14..about.l4() + quoted],
    ]
    .concat();
    let mut frame = [FROM_BACKEND.1, FROM_BACKEND.0].concat();
    if about.key.is_v4() {
        let length = u16::try_from(message.len()).unwrap();
        let mut ip = Ipv4Header::new(length, 63, IpNumber::ICMP, last4(&from), last4(&to)).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        frame.extend([8, 0]);
        frame.extend(ip.to_bytes());
    } else {
        let ip = Ipv6Header {
            payload_length: u16::try_from(message.len()).unwrap(),
            next_header: IpNumber::IPV6_ICMP,
            hop_limit: 63,
            source: from,
            destination: to,
            ..Ipv6Header::default()
        };
        frame.extend([0x86, 0xdd]);
        frame.extend(ip.to_bytes());
    }
    frame.extend(message);
    let bytes = frame.len() - 14;
    (frame, bytes)
}

#[test]
fn icmp_errors() {
    let set_up = |c: Connection| {
        move |world: &mut crate::world::World| {
            let mut backend = c.backend_entry();
            backend.state = State::Setup as u8;
            world.flows.insert(c.backend, backend, 0).unwrap();
        }
    };
    let mut rows = vec![];
    for (c, names, kind, code) in [
        (
            Connection::v4(),
            [
                "port unreachable",
                "port unreachable of nothing",
                "port unreachable cut short",
            ],
            3,
            3,
        ),
        (
            Connection::v4(),
            [
                "fragmentation needed",
                "fragmentation needed of nothing",
                "fragmentation needed cut short",
            ],
            3,
            4,
        ),
        (
            Connection::v6(),
            [
                "no route, IPv6",
                "no route of nothing, IPv6",
                "no route cut short, IPv6",
            ],
            1,
            0,
        ),
        (
            Connection::v6(),
            [
                "packet too big, IPv6",
                "packet too big of nothing, IPv6",
                "packet too big cut short, IPv6",
            ],
            2,
            0,
        ),
    ] {
        let syn = Segment::new(c.backend.reversed(), FROM_BACKEND).flags(SYN);
        let (frame, bytes) = icmp(&syn, kind, code, 8);
        rows.push(
            Row::raw(names[0], frame.clone(), bytes)
                .with(set_up(c))
                .punts(Verdict::PuntedIcmp)
                .then(|_, run| {
                    assert_eq!((run.punts[0].kind, run.punts[0].listener), (3, LISTENER))
                }),
        );
        rows.push(Row::raw(names[1], frame, bytes));
        let (frame, bytes) = icmp(&syn, kind, code, 4);
        rows.push(Row::raw(names[2], frame, bytes).with(set_up(c)));
        // The quoted packet of an open connection: the path to the backend or to the client.
        let data = Segment::new(c.client.reversed(), FROM_CLIENT).flags(ACK);
        let (frame, bytes) = icmp(&data, kind, code, 8);
        rows.push(
            Row::raw("about a packet to the client", frame, bytes)
                .with(move |w| c.open(w))
                .punts(Verdict::PuntedIcmp),
        );
    }
    let c = Connection::v4();
    let syn = Segment::new(c.backend.reversed(), FROM_BACKEND).flags(SYN);
    let (frame, bytes) = icmp(&syn, 11, 0, 8);
    rows.push(Row::raw("time exceeded is the host's", frame, bytes).with(set_up(c)));
    let (frame, bytes) = icmp(&syn, 8, 0, 8);
    rows.push(Row::raw("an echo request is the host's", frame, bytes).with(set_up(c)));
    let (frame, bytes) = icmp(&syn, 3, 3, 8);
    let udp = edit(frame, 14 + 20 + 8 + 9, &[17]);
    rows.push(Row::raw("about UDP", udp, bytes).with(set_up(c)));
    let c = Connection::v6();
    let syn = Segment::new(c.backend.reversed(), FROM_BACKEND).flags(SYN);
    let (frame, bytes) = icmp(&syn, 128, 0, 8);
    rows.push(Row::raw("an echo request is the host's, IPv6", frame, bytes).with(set_up(c)));
    let (frame, bytes) = icmp(&syn, 135, 0, 8);
    rows.push(Row::raw("a neighbour solicitation is the host's", frame, bytes).with(set_up(c)));
    table("icmp", rows);
}
