#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(feature = "jwt"),
    allow(dead_code, reason = "what tokens alone need is written once, for both modules")
)]

mod basic;
mod claims;
mod config;
mod duration;
mod external;
#[cfg(all(feature = "jwt", not(target_family = "wasm")))]
pub mod fuzzing;
mod head;
#[cfg(feature = "jwt")]
mod jose;
#[cfg(feature = "jwt")]
mod jwt;
#[cfg(not(feature = "jwt"))]
#[path = "without_jwt.rs"]
mod jwt;
mod keys;
mod path;
mod policy;
mod problem;
mod rules;
mod text;
#[cfg(feature = "jwt")]
#[cfg(test)]
mod vectors;

pub use config::Config;

use external::{Decision, External, Failure, Protocol, Surroundings};
use head::{Head, Mutation};
use lacis_sdk::{Call, ConfigError, Counter, Filter, Flow, GrpcCall, Reply, Request, Response, unix_time};
use policy::{Known, Now, Policy, Stop};
use problem::Refusal;
use rules::Verdict;

/// The filter.
pub struct Auth {
    policy: Policy,
    external: Option<External>,
    counters: Counters,
}

/// What became of requests.
struct Counters {
    allowed: Counter,
    unauthenticated: Counter,
    denied: Counter,
    unavailable: Counter,
    would_deny: Counter,
    failed_fetches: Counter,
}

impl Filter for Auth {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let (policy, external) = config::read(config)?;
        let counters = Counters {
            allowed: Counter::new("auth_allowed_total"),
            unauthenticated: Counter::new("auth_unauthenticated_total"),
            denied: Counter::new("auth_denied_total"),
            unavailable: Counter::new("auth_unavailable_total"),
            would_deny: Counter::new("auth_would_deny_total"),
            failed_fetches: Counter::new("auth_failed_fetches_total"),
        };
        Ok(Self { policy, external, counters })
    }

    async fn run(&self) {
        if let Some(tokens) = &self.policy.tokens {
            tokens.keep(&self.counters.failed_fetches).await;
        }
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let head = Head::of(request);
        let known = self.known(&head).await?;
        let asks_who = self.policy.rules.is_some() || self.external.is_some();
        let identity = asks_who.then(|| request.attributes().peer_identity()).flatten();
        self.judge(&head, &known, identity.as_deref())?;
        let response = match &self.external {
            Some(external) => {
                let head = known.changes.preview(&head);
                known.changes.apply(request)?;
                self.ask(external, &head, request, identity).await?
            }
            None => {
                known.changes.apply(request)?;
                Vec::new()
            }
        };
        self.counters.allowed.add(1);
        if response.is_empty() {
            return Ok(Flow::Leave);
        }
        request.keep(response);
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response) -> Result<Flow, Reply> {
        let mutations: Vec<Mutation> = response.kept::<Vec<Mutation>>().cloned().unwrap_or_default();
        mutations.iter().try_for_each(|mutation| mutation.apply(response.headers_mut()))?;
        Ok(Flow::Leave)
    }
}

impl Auth {
    /// Who the request is from. Keys that it needs and that are not here are waited for once.
    async fn known(&self, head: &Head) -> Result<Known, Reply> {
        let mut has_waited = false;
        loop {
            let now = unix_time();
            let (provider, refusal) = match self.policy.authenticate(head, Now { unix: now, steady: now }) {
                Ok(known) => return Ok(known),
                Err(Stop::Refused(reply)) => {
                    self.counters.unauthenticated.add(1);
                    return Err(reply);
                }
                Err(Stop::NoKeys(provider)) => (provider, None),
                Err(Stop::UnknownKey(provider)) => (provider, Some(Refusal::Key)),
            };
            let Some(tokens) = self.policy.tokens.as_ref().filter(|_| !has_waited) else {
                return Err(self.without_keys(refusal));
            };
            has_waited = true;
            if !tokens.wait(provider, now).await {
                return Err(self.without_keys(refusal));
            }
        }
    }

    fn without_keys(&self, refusal: Option<Refusal>) -> Reply {
        match refusal {
            Some(refusal) => {
                self.counters.unauthenticated.add(1);
                self.policy.refuse_token(refusal)
            }
            // Nothing is wrong with the caller; and nobody passes because keys are missing.
            None => {
                self.counters.unavailable.add(1);
                Reply::new(503).body("the keys of the token's issuer are not available\n")
            }
        }
    }

    fn judge(&self, head: &Head, known: &Known, identity: Option<&str>) -> Result<(), Reply> {
        let (status, why) = match self.policy.judge(head, known, identity) {
            Verdict::Allowed => return Ok(()),
            Verdict::Denied(rule) => (403, format!("rule {rule:?} denies")),
            Verdict::NotAllowed => (403, "no rule allows".to_owned()),
            Verdict::Ambiguous => (400, "servers would not agree on the path of".to_owned()),
        };
        let is_dry = self.policy.rules.as_ref().is_some_and(|rules| rules.dry_run);
        let path = head.pseudo(":path").split('?').next().unwrap_or_default();
        let method = head.pseudo(":method");
        let (dry, identity) = (if is_dry { "dry run: " } else { "" }, identity.unwrap_or("unknown"));
        lacis_sdk::info!("{dry}{why} {method:?} {path:?}, peer {identity:?}, name {:?}", known.name);
        if is_dry {
            self.counters.would_deny.add(1);
            return Ok(());
        }
        self.counters.denied.add(1);
        let text = if status == 403 { "access denied\n" } else { "the path is ambiguous\n" };
        Err(Reply::new(status).body(text))
    }

    /// Asks the service that decides: what is to be done to the response.
    async fn ask(
        &self,
        external: &External,
        head: &Head,
        request: &mut Request,
        identity: Option<String>,
    ) -> Result<Vec<Mutation>, Reply> {
        let service = &external.service;
        let decision = match &external.protocol {
            Protocol::Http(http) => {
                let question = http.question(external, head);
                let mut call = Call::new(question.method, service, &question.path).authority(question.authority);
                for (name, value) in question.headers {
                    call = call.header(name, value);
                }
                match call.timeout(external.timeout).send().await {
                    Ok(answer) => {
                        let headers = answer.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                        http.decision(answer.status(), headers, answer.body())
                    }
                    Err(error) => Decision::Failed(error.to_string()),
                }
            }
            Protocol::Grpc(grpc) => {
                let question = grpc.question(external, head, &surroundings(request, identity));
                let call = GrpcCall::new(service, external::SERVICE, external::METHOD).message(question);
                match call.timeout(external.timeout).send().await {
                    Ok(answer) => grpc.decision(&answer),
                    Err(error) => Decision::Failed(error.to_string()),
                }
            }
        };
        match decision {
            Decision::Pass(changes, response) => {
                changes.apply(request)?;
                Ok(response)
            }
            Decision::Refuse(reply) => {
                self.counters.denied.add(1);
                Err(reply)
            }
            Decision::Failed(error) => {
                lacis_sdk::warn!("{service:?} has not decided: {error}");
                self.counters.unavailable.add(1);
                match external.failure {
                    Failure::Open => Ok(Vec::new()),
                    Failure::Closed => Err(Reply::new(503).body("authorization is not available\n")),
                }
            }
        }
    }
}

fn surroundings(request: &Request, identity: Option<String>) -> Surroundings {
    let attributes = request.attributes();
    Surroundings {
        identity,
        source: attributes.source_address(),
        destination: attributes.destination_address(),
        request_id: attributes.request_id(),
        protocol: attributes.protocol(),
        time: unix_time(),
    }
}

lacis_sdk::filter!(Auth);

#[cfg(feature = "jwt")]
#[cfg(test)]
mod tests;
