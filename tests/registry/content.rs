//! Blobs and manifests to send around, and a client that doesn't wait long.

use std::{io::Cursor, time::Duration};

use rbuild::{
    oci::{Descriptor, Digest, Manifest, Reference, media_type},
    registry::{Client, ClientOptions, Error, RetryPolicy},
};

pub fn reference(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

/// Bytes that don't compress, always the same for a seed.
pub fn blob(seed: u64, size: usize) -> (Descriptor, Vec<u8>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    (Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(&bytes), size as u64), bytes)
}

/// A manifest of `layers` over a config, both as bytes.
pub fn manifest(layers: &[(Descriptor, Vec<u8>)]) -> (Vec<u8>, (Descriptor, Vec<u8>)) {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
    let config = (Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64), config);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: config.0.clone(),
        layers: layers.iter().map(|(descriptor, _)| descriptor.clone()).collect(),
        subject: None,
        annotations: Default::default(),
    };
    (manifest.to_bytes(), config)
}

pub fn opener(bytes: &[u8]) -> impl Fn(u64) -> std::io::Result<Cursor<Vec<u8>>> + Send + Sync + use<> {
    let bytes = bytes.to_vec();
    move |offset| Ok(Cursor::new(bytes[offset as usize..].to_vec()))
}

pub fn quick() -> ClientOptions {
    let retry = RetryPolicy {
        attempts: 20,
        connect_attempts: 4,
        base_delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(50),
        ..RetryPolicy::default()
    };
    let mut options = ClientOptions { retry, ..ClientOptions::default() };
    options.timeouts.stall = Duration::from_millis(700);
    options.timeouts.response = Duration::from_millis(700);
    options
}

pub async fn fetch(client: &Client, from: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut sink = Vec::new();
    client.fetch_blob(from, descriptor, &mut sink, |_| {}).await?;
    Ok(sink)
}
