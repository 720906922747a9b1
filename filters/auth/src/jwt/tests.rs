use serde_json::{Value, json};

use super::*;
use crate::vectors::{self, START};

const STEADY: Duration = Duration::from_secs(1000);

/// The provider whose tokens OpenSSL made, with more fields.
fn provider(more: Value) -> Value {
    let mut provider = json!({
        "name": "corp", "issuer": "https://issuer.example", "audiences": ["delta"], "jwks": vectors::keys(),
    });
    for (key, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(provider.as_object_mut().unwrap().remove(key)),
            value => provider[key] = value.clone(),
        }
    }
    provider
}

fn tokens_of(providers: Vec<Value>) -> Result<Tokens, String> {
    let config = serde_json::from_value(json!({ "providers": providers })).map_err(|error| error.to_string())?;
    Tokens::new(config)
}

fn tokens(more: Value) -> Tokens {
    tokens_of(vec![provider(more)]).unwrap()
}

/// The token of RS256.
fn token() -> String {
    vectors::tokens()[0].1.clone()
}

fn check(tokens: &Tokens, unix: u64) -> Result<(), Problem> {
    tokens.check(&token(), unix, STEADY).map(|_| ())
}

fn refused(refusal: Refusal) -> Result<(), Problem> {
    Err(Problem::Refused(refusal))
}

#[test]
fn tokens_of_each_algorithm_hold() {
    let tokens = tokens(json!({}));
    for (algorithm, token) in vectors::tokens() {
        for turn in ["first", "from the cache"] {
            let verified =
                tokens.check(&token, START + 5, STEADY).unwrap_or_else(|e| panic!("{algorithm}, {turn}: {e:?}"));
            assert_eq!(verified.claims.subject(), Some("ada"));
        }
    }
    let only = tokens_of(vec![provider(json!({"algorithms": ["ES256", "EdDSA"]}))]).unwrap();
    for (algorithm, token) in vectors::tokens() {
        let result = only.check(&token, START, STEADY).map(|_| ());
        let allowed = ["ES256", "EdDSA"].contains(&algorithm.as_str());
        assert_eq!(result, if allowed { Ok(()) } else { refused(Refusal::Algorithm) }, "{algorithm}");
    }
}

#[test]
fn times_are_bounds_with_leeway() {
    let end = START + 3600;
    for skew in [0, 60, 300] {
        let tokens = tokens(json!({"clock_skew": format!("{skew}s")}));
        assert_eq!(check(&tokens, START - skew - 1), refused(Refusal::Early), "{skew}");
        assert_eq!(check(&tokens, START - skew), Ok(()), "{skew}");
        assert_eq!(check(&tokens, end + skew - 1), Ok(()), "{skew}");
        assert_eq!(check(&tokens, end + skew), refused(Refusal::Expired), "{skew}");
    }
    assert_eq!(check(&tokens(json!({})), end + 59), Ok(()), "60 s are the default");
    assert_eq!(check(&tokens(json!({})), end + 60), refused(Refusal::Expired));
    assert_eq!(check(&tokens(json!({})), u64::MAX), refused(Refusal::Expired));
    let most = |time: &str| check(&tokens(json!({"max_lifetime": time, "clock_skew": "0s"})), START);
    assert_eq!(most("3600s"), Ok(()));
    assert_eq!(most("3599s"), refused(Refusal::Lifetime));
}

/// The same without signatures, which no issuer would make: what is decided before a signature is looked at.
#[test]
fn claims_are_judged() {
    let with = |config: Value, claims: Value| {
        let tokens = tokens(config);
        let token = token();
        let token = Token::parse(&token).unwrap();
        let claims = Claims::parse(claims.to_string().as_bytes()).unwrap();
        tokens.providers[0].holds(&token, &claims, START)
    };
    let for_delta = |more: Value| {
        let mut claims = json!({"aud": "delta"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    assert_eq!(with(json!({}), for_delta(json!({}))), Err(Refusal::NoExpiration));
    assert_eq!(with(json!({"require_expiration": false}), for_delta(json!({}))), Ok(u64::MAX));
    assert_eq!(with(json!({}), for_delta(json!({"exp": START}))), Ok(START + 60));
    assert_eq!(with(json!({}), for_delta(json!({"exp": START - 60}))), Err(Refusal::Expired));
    assert_eq!(with(json!({}), for_delta(json!({"exp": "soon"}))), Err(Refusal::Claims));
    assert_eq!(with(json!({}), json!({"exp": START, "aud": "epsilon"})), Err(Refusal::Audience));
    assert_eq!(with(json!({}), json!({"exp": START})), Err(Refusal::Audience));
    assert_eq!(with(json!({"audiences": []}), json!({"exp": START})), Ok(START + 60));
    // Who claims to have made a token in the far future does not get a longer one by that.
    let bound = json!({"max_lifetime": "10s", "clock_skew": "0s"});
    assert_eq!(with(bound.clone(), for_delta(json!({"exp": START + 10, "iat": START}))), Ok(START + 10));
    assert_eq!(with(bound.clone(), for_delta(json!({"exp": START + 11}))), Err(Refusal::Lifetime));
    assert_eq!(with(bound, for_delta(json!({"exp": START + 99, "iat": START + 98}))), Err(Refusal::Lifetime));
}

#[test]
fn the_issuer_chooses_the_provider() {
    let other = provider(json!({"issuer": "https://other.example"}));
    assert_eq!(check(&tokens_of(vec![other.clone()]).unwrap(), START), refused(Refusal::Issuer));
    let strict = provider(json!({"audiences": ["zeta"]}));
    assert_eq!(check(&tokens_of(vec![other.clone(), strict.clone()]).unwrap(), START), refused(Refusal::Audience));
    let all = tokens_of(vec![other, strict, provider(json!({}))]).unwrap();
    assert_eq!(all.check(&token(), START, STEADY).unwrap().provider, 2);
}

#[test]
fn changed_tokens_are_refused() {
    let tokens = tokens(json!({}));
    let token = token();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = vectors::tokens()[1].1.clone();
    let (_, foreign) = other.rsplit_once('.').unwrap();
    let result = tokens.check(&format!("{signed}.{foreign}"), START, STEADY).unwrap_err();
    assert_eq!(result, Problem::Refused(Refusal::Signature));
    let (header, payload) = signed.split_once('.').unwrap();
    let (other_header, _) = other.split_once('.').unwrap();
    assert!(tokens.check(&format!("{other_header}.{payload}.{signature}"), START, STEADY).is_err());
    assert!(tokens.check(&format!("{header}.{payload}."), START, STEADY).is_err());
    assert!(tokens.check(&token, START, STEADY).is_ok());
    let long = format!("{token}{}", "A".repeat(crate::jose::LONGEST));
    let result = tokens.check(&long, START, STEADY).unwrap_err();
    assert_eq!(result, Problem::Refused(Refusal::Malformed(Malformed::Long)));
}

/// One token cannot have more than [`TRIES`] keys tried, however many its issuer has.
#[test]
fn keys_without_names_are_tried_up_to_a_bound() {
    let keys = vectors::keys()["keys"].clone();
    let (mut right, mut wrong) = (keys[0].clone(), keys[1].clone());
    for key in [&mut right, &mut wrong] {
        key.as_object_mut().unwrap().remove("kid");
    }
    let with = |wrongs: usize| {
        let mut keys = vec![wrong.clone(); wrongs];
        keys.push(right.clone());
        check(&tokens(json!({"jwks": {"keys": keys}})), START)
    };
    assert_eq!(with(TRIES - 1), Ok(()));
    assert_eq!(with(TRIES), refused(Refusal::Signature));
    // Those of the larger curve take twice as long and more.
    let mut right = keys[3].clone();
    right.as_object_mut().unwrap().remove("kid");
    let wrong = json!({
        "kty": "EC", "crv": "P-384",
        "x": "-hTR0W9YargampE0_08PZksvA1mWRXw063BH-PrqpUH8fDplwZ6HkXQ-TffwX-RM",
        "y": "2cT_RXVs7yWAoKB0c6IN1i0I7OJ4ehUL9QJYtqog-BSb_YsQx3dHF1OrbEMXUrln",
    });
    let token = &vectors::tokens().into_iter().find(|(algorithm, _)| algorithm == "ES384").unwrap().1;
    let with = |wrongs: usize| {
        let keys: Vec<&Value> = std::iter::repeat_n(&wrong, wrongs).chain([&right]).collect();
        tokens(json!({"jwks": {"keys": keys}})).check(token, START, STEADY).map(|_| ())
    };
    assert_eq!(with(TRIES / 2 - 1), Ok(()));
    assert_eq!(with(TRIES / 2), refused(Refusal::Signature));
}

fn remote() -> Tokens {
    tokens(json!({"jwks": null, "jwks_from": {"service": "idp", "path": "/jwks", "refresh": "1m"}}))
}

fn arrived(tokens: &Tokens, keys: Option<KeySet>) -> Duration {
    let Keys::Remote(remote) = &tokens.providers[0].keys else { panic!("they are inline") };
    tokens.arrived(remote, STEADY, keys)
}

fn some_keys(names: &[&str]) -> Option<KeySet> {
    let all = vectors::keys()["keys"].as_array().unwrap().clone();
    let keys: Vec<Value> = all.into_iter().filter(|key| names.iter().any(|name| key["kid"] == *name)).collect();
    Some(KeySet::configured(&json!({ "keys": keys })).unwrap())
}

#[test]
fn nothing_passes_while_keys_are_missing() {
    let tokens = remote();
    assert_eq!(check(&tokens, START), Err(Problem::NoKeys(0)));
    arrived(&tokens, None);
    assert_eq!(check(&tokens, START), Err(Problem::NoKeys(0)));
    assert_eq!(arrived(&tokens, some_keys(&["rsa"])), Duration::from_secs(60));
    assert_eq!(check(&tokens, START), Ok(()));
    arrived(&tokens, None);
    assert_eq!(check(&tokens, START), Ok(()), "what came before is kept");
    let later = tokens.check(&token(), START, STEADY + Duration::from_secs(24 * 60 * 60));
    assert_eq!(later.unwrap_err(), Problem::NoKeys(0), "but not for ever, and a checked token neither");
}

#[test]
fn a_key_that_was_taken_away_is_refused_at_once() {
    let tokens = remote();
    arrived(&tokens, some_keys(&["p256"]));
    assert_eq!(check(&tokens, START), Err(Problem::UnknownKey(0)));
    arrived(&tokens, some_keys(&["rsa", "p256"]));
    assert_eq!(check(&tokens, START), Ok(()));
    assert_eq!(check(&tokens, START), Ok(()));
    arrived(&tokens, some_keys(&["p256"]));
    assert_eq!(check(&tokens, START), Err(Problem::UnknownKey(0)));
    // A key of the same name that is another key is not looked for elsewhere.
    let mut forged = vectors::keys()["keys"][1].clone();
    forged["kid"] = json!("rsa");
    let forged = KeySet::configured(&json!({"keys": [forged]})).unwrap();
    arrived(&tokens, Some(forged));
    assert_eq!(check(&tokens, START), refused(Refusal::Signature));
}

#[test]
fn claims_are_told_in_headers_that_nobody_else_can_set() {
    let tokens = tokens(json!({
        "claim_headers": [
            {"claim": "sub", "header": "X-User"}, {"claim": "roles", "header": "x-roles"},
            {"claim": ["realm", "groups"], "header": "x-groups"}, {"claim": "nothing", "header": "x-nothing"},
        ],
        "forward_payload": "x-claims",
    }));
    let token = token();
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_owned());
    let head = Head::new(vec![
        header(":path", "/"),
        header("x-user", "forged"),
        header("x-nothing", "forged"),
        header("x-claims", "forged"),
        header("x-other", "kept"),
        header("authorization", &format!("Bearer {token}")),
    ]);
    let told = |verified: Option<&Verified>| {
        let mut changes = Changes::default();
        tokens.strip(&head, &mut changes);
        verified.iter().for_each(|verified| tokens.forward(verified, &mut changes));
        let head = changes.preview(&head);
        head.headers().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect::<Vec<_>>()
    };
    assert_eq!(told(None), [":path: /", "x-other: kept"]);
    let verified = tokens.check(tokens.find(&head).unwrap().unwrap(), START, STEADY).unwrap();
    let payload = token.split('.').nth(1).unwrap();
    let claims = format!("x-claims: {payload}");
    let expected =
        [":path: /", "x-other: kept", "x-user: ada", "x-roles: admin,dev", "x-groups: blue", claims.as_str()];
    assert_eq!(told(Some(&verified)), expected);
}

#[test]
fn mistakes_are_told() {
    let from = json!({"service": "idp", "path": "/jwks"});
    let mut more = from.clone();
    more["refresh"] = json!("9s");
    let mut short = from.clone();
    short["timeout"] = json!("31s");
    for (config, why) in [
        (provider(json!({"jwks": null})), "exactly one of `jwks` and `jwks_from`"),
        (provider(json!({"jwks_from": from})), "exactly one of `jwks` and `jwks_from`"),
        (provider(json!({"jwks": null, "jwks_from": more})), "`jwks_from.refresh` is 9s: it must be 10s to 43200s"),
        (provider(json!({"jwks": null, "jwks_from": short})), "`jwks_from.timeout` is 31s"),
        (
            provider(json!({"jwks": null, "jwks_from": {"service": "", "path": "/"}})),
            "`service` of `jwks_from` is empty",
        ),
        (provider(json!({"jwks": null, "jwks_from": {"service": "a", "path": "b"}})), "it begins with `/`"),
        (
            provider(json!({"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}})),
            "provider \"corp\" of `jwt`: `jwks`: key 1",
        ),
        (provider(json!({"issuer": ""})), "say what its tokens have in `iss`"),
        (provider(json!({"audiences": null})), "missing field `audiences`"),
        (provider(json!({"clock_skew": "301s"})), "`clock_skew` is 301s: it must be 0ns to 300s"),
        (provider(json!({"algorithms": ["HS256"]})), "unknown variant `HS256`, expected one of `ES256`"),
        (provider(json!({"algorithms": ["none"]})), "unknown variant `none`"),
        (provider(json!({"claim_headers": [{"claim": "a", "header": "b c"}]})), "\"b c\" is no name of a header"),
        (provider(json!({"forward_payload": ":path"})), "\":path\" is no name of a header"),
        (provider(json!({"audience": "a"})), "unknown field `audience`"),
    ] {
        let error = tokens_of(vec![config]).err().unwrap();
        assert!(error.contains(why), "{error}");
    }
    assert!(tokens_of(vec![]).err().unwrap().contains("`jwt.providers` is empty"));
    for (more, why) in [(json!({"cache": 4097}), "at most 4096"), (json!({"from": []}), "`jwt.from` is empty")] {
        let mut config = json!({"providers": [provider(json!({}))]});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert!(Tokens::new(serde_json::from_value(config).unwrap()).err().unwrap().contains(why));
    }
}
