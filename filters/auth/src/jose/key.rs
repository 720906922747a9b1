//! Public keys as JSON (RFC 7517, RFC 7518 section 6, RFC 8037).

use ed25519_dalek::VerifyingKey as Ed25519;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::pkcs1v15::Pkcs1v15Sign;
use rsa::{BoxedUint, PublicKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::algorithm::Family;
use super::{Algorithm, Token, decode};

/// Sizes of RSA keys, in bits. RFC 7518 sections 3.3 and 3.5 ask for the least one; the time of a check grows with the
/// square, and keys beyond the greatest one are rare.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// How many keys of a set are used. An issuer has two or three, of which one is on its way in or out.
pub(crate) const MOST_KEYS: usize = 64;

/// A public key.
#[derive(Debug)]
pub(crate) struct Key {
    id: Option<String>,
    /// The one algorithm that its owner uses it with, if that was said.
    algorithm: Option<Algorithm>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Ed25519(Box<Ed25519>),
    P256(Box<p256::ecdsa::VerifyingKey>),
    P384(Box<p384::ecdsa::VerifyingKey>),
    Rsa(Box<PublicKey>),
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

/// A key as it is written. Members that are not known are ignored, as RFC 7517 section 4 asks.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set that somebody served. Keys that cannot be used here are passed over, as RFC 7517 section 5 asks.
    ///
    /// # Errors
    ///
    /// It is no set, or none of its keys can be used.
    pub(crate) fn fetched(text: &[u8]) -> Result<Self, String> {
        let set = serde_json::from_slice(text).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        Self::read(set, |_| Ok(()))
    }

    /// Reads a set that stands in a configuration, where a key that cannot be used is a mistake. Those for encryption are
    /// passed over: issuers put them beside the others.
    ///
    /// # Errors
    ///
    /// What is wrong with which key.
    pub(crate) fn configured(set: &Value) -> Result<Self, String> {
        let set = Jwks::deserialize(set).map_err(|error| format!("it is no JSON Web Key Set: {error}"))?;
        Self::read(set, Err)
    }

    fn read(set: Jwks, problem: impl Fn(String) -> Result<(), String>) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (index, key) in set.keys.iter().enumerate() {
            match Key::read(key) {
                Ok(Some(_)) if keys.len() == MOST_KEYS => problem(format!("it has more than {MOST_KEYS} keys"))?,
                Ok(Some(key)) => keys.push(key),
                Ok(None) => {}
                Err(error) => problem(format!("key {} of it cannot be used: {error}", index + 1))?,
            }
        }
        if keys.is_empty() {
            return Err(
                "it has no key that signatures could be checked with (kty RSA, EC with crv P-256 or P-384, or \
                        OKP with crv Ed25519)"
                    .to_owned(),
            );
        }
        Ok(Self { keys })
    }

    /// Whether there is no key in it.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that a token may be signed by. A token that names a key may be signed by that one, or by one that has no
    /// name; the others are not tried.
    pub(crate) fn candidates<'a>(&'a self, token: &Token) -> impl Iterator<Item = &'a Key> {
        let (algorithm, id) = (token.algorithm, token.key.clone());
        self.keys.iter().filter(move |key| {
            let named = id.is_none() || key.id.is_none() || key.id == id;
            named && key.fits(algorithm)
        })
    }
}

impl Key {
    /// Reads one key; none if it is not for signatures.
    fn read(key: &Value) -> Result<Option<Self>, String> {
        let key = Jwk::deserialize(key).map_err(|error| error.to_string())?;
        let Jwk { kty, usage, key_ops, alg, kid, crv, n, e, x, y, d } = key;
        let other_use = usage.is_some_and(|usage| usage != "sig");
        if other_use || key_ops.is_some_and(|ops| ops.iter().all(|op| op != "verify")) {
            return Ok(None);
        }
        if d.is_some() {
            return Err("it is a private key (it has `d`): only public members belong here".to_owned());
        }
        let curve = || crv.as_deref().ok_or("`crv` is missing");
        let public = match kty.as_str() {
            "RSA" => Public::Rsa(Box::new(rsa(&member("n", n)?, &member("e", e)?)?)),
            "EC" => match curve()? {
                "P-256" => Public::P256(Box::new(p256(&member("x", x)?, &member("y", y)?)?)),
                "P-384" => Public::P384(Box::new(p384(&member("x", x)?, &member("y", y)?)?)),
                other => return Err(format!("`crv` is {other:?} and not \"P-256\" or \"P-384\"")),
            },
            "OKP" => match curve()? {
                "Ed25519" => Public::Ed25519(Box::new(ed25519(&member("x", x)?)?)),
                other => return Err(format!("`crv` is {other:?} and not \"Ed25519\"")),
            },
            "oct" => return Err("it is a shared secret; only public keys belong here".to_owned()),
            other => return Err(format!("`kty` is {other:?} and not \"RSA\", \"EC\" or \"OKP\"")),
        };
        let algorithm = match alg {
            Some(name) => {
                Some(Algorithm::named(&name).ok_or_else(|| format!("`alg` is {name:?}, which is not known"))?)
            }
            None => None,
        };
        if algorithm.is_some_and(|algorithm| algorithm.family() != public.family()) {
            return Err("its `alg` is none for its `kty` and `crv`".to_owned());
        }
        Ok(Some(Self { id: kid, algorithm, public }))
    }

    /// Whether it may be used with an algorithm.
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.public.family() == algorithm.family() && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// Whether it has a name.
    pub(crate) fn is_named(&self) -> bool {
        self.id.is_some()
    }

    /// How many tries a check with it counts for: one of the larger curve takes about as long as two of the others.
    pub(crate) fn tries(&self) -> usize {
        if matches!(self.public, Public::P384(_)) { 2 } else { 1 }
    }

    /// Whether its owner has signed something.
    pub(crate) fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        self.fits(algorithm) && self.public.verify(algorithm, signed, signature)
    }
}

impl Public {
    fn family(&self) -> Family {
        match self {
            Self::Ed25519(_) => Family::Ed25519,
            Self::P256(_) => Family::P256,
            Self::P384(_) => Family::P384,
            Self::Rsa(_) => Family::Rsa,
        }
    }

    /// One arm for each pair of algorithm and key that belong together: all others are never true.
    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        use Algorithm as A;
        match (algorithm, self) {
            (A::Es256, Self::P256(key)) => {
                let signature = p256::ecdsa::Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify_prehash(&Sha256::digest(signed), &signature).is_ok())
            }
            (A::Es384, Self::P384(key)) => {
                let signature = p384::ecdsa::Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify_prehash(&Sha384::digest(signed), &signature).is_ok())
            }
            (A::EdDsa, Self::Ed25519(key)) => {
                let signature = ed25519_dalek::Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify_strict(signed, &signature).is_ok())
            }
            (A::Ps256, Self::Rsa(key)) => key.pss_verify::<Sha256>(signed, signature).is_ok(),
            (A::Ps384, Self::Rsa(key)) => key.pss_verify::<Sha384>(signed, signature).is_ok(),
            (A::Ps512, Self::Rsa(key)) => key.pss_verify::<Sha512>(signed, signature).is_ok(),
            (A::Rs256, Self::Rsa(key)) => {
                key.verify(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(signed), signature).is_ok()
            }
            (A::Rs384, Self::Rsa(key)) => {
                key.verify(Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(signed), signature).is_ok()
            }
            (A::Rs512, Self::Rsa(key)) => {
                key.verify(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(signed), signature).is_ok()
            }
            _ => false,
        }
    }
}

fn member(name: &str, value: Option<String>) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("`{name}` is missing"))?;
    decode(&value).map_err(|_| format!("`{name}` is not in base64url without padding"))
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, String> {
    let number = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        BoxedUint::from_be_slice_vartime(&bytes[zeros..])
    };
    // Longer ones are refused before anything is computed with them.
    if modulus.len() > RSA_BITS.end() / 8 + 1 || exponent.len() > 8 {
        return Err(format!("it has more than {} bits, or an exponent of more than 64", RSA_BITS.end()));
    }
    PublicKey::new_with_size_limits(number(modulus), number(exponent), RSA_BITS).map_err(|error| {
        format!("`n` and `e` are no RSA key of {} to {} bits: {error}", RSA_BITS.start(), RSA_BITS.end())
    })
}

fn p256(x: &[u8], y: &[u8]) -> Result<p256::ecdsa::VerifyingKey, String> {
    point(x, y, 32).and_then(|point| p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()).ok_or_else(off_curve)
}

fn p384(x: &[u8], y: &[u8]) -> Result<p384::ecdsa::VerifyingKey, String> {
    point(x, y, 48).and_then(|point| p384::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()).ok_or_else(off_curve)
}

fn off_curve() -> String {
    "`x` and `y` are no point of the curve".to_owned()
}

/// An uncompressed point as in SEC 1 section 2.3.3. Coordinates have their full length (RFC 7518 section 6.2.1.2).
fn point(x: &[u8], y: &[u8], size: usize) -> Option<Vec<u8>> {
    (x.len() == size && y.len() == size).then(|| [&[4], x, y].concat())
}

fn ed25519(x: &[u8]) -> Result<Ed25519, String> {
    let bytes = <[u8; 32]>::try_from(x).map_err(|_| "`x` must have 32 bytes".to_owned())?;
    let key = Ed25519::from_bytes(&bytes).map_err(|_| "`x` is no point of the curve".to_owned())?;
    // With such a key there are signatures that anybody can make.
    if key.is_weak() { Err("`x` is a point of small order".to_owned()) } else { Ok(key) }
}
