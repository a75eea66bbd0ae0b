//! docs/openapi.yaml against the server: whoever generates a client from it gets what it says.
#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::Shutdown,
};

use common::{Server, place};
use impasto::server::http::{Problem, ROUTES};
use yaml_rust2::{Yaml, YamlLoader};

const TEXT: &str = include_str!("../../../docs/openapi.yaml");
const HTTP: &str = include_str!("../../../docs/http.md");

/// What takes a medium that fails, damage, or a region that is full: asked for in the server's
/// tests `lasting` and `batches`, and in `full`.
const ELSEWHERE: [&str; 3] = ["500", "503", "507"];

/// The document.
struct Api(Yaml);

impl Api {
    fn read() -> Self {
        Self(YamlLoader::load_from_str(TEXT).unwrap().remove(0))
    }

    /// Returns what `node` is, or what it refers to.
    fn resolved<'a>(&'a self, node: &'a Yaml) -> &'a Yaml {
        let Some(reference) = node["$ref"].as_str() else { return node };
        let path = reference.strip_prefix("#/").unwrap();
        let found = path.split('/').fold(&self.0, |node, key| &node[key]);
        assert!(!found.is_badvalue(), "{reference} is nowhere");
        self.resolved(found)
    }

    /// Returns path, method and responses of every operation.
    fn operations(&self) -> Vec<(String, String, &Yaml)> {
        let paths = self.0["paths"].as_hash().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            let methods = item.as_hash().unwrap().iter();
            let methods = methods.filter(|(method, _)| method.as_str() != Some("parameters"));
            methods.map(|(method, operation)| {
                let method = method.as_str().unwrap().to_uppercase();
                (path.as_str().unwrap().to_owned(), method, &operation["responses"])
            })
        });
        operations.collect()
    }

    /// Says what of `value` is not as `schema` has it.
    fn fault(&self, schema: &Yaml, value: &Yaml) -> Option<String> {
        let schema = self.resolved(schema);
        let is_of_type = match schema["type"].as_str() {
            Some("object") => value.as_hash().is_some(),
            Some("array") => value.as_vec().is_some(),
            Some("string") => value.as_str().is_some(),
            Some("integer") => value.as_i64().is_some(),
            Some("boolean") => value.as_bool().is_some(),
            None => true,
            other => panic!("{other:?} is not known here"),
        };
        let allowed = schema["enum"].as_vec();
        let is_const = schema["const"].is_badvalue() || schema["const"] == *value;
        if !is_of_type || !is_const || allowed.is_some_and(|allowed| !allowed.contains(value)) {
            return Some(format!("{value:?} is not {schema:?}"));
        }
        for required in schema["required"].as_vec().into_iter().flatten() {
            if value[required.as_str().unwrap()].is_badvalue() {
                return Some(format!("{required:?} is missing in {value:?}"));
            }
        }
        for (name, member) in value.as_hash().into_iter().flatten() {
            let property = &schema["properties"][name.as_str().unwrap()];
            if property.is_badvalue() {
                return Some(format!("{name:?} is not documented"));
            }
            if let Some(fault) = self.fault(property, member) {
                return Some(fault);
            }
        }
        value.as_vec().into_iter().flatten().find_map(|item| self.fault(&schema["items"], item))
    }
}

struct Answer {
    status: String,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        self.fields.get(&name.to_ascii_lowercase()).map_or("", String::as_str)
    }
}

fn ask(server: &Server, method: &str, target: &str, more: &str) -> Answer {
    let (fields, body) = more.split_once("\r\n\r\n").unwrap_or((more, ""));
    let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
    let mut stream = server.connect();
    write!(stream, "{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let fields = head.lines().skip(1).map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let (status, fields) = (head[9..12].to_owned(), fields.collect());
    Answer { status, fields, body: bytes[end + 4..].to_vec() }
}

/// Requests that get each status: method, path, parameters, what follows the request line.
const REQUESTS: &[(&str, &str, &str, &str, &str)] = &[
    ("POST", "/v1/logs/{log}", "/a", "Content-Length: 5\r\n\r\nhello", "201"),
    ("POST", "/v1/logs/{log}", "/a", "Content-Length: 3\r\n\r\n\u{e4}x", "201"),
    ("POST", "/v1/logs/{log}", "/a", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "201"),
    ("POST", "/v1/logs/{log}", "/a:b", "Content-Length: 0", "400"),
    ("POST", "/v1/logs/{log}", "/a", "Content-Digest: x\r\nContent-Length: 0", "400"),
    ("POST", "/v1/logs/{log}", "/a", "", "411"),
    ("POST", "/v1/logs/{log}", "/a", "If-Match: *\r\nContent-Length: 0", "412"),
    ("POST", "/v1/logs/{log}", "/a", "Content-Length: 99999999", "413"),
    ("POST", "/v1/logs/{log}", "/a", "Origin: http://x\r\nContent-Length: 0", "403"),
    ("POST", "/v1/logs/{log}", "/a", "Expect: x\r\nContent-Length: 0", "417"),
    ("POST", "/v1/logs/{log}", "/a", "Transfer-Encoding: gzip, chunked", "501"),
    ("PUT", "/v1/logs/{log}", "/a", "", "405"),
    ("GET", "/v1/logs/{log}", "/a", "", "200"),
    ("GET", "/v1/logs/{log}", "/a?from=1", "", "200"),
    ("GET", "/v1/logs/{log}", "/a?limit=2", "Accept: application/jsonl", "200"),
    ("GET", "/v1/logs/{log}", "/a?limit=2", "Accept: application/x-ndjson", "200"),
    ("GET", "/v1/logs/{log}", "/a?limit=2", "Accept: text/html", "406"),
    ("GET", "/v1/logs/{log}", "/a?from=9", "", "404"),
    ("GET", "/v1/logs/{log}", "/a?limit=0", "", "400"),
    ("GET", "/v1/logs/{log}", "/none", "", "404"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "", "200"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "Want-Content-Digest: sha-512=1", "200"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "Range: bytes=1-3", "206"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "Range: bytes=5-", "416"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "If-None-Match: *", "304"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "If-Match: \"x\"", "412"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/4", "", "404"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/x", "", "400"),
    ("DELETE", "/v1/logs/{log}", "/a?before=3", "", "200"),
    ("DELETE", "/v1/logs/{log}", "/a", "", "400"),
    ("DELETE", "/v1/logs/{log}", "/none?before=3", "", "404"),
    ("DELETE", "/v1/logs/{log}", "/a?before=3", "If-Match: *", "412"),
    ("GET", "/v1/logs/{log}", "/a?from=1", "", "410"),
    ("GET", "/v1/logs/{log}/{seq}", "/a/1", "", "410"),
    ("GET", "/v1/logs", "", "", "200"),
    ("GET", "/v1/region", "", "", "200"),
    ("GET", "/metrics", "", "", "200"),
    ("GET", "/version", "", "", "200"),
    ("GET", "/livez", "", "", "200"),
    ("GET", "/readyz", "", "", "200"),
];

#[test]
fn every_answer_is_one_that_is_documented() {
    let (api, dir) = (Api::read(), place());
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let operations = api.operations();
    let mut seen = BTreeSet::new();
    for (method, path, parameters, more, status) in REQUESTS {
        let target = match path.split_once("/{log}") {
            Some((start, _)) => format!("{start}{parameters}"),
            None => (*path).to_owned(),
        };
        let answer = ask(&server, method, &target, more);
        let what = format!("{method} {target} {more:?}");
        assert_eq!(answer.status, *status, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let is_operation = |(at, of, _): &&(String, String, &Yaml)| at == path && of == method;
        let responses = operations.iter().find(is_operation).map_or_else(
            || &operations[0].2["default"],
            |(_, _, responses)| {
                seen.insert(((*path).to_owned(), (*method).to_owned(), answer.status.clone()));
                let response = &responses[answer.status.as_str()];
                if response.is_badvalue() { &responses["default"] } else { response }
            },
        );
        check(&api, api.resolved(responses), &answer, &what);
        // Only a GET has ranges (RFC 9110, 14.2), and a digest.
        if *method == "GET" && !more.contains("Range: ") && !more.contains("Digest: ") {
            let head = ask(&server, "HEAD", &target, more);
            let volatile = ["/metrics", "/v1/region"].contains(path);
            assert!(head.body.is_empty() && (volatile || head.fields == answer.fields), "{what}");
        }
    }
    for (path, method, responses) in &operations {
        let statuses = responses.as_hash().unwrap().keys().map(|status| status.as_str().unwrap());
        for status in statuses.filter(|status| *status != "default") {
            let key = (path.clone(), method.clone(), status.to_owned());
            let is_seen = ELSEWHERE.contains(&status) || seen.contains(&key);
            assert!(is_seen, "{method} {path} is never answered {status}");
        }
    }
}

/// Compares an answer with what is documented of it.
fn check(api: &Api, response: &Yaml, answer: &Answer, what: &str) {
    for (name, header) in response["headers"].as_hash().into_iter().flatten() {
        let value = answer.field(name.as_str().unwrap());
        let header = api.resolved(header);
        let is_required = header["required"].as_bool().unwrap_or(false);
        assert!(!is_required || !value.is_empty(), "{what}: no {name:?}");
        if !value.is_empty() && header["schema"]["type"].as_str() != Some("integer") {
            let value = Yaml::String(value.to_owned());
            assert_eq!(api.fault(&header["schema"], &value), None, "{what}");
        }
    }
    let media_type = answer.field("Content-Type").split(';').next().unwrap();
    let Some(content) = response["content"].as_hash() else {
        assert!(media_type.is_empty() && answer.body.is_empty(), "{what}: a body");
        return;
    };
    let schema = content.get(&Yaml::String(media_type.to_owned()));
    let schema =
        &schema.unwrap_or_else(|| panic!("{what}: {media_type} is not documented"))["schema"];
    let documents = match media_type {
        "application/json" | "application/problem+json" => vec![&answer.body[..]],
        "application/jsonl" | "application/x-ndjson" => {
            answer.body.split_inclusive(|byte| *byte == b'\n').collect()
        }
        _ => return,
    };
    assert!(!documents.is_empty());
    for document in documents {
        // YAML contains JSON.
        let text = std::str::from_utf8(document).unwrap();
        let value = YamlLoader::load_from_str(text).unwrap().remove(0);
        assert_eq!(api.fault(schema, &value), None, "{what}: {text}");
        if media_type == "application/problem+json" {
            assert_eq!(value["status"].as_i64().unwrap().to_string(), answer.status, "{what}");
        }
    }
}

/// A route that is not documented is found by nobody, or by the wrong one.
#[test]
fn every_route_and_every_problem_is_documented() {
    let (api, dir) = (Api::read(), place());
    let documented: BTreeSet<_> =
        api.operations().into_iter().map(|(path, method, _)| (path, method)).collect();
    let server = Server::start(dir.path(), &["--size", "16MiB"]);
    let mut routed = BTreeSet::new();
    for (path, methods) in ROUTES {
        let target = path.replace("{log}", "a").replace("{seq}", "1");
        let answer = ask(&server, "OPTIONS", &target, "");
        assert_eq!((answer.status.as_str(), answer.field("Allow")), ("204", methods), "{path}");
        let implied = ["HEAD", "OPTIONS"];
        let methods = methods.split(", ").filter(|method| !implied.contains(method));
        routed.extend(methods.map(|method| (path.to_owned(), method.to_owned())));
    }
    assert_eq!(documented, routed);

    let problems = &api.0["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
    let documented: Vec<_> =
        problems.as_vec().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
    assert_eq!(documented, Problem::ALL.map(Problem::reference));
    for problem in documented {
        assert!(HTTP.contains(problem), "docs/http.md does not know {problem}");
    }
    assert_eq!(api.0["info"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
}
