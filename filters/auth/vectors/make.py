"""Makes the keys and tokens of the tests, with OpenSSL by way of https://cryptography.io: another implementation than
the filter's. Run it in this directory. The private keys are forgotten.

tokens.json is for tests that give the time, ../../../tests/tests/builtin/tokens.json for those with the real one."""

import base64
import json
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
PAIRS = [("RS256", "rsa"), ("RS384", "rsa"), ("RS512", "rsa"), ("PS256", "rsa"), ("PS384", "rsa"), ("PS512", "rsa"),
         ("ES256", "p256"), ("ES384", "p384"), ("EdDSA", "ed25519"), ("RS256", "rsa4096")]
CLAIMS = {"iss": "https://issuer.example", "aud": ["delta", "epsilon"], "sub": "ada", "email": "ada@example.com",
          "roles": ["admin", "dev"], "scope": "read write", "level": 3, "realm": {"groups": ["blue"]}, "staff": True}


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, length=None):
    return text(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


class Keys:
    def __init__(self):
        self.of = {"rsa": rsa.generate_private_key(65537, 2048), "rsa4096": rsa.generate_private_key(65537, 4096),
                   "p256": ec.generate_private_key(ec.SECP256R1()), "p384": ec.generate_private_key(ec.SECP384R1()),
                   "ed25519": ed25519.Ed25519PrivateKey.generate()}

    def public(self):
        keys = []
        for name, key in self.of.items():
            public = key.public_key()
            if name.startswith("rsa"):
                numbers = public.public_numbers()
                keys.append({"kty": "RSA", "kid": name, "use": "sig", "n": number(numbers.n), "e": number(numbers.e)})
            elif name == "ed25519":
                raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
                keys.append({"kty": "OKP", "kid": name, "crv": "Ed25519", "x": text(raw)})
            else:
                numbers, size = public.public_numbers(), 32 if name == "p256" else 48
                curve = "P-256" if name == "p256" else "P-384"
                keys.append({"kty": "EC", "kid": name, "crv": curve, "x": number(numbers.x, size), "y": number(numbers.y, size)})
        return {"keys": keys}

    def sign(self, algorithm, name, message):
        key, digest = self.of[name], HASHES.get(algorithm[2:])
        if algorithm.startswith("RS"):
            return key.sign(message, padding.PKCS1v15(), digest)
        if algorithm.startswith("PS"):
            return key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        if algorithm == "EdDSA":
            return key.sign(message)
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        size = 32 if name == "p256" else 48
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    def token(self, algorithm, name, claims):
        parts = [{"alg": algorithm, "kid": name, "typ": "JWT"}, claims]
        signed = ".".join(text(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
        return signed + "." + text(self.sign(algorithm, name, signed.encode()))


def write(path, more, others):
    keys = Keys()
    tokens = [{"alg": alg, "kid": kid, "token": keys.token(alg, kid, CLAIMS | more)} for alg, kid in PAIRS]
    page = {"jwks": keys.public(), "tokens": tokens}
    page |= {name: keys.token("EdDSA", "ed25519", CLAIMS | more | claims) for name, claims in others.items()}
    with open(path, "w") as file:
        json.dump(page, file, indent=1)
        file.write("\n")


write("tokens.json", {"iat": 1800000000, "nbf": 1800000000, "exp": 1800003600}, {})
write("../../../tests/tests/builtin/tokens.json", {"iat": 1700000000, "exp": 4102444800},
      {"expired": {"exp": 1700003600}, "other_audience": {"aud": "zeta"}, "other_issuer": {"iss": "https://other.example"},
       "early": {"nbf": 4102444700}, "dev": {"sub": "eve", "roles": ["dev"]}})
