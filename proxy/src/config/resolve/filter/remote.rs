//! Modules that are fetched: what is asked where, and the digest that must come.

use super::super::super::names::is_loopback;
use super::super::super::reader::{Field, Spot};
use super::super::super::yaml::clip;
use super::super::super::{Module, Place, Remote};
use super::super::Resolver;

/// Longest name of a repository, distribution specification, section "Pulling manifests".
const MAX_REPOSITORY: usize = 255;

/// Longest tag, ibid.
const MAX_TAG: usize = 128;

impl Resolver<'_> {
    /// See [`Resolver::module`].
    pub(super) fn remote(
        &self,
        url: String,
        spot: Spot,
        sha256: Option<&Option<String>>,
        credentials: Field<String>,
    ) -> Option<(Module, Option<String>)> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let known = credentials.spot();
        let credentials = self.optional(credentials, None, |path, spot| self.path(path, spot).map(Some));
        let parsed = match scheme {
            "oci" => image(rest),
            "https" | "http" => web(&url, scheme).map(|place| (place, None)),
            _ => Err(format!("there are no modules from {}://; write a path, https://… or oci://…", clip(scheme))),
        };
        let (place, own) = match parsed {
            Ok(parsed) => parsed,
            Err(why) => return self.refuse(spot, why),
        };
        if let (Place::Url(_), Some(spot)) = (&place, known) {
            self.report.wrong(spot, "only a registry asks for credentials; remove it, or write module: oci://…");
        }
        let sha256 = match (own, sha256?) {
            (Some(own), Some(sha256)) if own != *sha256 => {
                return self.refuse(spot, format!("has another digest than sha256 ({sha256}); write one of them"));
            }
            (None, None) => {
                let what = if scheme == "oci" { "of the image's manifest" } else { "of the file" };
                return self.refuse(spot, format!("what is fetched must be known; add sha256: the digest {what}"));
            }
            (own, sha256) => own.or_else(|| sha256.clone()),
        };
        Some((Module::Remote(Remote { url, place, credentials: credentials? }), sha256))
    }
}

/// `https://HOST/PATH`; plain `http` only where nobody can be on the way.
fn web(url: &str, scheme: &str) -> Result<Place, String> {
    let wrong = |why: &str| format!("\"{}\" is not the URL of a module: {why}", clip(url));
    let uri: http::Uri = url.parse().map_err(|error| wrong(&format!("{error}")))?;
    let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err("the URL of a module cannot have a user in it, who would be shown; remove that, up to @".into());
    }
    if url.contains('#') {
        return Err(wrong("it has a fragment; remove that from #"));
    }
    if scheme == "http" && !is_loopback(authority.host()) {
        return Err("http:// is for this machine (localhost) only; write https://".into());
    }
    Ok(Place::Url(uri))
}

/// `REGISTRY/REPOSITORY`, and `:TAG`, `@sha256:DIGEST` or both. Gives the digest too.
fn image(text: &str) -> Result<(Place, Option<String>), String> {
    let wrong = |why: &str| format!("\"oci://{}\" is not an image: {why}", clip(text));
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong("after @ stands sha256: and 64 hexadecimal digits, in lower case"));
            }
            (name, Some(hex.to_owned()))
        }
        None => (text, None),
    };
    let (registry, path) = name.split_once('/').ok_or_else(|| wrong("write oci://REGISTRY/REPOSITORY:TAG"))?;
    let (repository, tag) = path.rsplit_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
    let host = registry.parse::<http::uri::Authority>().ok().filter(|_| !registry.contains('@'));
    // As Docker tells a registry from a user of its own.
    if host.is_none_or(|host| !(registry.contains(['.', ':']) || host.host() == "localhost")) {
        return Err(wrong(&format!("\"{registry}\" is not a registry; write its host first, such as ghcr.io/")));
    }
    let component = |part: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
    };
    if repository.len() > MAX_REPOSITORY || !repository.split('/').all(component) {
        return Err(wrong("a repository has a-z, 0-9, and . _ - between them, in parts with / between them"));
    }
    let is_tag = |tag: &str| {
        tag.len() <= MAX_TAG
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(wrong("a tag has at most 128 of A-Z, a-z, 0-9, . _ -"));
    }
    Ok((Place::Image { registry: registry.to_owned(), repository: repository.to_owned() }, digest))
}
