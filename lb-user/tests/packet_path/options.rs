//! What a recipe makes of TCP options, in every layout.

use lb_common::layout::Verdict;

use crate::frame::{PSH, Segment, sack, timestamps};
use crate::place::Connection;
use crate::row::{Row, table};
use crate::spliced::becomes;

#[test]
fn options() {
    let mut rows = vec![];
    let edges = [0xffff_fff0u32, 10, 20, 0x8000_0000, 40, 50, 60, 70];
    for c in [Connection::v4(), Connection::v6()] {
        // Only acknowledgements of the client's are shifted, so SACK changes on the client's side.
        let moved = |n: usize| {
            edges[..n]
                .iter()
                .map(|e| e.wrapping_sub(c.delta))
                .collect::<Vec<_>>()
        };
        let stamps = timestamps(100, 200);
        let stamps_out = timestamps(100, 200u32.wrapping_sub(c.ts_delta));
        let bare = |stamps: &[u8]| stamps[2..].to_vec();
        let (block, block_out) = (bare(&stamps), bare(&stamps_out));
        let mut case = |name, options: Vec<u8>, expected: Vec<u8>| {
            let s = c.client_segment().options(&options);
            let out = c
                .spliced(&c.client_segment())
                .but(|s| s.options = expected.clone());
            rows.push(becomes(name, c, s.clone(), out));
            let with_data = s.payload(b"more than an ACK");
            let out = c.spliced(&c.client_segment()).but(|s| {
                s.options = expected;
                s.payload = b"more than an ACK".to_vec();
            });
            rows.push(becomes(name, c, with_data, out));
        };
        case(
            "SACK of one block with timestamps",
            [stamps.clone(), sack(&edges[..2])].concat(),
            [stamps_out.clone(), sack(&moved(2))].concat(),
        );
        case(
            "SACK of two blocks with timestamps",
            [stamps.clone(), sack(&edges[..4])].concat(),
            [stamps_out.clone(), sack(&moved(4))].concat(),
        );
        case(
            "SACK of three blocks with timestamps",
            [stamps.clone(), sack(&edges[..6])].concat(),
            [stamps_out.clone(), sack(&moved(6))].concat(),
        );
        case(
            "SACK of one block, 12 bytes as timestamps are",
            sack(&edges[..2]),
            sack(&moved(2)),
        );
        case("SACK of four blocks", sack(&edges), sack(&moved(8)));
        case("SACK of two blocks", sack(&edges[..4]), sack(&moved(4)));
        case("SACK of three blocks", sack(&edges[..6]), sack(&moved(6)));
        case(
            "SACK of one block where two would fit, with timestamps",
            [stamps.clone(), sack(&edges[..2]), vec![1; 8]].concat(),
            [stamps_out.clone(), sack(&moved(2)), vec![1; 8]].concat(),
        );
        case(
            "SACK of one block where two would fit",
            [sack(&edges[..2]), vec![0; 8]].concat(),
            [sack(&moved(2)), vec![0; 8]].concat(),
        );
        case(
            "SACK of no block with timestamps",
            [stamps.clone(), vec![1, 1, 5, 2]].concat(),
            [stamps_out.clone(), vec![1, 1, 5, 2]].concat(),
        );
        case(
            "an unknown option as long as a SACK block, with timestamps",
            [stamps.clone(), vec![1, 1, 254, 10], vec![7; 8]].concat(),
            [stamps_out.clone(), vec![1, 1, 254, 10], vec![7; 8]].concat(),
        );
        case("options shorter than timestamps", vec![1; 4], vec![1; 4]);
        case(
            "timestamps behind SACK",
            [sack(&edges[..2]), stamps.clone()].concat(),
            [sack(&moved(2)), stamps_out.clone()].concat(),
        );
        case(
            "timestamps first, NOPs last",
            [block.clone(), vec![1, 1]].concat(),
            [block_out.clone(), vec![1, 1]].concat(),
        );
        case(
            "timestamps at an odd offset",
            [vec![1], block.clone(), vec![0]].concat(),
            [vec![1], block_out.clone(), vec![0]].concat(),
        );
        case(
            "SACK at an odd offset",
            [vec![1], sack(&edges[..2])[2..].to_vec(), vec![1]].concat(),
            [vec![1], sack(&moved(2))[2..].to_vec(), vec![1]].concat(),
        );
        case(
            "timestamps after an unknown option",
            [vec![254, 3, 9], block.clone(), vec![1, 1, 1]].concat(),
            [vec![254, 3, 9], block_out.clone(), vec![1, 1, 1]].concat(),
        );
        case(
            "timestamps twice",
            [stamps.clone(), stamps.clone()].concat(),
            [stamps_out.clone(), stamps_out.clone()].concat(),
        );
        case(
            "timestamps behind the end of options are none",
            [vec![0, 0], block.clone()].concat(),
            [vec![0, 0], block.clone()].concat(),
        );
        case(
            "timestamps of a wrong length are left alone",
            vec![8, 6, 1, 2, 3, 4, 1, 1],
            vec![8, 6, 1, 2, 3, 4, 1, 1],
        );
        case("only NOPs", vec![1; 40], vec![1; 40]);
        case(
            "an MD5 signature",
            [vec![19, 18], vec![0xaa; 16], vec![1, 1]].concat(),
            [vec![19, 18], vec![0xaa; 16], vec![1, 1]].concat(),
        );
        case(
            "SACK with half a block",
            vec![5, 6, 0, 0, 0, 9, 1, 1],
            [
                vec![5, 6],
                9u32.wrapping_sub(c.delta).to_be_bytes().to_vec(),
                vec![1, 1],
            ]
            .concat(),
        );

        let out = |s: &Segment, options: Vec<u8>| c.spliced(s).but(|s| s.options = options);
        let s = c
            .backend_segment()
            .options(&[stamps.clone(), sack(&edges[..2])].concat());
        let expected = out(
            &s,
            [
                timestamps(100u32.wrapping_add(c.ts_delta), 200),
                sack(&edges[..2]),
            ]
            .concat(),
        );
        rows.push(becomes(
            "SACK from the backend, of sequence numbers that the client knows",
            c,
            s,
            expected,
        ));
        let s = c
            .client_segment()
            .flags(PSH)
            .options(&[vec![1], block.clone(), vec![1]].concat());
        let expected = out(&s, s.options.clone());
        rows.push(becomes(
            "without ACK, TSecr at an odd offset stays",
            c,
            s,
            expected,
        ));

        for (name, options) in [
            ("an option of length 0", vec![254, 0, 1, 1]),
            ("an option of length 1", vec![1, 1, 254, 1]),
            ("an option beyond the header", vec![1, 1, 8, 10]),
            ("an option without its length", vec![1, 1, 1, 8]),
            (
                "a SACK beyond the header",
                [timestamps(1, 2), vec![1, 1, 5, 10]].concat(),
            ),
            ("an option of length 255", vec![254, 255, 1, 1]),
            ("a SACK alone beyond the header", vec![1, 1, 5, 10]),
            (
                "a SACK of which half is beyond the header",
                [vec![1, 1, 5, 18], vec![7; 8]].concat(),
            ),
            (
                "a SACK behind timestamps of which half is beyond the header",
                [timestamps(1, 2), vec![1, 1, 5, 18], vec![7; 8]].concat(),
            ),
        ] {
            // The second payload is long enough to be taken for the rest of the option.
            for payload in [&b"data"[..], &[7; 40]] {
                let s = c.client_segment().options(&options).payload(payload);
                rows.push(
                    Row::new(name, &s)
                        .with(move |w| c.open(w))
                        .drops(Verdict::BadOptions),
                );
            }
        }
    }
    table("options", rows);
}
