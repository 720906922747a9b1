//! The keys of metrics: which labels each has.

use super::labels::{
    Authorization, Away, CallResult, Callback, Cause, Certificate, Check, Checked, Direction, Discovered, Handshake,
    Hedged, Label as _, Labels, Limit, Link, Method, Mirrored, NameId, Names, Origin, Outcome, Protocol, Reload,
    Status, StatusClass, label,
};
use crate::fault::Reason;

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ pub struct $name:ident { $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)+ })+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[doc = $field_doc])+ pub $field: $type,)+ }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field),)+];

            fn write(&self, names: &Names, out: &mut String) {
                $(label(out, stringify!($field), |out| self.$field.write(names, out));)+
            }
        }
    )+ };
}

keys! {
    /// Labels of a request.
    pub struct RequestKey {
        /// Which way it went.
        direction: Direction,
        /// The calling service.
        source: NameId,
        /// The called service.
        destination: NameId,
        /// Its method.
        method: Method,
        /// The status of the final response.
        status: Status,
        /// What the application spoke.
        protocol: Protocol,
        /// What carried it between sidecars.
        link: Link,
        /// Why it failed, or that it did not.
        reason: Reason,
    }

    /// Labels of an edge between two services.
    pub struct EdgeKey {
        /// Which way requests go.
        direction: Direction,
        /// The calling service.
        source: NameId,
        /// The called service.
        destination: NameId,
    }

    /// Labels of an edge, by class of status.
    pub struct EdgeStatusKey {
        /// Which way requests go.
        direction: Direction,
        /// The calling service.
        source: NameId,
        /// The called service.
        destination: NameId,
        /// The class of the final status.
        status_class: StatusClass,
    }

    /// One label: which way.
    pub struct DirectionKey {
        /// Which way.
        direction: Direction,
    }

    /// Labels of a connection.
    pub struct ConnectionKey {
        /// Which listener it came in by.
        direction: Direction,
        /// What it speaks.
        protocol: Protocol,
    }

    /// Labels of a link handshake.
    pub struct HandshakeKey {
        /// What the link speaks.
        link: Link,
        /// How the handshake ended.
        result: Handshake,
    }

    /// Labels of what happens to one destination.
    pub struct CauseKey {
        /// The called service.
        destination: NameId,
        /// Why.
        cause: Cause,
    }

    /// Labels of a request that was sent beside another.
    pub struct HedgeKey {
        /// The called service.
        destination: NameId,
        /// What became of it.
        result: Hedged,
    }

    /// Labels of a copy of a request.
    pub struct MirrorKey {
        /// The service that gets it.
        destination: NameId,
        /// What became of it.
        result: Mirrored,
    }

    /// Labels of a choice between links.
    pub struct LinkCauseKey {
        /// The called service.
        destination: NameId,
        /// The link.
        link: Link,
        /// Why.
        cause: Cause,
    }

    /// One label: which filter.
    pub struct FilterKey {
        /// Its name in the configuration.
        filter: NameId,
    }

    /// Labels of a filter's verdict.
    pub struct FilterOutcomeKey {
        /// Its name in the configuration.
        filter: NameId,
        /// How it left the request.
        outcome: Outcome,
    }

    /// Labels of a request that came to a filter while that was away.
    pub struct FilterAwayKey {
        /// Its name in the configuration.
        filter: NameId,
        /// What became of the request.
        result: Away,
    }

    /// Labels of what a filter was refused.
    pub struct FilterLimitKey {
        /// Its name in the configuration.
        filter: NameId,
        /// What it was.
        limit: Limit,
    }

    /// Labels of a filter's call.
    pub struct FilterCallKey {
        /// Its name in the configuration.
        filter: NameId,
        /// The called service.
        destination: NameId,
        /// How it ended.
        result: CallResult,
    }

    /// Labels of a filter's callback.
    pub struct FilterCallbackKey {
        /// Its name in the configuration.
        filter: NameId,
        /// Which one.
        callback: Callback,
    }

    /// Labels of what a rule of authorization says.
    pub struct AuthorizationKey {
        /// Its name in the configuration.
        rule: NameId,
        /// What it says.
        verdict: Authorization,
    }

    /// One label: how much a request matters.
    pub struct PriorityKey {
        /// Its word in the configuration.
        priority: NameId,
    }

    /// One label: which rate limit.
    pub struct RateLimitKey {
        /// Its name in the configuration.
        limit: NameId,
    }

    /// One label: what became of a reload.
    pub struct ReloadKey {
        /// What became of it.
        result: Reload,
    }

    /// Labels of the endpoints of one destination.
    pub struct HealthKey {
        /// The called service.
        destination: NameId,
        /// How they are.
        health: Checked,
    }

    /// Labels of a health check.
    pub struct CheckKey {
        /// The called service.
        destination: NameId,
        /// How it ended.
        result: Check,
    }

    /// Labels of an answer to where services are.
    pub struct DiscoveryKey {
        /// Who was asked.
        origin: Origin,
        /// What came of it.
        result: Discovered,
    }

    /// One label: which certificate.
    pub struct CertificateKey {
        /// Which.
        kind: Certificate,
    }
}
