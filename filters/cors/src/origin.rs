//! Which origins are let in.

/// A list of origins.
#[derive(Debug)]
pub(crate) struct Origins {
    list: Vec<Pattern>,
}

/// An origin, or a family of them.
#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    /// `*`
    Any,
    /// `null`, the origin of files and sandboxes.
    Null,
    Of {
        scheme: String,
        /// Whether subdomains of the host are meant, not itself.
        sub: bool,
        host: String,
        port: Port,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Port {
    /// The scheme's own, which browsers do not write.
    Default,
    Any,
    Number(u16),
}

impl Origins {
    pub(crate) fn new(list: &[String]) -> Result<Self, String> {
        if list.is_empty() {
            return Err("`origins` is empty: no page could call; list some, or \"*\"".to_owned());
        }
        Ok(Self { list: list.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>()? })
    }

    /// Whether every origin is let in.
    pub(crate) fn are_all(&self) -> bool {
        self.list.contains(&Pattern::Any)
    }

    /// Whether an origin, as a browser writes it (RFC 6454 section 6.2), is let in.
    pub(crate) fn allow(&self, origin: &str) -> bool {
        self.list.iter().any(|pattern| pattern.matches(origin))
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no origin; write one like https://app.example, https://*.example:8443, http://localhost:*, null or *"
            )
        };
        match text {
            "*" => return Ok(Self::Any),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (sub, rest) = rest.strip_prefix("*.").map_or((false, rest), |rest| (true, rest));
        let (host, port) = host_and_port(rest);
        let port = match port {
            None => Port::Default,
            Some("*") => Port::Any,
            // Browsers leave it out.
            Some("80") if scheme == "http" => Port::Default,
            Some("443") if scheme == "https" => Port::Default,
            Some(number) => Port::Number(number.parse().map_err(|_| wrong())?),
        };
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.[]:_".contains(&b));
        if !is_scheme || !is_host || (sub && host.starts_with('[')) {
            return Err(wrong());
        }
        Ok(Self::Of { scheme: scheme.to_owned(), sub, host: host.to_owned(), port })
    }

    fn matches(&self, origin: &str) -> bool {
        let Self::Of { scheme, sub, host, port } = self else {
            return *self == Self::Any || origin == "null";
        };
        let Some((own_scheme, rest)) = origin.split_once("://") else { return false };
        let (own_host, own_port) = host_and_port(rest);
        let same_host = match sub {
            false => own_host == host,
            true => own_host.strip_suffix(host.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        };
        let same_port = match port {
            Port::Default => own_port.is_none(),
            Port::Any => own_port.is_none_or(|port| port.parse::<u16>().is_ok()),
            Port::Number(number) => own_port.and_then(|port| port.parse().ok()) == Some(*number),
        };
        own_scheme == scheme && same_host && same_port
    }
}

/// `[::1]:80` has colons of both kinds.
fn host_and_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(pattern: &str, origin: &str) -> bool {
        Origins::new(&[pattern.to_owned()]).unwrap().allow(origin)
    }

    #[test]
    fn origins_are_matched_by_scheme_host_and_port() {
        for (pattern, yes, no) in [
            (
                "https://app.example",
                &["https://app.example"][..],
                &[
                    "http://app.example",
                    "https://app.example:8443",
                    "https://app.example.evil",
                    "https://xapp.example",
                    "null",
                    "",
                ][..],
            ),
            (
                "https://*.Example.com",
                &["https://a.example.com", "https://a.b.example.com"],
                &[
                    "https://example.com",
                    "https://evilexample.com",
                    "https://.example.com",
                    "https://a.example.com:1",
                    "https://a.example.com.evil",
                ],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:3000"],
                &["http://localhost:x", "http://localhost:99999", "https://localhost"],
            ),
            ("https://a:8443", &["https://a:8443"], &["https://a", "https://a:844"]),
            ("https://a:443", &["https://a"], &["https://a:443"]),
            ("http://[::1]:8080", &["http://[::1]:8080"], &["http://[::1]"]),
            ("null", &["null"], &["https://null", "*"]),
            ("*", &["https://anything", "null"], &[]),
        ] {
            for origin in yes {
                assert!(allow(pattern, origin), "{pattern} {origin}");
            }
            for origin in no {
                assert!(!allow(pattern, origin), "{pattern} {origin}");
            }
        }
    }

    #[test]
    fn mistakes_are_told_with_what_would_be_right() {
        for origin in [
            "",
            "example.com",
            "https://",
            "https://*",
            "https://a/",
            "https://a b",
            "https://a:b",
            "https://a:70000",
            "https://*.",
            "://a",
        ] {
            let error = Origins::new(&[origin.to_owned()]).unwrap_err();
            assert!(error.contains("like https://app.example"), "{origin}: {error}");
        }
        assert!(Origins::new(&[]).unwrap_err().contains("`origins` is empty"));
    }
}
