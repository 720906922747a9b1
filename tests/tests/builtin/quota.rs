//! `builtin:quota`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use lacis_tests::runtime;
use serde_json::json;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::both;
use crate::words::Method;

#[test]
fn callers_have_buckets() {
    let rules = json!([{"name": "user", "by": [{"header": "x-user"}], "tokens": 2, "per": 3600}]);
    both("quota", json!({"rules": rules})).run(|side| {
        let ask = |user: &str| side.get("/bytes/1", &[("x-user", user)]);
        let first = ask("ada");
        assert_eq!((first.status(), first.field("ratelimit-policy")), (200, Some("\"user\";q=2;w=3600")));
        assert!(first.field("ratelimit").is_some_and(|told| told.starts_with("\"user\";r=1;t=")), "{:?}", first.head);
        assert_eq!((ask("ada").status(), ask("bob").status()), (200, 200));
        let refused = ask("ada");
        assert_eq!(refused.status(), 429);
        let seconds: u32 = refused.field("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
        assert!((1..=1800).contains(&seconds), "{seconds}");
        assert!(
            refused.field("ratelimit").is_some_and(|told| told.starts_with("\"user\";r=0;t=")),
            "{:?}",
            refused.head
        );
        assert_eq!(side.app("app").requests(), 3);
    });
}

#[test]
fn a_service_is_asked() {
    let address = serve();
    let service = json!({"service": "limits", "domain": "shop", "timeout_ms": 10_000, "descriptors": [
        {"entries": [{"key": "user", "from": {"header": "x-user"}}]}]});
    both("quota", json!({"service": service, "failure": "closed", "cost": 2})).grpc("limits", address).run(|side| {
        let ask = |user: &str| side.get("/echo", &[("x-user", user)]);
        let passed = ask("ada");
        assert_eq!((passed.status(), passed.field("ratelimit")), (200, Some("\"service\";r=3;t=9")));
        assert_eq!(side.app("app").seen()[0].field("x-asked"), Some("shop user=ada 2"));
        let refused = ask("eve");
        assert_eq!((refused.status(), refused.field("retry-after")), (429, Some("9")));
        assert_eq!(ask("nobody").status(), 503, "the service knows no answer");
        assert_eq!(side.get("/echo", &[]).status(), 200, "nothing to ask about");
        assert_eq!(side.app("app").requests(), 2);
    });
}

/// A rate limit service: `eve` is over her limit, of `nobody` it knows nothing.
fn serve() -> SocketAddr {
    runtime().block_on(async {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = incoming.local_addr().expect("a bound socket");
        tokio::spawn(Server::builder().serve_with_incoming(Limits, incoming));
        address
    })
}

#[derive(Clone)]
struct Limits;

impl NamedService for Limits {
    const NAME: &'static str = "envoy.service.ratelimit.v3.RateLimitService";
}

impl Service<http::Request<Body>> for Limits {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit" {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let codec = ProstCodec::<RateLimitResponse, RateLimitRequest>::default();
            Ok(Grpc::new(codec).unary(Method(should_rate_limit), request).await)
        })
    }
}

async fn should_rate_limit(request: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
    let RateLimitRequest { domain, descriptors, hits_addend } = request.into_inner();
    let entry = descriptors[0].entries[0].clone();
    let code = match entry.value.as_str() {
        "nobody" => return Err(Status::internal("who?")),
        "eve" => 2,
        _ => 1,
    };
    let reset = Some(Duration { seconds: 9, nanos: 0 });
    let limit = Some(RateLimit { requests_per_unit: 5, unit: 2 });
    let asked = format!("{domain} {}={} {hits_addend}", entry.key, entry.value);
    Ok(Response::new(RateLimitResponse {
        overall_code: code,
        statuses: vec![DescriptorStatus {
            code,
            current_limit: limit,
            limit_remaining: 3,
            duration_until_reset: reset,
        }],
        request_headers_to_add: vec![HeaderValue { key: "x-asked".to_owned(), value: asked }],
    }))
}

// As Envoy's rls.proto has them, and not as the filter does.
#[derive(Clone, PartialEq, prost::Message)]
struct RateLimitRequest {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<RateLimitDescriptor>,
    #[prost(uint32, tag = "3")]
    hits_addend: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RateLimitDescriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<RateLimitEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RateLimitEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RateLimitResponse {
    #[prost(int32, tag = "1")]
    overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    statuses: Vec<DescriptorStatus>,
    #[prost(message, repeated, tag = "4")]
    request_headers_to_add: Vec<HeaderValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DescriptorStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, optional, tag = "2")]
    current_limit: Option<RateLimit>,
    #[prost(uint32, tag = "3")]
    limit_remaining: u32,
    #[prost(message, optional, tag = "4")]
    duration_until_reset: Option<Duration>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RateLimit {
    #[prost(uint32, tag = "1")]
    requests_per_unit: u32,
    #[prost(int32, tag = "2")]
    unit: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Duration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
