//! `verify_signature` (`source/extensions/common/wasm/ext/verify_signature.proto`, `source/common/crypto/utility_impl.cc` of
//! Envoy): RSA with PKCS #1 v1.5, and ECDSA.

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use lacis_host::abi::Status;
use lacis_host::protobuf::{self, Fields, Value};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};

/// What a guest asks: `VerifySignatureArguments`.
#[derive(Default)]
struct Question<'a> {
    hash: &'a [u8],
    /// `SubjectPublicKeyInfo` in DER, or the same in PEM; one of the two.
    der: &'a [u8],
    pem: &'a [u8],
    signature: &'a [u8],
    text: &'a [u8],
}

/// Answers whether a signature is the key's. A signature that is not is an answer, too: `false`, and what is wrong.
///
/// # Errors
/// `BadArgument` if there is no message, or no key in it.
pub(super) fn verify(arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    let question = Question::read(arguments).ok_or(Status::BadArgument)?;
    let key = question.key().ok_or(Status::BadArgument)?;
    match question.check(&key) {
        Ok(()) => protobuf::put_varint(out, 1, 1),
        Err(why) => protobuf::put_bytes(out, 2, why.as_bytes()),
    }
    Ok(())
}

impl<'a> Question<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let mut question = Question::default();
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(hash)) => question.hash = hash,
                (2, Value::Bytes(der)) => question.der = der,
                (3, Value::Bytes(signature)) => question.signature = signature,
                (4, Value::Bytes(text)) => question.text = text,
                (5, Value::Bytes(pem)) => question.pem = pem,
                _ => {}
            }
        }
        Some(question)
    }

    /// The key in DER.
    fn key(&self) -> Option<SubjectPublicKeyInfoDer<'a>> {
        match (self.der.is_empty(), self.pem.is_empty()) {
            (false, true) => Some(SubjectPublicKeyInfoDer::from(self.der)),
            (true, false) => SubjectPublicKeyInfoDer::from_pem_slice(self.pem).ok(),
            _ => None,
        }
    }

    fn check(&self, key: &[u8]) -> Result<(), String> {
        let hash = self.hash.to_ascii_lowercase();
        let (_, info) = SubjectPublicKeyInfo::from_der(key).map_err(|_| UNUSABLE.to_owned())?;
        let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let algorithm = algorithm(&info.algorithm.algorithm.to_id_string(), curve.map(|c| c.to_id_string()), &hash);
        let algorithm = algorithm.ok_or_else(|| format!("{} is not supported.", String::from_utf8_lossy(self.hash)))?;
        let key = ParsedPublicKey::new(algorithm, key).map_err(|_| UNUSABLE.to_owned())?;
        key.verify_sig(self.text, self.signature).map_err(|_| "Failed to verify digest. Error code: 0".to_owned())
    }
}

/// What Envoy says of a key that it cannot verify with.
const UNUSABLE: &str = "Failed to initialize digest verify.";

/// How signatures of a kind of key (RFC 8017, RFC 5480), over a hash, are verified. RSA keys have 1024 to 8192 bits, 2048
/// at least with SHA-384.
fn algorithm(kind: &str, curve: Option<String>, hash: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    const RSA: &str = "1.2.840.113549.1.1.1";
    const EC: &str = "1.2.840.10045.2.1";
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    const P521: &str = "1.3.132.0.35";
    Some(match (kind, curve.as_deref(), hash) {
        (RSA, _, b"sha1") => &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (RSA, _, b"sha256") => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (RSA, _, b"sha384") => &signature::RSA_PKCS1_2048_8192_SHA384,
        (RSA, _, b"sha512") => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (EC, Some(P256), b"sha1") => &signature::ECDSA_P256_SHA1_ASN1,
        (EC, Some(P256), b"sha256") => &signature::ECDSA_P256_SHA256_ASN1,
        (EC, Some(P256), b"sha384") => &signature::ECDSA_P256_SHA384_ASN1,
        (EC, Some(P256), b"sha512") => &signature::ECDSA_P256_SHA512_ASN1,
        (EC, Some(P384), b"sha256") => &signature::ECDSA_P384_SHA256_ASN1,
        (EC, Some(P384), b"sha384") => &signature::ECDSA_P384_SHA384_ASN1,
        (EC, Some(P384), b"sha512") => &signature::ECDSA_P384_SHA512_ASN1,
        (EC, Some(P521), b"sha1") => &signature::ECDSA_P521_SHA1_ASN1,
        (EC, Some(P521), b"sha224") => &signature::ECDSA_P521_SHA224_ASN1,
        (EC, Some(P521), b"sha256") => &signature::ECDSA_P521_SHA256_ASN1,
        (EC, Some(P521), b"sha384") => &signature::ECDSA_P521_SHA384_ASN1,
        (EC, Some(P521), b"sha512") => &signature::ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair as _, RsaKeyPair};
    use base64::Engine as _;

    use super::*;

    /// Whether a signature counts, or what is wrong with it.
    fn ask(hash: &str, key: (u32, &[u8]), signature: &[u8], text: &[u8]) -> Result<Result<(), String>, Status> {
        let mut message = Vec::new();
        for (field, value) in [(1, hash.as_bytes()), key, (3, signature), (4, text)] {
            protobuf::put_bytes(&mut message, field, value);
        }
        let mut out = Vec::new();
        verify(&message, &mut out)?;
        Ok(match Fields(&out).next().unwrap().unwrap() {
            (1, Value::Number(1)) => Ok(()),
            (2, Value::Bytes(why)) => Err(String::from_utf8(why.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        })
    }

    fn wrong(why: &str) -> Result<Result<(), String>, Status> {
        Ok(Err(why.to_owned()))
    }

    #[test]
    fn an_rsa_signature_counts_for_its_text_only() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Vec<u8> = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let key = (2, der.as_slice());
        for (hash, encoding) in [
            ("sha256", &signature::RSA_PKCS1_SHA256),
            ("SHA384", &signature::RSA_PKCS1_SHA384),
            ("sha512", &signature::RSA_PKCS1_SHA512),
        ] {
            let mut signed = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), b"text", &mut signed).unwrap();
            assert_eq!(ask(hash, key, &signed, b"text"), Ok(Ok(())), "{hash}");
            let failed = wrong("Failed to verify digest. Error code: 0");
            assert_eq!(ask(hash, key, &signed, b"other"), failed, "{hash}");
            assert_eq!(ask("sha1", key, &signed, b"text"), failed, "{hash}");
            assert_eq!(ask(hash, key, b"", b"text"), failed, "{hash}");
        }
        assert_eq!(ask("md5", key, b"", b""), wrong("md5 is not supported."));
    }

    #[test]
    fn an_ecdsa_signature_counts_and_a_key_may_be_pem() {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let der: Vec<u8> = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let signed = pair.sign(&SystemRandom::new(), b"text").unwrap();
        assert_eq!(ask("sha256", (2, &der), signed.as_ref(), b"text"), Ok(Ok(())));
        let base64 = base64::engine::general_purpose::STANDARD.encode(&der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
        assert_eq!(ask("sha256", (5, pem.as_bytes()), signed.as_ref(), b"text"), Ok(Ok(())));
        assert_eq!(ask("sha256", (5, &der), signed.as_ref(), b"text"), Err(Status::BadArgument));
        assert_eq!(ask("sha256", (2, b"garbage"), signed.as_ref(), b"text"), wrong(UNUSABLE));
    }

    #[test]
    fn a_message_without_a_key_is_refused() {
        for message in [&b""[..], b"\xff", b"\x0a\x06sha256", b"\x12\x01k\x2a\x01k"] {
            assert_eq!(verify(message, &mut Vec::new()), Err(Status::BadArgument), "{message:?}");
        }
    }
}
