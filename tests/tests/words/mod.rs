//! tonic's server for the service of `words.proto`.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by tests; each uses its own part")]

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use lacis_tests::runtime;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::tokio_stream::{self, StreamExt};
use tonic::codegen::{BoxFuture, BoxStream, Service};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// Starts it: where it listens, and how many calls of `Wait` run.
pub fn serve() -> (SocketAddr, watch::Receiver<usize>) {
    let (waiting, watched) = watch::channel(0);
    let address = runtime().block_on(async {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = incoming.local_addr().expect("a bound socket");
        tokio::spawn(Server::builder().serve_with_incoming(Words { waiting }, incoming));
        address
    });
    (address, watched)
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Word {
    #[prost(string, tag = "1")]
    pub text: String,
}

pub fn word(text: impl Into<String>) -> Word {
    Word { text: text.into() }
}

pub type Codec = ProstCodec<Word, Word>;

/// The service of `words.proto`, as tonic's code generator would write it.
#[derive(Clone)]
pub struct Words {
    /// Calls of `Wait` that run now.
    waiting: watch::Sender<usize>,
}

impl Words {
    async fn echo(request: Request<Word>) -> Result<Response<Word>, Status> {
        let user = request.metadata().get("x-user").cloned();
        let mut response = Response::new(request.into_inner());
        if let Some(user) = user {
            response.metadata_mut().insert("x-user-seen", user);
        }
        Ok(response)
    }

    async fn letters(request: Request<Word>) -> Result<Response<BoxStream<Word>>, Status> {
        let letters: Vec<_> = request.into_inner().text.chars().map(|c| Ok(word(c))).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(letters))))
    }

    async fn join(request: Request<Streaming<Word>>) -> Result<Response<Word>, Status> {
        let mut words = request.into_inner();
        let mut text = String::new();
        while let Some(word) = words.message().await? {
            text += &word.text;
        }
        Ok(Response::new(word(text)))
    }

    async fn shout(request: Request<Streaming<Word>>) -> Result<Response<BoxStream<Word>>, Status> {
        let loud = request.into_inner().map(|w| match w {
            Ok(w) if w.text == "stop" => Err(Status::resource_exhausted("hoarse")),
            Ok(w) => Ok(word(w.text.to_uppercase())),
            Err(status) => Err(status),
        });
        Ok(Response::new(Box::pin(loud)))
    }

    async fn fail(request: Request<Word>) -> Result<Response<Word>, Status> {
        let message = format!("no »{}« here", request.into_inner().text);
        let mut status = Status::with_details(Code::FailedPrecondition, message, b"\0\x01\xff"[..].into());
        status.metadata_mut().insert("x-hint", tonic::metadata::MetadataValue::from_static("try another"));
        Err(status)
    }

    async fn wait(self, _: Request<Word>) -> Result<Response<Word>, Status> {
        let _here = Here::new(self.waiting);
        pending().await
    }
}

/// Counts as waiting while it lives.
struct Here(watch::Sender<usize>);

impl Here {
    fn new(waiting: watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Here(waiting)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Service<http::Request<Body>> for Words {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let words = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match request.uri().path() {
                "/lacis.test.Words/Echo" => grpc.unary(Method(Words::echo), request).await,
                "/lacis.test.Words/Letters" => grpc.server_streaming(Method(Words::letters), request).await,
                "/lacis.test.Words/Join" => grpc.client_streaming(Method(Words::join), request).await,
                "/lacis.test.Words/Shout" => grpc.streaming(Method(Words::shout), request).await,
                "/lacis.test.Words/Fail" => grpc.unary(Method(Words::fail), request).await,
                "/lacis.test.Words/Wait" => grpc.unary(Method(move |r| words.clone().wait(r)), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A method that is a function.
pub struct Method<F>(pub F);

impl<F, M, R, A> Service<Request<M>> for Method<F>
where
    F: FnMut(Request<M>) -> A,
    A: Future<Output = Result<Response<R>, Status>>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = A;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> A {
        (self.0)(request)
    }
}
