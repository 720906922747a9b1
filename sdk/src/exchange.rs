//! The two halves of an exchange that a filter sees.

use std::any::Any;

use crate::attributes::Attributes;
use crate::backend::Map;
use crate::headers::{Headers, InvalidHeader, Value};

/// The head of a request, while the filter holds it.
#[derive(Debug)]
pub struct Request {
    headers: Headers,
    has_body: bool,
    pub(crate) kept: Option<Box<dyn Any>>,
}

impl Request {
    pub(crate) fn new(has_body: bool) -> Self {
        Self { headers: Headers::new(Map::Request), has_body, kept: None }
    }

    /// Its headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its headers, to be changed.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The method, empty if the host shows none.
    pub fn method(&self) -> String {
        self.pseudo(":method")
    }

    /// The path with its query, empty if the host shows none.
    pub fn path(&self) -> String {
        self.pseudo(":path")
    }

    /// The host and port that the request is for, empty if the host shows none.
    pub fn authority(&self) -> String {
        self.pseudo(":authority")
    }

    /// Whether a body follows.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// Who and where: the peer's identity, addresses and what else the proxy knows.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes::new()
    }

    /// Sends the request to another service: it becomes the authority, by which the proxy chooses the service after
    /// the filters have run. `x-forwarded-host` carries the authority that the caller used.
    ///
    /// # Errors
    ///
    /// [`InvalidHeader`] if the name cannot be an authority; nothing has changed then.
    pub fn send_to(&mut self, service: &str) -> Result<(), InvalidHeader> {
        let original = self.headers.get(":authority");
        self.headers.set(":authority", service)?;
        if let Some(original) = original {
            self.headers.set("x-forwarded-host", original)?;
        }
        Ok(())
    }

    /// Keeps one value for [`Response::kept`]; a second one replaces the first. A response does not show its request's
    /// headers, so what it needs of them is kept here.
    pub fn keep<T: 'static>(&mut self, value: T) {
        self.kept = Some(Box::new(value));
    }

    fn pseudo(&self, name: &str) -> String {
        self.headers.get(name).as_ref().map(Value::to_text).unwrap_or_default().into_owned()
    }
}

/// The head of a response, while the filter holds it.
#[derive(Debug)]
pub struct Response {
    headers: Headers,
    has_body: bool,
    pub(crate) kept: Option<Box<dyn Any>>,
}

impl Response {
    pub(crate) fn new(has_body: bool, kept: Option<Box<dyn Any>>) -> Self {
        Self { headers: Headers::new(Map::Response), has_body, kept }
    }

    /// Its headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its headers, to be changed.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The status; 0 if the host shows none.
    pub fn status(&self) -> u16 {
        self.headers.get(":status").and_then(|status| status.parse()).unwrap_or(0)
    }

    /// Whether a body follows.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// Who and where. Attributes of the request are gone by now on Envoy.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes::new()
    }

    /// What [`Request::keep`] kept, if it was a `T`.
    pub fn kept<T: 'static>(&self) -> Option<&T> {
        self.kept.as_ref()?.downcast_ref()
    }
}
