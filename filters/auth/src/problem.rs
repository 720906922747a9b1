//! Why tokens are not accepted.

use std::fmt;

/// Why a text is no token that could be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Too long to be looked at.
    Long,
    /// Not three parts in base64url, or its header is no JSON object as it should be.
    Form,
    /// Its `alg` is none that is known: that includes `none` and all with a shared secret.
    Algorithm,
    /// It must not be accepted by those who do not know an extension, and none is known here (RFC 7515 section 4.1.11).
    Extension,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The keys of a provider (its number) are not here, and will perhaps come.
    NoKeys(usize),
    /// It names a key that a provider (its number) does not have now, and that it perhaps has in its service.
    UnknownKey(usize),
    /// It will never be.
    Refused(Refusal),
}

/// Why a token is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is more than one in the same place.
    Twice,
    Malformed(Malformed),
    Claims,
    Issuer,
    Audience,
    Algorithm,
    Expired,
    Early,
    NoExpiration,
    Lifetime,
    Key,
    Signature,
}

/// What the caller may know, in the words of a `www-authenticate` header.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Twice => "there is more than one token",
            Self::Malformed(Malformed::Long) => "the token is too long",
            Self::Malformed(Malformed::Form) => "the token is malformed",
            Self::Malformed(Malformed::Algorithm) | Self::Algorithm => "the token's algorithm is not accepted",
            Self::Malformed(Malformed::Extension) => "the token needs an extension that is not known",
            Self::Claims => "the token's claims are malformed",
            Self::Issuer => "the token's issuer is not accepted",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::Early => "the token is not valid yet",
            Self::NoExpiration => "the token does not expire",
            Self::Lifetime => "the token is valid for too long",
            Self::Key => "the token's key is not known",
            Self::Signature => "the token's signature is wrong",
        })
    }
}
