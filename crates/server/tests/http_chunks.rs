//! Chunked bodies: what is payload, what is refused, and that both are the same wherever the bytes
//! are cut.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use impasto_server::http::{Chunks, Framing, Piece, Status, parse};
use impasto_sim::Rng;

/// What becomes of bytes: the payload, and how many were taken if the body ends in them.
type Outcome = Result<(Vec<u8>, Option<usize>), Status>;

/// Feeds `pieces`, one after the other.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut chunks, mut payload, mut taken) = (Chunks::new(), Vec::new(), 0);
    for mut rest in pieces {
        while !rest.is_empty() {
            let left = chunks.left();
            let (bytes, ends) = match chunks.next(rest).map_err(|fault| fault.status)? {
                Piece::Framing(bytes) => (bytes, false),
                Piece::Payload(bytes) => {
                    assert!(bytes as u64 <= left || left == 0);
                    payload.extend_from_slice(&rest[..bytes]);
                    (bytes, false)
                }
                Piece::End(bytes) => (bytes, true),
            };
            assert!(bytes > 0, "it goes on");
            taken += bytes;
            rest = &rest[bytes..];
            if ends {
                return Ok((payload, Some(taken)));
            }
        }
    }
    Ok((payload, None))
}

fn refusal(text: &str) -> Status {
    let whole = decode([text.as_bytes()]).unwrap_err();
    let bytewise = decode(text.as_bytes().chunks(1)).unwrap_err();
    assert_eq!(whole, bytewise, "{text:?}");
    whole
}

fn payload(text: &str) -> Vec<u8> {
    let (payload, taken) = decode([text.as_bytes()]).unwrap();
    assert_eq!(taken, Some(text.len()), "{text:?} ends a body");
    payload
}

/// Two requests and a half in one stream.
const STREAM: &[u8] = b"POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
    5;a=\"b\"\r\nhello\r\n00a \t;x\r\n, world\r\n!\r\n1\r\n\n\r\n000\r\nTrailer: 1\r\n\
    B: \xe4\r\n\r\n\
    POST /v1/logs/b HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n\
    POST /v1/logs/c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nF\r\nfifteen";

/// Reads `STREAM` as a connection does that gets it in `pieces`; returns the bodies that ended, and
/// what there is of the next one.
fn bodies(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let (mut head, mut chunks) = (Vec::new(), None::<Chunks>);
    for mut rest in pieces.iter().copied() {
        while !rest.is_empty() {
            let Some(body) = &mut chunks else {
                head.push(rest[0]);
                rest = &rest[1..];
                if let Some(parsed) = parse(&head).unwrap() {
                    assert_eq!((parsed.framing, parsed.bytes), (Framing::Chunked, head.len()));
                    head.clear();
                    chunks = Some(Chunks::new());
                    bodies.push(Vec::new());
                }
                continue;
            };
            let bytes = match body.next(rest).unwrap() {
                Piece::Framing(bytes) => bytes,
                Piece::Payload(bytes) => {
                    bodies.last_mut().unwrap().extend_from_slice(&rest[..bytes]);
                    bytes
                }
                Piece::End(bytes) => {
                    chunks = None;
                    bytes
                }
            };
            rest = &rest[bytes..];
        }
    }
    bodies
}

/// TCP cuts where it likes: a byte taken for framing or payload depending on the cut would be a
/// damaged value, or a request that was never sent.
#[test]
fn pipelined_bodies_are_the_same_wherever_they_are_cut() {
    let expected: [&[u8]; 3] = [b"hello, world\r\n!\n", b"", b"fifteen"];
    assert_eq!(bodies(&[STREAM]), expected);
    assert_eq!(bodies(&STREAM.chunks(1).collect::<Vec<_>>()), expected);
    for first in 0..STREAM.len() {
        for second in (first..STREAM.len()).step_by(if first % 8 == 0 { 1 } else { 7 }) {
            let pieces = [&STREAM[..first], &STREAM[first..second], &STREAM[second..]];
            assert_eq!(bodies(&pieces), expected, "cut at {first} and {second}");
        }
    }
}

#[test]
fn sizes_are_hexadecimal_and_plain() {
    assert_eq!(payload("0\r\n\r\n"), b"");
    assert_eq!(payload("000000000000000A\r\n0123456789\r\n0\r\n\r\n"), b"0123456789");
    assert_eq!(payload("a;b\r\n0123456789\r\n0;c\r\n\r\n"), b"0123456789");
    for text in [
        "\r\n",
        " 5\r\n",
        "\t5\r\n",
        "-5\r\n",
        "+5\r\n",
        "0x5\r\n",
        "5h\r\n",
        ";a\r\n",
        "\n",
        "5_0\r\n",
        "00000000000000005\r\n",
        "10000000000000000\r\n",
        "5\r\nhello\r\n\r\n",
        "5,\r\n",
        "\u{665}\r\n",
    ] {
        assert_eq!(refusal(text), Status::BadRequest, "{text:?}");
    }
    let mut chunks = Chunks::new();
    assert_eq!(chunks.next(b"ffffffffffffffff\r\nx"), Ok(Piece::Framing(18)));
    assert_eq!(chunks.left(), u64::MAX);
    assert_eq!((chunks.next(b"x"), chunks.left()), (Ok(Piece::Payload(1)), u64::MAX - 1));
}

/// A bare LF or CR is a line end for some readers and not for others, and so is a chunk that is
/// longer than it says: ways to smuggle a request.
#[test]
fn lines_end_with_both_bytes() {
    for text in [
        "5\nhello",
        "5\r\rhello",
        "5\rhello",
        "5;a\nhello",
        "5;a\rb\r\n",
        "5 \r\n",
        "5;a\0\r\n",
        "5\r\nhellos\r\n",
        "5\r\nhello\n0",
        "5\r\nhello\r0",
        "5\r\nhello0\r\n",
        "0\n",
        "0\r\n\n",
        "0\r\na: b\n\r\n",
        "0\r\na: b\r\r\n",
        "0\r\n\r\r",
        "0\r\n\x7f\r\n",
    ] {
        assert_eq!(refusal(text), Status::BadRequest, "{text:?}");
    }
}

/// Framing that carries no payload costs its sender next to nothing: it must end.
#[test]
fn framing_has_limits() {
    let line = |bytes: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(bytes - 4));
    assert_eq!(payload(&line(256)), b"hello");
    assert_eq!(refusal(&line(257)), Status::BadRequest);
    let trailers = |bytes: usize| format!("0\r\n{}\r\n\r\n", "x".repeat(bytes - 4));
    assert_eq!(payload(&trailers(16 << 10)), b"");
    assert_eq!(refusal(&trailers((16 << 10) + 1)), Status::HeadTooLong);
    // 128 bytes of extension each.
    let extended = |chunks: usize| {
        let chunk = format!("1;{}\r\nx\r\n", "x".repeat(127));
        format!("{}0\r\n\r\n", chunk.repeat(chunks))
    };
    assert_eq!(payload(&extended(127)).len(), 127);
    assert_eq!(refusal(&extended(129)), Status::HeadTooLong);
}

/// The grammar of RFC 9112, 7.1, over bytes that are all there.
fn reference(text: &[u8]) -> Outcome {
    let bad = Err(Status::BadRequest);
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = line_at(text, at) else {
            let endings: [&[u8]; 5] = [b"\r\n", b"\n", b"0\r\n", b";\r\n", b"0;\r\n"];
            let ends = |end: &&[u8]| size_of(&[&text[at..], end].concat()).is_some();
            return if endings.iter().any(ends) { Ok((payload, None)) } else { bad };
        };
        let Some(size) = size_of(line) else { return bad };
        at += line.len();
        if size == 0 {
            break;
        }
        let rest = &text[at..];
        let len = usize::try_from(size).map_or(rest.len(), |size| size.min(rest.len()));
        payload.extend_from_slice(&rest[..len]);
        let end = &rest[len..rest.len().min(len + 2)];
        if !b"\r\n".starts_with(end) {
            return bad;
        }
        if end.len() < 2 {
            return Ok((payload, None));
        }
        at += len + 2;
    }
    loop {
        let Some(line) = line_at(text, at) else {
            let rest = &text[at..];
            let start = rest.strip_suffix(b"\r").unwrap_or(rest);
            return if is_text(start) { Ok((payload, None)) } else { bad };
        };
        at += line.len();
        match line.strip_suffix(b"\r\n") {
            Some(b"") => return Ok((payload, Some(at))),
            Some(line) if is_text(line) => {}
            _ => return bad,
        }
    }
}

fn line_at(text: &[u8], at: usize) -> Option<&[u8]> {
    let end = text[at..].iter().position(|byte| *byte == b'\n')?;
    Some(&text[at..=at + end])
}

fn size_of(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n").filter(|line| is_text(line))?;
    let size = match line.iter().position(|byte| *byte == b';') {
        Some(end) => line[..end].trim_ascii_end(),
        None => line,
    };
    let digits = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
    digits.then(|| u64::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap())
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

/// Returns a body, and what it is in chunks.
fn encode(rng: &mut Rng) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..rng.index(5) {
        let bytes: Vec<u8> = (0..=rng.index(20)).map(|_| noise(rng)).collect();
        let zeroes = "0".repeat(rng.index(3));
        let extension = ["", ";a", " ;a=b", ";a=\"\t\""][rng.index(4)];
        text.extend(format!("{zeroes}{:x}{extension}\r\n", bytes.len()).bytes());
        text.extend(bytes);
        text.extend(b"\r\n");
    }
    text.extend(["0\r\n\r\n", "00;x\r\n\r\n", "0\r\na: b\r\nc\r\n\r\n"][rng.index(3)].bytes());
    text
}

fn noise(rng: &mut Rng) -> u8 {
    let bytes = b"0123456789abcDEFgx;;==  \t\r\r\n\n-+:\0\x7f\xff";
    bytes[rng.index(bytes.len())]
}

/// Whole, damaged and cut bodies are what the grammar says. Without a reference a fault that every
/// cut shares would pass.
#[test]
fn any_bytes_are_what_the_grammar_says() {
    let seed = std::env::var("IMPASTO_SEED").map_or(11, |seed| seed.parse().unwrap());
    println!("IMPASTO_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut outcomes = [0; 3];
    for _ in 0..40_000 {
        let mut text = encode(&mut rng);
        for _ in 0..rng.index(3) {
            let at = rng.index(text.len());
            match rng.index(3) {
                0 => text[at] = noise(&mut rng),
                1 => text.insert(at, noise(&mut rng)),
                _ => drop(text.remove(at)),
            }
        }
        if rng.once_in(4) {
            text.truncate(rng.index(text.len() + 1));
        }
        let expected = reference(&text);
        let mut rest = &text[..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(1 + rng.index(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        let told = text.escape_ascii();
        assert_eq!(decode(pieces), expected, "{told}");
        assert_eq!(decode([&text[..]]), expected, "{told}");
        outcomes[match expected {
            Err(_) => 0,
            Ok((_, None)) => 1,
            Ok((_, Some(_))) => 2,
        }] += 1;
    }
    assert!(outcomes.iter().all(|&count| count > 1_000), "{outcomes:?}");
}
