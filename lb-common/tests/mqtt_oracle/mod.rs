//! What holds of `sniff` for any input whatever. The property tests and the fuzz target share it.

use bytes::BytesMut;
use lb_common::mqtt::{Connect, Limits, Protocol, Reject, Sniff, sniff};
use mqttbytes::{Error, v4, v5};

type Verdict<'a> = Result<Sniff<'a>, Reject>;

/// Panics if any of it doesn't hold.
pub fn check(input: &[u8]) {
    let verdict = sniff(input);
    check_prefixes(input, verdict);
    check_against_mqttbytes(input, verdict);
    if let Ok(Sniff::Connect(connect)) = verdict {
        assert!(input[..connect.client_id_end].ends_with(connect.client_id));
        if connect.complete {
            assert_eq!(
                sniff(&input[..connect.packet_len]),
                verdict,
                "pipelined bytes matter"
            );
        }
    }
}

/// Reads ever longer prefixes: a verdict, once there, stays.
fn check_prefixes(input: &[u8], verdict: Verdict<'_>) {
    let mut before = Ok(Sniff::Incomplete);
    for end in prefixes(input.len()) {
        let now = sniff(&input[..end]);
        assert!(
            may_follow(before, now),
            "{before:?} became {now:?} at byte {end}"
        );
        before = now;
    }
    assert!(may_follow(before, verdict), "{before:?} became {verdict:?}");
}

/// Every length of a short input; of a long one those at both ends and a few between.
fn prefixes(len: usize) -> impl Iterator<Item = usize> {
    const DENSE: usize = 256;
    let step = (len / 8).max(1);
    (0..len).filter(move |&end| end < DENSE || end + 16 > len || end % step == 0)
}

/// Whether a longer prefix may be judged `now` when a shorter one was judged `before`.
pub fn may_follow(before: Verdict<'_>, now: Verdict<'_>) -> bool {
    match (before, now) {
        (Ok(Sniff::Incomplete), _) => true,
        (Err(before), Err(now)) => before == now,
        (Ok(Sniff::Connect(before)), Ok(Sniff::Connect(now))) => {
            now.complete >= before.complete
                && Connect {
                    complete: now.complete,
                    ..before
                } == now
        }
        // Only what follows the identifier can still be wrong.
        (Ok(Sniff::Connect(before)), Err(now)) => {
            const TAIL: [Reject; 3] = [
                Reject::BadRemainingLength,
                Reject::BadProperties,
                Reject::BadPayload,
            ];
            !before.complete && TAIL.contains(&now)
        }
        (Ok(Sniff::Connect(_)) | Err(_), Ok(_)) => false,
    }
}

/// What mqttbytes rejects is rejected. What it accepts is accepted with the same content, or rejected for a
/// reason that [`stricter_than_mqttbytes`] knows.
fn check_against_mqttbytes(input: &[u8], verdict: Verdict<'_>) {
    let frame_len = match mqttbytes::check(input.iter(), Limits::DEFAULT.packet) {
        Ok(header) => header.frame_length(),
        Err(Error::InsufficientBytes(_)) => {
            assert!(
                !matches!(verdict, Ok(Sniff::Connect(connect)) if connect.complete),
                "{verdict:?}"
            );
            return;
        }
        Err(error) => {
            assert!(
                verdict.is_err(),
                "mqttbytes rejects ({error}), sniff says {verdict:?}"
            );
            return;
        }
    };
    let frame = &input[..frame_len];
    match verdict {
        Ok(Sniff::Connect(connect)) => {
            assert!(connect.complete, "all bytes are there: {connect:?}");
            assert_eq!(connect.packet_len, frame_len);
            let expected = decode(&as_mqttbytes_knows_it(frame, &connect))
                .unwrap_or_else(|error| panic!("mqttbytes rejects ({error}): {connect:?}"));
            assert_eq!(connect.client_id, expected.client_id.as_bytes());
            assert_eq!(connect.keep_alive, expected.keep_alive);
            assert_eq!(connect.clean_start, expected.clean_start);
        }
        Err(reject) => {
            if let Ok(accepted) = decode(frame) {
                assert!(
                    stricter_than_mqttbytes(reject, frame, &accepted),
                    "{reject:?}: {accepted:?}"
                );
            }
        }
        Ok(Sniff::Incomplete) => panic!("all {frame_len} bytes are there"),
    }
}

/// What both of mqttbytes' decoders have in common.
#[derive(Debug)]
struct Decoded {
    protocol: mqttbytes::Protocol,
    client_id: String,
    keep_alive: u16,
    clean_start: bool,
    /// Will topic, user name.
    texts: Vec<String>,
    will_topic: Option<String>,
    /// Length of the packet that mqttbytes writes for what it has read.
    canonical_len: usize,
}

/// Reads a whole packet with the decoder of its level.
fn decode(frame: &[u8]) -> Result<Decoded, Error> {
    let mut stream = BytesMut::from(frame);
    let mut canonical = BytesMut::new();
    if level(frame) == Some(5) {
        let v5::Packet::Connect(connect) = v5::read(&mut stream, Limits::DEFAULT.packet)? else {
            return Err(Error::InvalidPacketType(frame[0] >> 4));
        };
        connect.write(&mut canonical)?;
        let will_topic = connect.last_will.map(|will| will.topic);
        let user_name = connect.login.map(|login| login.username);
        return Ok(Decoded {
            protocol: connect.protocol,
            client_id: connect.client_id,
            keep_alive: connect.keep_alive,
            clean_start: connect.clean_session,
            texts: will_topic.iter().cloned().chain(user_name).collect(),
            will_topic,
            canonical_len: canonical.len(),
        });
    }
    let v4::Packet::Connect(connect) = v4::read(&mut stream, Limits::DEFAULT.packet)? else {
        return Err(Error::InvalidPacketType(frame[0] >> 4));
    };
    connect.write(&mut canonical)?;
    let will_topic = connect.last_will.map(|will| will.topic);
    let user_name = connect.login.map(|login| login.username);
    Ok(Decoded {
        protocol: connect.protocol,
        client_id: connect.client_id,
        keep_alive: connect.keep_alive,
        clean_start: connect.clean_session,
        texts: will_topic.iter().cloned().chain(user_name).collect(),
        will_topic,
        canonical_len: canonical.len(),
    })
}

/// The three things that pass although mqttbytes doesn't know them, brought into a form that it does know:
/// 3.1 becomes 3.1.1, the bridge bit goes, and a password, which may be binary, becomes text.
fn as_mqttbytes_knows_it(frame: &[u8], connect: &Connect<'_>) -> Vec<u8> {
    let body = body(frame);
    let level_at = 2 + usize::from(body[1]);
    let level = if connect.protocol == Protocol::V5 {
        5
    } else {
        4
    };
    let flags = body[level_at + 1];
    let mut known = [b"\0\x04MQTT", &[level][..], &body[level_at + 1..]].concat();

    if flags & 0b0100_0000 != 0 {
        let mut at = known.len() - (connect.packet_len - connect.client_id_end);
        if flags & 0b0000_0100 != 0 {
            if connect.protocol == Protocol::V5 {
                let (digits, properties) = variable(&known[at..]);
                at += digits + properties;
            }
            at = behind_field(&known, at);
            at = behind_field(&known, at);
        }
        if flags & 0b1000_0000 != 0 {
            at = behind_field(&known, at);
        }
        known[at + 2..].fill(b'x');
    }
    framed(&known)
}

/// A CONNECT with `body` behind a fixed header that fits it.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x10];
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        frame.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    frame.extend_from_slice(body);
    frame
}

/// Digits and value of a sound variable byte integer.
fn variable(bytes: &[u8]) -> (usize, usize) {
    let digits = 1 + bytes.iter().take_while(|&&byte| byte & 0x80 != 0).count();
    let value = bytes[..digits]
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 7 | usize::from(byte & 0x7F));
    (digits, value)
}

fn behind_field(bytes: &[u8], at: usize) -> usize {
    at + 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn body(frame: &[u8]) -> &[u8] {
    let (digits, _) = variable(&frame[1..]);
    &frame[1 + digits..]
}

/// The protocol level, where `MQTT` puts it.
fn level(frame: &[u8]) -> Option<u8> {
    body(frame).get(6).copied()
}

/// Whether `reject` is one of the things that mqttbytes overlooks, and is really there.
fn stricter_than_mqttbytes(reject: Reject, frame: &[u8], accepted: &Decoded) -> bool {
    let v5 = accepted.protocol == mqttbytes::Protocol::V5;
    let flags = body(frame)[7];
    match reject {
        // Reserved bits of the first byte.
        Reject::NotConnect => frame[0] != 0x10,
        // Reserved flag; password without user name before 5.
        Reject::BadFlags => flags & 1 != 0 || (!v5 && flags & 0b1100_0000 == 0b0100_0000),
        // Repetition, range, authentication data without method, a property beyond its section.
        Reject::BadProperties => v5,
        Reject::BadClientId => accepted.client_id.contains('\0'),
        Reject::EmptyClientId => !v5 && accepted.client_id.is_empty() && !accepted.clean_start,
        Reject::BadPayload => {
            let topic_is_bad = |topic: &String| topic.is_empty() || topic.contains(['+', '#']);
            accepted.texts.iter().any(|text| text.contains('\0'))
                || accepted.will_topic.as_ref().is_some_and(topic_is_bad)
                // mqttbytes writes less than it was given: it has skipped bytes.
                || accepted.canonical_len < frame.len()
        }
        Reject::BadRemainingLength
        | Reject::OversizedPacket
        | Reject::BadProtocolName
        | Reject::BadProtocolLevel
        | Reject::OversizedClientId => false,
    }
}
