//! What registries are told of who asks: Docker's `config.json`.

use std::env;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use serde_json::Value;

use crate::config::file;

/// Largest file, in bytes. One with a hundred registries has 20 KiB.
const FILE_MAX: u64 = 1 << 20;

/// What Docker calls its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The value of `authorization` for a registry, by basic authentication (RFC 7617); nothing if none is known.
///
/// # Errors
/// If a file cannot be read or understood, or says that another program knows.
pub(super) fn find(named: Option<&Path>, registry: &str) -> Result<Option<HeaderValue>, String> {
    let usual = || {
        let directory = env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let directory = directory.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")))?;
        Some(directory.join("config.json"))
    };
    let Some(path) = named.map(Path::to_owned).or_else(usual) else { return Ok(None) };
    let cannot = |why: String| format!("credentials in {}: {why}", path.display());
    let mut text = String::new();
    match file::open(&path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 > FILE_MAX => Err(cannot(format!("larger than {FILE_MAX} bytes"))),
        Ok(_) => of(&text, registry).map_err(cannot),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(error) => Err(cannot(error.to_string())),
    }
}

fn of(text: &str, registry: &str) -> Result<Option<HeaderValue>, String> {
    let config: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let hub = matches!(registry, "docker.io" | "registry-1.docker.io");
    let names = [registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/v2/")];
    let names = names.iter().map(String::as_str).chain(hub.then_some(DOCKER_HUB));
    let Some(entry) = names.filter_map(|name| config["auths"].get(name)).next() else { return Ok(None) };
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty());
    let known = match (text("auth"), text("username"), text("password")) {
        (Some(auth), ..) => auth.to_owned(),
        (None, Some(user), Some(password)) => STANDARD.encode(format!("{user}:{password}")),
        _ => {
            return Err(format!(
                "nothing in it but a name for {registry}; credential helpers and identity tokens are not supported, \
                 write auth, or username and password"
            ));
        }
    };
    let value = HeaderValue::try_from(format!("Basic {}", known.trim()));
    let mut value = value.map_err(|_| format!("auth of {registry} is not base64"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_registry() {
        let text = r#"{"auths": {
            "a.example": {"auth": "dTpw"}, "https://b.example:5000": {"username": "u", "password": "p"},
            "https://index.docker.io/v1/": {"auth": "aHVi"}, "c.example": {}}}"#;
        let known = |registry| of(text, registry).map(|value| value.map(|value| value.to_str().unwrap().to_owned()));
        assert_eq!(known("a.example"), Ok(Some("Basic dTpw".into())));
        assert_eq!(known("b.example:5000"), Ok(Some("Basic dTpw".into())));
        assert_eq!(known("docker.io"), Ok(Some("Basic aHVi".into())));
        assert_eq!((known("b.example"), known("example")), (Ok(None), Ok(None)));
        assert!(known("c.example").unwrap_err().contains("credential helpers"));
        assert!(of("{", "a").is_err() && of("[]", "a") == Ok(None));
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let error = find(Some(Path::new("/nonexistent/config.json")), "a").unwrap_err();
        assert!(error.starts_with("credentials in /nonexistent/config.json: No such file"), "{error}");
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(find(Some(&pipe), "a").unwrap_err().ends_with("it is not a file"));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |length: u64| {
            std::fs::write(file.path(), format!("{{}}{}", " ".repeat(length as usize - 2))).unwrap();
            find(Some(file.path()), "a")
        };
        assert_eq!(with(FILE_MAX), Ok(None));
        assert!(with(FILE_MAX + 1).unwrap_err().ends_with("larger than 1048576 bytes"));
    }
}
