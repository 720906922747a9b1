//! The conventions of `envoy.extensions.filters.http.ext_authz.v3.HttpService`: 200 lets the request pass, 5xx is a
//! failure, and any other answer is the caller's.

use lacis_sdk::{Reply, is_header_name};

use super::{Decision, External, Http, is_framing};
use crate::head::{Action, Changes, Head, Mutation};

/// Names headers of the request that are to go.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
}

impl Http {
    /// What to ask about a request.
    pub(crate) fn question<'a>(&self, external: &'a External, head: &'a Head) -> Question<'a> {
        let shown = external.shown(head, &["authorization"]).filter(|(name, _)| !is_framing(name));
        Question {
            method: head.pseudo(":method"),
            authority: head.pseudo(":authority"),
            path: format!("{}{}", self.path_prefix, head.pseudo(":path")),
            headers: shown.collect(),
        }
    }

    /// What was decided by an answer.
    pub(crate) fn decision<'a>(
        &self,
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
        body: &[u8],
    ) -> Decision {
        match status {
            200 => {
                let mut changes = Changes::default();
                for (_, names) in headers.clone().filter(|(own, _)| own.eq_ignore_ascii_case(REMOVE)) {
                    let names = str::from_utf8(names).unwrap_or_default().split(',').map(str::trim);
                    names
                        .filter(|name| is_header_name(name) && !is_framing(name))
                        .for_each(|name| changes.remove(name));
                }
                for name in &self.set_headers {
                    changes.remove(name);
                    for (_, value) in headers.clone().filter(|(own, _)| own.eq_ignore_ascii_case(name)) {
                        let (name, value) = (name.clone(), value.to_owned());
                        changes.mutate(Mutation { name, value, action: Action::Append });
                    }
                }
                Decision::Pass(changes, Vec::new())
            }
            // Nothing else can be the end of a request.
            201..=499 => {
                let mut reply = Reply::new(status);
                for (name, value) in headers.filter(|(name, _)| self.is_for_caller(name)) {
                    if let Ok(value) = str::from_utf8(value) {
                        reply = reply.header(name, value);
                    }
                }
                Decision::Refuse(reply.body(body))
            }
            _ => Decision::Failed(format!("the answer has status {status}")),
        }
    }

    fn is_for_caller(&self, name: &str) -> bool {
        // Without these the caller could not do what it is told.
        const ALWAYS: [&str; 2] = ["location", "www-authenticate"];
        let named = |names: &Vec<String>| names.iter().any(|own| own.eq_ignore_ascii_case(name));
        !is_framing(name)
            && (ALWAYS.iter().any(|own| own.eq_ignore_ascii_case(name))
                || self.reply_headers.as_ref().is_none_or(named))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Protocol;
    use super::*;

    fn external(more: Value) -> External {
        let mut config = json!({"service": "authz", "http": {}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        External::new(serde_json::from_value(config).unwrap()).unwrap()
    }

    fn http(external: &External) -> &Http {
        match &external.protocol {
            Protocol::Http(http) => http,
            Protocol::Grpc(_) => unreachable!(),
        }
    }

    fn head() -> Head {
        let all = [
            (":method", "POST"),
            (":path", "/a?b=c"),
            (":authority", "delta"),
            ("authorization", "Bearer x"),
            ("content-length", "5"),
            ("X-A", "1"),
            ("x-a", "2"),
        ];
        Head::new(all.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect())
    }

    #[test]
    fn the_request_is_asked_about_without_its_body() {
        let (external, head) = (external(json!({"http": {"path_prefix": "/check"}})), head());
        let question = http(&external).question(&external, &head);
        assert_eq!((question.method, question.authority, question.path.as_str()), ("POST", "delta", "/check/a?b=c"));
        assert_eq!(question.headers, [("authorization", &b"Bearer x"[..])]);
        let external = self::external(json!({"request_headers": ["X-a"]}));
        let question = http(&external).question(&external, &head);
        assert_eq!(question.headers, [("X-A", &b"1"[..]), ("x-a", &b"2"[..])]);
    }

    #[test]
    fn answers_are_decisions() {
        let external = external(json!({"http": {"set_headers": ["X-A", "x-b"], "reply_headers": ["x-why"]}}));
        let http = http(&external);
        let answer = [
            (":status", &b"200"[..]),
            ("x-a", &b"new"[..]),
            ("x-c", &b"not asked for"[..]),
            ("x-why", &b"because"[..]),
            ("x-envoy-auth-headers-to-remove", &b"Authorization, :path"[..]),
            ("location", &b"/login"[..]),
            ("content-length", &b"2"[..]),
        ];
        let decide = |status| http.decision(status, answer.iter().copied(), b"no");
        let Decision::Pass(changes, _) = decide(200) else { panic!() };
        let passed = changes.preview(&head());
        assert_eq!(passed.values("x-a").collect::<Vec<_>>(), [b"new"], "what came with the request is gone");
        assert!(passed.values("x-c").chain(passed.values("authorization")).next().is_none());
        assert_eq!(passed.pseudo(":path"), "/a?b=c");
        for status in [201, 302, 401, 403, 429] {
            let Decision::Refuse(reply) = decide(status) else { panic!("{status}") };
            assert_eq!((reply.status(), reply.content()), (status, &b"no"[..]));
            assert_eq!(reply.headers().collect::<Vec<_>>(), [("x-why", "because"), ("location", "/login")]);
        }
        for status in [0, 100, 199, 500, 503, 599, 999] {
            assert!(matches!(decide(status), Decision::Failed(_)), "{status}");
        }
    }
}
