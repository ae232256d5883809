//! A Java key store (JKS) of certificates, the one format that every Java reads. Pure.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::{Engine, engine::general_purpose::STANDARD};

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// What everybody's store of public certificates is locked with.
const PASSWORD: &str = "changeit";

/// The store with the certificates of `pem`.
pub fn key_store(pem: &[u8]) -> Vec<u8> {
    let certificates = certificates(pem);
    let mut store = Vec::new();
    for number in [MAGIC, VERSION, certificates.len() as u32] {
        store.extend(number.to_be_bytes());
    }
    for (index, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        add_text(&mut store, &format!("ca-{index}"));
        store.extend(0u64.to_be_bytes());
        add_text(&mut store, "X.509");
        store.extend((certificate.len() as u32).to_be_bytes());
        store.extend_from_slice(certificate);
    }
    let mut seal = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| seal.update(&unit.to_be_bytes()));
    seal.update(b"Mighty Aphrodite");
    seal.update(&store);
    store.extend_from_slice(seal.finish().as_ref());
    store
}

fn add_text(store: &mut Vec<u8>, text: &str) {
    store.extend((text.len() as u16).to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

/// The certificates of a PEM file, as DER; what can't be read is left out.
pub fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(pem);
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.filter_map(|block| Some(block.split_once("-----END CERTIFICATE-----")?.0));
    bodies.filter_map(|body| STANDARD.decode(body.split_whitespace().collect::<String>()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_as_keytool_reads_it() {
        let pem = b"# a comment\n-----BEGIN CERTIFICATE-----\nAQID\nBAU=\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(pem), [vec![1, 2, 3, 4, 5]]);
        let store = key_store(pem);
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(&store[12..22], b"\0\0\0\x02\0\x04ca-0");
        assert_eq!(store.len(), 12 + 4 + 6 + 8 + 7 + 4 + 5 + 20);
    }
}
