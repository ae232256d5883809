//! The registry client against Debian's real `docker-registry`, also through a proxy that breaks things.

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rbuild::{
    oci::{Descriptor, Digest, Manifest, Reference, media_type},
    registry::{Client, ClientOptions, Configuration, Credential, Error, Pushed, RetryPolicy},
};
use support::{
    flaky_proxy::FlakyProxy,
    real_registry::{PASSWORD, RealRegistry, USER},
};

fn reference(address: &str, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}

fn blob(seed: u64, size: usize) -> (Descriptor, Vec<u8>) {
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

fn opener(bytes: &[u8]) -> impl Fn(u64) -> std::io::Result<std::io::Cursor<Vec<u8>>> + Send + Sync + use<> {
    let bytes = bytes.to_vec();
    move |offset| Ok(std::io::Cursor::new(bytes[offset as usize..].to_vec()))
}

fn quick() -> ClientOptions {
    let retry = RetryPolicy {
        attempts: 20,
        connect_attempts: 4,
        base_delay: std::time::Duration::from_millis(5),
        max_delay: std::time::Duration::from_millis(50),
        ..RetryPolicy::default()
    };
    let mut options = ClientOptions { retry, ..ClientOptions::default() };
    options.timeouts.stall = std::time::Duration::from_millis(700);
    options.timeouts.response = std::time::Duration::from_millis(700);
    options
}

async fn push_image(client: &Client, to: &Reference, layers: &[(Descriptor, Vec<u8>)], mount_from: &[Reference]) -> (Digest, Vec<Pushed>) {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
    let config = (Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64), config);
    let mut pushed = Vec::new();
    for (descriptor, bytes) in layers.iter().chain([&config]) {
        pushed.push(client.push_blob(to, descriptor, opener(bytes), mount_from, |_| {}).await.unwrap());
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: config.0,
        layers: layers.iter().map(|(descriptor, _)| descriptor.clone()).collect(),
        subject: None,
        annotations: Default::default(),
    };
    let digest = client.push_manifest(to, media_type::OCI_MANIFEST, &manifest.to_bytes()).await.unwrap();
    (digest, pushed)
}

async fn fetch(client: &Client, from: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut sink = Vec::new();
    client.fetch_blob(from, descriptor, &mut sink, |_| {}).await?;
    Ok(sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_pulled() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(Configuration::default(), ClientOptions::default());
    let image = reference(&registry.address, "team/app:1");
    let layers = [blob(1, 3 << 20), blob(2, 100), blob(3, 0)];
    let (digest, pushed) = push_image(&client, &image, &layers, &[]).await;
    assert_eq!(pushed, vec![Pushed::Uploaded; 4]);
    let resolved = client.resolve(&image).await.unwrap();
    assert_eq!((resolved.digest, resolved.media_type.as_str()), (digest.clone(), media_type::OCI_MANIFEST));
    assert_eq!(client.head(&image).await.unwrap().digest, digest);
    let manifest: Manifest = serde_json::from_slice(&client.fetch_manifest(&image, &digest).await.unwrap().bytes).unwrap();
    for (descriptor, (_, bytes)) in manifest.layers.iter().zip(&layers) {
        assert_eq!(&fetch(&client, &image, descriptor).await.unwrap(), bytes);
    }
    assert_eq!(client.list_tags(&image).await.unwrap(), ["1"]);
    assert!(client.referrers(&image, &digest, None).await.unwrap().manifests.is_empty());

    let again = push_image(&client, &image, &layers, &[]).await;
    assert_eq!(again, (digest.clone(), vec![Pushed::Existed; 4]));
    let other = reference(&registry.address, "other/app:1");
    let (_, mounted) = push_image(&client, &other, &layers, std::slice::from_ref(&image)).await;
    assert_eq!(mounted, vec![Pushed::Mounted("team/app".to_owned()); 4]);

    registry.check_with_skopeo("team/app:1", &digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_and_kept_to_their_host() {
    let Some(registry) = RealRegistry::start(true) else { return };
    let image = reference(&registry.address, "private:1");
    let anonymous = Client::new(Configuration::default(), ClientOptions::default());
    let error = anonymous.resolve(&image).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { had_credentials: false, .. }), "{error}");
    for (password, good) in [("wrong", false), (PASSWORD, true)] {
        let mut configuration = Configuration::default();
        let credential = Credential::Password { user: USER.to_owned(), password: password.to_owned() };
        configuration.put_credential(&registry.address, credential);
        let client = Client::new(configuration, ClientOptions::default());
        if good {
            let layers = [blob(4, 2 << 20)];
            let (digest, _) = push_image(&client, &image, &layers, &[]).await;
            assert_eq!(client.resolve(&image).await.unwrap().digest, digest);
            assert_eq!(fetch(&client, &image, &layers[0].0).await.unwrap(), layers[0].1);
        } else {
            let error = client.resolve(&image).await.unwrap_err();
            assert!(matches!(error, Error::Unauthorized { had_credentials: true, .. }), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_is_wrong() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let client = Client::new(Configuration::default(), quick());
    let image = reference(&registry.address, "nothing:1");
    let error = client.resolve(&image).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = fetch(&client, &image, &blob(1, 5).0).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let address = registry.address.clone();
    drop(registry);
    let fresh = Client::new(Configuration::default(), quick());
    let error = fresh.resolve(&reference(&address, "nothing:1")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_and_push_survive_a_bad_network() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let layers: Vec<_> = (10..26).map(|seed| blob(seed, 4 << 20)).collect();
    let total: u64 = layers.iter().map(|(descriptor, _)| descriptor.size).sum();
    let proxy = FlakyProxy::start(&registry.address, 30);
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = notices.clone();
    let options = ClientOptions { notice: Some(Arc::new(move |notice| heard.lock().unwrap().push(notice.to_string()))), ..quick() };
    let client = Client::new(Configuration::default(), options);
    let image = reference(&proxy.address, "app:1");
    let (digest, _) = push_image(&client, &image, &layers, &[]).await;
    let up = proxy.bytes_up.load(Relaxed);
    let down_before = proxy.bytes_down.load(Relaxed);
    assert_eq!(client.resolve(&image).await.unwrap().digest, digest);
    let received = Arc::new(AtomicU64::new(0));
    for (descriptor, bytes) in &layers {
        let mut sink = Vec::new();
        let count = received.clone();
        client.fetch_blob(&image, descriptor, &mut sink, move |more| _ = count.fetch_add(more, Relaxed)).await.unwrap();
        assert!(&sink == bytes);
    }
    let down = proxy.bytes_down.load(Relaxed) - down_before;
    assert_eq!(received.load(Relaxed), total);
    let ratio = |bytes: u64| bytes as f64 / total as f64;
    println!(
        "up {:.2}x, down {:.2}x, {} faults, {} retries",
        ratio(up),
        ratio(down),
        proxy.faults.load(Relaxed),
        notices.lock().unwrap().len()
    );
    assert!(proxy.faults.load(Relaxed) > 5, "the proxy must break something");
    assert!(ratio(down) <= 1.3, "{:.2}x of the bytes came down", ratio(down));
    assert!(ratio(up) <= 1.3, "{:.2}x of the bytes went up: {:#?}", ratio(up), notices.lock().unwrap());
}
