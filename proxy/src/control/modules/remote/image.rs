//! Modules in images: the pull side of the OCI distribution specification 1.1, and the layouts that modules come in.
//!
//! What is asked for is the digest of the manifest, which names its layers by theirs: nothing here is trusted for the name
//! that it has.

use std::path::Path;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use serde_json::Value;

use super::super::{MODULE_MAX, sha256};
use super::credentials;
use super::web::{Answer, Ask, Client, Trouble};
use crate::config::is_loopback;

/// Largest manifest that is read; the specification asks registries for no more (section "Pushing manifests").
const MANIFEST_MAX: u64 = 4 << 20;

/// Largest answer with a token. Those of clouds have some KiB.
const TOKEN_MAX: u64 = 256 << 10;

/// The host that Docker's name for its registry stands for.
const DOCKER_HUB: &str = "registry-1.docker.io";

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// Layers that are the module itself: the artifact of the Solo.io and Istio specification, and that of the CNCF.
const BARE: [&str; 2] = ["application/vnd.module.wasm.content.layer.v1+wasm", "application/wasm"];

/// Layers that are a tar.gz: of an OCI image, and of a Docker image.
const ARCHIVES: [&str; 2] =
    ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"];

/// The bytes of the layer that has the module. `digest` is that of the manifest, or of an index with one.
pub(super) async fn fetch(
    client: &Client,
    registry: &str,
    repository: &str,
    digest: &str,
    file: Option<&Path>,
) -> Result<Vec<u8>, Trouble> {
    let credentials = credentials::find(file, registry).map_err(Trouble::lasting)?;
    let host = if registry == "docker.io" { DOCKER_HUB } else { registry };
    let mut session = Session { client, scheme: Scheme::HTTPS, host, repository, credentials, authorization: None };
    let mut manifest = match session.manifest(digest).await {
        // As Docker does for a registry on this machine.
        Err(trouble) if trouble.no_tls && is_loopback(bare(host)) => {
            session.scheme = Scheme::HTTP;
            session.manifest(digest).await?
        }
        manifest => manifest?,
    };
    if let Some(inner) = indexed(&manifest).map_err(Trouble::lasting)? {
        manifest = session.manifest(&inner).await?;
    }
    let layer = layer(&manifest).map_err(Trouble::lasting)?;
    session.get("blobs", &layer, "*/*", MODULE_MAX).await
}

/// One registry, and what it wants to hear.
struct Session<'a> {
    client: &'a Client,
    scheme: Scheme,
    host: &'a str,
    repository: &'a str,
    credentials: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
}

impl Session<'_> {
    async fn manifest(&mut self, digest: &str) -> Result<Value, Trouble> {
        let bytes = self.get("manifests", digest, MANIFESTS, MANIFEST_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| Trouble::lasting(format!("its manifest is no JSON: {error}")))
    }

    /// What has this digest, authenticated if the registry asks for that.
    async fn get(&mut self, kind: &str, digest: &str, accept: &'static str, most: u64) -> Result<Vec<u8>, Trouble> {
        let uri = self.uri(kind, digest)?;
        let mut answer = self.ask(&uri, accept, most).await?;
        // Whoever else it has sent us to is not one to say where our credentials go.
        if answer.status == StatusCode::UNAUTHORIZED && answer.from.as_ref() == uri.authority() {
            self.authorization = Some(self.authenticate(&answer.headers).await?);
            answer = self.ask(&uri, accept, most).await?;
        }
        match answer.status {
            StatusCode::OK => {}
            status if answer.from.as_ref() != uri.authority() => {
                let other = answer.from.as_ref().map_or("another", Authority::as_str);
                let trouble = Trouble::answered(&uri, status);
                return Err(Trouble { why: format!("{uri} sends us to {other}, which answers {status}"), ..trouble });
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let known = if self.credentials.is_some() { "with" } else { "without" };
                let trouble = Trouble::answered(&uri, status);
                return Err(Trouble { why: format!("{} ({known} credentials)", trouble.why), ..trouble });
            }
            status => return Err(Trouble::answered(&uri, status)),
        }
        let found = sha256(&answer.body);
        if found == digest { Ok(answer.body) } else { Err(Trouble::lasting(format!("{uri} has the SHA-256 {found}"))) }
    }

    async fn ask(&self, uri: &Uri, accept: &'static str, most: u64) -> Result<Answer, Trouble> {
        self.client.get(Ask { uri, accept, authorization: self.authorization.as_ref(), most }).await
    }

    fn uri(&self, kind: &str, digest: &str) -> Result<Uri, Trouble> {
        let path = format!("/v2/{}/{kind}/sha256:{digest}", self.repository);
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.host).path_and_query(path).build();
        uri.map_err(|error| Trouble::lasting(format!("\"{}\" is not a registry: {error}", self.host)))
    }

    /// What the challenge of a 401 asks for (RFC 9110 section 11.6.1): credentials, or a token that somebody else gives
    /// for them (Docker's token authentication, which the specification's registries share).
    async fn authenticate(&self, headers: &HeaderMap) -> Result<HeaderValue, Trouble> {
        let host = self.host;
        let wants = |what: &str| Trouble::lasting(format!("{host} wants {what}"));
        let challenges: Vec<_> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok()?.split_once(' '))
            .collect();
        let of = |scheme: &str| challenges.iter().find(|(own, _)| own.eq_ignore_ascii_case(scheme)).map(|(_, p)| *p);
        let Some(parameters) = of("bearer") else {
            return match (of("basic"), &self.credentials) {
                (Some(_), Some(credentials)) => Ok(credentials.clone()),
                (Some(_), None) => Err(wants(
                    "credentials; write them to Docker's config.json (docker login), or name one: credentials",
                )),
                (None, _) => Err(wants("an authentication that is neither bearer nor basic")),
            };
        };
        let parameters = parse(parameters);
        let parameter = |name: &str| parameters.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        let realm = parameter("realm").ok_or_else(|| wants("a token and does not say from whom"))?;
        let realm: Uri = realm.parse().map_err(|_| wants(&format!("a token from \"{realm}\", which is no URL")))?;
        // Credentials go there.
        let private = realm.scheme() == Some(&Scheme::HTTPS)
            || self.scheme == Scheme::HTTP && realm.host().is_some_and(is_loopback);
        if !private {
            return Err(wants(&format!("a token from {realm}, which is no https://")));
        }
        let scope = parameter("scope").cloned().unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let mut query = format!("scope={}", escaped(&scope));
        if let Some(service) = parameter("service") {
            query.push_str(&format!("&service={}", escaped(service)));
        }
        let mut parts = realm.into_parts();
        let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
        let joint = if path.contains('?') { '&' } else { '?' };
        parts.path_and_query = PathAndQuery::try_from(format!("{path}{joint}{query}")).ok();
        let uri = Uri::from_parts(parts).map_err(|_| wants("a token from what is no URL"))?;
        let ask =
            Ask { uri: &uri, accept: "application/json", authorization: self.credentials.as_ref(), most: TOKEN_MAX };
        let Answer { status, body, .. } = self.client.get(ask).await?;
        if status != StatusCode::OK {
            return Err(Trouble::answered(&uri, status));
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = ["token", "access_token"].iter().find_map(|key| answer[key].as_str());
        let value = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut value = value.ok_or_else(|| Trouble::lasting(format!("{uri} answers no token")))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The digest of the manifest that an index (an image for several platforms) has for modules; nothing if this is none.
fn indexed(manifest: &Value) -> Result<Option<String>, String> {
    let Some(all) = manifest["manifests"].as_array() else { return Ok(None) };
    let platform = |entry: &&Value, word: &str| entry["platform"]["architecture"].as_str() == Some(word);
    // Attestations of a build are no platform.
    let images: Vec<&Value> = all.iter().filter(|entry| !platform(entry, "unknown")).collect();
    let chosen = match images[..] {
        [one] => Some(one),
        _ => images.iter().copied().find(|entry| platform(entry, "wasm")),
    };
    match chosen {
        Some(entry) => digest(entry).map(Some),
        None => Err("it is for several platforms, and wasm is none of them; name the digest of one".into()),
    }
}

/// The digest of the layer that has the module.
fn layer(manifest: &Value) -> Result<String, String> {
    let layers = manifest["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let is = |layer: &Value, kinds: &[&str]| layer["mediaType"].as_str().is_some_and(|own| kinds.contains(&own));
    let layer = layers.iter().find(|layer| is(layer, &BARE));
    // What a build adds comes last.
    let layer = layer.or_else(|| layers.last().filter(|layer| is(layer, &ARCHIVES)));
    let Some(layer) = layer else {
        let kinds: Vec<_> = layers.iter().map(|layer| layer["mediaType"].as_str().unwrap_or("?")).collect();
        return Err(format!(
            "it holds no module: its layers are [{}]; there must be one {} or {}, or a last one {} or {}",
            kinds.join(", "),
            BARE[0],
            BARE[1],
            ARCHIVES[0],
            ARCHIVES[1]
        ));
    };
    if layer["size"].as_u64().is_some_and(|size| size > MODULE_MAX) {
        return Err(format!("its layer is larger than the {} MiB that a module may have", MODULE_MAX >> 20));
    }
    digest(layer)
}

fn digest(descriptor: &Value) -> Result<String, String> {
    let text = descriptor["digest"].as_str().unwrap_or_default();
    let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    hex.map(str::to_owned).ok_or_else(|| format!("it names something by \"{text}\", which is no SHA-256"))
}

/// The host of a registry without its port.
fn bare(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => host,
    }
}

/// `name=value` and `name="value"`, between commas.
fn parse(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        parameters.push((name.trim_matches([' ', ',']).to_owned(), value.to_owned()));
        rest = after;
    }
    parameters
}

/// As a value in a query (RFC 3986 section 3.4).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let text = r#"realm="https://auth.example/token?a=b,c", service=reg, scope="repository:a/b:pull,push" "#;
        let expected =
            [("realm", "https://auth.example/token?a=b,c"), ("service", "reg"), ("scope", "repository:a/b:pull,push")];
        assert_eq!(parse(text), expected.map(|(name, value)| (name.into(), value.into())));
        for hostile in ["", "=", "a", "\"", "a=\"", ",,,=,=", "a=b=c"] {
            parse(hostile);
        }
        assert_eq!(escaped("repository:a/b:pull&x= ü"), "repository:a/b:pull%26x%3D%20%C3%BC");
        assert_eq!(["a:1", "[::1]:5", "[::1]", "localhost"].map(bare), ["a", "[::1]", "[::1]", "localhost"]);
    }

    #[test]
    fn the_layer_with_the_module_is_found() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = format!("sha256:{hex}");
        let of = |layers: Value| layer(&json!({ "layers": layers }));
        let last = |kind: &str| of(json!([{"mediaType": ARCHIVES[0]}, {"mediaType": kind, "digest": digest}]));
        for kind in BARE.iter().chain(&ARCHIVES) {
            assert_eq!(last(kind), Ok(hex.clone()), "{kind}");
        }
        let first = of(json!([{"mediaType": BARE[0], "digest": digest}, {"mediaType": "application/config"}]));
        assert_eq!(first, Ok(hex.clone()));
        assert!(last("application/zip").unwrap_err().contains("application/zip"));
        assert!(of(json!([])).is_err() && of(json!("x")).is_err() && layer(&Value::Null).is_err());
        let with = |size: u64| of(json!([{"mediaType": BARE[0], "digest": digest, "size": size}]));
        assert!(with(MODULE_MAX).is_ok() && with(MODULE_MAX + 1).unwrap_err().contains("256 MiB"));
        for digest in ["", "sha256:", "sha512:00", &digest[..70], "sha256:../../../etc/passwd"] {
            assert!(of(json!([{"mediaType": BARE[0], "digest": digest}])).unwrap_err().contains("no SHA-256"));
        }
    }

    #[test]
    fn of_an_index_the_module_is_taken() {
        let hex = "0".repeat(64);
        let entry =
            |architecture: &str| json!({"digest": format!("sha256:{hex}"), "platform": {"architecture": architecture}});
        let of = |entries: &[Value]| indexed(&json!({ "manifests": entries }));
        assert_eq!(of(&[entry("amd64"), entry("unknown")]), Ok(Some(hex.clone())));
        assert_eq!(of(&[entry("amd64"), entry("wasm")]), Ok(Some(hex.clone())));
        assert!(of(&[entry("amd64"), entry("arm64")]).is_err() && of(&[]).is_err());
        assert_eq!(indexed(&json!({"layers": []})), Ok(None));
    }
}
