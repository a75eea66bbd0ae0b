//! HTTP clients on the far side of a `loop` port.

use std::collections::VecDeque;

use impasto_ring::{FlowId, LoopPeer};

/// A reply, as far as the checker looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Nothing that was sent behind the request is answered.
    pub(crate) closes: bool,
}

/// A client with pipelined requests.
#[derive(Debug)]
pub(crate) struct Client {
    peer: LoopPeer,
    flow: FlowId,
    received: Vec<u8>,
    replies: VecDeque<Reply>,
}

impl Client {
    pub(crate) fn open(peer: &LoopPeer) -> Self {
        let flow = peer.open().expect("the port accepts");
        Self { peer: peer.clone(), flow, received: Vec::new(), replies: VecDeque::new() }
    }

    /// Opens another connection, where this one was.
    pub(crate) fn reopen(&mut self) {
        *self = Self::open(&self.peer);
    }

    pub(crate) fn send(&self, request: &[u8]) {
        if !self.peer.is_closed(self.flow) {
            self.peer.push(self.flow, request);
        }
    }

    /// Returns the next reply that has arrived whole.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        self.received.extend(self.peer.take_sent(self.flow));
        while let Some((reply, bytes)) = parse(&self.received) {
            self.received.drain(..bytes);
            self.replies.push_back(reply);
        }
        self.replies.pop_front()
    }
}

fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).expect("the server speaks HTTP") {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return None,
    };
    let field = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| String::from_utf8(header.value.to_vec()).unwrap())
    };
    let len = field("content-length").map_or(0, |len| len.parse::<usize>().unwrap());
    let body = bytes.get(head..head + len)?.to_vec();
    let status = response.code.expect("a whole head has a status");
    let closes = field("connection").is_some_and(|option| option == "close");
    Some((Reply { status, location: field("location"), body, closes }, head + len))
}
