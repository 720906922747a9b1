//! gRPC across the pair: tonic on both ends, and grpcurl as a client that shares nothing with it.

#[path = "../peers/mod.rs"]
mod peers;
mod words;

use std::time::Duration;

use http::uri::PathAndQuery;
use lacis_tests::{Link, block_on, on_links, peer, until};
use peers::Foreign;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tonic::client::Grpc;
use tonic::codegen::tokio_stream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use words::{Codec, word};

/// tonic's server behind the pair.
struct Calls {
    pair: Foreign,
    waiting: watch::Receiver<usize>,
}

impl Calls {
    fn new(link: Link) -> Calls {
        let (address, watched) = words::serve();
        Calls { pair: Foreign::start(link, address, "h2c"), waiting: watched }
    }

    /// A client whose `:authority` is `delta`, at alpha's outbound listener.
    async fn client(&self) -> Grpc<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.pair.alpha.outbound())).expect("an address");
        let endpoint = endpoint.origin(http::Uri::from_static("http://delta"));
        let mut client = Grpc::new(endpoint.connect().await.expect("a connection"));
        client.ready().await.expect("a ready channel");
        client
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/lacis.test.Words/{method}").parse().expect("a path")
}

on_links! {
    /// Metadata, messages of every size that tonic takes, and several calls at once on one connection.
    [H2, H3] fn unary_calls(link) {
        let calls = Calls::new(link);
        block_on(async {
            let client = calls.client().await;
            let mut all = tokio::task::JoinSet::new();
            for size in [0, 1, 1000, 16_384, 100_000, 3_000_000] {
                let mut client = client.clone();
                all.spawn(async move {
                    let mut request = Request::new(word("x".repeat(size)));
                    request.metadata_mut().insert("x-user", "ann".parse().expect("a value"));
                    client.ready().await.expect("a ready channel");
                    let answer = client.unary(request, path("Echo"), Codec::default()).await.expect("an answer");
                    assert_eq!(answer.metadata().get("x-user-seen").map(|v| v.as_bytes()), Some(&b"ann"[..]));
                    assert_eq!(answer.into_inner().text.len(), size);
                });
            }
            while let Some(done) = all.join_next().await {
                done.expect("a call that succeeds");
            }
        });
    }

    [H2, H3] fn streams_from_the_server(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let request = Request::new(word("streaming"));
            let answer = client.server_streaming(request, path("Letters"), Codec::default()).await.expect("an answer");
            let mut letters = answer.into_inner();
            let mut text = String::new();
            while let Some(letter) = letters.message().await.expect("a letter") {
                text += &letter.text;
            }
            assert_eq!(text, "streaming");
            assert!(letters.trailers().await.expect("trailers").is_some(), "the stream ends with trailers");
        });
    }

    [H2, H3] fn streams_from_the_client(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let words = tokio_stream::iter(["one ", "two ", "three"].map(word));
            let answer = client.client_streaming(Request::new(words), path("Join"), Codec::default()).await;
            assert_eq!(answer.expect("an answer").into_inner().text, "one two three");
        });
    }

    /// Each word is sent only after the answer to the one before it was read: nothing on the way may wait for more.
    [H2, H3] fn streams_both_ways_in_turns(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let (say, said) = mpsc::channel(1);
            let request = Request::new(ReceiverStream::new(said));
            say.send(word("first")).await.expect("a listener");
            let answer = client.streaming(request, path("Shout"), Codec::default()).await.expect("an answer");
            let mut heard = answer.into_inner();
            assert_eq!(heard.message().await.expect("a word"), Some(word("FIRST")));
            for number in 0..100 {
                say.send(word(format!("word {number}"))).await.expect("a listener");
                assert_eq!(heard.message().await.expect("a word"), Some(word(format!("WORD {number}"))));
            }
            drop(say);
            assert_eq!(heard.message().await.expect("an end"), None);
        });
    }

    /// A status in the trailers after messages, while the client is still sending.
    [H2, H3] fn a_stream_ends_with_an_error(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let (say, said) = mpsc::channel(1);
            let request = Request::new(ReceiverStream::new(said));
            say.send(word("a")).await.expect("a listener");
            let answer = client.streaming(request, path("Shout"), Codec::default()).await.expect("an answer");
            let mut heard = answer.into_inner();
            assert_eq!(heard.message().await.expect("a word"), Some(word("A")));
            say.send(word("stop")).await.expect("a listener");
            let status = heard.message().await.expect_err("the end");
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "hoarse"));
        });
    }

    /// Trailers-only: code, a message outside ASCII, binary details, and metadata.
    [H2, H3] fn an_error_comes_whole(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let answer = client.unary(Request::new(word("cat")), path("Fail"), Codec::default()).await;
            let status = answer.expect_err("an error");
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert_eq!(status.message(), "no »cat« here");
            assert_eq!(status.details(), b"\0\x01\xff");
            assert_eq!(status.metadata().get("x-hint").map(|v| v.as_bytes()), Some(&b"try another"[..]));
            client.ready().await.expect("a ready channel");
            let unknown = client.unary(Request::new(word("")), path("Nothing"), Codec::default()).await;
            assert_eq!(unknown.expect_err("an error").code(), Code::Unimplemented);
        });
    }

    /// `grpc-timeout` reaches the server, which gives up by itself; the client gets a status, not a broken stream.
    [H2, H3] fn a_deadline_crosses(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let mut request = Request::new(word(""));
            request.set_timeout(Duration::from_millis(300));
            let status = client.unary(request, path("Wait"), Codec::default()).await.expect_err("a deadline");
            assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
            calls.waiting.clone().wait_for(|count| *count == 0).await.expect("a server");
        });
    }

    /// A client that goes away in mid-call ends the call at the server.
    [H2, H3] fn a_cancelled_call_ends_at_the_server(link) {
        let calls = Calls::new(link);
        block_on(async {
            let mut client = calls.client().await;
            let mut waiting = calls.waiting.clone();
            let call = tokio::spawn(async move {
                client.unary(Request::new(word("")), path("Wait"), Codec::default()).await
            });
            waiting.wait_for(|count| *count == 1).await.expect("a server");
            call.abort();
            waiting.wait_for(|count| *count == 0).await.expect("a server");
        });
    }

    /// A failure of ours is a trailers-only answer with a mapped code (`product.md`, "On the wire").
    [H2, H3] fn a_fault_of_ours_is_a_status(link) {
        let calls = Calls::new(link);
        calls.pair.delta.signal("KILL");
        calls.pair.delta.wait();
        block_on(async {
            let mut client = calls.client().await;
            let status = client.unary(Request::new(word("")), path("Echo"), Codec::default()).await.expect_err("a fault");
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        });
    }

    /// grpc-go through the pair.
    [H2, H3] fn grpcurl_calls_everything(link) {
        let Some(grpcurl) = peer("grpcurl") else { return };
        let calls = Calls::new(link);
        let call = |method: &str, data: &str, more: &[&str]| {
            let proto = peers::file("words.proto");
            let mut command = grpcurl.command();
            command.args(["-plaintext", "-authority", "delta", "-max-time", "20", "-emit-defaults"]).args(more);
            command.arg("-import-path").arg(proto.parent().expect("a directory")).args(["-proto", "words.proto"]);
            command.args(["-d", data, &calls.pair.alpha.outbound().to_string(), &format!("lacis.test.Words/{method}")]);
            peers::run(&mut command)
        };
        let texts = |out: &str| -> Vec<String> {
            let values = serde_json::Deserializer::from_str(out).into_iter::<Value>();
            values.map(|v| v.expect("JSON")["text"].as_str().unwrap_or_default().to_owned()).collect()
        };

        let (code, out, err) = call("Echo", &json!({"text": "hello"}).to_string(), &[]);
        assert_eq!((code, texts(&out)), (0, vec!["hello".to_owned()]), "{err}");
        let (code, out, err) = call("Letters", r#"{"text": "abc"}"#, &[]);
        assert_eq!((code, texts(&out).concat()), (0, "abc".to_owned()), "{err}");
        let (code, out, err) = call("Join", r#"{"text": "a"}{"text": "b"}"#, &[]);
        assert_eq!((code, texts(&out)), (0, vec!["ab".to_owned()]), "{err}");
        let (code, out, err) = call("Shout", r#"{"text": "a"}{"text": "b"}"#, &[]);
        assert_eq!((code, texts(&out).concat()), (0, "AB".to_owned()), "{err}");
        let (code, _, err) = call("Fail", r#"{"text": "dog"}"#, &[]);
        assert_eq!(code, 64 + Code::FailedPrecondition as i32, "{err}");
        assert!(err.contains("no »dog« here"), "{err}");
        // The deadline has two ends that run out in the same millisecond: grpcurl's own, and the server's, whose
        // library says `Cancelled` (tonic, `TimeoutExpired`). Whichever is first is the right answer.
        // On a busy machine it may run out before there is a connection: that is another error.
        until("a call meets its deadline", || {
            let (code, _, err) = call("Wait", "{}", &["-max-time", "0.5"]);
            eprintln!("{code}: {err}");
            let expired = code == 64 + Code::Cancelled as i32 && err.contains("Timeout expired");
            (expired || code == 64 + Code::DeadlineExceeded as i32).then_some(())
        });
        block_on(async { drop(calls.waiting.clone().wait_for(|count| *count == 0).await.expect("a server")) });
    }
}
