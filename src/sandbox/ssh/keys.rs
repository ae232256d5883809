//! Private keys from files: what ssh-keygen writes, and PEM (PKCS#1, PKCS#8, SEC 1). A key knows what ssh calls it and
//! how ssh wants its signatures (RFC 4253, 5656, 8332, 8709). Unaware of who asks for one.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaSignatureEncoding,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::wire::{Wire, put_big_number, put_string, without_zeros};

/// Begins the bytes of an OpenSSH key.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Why a file is no key for us.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// No text that begins as a private key does.
    #[error("not a private key")]
    NotAKey,
    /// It needs a passphrase.
    #[error("the key is protected by a passphrase")]
    Protected,
    /// DSA, or the half of a key that is in a security token.
    #[error("keys of type {0} are not supported")]
    Unsupported(String),
    /// It ends early, or its numbers don't fit together.
    #[error("the private key is damaged, or too short to be safe")]
    Damaged,
}

/// A private key.
pub struct Key {
    public: Vec<u8>,
    comment: String,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static Curve, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

struct Curve {
    name: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
    /// Bytes of a number below the curve's order.
    size: usize,
}

static CURVES: [Curve; 3] = [
    Curve { name: "nistp256", algorithm: &ECDSA_P256_SHA256_FIXED_SIGNING, size: 32 },
    Curve { name: "nistp384", algorithm: &ECDSA_P384_SHA384_FIXED_SIGNING, size: 48 },
    Curve { name: "nistp521", algorithm: &ECDSA_P521_SHA512_FIXED_SIGNING, size: 66 },
];

impl std::fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.signer.name().as_str())
    }
}

impl Key {
    /// Reads the text of a key file; `name` is what it is called when it says nothing itself.
    pub fn read(text: &str, name: &str) -> Result<Self, KeyError> {
        let (kind, bytes) = pem(text)?;
        let (signer, comment) = match kind {
            "OPENSSH PRIVATE KEY" => openssh(&bytes)?,
            "RSA PRIVATE KEY" => (Signer::Rsa(RsaKeyPair::from_der(&bytes).map_err(|_| KeyError::Damaged)?), String::new()),
            "PRIVATE KEY" | "EC PRIVATE KEY" => (of_any_kind(&bytes)?, String::new()),
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Protected),
            other => return Err(KeyError::Unsupported(other.trim_end_matches(" PRIVATE KEY").to_owned())),
        };
        let comment = if comment.is_empty() { name.to_owned() } else { comment };
        Ok(Self { public: signer.public()?, comment, signer })
    }

    /// The public half, as ssh writes it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// What people call it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The signature of `message`, as ssh writes it. `flags` chooses the hash of an RSA key (RFC 9987, section 4.4.1); None
    /// where it asks for SHA-1.
    pub fn sign(&self, message: &[u8], flags: u32) -> Option<Vec<u8>> {
        let mut signature = Vec::new();
        match &self.signer {
            Signer::Ed25519(key) => {
                put_string(&mut signature, b"ssh-ed25519");
                put_string(&mut signature, key.sign(message).as_ref());
            }
            Signer::Ecdsa(curve, key) => {
                let fixed = key.sign(&SystemRandom::new(), message).ok()?;
                let (r, s) = fixed.as_ref().split_at(curve.size);
                let mut numbers = Vec::new();
                put_big_number(&mut numbers, r);
                put_big_number(&mut numbers, s);
                put_string(&mut signature, self.signer.name().as_bytes());
                put_string(&mut signature, &numbers);
            }
            Signer::Rsa(key) => {
                let (name, encoding) = rsa_encoding(flags)?;
                let mut bytes = vec![0; key.public_modulus_len()];
                key.sign(encoding, &SystemRandom::new(), message, &mut bytes).ok()?;
                put_string(&mut signature, name);
                put_string(&mut signature, &bytes);
            }
        }
        Some(signature)
    }
}

fn rsa_encoding(flags: u32) -> Option<(&'static [u8], &'static RsaSignatureEncoding)> {
    const SHA2_256: u32 = 2;
    const SHA2_512: u32 = 4;
    match flags {
        flags if flags & SHA2_512 != 0 => Some((b"rsa-sha2-512", &RSA_PKCS1_SHA512)),
        flags if flags & SHA2_256 != 0 => Some((b"rsa-sha2-256", &RSA_PKCS1_SHA256)),
        _ => None,
    }
}

impl Signer {
    fn name(&self) -> String {
        match self {
            Self::Ed25519(_) => "ssh-ed25519".to_owned(),
            Self::Ecdsa(curve, _) => format!("ecdsa-sha2-{}", curve.name),
            Self::Rsa(_) => "ssh-rsa".to_owned(),
        }
    }

    fn public(&self) -> Result<Vec<u8>, KeyError> {
        let mut out = Vec::new();
        put_string(&mut out, self.name().as_bytes());
        match self {
            Self::Ed25519(key) => put_string(&mut out, key.public_key().as_ref()),
            Self::Ecdsa(curve, key) => {
                put_string(&mut out, curve.name.as_bytes());
                put_string(&mut out, key.public_key().as_ref());
            }
            Self::Rsa(key) => {
                let (modulus, exponent) = public_numbers(key.public_key().as_ref()).ok_or(KeyError::Damaged)?;
                put_big_number(&mut out, exponent);
                put_big_number(&mut out, modulus);
            }
        }
        Ok(out)
    }
}

/// Kind and bytes of the first private key in a PEM text.
fn pem(text: &str) -> Result<(&str, Vec<u8>), KeyError> {
    let begin = text.find("-----BEGIN ").ok_or(KeyError::NotAKey)?;
    let (kind, rest) = text[begin + "-----BEGIN ".len()..].split_once("-----").ok_or(KeyError::NotAKey)?;
    if !kind.ends_with("PRIVATE KEY") {
        return Err(KeyError::NotAKey);
    }
    let (body, _) = rest.split_once("-----END ").ok_or(KeyError::Damaged)?;
    // Header lines are of the old way to protect a key.
    if body.contains("ENCRYPTED") {
        return Err(KeyError::Protected);
    }
    let letters: String = body.split_whitespace().collect();
    STANDARD.decode(letters).map(|bytes| (kind, bytes)).map_err(|_| KeyError::Damaged)
}

/// What PKCS#8 and SEC 1 hold: the kind is inside.
fn of_any_kind(bytes: &[u8]) -> Result<Signer, KeyError> {
    if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(Signer::Ed25519(key));
    }
    if let Ok(key) = RsaKeyPair::from_pkcs8(bytes) {
        return Ok(Signer::Rsa(key));
    }
    let of_curve = |curve| Some(Signer::Ecdsa(curve, EcdsaKeyPair::from_private_key_der(curve.algorithm, bytes).ok()?));
    CURVES.iter().find_map(of_curve).ok_or(KeyError::Damaged)
}

/// OpenSSH's format (PROTOCOL.key), without passphrase; and the comment in it.
fn openssh(bytes: &[u8]) -> Result<(Signer, String), KeyError> {
    let mut outer = Wire(bytes.strip_prefix(MAGIC).ok_or(KeyError::Damaged)?);
    let cipher = outer.string().ok_or(KeyError::Damaged)?;
    if cipher != b"none" {
        return Err(KeyError::Protected);
    }
    let inner = || {
        let (_derivation, _options) = (outer.string()?, outer.string()?);
        let (count, _public) = (outer.number()?, outer.string()?);
        (count == 1).then(|| outer.string()).flatten()
    };
    let mut inner = Wire({ inner }().ok_or(KeyError::Damaged)?);
    // The same number twice: wrong only where a passphrase was.
    let (_, _) = (inner.number().ok_or(KeyError::Damaged)?, inner.number().ok_or(KeyError::Damaged)?);
    let kind = inner.text().ok_or(KeyError::Damaged)?;
    let signer = match kind.as_str() {
        "ssh-ed25519" => ed25519(&mut inner),
        "ssh-rsa" => rsa(&mut inner),
        name => match CURVES.iter().find(|curve| name.strip_prefix("ecdsa-sha2-") == Some(curve.name)) {
            Some(curve) => ecdsa(curve, &mut inner),
            None => return Err(KeyError::Unsupported(kind)),
        },
    };
    Ok((signer.ok_or(KeyError::Damaged)?, inner.text().unwrap_or_default()))
}

fn ed25519(wire: &mut Wire<'_>) -> Option<Signer> {
    let (public, both) = (wire.string()?, wire.string()?);
    let seed = both.get(..32)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok().map(Signer::Ed25519)
}

fn ecdsa(curve: &'static Curve, wire: &mut Wire<'_>) -> Option<Signer> {
    let (_name, public, secret) = (wire.string()?, wire.string()?, wire.big_number()?);
    let mut fixed = vec![0; curve.size.checked_sub(secret.len())?];
    fixed.extend(secret);
    EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm, &fixed, public).ok().map(|key| Signer::Ecdsa(curve, key))
}

fn rsa(wire: &mut Wire<'_>) -> Option<Signer> {
    let (n, e, d) = (wire.big_number()?, wire.big_number()?, wire.big_number()?);
    let (inverse, p, q) = (wire.big_number()?, wire.big_number()?, wire.big_number()?);
    let (exponent_p, exponent_q) = (remainder(d, &one_less(p)?), remainder(d, &one_less(q)?));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: exponent_p.as_slice(),
        dQ: exponent_q.as_slice(),
        qInv: inverse,
    };
    RsaKeyPair::from_components(&components).ok().map(Signer::Rsa)
}

/// An odd number less one.
fn one_less(number: &[u8]) -> Option<Vec<u8>> {
    let mut number = number.to_vec();
    let last = number.last_mut().filter(|last| **last % 2 == 1)?;
    *last -= 1;
    Some(number)
}

/// `number` modulo `modulus`, both big-endian: bit by bit, twice what is left plus the bit, less the modulus if it fits.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    // One byte more, so that doubling does not lose a bit.
    let modulus: Vec<u8> = std::iter::once(0).chain(modulus.iter().copied()).collect();
    let mut left = vec![0u8; modulus.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in left.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        // Big-endian numbers of one length compare as their bytes do.
        if left >= modulus {
            let mut borrow = false;
            for (byte, less) in left.iter_mut().zip(&modulus).rev() {
                let (first, once) = byte.overflowing_sub(*less);
                let (second, twice) = first.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (second, once || twice);
            }
        }
    }
    left
}

/// Modulus and exponent of a public RSA key in DER: a sequence of two integers.
fn public_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    let (sequence, _) = element(der, SEQUENCE)?;
    let (modulus, rest) = element(sequence, INTEGER)?;
    let (exponent, _) = element(rest, INTEGER)?;
    Some((without_zeros(modulus), without_zeros(exponent)))
}

/// Content of a DER element and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        short @ ..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().try_fold(0usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?, rest)
        }
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A key of ssh-keygen's and its public half.
    fn made(kind: &[&str], passphrase: &str) -> (String, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-N", passphrase, "-C", "a comment", "-f"]).arg(&file).args(kind).status();
        assert!(made.expect("ssh-keygen is needed").success());
        let public = std::fs::read_to_string(folder.path().join("key.pub")).unwrap();
        let blob = STANDARD.decode(public.split_whitespace().nth(1).unwrap()).unwrap();
        (std::fs::read_to_string(file).unwrap(), blob)
    }

    const KINDS: [&[&str]; 12] = [
        &["-t", "ed25519"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "3072"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-m", "PEM"],
        &["-t", "rsa", "-m", "PKCS8"],
        &["-t", "ecdsa", "-b", "256", "-m", "PEM"],
        &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"],
        &["-t", "ecdsa", "-b", "521", "-m", "PEM"],
        &["-t", "ecdsa", "-b", "521", "-m", "PKCS8"],
    ];

    #[test]
    fn keys_of_every_kind_and_format_have_the_public_half_that_ssh_keygen_says() {
        for kind in KINDS {
            let (text, public) = made(kind, "");
            let key = Key::read(&text, "file").unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(key.public(), public, "{kind:?}");
            assert_eq!(key.comment(), if text.contains("OPENSSH") { "a comment" } else { "file" });
            assert!(key.sign(b"message", 4).is_some());
        }
    }

    #[test]
    fn what_is_no_key_for_us_says_why() {
        for kind in [&["-t", "ed25519"][..], &["-t", "rsa", "-m", "PEM"], &["-t", "rsa", "-m", "PKCS8"]] {
            assert_eq!(Key::read(&made(kind, "passphrase").0, "").unwrap_err(), KeyError::Protected, "{kind:?}");
        }
        assert_eq!(Key::read("", "").unwrap_err(), KeyError::NotAKey);
        assert_eq!(Key::read("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "").unwrap_err(), KeyError::NotAKey);
        assert_eq!(Key::read("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "").unwrap_err(), KeyError::Damaged);
        let unsupported = KeyError::Unsupported("DSA".into());
        assert_eq!(Key::read("-----BEGIN DSA PRIVATE KEY-----\nAA==\n-----END DSA PRIVATE KEY-----\n", "").unwrap_err(), unsupported);
        let (text, _) = made(&["-t", "ed25519"], "");
        for end in 0..text.len() {
            assert!(Key::read(&text[..end], "").is_err() || text[end..].trim().len() < 40, "{end}");
        }
    }

    #[test]
    fn sha_1_is_refused() {
        let (text, _) = made(&["-t", "rsa", "-b", "2048"], "");
        assert_eq!(Key::read(&text, "").unwrap().sign(b"message", 0), None);
    }

    #[test]
    fn remainders_are_those_of_long_division() {
        let of = |number: u64, modulus: u64| {
            u64::from_be_bytes(remainder(&number.to_be_bytes(), &modulus.to_be_bytes())[1..].try_into().unwrap())
        };
        for (number, modulus) in [(0, 3), (7, 7), (u64::MAX, 2), (u64::MAX, u64::MAX - 1), (0x1234_5678_9abc_def0, 0xff01), (5, 1 << 63)] {
            assert_eq!(of(number, modulus), number % modulus, "{number} % {modulus}");
        }
    }
}
