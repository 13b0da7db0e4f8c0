//! Reads the CONNECT out of a client's first WebSocket frames. It keeps the frames as they came: they are passed
//! on untouched, but for control frames before the CONNECT's end, which are answered here.

use lb_common::layout::Verdict;
use lb_common::mqtt::{self, Limits, Sniff};
use lb_common::websocket::{self, Frames, Kind, Wrong, close, unmask};

use crate::setup::verdict;

/// What has come so far.
#[derive(Debug)]
pub(super) struct Sniffer {
    /// Frames as they came, up to `read` without control frames.
    frames: Vec<u8>,
    read: usize,
    reader: Frames,
    /// The messages in them.
    mqtt: Vec<u8>,
    limits: Limits,
    /// Most bytes of `mqtt`; twice as many of `frames`, because each byte may have a frame of its own.
    most: usize,
}

/// What follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More has to come.
    Incomplete,
    /// The client identifier is there ([`Sniffer::connect`]).
    Connect,
    /// A ping with this payload: to be answered, and then goes on.
    Ping(Vec<u8>),
    /// The client closes, with this payload, which is to be sent back.
    Close(Vec<u8>),
    /// Nothing more is read: how it is counted, and the code to close with.
    Wrong(Verdict, u16),
}

impl Sniffer {
    pub fn new(limits: Limits, most: usize) -> Self {
        Self {
            frames: Vec::new(),
            read: 0,
            reader: Frames::default(),
            mqtt: Vec::new(),
            limits,
            most,
        }
    }

    /// Where what comes is appended to, up to [`Self::room`] bytes in all.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.frames
    }

    pub const fn room(&self) -> usize {
        self.most.saturating_mul(2)
    }

    /// Looks at what has come.
    pub fn look(&mut self) -> Found {
        loop {
            let part = match self.reader.next(&self.frames[self.read..]) {
                Ok(Some(part)) => part,
                Ok(None) if self.frames.len() >= self.room() => {
                    return Found::Wrong(Verdict::RejectOversizedPacket, close::TOO_BIG);
                }
                Ok(None) => return Found::Incomplete,
                Err(wrong) => return Found::Wrong(counted(wrong), wrong.code()),
            };
            let (payload, end) = (self.read + part.payload, self.read + part.end);
            if part.kind == Kind::Data {
                let before = self.mqtt.len();
                self.mqtt.extend_from_slice(&self.frames[payload..end]);
                unmask(&mut self.mqtt[before..], part.key);
                self.read = end;
                match mqtt::sniff_within(&self.mqtt, &self.limits) {
                    Ok(Sniff::Connect(_)) => return Found::Connect,
                    Ok(Sniff::Incomplete) if self.mqtt.len() >= self.most => {
                        return Found::Wrong(Verdict::RejectOversizedPacket, close::TOO_BIG);
                    }
                    Ok(Sniff::Incomplete) => {}
                    Err(reject) => {
                        let verdict = verdict(reject);
                        let big = [
                            Verdict::RejectOversizedPacket,
                            Verdict::RejectOversizedClientId,
                        ];
                        let code = if big.contains(&verdict) {
                            close::TOO_BIG
                        } else {
                            close::PROTOCOL_ERROR
                        };
                        return Found::Wrong(verdict, code);
                    }
                }
                continue;
            }
            let mut said = self.frames[payload..end].to_vec();
            unmask(&mut said, part.key);
            self.frames.drain(self.read..end);
            match part.kind {
                Kind::Ping => return Found::Ping(said),
                Kind::Close => {
                    return match websocket::close_code(&said) {
                        Ok(_) => Found::Close(said),
                        Err(wrong) => Found::Wrong(counted(wrong), wrong.code()),
                    };
                }
                Kind::Pong | Kind::Data => {}
            }
        }
    }

    /// What was found; `None` before [`Found::Connect`].
    pub fn connect(&self) -> Option<mqtt::Connect<'_>> {
        match mqtt::sniff_within(&self.mqtt, &self.limits) {
            Ok(Sniff::Connect(connect)) => Some(connect),
            _ => None,
        }
    }

    /// What the backend is to get.
    pub fn into_frames(self) -> Vec<u8> {
        self.frames
    }
}

/// How a wrong frame is counted.
const fn counted(wrong: Wrong) -> Verdict {
    match wrong {
        Wrong::Unmasked => Verdict::RejectWsUnmasked,
        Wrong::Reserved => Verdict::RejectWsReserved,
        Wrong::Length => Verdict::RejectWsLength,
        Wrong::Control | Wrong::CloseReason => Verdict::RejectWsControl,
        Wrong::Fragment => Verdict::RejectWsFragment,
        Wrong::Text => Verdict::RejectWsText,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [first, 0x5a, 0, 0xff];
        let mut out = vec![first, 0x80 | u8::try_from(payload.len()).unwrap()];
        out.extend(key);
        let start = out.len();
        out.extend(payload);
        unmask(&mut out[start..], key);
        out
    }

    fn connect(id: &str) -> Vec<u8> {
        let mut packet = vec![0x10, u8::try_from(12 + id.len()).unwrap(), 0, 4];
        packet.extend(b"MQTT\x04\x02\0\x3c\0");
        packet.push(u8::try_from(id.len()).unwrap());
        packet.extend(id.as_bytes());
        packet
    }

    /// Gives it the bytes so many at a time, until there is an end; and the pings that were seen.
    fn run(sniffer: &mut Sniffer, bytes: &[u8], step: usize) -> (Found, Vec<Vec<u8>>) {
        let mut pings = Vec::new();
        for chunk in bytes.chunks(step) {
            sniffer.buffer().extend(chunk);
            loop {
                match sniffer.look() {
                    Found::Incomplete => break,
                    Found::Ping(payload) => pings.push(payload),
                    end => return (end, pings),
                }
            }
        }
        (Found::Incomplete, pings)
    }

    fn new() -> Sniffer {
        Sniffer::new(Limits::DEFAULT, 300)
    }

    #[test]
    fn what_comes_with_the_connect_is_kept() {
        let publish = [&connect("one")[..], b"\x30\x04\0\x01txx"].concat();
        // Several packets in one frame, and half a frame behind it.
        let bytes = [frame(0x82, &publish), frame(0x89, b"later"), vec![0x82]].concat();
        let mut sniffer = new();
        assert_eq!(run(&mut sniffer, &bytes, 999), (Found::Connect, vec![]));
        assert_eq!(sniffer.connect().unwrap().client_id, b"one");
        assert_eq!(sniffer.into_frames(), bytes);
    }

    #[test]
    fn too_much_is_too_much() {
        let long = [
            b"\x10\xff\x7f\0\x04MQTT\x05\x02\0\x3c\xf0\x7e".to_vec(),
            vec![0x26; 120],
        ]
        .concat();
        let mut sniffer = new();
        let message: Vec<u8> = std::iter::once(frame(0x02, &long))
            .chain((0..9).map(|_| frame(0, &[])))
            .chain((0..999).map(|_| frame(0, b"")))
            .flatten()
            .collect();
        let (found, _) = run(&mut sniffer, &message, 7);
        let big = |found: &Found| matches!(found, Found::Wrong(v, 1002 | 1009) if v.name().starts_with("reject_"));
        assert!(big(&found), "{found:?}");
        // Nothing but empty frames.
        let mut sniffer = new();
        let nothing: Vec<u8> = [frame(0x02, b""), frame(0, b"").repeat(200)].concat();
        let (found, _) = run(&mut sniffer, &nothing, 64);
        assert_eq!(found, Found::Wrong(Verdict::RejectOversizedPacket, 1009));
        assert!(sniffer.frames.len() <= sniffer.room() + 64);
    }

    #[test]
    fn ends() {
        for (bytes, want) in [
            (frame(0x88, b""), Found::Close(vec![])),
            (frame(0x88, &[3, 0xe8]), Found::Close(vec![3, 0xe8])),
            (
                frame(0x88, &[3]),
                Found::Wrong(Verdict::RejectWsControl, 1002),
            ),
            (
                frame(0x88, &[3, 0xe8, 0xff]),
                Found::Wrong(Verdict::RejectWsControl, 1007),
            ),
            (frame(0x81, b"x"), Found::Wrong(Verdict::RejectWsText, 1003)),
            (
                frame(0x82, b"GET /"),
                Found::Wrong(Verdict::RejectNotConnect, 1002),
            ),
            (
                frame(0xc2, b""),
                Found::Wrong(Verdict::RejectWsReserved, 1002),
            ),
            (
                vec![0x82, 1, 0x10],
                Found::Wrong(Verdict::RejectWsUnmasked, 1002),
            ),
        ] {
            assert_eq!(run(&mut new(), &bytes, 1).0, want, "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn fragments_and_control_frames_change_nothing(
            cuts in prop::collection::vec(0..30usize, 0..6),
            pings in prop::collection::vec(any::<bool>(), 7),
            step in 1..40usize,
        ) {
            let packet = connect("client-identifier");
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(packet.len())).collect();
            cuts.sort_unstable();
            cuts.push(packet.len());
            let (mut all, mut data, mut from) = (Vec::new(), Vec::new(), 0);
            let mut wanted = Vec::new();
            for (n, to) in cuts.iter().enumerate() {
                let last = if n + 1 == cuts.len() { 0x80 } else { 0 };
                // The last frame's end needn't be read.
                if pings[n] {
                    let said = [n as u8; 3];
                    all.extend(frame(0x89, &said));
                    all.extend(frame(0x8a, &said));
                    wanted.push(said.to_vec());
                }
                let one = frame(last | if n == 0 { 2 } else { 0 }, &packet[from..*to]);
                all.extend(&one);
                data.extend(one);
                from = *to;
            }
            let mut sniffer = new();
            let (found, seen) = run(&mut sniffer, &all, step);
            prop_assert_eq!(found, Found::Connect);
            prop_assert_eq!(sniffer.connect().unwrap().client_id, b"client-identifier");
            // What comes behind the identifier is the backend's.
            prop_assert!(wanted.starts_with(&seen));
            let frames = sniffer.into_frames();
            prop_assert!(data.starts_with(&frames) || frames.starts_with(&data[..data.len().min(frames.len())]));
        }
    }
}
