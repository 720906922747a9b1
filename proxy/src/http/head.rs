//! Message heads: the control data and fields of a request or response (RFC 9110 section 6), the same for all versions.
//!
//! Connection-specific fields (RFC 9110 section 7.6.1) never reach a head: each protocol takes its own away when it
//! reads and adds its own when it writes. What they said that matters beyond one hop is a value here.

use crate::fault::{Fault, Reason};
use crate::http::fields::LINE_OVERHEAD;
use crate::http::{Fields, rules};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode};

/// The version that a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// `:authority`, or the host of an absolute-form target, or the Host field; the Host field itself is never in `headers`.
    pub authority: Option<Authority>,
    /// Path and query; `*` for OPTIONS on the server as a whole, `/` for CONNECT, which says none.
    pub path: PathAndQuery,
    /// Whether `:scheme` is https.
    pub https: bool,
    /// Fields, without those of the connection.
    pub headers: Fields,
    /// The version that it came in.
    pub version: Version,
    /// The protocol that the client asks to switch to (RFC 9110 section 7.8).
    pub upgrade: Option<HeaderValue>,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// Fields, without those of the connection.
    pub headers: Fields,
    /// The protocol that the server switches to; only with status 101.
    pub upgrade: Option<HeaderValue>,
}

thread_local! {
    /// What is in the place of a head that was taken out: one for all.
    static UNREAD: Rc<RequestHead> = Rc::new(RequestHead::unread());
    static UNSENT: Rc<ResponseHead> = Rc::new(ResponseHead::new(StatusCode::OK));
}

/// A head that several may hold: whoever sends it, a retry that may have to send it once more, filters that may read it
/// when all is over. To share it, or to move it, costs a pointer. Who changes it while others hold it gets one of his own
/// first.
#[derive(Clone, Debug)]
pub struct Shared<T>(Rc<T>);

impl<T: Clone> Shared<T> {
    /// The same head for another holder.
    #[must_use]
    pub fn share(&self) -> Self {
        Shared(Rc::clone(&self.0))
    }

    /// The head where others may come to hold it, too.
    pub fn into_rc(self) -> Rc<T> {
        self.0
    }

    /// The head itself: a copy only if others hold it.
    pub fn take(self) -> T {
        Rc::unwrap_or_clone(self.0)
    }
}

impl Default for Shared<RequestHead> {
    fn default() -> Self {
        Shared(UNREAD.with(Rc::clone))
    }
}

impl Default for Shared<ResponseHead> {
    fn default() -> Self {
        Shared(UNSENT.with(Rc::clone))
    }
}

impl<T> From<T> for Shared<T> {
    fn from(head: T) -> Self {
        Shared(Rc::new(head))
    }
}

impl<T> From<Rc<T>> for Shared<T> {
    fn from(head: Rc<T>) -> Self {
        Shared(head)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        Rc::make_mut(&mut self.0)
    }
}

impl RequestHead {
    /// The head of a request of which nothing is known.
    pub fn unread() -> Self {
        RequestHead {
            method: Method::GET,
            authority: None,
            path: PathAndQuery::from_static("/"),
            https: false,
            headers: Fields::new(),
            version: Version::Http11,
            upgrade: None,
        }
    }

    /// Whether this is a gRPC request (its answers must be gRPC's, also for faults).
    pub fn is_grpc(&self) -> bool {
        let subtype =
            self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.as_bytes().strip_prefix(b"application/grpc"));
        matches!(subtype, Some([] | [b'+' | b';', ..]))
    }

    /// Whether another sidecar reads it ([`rules::check_size`]).
    ///
    /// # Errors
    /// If not.
    pub fn check_size(&self) -> Result<(), Fault> {
        let authority = self.authority.as_ref().map_or("", Authority::as_str);
        let scheme = if self.https { "https" } else { "http" };
        let control =
            [":method", self.method.as_str(), ":scheme", scheme, ":authority", authority, ":path", self.path.as_str()];
        let control = control.iter().map(|text| text.len()).sum::<usize>() + 4 * LINE_OVERHEAD;
        rules::check_size(self.headers.len(), self.headers.section_size() + control)
            .map_err(|why| Fault::new(Reason::RequestHeaderSectionSize).detail(why))
    }

    /// The host of the authority, lower case is not enforced, without port.
    pub fn host(&self) -> &str {
        self.authority.as_ref().map_or("", Authority::host)
    }
}

impl ResponseHead {
    /// A head with this status and no fields.
    pub fn new(status: StatusCode) -> Self {
        ResponseHead { status, headers: Fields::new(), upgrade: None }
    }

    /// Whether another sidecar reads it ([`rules::check_size`]).
    ///
    /// # Errors
    /// If not.
    pub fn check_size(&self) -> Result<(), Fault> {
        let size = self.headers.section_size() + ":status200".len() + LINE_OVERHEAD;
        rules::check_size(self.headers.len(), size)
            .map_err(|why| Fault::new(Reason::HttpResponseHeaderSectionSize).detail(why))
    }

    /// Whether a response with this status to this method has no content (RFC 9110 section 6.4.1), whatever its fields say.
    pub fn is_bodiless(&self, method: &Method) -> bool {
        method == Method::HEAD || self.is_without_content()
    }

    /// Whether its status is one of those that no content follows, whatever was asked.
    pub fn is_without_content(&self) -> bool {
        self.status.is_informational() || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_head_is_copied_by_whoever_changes_it_while_others_hold_it() {
        let mut mine = Shared::from(ResponseHead::new(StatusCode::OK));
        let mut theirs = mine.share();
        assert!(std::ptr::eq(&*mine, &*theirs), "sharing copies nothing");
        theirs.headers.insert(http::HeaderName::from_static("x-changed"), HeaderValue::from_static("yes"));
        assert!(mine.headers.is_empty() && !theirs.headers.is_empty());
        let before: *const ResponseHead = &*mine;
        mine.status = StatusCode::CREATED;
        assert!(std::ptr::eq(&*mine, before), "nobody else holds it any more");
        assert_eq!((mine.take().status, theirs.take().status), (StatusCode::CREATED, StatusCode::OK));
    }
}
