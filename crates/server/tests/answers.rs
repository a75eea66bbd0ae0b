//! What HTTP promises beyond an append and a read: problems, validators, ranges, digests, pages.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod rig;

use impasto_region::Checksum;
use impasto_server::config::Options;
use rig::{MEDIA, Reply, Rig, ask, post, replies, replies_to, value};

fn get(rig: &mut Rig, target: &str, fields: &str) -> Reply {
    rig.once(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
}

fn etag(seq: u64, value: &[u8]) -> String {
    format!("\"{seq}-{:016x}\"", Checksum::of(value))
}

/// A program that cannot tell one 404 from the other asks a person.
#[test]
fn a_problem_says_what_it_is_and_where_to_go_on() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        (0..5).for_each(|_| assert_eq!(rig.append("log", b"x").status, 201));
        rig.once(ask("DELETE", "/v1/logs/log?before=4"));
        for (target, status, problem, member) in [
            ("/v1/logs/none", 404, "/problems/no-such-log", ""),
            ("/v1/logs/none/1", 404, "/problems/no-such-log", ""),
            ("/v1/logs/log/6", 404, "/problems/not-yet", ",\"next\":6}"),
            ("/v1/logs/log/3", 410, "/problems/trimmed", ",\"first\":4}"),
            ("/v1/logs/log?from=3", 410, "/problems/trimmed", ",\"first\":4}"),
            ("/v1/logs/log?from=7", 404, "/problems/not-yet", ",\"next\":6}"),
            ("/v1/logs/log?limit=0", 400, "about:blank", ""),
            ("/v1/logs/log?limit=1001", 400, "about:blank", ""),
            ("/v1/logs/log?from=0", 400, "about:blank", ""),
            ("/x", 404, "about:blank", ""),
        ] {
            let reply = get(&mut rig, target, "");
            assert_eq!(reply.status, status, "{target}");
            assert_eq!(reply.field("Content-Type"), "application/problem+json", "{target}");
            let text = reply.text();
            let start = format!("{{\"type\":\"{problem}\",\"title\":\"");
            assert!(text.starts_with(&start), "{target}: {text}");
            assert!(text.contains(&format!(",\"status\":{status},\"detail\":\"")), "{text}");
            assert!(text.trim_end().ends_with(member) && text.ends_with("}\n"), "{text}");
            let head = format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let flow = rig.open();
            let answer = rig.talk(flow, head);
            let head = replies_to(&answer, |_| false).remove(0);
            assert_eq!(head.head, reply.head, "{target}");
        }
    }
}

/// Only what is asked for is sent; each length stands somewhere else.
#[test]
fn a_range_is_sent_as_it_was_asked_for() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 64);
        for (seq, len) in (1..).zip([10, 600, 5000, 70_000, 700_001]) {
            let value = value(len, 3);
            rig.append("log", &value);
            let target = format!("/v1/logs/log/{seq}");
            let whole = get(&mut rig, &target, "");
            assert_eq!(whole.field("Accept-Ranges"), "bytes");
            for (first, last) in [(0, len - 1), (0, 0), (1, 5), (len / 2, len - 1), (len - 1, len)]
            {
                let sent = rig.tap.transmitted.get();
                let reply = get(&mut rig, &target, &format!("Range: bytes={first}-{last}\r\n"));
                let last = last.min(len - 1);
                assert!(reply.body == value[first..=last], "{first}-{last} of {len} on {kind:?}");
                assert_eq!(reply.status, 206);
                assert_eq!(reply.field("Content-Range"), format!("bytes {first}-{last}/{len}"));
                assert_eq!(reply.field("ETag"), etag(seq, &value));
                let sent = usize::try_from(rig.tap.transmitted.get() - sent).unwrap();
                assert_eq!(sent, reply.head.len() + 4 + reply.body.len());
            }
            let beyond = get(&mut rig, &target, &format!("Range: bytes={len}-\r\n"));
            assert_eq!(beyond.status, 416);
            assert_eq!(beyond.field("Content-Range"), format!("bytes */{len}"));
            for fields in [
                "Range: bytes=0-1, 3-4\r\n",
                "Range: lines=1-2\r\n",
                "Range: bytes=0-1\r\nIf-Range: \"1-0000000000000000\"\r\n",
                "Range: bytes=0-1\r\nIf-Range: Fri, 20 Nov 2026 14:00:00 GMT\r\n",
            ] {
                let reply = get(&mut rig, &target, fields);
                assert!(reply.status == 200 && reply.body == value, "{fields}");
            }
            let same = format!("Range: bytes=-2\r\nIf-Range: {}\r\n", etag(seq, &value));
            assert!(get(&mut rig, &target, &same).body == value[len - 2..]);
            // RFC 9110, 14.2: only a GET has ranges.
            let flow = rig.open();
            let head = format!("HEAD {target} HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n\r\n");
            let answer = rig.talk(flow, head);
            assert_eq!(replies_to(&answer, |_| false)[0].head, whole.head);
        }
        rig.append("log", b"");
        assert_eq!(get(&mut rig, "/v1/logs/log/6", "Range: bytes=0-\r\n").status, 416);
        assert_eq!(get(&mut rig, "/v1/logs/log/6", "Range: bytes=-1\r\n").status, 200);
    }
}

/// A region that was made anew has other bytes under the same numbers: a cache must not mix them.
#[test]
fn a_validator_is_of_the_bytes_and_not_of_the_number_alone() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let created = rig.append("log", b"first");
        let tag = etag(1, b"first");
        assert_eq!(created.field("ETag"), tag);
        let target = "/v1/logs/log/1";
        let reply = get(&mut rig, target, &format!("If-None-Match: \"x\", W/{tag}\r\n"));
        assert_eq!((reply.status, reply.text().as_str()), (304, ""));
        assert_eq!((reply.field("ETag"), reply.field("Content-Length")), (&*tag, ""));
        assert_eq!(get(&mut rig, target, "If-None-Match: *\r\n").status, 304);
        assert_eq!(get(&mut rig, target, &format!("If-Match: {tag}\r\n")).status, 200);
        assert_eq!(get(&mut rig, target, &format!("If-Match: W/{tag}\r\n")).status, 412);
        assert_eq!(get(&mut rig, "/v1/logs/log/2", "If-None-Match: *\r\n").status, 404);
        let date = "If-Modified-Since: Fri, 20 Nov 2126 14:00:00 GMT\r\n";
        assert_eq!(get(&mut rig, target, date).status, 200);

        let mut anew = Rig::new(kind, 16);
        anew.append("log", b"other");
        let reply = get(&mut anew, target, &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((reply.status, reply.text().as_str()), (200, "other"));
        assert_eq!(get(&mut anew, target, &format!("If-Match: {tag}\r\n")).status, 412);
        let range = format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n");
        assert_eq!(get(&mut anew, target, &range).text(), "other");
    }
}

/// The condition of a write that is not understood must not be taken for one that is met.
#[test]
fn a_condition_on_a_log_is_not_met() {
    let mut rig = Rig::new(MEDIA[0], 16);
    rig.append("log", b"x");
    for (line, status) in [
        ("POST /v1/logs/log HTTP/1.1\r\nIf-Match: \"1\"", 412),
        ("POST /v1/logs/log HTTP/1.1\r\nIf-None-Match: *", 412),
        ("DELETE /v1/logs/log?before=9 HTTP/1.1\r\nIf-Match: \"1\"", 412),
        ("GET /v1/logs/log HTTP/1.1\r\nIf-None-Match: \"1\"", 200),
    ] {
        let reply = rig.once(format!("{line}\r\nHost: h\r\nContent-Length: 1\r\n\r\ny"));
        assert_eq!(reply.status, status, "{line}: {}", reply.text());
    }
    let log = rig.once(ask("GET", "/v1/logs/log")).text();
    assert_eq!(log, "{\"first\":1,\"next\":2,\"records\":1,\"bytes\":1}\n");
}

/// A page somewhere in a browser must not write to what listens at home.
#[test]
fn a_page_from_elsewhere_appends_only_if_it_is_allowed() {
    let append = |origin: &str| {
        format!("POST /v1/logs/log HTTP/1.1\r\nHost: h:80\r\n{origin}Content-Length: 1\r\n\r\nx")
    };
    let mut rig = Rig::new(MEDIA[0], 16);
    for (origin, status) in [
        ("", 201),
        ("Origin: http://h:80\r\n", 201),
        ("Origin: https://H:80\r\n", 201),
        ("Origin: http://h\r\n", 403),
        ("Origin: http://h:8080\r\n", 403),
        ("Origin: http://h:80.example.org\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: \r\n", 403),
        ("Origin: http://h:80\r\nOrigin: http://h:80\r\n", 403),
        ("Origin: http://example.org\r\n", 403),
    ] {
        let reply = rig.once(append(origin));
        assert_eq!(reply.status, status, "{origin}");
        assert_eq!(reply.field("Access-Control-Allow-Origin"), "");
        if status == 403 {
            assert!(reply.text().starts_with("{\"type\":\"/problems/origin\""));
        }
    }
    let preflight = "OPTIONS /v1/logs/log HTTP/1.1\r\nHost: h:80\r\nOrigin: http://example.org\r\n\
                     Access-Control-Request-Method: POST\r\n\r\n";
    assert_eq!(rig.once(preflight).status, 403);
    assert!(rig.once(ask("GET", "/v1/logs/log")).text().contains("\"records\":3,"));

    let allow_origin = vec!["http://other".into(), "http://Example.org".into()];
    let options = Options { allow_origin, ..Options::default() };
    let mut rig = Rig::with_options(MEDIA[0], 16, options);
    assert_eq!(rig.once(append("Origin: http://example.com\r\n")).status, 403);
    let reply = rig.once(append("Origin: http://example.org\r\n"));
    assert_eq!(reply.status, 201);
    assert_eq!(reply.field("Access-Control-Allow-Origin"), "http://Example.org");
    assert_eq!(reply.field("Vary"), "Origin");
    assert!(reply.field("Access-Control-Expose-Headers").contains("ETag"));
    let reply = rig.once(preflight);
    assert_eq!(reply.status, 204);
    assert_eq!(reply.field("Access-Control-Allow-Methods"), reply.field("Allow"));
    assert!(reply.field("Access-Control-Allow-Headers").contains("Content-Digest"));
    // The next one on the connection is not of that page.
    let flow = rig.open();
    let two = [append("Origin: http://example.org\r\n"), append(""), "GET / X\r\n\r\n".into()];
    let replies = replies(&rig.talk(flow, two.concat()));
    let allowed = replies.iter().map(|reply| reply.field("Access-Control-Allow-Origin"));
    assert_eq!(allowed.collect::<Vec<_>>(), ["http://Example.org", "", ""]);

    let options = Options { allow_origin: vec!["*".into()], ..Options::default() };
    let mut rig = Rig::with_options(MEDIA[0], 16, options);
    let reply = rig.once(append("Origin: null\r\n"));
    assert_eq!((reply.status, reply.field("Access-Control-Allow-Origin")), (201, "*"));
}

#[test]
fn every_target_says_what_it_allows() {
    let mut rig = Rig::new(MEDIA[0], 16);
    for (target, methods) in impasto_server::http::ROUTES {
        let target = target.replace("{log}", "a").replace("{seq}", "1");
        let reply = rig.once(ask("OPTIONS", &target));
        assert_eq!((reply.status, reply.field("Allow")), (204, methods), "{target}");
        let reply = rig.once(ask("PATCH", &target));
        assert_eq!((reply.status, reply.field("Allow")), (405, methods), "{target}");
    }
    assert_eq!(rig.once(ask("OPTIONS", "*")).status, 204);
    assert_eq!(rig.once(ask("OPTIONS", "/x")).status, 404);
    let version = rig.once(ask("GET", "/version")).text();
    assert!(version.starts_with("{\"name\":\"impasto\",\"version\":\""), "{version}");
}

const SHA_256: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";

/// What was damaged on the way must not be acknowledged.
#[test]
fn content_that_is_not_what_its_digest_says_is_not_appended() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let post = |digest: &str, body: &str| {
            let len = body.len();
            let head = "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nContent-Digest:";
            format!("{head} {digest}\r\nContent-Length: {len}\r\n\r\n{body}")
        };
        assert_eq!(rig.once(post(SHA_256, "hello")).status, 201);
        for (digest, body) in [(SHA_256, "hellp"), ("md5=:AAAA:", "x"), ("sha-256=x", "x")] {
            let reply = rig.once(post(digest, body));
            assert_eq!(reply.status, 400, "{digest}");
            assert!(reply.text().starts_with("{\"type\":\"/problems/digest\""), "{digest}");
            assert_eq!(reply.field("Want-Content-Digest"), "sha-256=10, sha-512=10");
        }
        let head = "POST /v1/logs/log HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
        for (body, status) in [("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 201), ("0\r\n\r\n", 400)] {
            let request = format!("{head}Content-Digest: {SHA_256}\r\n\r\n{body}");
            assert_eq!(rig.once(request).status, status, "{body:?} on {kind:?}");
        }
        // The connection goes on: where the next request starts is known.
        let flow = rig.open();
        let two = [post(SHA_256, "hellp"), post(SHA_256, "hello")].concat();
        let replies = replies(&rig.talk(flow, two));
        assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>(), [400, 201]);
        let log = rig.once(ask("GET", "/v1/logs/log")).text();
        assert_eq!(log, "{\"first\":1,\"next\":4,\"records\":3,\"bytes\":15}\n");
    }
}

/// Each path of a body: collected, kept where it landed, copied to blocks, received there, in
/// chunks. A refused one gives its space back, so that any number of them may come.
#[test]
fn content_of_every_length_is_verified_and_given_back() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use sha2::{Digest as _, Sha256, Sha512};
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        for len in [0, 100, 600, 5000, 65_536, 65_537, 400_000, 3 << 20] {
            let body = value(len, 5);
            let digests = format!(
                "Content-Digest: sha-256=:{}:, sha-512=:{}:\r\n",
                STANDARD.encode(Sha256::digest(&body)),
                STANDARD.encode(Sha512::digest(&body)),
            );
            let start = format!("POST /v1/logs/log HTTP/1.1\r\nHost: h\r\n{digests}");
            let mut other = body.clone();
            if let Some(byte) = other.last_mut() {
                *byte ^= 1;
            }
            // 6 bodies of 3 MiB do not fit into 16 MiB.
            for is_chunked in [false, true].repeat(3) {
                let with = |body: &[u8]| {
                    let head = if is_chunked {
                        "Transfer-Encoding: chunked".into()
                    } else {
                        format!("Content-Length: {len}")
                    };
                    let mut request = format!("{start}{head}\r\n\r\n").into_bytes();
                    if is_chunked {
                        for chunk in body.chunks(100_000) {
                            request.extend(format!("{:x}\r\n", chunk.len()).bytes());
                            request.extend_from_slice(chunk);
                            request.extend(b"\r\n");
                        }
                        request.extend(b"0\r\n\r\n");
                    } else {
                        request.extend_from_slice(body);
                    }
                    request
                };
                if len > 0 {
                    let reply = rig.once(with(&other));
                    assert_eq!(reply.status, 400, "{len} bytes on {kind:?}: {}", reply.text());
                }
                let reply = rig.once(with(&body));
                assert_eq!(reply.status, 201, "{len} bytes on {kind:?}: {}", reply.text());
                let next = reply.field("Location").rsplit('/').next().unwrap().to_owned();
                assert!(rig.once(ask("GET", &format!("/v1/logs/log/{next}"))).body == body);
                let next: u64 = next.parse().unwrap();
                let trim = format!("/v1/logs/log?before={}", next + 1);
                assert_eq!(rig.once(ask("DELETE", &trim)).status, 200);
            }
        }
    }
}

#[test]
fn a_digest_of_what_is_sent_comes_with_it() {
    let mut rig = Rig::new(MEDIA[0], 16);
    rig.append("log", b"hello");
    rig.append("log", b"xhello");
    let want = "Want-Content-Digest: sha-512=1, sha-256=5\r\n";
    let reply = get(&mut rig, "/v1/logs/log/1", want);
    assert_eq!(reply.field("Content-Digest"), SHA_256);
    let part = get(&mut rig, "/v1/logs/log/2", &format!("{want}Range: bytes=1-\r\n"));
    assert_eq!((part.status, part.field("Content-Digest")), (206, SHA_256));
    let none = get(&mut rig, "/v1/logs/log/1", "Want-Content-Digest: md5=1\r\n");
    assert_eq!(none.field("Content-Digest"), "");
}

/// Sends what must not have an effect, nor a request behind it.
fn is_refused(rig: &mut Rig, request: &str, status: u16) {
    let reply = rig.once(request);
    let shown = &request[..request.len().min(200)];
    assert_eq!(reply.status, status, "{shown:?}: {}", reply.text());
    assert!(reply.has("Connection: close"), "{shown:?}");
    assert_eq!(reply.field("Content-Type"), "application/problem+json", "{shown:?}");
}

/// Two readers that find two ends let one request be smuggled inside another.
#[test]
fn shapes_that_smuggle_are_refused() {
    let post = "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\n";
    let long = "x".repeat(9000);
    let mut rig = Rig::new(MEDIA[0], 16);
    for (request, status) in [
        (format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: 5, 5\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: 5,6\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: 0x5\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: 5 5\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: \r\n\r\nhello"), 400),
        (format!("{post}Content-Length : 5\r\n\r\nhello"), 400),
        (format!("{post}Content-Length\t: 5\r\n\r\nhello"), 400),
        (format!("{post}Content-Length: 5\r\n X: y\r\n\r\nhello"), 400),
        (format!("{post}X: y\r\n\tContent-Length: 5\r\n\r\nhello"), 400),
        (format!("{post} X: y\r\n\r\n"), 400),
        (format!("{post}X: a\0b\r\n\r\n"), 400),
        (format!("{post}X: a\rb\r\n\r\n"), 400),
        (format!("{post}X: a\nContent-Length: 5\r\n\r\nhello"), 400),
        (format!("{post}X\0: y\r\n\r\n"), 400),
        (format!("{post}: y\r\n\r\n"), 400),
        (format!("{post}Content-Length: 5\n\nhello"), 400),
        ("GET /livez HTTP/1.1\nHost: h\n\n".into(), 400),
        ("GET /livez HTTP/1.1\nHost: h\r\n\r\n".into(), 400),
        ("GET  /livez HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1 \r\nHost: h\r\n\r\n".into(), 400),
        ("GET /livez\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400),
        ("GET /livez HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), 400),
        ("GET /livez HTTP/2.0\r\nHost: h\r\n\r\n".into(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("POST /v1/logs/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        (format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), 400),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (format!("GET /{long}"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}{long}\r\n\r\n"), 431),
    ] {
        is_refused(&mut rig, &request, status);
    }
    assert_eq!(rig.once(ask("GET", "/v1/logs/a")).status, 404, "nothing was appended");
    // What is odd, and has one meaning.
    for request in [
        format!("{post}content-length:5\r\n\r\nhello"),
        format!("\r\n\r\n{post}Content-Length: 5\r\n\r\nhello"),
        "POST http://h/v1/logs/a HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 1\r\n\r\nx".into(),
        "POST /v1/logs/a HTTP/1.1\r\nHost:\r\nContent-Length: 1\r\n\r\nx".into(),
        "POST /v1/logs/a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx".into(),
        format!(
            "{post}Transfer-Encoding: chunked\r\n\r\n5 ; a=b\r\nhello\r\n00\r\nTrailer: x\r\n\r\n"
        ),
    ] {
        assert_eq!(rig.once(&request).status, 201, "{request:?}");
    }
}

#[test]
fn chunks_that_smuggle_are_refused() {
    let chunked = "POST /v1/logs/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut rig = Rig::new(MEDIA[0], 16);
    for (request, status) in [
        (format!("{chunked}5\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}5\r\nhello\n0\r\n\r\n"), 400),
        (format!("{chunked}5\r\nhello\r\n0\n\n"), 400),
        (format!("{chunked}5\r\nhello!\r\n0\r\n\r\n"), 400),
        (format!("{chunked}-5\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}+5\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}0x5\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked} 5\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}10000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
        (format!("{chunked}0\r\nX: a\0\r\n\r\n"), 400),
    ] {
        is_refused(&mut rig, &request, status);
    }
    assert_eq!(rig.once(ask("GET", "/v1/logs/a")).status, 404, "nothing was appended");
}

#[test]
fn a_record_is_read_on_its_terms_after_a_restart() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        let value = value(70_000, 1);
        rig.append("log", &value);
        let mut rig = rig.restart(kind);
        let flow = rig.open();
        rig.peer.push(flow, &post("log", b"x"));
        let tag = etag(1, &value);
        let reply = get(&mut rig, "/v1/logs/log/1", &format!("If-None-Match: {tag}\r\n"));
        assert_eq!(reply.status, 304);
        let mut rig = rig.restart(kind);
        let reply = get(&mut rig, "/v1/logs/log/1", "Range: bytes=-3\r\n");
        assert!(reply.status == 206 && reply.body == value[value.len() - 3..]);
    }
}

/// What an operator is shown has to add up, on every medium and after a failure.
#[test]
fn the_region_is_shown_in_numbers() {
    for kind in MEDIA {
        let mut rig = Rig::new(kind, 16);
        rig.append("log", &value(300_000, 1));
        rig.once(ask("GET", "/v1/logs/log/1"));
        rig.once(ask("GET", "/v1/logs/log/2"));
        let text = rig.once(ask("GET", "/v1/region")).text();
        let number = |name: &str| -> u64 {
            let rest = text.split(&format!("\"{name}\":")).nth(1).unwrap();
            rest.split([',', '}']).next().unwrap().parse().unwrap()
        };
        assert!(text.contains(&format!("{{\"medium\":\"{}\",", kind.name())), "{text}");
        let buffers = ["free", "log", "landing", "kept"].map(number);
        // Two superblocks and the rest of their segments are no buffers.
        assert_eq!(buffers.iter().sum::<u64>() / 4, 15, "{text}");
        assert!(buffers[3] >= 2, "{text}");
        assert_eq!((number("logs"), number("connections")), (1, 1), "{text}");
        assert_eq!(number("durable_lsn"), number("last_lsn"));

        let metrics = rig.once(ask("GET", "/metrics"));
        assert_eq!(metrics.field("Content-Type"), "text/plain; version=0.0.4");
        let text = metrics.text();
        for line in [
            "impasto_requests_total{kind=\"append\",class=\"2xx\"} 1",
            "impasto_requests_total{kind=\"read\",class=\"2xx\"} 1",
            "impasto_requests_total{kind=\"read\",class=\"4xx\"} 1",
            "impasto_requests_total{kind=\"other\",class=\"2xx\"} 1",
            "impasto_logs 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let sent = text.lines().find_map(|line| line.strip_prefix("impasto_sent_bytes_total "));
        let transmitted = rig.tap.transmitted.get() - (metrics.head.len() + 4 + text.len()) as u64;
        assert_eq!(sent.unwrap().parse(), Ok(transmitted));
    }
}
