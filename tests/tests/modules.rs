//! Modules from other machines: over HTTPS, from registries, and when these do not answer.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use lacis_tests::wire::Response;
use lacis_tests::{
    App, Asked, Link, Mesh, Page, Process, Sidecar, SidecarBuilder, Web, client, command, peer_or, until,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Adds `x-mark: MARK` to responses.
fn module(mark: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "x-mark")
          (data (i32.const 16) "{mark}")
          (func (export "proxy_abi_version_0_2_1"))
          (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
          (func (export "proxy_on_context_create") (param i32 i32))
          (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
            (drop (call $add (i32.const 2) (i32.const 0) (i32.const 6) (i32.const 16) (i32.const {})))
            (i32.const 0)))"#,
        mark.len()
    );
    wat::parse_str(text).expect("a module")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar.gz with a file.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).expect("an entry");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar.into_inner().expect("an archive")).and_then(|()| gzip.finish()).expect("gzip")
}

/// alpha before an application, with filters on its outbound side.
struct Place {
    mesh: Mesh,
    app: App,
}

impl Place {
    fn new() -> Place {
        Place { mesh: Mesh::new(), app: App::start() }
    }

    /// `web` is whom it trusts.
    fn alpha(&self, web: &Web, filters: Value) -> SidecarBuilder {
        let names: Vec<&String> = filters.as_object().expect("filters").keys().collect();
        let config = json!({"outbound": {"filters": names}, "filters": filters});
        let alpha = self.mesh.sidecar("alpha").calls("delta", self.app.address(), Link::Plaintext).with(config);
        alpha.env("SSL_CERT_FILE", utf8(&web.authority())).env("LACIS_CACHE", utf8(&self.mesh.dir().join("cache")))
    }

    /// What `lacis check` says of a filter.
    fn check(&self, web: &Web, filter: Value) -> String {
        let config = json!({
            "node": {"service": "alpha"}, "outbound": {"listen": "127.0.0.1:0", "filters": ["far"]},
            "services": {"delta": {"endpoints": ["127.0.0.1:1"], "link": "plaintext"}},
            "filters": {"far": filter},
        });
        let path = self.mesh.file("check.yaml", config.to_string());
        let output = command(&["check", "-c"])
            .arg(path)
            .env("SSL_CERT_FILE", web.authority())
            .env("LACIS_CACHE", self.mesh.dir().join("cache"))
            .env("DOCKER_CONFIG", self.mesh.dir())
            .output()
            .expect("lacis runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// The one filter on `/filters`, once that of the generation before has gone.
fn filter_page(alpha: &Sidecar) -> Value {
    until("there is one filter", || {
        let page: Value = serde_json::from_str(&alpha.admin_get("/filters").text()).expect("JSON");
        let [filter] = page["filters"].as_array().expect("a list").as_slice() else { return None };
        Some(filter.clone())
    })
}

fn get(alpha: &Sidecar) -> Response {
    client::get(alpha.outbound(), "delta", "/echo")
}

/// A bare module and an archive with one; a redirect on the way; and a restart when the server has gone.
#[test]
fn modules_come_over_https_and_stay() {
    let place = Place::new();
    let (bare, packed) = (module("bare"), archive("./plugin.wasm", &module("packed")));
    let (digests, pages) = ((sha256(&bare), sha256(&packed)), (bare, packed));
    let web = Web::start(move |asked: &Asked| match asked.target.as_str() {
        "/moved?x=1" => Page::status(302).field("location", "/bare.wasm"),
        "/bare.wasm" => Page::ok(pages.0.clone()),
        "/packed.tar.gz" => Page::ok(pages.1.clone()),
        _ => Page::status(404),
    });
    let filters = json!({
        "a": {"module": web.url("/moved?x=1"), "sha256": digests.0},
        "b": {"module": web.url("/packed.tar.gz"), "sha256": digests.1},
        "c": {"module": web.url("/packed.tar.gz"), "sha256": digests.1, "config": "of its own"},
    });
    let marks = |alpha: &Sidecar| get(alpha).head.all("x-mark").join(" ");
    let alpha = place.alpha(&web, filters.clone()).start();
    assert_eq!(marks(&alpha), "packed packed bare", "the response passes the filters in reverse");
    assert_eq!(web.asked().len(), 3, "a redirect, and each file once: {:?}", web.asked());
    drop(alpha);
    let again = place.alpha(&web, filters.clone());
    drop(web);
    assert_eq!(marks(&again.start()), "packed packed bare");
}

/// What is not the module that was meant is told by `lacis check`, and each has a reason of its own.
#[test]
fn what_cannot_be_fetched_is_told() {
    let place = Place::new();
    let good = module("good");
    let digest = sha256(&good);
    let elsewhere = Web::plain(|_| Page::ok("stolen"));
    let down = elsewhere.url("/");
    let web = Web::start(move |asked: &Asked| match asked.target.as_str() {
        "/good.wasm" => Page::ok(good.clone()),
        "/text" => Page::ok("this is no module"),
        "/large" => Page::ok("x").claims((256 << 20) + 1),
        "/hop/0" => Page::ok(good.clone()),
        hop if hop.starts_with("/hop/") => {
            let hops: u32 = hop["/hop/".len()..].parse().expect("a number");
            Page::status(301).field("location", &format!("/hop/{}", hops - 1))
        }
        "/down" => Page::status(302).field("location", &down),
        _ => Page::status(404),
    });
    let text = sha256(b"this is no module");
    for (path, digest, expected) in [
        ("/good.wasm", "0".repeat(64), format!("it has the SHA-256 {digest}, and sha256 expects {}", "0".repeat(64))),
        ("/absent", digest.clone(), "answers 404 Not Found".into()),
        ("/text", text, "it is neither a WebAssembly module nor a tar.gz with one".into()),
        ("/large", digest.clone(), "is larger than 268435456 bytes".into()),
        ("/hop/6", digest.clone(), "more than 5 redirects".into()),
        ("/down", digest.clone(), "only https:// is followed".into()),
    ] {
        let said = place.check(&web, json!({"module": web.url(path), "sha256": digest}));
        assert!(said.contains(&format!("filters.far: cannot fetch {}: ", web.url(path))), "{path}: {said}");
        assert!(said.contains(&expected), "{path}: {said}");
        assert!(said.contains("check.yaml:1:"), "{path}: {said}");
    }
    assert!(elsewhere.asked().is_empty());
    // A server whose authority nobody trusts.
    let stranger = Web::start(|_| Page::ok("x"));
    let filter = json!({"module": stranger.url("/"), "sha256": digest});
    let alpha = place.alpha(&web, json!({"a": filter})).start_unready();
    let not_ready = alpha.admin_get("/ready");
    assert_eq!(not_ready.status(), 503);
    assert!(not_ready.text().contains("SSL_CERT_FILE can name"), "{}", not_ready.text());
    assert!(stranger.asked().is_empty());
    // At last one that can be: from here on it is in the cache.
    let said = place.check(&web, json!({"module": web.url("/hop/5"), "sha256": digest}));
    assert!(said.contains(": fine: "), "{said}");
}

/// A sidecar starts without a module that does not come, lets nothing pass that should pass it, says so, and takes it
/// into use when it comes.
#[test]
fn a_missing_module_is_waited_for() {
    let place = Place::new();
    let code = module("here");
    let digest = sha256(&code);
    let up = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&up);
    let web = Web::start(move |_| if now.load(Ordering::SeqCst) { Page::ok(code.clone()) } else { Page::status(503) });
    let filter = json!({"module": web.url("/m"), "sha256": digest});
    let mut alpha = place.alpha(&web, json!({"far": filter})).start_unready();
    let not_ready = alpha.admin_get("/ready");
    assert_eq!(not_ready.status(), 503);
    let text = not_ready.text();
    assert!(text.contains("filters.far: cannot fetch https://") && text.contains("503"), "{text}");
    let shown = filter_page(&alpha);
    assert_eq!(
        (&shown["name"], &shown["vms"], &shown["sha256"]),
        (&json!("far"), &json!(0), &json!(digest)),
        "{shown}"
    );
    let why = shown["missing"].as_str().expect("a reason");
    assert!(why.contains("cannot fetch https://") && shown["last_error"] == why, "{why}");
    let refused = get(&alpha);
    assert_eq!(refused.status(), 503);
    assert_eq!((refused.text().trim(), refused.field("x-mark")), ("filter_unavailable", None));
    alpha.counts(1.0, "lacis_requests_total", &[("reason", "filter_unavailable"), ("status", "503")]);
    alpha.counts(1.0, "lacis_filter_unavailable_total", &[("filter", "far"), ("result", "refused")]);
    alpha.counts(0.0, "lacis_filter_unavailable_total", &[("filter", "far"), ("result", "skipped")]);
    let expected = format!("filter far: its module {} is missing", web.url("/m"));
    alpha.log("why it failed", |line| line["message"] == "request failed" && line.to_string().contains(&expected));
    assert_eq!(place.app.requests(), 0);
    // A changed file may want another module, and is refused then; what has nothing to do with that is changed.
    let why = alpha.refused(json!({"filters": {"far": {"sha256": "0".repeat(64)}}}));
    assert!(why.contains("filters.far: cannot fetch"), "{why}");
    alpha.reload(json!({"filters": {"far": {"sha256": digest, "config": "x"}}}));
    assert_eq!((get(&alpha).status(), alpha.admin_get("/ready").status(), place.app.requests()), (503, 503, 0));
    up.store(true, Ordering::SeqCst);
    until("the module is in use", || (get(&alpha).field("x-mark") == Some("here")).then_some(()));
    until("alpha is ready", || (alpha.admin_get("/ready").status() == 200).then_some(()));
    let shown = filter_page(&alpha);
    assert_eq!((&shown["missing"], &shown["vms"]), (&Value::Null, &json!(1)), "{shown}");
}

/// Of two that are missing, one comes: it is in use, though the other is not there.
#[test]
fn a_module_does_not_wait_for_another() {
    let place = Place::new();
    let [one, two] = ["one", "two"].map(module);
    let digests = [&one, &two].map(|code| sha256(code));
    let up = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&up);
    let web = Web::start(move |asked: &Asked| match (asked.target.as_str(), now.load(Ordering::SeqCst)) {
        ("/one", 1..) => Page::ok(one.clone()),
        ("/two", 2..) => Page::ok(two.clone()),
        _ => Page::status(404),
    });
    let filter = |path: &str, digest: &str| json!({"module": web.url(path), "sha256": digest});
    let filters = json!({"one": filter("/one", &digests[0]), "two": filter("/two", &digests[1])});
    let own = json!({"outbound": {"filters": []}, "services": {"delta": {"filters": ["one"]}, "other": {"filters": ["two"]}}});
    let alpha = place.alpha(&web, filters).calls("other", place.app.address(), Link::Plaintext);
    let alpha = alpha.with(own).start_unready();
    assert_eq!((get(&alpha).status(), place.app.requests()), (503, 0));
    up.store(1, Ordering::SeqCst);
    until("the first is in use", || (get(&alpha).field("x-mark") == Some("one")).then_some(()));
    assert_eq!(client::get(alpha.outbound(), "other", "/echo").status(), 503);
    let not_ready = alpha.admin_get("/ready").text();
    assert!(!not_ready.contains("filters.one") && not_ready.contains("filters.two: cannot fetch"), "{not_ready}");
    up.store(2, Ordering::SeqCst);
    until("alpha is ready", || (alpha.admin_get("/ready").status() == 200).then_some(()));
    assert_eq!(client::get(alpha.outbound(), "other", "/echo").field("x-mark"), Some("two"));
}

/// The same for a filter of one service: what goes elsewhere goes on.
#[test]
fn a_service_waits_for_the_module_of_its_filter() {
    let place = Place::new();
    let web = Web::start(|_| Page::status(404));
    let filter = json!({"module": web.url("/m"), "sha256": "0".repeat(64)});
    let alpha = place.alpha(&web, json!({"far": filter})).calls("other", place.app.address(), Link::Plaintext);
    let own = json!({"outbound": {"filters": []}, "services": {"delta": {"filters": ["far"]}}});
    let alpha = alpha.with(own).start_unready();
    assert_eq!((get(&alpha).status(), place.app.requests()), (503, 0));
    assert_eq!(client::get(alpha.outbound(), "other", "/echo").status(), 200);
}

/// With `failure: open` requests pass without the filter while its module is missing.
#[test]
fn a_missing_module_that_fails_open_is_skipped() {
    let place = Place::new();
    let web = Web::start(|_| Page::status(404));
    let filter = json!({"module": web.url("/m"), "sha256": "0".repeat(64), "failure": "open"});
    let mut alpha = place.alpha(&web, json!({"far": filter})).start_unready();
    assert_eq!(alpha.admin_get("/ready").status(), 503);
    assert_eq!(get(&alpha).status(), 200);
    alpha.counts(1.0, "lacis_filter_unavailable_total", &[("filter", "far"), ("result", "skipped")]);
    alpha.counts(0.0, "lacis_filter_unavailable_total", &[("filter", "far"), ("result", "refused")]);
    // A configuration that does without it is complete.
    alpha.reload(json!({"outbound": {"filters": []}, "filters": null}));
    assert_eq!(alpha.admin_get("/ready").status(), 200);
}

/// It is skipped by what comes to it: not by what a filter before it has answered.
#[test]
fn a_missing_module_is_not_skipped_by_what_does_not_come_to_it() {
    let place = Place::new();
    let web = Web::start(|_| Page::status(404));
    let filters = json!({
        "far": {"module": web.url("/m"), "sha256": "0".repeat(64), "failure": "open"},
        "gate": {"module": "builtin:auth", "config": {"keys": [{"name": "a", "sha256": sha256(b"open-sesame")}]}},
    });
    for (order, skipped) in [(["gate", "far"], 0.0), (["far", "gate"], 1.0)] {
        let alpha = place.alpha(&web, filters.clone()).with(json!({"outbound": {"filters": order}})).start_unready();
        let counted =
            || alpha.metrics().sum("lacis_filter_unavailable_total", &[("filter", "far"), ("result", "skipped")]);
        assert_eq!((get(&alpha).status(), counted()), (401, skipped), "{order:?}");
        let key = [("x-api-key", "open-sesame")];
        let answer = client::Client::connect(alpha.outbound()).request("GET", "delta", "/echo", &key, None);
        assert_eq!((answer.status(), counted()), (200, skipped + 1.0), "{order:?}");
        let page: Value = serde_json::from_str(&alpha.admin_get("/filters").text()).expect("JSON");
        let far = page["filters"].as_array().and_then(|all| all.iter().find(|filter| filter["name"] == "far"));
        assert_eq!(far.expect("it is shown")["unavailable"], json!({"skipped": skipped as u64 + 1, "refused": 0}));
    }
}

/// A change is tried again when a server fails for a moment, and refused when the module is not there.
#[test]
fn a_reload_waits_for_a_server_and_not_for_a_404() {
    let place = Place::new();
    let code = module("late");
    let digest = sha256(&code);
    let tries = AtomicUsize::new(0);
    let web = Web::start(move |asked: &Asked| match asked.target.as_str() {
        "/late" if tries.fetch_add(1, Ordering::SeqCst) > 0 => Page::ok(code.clone()),
        "/late" => Page::status(500),
        _ => Page::status(404),
    });
    let mut alpha = place.alpha(&web, json!({})).start();
    let late = json!({"module": web.url("/late"), "sha256": digest});
    let with = |filter: &Value| json!({"outbound": {"filters": ["far"]}, "filters": {"far": filter}});
    let absent = json!({"module": web.url("/absent"), "sha256": "0".repeat(64)});
    let why = alpha.refused(with(&absent));
    assert!(why.contains("answers 404"), "{why}");
    assert_eq!((get(&alpha).status(), alpha.admin_get("/ready").status()), (200, 200), "the old one stays");
    alpha.reload(with(&late));
    assert_eq!(get(&alpha).field("x-mark"), Some("late"));
    assert_eq!(web.asked().iter().filter(|asked| asked.target == "/late").count(), 2);
}

/// A correction is not kept waiting by what it corrects: it takes the place of an attempt that still fetches.
#[test]
fn a_newer_save_supersedes_an_attempt_that_fetches() {
    let place = Place::new();
    let web = Web::start(|_| Page::status(503));
    let mut alpha = place.alpha(&web, json!({})).start();
    let far = json!({"module": web.url("/m"), "sha256": "0".repeat(64)});
    alpha.reconfigure(json!({"outbound": {"filters": ["far"]}, "filters": {"far": far}}));
    until("the module is asked for", || (!web.asked().is_empty()).then_some(()));
    alpha.reconfigure(json!({"outbound": {"filters": []}, "filters": null, "services": {"delta": {"hosts": ["new"]}}}));
    let now = alpha.generation("another generation", |now| now["number"].as_u64() > Some(1));
    assert_eq!(
        (&now["number"], &now["state"]),
        (&json!(2), &json!("active")),
        "the attempt goes on with what is right: {now}"
    );
    assert!(web.asked().len() < 6, "it was given up: {}", web.asked().len());
    assert_eq!(client::get(alpha.outbound(), "new", "/echo").status(), 200);
    assert_eq!(alpha.metrics().sum("lacis_config_reloads_total", &[("result", "rejected")]), 0.0);
}

/// An image: its manifest, and its blobs by digest.
struct Image {
    manifest: String,
    blobs: Vec<Vec<u8>>,
}

impl Image {
    /// With these layers and their media types.
    fn new(kind: &str, config: &str, layers: &[(&str, Vec<u8>)]) -> Image {
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "config": descriptor(config, b"{}"),
            "layers": layers.iter().map(|(kind, bytes)| descriptor(kind, bytes)).collect::<Vec<_>>(),
        });
        let blobs = layers.iter().map(|(_, bytes)| bytes.clone()).chain([b"{}".to_vec()]).collect();
        Image { manifest: manifest.to_string(), blobs }
    }

    fn digest(&self) -> String {
        sha256(self.manifest.as_bytes())
    }

    fn kind(&self) -> String {
        let manifest: Value = serde_json::from_str(&self.manifest).expect("JSON");
        manifest["mediaType"].as_str().expect("a media type").to_owned()
    }
}

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const WASM: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

/// The four layouts that modules come in, and what each adds to responses.
fn images() -> Vec<(&'static str, Image)> {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let docker_config = "application/vnd.docker.container.image.v1+json";
    let oci_layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let packed = |mark| archive("plugin.wasm", &module(mark));
    vec![
        (
            "docker",
            Image::new(
                docker,
                docker_config,
                &[(docker_layer, archive("etc/hosts", b"x")), (docker_layer, packed("docker"))],
            ),
        ),
        ("oci", Image::new(OCI, OCI_CONFIG, &[(oci_layer, packed("oci"))])),
        (
            "artifact",
            Image::new(
                OCI,
                "application/vnd.module.wasm.config.v1+json",
                &[(WASM, module("artifact")), ("application/vnd.module.wasm.config.v1+json", b"{}".to_vec())],
            ),
        ),
        ("cncf", Image::new(OCI, "application/vnd.wasm.config.v0+json", &[("application/wasm", module("cncf"))])),
    ]
}

/// A registry that wants a token, which it gives to `user` with the password `secret` and nobody else.
fn registry(images: Vec<Image>) -> Web {
    let realm = Arc::new(std::sync::OnceLock::<String>::new());
    let known = Arc::clone(&realm);
    let web = Web::start(move |asked: &Asked| {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        if path == "/token" {
            // "user:secret"
            let good = asked.authorization == "Basic dXNlcjpzZWNyZXQ="
                && query == "scope=repository:team/mod:pull&service=ours";
            return if good { Page::ok(r#"{"token": "t0k3n"}"#) } else { Page::status(401) };
        }
        if asked.authorization != "Bearer t0k3n" {
            let realm = known.get().expect("a realm");
            let challenge = format!(r#"Bearer realm="{realm}",service="ours",scope="repository:team/mod:pull""#);
            return Page::status(401).field("www-authenticate", &challenge);
        }
        for image in &images {
            if path == format!("/v2/team/mod/manifests/sha256:{}", image.digest()) {
                return Page::ok(image.manifest.clone()).field("content-type", &image.kind());
            }
            if let Some(blob) = image.blobs.iter().find(|b| path == format!("/v2/team/mod/blobs/sha256:{}", sha256(b)))
            {
                return Page::ok(blob.clone());
            }
        }
        Page::status(404)
    });
    realm.set(web.url("/token")).expect("once");
    web
}

/// `base64("user:secret")` for a registry, as `docker login` writes it.
fn credentials(web: &Web) -> String {
    json!({"auths": {web.address().to_string(): {"auth": "dXNlcjpzZWNyZXQ="}}}).to_string()
}

/// Every layout, from a registry with tokens.
#[test]
fn images_of_every_layout_are_understood() {
    let place = Place::new();
    let all = images();
    let digests: Vec<_> = all.iter().map(|(mark, image)| (*mark, image.digest())).collect();
    let web = registry(all.into_iter().map(|(_, image)| image).collect());
    place.mesh.file("docker.json", credentials(&web));
    let mut filters = json!({});
    for (mark, digest) in &digests {
        let module = format!("oci://{}/team/mod@sha256:{digest}", web.address());
        filters[mark] = json!({"module": module, "credentials": place.mesh.dir().join("docker.json")});
    }
    let alpha = place.alpha(&web, filters).start();
    let answer = get(&alpha);
    let mut marks = answer.head.all("x-mark");
    marks.sort_unstable();
    assert_eq!(marks, ["artifact", "cncf", "docker", "oci"]);
    assert!(alpha.err.all().iter().all(|line| !line.contains("t0k3n") && !line.contains("dXNlcjpz")), "secrets");
}

/// What a registry does not have or give, and an image without a module.
#[test]
fn what_a_registry_refuses_is_told() {
    let place = Place::new();
    let text = Image::new(OCI, OCI_CONFIG, &[("text/plain", b"hello".to_vec())]);
    let mut forged = Image::new(OCI, OCI_CONFIG, &[(WASM, module("forged"))]);
    let (text_digest, forged_digest) = (text.digest(), forged.digest());
    // What is stored under the digest is something else. `registry` finds blobs by what they are, so the manifest lies.
    forged.blobs.clear();
    let web = registry(vec![text, forged]);
    let image = |digest: &str| format!("oci://{}/team/mod:v1@sha256:{digest}", web.address());
    let said = |module: String| place.check(&web, json!({"module": module}));
    let without = said(image(&text_digest));
    assert!(without.contains("answers 401"), "{without}");
    place.mesh.file("config.json", credentials(&web));
    let no_module = said(image(&text_digest));
    assert!(no_module.contains("it holds no module: its layers are [text/plain]"), "{no_module}");
    let absent = said(image(&"0".repeat(64)));
    assert!(absent.contains("answers 404"), "{absent}");
    let blob = said(image(&forged_digest));
    assert!(blob.contains("/blobs/sha256:") && blob.contains("answers 404"), "{blob}");
    place.mesh.file("config.json", credentials(&web).replace("dXNl", "AAAA"));
    let wrong = said(image(&text_digest));
    assert!(wrong.contains("/token") && wrong.contains("401"), "{wrong}");
}

/// Who a registry sends us to for a blob is not told our credentials, and does not say to whom they are told.
#[test]
fn credentials_are_for_the_registry() {
    let place = Place::new();
    let thief = Web::start(|_| Page::ok(r#"{"token": "t0k3n"}"#));
    let challenge = format!(r#"Bearer realm="{}",service="mine""#, thief.url("/token"));
    let store = Web::start(move |_| Page::status(401).field("www-authenticate", &challenge));
    let image = Image::new(OCI, OCI_CONFIG, &[(WASM, module("far"))]);
    let (digest, blob) = (image.digest(), store.url("/blob"));
    let registry = Web::start(move |asked: &Asked| {
        if asked.authorization != "Basic dXNlcjpzZWNyZXQ=" {
            return Page::status(401).field("www-authenticate", r#"Basic realm="ours""#);
        }
        match asked.target.contains("/manifests/") {
            true => Page::ok(image.manifest.clone()).field("content-type", &image.kind()),
            false => Page::status(307).field("location", &blob),
        }
    });
    place.mesh.file("config.json", credentials(&registry));
    let trusted = [&registry, &store, &thief].map(|web| fs::read_to_string(web.authority()).expect("an authority"));
    fs::write(registry.authority(), trusted.concat()).expect("all of them");
    let module = format!("oci://{}/team/mod@sha256:{digest}", registry.address());
    let said = place.check(&registry, json!({"module": module}));
    let expected = format!("sends us to {}, which answers 401 Unauthorized", store.address());
    assert!(said.contains(&expected), "{said}");
    assert_eq!(store.asked().iter().map(|asked| &*asked.authorization).collect::<Vec<_>>(), [""]);
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
}

/// A registry that we did not write, without TLS as Docker allows it on this machine.
#[test]
fn a_real_registry_serves_images() {
    let Some(program) = peer_or("registry", "tests/peers/install") else { return };
    let mut command = program.command();
    command.args(["--port", "0"]);
    let server = Process::start("registry", command);
    let port: u16 = server.err.wait_for("its port", |lines| {
        lines.iter().find_map(|line| line.split_once("serving on port ")?.1.trim().parse().ok())
    });
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let send = |method: &str, path: &str, kind: &str, body: &[u8]| {
        let answer = client::request(address, method, "localhost", path, &[("content-type", kind)], Some(body));
        assert_eq!(answer.status(), 201, "{method} {path}: {answer:?}");
    };
    let place = Place::new();
    let mut filters = json!({});
    for (mark, image) in images() {
        for blob in &image.blobs {
            let path = format!("/v2/team/{mark}/blobs/uploads/?digest=sha256:{}", sha256(blob));
            send("POST", &path, "application/octet-stream", blob);
        }
        send("PUT", &format!("/v2/team/{mark}/manifests/v1"), &image.kind(), image.manifest.as_bytes());
        filters[mark] = json!({"module": format!("oci://localhost:{port}/team/{mark}:v1"), "sha256": image.digest()});
    }
    let web = Web::start(|_| Page::status(404));
    let alpha = place.alpha(&web, filters).start();
    let answer = get(&alpha);
    let mut marks = answer.head.all("x-mark");
    marks.sort_unstable();
    assert_eq!(marks, ["artifact", "cncf", "docker", "oci"]);
}

/// `allow`: a module that imports more is refused with what to write, and a call to another service is not made.
#[test]
fn a_filter_has_what_it_is_allowed() {
    let place = Place::new();
    let web = Web::start(|_| Page::status(404));
    let path = place.mesh.file("mine.wasm", module("mine"));
    let said = place.check(&web, json!({"module": path, "allow": {"functions": ["log"]}}));
    let expected = "mine.wasm imports env.proxy_add_header_map_value, which it is not allowed; add to allow.functions: \
                    headers";
    assert!(said.contains("filters.far: ") && said.contains(expected), "{said}");
    let alpha = place.alpha(&web, json!({"mine": {"module": path, "allow": {"functions": ["headers"]}}})).start();
    assert_eq!(get(&alpha).field("x-mark"), Some("mine"));
}
