//! `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lacis_sdk::{Reply, is_header_name};
use prost::Message;

use super::{Decision, External, Grpc, Surroundings, is_framing};
use crate::head::{Action, Changes, Head, Mutation};
use messages::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpRequest,
    OkHttpResponse, Peer, Request, SocketAddress, Timestamp,
};

/// The service's full name.
pub(crate) const SERVICE: &str = "envoy.service.auth.v3.Authorization";
/// The method's name.
pub(crate) const METHOD: &str = "Check";

/// The parts of the messages that are used here, with the field numbers of Envoy's API.
pub(crate) mod messages;

impl Grpc {
    /// What to ask about a request.
    pub(crate) fn question(&self, external: &External, head: &Head, about: &Surroundings) -> Vec<u8> {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        let pseudo = head.headers().filter(|(name, _)| name.starts_with(':') && external.request_headers.is_none());
        for (name, value) in pseudo.chain(external.shown(head, &[])) {
            let value = String::from_utf8_lossy(value);
            // As Envoy writes several values: a map has one.
            match headers.get_mut(name) {
                Some(all) => {
                    all.push(',');
                    all.push_str(&value);
                }
                None => drop(headers.insert(name.to_ascii_lowercase(), value.into_owned())),
            }
        }
        let size = head.one("content-length").ok().flatten().and_then(|size| str::from_utf8(size).ok()?.parse().ok());
        let http = HttpRequest {
            id: about.request_id.clone().unwrap_or_default(),
            method: head.pseudo(":method").to_owned(),
            headers,
            path: head.pseudo(":path").to_owned(),
            host: head.pseudo(":authority").to_owned(),
            scheme: head.pseudo(":scheme").to_owned(),
            size: size.unwrap_or(-1),
            protocol: about.protocol.clone().unwrap_or_default(),
        };
        let time = Timestamp {
            seconds: i64::try_from(about.time.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(about.time.subsec_nanos()).unwrap_or_default(),
        };
        let source = peer(about.source.as_deref(), about.identity.as_deref());
        let attributes = AttributeContext {
            source: Some(source),
            destination: Some(peer(about.destination.as_deref(), None)),
            request: Some(Request { time: Some(time), http: Some(http) }),
            context_extensions: self.context.clone(),
        };
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }

    /// What was decided by an answer.
    pub(crate) fn decision(&self, answer: &[u8]) -> Decision {
        let CheckResponse { status, denied, ok, error } = match CheckResponse::decode(answer) {
            Ok(answer) => answer,
            Err(error) => return Decision::Failed(format!("the answer is no CheckResponse: {error}")),
        };
        match (status.map_or(0, |status| status.code), error) {
            (0, _) => pass(ok.unwrap_or_default()),
            (code, Some(_)) => Decision::Failed(format!("the answer is an error (code {code})")),
            (_, None) => Decision::Refuse(refusal(denied.unwrap_or_default())),
        }
    }
}

fn pass(ok: OkHttpResponse) -> Decision {
    let OkHttpResponse { headers, headers_to_remove, response_headers, set_parameters, remove_parameters } = ok;
    if !set_parameters.is_empty() || !remove_parameters.is_empty() {
        return Decision::Failed("the answer asks for changes of the query, which cannot be made".to_owned());
    }
    let mut changes = Changes::default();
    // The host and the pseudo-headers stay, as with Envoy.
    for name in headers_to_remove.iter().filter(|name| is_header_name(name) && !name.eq_ignore_ascii_case("host")) {
        changes.remove(name);
    }
    headers.into_iter().filter_map(mutation).for_each(|mutation| changes.mutate(mutation));
    Decision::Pass(changes, response_headers.into_iter().filter_map(mutation).collect())
}

fn refusal(denied: DeniedHttpResponse) -> Reply {
    let DeniedHttpResponse { status, headers, body } = denied;
    let code = status.map_or(0, |status| status.code);
    // Without a status it is 403, as with Envoy.
    let status = u16::try_from(code).ok().filter(|code| *code != 0).unwrap_or(403);
    let mut reply = Reply::new(status);
    for Mutation { name, value, action: _ } in headers.into_iter().filter_map(mutation) {
        if let Ok(value) = str::from_utf8(&value) {
            reply = reply.header(&name, value);
        }
    }
    reply.body(body)
}

/// A header that can be changed: neither one that carries the message nor one that is none.
fn mutation(option: HeaderValueOption) -> Option<Mutation> {
    let HeaderValueOption { header, append, append_action } = option;
    let messages::HeaderValue { key, value, raw_value } = header?;
    let action = match (append, append_action) {
        (Some(true), _) => Action::Append,
        (None, 1) => Action::AddIfAbsent,
        (None, 3) => Action::OverwriteIfPresent,
        // Nothing said is "overwrite" by the words of `OkHttpResponse`, and what the caller sent must not stay.
        (Some(false) | None, _) => Action::Overwrite,
    };
    let value = if raw_value.is_empty() { value.into_bytes() } else { raw_value };
    let fits = is_header_name(&key) && !is_framing(&key) && lacis_sdk::is_header_value(&value);
    fits.then(|| Mutation { name: key.to_ascii_lowercase(), value, action })
}

fn peer(address: Option<&str>, identity: Option<&str>) -> Peer {
    let address = address.and_then(|address| address.parse::<SocketAddr>().ok());
    let address = address.map(|address| Address {
        socket: Some(SocketAddress { address: address.ip().to_string(), port: address.port().into() }),
    });
    Peer { address, principal: identity.unwrap_or_default().to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::Protocol;
    use super::*;
    use messages::{HeaderValue, HttpStatus, RpcStatus};

    fn grpc() -> (External, Grpc) {
        let config = json!({"service": "authz", "grpc": {"context": {"route": "a"}}});
        let external = External::new(serde_json::from_value(config).unwrap()).unwrap();
        let Protocol::Grpc(Grpc { context }) = &external.protocol else { panic!() };
        let grpc = Grpc { context: context.clone() };
        (external, grpc)
    }

    fn option(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
        let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
        HeaderValueOption { header: Some(header), append, append_action }
    }

    fn head(headers: &[(&str, &str)]) -> Head {
        Head::new(headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect())
    }

    #[test]
    fn the_request_is_described() {
        let (external, grpc) = grpc();
        let head = head(&[
            (":method", "POST"),
            (":path", "/a?b"),
            (":authority", "delta"),
            (":scheme", "https"),
            ("content-length", "5"),
            ("x-a", "1"),
            ("x-a", "2"),
        ]);
        let about = Surroundings {
            identity: Some("spiffe://x/alpha".to_owned()),
            source: Some("10.0.0.1:5".to_owned()),
            destination: Some("[::1]:6".to_owned()),
            request_id: Some("id".to_owned()),
            protocol: Some("HTTP/2".to_owned()),
            time: Duration::new(7, 9),
        };
        let asked = CheckRequest::decode(grpc.question(&external, &head, &about).as_slice()).unwrap();
        let attributes = asked.attributes.unwrap();
        let source = attributes.source.unwrap();
        assert_eq!(source.principal, "spiffe://x/alpha");
        let socket = source.address.unwrap().socket.unwrap();
        assert_eq!((socket.address.as_str(), socket.port), ("10.0.0.1", 5));
        let socket = attributes.destination.unwrap().address.unwrap().socket.unwrap();
        assert_eq!((socket.address.as_str(), socket.port), ("::1", 6));
        assert_eq!(attributes.context_extensions["route"], "a");
        let request = attributes.request.unwrap();
        assert_eq!(request.time.unwrap(), Timestamp { seconds: 7, nanos: 9 });
        let http = request.http.unwrap();
        assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_str()), ("POST", "/a?b", "delta"));
        assert_eq!((http.size, http.id.as_str(), http.protocol.as_str()), (5, "id", "HTTP/2"));
        assert_eq!((http.headers["x-a"].as_str(), http.headers[":path"].as_str()), ("1,2", "/a?b"));
    }

    #[test]
    fn answers_are_decisions() {
        let (_, grpc) = grpc();
        let decide = |answer: CheckResponse| grpc.decision(&answer.encode_to_vec());
        // Without a status it is code 0.
        assert!(matches!(grpc.decision(&[]), Decision::Pass(..)));
        assert!(matches!(grpc.decision(&[0xff]), Decision::Failed(_)));
        let status = Some(RpcStatus { code: 7 });
        let Decision::Refuse(reply) = decide(CheckResponse { status, ..CheckResponse::default() }) else { panic!() };
        assert_eq!(reply.status(), 403);
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code: 401 }),
            headers: vec![option("x-why", "because", None, 0), option("Content-Length", "9", None, 0)],
            body: "no".to_owned(),
        };
        let answer = CheckResponse { status, denied: Some(denied), ..CheckResponse::default() };
        let Decision::Refuse(reply) = decide(answer) else { panic!() };
        assert_eq!((reply.status(), reply.content()), (401, &b"no"[..]));
        assert_eq!(reply.headers().collect::<Vec<_>>(), [("x-why", "because")]);
        let error = CheckResponse { status, error: Some(DeniedHttpResponse::default()), ..CheckResponse::default() };
        assert!(matches!(decide(error), Decision::Failed(_)));
    }

    #[test]
    fn headers_are_changed_as_the_answer_says() {
        let (_, grpc) = grpc();
        let ok = OkHttpResponse {
            headers: vec![
                option("x-set", "new", Some(false), 0),
                option("x-unsaid", "new", None, 0),
                option("x-more", "new", Some(true), 0),
                option("x-here", "new", None, 1),
                option("x-fresh", "new", None, 1),
                option("x-over", "new", None, 2),
                option("x-here", "newer", None, 3),
                option("x-absent", "new", None, 3),
                option("host", "evil", None, 2),
                option("x-bad", "a\nb", None, 2),
                option(":path", "/evil", None, 2),
            ],
            headers_to_remove: vec!["X-Gone".to_owned(), ":method".to_owned(), "Host".to_owned()],
            response_headers: vec![option("x-answer", "1", None, 2)],
            ..OkHttpResponse::default()
        };
        let answer = CheckResponse { ok: Some(ok), ..CheckResponse::default() };
        let Decision::Pass(changes, response) = grpc.decision(&answer.encode_to_vec()) else { panic!() };
        assert_eq!(response.len(), 1);
        let before = head(&[
            (":path", "/"),
            ("x-set", "old"),
            ("x-unsaid", "old"),
            ("x-more", "old"),
            ("x-here", "old"),
            ("x-over", "old"),
            ("x-gone", "old"),
        ]);
        let after = changes.preview(&before);
        let mut after: Vec<String> =
            after.headers().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
        after.sort();
        assert_eq!(
            after,
            [
                ":path: /",
                "x-fresh: new",
                "x-here: newer",
                "x-more: new",
                "x-more: old",
                "x-over: new",
                "x-set: new",
                "x-unsaid: new",
            ]
        );
        let ok = OkHttpResponse { remove_parameters: vec!["a".to_owned()], ..OkHttpResponse::default() };
        let answer = CheckResponse { ok: Some(ok), ..CheckResponse::default() };
        assert!(matches!(grpc.decision(&answer.encode_to_vec()), Decision::Failed(_)));
    }
}
