//! Who may do what: rules over the caller, what it asks for, and what its token says.

use lacis_sdk::is_header_name;
use serde::Deserialize;

use crate::claims::{ClaimMatch, Claims};
use crate::head::Head;
use crate::path;
use crate::text::{Path, Text};

/// Rules. A request that one of `deny` matches is refused. If there are rules in `allow`, one of those must match.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
pub(crate) struct Config {
    /// Who may pass; absent: all that no rule of `deny` is about.
    allow: Option<Vec<Rule>>,
    /// Who may not, whatever `allow` says.
    #[serde(default)]
    deny: Vec<Rule>,
    /// Whether refusals are only logged and counted, and the request passes; absent: they are real.
    #[serde(default)]
    dry_run: bool,
}

/// A rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct Rule {
    /// What it is called in the log.
    name: String,
    /// What it is about; `{}` is every request.
    when: Conditions,
    /// What of that it is not about; absent: it is about all of it.
    except: Option<Conditions>,
}

/// Conditions, of which all must be true. Of a list one suffices.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct Conditions {
    /// The verified identity of the peer, `spiffe://…`. A peer without one has none that could match.
    identities: Option<Vec<Text>>,
    /// The name of the API key or user that the request came with.
    names: Option<Vec<Text>>,
    /// The method.
    methods: Option<Vec<String>>,
    /// The path, in its normal form and without query.
    paths: Option<Vec<Path>>,
    /// Headers; each of these must be as it says.
    headers: Option<Vec<HeaderMatch>>,
    /// Claims of the token; each of these must be as it says.
    claims: Option<Vec<ClaimMatch>>,
}

/// A condition for a header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
struct HeaderMatch {
    /// Its name; `:authority` is the host.
    name: String,
    /// What it must be; of several values one suffices.
    value: Text,
}

/// Who asks, as far as it is known.
#[derive(Default)]
pub(crate) struct Caller<'a> {
    /// The identity in the peer's verified certificate.
    pub(crate) identity: Option<&'a str>,
    /// The name of its API key, or of the user.
    pub(crate) name: Option<&'a str>,
    /// What its token says.
    pub(crate) claims: Option<&'a Claims>,
}

/// What rules say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Allowed,
    /// A rule of `deny` is about it.
    Denied(&'a str),
    /// No rule of `allow` is about it.
    NotAllowed,
    /// Its path means different things to different servers.
    Ambiguous,
}

/// Rules that are in use.
pub(crate) struct Rules {
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
    /// Whether some rule is about paths.
    paths: bool,
    pub(crate) dry_run: bool,
}

impl Rules {
    pub(crate) fn new(config: Config) -> Result<Self, String> {
        let Config { allow, deny, dry_run } = config;
        if allow.as_ref().is_some_and(Vec::is_empty) {
            return Err("`rules.allow` is empty: no request could pass; leave it out if all may".to_owned());
        }
        if allow.is_none() && deny.is_empty() {
            return Err("`rules` has neither `allow` nor `deny`".to_owned());
        }
        let all = || allow.iter().flatten().chain(&deny);
        all().try_for_each(|rule| rule.check().map_err(|error| format!("rule {:?}: {error}", rule.name)))?;
        let mut rules = Self { allow, deny, paths: false, dry_run };
        rules.paths = rules.any(|conditions| conditions.paths.is_some());
        Ok(rules)
    }

    fn any(&self, is: impl Fn(&Conditions) -> bool) -> bool {
        let all = self.allow.iter().flatten().chain(&self.deny);
        all.flat_map(|rule| [Some(&rule.when), rule.except.as_ref()]).flatten().any(is)
    }

    /// Whether some rule asks for what a token says.
    pub(crate) fn use_claims(&self) -> bool {
        self.any(|conditions| conditions.claims.is_some())
    }

    /// Whether some rule asks for the name of a key or user.
    pub(crate) fn use_names(&self) -> bool {
        self.any(|conditions| conditions.names.is_some())
    }

    /// What the rules say. Deny wins.
    pub(crate) fn judge(&self, head: &Head, caller: &Caller) -> Verdict<'_> {
        let path = if self.paths {
            match path::normal(head.pseudo(":path")) {
                Ok(path) => path,
                Err(path::Ambiguous) => return Verdict::Ambiguous,
            }
        } else {
            String::new()
        };
        let about = |rule: &&Rule| {
            rule.when.match_all(head, &path, caller)
                && !rule.except.as_ref().is_some_and(|except| except.match_all(head, &path, caller))
        };
        if let Some(rule) = self.deny.iter().find(about) {
            return Verdict::Denied(&rule.name);
        }
        match &self.allow {
            Some(allow) if !allow.iter().any(|rule| about(&rule)) => Verdict::NotAllowed,
            _ => Verdict::Allowed,
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        self.when.check("when")?;
        match &self.except {
            // It would take away everything that the rule is about.
            Some(except) if except.is_empty() => Err("`except` is empty: the rule would be about nothing".to_owned()),
            Some(except) => except.check("except"),
            None => Ok(()),
        }
    }
}

impl Conditions {
    fn is_empty(&self) -> bool {
        let Self { identities, names, methods, paths, headers, claims } = self;
        identities.is_none()
            && names.is_none()
            && methods.is_none()
            && paths.is_none()
            && headers.is_none()
            && claims.is_none()
    }

    /// An empty list is a mistake: nothing would match, or everything, and readers would not agree which.
    fn check(&self, part: &str) -> Result<(), String> {
        let Self { identities, names, methods, paths, headers, claims } = self;
        let empty = [
            ("identities", identities.as_ref().is_some_and(Vec::is_empty)),
            ("names", names.as_ref().is_some_and(Vec::is_empty)),
            ("methods", methods.as_ref().is_some_and(Vec::is_empty)),
            ("paths", paths.as_ref().is_some_and(Vec::is_empty)),
            ("headers", headers.as_ref().is_some_and(Vec::is_empty)),
            ("claims", claims.as_ref().is_some_and(Vec::is_empty)),
        ];
        if let Some((name, _)) = empty.iter().find(|(_, empty)| *empty) {
            return Err(format!("`{part}.{name}` is empty: leave it out, or say what it is to be"));
        }
        for method in methods.iter().flatten() {
            if !is_header_name(method) {
                return Err(format!("{method:?} is no method"));
            }
        }
        for HeaderMatch { name, value: _ } in headers.iter().flatten() {
            if !is_header_name(name) && name != ":authority" {
                return Err(format!("{name:?} is no name of a header"));
            }
        }
        Ok(())
    }

    fn match_all(&self, head: &Head, path: &str, caller: &Caller) -> bool {
        let Self { identities, names, methods, paths, headers, claims } = self;
        let one = |texts: &Option<Vec<Text>>, given: Option<&str>| {
            texts
                .as_ref()
                .is_none_or(|texts| texts.iter().any(|text| text.matches(given.map(str::as_bytes).into_iter())))
        };
        let method = head.pseudo(":method");
        let every = |wanted: &HeaderMatch| wanted.value.matches(head.values(&wanted.name));
        let nothing = Claims::default();
        let known = caller.claims.unwrap_or(&nothing);
        one(identities, caller.identity)
            && one(names, caller.name)
            && methods.as_ref().is_none_or(|methods| methods.iter().any(|own| own == method))
            && paths.as_ref().is_none_or(|paths| paths.iter().any(|own| own.matches(path)))
            && headers.as_ref().is_none_or(|headers| headers.iter().all(every))
            && claims.as_ref().is_none_or(|claims| claims.iter().all(|claim| claim.matches(known)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules(config: Value) -> Result<Rules, String> {
        Rules::new(serde_json::from_value(config).map_err(|error| error.to_string())?)
    }

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Head {
        let own = [(":method", method), (":path", path), (":authority", "delta")];
        let all = own.iter().chain(headers);
        Head::new(all.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect())
    }

    #[test]
    fn each_condition_counts() {
        let claims = Claims::parse(br#"{"roles": ["dev", "ops"], "tier": "gold"}"#).unwrap();
        let caller = Caller {
            identity: Some("spiffe://cluster.local/ns/default/sa/alpha"),
            name: Some("ada"),
            claims: Some(&claims),
        };
        let head = head("GET", "/a/b?c=/d", &[("x-t", "blue"), ("x-t", "red")]);
        for (when, matches) in [
            (json!({}), true),
            (json!({"identities": ["spiffe://cluster.local/ns/default/sa/alpha"]}), true),
            (json!({"identities": ["spiffe://cluster.local/ns/default/sa/alph"]}), false),
            (json!({"identities": ["x", {"prefix": "spiffe://cluster.local/ns/default/"}]}), true),
            (json!({"identities": [{"present": true}]}), true),
            (json!({"names": ["ada"]}), true),
            (json!({"names": ["eve"]}), false),
            (json!({"methods": ["POST", "GET"]}), true),
            (json!({"methods": ["get"]}), false),
            (json!({"paths": ["/a/b"]}), true),
            (json!({"paths": ["/d", {"prefix": "/a"}]}), true),
            (json!({"paths": ["/a/b/", {"prefix": "/d"}]}), false),
            (json!({"headers": [{"name": "X-T", "value": "red"}]}), true),
            (json!({"headers": [{"name": "x-t", "value": "red"}, {"name": "x-t", "value": "blue"}]}), true),
            (json!({"headers": [{"name": "x-t", "value": "red"}, {"name": "x-t", "value": "green"}]}), false),
            (json!({"headers": [{"name": "x-u", "value": {"present": false}}]}), true),
            (json!({"headers": [{"name": ":authority", "value": "delta"}]}), true),
            (json!({"claims": [{"claim": "roles", "value": "ops"}, {"claim": "tier", "value": "gold"}]}), true),
            (json!({"claims": [{"claim": "roles", "value": "admin"}]}), false),
            (json!({"names": ["ada"], "methods": ["POST"]}), false),
        ] {
            let allow = rules(json!({"allow": [{"name": "r", "when": when}]})).unwrap();
            let verdict = if matches { Verdict::Allowed } else { Verdict::NotAllowed };
            assert_eq!(allow.judge(&head, &caller), verdict, "{when}");
            let deny = rules(json!({"deny": [{"name": "r", "when": when}]})).unwrap();
            let verdict = if matches { Verdict::Denied("r") } else { Verdict::Allowed };
            assert_eq!(deny.judge(&head, &caller), verdict, "{when}");
        }
    }

    /// Who is not known has no identity, no name and no claims: conditions on these are never true.
    #[test]
    fn strangers_match_nothing_about_callers() {
        let head = head("GET", "/", &[]);
        for when in [
            json!({"identities": [{"prefix": ""}]}),
            json!({"names": [{"prefix": ""}]}),
            json!({"claims": [{"claim": "sub", "value": {"prefix": ""}}]}),
        ] {
            let rules = rules(json!({"allow": [{"name": "r", "when": when}]})).unwrap();
            assert_eq!(rules.judge(&head, &Caller::default()), Verdict::NotAllowed, "{when}");
        }
    }

    #[test]
    fn deny_wins_and_exceptions_narrow() {
        let rules = rules(json!({
            "allow": [{"name": "all", "when": {}, "except": {"paths": [{"prefix": "/private"}]}}],
            "deny": [{"name": "admin", "when": {"paths": [{"prefix": "/admin"}]}, "except": {"names": ["root"]}}],
        }))
        .unwrap();
        let judge = |path: &str, name: Option<&'static str>| {
            rules.judge(&head("GET", path, &[]), &Caller { name, ..Caller::default() })
        };
        assert_eq!(judge("/", None), Verdict::Allowed);
        assert_eq!(judge("/private/x", Some("root")), Verdict::NotAllowed);
        assert_eq!(judge("/admin", None), Verdict::Denied("admin"));
        assert_eq!(judge("/admin", Some("root")), Verdict::Allowed);
        for path in ["//admin", "/x/../admin", "/%61dmin", "/./admin/", "/admin?x", "/x/%2e%2e/admin/y"] {
            assert_eq!(judge(path, None), Verdict::Denied("admin"), "{path}");
        }
        for path in ["/admin%2fx", "/x\\..\\admin", "/x/..;/admin", "*"] {
            assert_eq!(judge(path, None), Verdict::Ambiguous, "{path}");
        }
    }

    #[test]
    fn rules_without_paths_take_any_path() {
        let rules = rules(json!({"deny": [{"name": "r", "when": {"methods": ["TRACE"]}}]})).unwrap();
        assert_eq!(rules.judge(&head("OPTIONS", "*", &[]), &Caller::default()), Verdict::Allowed);
    }

    #[test]
    fn mistakes_are_told() {
        for (config, why) in [
            (json!({}), "neither `allow` nor `deny`"),
            (json!({"allow": []}), "`rules.allow` is empty"),
            (json!({"allow": [{"name": "r"}]}), "missing field `when`"),
            (json!({"allow": [{"name": "r", "when": {"paths": []}}]}), "rule \"r\": `when.paths` is empty"),
            (json!({"deny": [{"name": "r", "when": {}, "except": {}}]}), "`except` is empty"),
            (json!({"deny": [{"name": "r", "when": {"methods": ["G T"]}}]}), "\"G T\" is no method"),
            (
                json!({"deny": [{"name": "r", "when": {"headers": [{"name": "a b", "value": "c"}]}}]}),
                "no name of a header",
            ),
            (json!({"deny": [{"name": "r", "when": {"path": ["/"]}}]}), "unknown field `path`"),
        ] {
            let error = rules(config).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
