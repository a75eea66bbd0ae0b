//! Heads: what is understood, what is refused, and that the end is found wherever they are cut.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use impasto_server::{
    config::HEAD_BYTES_MAX,
    http::{Call, Framing, Head, Link, LogName, Status, parse},
};

fn log(name: &str) -> LogName {
    LogName::new(name).unwrap()
}

fn head(text: &str) -> Head {
    parse(text.as_bytes()).unwrap().unwrap()
}

fn call(method: &str, target: &str) -> Result<Call, Status> {
    head(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"))
        .call
        .map_err(|fault| fault.status)
}

fn refusal(text: &str) -> Status {
    parse(text.as_bytes()).unwrap_err().status
}

#[test]
fn targets_are_calls() {
    assert_eq!(call("POST", "/v1/logs/orders"), Ok(Call::Append(log("orders"))));
    assert_eq!(call("GET", "/v1/logs/a.b_c-9/17"), Ok(Call::Read(log("a.b_c-9"), 17)));
    assert_eq!(call("HEAD", "/v1/logs/a/1"), Ok(Call::Read(log("a"), 1)));
    assert_eq!(call("GET", "/v1/logs/a?x=y"), Ok(Call::Describe(log("a"))));
    assert_eq!(call("GET", "/v1/logs"), Ok(Call::List));
    assert_eq!(call("DELETE", "/v1/logs/a?x=1&before=5"), Ok(Call::Trim(log("a"), 5)));
    assert_eq!(call("DELETE", "/v1/logs/a?before=0"), Ok(Call::Trim(log("a"), 0)));
    assert_eq!(call("GET", "/livez"), Ok(Call::Live));
    assert_eq!(call("GET", "/readyz"), Ok(Call::Ready));
    assert_eq!(call("GET", "http://host:80/v1/logs"), Ok(Call::List));
    let last = format!("/v1/logs/a/{}", u64::MAX);
    assert_eq!(call("GET", &last), Ok(Call::Read(log("a"), u64::MAX)));
}

/// A proxy that guards `/v1/logs/a` looks at the path, and finds none in what stands in a query.
/// RFC 9112, 3.2.2: the host in the target counts, for whoever compares it with `Origin`.
#[test]
fn a_target_in_absolute_form_has_the_host_in_it_and_the_path_behind_it() {
    for target in ["http://h?/v1/logs/a", "http://h#/v1/logs/a", "HTTP://h?x=/v1/logs"] {
        assert_eq!(call("GET", target), Err(Status::NotFound), "{target}");
    }
    for target in ["http:///v1/logs/a", "http://u:p@h/v1/logs/a", "http://h\\x/v1/logs", "http://"]
    {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(refusal(&text), Status::BadRequest, "{target}");
    }
    let origin = |target: &str| {
        let fields = "HTTP/1.1\r\nHost: h\r\nOrigin: http://h";
        head(&format!("GET {target} {fields}\r\n\r\n")).terms.and_then(|terms| terms.origin)
    };
    assert_eq!(origin("http://H/livez"), None);
    assert_eq!(origin("http://other/livez").as_deref(), Some("http://h"));
}

/// A path that looks like another one must not be taken for it.
#[test]
fn other_targets_are_none() {
    for (method, target, status) in [
        ("GET", "/", Status::NotFound),
        ("GET", "/v1/log", Status::NotFound),
        ("GET", "/v1/logs/a/1/", Status::NotFound),
        ("GET", "//v1/logs", Status::NotFound),
        ("GET", "http://host", Status::NotFound),
        ("OPTIONS", "/x", Status::NotFound),
        ("GET", "*", Status::NotFound),
        ("GET", "/v1/logs/", Status::BadRequest),
        ("GET", "/v1/logs/a%2Fb", Status::BadRequest),
        ("GET", "/v1/logs/..%2F", Status::BadRequest),
        ("GET", "/v1/logs/a/-1", Status::BadRequest),
        ("GET", "/v1/logs/a/", Status::BadRequest),
        ("GET", "/v1/logs/a/18446744073709551616", Status::BadRequest),
        ("DELETE", "/v1/logs/a", Status::BadRequest),
        ("DELETE", "/v1/logs/a?before=", Status::BadRequest),
        ("POST", "/v1/logs/a/1", Status::MethodNotAllowed),
        ("DELETE", "/livez", Status::MethodNotAllowed),
        ("get", "/livez", Status::MethodNotAllowed),
    ] {
        assert_eq!(call(method, target), Err(status), "{method} {target}");
    }
    let longest = "n".repeat(128);
    assert!(LogName::new(&longest).is_some() && LogName::new(&(longest + "n")).is_none());
    assert!(LogName::new("").is_none() && LogName::new("\u{e4}").is_none());
}

#[test]
fn the_end_is_found_wherever_a_head_is_cut() {
    let text = "POST /v1/logs/a HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhello";
    let end = text.len() - 5;
    for cut in 0..text.len() {
        let parsed = parse(&text.as_bytes()[..cut]).unwrap();
        assert_eq!(parsed.is_some(), cut >= end, "cut at {cut}");
        assert!(parsed.is_none_or(|head| head.bytes == end && head.framing == Framing::Length(5)));
    }
}

#[test]
fn a_length_is_said_once_and_plainly() {
    let of = |fields: &str| format!("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    assert_eq!(head(&of("content-LENGTH:  7 \r\n")).framing, Framing::Length(7));
    assert_eq!(head(&of("")).framing, Framing::None);
    for fields in [
        "Content-Length: 7\r\nContent-Length: 8\r\n",
        "Content-Length: 7\r\nContent-Length: 7\r\n",
        "Content-Length: 7, 7\r\n",
        "Content-Length: -7\r\n",
        "Content-Length: 0x7\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length : 7\r\n",
    ] {
        assert_eq!(refusal(&of(fields)), Status::BadRequest, "{fields}");
    }
}

/// RFC 9112, 6.1 and 6.3: a proxy in front that finds another end of the body than we do lets one
/// request be smuggled inside another.
#[test]
fn chunked_stands_alone() {
    let of = |fields: &str| format!("POST /v1/logs/a HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    for field in ["Transfer-Encoding: chunked\r\n", "transfer-ENCODING: \tChunked \r\n"] {
        assert_eq!(head(&of(field)).framing, Framing::Chunked, "{field}");
    }
    for fields in [
        "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
    ] {
        assert_eq!(refusal(&of(fields)), Status::BadRequest, "{fields}");
    }
    assert_eq!(refusal(&of("Transfer-Encoding: gzip, chunked\r\n")), Status::NotImplemented);
    let old = "POST /v1/logs/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refusal(old), Status::BadRequest);
}

#[test]
fn fields_say_what_becomes_of_the_connection() {
    let link = |version: &str, field: &str| {
        head(&format!("GET /livez HTTP/{version}\r\nHost: h\r\n{field}\r\n")).link
    };
    assert_eq!(link("1.1", ""), Link::Stay);
    assert_eq!(link("1.1", "Connection: keep-alive, CLOSE\r\n"), Link::Close);
    assert_eq!(link("1.0", ""), Link::Close);
    assert_eq!(link("1.0", "Connection: Keep-Alive\r\n"), Link::StayOld);
}

#[test]
fn only_one_expectation_is_known() {
    let with = |version: &str, value: &str| {
        head(&format!("POST /v1/logs/a HTTP/{version}\r\nHost: h\r\nExpect: {value}\r\n\r\n"))
    };
    assert!(with("1.1", "100-Continue").expects_continue);
    assert!(!with("1.0", "100-continue").expects_continue);
    assert_eq!(with("1.1", "more").call.unwrap_err().status, Status::ExpectationFailed);
}

#[test]
fn heads_have_limits() {
    let fill = |bytes: usize| {
        let start = "GET /livez HTTP/1.1\r\nHost: h\r\nA: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    assert_eq!(head(&fill(HEAD_BYTES_MAX)).bytes, HEAD_BYTES_MAX);
    assert_eq!(refusal(&fill(HEAD_BYTES_MAX + 1)), Status::HeadTooLong);
    let fields =
        |count| format!("GET /livez HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(head(&fields(99)).call, Ok(Call::Live));
    assert_eq!(refusal(&fields(100)), Status::HeadTooLong);
}

/// A peer's bytes never panic: each byte of a good head, replaced by each other byte.
#[test]
fn no_byte_of_a_peer_panics() {
    let text = *b"POST /v1/logs/a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\
                  Expect: 100-continue\r\nRange: bytes=1-2\r\nContent-Digest: md5=:A:\r\n\r\n";
    for at in 0..text.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = text;
            bytes[at] = byte;
            if let Ok(Some(head)) = parse(&bytes) {
                assert!(head.bytes <= bytes.len());
            }
        }
    }
}
