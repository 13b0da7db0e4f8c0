use super::*;

/// A ClientHello with these extensions; `None`: without the field for them.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[0xAA; RANDOM]);
    body.extend_from_slice(&[2, 1, 2, 0, 2, 0x13, 0x01, 1, 0]);
    if let Some(extensions) = extensions {
        body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(extensions);
    }
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[0, kind][..], &length, value].concat()
}

fn server_name_of(name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap();
    let list = [
        &(length + 3).to_be_bytes()[..],
        &[0],
        &length.to_be_bytes(),
        name,
    ]
    .concat();
    extension(0, &list)
}

/// In records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1][..], &length, part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

fn name_in(stream: &[u8]) -> Option<String> {
    match sniff(stream) {
        Ok(Sniff::Hello(name)) => name.map(|name| name.as_str().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_name_wherever_records_and_segments_end() {
    let more = extension(43, &[2, 3, 4]);
    let hello = message(Some(
        &[more.clone(), server_name_of(b"Mqtt.Example"), more].concat(),
    ));
    for size in [1, 2, 3, 7, 50, 1000] {
        let stream = records(&hello, size);
        assert_eq!(name_in(&stream).as_deref(), Some("mqtt.example"), "{size}");
        let enough = (0..=stream.len())
            .find(|n| sniff(&stream[..*n]) != Ok(Sniff::Incomplete))
            .unwrap();
        for n in enough..=stream.len() {
            assert_eq!(
                name_in(&stream[..n]).as_deref(),
                Some("mqtt.example"),
                "{size} {n}"
            );
        }
    }
}

#[test]
fn hellos_without_a_name() {
    for extensions in [None, Some(&[][..]), Some(&extension(43, &[2, 3, 4])[..])] {
        let stream = records(&message(extensions), 16_384);
        assert_eq!(name_in(&stream), None);
        assert_eq!(sniff(&stream[..stream.len() - 1]), Ok(Sniff::Incomplete));
    }
}

#[test]
fn names() {
    let sniffed = |name: &[u8]| sniff(&records(&message(Some(&server_name_of(name))), 16_384));
    let long = [&[b'a'; 63][..]; 4].join(&b'.');
    for (name, right) in [
        (&b"a"[..], "a"),
        (b"A.b-c.d_e.9", "a.b-c.d_e.9"),
        (b"with.dot.", "with.dot"),
        (&long[..253], std::str::from_utf8(&long[..253]).unwrap()),
    ] {
        let Ok(Sniff::Hello(Some(found))) = sniffed(name) else {
            panic!("{name:?}");
        };
        assert_eq!(found.as_str(), right);
    }
    let label = [b'a'; 64];
    for name in [
        &b""[..],
        b".",
        b"a..b",
        b".a",
        b"a b",
        b"a\0b",
        b"\xc3\xbc",
        &label,
        &long[..254],
        &long,
    ] {
        assert_eq!(sniffed(name), Err(Reject::BadName), "{name:?}");
    }
}

#[test]
fn what_is_no_hello() {
    let hello = message(Some(&server_name_of(b"a.b")));
    let stream = records(&hello, 16_384);
    let with = |at: usize, byte: u8| {
        let mut other = stream.clone();
        other[at] = byte;
        sniff(&other)
    };
    // MQTT, HTTP, SSL 2.0: seen with the first byte, not with the fifth.
    for first in [&b"\x10"[..], b"G", b"\x80", b"\x16\x02"] {
        assert_eq!(sniff(first), Err(Reject::NotTls));
    }
    assert_eq!(sniff(&[]), Ok(Sniff::Incomplete));
    assert_eq!(with(0, 21), Err(Reject::NotTls));
    // Record lengths.
    assert_eq!(sniff(&[22, 3, 1, 0, 0]), Err(Reject::Malformed));
    assert_eq!(sniff(&[22, 3, 1, 0x40, 1]), Err(Reject::Malformed));
    // A ServerHello.
    assert_eq!(with(5, 2), Err(Reject::NotHello));
    // Its length.
    assert_eq!(with(6, 1), Err(Reject::TooLong));
    assert_eq!(with(8, hello[3] - 1), Err(Reject::Malformed));
    assert_eq!(with(8, hello[3] + 1), Err(Reject::Malformed));
    // Session identifier, cipher suites, compressions.
    let session = 5 + 4 + 2 + RANDOM;
    assert_eq!(with(session, 200), Err(Reject::Malformed));
    assert_eq!(with(session + 4, 0), Err(Reject::Malformed));
    assert_eq!(with(session + 4, 3), Err(Reject::Malformed));
    assert_eq!(with(session + 7, 0), Err(Reject::Malformed));
    // The extension's length, the list's, the name's type, the name's length.
    let name = session + 11;
    for at in [name + 3, name + 5, name + 6, name + 8] {
        assert_eq!(with(at, 9), Err(Reject::Malformed), "{at}");
    }
}
