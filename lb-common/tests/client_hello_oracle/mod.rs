//! What must hold of reading a ClientHello, for the property tests and for the fuzzer.

use lb_common::tls::{Reject, Sniff, sniff};

/// Of the first bytes of a stream: there is an answer for every beginning, and more bytes don't change one.
pub fn check(stream: &[u8]) -> Result<Sniff, Reject> {
    let mut settled = None;
    for n in 0..=stream.len() {
        let answer = sniff(&stream[..n]);
        match settled {
            None if answer == Ok(Sniff::Incomplete) => {}
            None => settled = Some(answer),
            Some(earlier) => assert_eq!(answer, earlier, "after {n} bytes"),
        }
    }
    settled.unwrap_or(Ok(Sniff::Incomplete))
}

/// A handshake message in records of at most `size` bytes.
pub fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).expect("a record's length");
        [&[22, 3, 1][..], &length.to_be_bytes(), part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

/// Of a handshake message: where its records end doesn't matter.
pub fn check_message(message: &[u8]) {
    let one = sniff(&records(message, 16_384));
    for size in [1, 3, 100] {
        let stream = records(message, size);
        assert_eq!(sniff(&stream), one, "in records of {size} bytes");
    }
    // What it says was seen above.
    let _ = check(&records(message, 100));
}
