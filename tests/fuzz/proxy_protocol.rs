//! The PROXY header: an answer is final, whatever follows and however it is cut.

use crate::fuzz;
use crate::mutate::mutated;
use onemind_gateway::stage::listen::proxy_protocol::{Parsed, parse, read};
use proptest::prelude::*;
use std::time::Duration;

const WORDS: &[&str] = &[
    "PROXY ",
    "TCP4 ",
    "TCP6 ",
    "UNKNOWN",
    " ",
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n\0\r\nQUIT\n",
    "192.0.2.1 ",
    "::1 ",
    "65535",
    "65536",
    "0",
    "00",
    "+1",
    "\u{0}",
    "\u{21}\u{11}",
    "\u{20}\0\0\0",
    "\u{0}\u{c}",
    "::ffff:1.2.3.4",
    "%eth0",
];

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n\r\n",
        "PROXY TCP6 2001:db8::1 ::1 4711 443\r\n",
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        "PROXY UNKNOWN\r\n\x16\x03\x01",
        "GET / HTTP/1.1\r\n",
    ];
    let mut seeds: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    seeds.extend([
        v2(
            0x21,
            0x11,
            &[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb],
        ),
        v2(0x21, 0x21, &[7; 36]),
        v2(0x21, 0x21, &[7; 300]),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x20, 0, &[]),
        v2(0x21, 0x12, &[1; 12]),
    ]);
    seeds
}

#[test]
fn an_answer_is_final() {
    fuzz("PROXY header", 4_000, &mutated(seeds(), WORDS), |bytes| {
        let whole = parse(&bytes);
        for end in 0..=bytes.len() {
            match parse(&bytes[..end]) {
                Parsed::Incomplete(total) => {
                    prop_assert!(total > end && total <= 4112, "{total} after {end}");
                }
                Parsed::Done(header) => {
                    prop_assert!(header.consumed <= end);
                    prop_assert_eq!(header.source.is_some(), header.destination.is_some());
                    prop_assert_eq!(Parsed::Done(header), whole);
                }
                Parsed::Invalid => prop_assert_eq!(whole, Parsed::Invalid, "invalid after {}", end),
            }
        }
        Ok(())
    });
}

#[test]
fn reading_agrees_with_parsing_and_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let pieces = prop::collection::vec(1..50_usize, 0..12);
    fuzz(
        "PROXY reader",
        1_000,
        &(mutated(seeds(), WORDS), pieces),
        |(bytes, pieces)| {
            runtime.block_on(async {
                let (mut ours, mut theirs) = tokio::io::duplex(8192);
                let sending = async {
                    let mut rest = bytes.as_slice();
                    for size in pieces {
                        let (piece, after) = rest.split_at(size.min(rest.len()));
                        // A reader that has seen enough need not take the rest.
                        let _ = tokio::io::AsyncWriteExt::write_all(&mut theirs, piece).await;
                        tokio::task::yield_now().await;
                        rest = after;
                    }
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut theirs, rest).await;
                    drop(theirs);
                };
                let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
                let ((), result) = tokio::join!(sending, read(&mut ours, deadline));
                match (parse(&bytes), result) {
                    (Parsed::Done(expected), Ok((header, mut rest))) => {
                        prop_assert_eq!(header, expected);
                        tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut rest)
                            .await
                            .unwrap();
                        prop_assert_eq!(rest.as_slice(), &bytes[expected.consumed..]);
                    }
                    (Parsed::Done(expected), Err(error)) => {
                        prop_assert!(false, "{error} for {expected:?}");
                    }
                    (other, result) => prop_assert!(result.is_err(), "{result:?} for {other:?}"),
                }
                Ok(())
            })
        },
    );
}
