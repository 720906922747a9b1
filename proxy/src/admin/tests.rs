use std::cell::RefCell;
use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;

use super::*;
use crate::telemetry::{labels, why};

#[test]
fn ready_says_what_is_missing() {
    run(|admin, address, _| async move {
        let token = admin.readiness.token("certificate", "certs/alpha.pem does not exist");
        let (status, _, body) = get(address, "/ready").await;
        assert_eq!((status, &*body), (503, "not ready\ncertificate: certs/alpha.pem does not exist\n"));
        assert_eq!(get(address, "/live").await.0, 200);
        token.ready();
        let (status, _, body) = get(address, "/ready").await;
        assert_eq!((status, &*body), (200, "ready\n"));
    });
}

#[test]
fn metrics_come_in_the_format_that_was_asked_for() {
    run(|admin, address, _| async move {
        admin.metrics.metrics().config_generation(3);
        let (status, head, body) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(body.contains("\nlacis_config_generation 3\n"), "{body}");
        let (_, head, body) =
            ask(address, "GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: application/openmetrics-text\r\n").await;
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"));
    });
}

#[test]
fn a_stuck_worker_is_shown_and_holds_up_no_other() {
    run(|_, address, _| async move {
        let (status, head, body) = get(address, "/clusters").await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/json\r\n"));
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body,
            json!({"workers": [
                {"worker": 0, "state": "running", "clusters": {"delta": 2}},
                {"worker": 1, "state": "stuck", "waited_ms": 1000},
                {"worker": 2, "state": "gone"},
                {"worker": 3, "state": "running", "clusters": {}},
            ]})
        );
    });
}

#[test]
fn config_is_shown() {
    run(|_, address, _| async move {
        let (status, _, body) = get(address, "/config").await;
        assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, json!({"workers": 4})));
    });
}

#[test]
fn what_changes_something_takes_post_only() {
    run(|_, address, done| async move {
        for path in ["/drain", "/quit"] {
            let (status, head, _) = get(address, path).await;
            assert_eq!(status, 405);
            assert!(head.contains("allow: POST\r\n"), "{head}");
        }
        assert_eq!(get(address, "/logging?level=debug").await.0, 400);
        assert!(done.borrow().is_empty());
        assert_eq!(post(address, "/logging?level=info%2Cfilter%3Ddebug").await.2, "info,filter=debug\n");
        let (status, _, body) = post(address, "/logging?level=loud").await;
        assert_eq!((status, &*body), (400, "no level is called loud\n"));
        assert_eq!(post(address, "/logging").await.0, 400);
        assert_eq!(get(address, "/logging").await.2, "info\n");
        assert_eq!(post(address, "/drain").await.0, 200);
        assert_eq!(post(address, "/quit").await.0, 200);
        assert_eq!(*done.borrow(), ["info,filter=debug", "drain", "quit"]);
        let (status, head, _) = post(address, "/metrics").await;
        assert_eq!(status, 405);
        assert!(head.contains("allow: GET, HEAD\r\n"), "{head}");
    });
}

#[test]
fn the_index_lists_everything_and_so_does_404() {
    run(|_, address, _| async move {
        let (status, _, index) = get(address, "/").await;
        assert_eq!((status, &get(address, "/help").await.2), (200, &index));
        for path in [
            "/ready",
            "/live",
            "/metrics",
            "/config",
            "/clusters",
            "/filters",
            "/generations",
            "/logging",
            "/drain",
            "/quit",
        ] {
            assert!(index.contains(path), "{index}");
        }
        let (status, _, body) = get(address, "/listeners").await;
        assert_eq!(status, 404);
        assert!(body.ends_with(&index), "{body}");
    });
}

#[test]
fn a_strangers_page_is_refused() {
    run(|_, address, done| async move {
        let rebound = ask(address, "POST /quit HTTP/1.1\r\nhost: evil.example\r\n").await;
        let foreign = ask(address, "POST /quit HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n").await;
        assert_eq!((rebound.0, foreign.0), (403, 403));
        assert!(done.borrow().is_empty());
    });
}

#[test]
fn heads_are_bounded_and_heads_have_no_body() {
    run(|_, address, _| async move {
        let field = |length| format!("GET /live HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n", "x".repeat(length));
        assert_eq!(ask(address, &field(MAX_HEAD_BYTES / 2)).await.0, 200);
        assert_eq!(ask(address, &field(MAX_HEAD_BYTES)).await.0, 431);
        let (status, head, body) = ask(address, "HEAD /live HTTP/1.1\r\nhost: localhost\r\n").await;
        assert_eq!((status, &*body), (200, ""));
        assert!(head.contains("content-length: 5\r\n"), "{head}");
    });
}

#[test]
fn who_asks_nothing_makes_room_for_who_does() {
    run(|_, address, _| async move {
        let mut open = Vec::new();
        for number in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let half = if number == 1 { "" } else { "\r\n" };
            stream.write_all(format!("GET /live HTTP/1.1\r\nhost: localhost\r\n{half}").as_bytes()).await.unwrap();
            if number != 1 {
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            }
            open.push(stream);
        }
        // First the one that has asked nothing, then the oldest of those that have been answered.
        for (given_up, stays) in [(1, 0), (0, 2)] {
            assert_eq!(get(address, "/live").await.0, 200);
            let mut next = TcpStream::connect(address).await.unwrap();
            next.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            assert!(next.read(&mut [0; 1024]).await.unwrap() > 0);
            assert_eq!(open[given_up].read(&mut [0; 1024]).await.unwrap_or(0), 0, "{given_up}");
            let asked = b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n";
            open[stays].write_all(asked).await.unwrap();
            assert!(open[stays].read(&mut [0; 1024]).await.unwrap() > 0, "{stays}");
            open.push(next);
        }
    });
}

#[test]
fn who_is_being_answered_is_not_given_up() {
    run(|_, address, _| async move {
        // Each waits for the worker that is stuck.
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /clusters HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            open.push(stream);
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(address, "/live").await.0, 200);
        for stream in &mut open {
            assert!(stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0));
        }
    });
}

#[test]
fn an_idle_connection_is_closed() {
    run(|_, address, _| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nhost: loc").await.unwrap();
        // With the clock paused the runtime moves it to the next timer as soon as nothing else is to do.
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!((HEAD_TIME..CONNECTION_TIME).contains(&before.elapsed()), "{:?}", before.elapsed());
    });
}

#[test]
fn requests_are_explained() {
    run(|_, address, _| async move {
        let (status, _, body) = get(address, "/requests").await;
        let page: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, page["requests"].as_array().map(Vec::len)), (200, Some(2)));
        let (status, head, body) = get(address, "/requests/a%20b?format=text&limit=1").await;
        assert!(status == 200 && head.contains("text/plain") && body.starts_with("no answer: "), "{body}");
        let (status, _, body) = get(address, "/requests/none").await;
        assert_eq!(status, 404);
        assert!(body.starts_with("no record of the request \"none\": "), "{body}");
        for wrong in ["?limit=0", "?limit=1001", "?limit=x", "?format=xml", "?nonsense", "/%zz"] {
            assert_eq!(get(address, &format!("/requests{wrong}")).await.0, 400, "{wrong}");
        }
        assert_eq!(get(address, "/requests?limit=1000").await.0, 200);
    });
}

/// What is told of a request that is called `a b`.
fn record() -> Explanation {
    let ring = why::Ring::default();
    let asked = why::Asked { keep: 1, method: None, host: "delta", path: "/", query: false, identity: None };
    let mut noted = ring.begin(&asked);
    noted.identify(b"a b");
    let ending = why::Ending {
        started: std::time::Instant::now(),
        direction: labels::Direction::Outbound,
        method: labels::Method::Get,
        caller: ([127, 0, 0, 1], 1).into(),
        first: None,
        end: why::End::default(),
    };
    ring.push(noted, ending);
    ring.find(None, 1).remove(0)
}

type Answer = (u16, String, String);

/// Serves an [`Admin`] with four workers, of which one is stuck and one is gone, and notes what it was told to do.
fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Admin>, SocketAddr, Rc<RefCell<Vec<String>>>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let done = Rc::new(RefCell::new(Vec::new()));
        let note = |what: &'static str| {
            let done = done.clone();
            Box::new(move || done.borrow_mut().push(what.to_owned()))
        };
        let admin = Rc::new(Admin {
            readiness: Readiness::default(),
            metrics: Registry::default(),
            config: Box::new(|| Box::pin(async { json!({"workers": 4}) })),
            clusters: Box::new(|| {
                let said = |said: Option<Value>| -> Pin<Box<dyn Future<Output = Option<Value>>>> {
                    Box::pin(std::future::ready(said))
                };
                let all = vec![
                    said(Some(json!({"delta": 2}))),
                    Box::pin(std::future::pending()),
                    said(None),
                    said(Some(json!({}))),
                ];
                Box::pin(async {
                    let heard = gather(all).await;
                    let clusters = |said: &Value| [("clusters".to_owned(), said.clone())].into_iter().collect();
                    let workers: Vec<_> = heard.iter().enumerate().map(|(i, heard)| heard.show(i, clusters)).collect();
                    json!({"workers": workers})
                })
            }),
            filters: Box::new(|| Box::pin(async { json!([]) })),
            generations: Box::new(|| Box::pin(async { json!([]) })),
            requests: Box::new(|id, most| {
                let fits = |id: Option<&str>| id.is_none_or(|id| id == "a b");
                let all = if fits(id) { vec![record(); most.min(2)] } else { Vec::new() };
                Box::pin(async { all })
            }),
            logging: Box::new({
                let done = done.clone();
                move |levels| match levels {
                    None => Ok("info".into()),
                    Some("loud") => Err("no level is called loud".into()),
                    Some(levels) => {
                        done.borrow_mut().push(levels.to_owned());
                        Ok(levels.into())
                    }
                }
            }),
            drain: note("drain"),
            quit: note("quit"),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::select! {
            () = serve(admin.clone(), listener) => panic!("admin ended"),
            () = test(admin.clone(), address, done.clone()) => {}
        }
    }));
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n")).await
}

async fn post(address: SocketAddr, path: &str) -> Answer {
    ask(address, &format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n")).await
}

/// Status, head and body of the answer to a head without its last empty line.
async fn ask(address: SocketAddr, head: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A head that is too long may be refused, and the connection reset, before it is written.
    let _ = stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head[9..12].parse().unwrap(), format!("{head}\r\n"), body.to_owned())
}
