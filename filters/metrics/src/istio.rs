//! Istio's standard metrics: their names, their labels, and where a sidecar without Istio's own facts gets these from.

use std::cell::OnceCell;

use lacis_sdk::{Attributes, Direction, End};

use crate::labels::{Values, flags, grpc_status, is_grpc};
use crate::series::{Group, Kind, Metric, Of};

/// What Istio says where it does not know.
const UNKNOWN: &str = "unknown";
/// Values of one label that are told apart: as many as there are services in a large mesh.
const VALUES: usize = 512;

/// The labels in the order in which Istio writes them.
const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// The metrics.
pub(crate) struct Istio {
    own: OnceCell<Workload>,
    values: Vec<Values>,
    group: Group,
}

/// One end of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Workload {
    name: Option<String>,
    namespace: Option<String>,
    app: Option<String>,
    version: Option<String>,
    revision: Option<String>,
    canonical: Option<String>,
    cluster: Option<String>,
}

impl Istio {
    pub(crate) fn new(most: usize) -> Self {
        let metric = |name: &str, of, kind| Metric { name: name.to_owned(), of, kind };
        let metrics = vec![
            metric("istio_requests_total", Of::Requests, Kind::Counter),
            metric("istio_request_duration_milliseconds", Of::Duration, Kind::Histogram),
            metric("istio_request_bytes", Of::RequestBytes, Kind::Histogram),
            metric("istio_response_bytes", Of::ResponseBytes, Kind::Histogram),
        ];
        let values = LABELS.iter().map(|_| Values::first(VALUES)).collect();
        Self { own: OnceCell::new(), values, group: Group::new(metrics, most) }
    }

    pub(crate) fn count(&mut self, end: &End) {
        let attributes = end.attributes();
        let own = self.own.get_or_init(|| Workload::own(attributes));
        let texts = labels(end, own);
        let indices = texts.iter().zip(&mut self.values).map(|(text, values)| values.index(Some(text)));
        let indices: Vec<u32> = indices.collect();
        let values = &self.values;
        self.group.count(end, &indices, || {
            let texts = values.iter().zip(&indices).map(|(values, index)| values.value(*index));
            LABELS.into_iter().zip(texts)
        });
    }
}

/// The values of the labels, in their order.
fn labels(end: &End, own: &Workload) -> [String; 25] {
    let attributes = end.attributes();
    let outbound = attributes.direction() == Some(Direction::Outbound);
    let principal = |path: [&str; 2]| attributes.text(&path).filter(|text| !text.is_empty());
    let (theirs, ours) = if outbound {
        (principal(["upstream", "uri_san_peer_certificate"]), principal(["upstream", "uri_san_local_certificate"]))
    } else {
        (attributes.peer_identity(), principal(["connection", "uri_san_local_certificate"]))
    };
    let peer = Workload::of_identity(theirs.as_deref());
    // Where the sidecar has not been told its workload, its certificate says it.
    let own = own.clone().or(Workload::of_identity(ours.as_deref()));
    let service = service(attributes, outbound, &own);
    let (source, destination, source_principal, destination_principal) =
        if outbound { (&own, &peer, ours, theirs) } else { (&peer, &own, theirs, ours) };
    let grpc = is_grpc(end);
    let security = match attributes.flag(&["connection", "mtls"]) {
        _ if outbound => UNKNOWN,
        Some(true) => "mutual_tls",
        _ => "none",
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let revision = |value: &Option<String>| value.clone().unwrap_or_else(|| "latest".to_owned());
    let namespace = service.as_deref().and_then(namespace_of).map(str::to_owned).or(destination.namespace.clone());
    let first_word = service.as_deref().map(|service| service.split(['.', ':']).next().unwrap_or(service).to_owned());
    [
        if outbound { "source" } else { "destination" }.to_owned(),
        text(&source.name),
        text(&source.canonical),
        revision(&source.revision),
        text(&source.namespace),
        text(&source_principal),
        text(&source.app),
        text(&source.version),
        text(&source.cluster),
        text(&destination.name),
        text(&destination.namespace),
        text(&destination_principal),
        text(&destination.app),
        text(&destination.version),
        text(&service),
        text(&destination.canonical),
        revision(&destination.revision),
        text(&first_word),
        text(&namespace),
        text(&destination.cluster),
        if grpc { "grpc" } else { "http" }.to_owned(),
        end.status().to_string(),
        grpc_status(end).unwrap_or_default(),
        flags(end),
        security.to_owned(),
    ]
}

impl Workload {
    /// What the sidecar was told of itself, by the names that Istio gives it.
    fn own(attributes: Attributes<'_>) -> Self {
        let fact = |path: &[&str]| {
            let path: Vec<&str> = ["node", "metadata"].into_iter().chain(path.iter().copied()).collect();
            attributes.text(&path).filter(|text| !text.is_empty())
        };
        let label = |name: &str| fact(&["LABELS", name]);
        let name = fact(&["WORKLOAD_NAME"]);
        let app = label("app").or_else(|| label("app.kubernetes.io/name"));
        Self {
            namespace: fact(&["NAMESPACE"]),
            canonical: label("service.istio.io/canonical-name").or_else(|| app.clone()).or_else(|| name.clone()),
            revision: label("service.istio.io/canonical-revision").or_else(|| label("version")),
            version: label("version"),
            cluster: fact(&["CLUSTER_ID"]),
            app,
            name,
        }
    }

    /// What `spiffe://DOMAIN/ns/NAMESPACE/sa/NAME` says.
    fn of_identity(identity: Option<&str>) -> Self {
        let path = identity.and_then(|identity| identity.strip_prefix("spiffe://")?.split_once('/'));
        let parts: Vec<&str> = path.map(|(_, path)| path.split('/').collect()).unwrap_or_default();
        match parts.as_slice() {
            ["ns", namespace, "sa", name] => {
                let name = Some((*name).to_owned());
                let namespace = Some((*namespace).to_owned());
                Self { app: name.clone(), canonical: name.clone(), name, namespace, ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            namespace: self.namespace.or(other.namespace),
            app: self.app.or(other.app),
            version: self.version.or(other.version),
            revision: self.revision.or(other.revision),
            canonical: self.canonical.or(other.canonical),
            cluster: self.cluster.or(other.cluster),
        }
    }
}

/// The service that was called. Istio's clusters are called `outbound|PORT|SUBSET|HOST`; an inbound one says no service.
fn service(attributes: Attributes<'_>, outbound: bool, own: &Workload) -> Option<String> {
    let cluster = attributes.service().filter(|cluster| !cluster.is_empty());
    let of_cluster = |cluster: String| match cluster.rsplit_once('|') {
        Some((_, host)) if !host.is_empty() => Some(host.to_owned()),
        Some(_) => None,
        None => Some(cluster),
    };
    match outbound {
        true => cluster.and_then(of_cluster),
        // The cluster of an application has the name of no service.
        false => own.canonical.clone(),
    }
}

/// `default` of `ratings.default.svc.cluster.local`.
fn namespace_of(service: &str) -> Option<&str> {
    let mut words = service.split('.');
    let (_, namespace, svc) = (words.next()?, words.next()?, words.next()?);
    (svc == "svc").then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_says_who_somebody_is() {
        let workload = Workload::of_identity(Some("spiffe://cluster.local/ns/shop/sa/cart"));
        assert_eq!((workload.name.as_deref(), workload.namespace.as_deref()), (Some("cart"), Some("shop")));
        for other in ["", "spiffe://", "spiffe://a/b", "spiffe://a/ns/b/sa/c/d", "https://a/ns/b/sa/c"] {
            assert_eq!(Workload::of_identity(Some(other)), Workload::default(), "{other}");
        }
    }

    #[test]
    fn a_service_says_its_namespace() {
        assert_eq!(namespace_of("ratings.shop.svc.cluster.local"), Some("shop"));
        assert_eq!(namespace_of("ratings"), None);
        assert_eq!(namespace_of("api.example.com"), None);
    }
}
