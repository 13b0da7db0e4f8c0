//! Any frame: parsing, walking its options, answering it as a SYN and rewriting its options never
//! panics, ends in time, and what comes out can be parsed again.
#![no_main]

use lb_common::handshake::Answer;
use lb_common::layout::{Endpoint, Flow};
use lb_common::options::{self, MAX};
use lb_common::rewrite::Options;
use lb_common::wire::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| {
    let Ok(packet) = Packet::parse(frame) else {
        return;
    };
    assert!(packet.payload.len() <= packet.payload_len);
    let _ = packet.checksum_ok();
    let well_formed = options::walk(packet.options, |_, at, _, len| assert!(at + len <= MAX));

    let (buffer, len) = options::buffer(packet.options);
    let len = u32::try_from(len).expect("at most 40");
    let vip = Endpoint { answers: 7, mss: 1400, window_scale: 7, ..Endpoint::default() };
    let mut answer = Answer { buffer, len, at: 0, erase: 0, clock: 1, vip, client_mss: 0, client_scale: 0, sack: 0, bad: 0 };
    answer.begin(len, 1, vip, packet.key.is_v4());
    let steps = (0..=MAX).take_while(|_| answer.step()).count();
    assert!(steps <= MAX);
    assert_eq!(answer.bad == 0, well_formed);
    assert!(answer.bad != 0 || options::walk(&answer.buffer[..len as usize], |_, _, _, _| {}));

    let flow = Flow { ack_add: 1, tsval_add: 2, tsecr_add: 3, ..Flow::ZERO };
    let mut rewritten = Options { buffer, len, at: 0, ack_add: 0, tsval_add: 0, tsecr_add: 0, bad: 0, before: 0 };
    rewritten.begin(len, &flow, true);
    let steps = (0..=MAX).take_while(|_| rewritten.step()).count();
    assert!(steps <= MAX);
    assert_eq!(rewritten.bad == 0, well_formed);
});
