//! Who a request is from, and whether it may pass. Pure: the time is given, and what must be fetched is asked for.

use std::rc::Rc;
use std::time::Duration;

use lacis_sdk::Reply;

use crate::basic::{self, Users};
use crate::claims::Verified;
use crate::config::header_name;
use crate::head::{Changes, Head, Twice, credentials};
use crate::jwt::Tokens;
use crate::keys::{self, Keys};
use crate::problem::{Problem, Refusal};
use crate::rules::{Caller, Rules, Verdict};

/// What is configured, without what must be asked elsewhere.
pub(crate) struct Policy {
    pub(crate) api_keys: Option<ApiKeys>,
    pub(crate) passwords: Option<Passwords>,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) anonymous: bool,
    pub(crate) rules: Option<Rules>,
}

/// API keys, and where they are.
pub(crate) struct ApiKeys {
    header: String,
    keys: Keys,
    forward_name: Option<String>,
    forward_key: bool,
}

/// Users with passwords.
pub(crate) struct Passwords {
    users: Users,
    forward_name: Option<String>,
    forward_password: bool,
}

/// Who a request is from, as far as its credentials say.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The name of its API key, or of the user.
    pub(crate) name: Option<String>,
    /// Its token.
    pub(crate) token: Option<Rc<Verified>>,
    /// What the service is to see of that.
    pub(crate) changes: Changes,
}

/// Why a request is not let in, or not yet.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The keys of this provider are missing: it can be judged when they are here.
    NoKeys(usize),
    /// This provider may have a new key, which the token names.
    UnknownKey(usize),
    /// It is refused.
    Refused(Reply),
}

/// The time, by two clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Since 1970.
    pub(crate) unix: Duration,
    /// For the age of keys.
    pub(crate) steady: Duration,
}

impl ApiKeys {
    pub(crate) fn new(
        header: Option<String>,
        entries: &[keys::Entry],
        forward_name: Option<String>,
        forward_key: Option<bool>,
    ) -> Result<Self, String> {
        Ok(Self {
            header: header_name(header.as_deref().unwrap_or("x-api-key"))?,
            keys: Keys::new(entries)?,
            forward_name: forward_name.as_deref().map(header_name).transpose()?,
            forward_key: forward_key.unwrap_or(false),
        })
    }

    /// The header that carries a key.
    pub(crate) fn header(&self) -> &str {
        &self.header
    }
}

impl Passwords {
    pub(crate) fn new(config: basic::Config) -> Result<Self, String> {
        let forward_name = config.forward_name.as_deref().map(header_name).transpose()?;
        Ok(Self { forward_name, forward_password: config.forward_password, users: Users::new(config)? })
    }
}

impl Policy {
    /// Who a request is from. Each kind of credentials that it has must be right.
    pub(crate) fn authenticate(&self, head: &Head, now: Now) -> Result<Known, Stop> {
        let mut known = Known::default();
        let mut is_known = self.api_key(head, &mut known)?;
        is_known |= self.password(head, &mut known)?;
        is_known |= self.token(head, now, &mut known)?;
        let asked = self.api_keys.is_some() || self.passwords.is_some() || self.tokens.is_some();
        if is_known || self.anonymous || !asked { Ok(known) } else { Err(Stop::Refused(self.challenge(None, None))) }
    }

    fn api_key(&self, head: &Head, known: &mut Known) -> Result<bool, Stop> {
        let Some(ApiKeys { header, keys, forward_name, forward_key }) = &self.api_keys else { return Ok(false) };
        let wrong = |why| Stop::Refused(self.challenge(Some(why), None));
        forward_name.iter().for_each(|header| known.changes.remove(header));
        let key = head.one(header).map_err(|Twice| wrong("there is more than one API key"))?;
        let Some(key) = key else { return Ok(false) };
        let name = keys.find(key).ok_or_else(|| wrong("the API key is not known"))?;
        if !forward_key {
            known.changes.remove(header);
        }
        if let Some(header) = forward_name {
            known.changes.set(header, name.as_bytes().to_owned());
        }
        known.name = Some(name.to_owned());
        Ok(true)
    }

    fn password(&self, head: &Head, known: &mut Known) -> Result<bool, Stop> {
        let Some(Passwords { users, forward_name, forward_password }) = &self.passwords else { return Ok(false) };
        let wrong = |why| Stop::Refused(self.challenge(Some(why), None));
        if let Some(header) = forward_name
            && known.name.is_none()
        {
            known.changes.remove(header);
        }
        let mut given = head.values("authorization").filter_map(|value| credentials(value, "Basic"));
        let Some(pair) = given.next() else { return Ok(false) };
        if given.next().is_some() {
            return Err(wrong("there is more than one password"));
        }
        let name = users.find(pair).ok_or_else(|| wrong("user or password is wrong"))?;
        if !forward_password {
            known.changes.remove("authorization");
        }
        if let Some(header) = forward_name {
            known.changes.set(header, name.as_bytes().to_owned());
        }
        known.name = Some(name.to_owned());
        Ok(true)
    }

    fn token(&self, head: &Head, now: Now, known: &mut Known) -> Result<bool, Stop> {
        let Some(tokens) = &self.tokens else { return Ok(false) };
        tokens.strip(head, &mut known.changes);
        let stop = |problem| match problem {
            Problem::NoKeys(provider) => Stop::NoKeys(provider),
            Problem::UnknownKey(provider) => Stop::UnknownKey(provider),
            Problem::Refused(refusal) => Stop::Refused(self.refuse_token(refusal)),
        };
        let Some(token) = tokens.find(head).map_err(stop)? else { return Ok(false) };
        let verified = tokens.check(token, now.unix.as_secs(), now.steady).map_err(stop)?;
        tokens.forward(&verified, &mut known.changes);
        known.token = Some(verified);
        Ok(true)
    }

    /// The refusal of a token.
    pub(crate) fn refuse_token(&self, refusal: Refusal) -> Reply {
        self.challenge(None, Some(refusal))
    }

    /// 401, with every way to do better (RFC 9110 section 11.6.1, for tokens RFC 6750 section 3).
    fn challenge(&self, why: Option<&str>, refusal: Option<Refusal>) -> Reply {
        let mut reply = Reply::new(401);
        let mut wanted = Vec::new();
        if let Some(keys) = &self.api_keys {
            reply = reply.header("www-authenticate", &format!("ApiKey header=\"{}\"", keys.header));
            wanted.push("an API key");
        }
        if let Some(passwords) = &self.passwords {
            reply = reply.header("www-authenticate", passwords.users.challenge());
            wanted.push("a password");
        }
        if self.tokens.is_some() {
            let challenge = refusal.map_or("Bearer".to_owned(), |refusal| {
                format!("Bearer error=\"invalid_token\", error_description=\"{refusal}\"")
            });
            reply = reply.header("www-authenticate", &challenge);
            wanted.push("a token");
        }
        let place = self.api_keys.as_ref().filter(|_| refusal.is_none() && wanted.len() == 1);
        let place = place.map_or(String::new(), |keys| format!(" (header {})", keys.header));
        let text = match (why, refusal) {
            (Some(why), _) => why.to_owned(),
            (None, Some(refusal)) => refusal.to_string(),
            (None, None) => format!("{} is required", wanted.join(" or ")),
        };
        reply.body(format!("{text}{place}\n"))
    }

    /// What the rules say of a request.
    pub(crate) fn judge(&self, head: &Head, known: &Known, identity: Option<&str>) -> Verdict<'_> {
        let claims = known.token.as_ref().map(|token| &token.claims);
        let caller = Caller { identity, name: known.name.as_deref(), claims };
        self.rules.as_ref().map_or(Verdict::Allowed, |rules| rules.judge(head, &caller))
    }
}
