//! What of a request says where it goes: a key that is hashed, or a cookie that names an endpoint.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use http::HeaderValue;
use http::header::{COOKIE, SET_COOKIE};

use super::balance::{Want, hash};
use crate::config::balance::{Affinity, Balance, HashKey};
use crate::http::head::{RequestHead, ResponseHead};

/// What says where requests to a service go.
#[derive(Debug)]
pub(super) struct Key {
    hash: Option<HashKey>,
    cookie: Option<Cookie>,
}

/// A cookie that names endpoints.
#[derive(Debug)]
struct Cookie {
    name: String,
    ttl: Duration,
    namer: Namer,
}

/// Gives endpoints names in which nobody can read their addresses, nor find them by trying all there are.
#[derive(Clone, Debug)]
pub(super) struct Namer {
    key: hmac::Key,
    service: Vec<u8>,
}

impl Namer {
    fn new(service: &str, secret: Option<&str>) -> Self {
        let key = match secret {
            Some(secret) => hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            None => hmac::Key::new(hmac::HMAC_SHA256, own_secret()),
        };
        Namer { key, service: service.as_bytes().to_vec() }
    }

    /// The name of an endpoint, by its id.
    pub(super) fn token(&self, id: u64) -> u64 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&id.to_be_bytes());
        context.update(&self.service);
        let tag = context.sign();
        tag.as_ref().iter().take(8).fold(0, |token, byte| token << 8 | u64::from(*byte))
    }
}

/// What the names of this process are made with where nothing is said: all its workers must know them.
fn own_secret() -> &'static [u8; 32] {
    static OWN: OnceLock<[u8; 32]> = OnceLock::new();
    OWN.get_or_init(|| {
        let mut secret = [0; 32];
        if rand::fill(&mut secret).is_err() {
            // Better guessed than known.
            secret.fill_with(|| fastrand::u8(..));
        }
        secret
    })
}

impl Key {
    /// What of a request to this service says where it goes, if something does.
    pub(super) fn new(service: &str, balance: &Balance, affinity: Option<&Affinity>) -> Option<Box<Key>> {
        let hash = match balance {
            Balance::Hash(hash) => Some(hash.key.clone()),
            Balance::LeastLoad | Balance::LeastRequest | Balance::RoundRobin | Balance::Random => None,
        };
        let cookie = affinity.map(|Affinity { cookie, ttl, secret }| Cookie {
            name: cookie.clone(),
            ttl: *ttl,
            namer: Namer::new(service, secret.as_deref()),
        });
        (hash.is_some() || cookie.is_some()).then(|| Box::new(Key { hash, cookie }))
    }

    /// Whether it goes by where requests come from.
    pub(super) fn wants_source(&self) -> bool {
        self.hash == Some(HashKey::Source)
    }

    /// What names endpoints, if cookies do.
    pub(super) fn namer(&self) -> Option<&Namer> {
        self.cookie.as_ref().map(|cookie| &cookie.namer)
    }

    /// What a request wants of the choice; `source` is where it came from.
    pub(super) fn want(&self, head: &RequestHead, source: Option<IpAddr>) -> Want {
        let hash = self.hash.as_ref().and_then(|key| match key {
            HashKey::Header(name) => {
                let mut values = head.headers.get_all(name).peekable();
                values.peek()?;
                // Several are as one with commas (RFC 9110 section 5.3).
                let bytes = values
                    .enumerate()
                    .flat_map(|(i, value)| b",".iter().take(usize::from(i > 0)).chain(value.as_bytes()).copied());
                Some(hash::of(bytes))
            }
            HashKey::Cookie(name) => cookie(head, name).map(|value| hash::of(value.iter().copied())),
            HashKey::Query(name) => parameter(head.path.query()?, name).map(|value| hash::of(value.bytes())),
            HashKey::Source => source.map(|ip| match ip.to_canonical() {
                IpAddr::V4(ip) => hash::of(ip.octets()),
                IpAddr::V6(ip) => hash::of(ip.octets()),
            }),
        });
        let token = self.cookie.as_ref().and_then(|own| read(cookie(head, &own.name)?));
        Want { hash, token }
    }

    /// Has the client of an answer come back to the endpoint of this id, unless it has come by its name.
    pub(super) fn keep(&self, came_by: Option<u64>, id: u64, head: &mut ResponseHead) {
        let Some(Cookie { name, ttl, namer }) = &self.cookie else { return };
        let token = namer.token(id);
        if came_by == Some(token) {
            return;
        }
        let mut text = format!("{name}={token:016x}; Path=/; HttpOnly");
        if !ttl.is_zero() {
            text.push_str(&format!("; Max-Age={}", ttl.as_secs().max(1)));
        }
        if let Ok(value) = HeaderValue::try_from(text) {
            head.headers.append(SET_COOKIE, value);
        }
    }
}

/// The value of a request's cookie (RFC 6265 section 4.2.1).
fn cookie<'h>(head: &'h RequestHead, name: &str) -> Option<&'h [u8]> {
    let pairs = head.headers.get_all(COOKIE).flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The value of the first parameter of this name.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((own, value)) => (own == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

/// A token as [`Key::keep`] writes it.
fn read(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    let whole = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    whole.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;
    use crate::config::balance::{Hash, TableKind};

    fn key(key: HashKey) -> Box<Key> {
        let balance = Balance::Hash(Hash { key, table: TableKind::Maglev }.into());
        Key::new("delta", &balance, None).expect("a key")
    }

    fn head(path: &'static str, fields: &[(&'static str, &'static str)]) -> RequestHead {
        let mut head = RequestHead { path: PathAndQuery::from_static(path), ..RequestHead::unread() };
        for (name, value) in fields {
            head.headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        head
    }

    #[test]
    fn what_is_hashed_is_what_is_named() {
        let of = |text: &str| Some(hash::of(text.bytes()));
        let header = key(HashKey::Header(http::HeaderName::from_static("x-user")));
        assert_eq!(header.want(&head("/", &[("x-user", "a"), ("x-user", "b")]), None).hash, of("a,b"));
        assert_eq!(header.want(&head("/", &[("x-other", "a")]), None).hash, None);
        let cookie = key(HashKey::Cookie("id".into()));
        let fields = [("cookie", "idx=0; xid=1"), ("cookie", "b=2;  id=3;id=4")];
        assert_eq!(cookie.want(&head("/", &fields), None).hash, of("3"));
        assert_eq!(cookie.want(&head("/", &fields[..1]), None).hash, None);
        let query = key(HashKey::Query("u".into()));
        assert_eq!(query.want(&head("/?uu=1&u=2&u=3", &[]), None).hash, of("2"));
        assert_eq!(query.want(&head("/?uu=1", &[]), None).hash, None);
        assert_eq!(query.want(&head("/u=1", &[]), None).hash, None);
        let source = key(HashKey::Source);
        let from = |ip: &str| source.want(&head("/", &[]), Some(ip.parse().expect("an address"))).hash;
        assert_eq!(from("10.0.0.1"), from("::ffff:10.0.0.1"));
        assert_ne!(from("10.0.0.1"), from("10.0.0.2"));
        assert!(Key::new("delta", &Balance::LeastLoad, None).is_none());
    }

    #[test]
    fn a_cookie_names_an_endpoint_and_nothing_else() {
        let affinity = |secret: &str| Affinity {
            cookie: "session".into(),
            ttl: Duration::from_secs(60),
            secret: Some(secret.into()),
        };
        let key = |service, secret| Key::new(service, &Balance::LeastLoad, Some(&affinity(secret))).expect("a key");
        let set = |key: &Key, want: Want| {
            let mut head = ResponseHead::new(http::StatusCode::OK);
            key.keep(want.token, 7, &mut head);
            head.headers.get(SET_COOKIE).map(|value| value.to_str().expect("text").to_owned())
        };
        let one = key("delta", "a secret of some length");
        let text = set(&one, Want::default()).expect("a cookie");
        let (pair, attributes) = text.split_once(';').expect("attributes");
        assert_eq!(attributes, " Path=/; HttpOnly; Max-Age=60");
        let mut request = head("/", &[]);
        request.headers.append(COOKIE, HeaderValue::from_str(pair).expect("a value"));
        let want = one.want(&request, None);
        assert_eq!(want.token, Some(one.namer().expect("a namer").token(7)));
        assert_eq!(set(&one, want), None, "it has come by its name");
        assert_eq!(set(&key("delta", "a secret of some length"), want), None, "the same for who has the secret");
        for other in [key("delta", "another secret of length"), key("gamma", "a secret of some length")] {
            assert!(set(&other, want).is_some_and(|other| !other.starts_with(pair)));
        }
        for wrong in ["session=", "session=12", "session=+123456789abcdef", "session=zzzzzzzzzzzzzzzz"] {
            assert_eq!(one.want(&head("/", &[("cookie", wrong)]), None).token, None);
        }
    }
}
