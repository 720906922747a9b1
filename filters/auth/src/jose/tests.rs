use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::vectors;

/// RFC 7515 appendix A.2.
const RSA: [&str; 2] = [
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
];

/// RFC 7515 appendix A.3.
const P256: [&str; 3] = [
    "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
];

/// RFC 8037 appendix A.4.
const ED25519: [&str; 2] = [
    "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
];

/// RFC 7515 appendices A.1 and A.5: a shared secret, and no signature.
const REFUSED: [&str; 2] = [
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
];

fn set(keys: Value) -> Result<KeySet, String> {
    KeySet::configured(&json!({ "keys": keys }))
}

fn accepted(keys: &KeySet, token: &str) -> bool {
    let token = Token::parse(token).unwrap();
    keys.candidates(&token).any(|key| token.is_signed_by(key))
}

/// A token with this header and this signature, whose claims are `{}`.
fn forged(header: &str, signature: &[u8]) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}.{}", encode(header.as_bytes()), encode(b"{}"), encode(signature))
}

#[test]
fn examples_of_the_standards_are_right() {
    let rsa = json!({"kty": "RSA", "n": RSA[0], "e": "AQAB"});
    let p256 = json!({"kty": "EC", "crv": "P-256", "x": P256[0], "y": P256[1]});
    let ed25519 = json!({"kty": "OKP", "crv": "Ed25519", "x": ED25519[0]});
    let all = set(json!([ed25519, p256, rsa])).unwrap();
    for (key, token) in [(rsa, RSA[1]), (p256, P256[2]), (ed25519, ED25519[1])] {
        assert!(accepted(&set(json!([key])).unwrap(), token), "{key}");
        assert!(accepted(&all, token), "{key}");
        let changed = token.replacen(".e", ".f", 1).replacen(".RX", ".RY", 1);
        assert!(!accepted(&all, &changed), "{key}");
    }
    assert!(Token::parse(RSA[1]).unwrap().payload.starts_with(b"{\"iss\":\"joe\""));
    for token in REFUSED {
        assert_eq!(Token::parse(token).unwrap_err(), Malformed::Algorithm);
    }
}

#[test]
fn tokens_made_by_openssl_are_right() {
    let keys = KeySet::configured(&vectors::keys()).unwrap();
    for (algorithm, token) in vectors::tokens() {
        assert!(accepted(&keys, &token), "{algorithm}");
        // Each byte of the signature counts, and so do its length and what it is of.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = decode(signature).unwrap();
        let with = |signature: &[u8]| format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        for at in [0, 1, signature.len() / 2, signature.len() - 1] {
            let mut wrong = signature.clone();
            wrong[at] ^= 1;
            assert!(!accepted(&keys, &with(&wrong)), "{algorithm} {at}");
        }
        for wrong in [&signature[1..], &signature[..signature.len() - 1], &[&[0], &signature[..]].concat(), &[]] {
            assert!(!accepted(&keys, &with(wrong)), "{algorithm} {}", wrong.len());
        }
        assert!(!accepted(&keys, &with(&vec![0; signature.len()])), "{algorithm}");
        assert!(!accepted(&keys, &with(&vec![0xff; signature.len()])), "{algorithm}");
    }
}

/// What a header says of the algorithm never makes of a key what it is not.
#[test]
fn an_algorithm_is_bound_to_a_kind_of_key() {
    let keys = KeySet::configured(&vectors::keys()).unwrap();
    let tokens = vectors::tokens();
    for (own, token) in &tokens {
        let signature = decode(token.rsplit_once('.').unwrap().1).unwrap();
        for (other, _) in tokens.iter().filter(|(other, _)| other != own) {
            let token = forged(&format!(r#"{{"alg":"{other}"}}"#), &signature);
            assert!(!accepted(&keys, &token), "{own} as {other}");
        }
        for alg in ["none", "None", "NONE", "HS256", "HS384", "HS512", "ES512", "ES256K", "RS1", "", "RS256 ", "rs256"]
        {
            let token = forged(&format!(r#"{{"alg":"{alg}"}}"#), &signature);
            assert_eq!(Token::parse(&token).unwrap_err(), Malformed::Algorithm, "{alg}");
        }
    }
    // A key that says which algorithm it is for is for no other, and its name is not another's.
    let mut rsa = vectors::keys()["keys"][0].clone();
    let token = |algorithm: &str| tokens.iter().find(|(own, _)| own == algorithm).unwrap().1.clone();
    rsa["alg"] = json!("PS256");
    assert!(!accepted(&set(json!([rsa])).unwrap(), &token("RS256")));
    assert!(accepted(&set(json!([rsa])).unwrap(), &token("PS256")));
    rsa["kid"] = json!("another");
    assert!(!accepted(&set(json!([rsa])).unwrap(), &token("PS256")));
    rsa.as_object_mut().unwrap().remove("kid");
    assert!(accepted(&set(json!([rsa])).unwrap(), &token("PS256")));
}

#[test]
fn malformed_tokens_are_refused() {
    let good = vectors::tokens()[0].1.clone();
    let (head, rest) = good.split_once('.').unwrap();
    for text in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        head.to_owned(),
        format!("{head}."),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}="),
        format!("{good} "),
        format!("{good}\n"),
        format!("{head}=.{rest}"),
        good.replace('.', "+"),
        good[..good.len() - 1].to_owned() + "é",
        forged("[]", b""),
        forged("{}", b""),
        forged("{", b""),
        forged(r#"{"alg":5}"#, b""),
        forged(r#"{"alg":"RS256","alg":"RS256"}"#, b""),
        forged(r#"{"alg":"RS256","kid":5}"#, b""),
        forged(r#"{"alg":"RS256"} x"#, b""),
        forged(&"[".repeat(5000), b""),
    ] {
        assert_eq!(Token::parse(&text).err(), Some(Malformed::Form), "{text:?}");
    }
    assert_eq!(
        Token::parse(&forged(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, b"")).unwrap_err(),
        Malformed::Extension
    );
    // Two ways to write the same bytes would be two tokens in the cache: the last letter has bits that must be 0.
    // 256 bytes end in a letter that carries two bits: A, Q, g or w.
    let last = char::from(good.as_bytes()[good.len() - 1] + 1);
    assert_eq!(Token::parse(&format!("{}{last}", &good[..good.len() - 1])).err(), Some(Malformed::Form));
    let longest = format!("{head}.{}.", "A".repeat(LONGEST - head.len() - 2));
    assert!(Token::parse(&longest).is_ok());
    assert_eq!(Token::parse(&format!("{longest}A")).unwrap_err(), Malformed::Long);
}

#[test]
fn keys_that_cannot_be_used_are_refused_or_passed_over() {
    let all = vectors::keys()["keys"].clone();
    let (rsa, p256, ed25519) = (&all[0], &all[2], &all[4]);
    let with = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        match value {
            Value::Null => drop(key.as_object_mut().unwrap().remove(name)),
            value => key[name] = value,
        }
        key
    };
    let short = BASE64_URL_SAFE_NO_PAD.encode([0xff; 128]);
    let long = BASE64_URL_SAFE_NO_PAD.encode([0xff; 513]);
    let huge = BASE64_URL_SAFE_NO_PAD.encode(vec![0xff; 100_000]);
    for (key, why) in [
        (json!({"kty": "oct", "k": "AAAA"}), "a shared secret"),
        (json!({"kty": "RSB"}), "`kty` is \"RSB\""),
        (json!({}), "missing field `kty`"),
        (json!(5), "invalid type"),
        (with(rsa, "d", json!("AQAB")), "a private key"),
        (with(rsa, "alg", json!("HS256")), "`alg` is \"HS256\", which is not known"),
        (with(rsa, "alg", json!("ES256")), "none for its `kty`"),
        (with(rsa, "n", Value::Null), "`n` is missing"),
        (with(rsa, "n", json!("a+b=")), "`n` is not in base64url"),
        (with(rsa, "n", json!(short)), "no RSA key of 2048 to 4096 bits"),
        (with(rsa, "n", json!(long)), "no RSA key of 2048 to 4096 bits"),
        (with(rsa, "n", json!(huge)), "more than 4096 bits"),
        (with(rsa, "n", json!("")), "no RSA key"),
        (with(rsa, "e", json!("")), "no RSA key"),
        (with(rsa, "e", json!("AQ")), "no RSA key"),
        (with(rsa, "e", json!("AQAA")), "no RSA key"),
        (with(rsa, "e", json!(short)), "an exponent of more than 64"),
        (with(p256, "crv", json!("P-521")), "`crv` is \"P-521\""),
        (with(p256, "crv", json!("P-384")), "no point of the curve"),
        (with(p256, "y", p256["x"].clone()), "no point of the curve"),
        (with(p256, "x", json!("AA")), "no point of the curve"),
        (with(ed25519, "crv", json!("X25519")), "`crv` is \"X25519\""),
        (with(ed25519, "x", json!("AA")), "32 bytes"),
        (with(ed25519, "x", json!(BASE64_URL_SAFE_NO_PAD.encode([0; 32]))), "small order"),
    ] {
        let error = set(json!([key])).unwrap_err();
        assert!(error.contains(why), "{error}");
        let served = |keys: Value| KeySet::fetched(json!({ "keys": keys }).to_string().as_bytes());
        assert!(served(json!([key])).unwrap_err().contains("no key that signatures"));
        assert!(served(json!([key, ed25519])).is_ok());
    }
    for unused in [with(rsa, "use", json!("enc")), with(rsa, "key_ops", json!(["encrypt"]))] {
        assert!(set(json!([unused])).unwrap_err().contains("no key that signatures"));
        assert!(set(json!([unused, rsa])).is_ok());
    }
    assert!(set(json!(vec![ed25519; key::MOST_KEYS])).is_ok());
    assert!(set(json!(vec![ed25519; key::MOST_KEYS + 1])).unwrap_err().contains("more than 64 keys"));
    for text in ["", "{}", "[]", "{\"keys\": 5}", "null"] {
        assert!(KeySet::fetched(text.as_bytes()).unwrap_err().contains("no JSON Web Key Set"), "{text}");
    }
}
