// fetch of Node against the server at argv[2].
import assert from "node:assert/strict";

const logs = `http://${process.argv[2]}/v1/logs`;
const ask = async (target, options, status = 200) => {
    const response = await fetch(logs + target, options);
    const body = Buffer.from(await response.arrayBuffer());
    assert.equal(response.status, status, `${target}: ${body}`);
    return { headers: response.headers, body, text: body.toString() };
};

const created = await ask("/js", { method: "POST", body: "hello" }, 201);
assert.equal(created.headers.get("location"), "/v1/logs/js/1");
const tag = created.headers.get("etag");

// A stream goes in chunks.
const stream = new ReadableStream({
    start(controller) {
        for (let n = 0; n < 100; n++) controller.enqueue(new Uint8Array(1000).fill(n));
        controller.close();
    },
});
await ask("/js", { method: "POST", body: stream, duplex: "half" }, 201);
const long = (await ask("/js/2")).body;
assert.equal(long.length, 100_000);
assert.equal(long[99_999], 99);

const part = await ask("/js/1", { headers: { range: "bytes=1-3" } }, 206);
assert.equal(part.text, "ell");
await ask("/js/1", { headers: { "if-none-match": tag }, cache: "no-store" }, 304);
const lines = await ask("/js?from=1", { headers: { accept: "application/x-ndjson" } });
const [first, second] = lines.text.trim().split("\n").map((line) => JSON.parse(line));
assert.deepEqual(first, { seq: 1, bytes: 5, text: "hello" });
assert.equal(second.href, "/v1/logs/js/2");

const gone = await ask("/js/9", {}, 404);
assert.equal(JSON.parse(gone.text).next, 3);
// Many at once share connections.
await Promise.all(Array.from({ length: 200 }, () => ask("/js/1")));
const foreign = { method: "POST", body: "x", headers: { origin: "http://example.org" } };
assert.equal(JSON.parse((await ask("/js", foreign, 403)).text).type, "/problems/origin");
