//! Services whose endpoints the configuration does not list: a name in the DNS, or a file.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use lacis_tests::dns::{Dns, Says};
use lacis_tests::{App, Link, Mesh, Process, Sidecar, SidecarBuilder, client, on_links, peer, until, unused};
use serde_json::{Value, json};

const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// Two sidecars of the service delta at the same port of two addresses, each before an application of its own, and what
/// alpha needs to find them by name.
struct Deltas {
    one: Sidecar,
    two: Sidecar,
    apps: [App; 2],
    dns: Dns,
    mesh: Mesh,
}

impl Deltas {
    fn new() -> Deltas {
        let mesh = Mesh::new();
        let apps = [App::named("one"), App::named("two")];
        let one = mesh.sidecar("delta").application(&apps[0]).start();
        let same = json!({"inbound": {"listen": SocketAddr::new(TWO, one.inbound().port()).to_string()}});
        let two = mesh.sidecar("delta").application(&apps[1]).with(same).start();
        Deltas { one, two, apps, dns: Dns::start(), mesh }
    }

    /// alpha, which finds delta by its name.
    fn alpha(&self, link: Link) -> SidecarBuilder {
        self.mesh.sidecar("alpha").with(json!({"services": {"delta": self.service(link)}}))
    }

    fn service(&self, link: Link) -> Value {
        let (port, server) = (self.one.inbound().port(), self.dns.address().to_string());
        let timeouts = json!({"connect": "10s"});
        json!({"dns": {"name": "delta.internal", "port": port, "server": server}, "link": link.name(), "timeouts": timeouts, "balance": "round_robin"})
    }

    fn are_at(&self, addresses: &[IpAddr]) {
        self.dns.is_at("delta.internal", addresses);
    }
}

fn clusters(sidecar: &Sidecar) -> Value {
    serde_json::from_str(&sidecar.admin_get("/clusters").text()).expect("JSON")
}

/// Waits until a worker has these endpoints for delta.
fn has(sidecar: &Sidecar, wanted: &[SocketAddr]) {
    let mut wanted: Vec<_> = wanted.iter().map(SocketAddr::to_string).collect();
    wanted.sort_unstable();
    until(&format!("delta has {wanted:?}"), || {
        let page = clusters(sidecar);
        let endpoints = page["workers"][0]["clusters"]["delta"]["endpoints"].as_array()?;
        let mut found: Vec<_> = endpoints.iter().filter_map(|e| e["address"].as_str()).collect();
        found.sort_unstable();
        (found == wanted).then_some(())
    });
}

/// Which application answers.
fn who(sidecar: &Sidecar) -> String {
    let answer = client::get(sidecar.outbound(), "delta", "/bytes/1");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.field("x-app").expect("a name").to_owned()
}

/// Waits for an error of the source of a service, or for its end.
fn source_fails(sidecar: &Sidecar, fails: bool) -> Value {
    until(&format!("the source of delta fails: {fails}"), || {
        let source = clusters(sidecar)["sources"]["delta"].clone();
        (source["last_error"].is_string() == fails).then_some(source)
    })
}

on_links! {
    /// All addresses are used; one that is gone gets no more requests, finishes what it has, and its link closes.
    [H2, H3] fn addresses_come_and_go(link) {
        let deltas = Deltas::new();
        let at = |ip| SocketAddr::new(ip, deltas.one.inbound().port());
        deltas.are_at(&[ONE]);
        let alpha = deltas.alpha(link).start();
        has(&alpha, &[at(ONE)]);
        let mut held = client::Client::connect(alpha.outbound());
        held.send("GET /hold HTTP/1.1\r\nhost: delta\r\n\r\n");
        deltas.apps[0].wait_held(1);

        deltas.are_at(&[ONE, TWO]);
        has(&alpha, &[at(ONE), at(TWO)]);
        let mut turns: Vec<_> = (0..4).map(|_| who(&alpha)).collect();
        turns.sort_unstable();
        assert_eq!(turns, ["one", "one", "two", "two"]);
        alpha.counts(2.0, "lacis_link_handshakes_total", &[("link", link.name()), ("result", "ok")]);

        deltas.are_at(&[TWO]);
        has(&alpha, &[at(TWO)]);
        assert!((0..4).all(|_| who(&alpha) == "two"));
        deltas.one.counts(1.0, "lacis_connections_active", &[("direction", "inbound")]);
        deltas.apps[0].release();
        let answer = held.response("GET");
        assert_eq!((answer.status(), answer.field("x-app")), (200, Some("one")));
        deltas.one.counts(0.0, "lacis_connections_active", &[("direction", "inbound")]);
        deltas.two.counts(1.0, "lacis_connections_active", &[("direction", "inbound")]);
        assert!(deltas.apps[1].requests() >= 6);
    }
}

/// A server that we did not write, with more addresses than a datagram holds: it cuts the answer short, and is asked
/// again over TCP. Both families count.
#[test]
fn many_addresses_of_dnsmasq() {
    const ADDRESSES: u8 = 200;
    let Some(dnsmasq) = peer("dnsmasq") else { return };
    let mesh = Mesh::new();
    let four = (1..=ADDRESSES).map(|n| format!("127.1.0.{n} delta.internal\n"));
    let hosts: String = four.chain(["::1 delta.internal\n".to_owned()]).collect();
    let hosts = mesh.file("hosts", hosts);
    let server = unused();
    let mut command = dnsmasq.command();
    command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--bind-interfaces", "--local-ttl=1", "--local=/internal/"]);
    command
        .arg(format!("--listen-address={}", server.ip()))
        .arg(format!("--port={}", server.port()))
        .arg(format!("--addn-hosts={}", hosts.display()));
    let dnsmasq = Process::start("dnsmasq", command);
    dnsmasq
        .err
        .wait_for("dnsmasq has read its file", |lines| lines.iter().any(|line| line.contains(" names")).then_some(()));
    let dns = json!({"name": "delta.internal", "port": 7, "server": server.to_string()});
    let alpha = mesh.sidecar("alpha").with(json!({"services": {"delta": {"dns": dns, "link": "h2"}}})).start();
    let mut wanted: Vec<_> = (1..=ADDRESSES).map(|n| SocketAddr::from(([127, 1, 0, n], 7))).collect();
    wanted.push("[::1]:7".parse().expect("an address"));
    has(&alpha, &wanted);
    // It tells by NXDOMAIN, with no authority that says for how long.
    fs::write(&hosts, "").expect("writable");
    dnsmasq.signal("HUP");
    has(&alpha, &[]);
    let source = clusters(&alpha)["sources"]["delta"].clone();
    assert_eq!(source["last_error"], Value::Null, "that there is none is an answer: {source}");
}

/// While the server fails, the last good answer stays, and that it is old can be seen; that there is no such name is an
/// answer.
#[test]
fn a_failing_server_changes_nothing() {
    let deltas = Deltas::new();
    deltas.are_at(&[ONE]);
    let alpha = deltas.alpha(Link::H2).start();
    has(&alpha, &[deltas.one.inbound()]);
    assert_eq!(who(&alpha), "one");
    deltas.dns.says("delta.internal", Says::Failure);
    alpha.metric_becomes("lacis_discoveries_total", &[("origin", "dns"), ("result", "failed")], |n| n >= 2.0);
    assert_eq!(who(&alpha), "one");
    let source = source_fails(&alpha, true);
    assert!(source["answer_age_seconds"].as_f64().is_some_and(|age| age > 1.0), "{source}");
    assert_eq!(source["source"]["dns"]["name"], "delta.internal");
    let warnings =
        |lines: &[String]| lines.iter().filter(|line| line.contains("the last known ones stay in use")).count();
    assert_eq!(warnings(&alpha.err.all()), 1, "told once");

    deltas.are_at(&[TWO]);
    has(&alpha, &[deltas.two.inbound()]);
    assert_eq!(source_fails(&alpha, false)["last_error"], Value::Null);
    assert_eq!(who(&alpha), "two");

    deltas.dns.says("delta.internal", Says::NoName);
    has(&alpha, &[]);
    let answer = client::get(alpha.outbound(), "delta", "/");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("dns_error")));
    alpha.access("why it failed", |record| record["reason"] == "dns_error");
    assert_eq!(alpha.admin_get("/ready").status(), 200);
    deltas.are_at(&[ONE]);
    has(&alpha, &[deltas.one.inbound()]);
    assert_eq!(who(&alpha), "one");
}

/// Without a first answer the sidecar is not ready and says so; other services work all the same.
#[test]
fn the_first_answer_is_waited_for() {
    let deltas = Deltas::new();
    deltas.dns.says("delta.internal", Says::Failure);
    let other = App::start();
    let alpha = deltas.alpha(Link::H2).calls("other", other.address(), Link::Plaintext).start_unready();
    until("it says what is missing", || {
        let ready = alpha.admin_get("/ready");
        (ready.status() == 503 && ready.text().contains("delta has no endpoint yet: ")).then_some(())
    });
    assert_eq!(client::get(alpha.outbound(), "other", "/bytes/1").status(), 200);
    let answer = client::get(alpha.outbound(), "delta", "/");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("dns_error")));
    deltas.are_at(&[ONE]);
    until("it is ready", || (alpha.admin_get("/ready").status() == 200).then_some(()));
    has(&alpha, &[deltas.one.inbound()]);
    assert_eq!(who(&alpha), "one");
}

/// But not for ever: a server that never answers keeps nobody from the rest of the mesh.
#[test]
fn a_silent_server_does_not_keep_it_from_being_ready() {
    let deltas = Deltas::new();
    deltas.dns.says("delta.internal", Says::Nothing);
    let alpha = deltas.alpha(Link::H2).start();
    let answer = client::get(alpha.outbound(), "delta", "/");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("dns_error")));
}

/// Addresses of one family are of use although nobody answers the question for the other.
#[test]
fn a_server_that_is_silent_about_aaaa_does_not_hold_up_a_records() {
    let deltas = Deltas::new();
    deltas.dns.says("delta.internal", Says::OnlyIpv4(Ipv4Addr::LOCALHOST));
    let alpha = deltas.alpha(Link::H2).start();
    assert_eq!(who(&alpha), "one", "as soon as it is ready");
    deltas.dns.says("delta.internal", Says::OnlyIpv4(Ipv4Addr::new(127, 0, 0, 2)));
    has(&alpha, &[deltas.two.inbound()]);
    let error = source_fails(&alpha, true)["last_error"].as_str().expect("a text").to_owned();
    assert!(error.starts_with("no AAAA records: "), "{error}");
    let told =
        |text: &'static str| alpha.log(text, |line| line["message"] == text && line["source"] == "delta.internal");
    told("some endpoints cannot be found: the others are used");
    deltas.are_at(&[ONE]);
    told("all endpoints can be found again");
}

/// A server that answers nothing takes neither the descriptors nor the memory of a sidecar with many names.
#[test]
fn not_all_names_are_asked_for_at_once() {
    let dns = Dns::start();
    let service = |n: usize| {
        dns.says(&format!("s{n}.internal"), Says::Nothing);
        let dns = json!({"name": format!("s{n}.internal"), "port": 80, "server": dns.address().to_string()});
        (format!("s{n}"), json!({"dns": dns, "link": "plaintext"}))
    };
    let services: serde_json::Map<_, _> = (0..300).map(service).collect();
    let alpha = Mesh::new().sidecar("alpha").with(json!({"services": services})).start_unready();
    until("as many are asked for as may be", || (dns.asked() >= 64).then_some(()));
    let (asked, open) = (dns.asked(), alpha.descriptors());
    // A question is given up after some seconds, which a busy machine may take to get here.
    assert!(asked <= 2 * 64 && open < 4 * 64, "{asked} names, {open} descriptors");
}

/// A new generation goes on with what is known, asks for nothing again, and keeps the links.
#[test]
fn a_reload_keeps_the_answers() {
    let deltas = Deltas::new();
    deltas.are_at(&[ONE]);
    let mut alpha = deltas.alpha(Link::H2).start();
    has(&alpha, &[deltas.one.inbound()]);
    assert_eq!(who(&alpha), "one");
    deltas.dns.says("delta.internal", Says::Nothing);
    // A failure or silence: in neither case is there another answer.
    for timeouts in [json!({"request": "20s"}), json!({"request": "30s"})] {
        alpha.reload(json!({"services": {"delta": {"timeouts": timeouts}}}));
        assert_eq!(who(&alpha), "one");
    }
    alpha.counts(1.0, "lacis_link_handshakes_total", &[("result", "ok")]);

    // A service that is new is there with the generation: its first answer was waited for.
    let port = deltas.two.inbound().port();
    deltas.dns.is_at("echo.internal", &[TWO]);
    let dns = json!({"name": "echo.internal", "port": port, "server": deltas.dns.address().to_string()});
    let identity = json!([format!("spiffe://{}/ns/default/sa/delta", lacis_tests::TRUST_DOMAIN)]);
    let timeouts = json!({"connect": "10s"});
    alpha.reload(json!({"services": {"echo": {"dns": dns, "link": "h2", "identity": identity, "timeouts": timeouts}}}));
    assert_eq!(client::get(alpha.outbound(), "echo", "/bytes/1").field("x-app"), Some("two"));

    // From a name to a list and back.
    let list = json!([deltas.two.inbound().to_string()]);
    alpha.reload(json!({"services": {"delta": {"dns": null, "endpoints": list}}}));
    assert_eq!(who(&alpha), "two");
    deltas.are_at(&[ONE]);
    let dns = deltas.service(Link::H2)["dns"].clone();
    alpha.reload(json!({"services": {"delta": {"dns": dns, "endpoints": null}}}));
    assert_eq!(who(&alpha), "one");
}

fn swap(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).and_then(|()| fs::rename(&new, path)).expect("a replaced file");
}

/// A file of endpoints is taken up when it is written or replaced, and a mistake in it changes nothing.
#[test]
fn a_file_of_endpoints_is_followed() {
    let deltas = Deltas::new();
    let (one, two) = (deltas.one.inbound(), deltas.two.inbound());
    let path = deltas.mesh.file("delta.yaml", format!("endpoints: [\"{one}\"]\n"));
    let service = json!({"file": "delta.yaml", "link": "h2", "timeouts": {"connect": "10s"}, "balance": "round_robin"});
    let mut alpha = deltas.mesh.sidecar("alpha").with(json!({"services": {"delta": service}})).start();
    assert_eq!(who(&alpha), "one");

    fs::write(
        &path,
        format!("endpoints:\n  - {{address: \"{one}\", weight: 1}}\n  - {{address: \"{two}\", weight: 3}}\n"),
    )
    .expect("writable");
    has(&alpha, &[one, two]);
    let turns: Vec<_> = (0..8).map(|_| who(&alpha)).collect();
    assert_eq!(turns.iter().filter(|who| *who == "two").count(), 6, "by weight: {turns:?}");

    swap(&path, "endpoints: [nowhere]\n");
    let error = source_fails(&alpha, true)["last_error"].as_str().expect("a text").to_owned();
    assert!(error.contains("delta.yaml:1:13: endpoints[0]: \"nowhere\" is not"), "{error}");
    alpha.log("the mistake", |line| line.to_string().contains("delta.yaml:1:13: endpoints[0]"));
    has(&alpha, &[one, two]);
    // A generation with that file is refused as a whole.
    let why = alpha.refused(json!({"services": {"delta": {"timeouts": {"request": "20s"}}}}));
    assert!(why.contains("delta.yaml:1:13: endpoints[0]"), "{why}");

    swap(&path, &format!("endpoints: [\"{two}\"]\n"));
    has(&alpha, &[two]);
    assert_eq!(source_fails(&alpha, false)["source"]["file"].as_str().map(Path::new), Some(path.as_path()));
    assert_eq!(who(&alpha), "two");
    deltas.one.counts(0.0, "lacis_connections_active", &[("direction", "inbound")]);

    swap(&path, "endpoints: []\n");
    has(&alpha, &[]);
    let answer = client::get(alpha.outbound(), "delta", "/");
    assert_eq!((answer.status(), answer.proxy_error().as_deref()), (503, Some("destination_unavailable")));
    fs::remove_file(&path).expect("a file");
    source_fails(&alpha, true);
}

/// A request that waits for a link while its service moves goes to where that is now, and is not lost with the link.
#[test]
fn a_request_that_waits_for_a_link_follows_a_move() {
    let mesh = Mesh::new();
    let app = App::start();
    let delta = mesh.sidecar("delta").application(&app).start();
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let list = |address: SocketAddr| json!({"endpoints": [address.to_string()]}).to_string();
    let file = mesh.file("delta.yaml", list(mute.local_addr().expect("an address")));
    let service = json!({"file": file, "link": "h2", "timeouts": {"connect": "30s"}});
    let alpha = mesh.sidecar("alpha").with(json!({"services": {"delta": service}})).start();
    let mut waiting = client::Client::connect(alpha.outbound());
    waiting.send("GET /bytes/1 HTTP/1.1\r\nhost: delta\r\n\r\n");
    let (link, _) = mute.accept().expect("a connection");
    swap(&file, &list(delta.inbound()));
    has(&alpha, &[delta.inbound()]);
    drop(link);
    assert_eq!(waiting.response("GET").status(), 200);
}

/// As a bad configuration, a bad file of endpoints keeps a sidecar from starting, and `check` tells it.
#[test]
fn a_bad_file_of_endpoints_is_refused_at_the_start() {
    let mesh = Mesh::new();
    mesh.file("delta.yaml", "endpoints:\n- 10.0.0.4\n");
    let config = mesh.file(
        "alpha.yaml",
        "node: {service: alpha}\noutbound: {listen: 127.0.0.1:0}\nservices: {delta: {file: delta.yaml, link: plaintext}}\n",
    );
    for command in ["check", "run"] {
        let output = lacis_tests::command(&[command, "-c"]).arg(&config).output().expect("lacis starts");
        assert_eq!(output.status.code(), Some(1), "{command}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("delta.yaml:2:3: endpoints[0]: \"10.0.0.4\" is not"), "{command}: {said}");
    }
}

/// Without `server` it is the system's servers that are asked, with the system's search list: what /etc/resolv.conf says, which
/// is another file where this sidecar runs.
#[test]
fn the_system_says_which_servers_are_asked() {
    let Some(unshare) = peer("unshare") else { return };
    // The file names no port. An address of this process's own, for others may try the same.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from(([127, 53, high, low], 53));
    let dns = match Dns::at(address) {
        Ok(dns) => dns,
        Err(error) => {
            assert!(std::env::var_os("LACIS_REQUIRE_PEERS").is_none(), "{address} is required here: {error}");
            return eprintln!("skipped: {address} cannot be bound ({error}); run this as root");
        }
    };
    dns.is_at("delta.svc.example", &[ONE]);
    let (mesh, app) = (Mesh::new(), App::named("one"));
    let delta = mesh.sidecar("delta").application(&app).start();
    let file = mesh.file("resolv.conf", format!("nameserver {}\nsearch other.example svc.example\n", address.ip()));
    let service =
        json!({"dns": {"name": "delta", "port": delta.inbound().port()}, "link": "h2", "timeouts": {"connect": "10s"}});
    let bind = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let (unshare, file) = (unshare.path().to_str().expect("a path"), file.to_str().expect("a path"));
    let alpha = mesh.sidecar("alpha").with(json!({"services": {"delta": service}}));
    let alpha = alpha.under(&[unshare, "--mount", "--propagation", "private", "sh", "-c", bind, file]).start();
    has(&alpha, &[delta.inbound()]);
    assert_eq!(who(&alpha), "one");
    dns.is_at("delta.svc.example", &[TWO]);
    has(&alpha, &[SocketAddr::new(TWO, delta.inbound().port())]);
}
