//! Known clients of a listener with `proxy_protocol = "v2"`: the header goes in front of the first byte, and again
//! as long as the backend hasn't acknowledged it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::layout::{FlowKey, Listener, State, Verdict, flags, source_mode, steer};
use lb_common::proxy_v2;

use crate::frame::{ACK, PSH, Segment, edit, timestamps};
use crate::known::{
    Client, ID, ISN, THEIRS, begin, both, connect_with, dropped, listener, overwrite, prepare,
    syn_ack, verdicts, world,
};
use crate::place::FROM_BACKEND;
use crate::world::{Action, World};

const FIRST: u32 = ISN.wrapping_add(1);

fn prepared(w: &mut World) {
    prepare(w);
    w.set_listener(&Listener {
        steer: steer::KERNEL_PROXY,
        ..listener(source_mode::SNAT)
    });
}

/// By the encoder that the agent uses.
fn header(key: &FlowKey) -> Vec<u8> {
    let socket = |address: [u8; 16], port: [u8; 2]| {
        let ip = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
        SocketAddr::new(ip, u16::from_be_bytes(port))
    };
    let mut out = [0; proxy_v2::MAX_LEN];
    let src = socket(key.src, key.src_port);
    let len = proxy_v2::encode(src, socket(key.dst, key.dst_port), &mut out);
    out[..len].to_vec()
}

fn before(client: &Client) -> u32 {
    u32::try_from(header(&client.key).len()).unwrap()
}

/// Up to the backend's SYN-ACK; gives the SYN and what answered the SYN-ACK.
fn open(w: &mut World, client: &Client, payload: &[u8]) -> (Segment, Segment) {
    let syn = begin(w, client, payload);
    let run = w.run(&syn_ack(&syn, client).bytes());
    assert_eq!(
        (run.action, verdicts(&run)[0]),
        (Action::Redirect, Verdict::SteeredKernel)
    );
    (syn, Segment::read(&run.frame))
}

/// A segment of the client behind the handshake.
fn says(client: &Client, offset: u32, payload: &[u8]) -> Segment {
    client
        .connect(payload)
        .but(|s| s.seq = FIRST.wrapping_add(offset))
}

fn spliced(w: &mut World, s: &Segment) -> Segment {
    let run = w.run(&s.bytes());
    assert_eq!(verdicts(&run), [Verdict::Spliced]);
    assert_eq!(
        usize::try_from(run.counted[0].1.bytes).unwrap(),
        s.ip_len(),
        "counted as it came"
    );
    Segment::read(&run.frame)
}

fn acknowledges(w: &mut World, syn: &Segment, number: u32) {
    let ack = Segment::new(syn.key.reversed(), FROM_BACKEND)
        .seq(THEIRS + 1)
        .ack(number);
    let run = w.run(&ack.bytes());
    assert_eq!(verdicts(&run), [Verdict::Spliced]);
    // The client ignores what lies before its first byte (RFC 9293, section 3.10.7.4).
    assert_eq!(Segment::read(&run.frame).ack, number);
}

#[test]
fn the_header_precedes_the_connect() {
    let Some(mut w) = world("proxied") else {
        return;
    };
    for client in Client::all() {
        prepared(&mut w);
        let payload = connect_with(ID, b"secret");
        let syn = begin(&mut w, &client, &payload);
        let first = FIRST.wrapping_sub(before(&client));
        assert_eq!(syn.seq, first.wrapping_sub(1));
        let (of_client, of_backend) = both(&w, &client);
        assert_eq!(of_client.flags, flags::FROM_CLIENT | flags::HEADED);
        assert_eq!((of_client.next_seq, of_backend.flags), (ISN, 0));

        // The client is impatient: the same SYN again.
        let run = w.run(&client.connect(&payload).bytes());
        assert_eq!(verdicts(&run), [Verdict::KernelSynAgain]);
        assert_eq!(Segment::read(&run.frame), syn);

        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Redirect, vec![Verdict::SteeredKernel])
        );
        let got = Segment::read(&run.frame);
        let expected = Segment {
            key: syn.key,
            flags: ACK | PSH,
            seq: first,
            ack: THEIRS + 1,
            window: 501,
            options: if client.stamps {
                timestamps(7000, 90_000)
            } else {
                vec![]
            },
            payload: [header(&client.key), payload].concat(),
            ..syn.clone()
        };
        assert_eq!(got, expected);
        let (of_client, of_backend) = both(&w, &client);
        assert_eq!(of_client.state, State::Open as u8);
        assert_eq!((of_client.seq_add, of_client.next_seq), (0, FIRST));
        assert_eq!(of_backend.last_ack, first);
    }
}

#[test]
fn every_length_of_connect() {
    let Some(mut w) = world("proxied-lengths") else {
        return;
    };
    for client in [Client::v4(), Client::v6()] {
        for password in (0..64).chain([447, 448, 449, 959, 960, 1300]) {
            prepared(&mut w);
            let payload = connect_with(ID, &vec![b'p'; password]);
            let (_, got) = open(&mut w, &client, &payload);
            assert_eq!(got.payload, [header(&client.key), payload].concat());
        }
    }
}

#[test]
fn the_header_comes_again_until_it_is_acknowledged() {
    let Some(mut w) = world("proxied-again") else {
        return;
    };
    for client in Client::all() {
        prepared(&mut w);
        let payload = connect_with(ID, b"secret");
        let (syn, _) = open(&mut w, &client, &payload);
        let (len, first) = (
            u32::try_from(payload.len()).unwrap(),
            FIRST.wrapping_sub(before(&client)),
        );
        // What follows overtakes it, and is what it is.
        let later = spliced(&mut w, &says(&client, len, b"\xe0\0"));
        assert_eq!(
            (later.seq, &later.payload[..]),
            (FIRST.wrapping_add(len), &b"\xe0\0"[..])
        );
        // The backend misses something: it repeats its acknowledgement, or has taken a part.
        for missing in [first, first.wrapping_add(5), FIRST.wrapping_sub(1)] {
            acknowledges(&mut w, &syn, missing);
            // As it was, or with what followed.
            for more in [&b""[..], b"\xe0\0", b"odd"] {
                let again = [&payload[..], more].concat();
                let sent = says(&client, 0, &again);
                let got = spliced(&mut w, &sent);
                assert_eq!(got.seq, first);
                assert_eq!(got.payload, [header(&client.key), again].concat());
                assert_eq!((got.flags, got.ttl), (sent.flags, sent.ttl - 1));
                assert_eq!(got.key, syn.key);
            }
        }
        // In pieces: only the first is preceded.
        let got = spliced(&mut w, &says(&client, 0, &payload[..7]));
        assert_eq!(
            got.payload,
            [&header(&client.key)[..], &payload[..7]].concat()
        );
        let got = spliced(&mut w, &says(&client, 7, &payload[7..]));
        assert_eq!(
            (got.seq, &got.payload[..]),
            (FIRST.wrapping_add(7), &payload[7..])
        );
        // A bare ACK isn't.
        let got = spliced(&mut w, &says(&client, 0, b""));
        assert_eq!((got.seq, got.payload.len()), (FIRST, 0));
        assert_ne!(both(&w, &client).0.flags & flags::HEADED, 0);

        acknowledges(&mut w, &syn, FIRST);
        for _ in 0..2 {
            let got = spliced(&mut w, &says(&client, 0, &payload));
            assert_eq!((got.seq, &got.payload), (FIRST, &payload));
            assert_eq!(both(&w, &client).0.flags, flags::FROM_CLIENT);
        }
    }
}

#[test]
fn without_the_connect_the_clients_repetition_gets_it() {
    let Some(mut w) = world("proxied-bare") else {
        return;
    };
    for client in Client::all() {
        prepared(&mut w);
        let payload = connect_with(ID, b"secret");
        let syn = begin(&mut w, &client, &payload);
        overwrite(&mut w, &client);
        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(verdicts(&run), [Verdict::SteeredKernel, Verdict::KernelAck]);
        let first = FIRST.wrapping_sub(before(&client));
        let got = Segment::read(&run.frame);
        assert_eq!((got.flags, got.seq, got.payload.len()), (ACK, first, 0));
        let got = spliced(&mut w, &client.connect(&payload));
        assert_eq!(got.seq, first);
        assert_eq!(got.payload, [header(&client.key), payload].concat());
    }
}

/// What was damaged on its way stays so.
#[test]
fn a_damaged_segment_is_not_repaired() {
    let Some(mut w) = world("proxied-damaged") else {
        return;
    };
    for client in [Client::v4(), Client::v6()] {
        prepared(&mut w);
        let payload = connect_with(ID, b"secret");
        open(&mut w, &client, &payload);
        let sound = client.connect(&payload);
        let last = sound.bytes().len() - 1;
        let run = w.run(&edit(sound.bytes(), last, b"x"));
        assert_eq!(verdicts(&run), [Verdict::Spliced]);
        let frame = run.frame;
        assert!(std::panic::catch_unwind(|| Segment::read(&frame)).is_err());
    }
}

/// The client's first segment is as long as its MSS allows, and the header makes it longer.
#[test]
fn a_backend_with_too_small_an_mss_is_the_agents() {
    let Some(mut w) = world("proxied-mss") else {
        return;
    };
    for client in [Client::v4(), Client::v6()] {
        for (less, kernel) in [(0, true), (1, false)] {
            prepared(&mut w);
            let syn = begin(&mut w, &client, &connect_with(ID, b"secret"));
            let mut answer = syn_ack(&syn, &client);
            let mss = u32::from(crate::place::VIP.mss) + before(&client) - less;
            answer.options[2..4].copy_from_slice(&u16::try_from(mss).unwrap().to_be_bytes());
            if kernel {
                let run = w.run(&answer.bytes());
                assert_eq!(verdicts(&run), [Verdict::SteeredKernel]);
            } else {
                dropped(&mut w, &answer, Verdict::PuntedTakeover);
            }
        }
    }
}
