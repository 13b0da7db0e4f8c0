use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame; `first` has the bits and the opcode.
fn frame(first: u8, key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(key);
    let start = out.len();
    out.extend(payload);
    unmask(&mut out[start..], key);
    out
}

/// Data, and control frames in between.
type Parts = (Vec<u8>, Vec<(Kind, Vec<u8>)>);

/// What is read of `bytes` when they come in pieces that end at `cuts`.
fn read(bytes: &[u8], cuts: &[usize]) -> Result<Parts, Wrong> {
    let (mut data, mut controls) = (Vec::new(), Vec::new());
    let (mut frames, mut at) = (Frames::default(), 0);
    for &end in cuts.iter().chain([&bytes.len()]) {
        while let Some(part) = frames.next(&bytes[at..end])? {
            assert!(part.payload <= part.end && part.end <= end - at && part.end > 0);
            let mut payload = bytes[at + part.payload..at + part.end].to_vec();
            unmask(&mut payload, part.key);
            match part.kind {
                Kind::Data => data.extend(payload),
                control => controls.push((control, payload)),
            }
            at += part.end;
        }
    }
    Ok((data, controls))
}

#[test]
fn the_examples_of_the_rfc() {
    // Section 5.7, as binary messages.
    let hello = [
        0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(read(&hello, &[]).unwrap().0, b"Hello");
    let ping = [
        0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(
        read(&ping, &[]).unwrap().1,
        [(Kind::Ping, b"Hello".to_vec())]
    );
    assert_eq!(server_header(Kind::Data, 4), Some([0x82, 4]));
    assert_eq!(server_header(Kind::Pong, 125), Some([0x8a, 125]));
    assert_eq!(server_header(Kind::Close, 126), None);
}

#[test]
fn offenders_are_named_as_soon_as_they_are_seen() {
    let long = [0x82, 0x80 | 127];
    for (bytes, wrong, code) in [
        (&[0x82, 0x05][..], Wrong::Unmasked, 1002),
        (&[0xc2], Wrong::Reserved, 1002),
        (&[0xa2], Wrong::Reserved, 1002),
        (&[0x92], Wrong::Reserved, 1002),
        (&[0x83], Wrong::Reserved, 1002),
        (&[0x07], Wrong::Reserved, 1002),
        (&[0x8b], Wrong::Reserved, 1002),
        (&[0x8f], Wrong::Reserved, 1002),
        (&[0x81], Wrong::Text, 1003),
        (&[0x01], Wrong::Text, 1003),
        (&[0x82, 0xfe, 0, 125], Wrong::Length, 1002),
        (
            &[&long[..], &[0, 0, 0, 0, 0, 0, 0xff, 0xff]].concat(),
            Wrong::Length,
            1002,
        ),
        (
            &[&long[..], &[0x80, 0, 0, 0, 0, 0, 0, 0]].concat(),
            Wrong::Length,
            1002,
        ),
        (&[0x09, 0x80], Wrong::Control, 1002),
        (&[0x08, 0x80], Wrong::Control, 1002),
        (&[0x89, 0xfe], Wrong::Control, 1002),
        (&[0x8a, 0xff], Wrong::Control, 1002),
        (&frame(0x80, KEY, b"x"), Wrong::Fragment, 1002),
        (&frame(0x00, KEY, b"x"), Wrong::Fragment, 1002),
        (
            &[frame(0x02, KEY, b"x"), frame(0x82, KEY, b"y")].concat(),
            Wrong::Fragment,
            1002,
        ),
    ] {
        assert_eq!(read(bytes, &[]), Err(wrong), "{bytes:02x?}");
        assert_eq!(wrong.code(), code);
    }
    // The largest length is read, and waited for.
    let most = [
        &long[..],
        &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &KEY,
        b"xy",
    ]
    .concat();
    assert_eq!(read(&most, &[]).unwrap().0.len(), 2);
}

#[test]
fn close_frames() {
    assert_eq!(close_code(b""), Ok(None));
    assert_eq!(close_code(&[3]), Err(Wrong::Control));
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1013, 3000, 4999] {
        let payload = [&u16::to_be_bytes(code)[..], "bis später".as_bytes()].concat();
        assert_eq!(close_code(&payload), Ok(Some(code)));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(
            close_code(&u16::to_be_bytes(code)),
            Err(Wrong::Control),
            "{code}"
        );
    }
    assert_eq!(close_code(&[3, 0xe8, 0xc3]), Err(Wrong::CloseReason));
    assert_eq!(Wrong::CloseReason.code(), 1007);
}

/// A frame of a message, and whether a control frame follows it.
#[derive(Clone, Debug)]
struct Piece {
    payload: Vec<u8>,
    key: [u8; 4],
    control: Option<(u8, Vec<u8>)>,
}

fn piece() -> impl Strategy<Value = Piece> {
    let length =
        prop_oneof![4 => Just(0), 8 => 0..20usize, 4 => 120..130usize, 1 => 65_530..65_540usize];
    let payload = length.prop_flat_map(|n| prop::collection::vec(any::<u8>(), n));
    let control = prop::option::of((
        prop::sample::select(vec![0x89, 0x8a, 0x88]),
        prop::collection::vec(any::<u8>(), 0..=125),
    ));
    (payload, any::<[u8; 4]>(), control).prop_map(|(payload, key, control)| Piece {
        payload,
        key,
        control,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_sent_is_read_however_it_is_cut(
        messages in prop::collection::vec(prop::collection::vec(piece(), 1..4), 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let (mut bytes, mut data, mut controls) = (Vec::new(), Vec::new(), Vec::new());
        for message in &messages {
            for (n, piece) in message.iter().enumerate() {
                let last = if n + 1 == message.len() { 0x80 } else { 0 };
                let opcode = if n == 0 { 2 } else { 0 };
                bytes.extend(frame(last | opcode, piece.key, &piece.payload));
                data.extend(&piece.payload);
                if let Some((first, payload)) = &piece.control {
                    bytes.extend(frame(*first, piece.key, payload));
                    let kind = match first {
                        0x88 => Kind::Close,
                        0x89 => Kind::Ping,
                        _ => Kind::Pong,
                    };
                    controls.push((kind, payload.clone()));
                }
            }
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let got = read(&bytes, &cuts).unwrap();
        prop_assert!(got == (data, controls));
    }

    #[test]
    fn noise_is_read_alike_however_it_is_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        step in 1..9usize,
    ) {
        let cuts: Vec<_> = (0..bytes.len()).step_by(step).collect();
        prop_assert_eq!(read(&bytes, &[]), read(&bytes, &cuts));
        let _ = close_code(&bytes);
    }
}
