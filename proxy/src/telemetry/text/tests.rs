use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::cell::FILTER_SECONDS;
use super::super::labels::{
    Cause, Certificate, Direction, Discovered, Link, Method, NameId, Origin, Outcome, Protocol, Reload,
};
use super::super::metrics::RequestRecord;
use super::*;
use crate::fault::Reason;

#[test]
fn the_exposition_is_what_was_agreed() {
    let registry = busy();
    golden("text.prom", &expose(&registry, Format::Prometheus), include_str!("../golden/text.prom"));
    golden("text.om", &expose(&registry, Format::OpenMetrics), include_str!("../golden/text.om"));
}

#[test]
fn a_strict_parser_reads_both_formats() {
    let registry = busy();
    for (format, module) in [(Format::Prometheus, "parser"), (Format::OpenMetrics, "openmetrics.parser")] {
        let script = format!(
            "import sys\n\
             try:\n from prometheus_client.{module} import text_string_to_metric_families as parse\n\
             except ImportError: sys.exit(77)\n\
             samples = [s for f in parse(sys.stdin.read()) for s in f.samples]\n\
             assert len(set((s.name, tuple(sorted(s.labels.items()))) for s in samples)) == len(samples)\n\
             value = lambda name, **l: sum(s.value for s in samples if s.name == name and l.items() <= s.labels.items())\n\
             assert value('lacis_requests_total', status='200') == 3\n\
             assert value('lacis_requests_total', source='sl\\\\ash \"quote\"\\nline') == 1\n\
             assert value('lacis_request_duration_seconds_count') == 4\n\
             assert abs(value('lacis_request_duration_seconds_sum') - 61.0095) < 1e-9\n\
             assert value('lacis_filter_memory_bytes') == 2 * 65536\n\
             assert value('hits_by_tenant', filter='auth') + value('hits_by_tenant_total', filter='auth') == 12\n\
             assert value('depth', filter='auth') == -93\n\
             assert value('depth_histogram_bucket', le='+Inf') == 1\n\
             print(len(samples))\n"
        );
        let Some(output) = python(&script, &expose(&registry, format)) else { return };
        assert!(output.trim().parse::<u32>().is_ok_and(|samples| samples > 50), "{output}");
    }
}

#[test]
fn an_idle_process_exposes_valid_text() {
    let text = expose(&Registry::default(), Format::OpenMetrics);
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# TYPE ").count(), LIST.len());
}

#[test]
fn the_accept_header_chooses() {
    let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, format) in [
        (prometheus_3, Format::OpenMetrics),
        ("application/openmetrics-text; version=\"1.0.0\"", Format::OpenMetrics),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text;version=2.0.0", Format::Prometheus),
        ("application/openmetrics-text;q=0.1, text/plain", Format::Prometheus),
        ("application/openmetrics-text;q=0", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("", Format::Prometheus),
        (";;;,,=,q=,;q=nan", Format::Prometheus),
    ] {
        assert_eq!(Format::negotiate(accept), format, "{accept}");
    }
}

#[test]
fn a_guest_cannot_spoil_the_page() {
    let registry = Registry::default();
    let metrics = registry.metrics();
    let guest = metrics.guest("evil\"} 1\n# EOF\n");
    for name in
        ["lacis_requests_total", "lacis_requests", "lacis_request_duration_seconds_count", "a b\n# EOF", "", "9", "é"]
    {
        for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
            let id = guest.define(kind, name).unwrap();
            guest.record(id, 1).unwrap();
        }
    }
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = expose(&registry, format);
        let types: Vec<_> =
            text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split(' ').next()).collect();
        assert_eq!(
            types.len(),
            LIST.len() + 21 - 3,
            "the names 9 and the empty one differ, é and the empty one do not"
        );
        assert_eq!(types.iter().collect::<HashSet<_>>().len(), types.len());
        assert_eq!(text.lines().filter(|l| l.starts_with("# EOF")).count(), usize::from(format == Format::OpenMetrics));
        let module = if format == Format::OpenMetrics { "openmetrics.parser" } else { "parser" };
        let script = format!(
            "import sys\n\
             try:\n from prometheus_client.{module} import text_string_to_metric_families as parse\n\
             except ImportError: sys.exit(77)\n\
             print(sum(1 for f in parse(sys.stdin.read())))\n"
        );
        if let Some(families) = python(&script, &text) {
            assert_eq!(families.trim(), types.len().to_string());
        }
    }
}

#[test]
fn labels_in_a_guests_names_are_labels() {
    let registry = Registry::default();
    let workers = [registry.metrics(), registry.metrics()];
    for (metrics, name) in workers.iter().zip(["a=.=x;.;b=.=say \"hi\";.;hits_total", "a=.=y;.;b=.=;.;hits_total"]) {
        let guest = metrics.guest("f");
        for name in [name, "9a=.=x;.;odd", "filter=.=x;.;odd", "a=.=x;.;a=.=y;.;odd", "a;.;odd"] {
            guest.increment(guest.define(Kind::Counter, name).unwrap(), 2).unwrap();
        }
    }
    let text = expose(&registry, Format::Prometheus);
    for line in [
        r#"hits_total{filter="f",a="x",b="say \"hi\""} 2"#,
        r#"hits_total{filter="f",a="y",b=""} 2"#,
        r#"_9a___x___odd{filter="f"} 4"#,
        r#"filter___x___odd{filter="f"} 4"#,
        r#"a___x___a___y___odd{filter="f"} 4"#,
        r#"a___odd{filter="f"} 4"#,
    ] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
    assert_eq!(text.matches("# TYPE hits_total counter").count(), 1);
}

/// Whichever came first, and in whatever order its labels are written.
#[test]
fn names_that_are_one_in_prometheus_are_told_apart() {
    let registry = Registry::default();
    let workers = [registry.metrics(), registry.metrics()];
    let count = |worker: usize, filter: &str, name: &str, by: i64| {
        let guest = workers[worker].guest(filter);
        guest.increment(guest.define(Kind::Counter, name).unwrap(), by).unwrap();
    };
    count(0, "f", "hits.all", 1);
    let text = || expose(&registry, Format::Prometheus);
    let has = |line: &str| assert!(text().lines().any(|own| own == line), "{line}: {}", text());
    has(r#"hits_all{filter="f"} 1"#);
    count(1, "f", "hits_all", 2);
    count(1, "f", "hits-all", 4);
    count(0, "f", "hits_all", 8);
    count(1, "g", "hits.all", 16);
    count(0, "f", "a=.=x;.;b=.=y;.;hits.all", 32);
    count(1, "f", "b=.=y;.;a=.=x;.;hits.all", 64);
    for line in [
        r#"hits_all{filter="f"} 10"#,
        r#"hits_all{filter="f",defined_as="hits.all"} 1"#,
        r#"hits_all{filter="f",defined_as="hits-all"} 4"#,
        r#"hits_all{filter="g"} 16"#,
        r#"hits_all{filter="f",a="x",b="y"} 96"#,
    ] {
        has(line);
    }
    assert_eq!(text().matches("hits_all{").count(), 5);
}

/// Two workers and control after some traffic, with values that are easily mistaken.
fn busy() -> Registry {
    let registry = Registry::default();
    let workers = [registry.metrics(), registry.metrics()];
    for metrics in &workers {
        let (alpha, delta) = (metrics.name("alpha"), metrics.name("delta"));
        let record = RequestRecord {
            direction: Direction::Outbound,
            source: alpha,
            destination: delta,
            method: Method::Get,
            status: 200,
            protocol: Protocol::Http1,
            link: Link::H3,
            reason: Reason::None,
            duration: Duration::from_micros(500),
            request_bytes: 7,
            response_bytes: 1000,
        };
        metrics.request_end(&record);
        metrics.requests_active(Direction::Outbound).add(2);
        metrics.requests_active(Direction::Outbound).sub(1);
        metrics.connection_opened(Direction::Inbound, Protocol::H2);
        metrics.connection_closed(Direction::Inbound, Protocol::H2);
        metrics.connection_opened(Direction::Outbound, Protocol::Http1);
        metrics.link_handshake(Link::H3, Ok(()));
        metrics.link_handshake(Link::H2, Err(Reason::TlsCertificateError));
        metrics.retry(delta, Cause::Reason(Reason::RefusedStream));
        metrics.ejection(delta, Cause::Status(503));
        metrics.breaker(delta, Cause::Pending, true);
        let auth = metrics.filter("auth");
        auth.request(Outcome::Continue, FILTER_SECONDS.sample(440));
        auth.request(Outcome::Reply, FILTER_SECONDS.sample(3_000));
        auth.memory().add(65536);
        let guest = metrics.guest("auth");
        guest.increment(guest.define(Kind::Counter, "hits by.tenant").unwrap(), 6).unwrap();
    }
    let [first, second] = &workers;
    let hostile = first.name("sl\\ash \"quote\"\nline");
    let record = RequestRecord {
        direction: Direction::Inbound,
        source: hostile,
        destination: first.name("alpha"),
        method: Method::Other,
        status: 200,
        protocol: Protocol::H2,
        link: Link::H2,
        reason: Reason::None,
        duration: Duration::from_millis(1),
        request_bytes: 0,
        response_bytes: 0,
    };
    first.request_end(&record);
    let slow = RequestRecord { status: 503, reason: Reason::HttpResponseTimeout, source: NameId::UNKNOWN, ..record };
    second.request_end(&RequestRecord { duration: Duration::from_micros(61_007_500), ..slow });
    let guest = second.guest("auth");
    guest.increment(guest.define(Kind::Gauge, "depth").unwrap(), -93).unwrap();
    guest.record(guest.define(Kind::Histogram, "depth").unwrap(), 0).unwrap();
    let control = registry.metrics();
    control.config_generation(4);
    control.config_reload(Reload::Accepted);
    control.config_reload(Reload::Rejected);
    control.discovery(Origin::Dns, Discovered::Changed);
    control.certificate_expiry(Certificate::Leaf, 1_795_000_000);
    control.access_log_dropped().add(2);
    registry
}

/// Compares with a golden file; `LACIS_BLESS=1` rewrites it.
fn golden(name: &str, text: &str, expected: &str) {
    if std::env::var_os("LACIS_BLESS").is_some() {
        let path = format!("{}/src/telemetry/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, text).unwrap();
    } else {
        assert_eq!(text, expected, "{name} differs; LACIS_BLESS=1 rewrites it");
    }
}

/// What a Python script prints; none, and a message, where there is no Python or no `prometheus_client`.
fn python(script: &str, input: &str) -> Option<String> {
    let child = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: python3 cannot be started");
        return None;
    };
    // A script that has ended early does not read its input; its exit code and message say why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: python3 has no module prometheus_client");
        return None;
    }
    assert!(output.status.success(), "{}\n{input}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
