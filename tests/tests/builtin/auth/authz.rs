//! A service of `envoy.service.auth.v3.Authorization`, with messages of its own: tonic's server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use lacis_tests::runtime;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributes {
    #[prost(message, optional, tag = "4")]
    request: Option<Asked>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(message, optional, tag = "2")]
    http: Option<Http>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Http {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Number>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Denied>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Passed>,
}

/// `google.rpc.Status` and `envoy.type.v3.HttpStatus`: what is used of both.
#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Denied {
    #[prost(message, optional, tag = "1")]
    status: Option<Number>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Passed {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// Starts it: where it listens.
pub(super) fn serve() -> SocketAddr {
    runtime().block_on(async {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = incoming.local_addr().expect("a bound socket");
        tokio::spawn(Server::builder().serve_with_incoming(Authorization, incoming));
        address
    })
}

#[derive(Clone)]
struct Authorization;

impl Service<http::Request<Body>> for Authorization {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != "/envoy.service.auth.v3.Authorization/Check" {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<CheckResponse, CheckRequest>::default());
            Ok(grpc.unary(Check, request).await)
        })
    }
}

/// Lets `good` pass as `ada`, sends `none` to the login, fails for `broken`, and refuses others.
struct Check;

impl Service<Request<CheckRequest>> for Check {
    type Response = Response<CheckResponse>;
    type Error = Status;
    type Future = BoxFuture<Response<CheckResponse>, Status>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        let asked = request.into_inner().attributes.and_then(|attributes| attributes.request?.http);
        Box::pin(async move {
            let http = asked.ok_or_else(|| Status::invalid_argument("no request"))?;
            if (http.method.as_str(), http.path.as_str(), http.host.as_str()) != ("GET", "/echo", "app") {
                return Err(Status::invalid_argument(format!("{http:?}")));
            }
            let header = |key: &str, value: &str| {
                let header = Header { key: key.to_owned(), value: value.to_owned() };
                vec![HeaderOption { header: Some(header) }]
            };
            let denied = |status: i32, headers: Vec<HeaderOption>| CheckResponse {
                status: Some(Number { code: 7 }),
                denied: Some(Denied { status: Some(Number { code: status }), headers }),
                ok: None,
            };
            match http.headers.get("authorization").map(String::as_str) {
                Some("good") => {
                    let ok = Some(Passed { headers: header("x-user", "ada") });
                    Ok(Response::new(CheckResponse { status: Some(Number { code: 0 }), denied: None, ok }))
                }
                Some("none") => Ok(Response::new(denied(302, header("location", "/login")))),
                Some("broken") => Err(Status::internal("broken")),
                _ => Ok(Response::new(denied(403, header("x-why", "unknown")))),
            }
        })
    }
}
