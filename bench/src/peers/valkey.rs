//! Valkey: Redis as it is kept by others, with the same settings.

use super::{Found, Peer, redis};

pub(super) const PEER: Peer = Peer {
    name: "valkey",
    install: "apt-get install valkey-server (Debian 12: apt-get install -t bookworm-backports \
              valkey-server)",
    find: || Found::in_path("valkey-server", &["--version"]),
    ..redis::PEER
};
