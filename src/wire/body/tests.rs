//! Bodies, whole, in pieces, and what is none.

use super::*;
use crate::wire::outgoing::Outgoing;
use proptest::prelude::*;

/// Everything a reader takes out of `wire` when it comes in pieces of `step` bytes.
fn read(
    framing: Framing,
    wire: &[u8],
    step: usize,
) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Malformed> {
    let mut reader = BodyReader::new(framing);
    let mut buf = BytesMut::new();
    let mut body = Vec::new();
    let mut given = 0;
    loop {
        match reader.take(&mut buf)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::End => {
                return Ok((body, reader.take_trailers(), wire.len() - given + buf.len()));
            }
            Piece::More => {
                if given == wire.len() {
                    return Err(Malformed("cut"));
                }
                let next = (given + step).min(wire.len());
                buf.extend_from_slice(&wire[given..next]);
                given = next;
            }
        }
    }
}

#[test]
fn chunked_bodies_end_where_they_say() {
    for (wire, body, left) in [
        ("0\r\n\r\n", "", 0),
        ("3\r\nabc\r\n0\r\n\r\nGET", "abc", 3),
        ("3;name=\"v\"\r\nabc\r\n0\r\n\r\n", "abc", 0),
        ("00A\r\n0123456789\r\n0\r\n\r\nx", "0123456789", 1),
        ("1\r\na\r\n2 \r\nbc\r\n0\r\nX-Sum: 1\r\n\r\n", "abc", 0),
    ] {
        for step in 1..=wire.len() {
            let (read, _, rest) = read(Framing::Chunked, wire.as_bytes(), step).expect(wire);
            assert_eq!(read, body.as_bytes(), "{wire:?}");
            assert_eq!(rest, left, "{wire:?} by {step}");
        }
    }
}

#[test]
fn what_is_no_chunk_is_refused() {
    for wire in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        "0x1\r\na\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1 2\r\na\r\n",
        "1;\x00\r\na\r\n",
        "1;a\rb\r\na\r\n",
        "ffffffffffffffff\r\n",
        "11111111111111111\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\n folded: x\r\n\r\n",
    ] {
        let result = read(Framing::Chunked, wire.as_bytes(), 1);
        assert!(
            matches!(result, Err(Malformed(what)) if what != "cut"),
            "{wire:?}: {result:?}"
        );
    }
    let long = format!("1;{}\r\na\r\n", "e".repeat(2000));
    assert!(read(Framing::Chunked, long.as_bytes(), 7).is_err());
}

#[test]
fn trailers_are_read_but_not_those_that_would_change_the_message() {
    let wire = b"0\r\nX-Sum: 7\r\nContent-Length: 5\r\nHost: other\r\n\r\n";
    let (_, trailers, _) = read(Framing::Chunked, wire, 1).unwrap();
    let trailers = trailers.expect("one is left");
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "7");
}

#[test]
fn framing_is_taken_strictly() {
    for (fields, expected) in [
        (&[][..], Ok(None)),
        (&[("content-length", "5")], Ok(Some(Framing::Length(5)))),
        (
            &[("transfer-encoding", "Chunked")],
            Ok(Some(Framing::Chunked)),
        ),
        (&[("content-length", "5"), ("content-length", "5")], Err(())),
        (&[("content-length", "5, 5")], Err(())),
        (&[("content-length", "+5")], Err(())),
        (&[("content-length", "0x5")], Err(())),
        (&[("content-length", "")], Err(())),
        (&[("content-length", "99999999999999999999")], Err(())),
        (&[("transfer-encoding", "gzip, chunked")], Err(())),
        (&[("transfer-encoding", "xchunked")], Err(())),
        (
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            Err(()),
        ),
        (
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            Err(()),
        ),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        assert_eq!(framing(&headers).map_err(|_| ()), expected, "{fields:?}");
    }
}

#[test]
fn more_than_was_announced_is_cut_off_and_less_is_noticed() {
    for (announced, put, whole) in [(3, "abc", true), (2, "abc", true), (4, "abc", false)] {
        let mut out = Outgoing::default();
        let mut writer = BodyWriter::new(Framing::Length(announced));
        writer.put(&mut out, Bytes::from(put));
        assert_eq!(out.waiting() as u64, announced.min(3));
        assert_eq!(writer.finish(&mut out, None), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_written_is_read_again_whatever_the_pieces(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12),
        step in 1_usize..700,
    ) {
        let whole: Vec<u8> = pieces.concat();
        for framing in [Framing::Chunked, Framing::Length(whole.len() as u64)] {
            let mut out = Outgoing::default();
            let mut writer = BodyWriter::new(framing);
            for piece in &pieces {
                writer.put(&mut out, Bytes::from(piece.clone()));
            }
            prop_assert!(writer.finish(&mut out, None));
            out.write(|tail| tail.extend_from_slice(b"next"));
            let wire = flat(out);
            let (body, _, rest) = read(framing, &wire, step).unwrap();
            prop_assert_eq!(&body, &whole);
            prop_assert_eq!(rest, 4);
        }
    }

    #[test]
    fn nothing_panics_a_reader(wire in prop::collection::vec(any::<u8>(), 0..400), step in 1_usize..50) {
        let _ = read(Framing::Chunked, &wire, step);
    }
}

fn flat(mut out: Outgoing) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(out.poll_flush(&mut wire, &mut cx).is_ready());
    wire
}
