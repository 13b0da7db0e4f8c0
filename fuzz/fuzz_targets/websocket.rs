//! The reader of WebSocket frames: never panics, always gets on, reads the same however the bytes are cut.

#![no_main]

use lb_common::websocket::{Frames, Kind, Wrong, close_code, unmask};
use libfuzzer_sys::fuzz_target;

/// Payload of the messages, control frames with theirs, and what was wrong in the end.
type Read = (Vec<u8>, Vec<(Kind, Vec<u8>)>, Option<Wrong>);

fn read(bytes: &[u8], step: usize) -> Read {
    let (mut data, mut controls) = (Vec::new(), Vec::new());
    let (mut frames, mut at, mut end) = (Frames::default(), 0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + step);
        loop {
            let part = match frames.next(&bytes[at..end]) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(wrong) => return (data, controls, Some(wrong)),
            };
            assert!(part.end > 0 && part.payload <= part.end && at + part.end <= end);
            let mut payload = bytes[at + part.payload..at + part.end].to_vec();
            unmask(&mut payload, part.key);
            match part.kind {
                Kind::Data => data.extend(payload),
                control => {
                    assert!(payload.len() <= 125);
                    let _ = close_code(&payload);
                    controls.push((control, payload));
                }
            }
            at += part.end;
        }
    }
    (data, controls, None)
}

fuzz_target!(|input: &[u8]| {
    let whole = read(input, usize::MAX >> 1);
    for step in [1, 2, 3, 7] {
        assert!(read(input, step) == whole);
    }
});
