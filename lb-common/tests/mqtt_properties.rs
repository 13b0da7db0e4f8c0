//! Properties of the sniffer over random packets, valid, damaged and arbitrary.

mod mqtt_generate;
mod mqtt_oracle;

use lb_common::mqtt::{Connect, Limits, Reject, Sniff, sniff, sniff_within};
use mqtt_generate::{
    Encoded, Mutation, any_connect, mutation, v4_connect, v5_connect, v31_connect,
};
use mqtt_oracle::{check, framed};
use proptest::{collection::vec, prelude::*, sample::Index};

fn assert_found(encoded: &Encoded, input: &[u8]) -> Result<(), TestCaseError> {
    let packet_len = encoded.bytes.len();
    let id = encoded.client_id.as_bytes();
    let Ok(Sniff::Connect(connect)) = sniff(input) else {
        return Err(TestCaseError::fail(format!("{:?}", sniff(input))));
    };
    let client_id_end = connect.client_id_end;
    prop_assert_eq!(&input[client_id_end - id.len()..client_id_end], id);
    let expected = Connect {
        protocol: encoded.protocol,
        bridge: false,
        clean_start: encoded.clean_start,
        keep_alive: encoded.keep_alive,
        client_id: id,
        client_id_end,
        packet_len,
        complete: input.len() >= packet_len,
    };
    prop_assert_eq!(connect, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn valid_v31_is_found(encoded in v31_connect()) {
        assert_found(&encoded, &encoded.bytes)?;
    }

    #[test]
    fn valid_v311_is_found(encoded in v4_connect()) {
        assert_found(&encoded, &encoded.bytes)?;
    }

    #[test]
    fn valid_v5_is_found(encoded in v5_connect()) {
        assert_found(&encoded, &encoded.bytes)?;
    }

    #[test]
    fn pipelined_bytes_do_not_matter(encoded in any_connect(), more in vec(any::<u8>(), 0..300)) {
        assert_found(&encoded, &[&encoded.bytes[..], &more].concat())?;
    }

    /// Every prefix is incomplete or a CONNECT, and once it is a CONNECT it stays the same one.
    #[test]
    fn no_prefix_of_a_valid_packet_is_rejected(encoded in any_connect(), cuts in vec(any::<Index>(), 16)) {
        let len = encoded.bytes.len();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(len)).chain(0..len.min(300)).collect();
        ends.sort_unstable();
        let mut found = false;
        for end in ends {
            match sniff(&encoded.bytes[..end]) {
                Ok(Sniff::Incomplete) => prop_assert!(!found, "forgotten at {end}"),
                Ok(Sniff::Connect(_)) => {
                    found = true;
                    assert_found(&encoded, &encoded.bytes[..end])?;
                }
                Err(reject) => prop_assert!(false, "{reject:?} at {end}"),
            }
        }
    }

    /// A receiver that asks after every segment gets to the same verdict, whatever the segments are.
    #[test]
    fn segments_do_not_matter(
        encoded in any_connect(),
        mutations in vec(mutation(), 0..3),
        donor in any_connect(),
        segments in vec(1..40usize, 1..60),
    ) {
        let mut stream = encoded.bytes;
        mutations.iter().for_each(|mutation| mutation.apply(&mut stream, &donor.bytes));
        let mut end = 0;
        for segment in segments.iter().cycle() {
            end = stream.len().min(end + segment);
            let verdict = sniff(&stream[..end]);
            if end == stream.len() || verdict != Ok(Sniff::Incomplete) {
                prop_assert!(mqtt_oracle::may_follow(verdict, sniff(&stream)));
                break;
            }
        }
    }

    /// Damaged packets: agreement with mqttbytes, and all else that the oracle knows.
    #[test]
    fn damaged_packets_are_judged_as_mqttbytes_does(
        encoded in any_connect(),
        donor in any_connect(),
        mutations in vec(mutation(), 1..6),
    ) {
        let mut bytes = encoded.bytes;
        for mutation in &mutations {
            mutation.apply(&mut bytes, &donor.bytes);
            check(&bytes);
        }
        // As a whole packet: the remaining length is what most damage breaks first.
        Mutation::Reframe.apply(&mut bytes, &donor.bytes);
        check(&bytes);
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..600)) {
        check(&bytes);
        check(&framed(&bytes));
        for name in [&b"\0\x06MQIsdp\x03"[..], b"\0\x04MQTT\x04", b"\0\x04MQTT\x05"] {
            check(&framed(&[name, &bytes].concat()));
        }
    }

    #[test]
    fn ids_that_share_their_first_characters_are_different(
        shared in "[a-z]{32}", one in "[a-z]{1,200}", other in "[a-z]{1,200}",
    ) {
        prop_assume!(one != other);
        let packet = |tail: &str| {
            let id = format!("{shared}{tail}");
            let len = u16::try_from(id.len()).unwrap().to_be_bytes();
            framed(&[b"\0\x04MQTT\x04\x02\0\x3C", &len[..], id.as_bytes()].concat())
        };
        let (one, other) = (packet(&one), packet(&other));
        let id = |packet| match sniff(packet) {
            Ok(Sniff::Connect(connect)) => connect.client_id,
            verdict => panic!("{verdict:?}"),
        };
        prop_assert_ne!(id(&one), id(&other));
    }

    /// A limit rejects as soon as the length is known, and nothing else.
    #[test]
    fn limits(encoded in any_connect(), client_id in 0..400usize, packet in 0..2000usize) {
        let limits = Limits { client_id, packet };
        let remaining = encoded.bytes.len() - 1 - encoded.bytes.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap() - 1;
        let expected = if remaining > packet {
            Err(Reject::OversizedPacket)
        } else if encoded.client_id.len() > client_id {
            Err(Reject::OversizedClientId)
        } else {
            sniff(&encoded.bytes)
        };
        prop_assert_eq!(sniff_within(&encoded.bytes, &limits), expected);
    }
}
