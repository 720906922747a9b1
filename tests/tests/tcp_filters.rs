//! Filters of TCP connections: the same module on Envoy's `envoy.filters.network.wasm` and on opaque TCP here.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use lacis_tests::{App, Envoy, Link, Mesh, PATIENCE, Sidecar, TRUST_DOMAIN, foreign_guest, guest, on_links};
use serde_json::{Value, json};

/// A TCP server that sends back what comes, but for `end`, which it obeys.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut piece = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = stream.read(&mut piece) {
                    if piece[..n] == *b"end\n" || stream.write_all(&piece[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// A proxy before that server, with the filter.
enum Proxy {
    Envoy { envoy: Envoy, _helper: App },
    Lacis { alpha: Sidecar, delta: Sidecar, _helper: App, _mesh: Mesh },
    Outbound { alpha: Sidecar, _delta: Sidecar, _helper: App, _mesh: Mesh },
}

impl Proxy {
    fn envoy() -> Option<Proxy> {
        Proxy::envoy_with(guest("tcp"))
    }

    fn envoy_with(mut filter: Value) -> Option<Proxy> {
        let helper = App::named("helper");
        filter["name"] = json!("tap");
        let envoy = Envoy::builder()?.tcp("main", echo(), &[filter]).cluster("helper", helper.address());
        Some(Proxy::Envoy { envoy: envoy.start(), _helper: helper })
    }

    fn lacis(link: Link, more: Value) -> Proxy {
        let (mesh, helper) = (Mesh::new(), App::named("helper"));
        let delta = mesh.sidecar("delta").application_at(echo()).calls("helper", helper.address(), Link::Plaintext);
        let tcp = json!({"inbound": {"protocol": "tcp", "filters": ["tap"]}, "filters": {"tap": guest("tcp")}});
        let delta = delta.with(tcp).with(more).start();
        let own_port = json!({"services": {"delta": {"listen": "127.0.0.1:0", "protocol": "tcp"}}});
        let alpha = mesh.sidecar("alpha").calls("delta", delta.inbound(), link).with(own_port).start();
        Proxy::Lacis { alpha, delta, _helper: helper, _mesh: mesh }
    }

    fn connect(&self) -> TcpStream {
        let address = match self {
            Proxy::Envoy { envoy, .. } => envoy.listener("main"),
            Proxy::Lacis { alpha, .. } | Proxy::Outbound { alpha, .. } => alpha.service("delta"),
        };
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream
    }

    /// The filter at the caller's side, as one of the service's.
    fn outbound(more: Value) -> Proxy {
        let (mesh, helper) = (Mesh::new(), App::named("helper"));
        let delta = mesh.sidecar("delta").application_at(echo());
        let delta = delta.with(json!({"inbound": {"protocol": "tcp"}})).start();
        let service = json!({"listen": "127.0.0.1:0", "protocol": "tcp", "filters": ["tap"]});
        let alpha = mesh.sidecar("alpha").calls("delta", delta.inbound(), Link::H2);
        let alpha = alpha.calls("helper", helper.address(), Link::Plaintext);
        let config = json!({"services": {"delta": service}, "filters": {"tap": guest("tcp")}});
        let alpha = alpha.with(config).with(more).start();
        Proxy::Outbound { alpha, _delta: delta, _helper: helper, _mesh: mesh }
    }

    /// What the filter says until a connection is over for it.
    fn lines(&self, connections: usize) -> Vec<String> {
        self.until(|lines| lines.iter().filter(|line| *line == "log").count() >= connections)
    }

    /// What the filter says of its connection, from `connected` to a line that begins so.
    fn said(&self, last: &str) -> Vec<String> {
        let mut lines = self.until(|lines| lines.iter().any(|line| line.starts_with(last)));
        lines.retain(|line| !line.starts_with("configured"));
        lines
    }

    fn until(&self, over: impl Fn(&[String]) -> bool) -> Vec<String> {
        let over = |lines: Vec<String>| over(&lines).then_some(lines);
        match self {
            Proxy::Envoy { envoy, .. } => envoy.wait_for_wasm_log("the end of a connection", |lines| {
                let lines = lines.iter().filter(|line| line.level == "info");
                over(lines.map(|line| line.message.trim_end().to_owned()).collect())
            }),
            Proxy::Lacis { delta: sidecar, .. } | Proxy::Outbound { alpha: sidecar, .. } => {
                sidecar.err.wait_for("the end of a connection", |lines| {
                    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                    let lines = lines.filter(|line| line["filter"] == "tap" && line["level"] == "info");
                    over(lines.filter_map(|line| Some(line["message"].as_str()?.trim_end().to_owned())).collect())
                })
            }
        }
    }
}

fn say(stream: &mut TcpStream, words: &str) {
    stream.write_all(words.as_bytes()).expect("taken");
}

fn hear(stream: &mut TcpStream, wanted: &str) {
    let mut read = vec![0; wanted.len()];
    stream.read_exact(&mut read).expect("bytes");
    assert_eq!(String::from_utf8_lossy(&read), wanted);
}

/// Everything until the end; `None` if that is a reset.
fn rest(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).ok().map(|_| String::from_utf8_lossy(&all).into_owned())
}

/// Three connections, one after the other: the caller ends one, the server another, the filter the third.
fn converse(proxy: &Proxy) -> Vec<String> {
    let mut first = proxy.connect();
    for (said, heard) in [("hello\n", "hello\n"), ("upper\n", "UPPER!\n"), ("a secret\n", "a ******\n")] {
        say(&mut first, said);
        hear(&mut first, heard);
    }
    say(&mut first, "more\n");
    hear(&mut first, "more\nand more\n");
    say(&mut first, "call\n");
    hear(&mut first, "call\n");
    first.shutdown(Shutdown::Write).expect("a half-close");
    assert_eq!(rest(&mut first).as_deref(), Some(""));
    proxy.lines(1);

    let mut second = proxy.connect();
    say(&mut second, "end\n");
    assert_eq!(rest(&mut second).as_deref(), Some(""));
    drop(second);
    proxy.lines(2);

    let mut third = proxy.connect();
    say(&mut third, "first\n");
    hear(&mut third, "first\n");
    say(&mut third, "close\n");
    let heard = rest(&mut third);
    assert!(heard.as_deref().is_none_or(|heard| ["", "close\n"].contains(&heard)), "{heard:?}");
    proxy.lines(3)
}

on_links! {
    /// The same callbacks in the same order with the same bytes.
    [H2, H3] fn a_filter_does_what_it_does_in_envoy(link) {
        let lacis = Proxy::lacis(link, json!({}));
        let here = converse(&lacis);
        let Some(envoy) = Proxy::envoy() else { return };
        let there = converse(&envoy);
        assert_eq!(there, here, "Envoy, then Lacis");
        assert!(here.iter().any(|line| line == "called 5"), "{here:?}");
    }
}

/// A filter of connections on the Go SDK: what it does, and says, is the same on both.
#[test]
fn a_filter_in_go_does_what_it_does_in_envoy() {
    let Some(module) = foreign_guest("go") else { return };
    let filter = json!({"module": module, "config": "tcp says", "limits": {"time": "2s"}});
    let said = |proxy: &Proxy| {
        let mut stream = proxy.connect();
        say(&mut stream, "hel");
        say(&mut stream, "lo\n");
        hear(&mut stream, "tcp says, HELLO\n");
        say(&mut stream, "more\n");
        hear(&mut stream, "MORE\n");
        stream.shutdown(Shutdown::Write).expect("a half-close");
        assert_eq!(rest(&mut stream).as_deref(), Some(""));
        proxy.said("done: ")
    };
    let here = said(&Proxy::lacis(Link::H2, json!({"filters": {"tap": filter}})));
    assert_eq!(here.last().map(String::as_str), Some("done: 11 down, 11 up"), "{here:?}");
    let Some(envoy) = Proxy::envoy_with(filter) else { return };
    assert_eq!(said(&envoy), here, "Envoy, then Lacis");
}

/// At the caller's side, the filters of the service do the same; those of the listener, which see HTTP, are not asked.
#[test]
fn a_service_has_filters_of_its_own() {
    let outbound = json!({"outbound": {"filters": ["http"]}, "filters": {"http": guest("upper")}});
    let said = converse(&Proxy::outbound(outbound));
    let inbound = converse(&Proxy::lacis(Link::H2, json!({})));
    assert_eq!(said, inbound);
}

/// Several filters: bytes from the client pass them in order, those to it in reverse.
#[test]
fn filters_stand_in_order() {
    let second = json!({"filters": {"other": guest("tcp")}, "inbound": {"filters": ["tap", "other"]}});
    let proxy = Proxy::lacis(Link::H2, second);
    let mut stream = proxy.connect();
    say(&mut stream, "more\n");
    // The first has made two lines of it, which is no order to the second.
    hear(&mut stream, "more\nand more\n");
    drop(stream);
    let Proxy::Lacis { delta, .. } = &proxy else { unreachable!() };
    let lines = delta.err.wait_for("the end of the connection", |lines| {
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines = lines.filter(|line| line["target"] == "filter" && line["level"] == "info");
        let lines: Vec<String> =
            lines.map(|line| format!("{}: {}", line["filter"], line["message"]).replace('"', "")).collect();
        (lines.iter().filter(|line| line.ends_with(": log")).count() == 2).then_some(lines)
    });
    let places: Vec<&str> =
        lines.iter().filter(|line| line.contains("more")).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(places, ["tap:", "other:", "other:", "tap:"], "{lines:?}");
}

/// Much, both ways at once, all of it through the filter's hands.
#[test]
fn much_passes() {
    const LINES: usize = 300_000;
    let proxy = Proxy::lacis(Link::H2, json!({"filters": {"tap": guest("tcp-parts")}}));
    let mut stream = proxy.connect();
    let all: String = (0..LINES).map(|number| format!("line {number:>10}\n")).collect();
    let (mut sender, sent) = (stream.try_clone().expect("a socket"), all.clone());
    let sending = thread::spawn(move || {
        sender.write_all(sent.as_bytes()).expect("taken");
        sender.shutdown(Shutdown::Write).expect("a half-close");
    });
    let heard = rest(&mut stream).expect("an end");
    sending.join().expect("all is sent");
    assert!(heard == all, "{} of {} bytes", heard.len(), all.len());
}

/// A filter closes a connection before it has reached anybody.
#[test]
fn a_new_connection_can_be_closed() {
    let proxy = Proxy::lacis(Link::H2, json!({"filters": {"tap": guest("tcp-closed")}}));
    let mut stream = proxy.connect();
    assert_eq!(rest(&mut stream), None, "a reset");
    let Proxy::Lacis { delta, .. } = &proxy else { unreachable!() };
    let record = delta.access("of the connection", |record| record["method"] == "CONNECT");
    assert_eq!((&record["reason"], &record["upstream_host"]), (&json!("filter_reset"), &Value::Null), "{record}");
}

/// What a filter stops is kept and shown again; beyond its limit the sender waits.
#[test]
fn what_is_stopped_is_bounded() {
    const LIMIT: usize = 64 * 1024;
    let proxy = Proxy::lacis(Link::H2, json!({"filters": {"tap": {"limits": {"buffer": "64KiB"}}}}));
    let mut stream = proxy.connect();
    say(&mut stream, "half");
    say(&mut stream, " and half\n");
    hear(&mut stream, "half and half\n");
    // No end of a line: nothing may pass, and not all of it can be held.
    let line = "x".repeat(64 << 20);
    let mut sender = stream.try_clone().expect("a socket");
    let sending = thread::spawn(move || sender.write_all(line.as_bytes()).is_ok());
    let Proxy::Lacis { delta, .. } = &proxy else { unreachable!() };
    let held = delta.err.wait_for("all that is held", |lines| {
        let sizes = lines.iter().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["message"].as_str()?.strip_prefix("down ")?.split(' ').next()?.parse::<usize>().ok()
        });
        sizes.max().filter(|size| *size >= LIMIT)
    });
    assert!(held < 4 * LIMIT, "{held}");
    assert!(!sending.is_finished(), "64 MiB went somewhere");
    drop(stream.shutdown(Shutdown::Both));
    assert!(!sending.join().expect("a sender"));
}

/// A filter that traps takes its connection along and no other; one that may fail lets the bytes pass.
#[test]
fn a_trap_follows_the_failure_policy() {
    for (failure, heard) in [("closed", None), ("open", Some("trap\nhello\n"))] {
        let proxy = Proxy::lacis(Link::H2, json!({"filters": {"tap": {"failure": failure}}}));
        let mut stream = proxy.connect();
        say(&mut stream, "one\n");
        hear(&mut stream, "one\n");
        say(&mut stream, "trap\n");
        if heard.is_some() {
            hear(&mut stream, "trap\n");
            say(&mut stream, "hello\n");
            hear(&mut stream, "hello\n");
        } else {
            assert_eq!(rest(&mut stream), None, "a reset");
        }
        let Proxy::Lacis { delta, .. } = &proxy else { unreachable!() };
        if failure == "closed" {
            let record = delta.access("of the connection", |record| record["method"] == "CONNECT");
            assert_eq!(record["reason"], "filter_trap", "{record}");
        }
        // The VM comes back for the next one.
        lacis_tests::until("another connection passes", || {
            let mut next = proxy.connect();
            next.write_all(b"upper\n").ok()?;
            next.shutdown(Shutdown::Write).ok()?;
            (rest(&mut next)? == "UPPER!\n").then_some(())
        });
    }
}

/// A module that has nothing to say about connections is no filter of them.
#[test]
fn a_filter_of_http_is_refused() {
    let mesh = Mesh::new();
    mesh.issue("delta");
    let config = json!({
        "node": {"service": "delta", "trust_domain": TRUST_DOMAIN},
        "identity": {"certificate": mesh.certificate("delta"), "private_key": mesh.key("delta"), "trust_bundle": mesh.ca()},
        "inbound": {"listen": "127.0.0.1:0", "application": "127.0.0.1:9", "protocol": "tcp", "filters": ["auth"]},
        "filters": {"auth": {"module": "builtin:auth", "config": {"keys": [{"name": "a", "sha256": "0".repeat(64)}]}}},
    });
    let path = mesh.file("http.yaml", config.to_string());
    let output = lacis_tests::command(&["check", "-c"]).arg(path).output().expect("lacis runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("no callbacks for TCP connections"), "{said}");
}
