//! Where a load goes: a scheme, a server, and what else it needs.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use crate::client::Dialect;

/// A server, and how it is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) address: SocketAddr,
    /// Of HTTP: what is posted to.
    pub(crate) path: String,
    user: Option<(String, Option<String>)>,
}

/// What can be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Redis,
    Memcache,
    Beanstalk,
    Postgres,
    Etcd,
}

impl Scheme {
    const ALL: [(&'static str, Self, u16); 6] = [
        ("http", Self::Http, 80),
        ("redis", Self::Redis, 6379),
        ("memcache", Self::Memcache, 11211),
        ("beanstalk", Self::Beanstalk, 11300),
        ("postgres", Self::Postgres, 5432),
        ("etcd", Self::Etcd, 2379),
    ];
}

impl Target {
    /// Returns how keyed work is said there; the first record of a log is not known yet.
    pub(crate) fn dialect(&self) -> Dialect {
        match self.scheme {
            Scheme::Http => Dialect::Records { log: self.path.as_str().into(), first: 1 },
            Scheme::Redis => Dialect::Resp { auth: self.auth() },
            Scheme::Memcache => Dialect::Memcache,
            Scheme::Beanstalk => Dialect::Beanstalk,
            Scheme::Postgres => {
                let user = self.user.as_ref().map_or("postgres", |(user, _)| user);
                let database = self.path.trim_start_matches('/');
                let database = if database.is_empty() { user } else { database };
                Dialect::Postgres { user: user.into(), database: database.into(), creates: false }
            }
            Scheme::Etcd => Dialect::Etcd,
        }
    }

    fn auth(&self) -> Option<Arc<[String]>> {
        let (user, password) = self.user.as_ref()?;
        let words = [Some(user), password.as_ref()].into_iter().flatten();
        Some(words.filter(|word| !word.is_empty()).cloned().collect())
    }
}

/// Parses `SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    const FORM: &str = "write it like http://127.0.0.1:8080/path or redis://localhost:6379";
    let known = || {
        let names = Scheme::ALL.map(|(name, ..)| format!("{name}://"));
        format!("known are {}; {FORM}", names.join(", "))
    };
    let (name, rest) = text.split_once("://").ok_or_else(known)?;
    let found = Scheme::ALL.into_iter().find(|(known, ..)| *known == name);
    let (_, scheme, port) = found.ok_or_else(|| format!("no scheme {name}://: {}", known()))?;
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(FORM.into());
    }
    let (user, host) = match place.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, place),
    };
    let user = user.map(|user| match user.split_once(':') {
        Some((user, password)) => (user.to_owned(), Some(password.to_owned())),
        None => (user.to_owned(), None),
    });
    // An address of IPv6 has colons of its own, in brackets.
    let has_port = host.rfind(':') > host.rfind(']');
    let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
    let mut found = host.to_socket_addrs().map_err(|error| format!("{error}; {FORM}"))?;
    let address = found.next().ok_or_else(|| format!("no such host; {FORM}"))?;
    let has_path = path.len() > 1 || scheme != Scheme::Http;
    let path = if has_path { path } else { DEFAULT_PATH };
    Ok(Target { scheme, address, path: path.to_owned(), user })
}

/// A log of Impasto.
const DEFAULT_PATH: &str = "/v1/logs/load";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_people_write_it() {
        let found = target("http://127.0.0.1:8080/a/b").unwrap();
        assert_eq!((found.address.port(), found.path.as_str()), (8080, "/a/b"));
        assert_eq!(target("http://[::1]:1/").unwrap().path, DEFAULT_PATH);
        assert_eq!(target("http://[::1]").unwrap().address.port(), 80);
        assert_eq!(target("redis://127.0.0.1").unwrap().address.port(), 6379);
        for bad in ["127.0.0.1:8080", "http://", "http://127.0.0.1:80/a b", "http://127.0.0.1:x"] {
            assert!(target(bad).unwrap_err().contains("http://"), "{bad}");
        }
    }

    #[test]
    fn an_unknown_scheme_lists_the_known_ones() {
        let text = target("mysql://127.0.0.1").unwrap_err();
        assert!(text.contains("no scheme mysql://"), "{text}");
        for (name, ..) in Scheme::ALL {
            assert!(text.contains(&format!("{name}://")), "{text}");
        }
    }

    #[test]
    fn who_asks_and_for_what_stands_in_the_target() {
        let dialect = |text: &str| format!("{:?}", target(text).unwrap().dialect());
        let found = dialect("postgres://me@127.0.0.1/here");
        assert_eq!(found, r#"Postgres { user: "me", database: "here", creates: false }"#);
        let found = dialect("postgres://me@127.0.0.1");
        assert_eq!(found, r#"Postgres { user: "me", database: "me", creates: false }"#);
        assert_eq!(dialect("redis://:pw@127.0.0.1"), r#"Resp { auth: Some(["pw"]) }"#);
        assert_eq!(dialect("redis://a:pw@127.0.0.1"), r#"Resp { auth: Some(["a", "pw"]) }"#);
        assert_eq!(dialect("redis://127.0.0.1"), "Resp { auth: None }");
    }
}
