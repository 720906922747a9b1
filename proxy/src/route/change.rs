//! What a rule makes of heads.

use http::StatusCode;
use http::header::{HeaderValue, LOCATION};
use http::uri::{Authority, PathAndQuery};

use crate::config::route::{FieldChanges, PathChange, Redirect, Rewrite, Scheme};
use crate::fault::{Fault, Reason};
use crate::http::rules::MAX_TARGET_BYTES;
use crate::http::{Fields, RequestHead, ResponseHead};

/// Changes fields: what is set, then what is added, then what is removed. The three name different fields.
pub fn fields(headers: &mut Fields, changes: &FieldChanges) {
    for (name, value) in &changes.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &changes.add {
        headers.append(name, value.clone());
    }
    for name in &changes.remove {
        headers.remove(name);
    }
}

/// Has a request ask for something else. `prefix` are the bytes of its path that were matched as a prefix.
///
/// # Errors
/// If its target would be longer than any that is read ([`MAX_TARGET_BYTES`]).
pub fn rewrite(head: &mut RequestHead, rewrite: &Rewrite, prefix: usize) -> Result<(), Fault> {
    if let Some(host) = &rewrite.host {
        head.authority = Some(Authority::try_from(host.as_str()).map_err(|error| invalid("host").from(error))?);
    }
    if let Some(change) = &rewrite.path {
        let target = target(head, change, prefix);
        if target.len() > MAX_TARGET_BYTES {
            return Err(Fault::new(Reason::UriTooLong).detail("the target that a route makes of this one"));
        }
        head.path = PathAndQuery::try_from(target).map_err(|error| invalid("path").from(error))?;
    }
    Ok(())
}

/// The answer that has a request ask elsewhere: an absolute location, the query as it was. The port is the given one, that
/// of a given scheme, or the one that was asked for; the usual one of the scheme is not written.
///
/// # Errors
/// If the location cannot be a field: not with a valid configuration.
pub fn redirect(head: &RequestHead, redirect: &Redirect, prefix: usize) -> Result<ResponseHead, Fault> {
    let scheme = redirect.scheme.unwrap_or(if head.https { Scheme::Https } else { Scheme::Http });
    let (scheme, usual) = match scheme {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    let asked = head.authority.as_ref().and_then(Authority::port_u16).filter(|_| redirect.scheme.is_none());
    let port = redirect.port.or(asked).filter(|port| *port != usual).map_or(String::new(), |port| format!(":{port}"));
    let target = match &redirect.path {
        Some(change) => target(head, change, prefix),
        None => head.path.as_str().to_owned(),
    };
    let location = match redirect.host.as_deref().unwrap_or(head.host()) {
        "" => target,
        host => format!("{scheme}://{host}{port}{target}"),
    };
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    let mut answer = ResponseHead::new(status);
    answer.headers.insert(LOCATION, HeaderValue::try_from(location).map_err(|error| invalid("location").from(error))?);
    Ok(answer)
}

/// The changed path, with the query as it is.
fn target(head: &RequestHead, change: &PathChange, prefix: usize) -> String {
    let mut target = match change {
        PathChange::Full(path) => path.clone(),
        PathChange::Prefix(new) => {
            let rest = head.path.path().get(prefix..).unwrap_or_default();
            if new.is_empty() && rest.is_empty() { "/".to_owned() } else { format!("{new}{rest}") }
        }
    };
    if let Some(query) = head.path.query() {
        target.push('?');
        target.push_str(query);
    }
    target
}

fn invalid(what: &str) -> Fault {
    Fault::new(Reason::ProxyInternalError).detail(format!("a route makes a {what} that is none"))
}
