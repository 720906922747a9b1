//! Whole exchanges through small filters.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use lacis_sdk::testing::{Answer, Message, Plugin};
use lacis_sdk::{
    Call, ConfigError, End, Filter, Flow, GrpcCall, Notify, Reads, Reply, Request, Response, Shared, Take, TokenBucket,
    join, join_all, random_u64, sleep, timeout, unix_time,
};

/// What a test's filter does with requests and responses.
macro_rules! filter {
    ($name:ident, $reads:ident, |$request:ident| $body:expr) => {
        struct $name;
        impl Filter for $name {
            type Config = ();
            const READS: Reads = Reads::$reads;
            fn new((): ()) -> Result<Self, ConfigError> {
                Ok(Self)
            }
            async fn on_request(&self, $request: &mut Request) -> Result<Flow, Reply> {
                $body
            }
        }
    };
}

fn plugin<F: Filter>() -> Plugin<F> {
    Plugin::configure("").unwrap()
}

filter!(Reader, REQUEST_BODY, |request| {
    let body = request.body_up_to(8).await?;
    request.headers_mut().set("x-body", body.text()?)?;
    if body.starts_with(b"set:") {
        request.set_body(format!("was {} bytes", body.len()))?;
    }
    Ok(Flow::Continue)
});

#[test]
fn a_body_is_read_while_the_head_is_held() {
    let plugin = plugin::<Reader>();
    let request = Message::post("/").chunk("ab").chunk("").chunk("cd");
    let passed = plugin.exchange().request(request.clone()).unwrap();
    assert_eq!(passed, request.header("x-body", "abcd"));
    assert_eq!(passed.chunks(), [b"abcd"]);
}

#[test]
fn a_message_without_a_body_has_an_empty_one() {
    let plugin = plugin::<Reader>();
    for request in [Message::get("/"), Message::post("/").with_body(), Message::post("/").trailer("a", "b")] {
        assert_eq!(plugin.exchange().request(request.clone()), Ok(request.header("x-body", "")));
    }
}

#[test]
fn a_body_is_bounded() {
    let plugin = plugin::<Reader>();
    assert!(plugin.exchange().request(Message::post("/").chunk("12345678")).is_ok());
    let reply = plugin.exchange().request(Message::post("/").chunk("1234567").chunk("89")).unwrap_err();
    assert_eq!((reply.status(), reply.content()), (413, &b"the body of the request has more than 8 bytes\n"[..]));
}

#[test]
fn what_is_not_text_is_the_callers_mistake() {
    let reply = plugin::<Reader>().exchange().request(Message::post("/").chunk(b"\xff")).unwrap_err();
    assert_eq!(reply.status(), 400);
}

#[test]
fn a_body_is_replaced_and_its_length_told() {
    let plugin = plugin::<Reader>();
    let passed = plugin.exchange().request(Message::post("/").body("set:12").trailer("x", "y")).unwrap();
    assert_eq!(passed.text(), "was 6 bytes");
    assert_eq!(passed.value("content-length").as_deref(), Some("11"));
    assert_eq!(passed.trailer_value("x").as_deref(), Some("y"));
    let passed = plugin.exchange().request(Message::post("/").chunk("set:").chunk("12")).unwrap();
    assert_eq!((passed.text().as_str(), passed.value("content-length")), ("was 6 bytes", None));
}

filter!(Undeclared, HEADS, |request| {
    request.body().await?;
    Ok(Flow::Continue)
});

#[test]
fn bodies_must_be_declared() {
    let plugin = plugin::<Undeclared>();
    assert_eq!(plugin.exchange().request(Message::post("/").chunk("a")).unwrap_err().status(), 500);
    assert!(plugin.logs()[0].1.contains("Filter::READS"));
}

filter!(Shouter, REQUEST_BODY, |request| {
    request.headers_mut().set("x-shouts", "yes")?;
    request.rewrite_body();
    while let Some(mut chunk) = request.chunk().await? {
        match &chunk[..] {
            b"drop" => chunk.clear()?,
            b"keep" => {}
            _ => {
                let shout = chunk.to_ascii_uppercase();
                chunk.replace([&shout[..], b"!"].concat())?;
            }
        }
    }
    if request.has_body() {
        // The head has gone on.
        assert!(request.headers_mut().set("x-late", "yes").is_err());
        assert_eq!(request.path(), "");
    }
    if let Some(trailers) = request.trailers().await? {
        trailers.set("x-end", "yes")?;
    }
    Ok(Flow::Continue)
});

#[test]
fn chunks_go_on_one_by_one() {
    let plugin = plugin::<Shouter>();
    let request = Message::post("/").header("content-length", "13").chunk("a").chunk("drop").chunk("keep").chunk("b");
    let passed = plugin.exchange().request(request).unwrap();
    assert_eq!(passed.chunks(), [&b"A!"[..], b"keep", b"B!"]);
    assert_eq!((passed.value("content-length"), passed.value("x-shouts").as_deref()), (None, Some("yes")));
    let passed = plugin.exchange().request(Message::post("/").chunk("a").trailer("x", "y")).unwrap();
    assert_eq!((passed.text().as_str(), passed.trailer_value("x-end").as_deref()), ("A!", Some("yes")));
    assert!(plugin.exchange().request(Message::get("/")).is_ok());
}

filter!(Gatherer, REQUEST_BODY, |request| {
    // Chunks that come while it waits for something else are seen one by one all the same.
    let mut count = 0;
    while let Some(mut chunk) = request.chunk().await? {
        count += 1;
        if count == 1 {
            sleep(Duration::from_secs(1)).await;
            chunk.replace("first")?;
        } else if count == 2 {
            chunk.replace(format!("<{}>", String::from_utf8_lossy(&chunk)))?;
        }
    }
    Ok(Flow::Continue)
});

#[test]
fn chunks_wait_while_the_filter_does() {
    let passed = plugin::<Gatherer>().exchange().request(Message::post("/").chunk("a").chunk("b").chunk("c")).unwrap();
    assert_eq!(passed.chunks(), [b"first<bc>"]);
}

filter!(Fixed, REQUEST_BODY, |request| {
    while let Some(mut chunk) = request.chunk().await? {
        chunk.replace("xy")?;
    }
    Ok(Flow::Continue)
});

#[test]
fn a_length_that_was_told_is_kept() {
    let plugin = plugin::<Fixed>();
    assert_eq!(plugin.exchange().request(Message::post("/").body("ab")).unwrap().text(), "xy");
    assert_eq!(plugin.exchange().request(Message::post("/").body("abc")).unwrap_err().status(), 500);
    assert_eq!(plugin.exchange().request(Message::post("/").chunk("abc")).unwrap().text(), "xy");
}

struct Answers;
impl Filter for Answers {
    type Config = ();
    const READS: Reads = Reads::RESPONSE_BODY;
    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }
    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        let body: Vec<u32> = response.body().await?.json()?;
        response.set_body(format!("{}", body.iter().sum::<u32>()))?;
        Ok(Flow::Continue)
    }
}

#[test]
fn bodies_of_responses_are_read_and_replaced() {
    let plugin = plugin::<Answers>();
    let mut exchange = plugin.exchange();
    exchange.request(Message::post("/").chunk("unseen")).unwrap();
    let passed = exchange.response(Message::response(200).body("[1, 2, 3]")).unwrap();
    assert_eq!((passed.text().as_str(), passed.value("content-length").as_deref()), ("6", Some("1")));
    let reply = plugin.exchange().response(Message::response(200).body("[1, ")).unwrap_err();
    assert_eq!((reply.status(), reply.content()), (502, &b""[..]));
}

filter!(Caller, HEADS, |request| {
    let user = Call::get("users", "/who").header("x-path", request.path());
    let rights = Call::post("rights", "/ask").body("alice").timeout(Duration::from_millis(50));
    let (user, rights) = join(user.send(), rights.send()).await;
    let (user, rights) = (user?.success()?, rights?);
    request.headers_mut().set("x-user", user.body())?;
    request.headers_mut().set("x-rights", rights.status().to_string())?;
    Ok(Flow::Continue)
});

#[test]
fn calls_are_made_at_the_same_time_and_awaited() {
    let plugin = plugin::<Caller>();
    plugin.on_call("users", |call| {
        assert_eq!(
            (call.method(), call.path(), call.value("x-path")),
            ("GET".into(), "/who".into(), Some("/a".into()))
        );
        Answer::new(200).body("alice").after(Duration::from_millis(20))
    });
    plugin.on_call("rights", |_| Answer::new(204));
    let passed = plugin.exchange().request(Message::get("/a")).unwrap();
    assert_eq!((passed.value("x-user").unwrap(), passed.value("x-rights").unwrap()), ("alice".into(), "204".into()));
    assert_eq!(plugin.calls().iter().map(|call| call.service().to_owned()).collect::<Vec<_>>(), ["users", "rights"]);
    // Too late, as every proxy tells it.
    plugin.on_call("rights", |_| Answer::silent());
    assert_eq!(plugin.exchange().request(Message::get("/a")).unwrap().value("x-rights").unwrap(), "504");
    plugin.on_call("rights", |_| Answer::broken());
    assert_eq!(plugin.exchange().request(Message::get("/a")).unwrap_err().status(), 503);
}

#[test]
fn a_service_that_is_not_there_is_an_error() {
    let plugin = plugin::<Caller>();
    plugin.on_call("users", |_| Answer::new(200));
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap_err().status(), 503);
    assert!(plugin.logs().iter().any(|(_, line)| {
        line.starts_with("rights could not be called: the proxy did not take it (it has no such service")
    }));
}

filter!(Many, HEADS, |request| {
    let calls = ["a", "b", "c", ""].map(|service| GrpcCall::new(service, "pkg.S", "M").message(service).send());
    let answers: Vec<String> = join_all(calls)
        .await
        .into_iter()
        .map(|answer| {
            answer.map_or_else(
                |error| {
                    lacis_sdk::info!("{error}");
                    error.code().to_string()
                },
                |bytes| String::from_utf8(bytes).unwrap(),
            )
        })
        .collect();
    request.headers_mut().set("x-answers", answers.join(","))?;
    Ok(Flow::Continue)
});

#[test]
fn grpc_calls_have_a_message_or_a_status() {
    let plugin = plugin::<Many>();
    plugin.on_grpc("a", |call| Ok([b"got ", call.body(), b" by ", call.path().as_bytes()].concat()));
    plugin.on_grpc("b", |_| Err(7));
    let passed = plugin.exchange().request(Message::get("/")).unwrap();
    assert_eq!(passed.value("x-answers").as_deref(), Some("got a by /pkg.S/M,7,14,14"));
    assert_eq!(plugin.calls().len(), 3, "a call of nobody is not made");
    let lines: Vec<String> = plugin.logs().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines[0], "the call to b ended with gRPC status 7");
    assert!(lines[1].starts_with("c could not be called: the proxy did not take it ("), "{lines:?}");
}

#[derive(Default)]
struct Keys {
    key: RefCell<Option<String>>,
    changed: Notify,
    fetched: Cell<u32>,
}

impl Filter for Keys {
    type Config = ();
    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self::default())
    }
    async fn run(&self) {
        loop {
            if let Ok(answer) = Call::get("keys", "/").send().await.and_then(lacis_sdk::Answer::success) {
                *self.key.borrow_mut() = Some(String::from_utf8_lossy(answer.body()).into_owned());
                self.fetched.set(self.fetched.get() + 1);
                self.changed.notify();
            }
            sleep(Duration::from_secs(60)).await;
        }
    }
    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let key = loop {
            if let Some(key) = self.key.borrow().clone() {
                break key;
            }
            self.changed.wait().await;
        };
        request.headers_mut().set("x-key", key)?;
        Ok(Flow::Leave)
    }
}

#[test]
fn work_in_the_background_is_waited_for() {
    let plugin = plugin::<Keys>();
    // Nothing is called before the configuration is in use.
    assert_eq!(plugin.calls(), []);
    plugin.on_call("keys", |_| Answer::new(200).body("k1").after(Duration::from_secs(1)));
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap().value("x-key").unwrap(), "k1");
    plugin.on_call("keys", |_| Answer::new(200).body("k2"));
    plugin.advance(Duration::from_secs(59));
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap().value("x-key").unwrap(), "k1");
    plugin.advance(Duration::from_secs(2));
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap().value("x-key").unwrap(), "k2");
    assert_eq!(plugin.calls().len(), 2);
}

struct Log;
impl Filter for Log {
    type Config = ();
    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }
    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        request.keep(request.path());
        match request.path().as_str() {
            "/no" => Err(Reply::new(403)),
            _ => Ok(Flow::Leave),
        }
    }
    fn on_end(&self, end: &End) {
        let (path, kept) = (end.request_headers().get(":path"), end.kept::<String>().cloned());
        assert_eq!(path.map(|path| path.to_string()), kept);
        lacis_sdk::info!("{} {} {} {kept:?}", end.status(), end.request_bytes(), end.response_bytes());
    }
}

#[test]
fn the_end_of_an_exchange_is_seen() {
    let plugin = plugin::<Log>();
    let mut exchange = plugin.exchange();
    exchange.request(Message::post("/a").chunk("abc")).unwrap();
    exchange.response(Message::response(201).chunk("abcd")).unwrap();
    exchange.end();
    let mut exchange = plugin.exchange();
    exchange.request(Message::get("/no")).unwrap_err();
    exchange.end();
    plugin.exchange().end();
    let lines: Vec<String> = plugin.logs().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["201 3 4 Some(\"/a\")", "403 0 0 Some(\"/no\")", "0 0 0 None"]);
}

filter!(Stuck, HEADS, |_request| {
    std::future::pending::<()>().await;
    Ok(Flow::Continue)
});

#[test]
#[should_panic(expected = "exchanges.rs")]
fn a_filter_that_waits_for_ever_fails_the_test_where_it_stands() {
    let _ = plugin::<Stuck>().exchange().request(Message::get("/"));
}

filter!(PassesHead, REQUEST_BODY, |request| {
    request.headers_mut().set("x-first", "yes")?;
    request.pass_head();
    let body = request.body().await?;
    assert!(request.headers_mut().set("x-late", "yes").is_err() || !request.has_body());
    // Its length was told.
    match request.set_body([&body[..], b"!"].concat()) {
        Ok(()) => Ok(Flow::Continue),
        Err(_) => Err(Reply::new(409)),
    }
});

#[test]
fn a_head_may_go_before_its_body_is_read() {
    let plugin = plugin::<PassesHead>();
    let passed = plugin.exchange().request(Message::post("/").chunk("a").chunk("b")).unwrap();
    assert_eq!((passed.text().as_str(), passed.value("x-first").as_deref()), ("ab!", Some("yes")));
    assert_eq!(plugin.exchange().request(Message::post("/").body("ab")).unwrap_err().status(), 409);
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap_err().status(), 409);
}

filter!(Late, REQUEST_BODY, |request| {
    // What was waited for and given up is not waited for any more.
    let gone = timeout(Duration::from_millis(5), Call::get("slow", "/").send()).await;
    assert!(gone.is_none());
    let begun = unix_time();
    sleep(Duration::from_millis(1500)).await;
    let waited = (unix_time() - begun).as_millis();
    request.headers_mut().set("x-waited", waited.to_string())?;
    request.headers_mut().set("x-random", format!("{} {}", random_u64(), random_u64()))?;
    Ok(Flow::Continue)
});

#[test]
fn time_and_chance_are_given() {
    let plugin = plugin::<Late>();
    plugin.on_call("slow", |_| Answer::new(200).after(Duration::from_secs(1)));
    plugin.set_random([7, 8]);
    plugin.set_unix_time(Duration::from_secs(1000));
    let passed = plugin.exchange().request(Message::post("/").chunk("a")).unwrap();
    assert_eq!((passed.value("x-waited").as_deref(), passed.value("x-random").as_deref()), (Some("1500"), Some("7 8")));
}

filter!(Counted, HEADS, |request| {
    let count = Shared::<u64>::new("count");
    let mut tries = 0;
    let now = count.update(|old| {
        tries += 1;
        if tries == 1 {
            // Another worker is faster.
            assert!(Shared::<u64>::new("count").set(&10).is_ok());
        }
        old.unwrap_or(0) + 1
    })?;
    request.headers_mut().set("x-count", format!("{now} {tries}"))?;
    Ok(Flow::Continue)
});

#[test]
fn no_change_of_shared_data_is_lost() {
    let plugin = plugin::<Counted>();
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap().value("x-count").as_deref(), Some("11 2"));
    assert_eq!(plugin.shared("count"), Some(b"11".to_vec()));
    plugin.set_shared("count", "no number");
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap().value("x-count").as_deref(), Some("11 2"));
}

filter!(Contended, HEADS, |_request| {
    Shared::<u64>::new("count").update(|_| {
        assert!(Shared::<u64>::new("count").set(&1).is_ok());
        2
    })?;
    Ok(Flow::Continue)
});

#[test]
fn a_change_is_not_tried_for_ever() {
    let plugin = plugin::<Contended>();
    assert_eq!(plugin.exchange().request(Message::get("/")).unwrap_err().status(), 500);
    assert!(plugin.logs()[0].1.contains("cannot be set"));
}

filter!(Limited, HEADS, |_request| {
    match TokenBucket::new("bucket", 2, 0.5).take(1)? {
        Take::Granted { .. } => Ok(Flow::Continue),
        Take::Denied { retry_after } => Err(Reply::new(429).header("retry-after", &retry_after.as_secs().to_string())),
    }
});

#[test]
fn a_bucket_fills_again() {
    let plugin = plugin::<Limited>();
    let pass = || plugin.exchange().request(Message::get("/"));
    assert!(pass().is_ok() && pass().is_ok());
    assert_eq!(pass().unwrap_err().header_value("retry-after"), Some("2"));
    plugin.advance(Duration::from_secs(1));
    assert_eq!(pass().unwrap_err().header_value("retry-after"), Some("1"));
    plugin.advance(Duration::from_secs(1));
    assert!(pass().is_ok() && pass().is_err());
    plugin.advance(Duration::from_secs(3600));
    assert!(pass().is_ok() && pass().is_ok() && pass().is_err());
    // Nonsense in its place is a full one.
    plugin.set_shared("bucket", "nonsense");
    assert!(pass().is_ok());
}

#[test]
fn a_filter_without_a_configuration_takes_none() {
    for good in ["", "null", " null\n"] {
        assert!(Plugin::<Reader>::configure(good).is_ok(), "{good:?}");
    }
    for bad in ["{}", "nul", "0", "\"x\""] {
        let error = Plugin::<Reader>::configure(bad).err().unwrap();
        assert_eq!(error, "the filter's configuration is refused: this filter has none", "{bad:?}");
    }
}

/// A host makes one line of a map: the column alone says nothing to who wrote the map.
#[test]
fn a_mistake_in_a_configuration_is_told_with_its_place() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read only")]
    struct Rules {
        rules: Vec<Rule>,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read only")]
    struct Rule {
        name: String,
        #[serde(default)]
        ports: Vec<u16>,
    }

    impl Filter for Rules {
        type Config = Rules;

        fn new(config: Rules) -> Result<Self, ConfigError> {
            Ok(config)
        }
    }

    for (config, end) in [
        (
            r#"{"rules": [{"name": "a", "ports": [1]}, {"name": "s\\e\"},{c,\"ret", "ports": [1, 70000]}]}"#,
            ", in rules[1].ports[1]",
        ),
        (r#"{"rules": [{"name": "a"}, {"name": 5}]}"#, ", in rules[1].name"),
        (r#"{"rules": [{"name": "a"}, {"port": 5}]}"#, ", in rules[1]"),
        (r#"{"rules": [{"name": "a"}, {}]}"#, ", in rules[1]"),
        (r#"{"rules": {}}"#, ", in rules"),
        (r#"{"rules": [{"name": "ö""#, ", in rules[0].name"),
        ("{}", "missing field `rules` at line 1 column 2"),
        ("", "missing field `rules` at line 1 column 2"),
        ("{\"rules\":\n[5]}", "at line 2 column 2"),
    ] {
        let said = Plugin::<Rules>::configure(config).err().unwrap_or_default();
        assert!(said.ends_with(end), "{config}: {said}");
        assert!(!said.contains("ret"), "no value: {said}");
        assert!(!said.contains("JSON") || config.ends_with('"'), "{config}: {said}");
    }
    // Who wrote a text where the filter wants a map is told which of the two it is.
    let said = Plugin::<Rules>::configure("a text").err().unwrap_or_default();
    assert_eq!(said, "the filter's configuration is refused: it is not JSON: expected value at line 1 column 1");
}
