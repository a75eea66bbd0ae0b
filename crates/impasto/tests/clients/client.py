"""Python's http.client against the server at argv[1]."""

import hashlib, base64, http.client, json, sys, zlib

server = sys.argv[1]
connection = http.client.HTTPConnection(server, timeout=30)


def ask(method, target, body=None, headers={}, status=200):
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    content = response.read()
    assert response.status == status, (method, target, response.status, content)
    return response.headers, content


# One connection for all of it: kept alive, over errors too.
headers, _ = ask("POST", "/v1/logs/py", b"first", status=201)
socket = connection.sock
assert headers["Location"] == "/v1/logs/py/1"
tag = headers["ETag"]

# In chunks, as http.client sends what it does not know the length of.
pieces = [b"a" * 1000, b"b" * 70000, b"c"]
ask("POST", "/v1/logs/py", iter(pieces), status=201)
long = b"".join(pieces)
headers, content = ask("GET", "/v1/logs/py/2")
assert content == long

headers, content = ask("GET", "/v1/logs/py/2", headers={"Range": "bytes=999-1001"}, status=206)
assert content == b"abb" and headers["Content-Range"] == f"bytes 999-1001/{len(long)}"
headers, _ = ask("GET", "/v1/logs/py/2", headers={"Range": f"bytes={len(long)}-"}, status=416)
assert headers["Content-Range"] == f"bytes */{len(long)}"
ask("GET", "/v1/logs/py/1", headers={"If-None-Match": tag}, status=304)
ask("GET", "/v1/logs/py/1", headers={"If-Match": '"1-0000000000000000"'}, status=412)

digest = lambda value: "sha-256=:" + base64.b64encode(hashlib.sha256(value).digest()).decode() + ":"
ask("POST", "/v1/logs/py", b"third", {"Content-Digest": digest(b"third")}, 201)
headers, content = ask("POST", "/v1/logs/py", b"3rd", {"Content-Digest": digest(b"third")}, 400)
assert headers["Content-Type"] == "application/problem+json"
assert json.loads(content)["type"] == "/problems/digest"
headers, content = ask("GET", "/v1/logs/py/3", headers={"Want-Content-Digest": "sha-256=1"})
assert headers["Content-Digest"] == digest(content)

# The example of docs/http.md.
example = {}
exec(open(sys.argv[2]).read().split("```python\n")[1].split("```")[0], example)
assert list(example["records"](server, "py")) == [(1, b"first"), (2, long), (3, b"third")]

headers, content = ask("GET", "/v1/logs/py?limit=9", headers={"Accept": "application/jsonl"})
lines = [json.loads(line) for line in content.splitlines()]
assert lines[0] == {"seq": 1, "bytes": 5, "text": "first"}
assert lines[1] == {"seq": 2, "bytes": len(long), "href": "/v1/logs/py/2"}
assert headers["Impasto-Next"] == "4"

_, content = ask("DELETE", "/v1/logs/py?before=3")
assert json.loads(content) == {"first": 3, "next": 4, "records": 1, "bytes": 5}
_, content = ask("GET", "/v1/logs/py/1", status=410)
assert json.loads(content)["first"] == 3
headers, content = ask("HEAD", "/v1/logs/py/3")
assert headers["Content-Length"] == "5" and content == b""
assert json.loads(ask("GET", "/v1/region")[1])["read_only"] is False
assert connection.sock is socket, "the connection was kept"
