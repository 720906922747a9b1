//! Heads as a guest sees them: pseudo-headers and fields as one map (Proxy-Wasm; RFC 9113 section 8.3).
//!
//! What a guest writes is kept if it can be part of a message; else the head is marked broken, and the exchange fails
//! when the callback has returned. So no filter can split a response or smuggle a request.

use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};
use lacis_host::Headers;

use super::names;
use crate::fault::Reason;
use crate::http::Fields;
use crate::http::fields::{Place, Value, Written};
use crate::http::head::{RequestHead, ResponseHead, Shared};
use crate::http::rules;

const LENGTH: &[u8] = b"content-length";
const HTTP: &[u8] = b"http";
const HTTPS: &[u8] = b"https";

/// A request head in a guest's hands.
#[derive(Debug)]
pub(super) struct GuestRequest {
    /// Others may hold it when no filter has it; see [`Shared`].
    pub(super) head: Rc<RequestHead>,
    length: Length,
    /// Pseudo-headers that the guest removed and did not set again, as bits: authority, path, method, scheme.
    missing: u8,
    broken: Broken,
}

/// A response head in a guest's hands.
#[derive(Debug)]
pub(super) struct GuestResponse {
    pub(super) head: Rc<ResponseHead>,
    /// What the guest set that is no status.
    odd: Option<Box<[u8]>>,
    length: Length,
    missing: bool,
    broken: Broken,
}

/// Trailers in a guest's hands.
#[derive(Debug, Default)]
pub(super) struct GuestTrailers {
    pub(super) fields: Fields,
    broken: Broken,
}

/// What a head may say of the length of its content.
#[derive(Debug)]
enum Length {
    /// What it says, for no filter sees the content, and none has touched that.
    Untouched,
    /// What it said before a filter touched that.
    Fixed(Option<HeaderValue>),
    /// What it says, and filters see the content; none has touched that.
    Open,
    /// Anything: filters see the content, and it is held to what they say.
    Theirs,
}

const AUTHORITY: u8 = 1;
const PATH: u8 = 2;
const METHOD: u8 = 4;
/// HTTP/1.1 does without, and so does whoever reads it.
const SCHEME: u8 = 8;

impl GuestRequest {
    /// `open` where filters will see content, and may say how long it becomes.
    pub(super) fn new(head: Shared<RequestHead>, open: bool) -> Self {
        GuestRequest { head: head.into_rc(), length: Length::new(open), missing: 0, broken: Broken::default() }
    }

    /// Filters will see the content.
    pub(super) fn open(&mut self) {
        self.length = match self.length {
            Length::Untouched | Length::Open => Length::Open,
            Length::Fixed(_) | Length::Theirs => Length::Theirs,
        };
    }

    /// Whether what it says of the length of its content is for filters to say, and one has touched it.
    pub(super) fn has_length_of_theirs(&self) -> bool {
        matches!(self.length, Length::Theirs)
    }

    /// Header lines, pseudo-headers counted.
    pub(super) fn count(&self) -> u32 {
        let upgrade = if self.head.upgrade.is_some() { UPGRADE_LINES } else { 0 };
        (self.head.headers.len() + 4 - self.missing.count_ones() as usize + upgrade) as u32
    }

    /// What is wrong with it now, if anything; framing that the guest touched is mended, for the body is what it was.
    #[inline]
    pub(super) fn check(&mut self) -> Result<(), String> {
        let is_whole = self.missing & (AUTHORITY | PATH | METHOD) == 0;
        if is_whole && self.broken.is_empty() && !self.length.is_touched() { Ok(()) } else { self.mend() }
    }

    #[cold]
    fn mend(&mut self) -> Result<(), String> {
        if let Length::Fixed(length) = &self.length {
            mend(&mut Rc::make_mut(&mut self.head).headers, length.as_ref());
        }
        let missing = |bit, name: &str| (self.missing & bit != 0).then(|| format!("missing required header: {name}"));
        match self
            .broken
            .take()
            .or_else(|| missing(AUTHORITY, ":authority"))
            .or_else(|| missing(PATH, ":path"))
            .or_else(|| missing(METHOD, ":method"))
        {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        let head = Rc::make_mut(&mut self.head);
        let set = match name {
            b":authority" | b"host" => authority(value).map(|v| head.authority = Some(v)).map(|()| AUTHORITY),
            b":path" => path(value).map(|v| head.path = v).map(|()| PATH),
            // Not CONNECT: what filters see is HTTP, and stays it.
            b":method" => Method::from_bytes(value)
                .ok()
                .filter(|v| v != Method::CONNECT)
                .map(|v| head.method = v)
                .map(|()| METHOD),
            b":scheme" => scheme(value).map(|v| head.https = v).map(|()| SCHEME),
            // Envoy keeps unknown ones in the map and sends none.
            _ => Some(0),
        };
        match set {
            Some(bit) => {
                self.missing &= !bit;
                self.broken.mend(once(name));
            }
            None => self.broken.note(once(name), invalid("value for", name)),
        }
    }
}

/// What a guest has written that cannot be sent, and why not, by name. It is judged when the head goes on: what is set anew or taken away
/// until then is mended.
#[derive(Debug, Default)]
pub(super) struct Broken(Vec<(Box<[u8]>, String)>);

/// A guest that has written more names that cannot be sent mends none of them.
const MENDED: usize = 16;

impl Broken {
    #[inline]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cold]
    fn note(&mut self, name: &[u8], why: String) {
        self.mend(name);
        if self.0.len() <= MENDED {
            self.0.push((name.into(), why));
        }
    }

    /// Nothing is left of what was written under this name.
    #[inline]
    fn mend(&mut self, name: &[u8]) {
        if (1..=MENDED).contains(&self.0.len()) {
            self.0.retain(|(broken, _)| **broken != *name);
        }
    }

    /// Why a message cannot be sent, if it cannot: the last cause. None is left.
    pub(super) fn take(&mut self) -> Option<String> {
        std::mem::take(&mut self.0).pop().map(|(_, why)| why)
    }
}

/// The one name of what has two.
fn once(name: &[u8]) -> &[u8] {
    if name == b"host" { b":authority" } else { name }
}

/// An authority that is read as one everywhere.
pub(super) fn authority(value: &[u8]) -> Option<Authority> {
    Authority::try_from(value).ok().filter(rules::is_host)
}

/// A path in origin form; `*` only where it was.
fn path(value: &[u8]) -> Option<PathAndQuery> {
    let path = PathAndQuery::try_from(value).ok()?;
    (value.starts_with(b"/") || value == b"*").then_some(path)
}

fn scheme(value: &[u8]) -> Option<bool> {
    match value {
        v if v.eq_ignore_ascii_case(HTTP) => Some(false),
        v if v.eq_ignore_ascii_case(HTTPS) => Some(true),
        _ => None,
    }
}

fn pseudo(name: &[u8]) -> bool {
    name.starts_with(b":")
}

impl Headers for GuestRequest {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match name {
            b":authority" | b"host" if self.missing & AUTHORITY == 0 => {
                self.head.authority.as_ref().map(|a| a.as_str().as_bytes())
            }
            b":path" if self.missing & PATH == 0 => Some(self.head.path.as_str().as_bytes()),
            b":method" if self.missing & METHOD == 0 => Some(self.head.method.as_str().as_bytes()),
            b":scheme" if self.missing & SCHEME == 0 => Some(if self.head.https { HTTPS } else { HTTP }),
            b"connection" | b"upgrade" => upgrade(self.head.upgrade.as_ref(), name),
            _ => field(&self.head.headers, name),
        }
    }

    fn visit(&self, pair: &mut dyn FnMut(&[u8], &[u8])) {
        for name in [&b":authority"[..], b":path", b":method", b":scheme"] {
            if let Some(value) = self.get(name) {
                pair(name, value);
            }
        }
        self.head.headers.iter().for_each(|(name, value)| pair(name.as_str().as_bytes(), value.as_bytes()));
        visit_upgrade(self.head.upgrade.as_ref(), pair);
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        if !pseudo(name) && name != b"host" {
            self.length.touch(&self.head.headers, name);
            return append(&mut Rc::make_mut(&mut self.head).headers, &mut self.broken, name, value);
        }
        match self.get(name) {
            // Envoy joins where there can be only one.
            Some(there) if name != b":scheme" => self.set(name, &[there, b",", value].concat()),
            _ => self.set(name, value),
        }
    }

    fn replace(&mut self, name: &[u8], value: &[u8]) {
        if pseudo(name) || name == b"host" {
            return self.set(name, value);
        }
        self.length.touch(&self.head.headers, name);
        self.broken.mend(name);
        let place = self.head.headers.place(name);
        // No copy of what is there already: mostly from a filter before.
        if !place.is_some_and(|place| self.head.headers.is_only(place, value)) {
            put(&mut Rc::make_mut(&mut self.head).headers, &mut self.broken, name, place, value);
        }
    }

    fn remove(&mut self, name: &[u8]) {
        self.broken.mend(once(name));
        match name {
            b":authority" | b"host" => self.missing |= AUTHORITY,
            b":path" => self.missing |= PATH,
            b":method" => self.missing |= METHOD,
            b":scheme" => self.missing |= SCHEME,
            _ => {
                self.length.touch(&self.head.headers, name);
                Rc::make_mut(&mut self.head).headers.remove(name);
            }
        }
    }

    fn clear(&mut self) {
        self.broken = Broken::default();
        self.length.touch(&self.head.headers, LENGTH);
        Rc::make_mut(&mut self.head).headers.clear();
        self.missing = AUTHORITY | PATH | METHOD | SCHEME;
    }

    /// None where [`GuestRequest::check`] has something to do.
    fn lines(&self) -> Option<u32> {
        let sound = self.missing & !SCHEME == 0 && self.broken.is_empty() && !matches!(self.length, Length::Fixed(_));
        sound.then(|| self.count())
    }
}

impl GuestResponse {
    /// See [`GuestRequest::new`].
    pub(super) fn new(head: Shared<ResponseHead>, open: bool) -> Self {
        GuestResponse {
            head: head.into_rc(),
            odd: None,
            length: Length::new(open),
            missing: false,
            broken: Broken::default(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        let upgrade = if self.head.upgrade.is_some() { UPGRADE_LINES } else { 0 };
        (self.head.headers.len() + 1 + upgrade) as u32
    }

    /// See [`GuestRequest::has_length_of_theirs`].
    pub(super) fn has_length_of_theirs(&self) -> bool {
        matches!(self.length, Length::Theirs)
    }

    /// See [`GuestRequest::check`].
    #[inline]
    pub(super) fn check(&mut self) -> Result<(), String> {
        if !self.missing && self.broken.is_empty() && !self.length.is_touched() { Ok(()) } else { self.mend() }
    }

    #[cold]
    fn mend(&mut self) -> Result<(), String> {
        if let Length::Fixed(length) = &self.length {
            mend(&mut Rc::make_mut(&mut self.head).headers, length.as_ref());
        }
        match self.broken.take() {
            Some(broken) => Err(broken),
            None if self.missing => Err("missing required header: :status".into()),
            None => Ok(()),
        }
    }

    #[cold]
    fn has_sound_length(&self) -> bool {
        rules::content_length(&self.head.headers, Reason::FilterInvalid).is_ok()
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        if name != b":status" {
            return;
        }
        // A final status only: the guest speaks for the final response (RFC 9110 section 15).
        match StatusCode::from_bytes(value).ok().filter(|s| !s.is_informational() || *s == self.head.status) {
            Some(status) => {
                Rc::make_mut(&mut self.head).status = status;
                self.odd = None;
                self.missing = false;
                self.broken.mend(name);
            }
            None => {
                self.odd = Some(value.into());
                self.broken.note(name, invalid("value for", name));
            }
        }
    }
}

impl Headers for GuestResponse {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match name {
            b":status" if self.missing => None,
            b":status" => Some(self.odd.as_deref().unwrap_or(self.head.status.as_str().as_bytes())),
            b"connection" | b"upgrade" => upgrade(self.head.upgrade.as_ref(), name),
            _ => field(&self.head.headers, name),
        }
    }

    fn visit(&self, pair: &mut dyn FnMut(&[u8], &[u8])) {
        if let Some(status) = self.get(b":status") {
            pair(b":status", status);
        }
        self.head.headers.iter().for_each(|(name, value)| pair(name.as_str().as_bytes(), value.as_bytes()));
        visit_upgrade(self.head.upgrade.as_ref(), pair);
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        if !pseudo(name) {
            self.length.touch(&self.head.headers, name);
            return append(&mut Rc::make_mut(&mut self.head).headers, &mut self.broken, name, value);
        }
        match self.get(name) {
            // Envoy joins where there can be only one: no status is two.
            Some(there) => self.set(name, &[there, b",", value].concat()),
            None => self.set(name, value),
        }
    }

    fn replace(&mut self, name: &[u8], value: &[u8]) {
        if pseudo(name) {
            return self.set(name, value);
        }
        self.length.touch(&self.head.headers, name);
        self.broken.mend(name);
        let place = self.head.headers.place(name);
        // No copy of what is there already: mostly from a filter before.
        if !place.is_some_and(|place| self.head.headers.is_only(place, value)) {
            put(&mut Rc::make_mut(&mut self.head).headers, &mut self.broken, name, place, value);
        }
    }

    fn remove(&mut self, name: &[u8]) {
        self.broken.mend(name);
        match name {
            b":status" => self.missing = true,
            _ => {
                self.length.touch(&self.head.headers, name);
                Rc::make_mut(&mut self.head).headers.remove(name);
            }
        }
    }

    fn clear(&mut self) {
        self.broken = Broken::default();
        self.length.touch(&self.head.headers, LENGTH);
        Rc::make_mut(&mut self.head).headers.clear();
        self.missing = true;
    }

    /// None where [`GuestResponse::check`] has something to do, and where content that filters see would not be sent.
    fn lines(&self) -> Option<u32> {
        let framed = match self.length {
            Length::Untouched => true,
            Length::Fixed(_) => false,
            Length::Open => !self.head.is_without_content(),
            Length::Theirs => self.has_sound_length() && !self.head.is_without_content(),
        };
        let sound = framed && !self.missing && self.broken.is_empty();
        sound.then(|| self.count())
    }
}

impl GuestTrailers {
    pub(super) fn new(fields: Fields) -> Self {
        GuestTrailers { fields, broken: Broken::default() }
    }

    pub(super) fn count(&self) -> u32 {
        self.fields.len() as u32
    }

    /// What is wrong with them now, if anything; what may not stand there is taken away.
    pub(super) fn check(&mut self) -> Result<(), String> {
        rules::clean_trailers(&mut self.fields);
        self.broken.take().map_or(Ok(()), Err)?;
        rules::check_size(self.fields.len(), self.fields.section_size())
    }
}

impl Headers for GuestTrailers {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        field(&self.fields, name)
    }

    fn visit(&self, pair: &mut dyn FnMut(&[u8], &[u8])) {
        self.fields.iter().for_each(|(name, value)| pair(name.as_str().as_bytes(), value.as_bytes()));
    }

    /// A pseudo-header here is malformed (RFC 9113 section 8.1), and as a field it has no valid name.
    fn add(&mut self, name: &[u8], value: &[u8]) {
        append(&mut self.fields, &mut self.broken, name, value);
    }

    fn replace(&mut self, name: &[u8], value: &[u8]) {
        self.broken.mend(name);
        let place = self.fields.place(name);
        put(&mut self.fields, &mut self.broken, name, place, value);
    }

    fn remove(&mut self, name: &[u8]) {
        self.broken.mend(name);
        self.fields.remove(name);
    }

    fn clear(&mut self) {
        self.broken = Broken::default();
        self.fields.clear();
    }
}

impl Length {
    fn new(open: bool) -> Length {
        if open { Length::Open } else { Length::Untouched }
    }

    /// Whether a filter has changed what is not for it to change.
    fn is_touched(&self) -> bool {
        matches!(self, Length::Fixed(_))
    }

    /// A filter is about to change a field of this name: what the head says now is kept where filters see no content.
    #[inline]
    fn touch(&mut self, headers: &Fields, name: &[u8]) {
        if name == LENGTH {
            self.fix(headers);
        }
    }

    #[cold]
    fn fix(&mut self, headers: &Fields) {
        match self {
            Length::Untouched => *self = Length::Fixed(headers.get(header::CONTENT_LENGTH).map(Value::share)),
            Length::Open => *self = Length::Theirs,
            Length::Fixed(_) | Length::Theirs => {}
        }
    }
}

/// How many lines an upgrade has.
const UPGRADE_LINES: usize = 2;

/// The one thing that a guest sees of the connection, and cannot change: that a protocol is switched to, and which one. Who
/// waits for the end of a body has to know that this one may never come.
#[cold]
fn upgrade<'a>(to: Option<&'a HeaderValue>, name: &[u8]) -> Option<&'a [u8]> {
    to.map(|to| if name == b"upgrade" { to.as_bytes() } else { b"upgrade" })
}

fn visit_upgrade(to: Option<&HeaderValue>, pair: &mut dyn FnMut(&[u8], &[u8])) {
    if let Some(to) = to {
        pair(b"connection", b"upgrade");
        pair(b"upgrade", to.as_bytes());
    }
}

fn field<'a>(headers: &'a Fields, name: &[u8]) -> Option<&'a [u8]> {
    headers.get(name).map(Value::as_bytes)
}

/// Adds a line where it can be part of a message, and is the guest's.
pub(super) fn append(headers: &mut Fields, broken: &mut Broken, name: &[u8], value: &[u8]) {
    let Some(known) = names::name(name) else { return broken.note(name, invalid("name", name)) };
    let Some(value) = Written::of(value) else { return broken.note(name, invalid("value for", name)) };
    // The connection is not the guest's (RFC 9110 section 7.6.1).
    if rules::is_of_connection(name) {
        return;
    }
    if !headers.takes_more() {
        return broken.note(name, "too many headers".into());
    }
    headers.append(known, value);
}

/// Sets the one value of a name, whose lines are in this place; where that cannot be, it has none any more.
fn put(headers: &mut Fields, broken: &mut Broken, name: &[u8], place: Option<Place>, value: &[u8]) {
    let Some(place) = place else { return append(headers, broken, name, value) };
    let made = Written::of(value);
    if made.is_none() {
        broken.note(name, invalid("value for", name));
    }
    match made {
        Some(value) if !rules::is_of_connection(name) => headers.set(place, value),
        _ => _ = headers.remove(name),
    }
}

#[cold]
fn invalid(what: &str, name: &[u8]) -> String {
    format!("invalid header {what}: {}", String::from_utf8_lossy(name))
}

/// A content-length that the guest changed is set right; one that it removed stays removed, which only changes the
/// framing.
fn mend(headers: &mut Fields, length: Option<&HeaderValue>) {
    let now = headers.get(header::CONTENT_LENGTH);
    if now.is_none()
        || (now.map(Value::as_bytes) == length.map(HeaderValue::as_bytes)
            && headers.get_all(header::CONTENT_LENGTH).count() == 1)
    {
        return;
    }
    match length {
        Some(length) => headers.insert(header::CONTENT_LENGTH, length.clone()),
        None => {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

#[cfg(test)]
mod tests;
