//! The registry client against Debian's real `docker-registry`, also through a proxy that breaks things.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rbuild::{
    oci::{Descriptor, Digest, Manifest, Reference, media_type},
    registry::{Client, ClientOptions, Configuration, Credential, Error, Listener, Pushed},
};

use crate::{
    content::{blob, fetch, manifest, opener, quick, reference},
    flaky_proxy::FlakyProxy,
    real_registry::{PASSWORD, RealRegistry, USER},
};

async fn push_image(client: &Client, to: &Reference, layers: &[(Descriptor, Vec<u8>)], mount_from: &[Reference]) -> (Digest, Vec<Pushed>) {
    let (manifest, config) = manifest(layers);
    let mut pushed = Vec::new();
    for (descriptor, bytes) in layers.iter().chain([&config]) {
        pushed.push(client.push_blob(to, descriptor, opener(bytes), mount_from, |_| {}).await.unwrap());
    }
    (client.push_manifest(to, media_type::OCI_MANIFEST, &manifest).await.unwrap(), pushed)
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
        assert_eq!(client.check_login(&registry.address).await.is_ok(), good);
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
    let seeds = [1, 5, 13, 15].map(|seed| survive(&registry, seed));
    futures_util::future::join_all(seeds).await;
}

async fn survive(registry: &RealRegistry, seed: u64) {
    let layers: Vec<_> = (10..26).map(|seed| blob(seed, 4 << 20)).collect();
    let total: u64 = layers.iter().map(|(descriptor, _)| descriptor.size).sum();
    let proxy = FlakyProxy::start(&registry.address, 30, seed);
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = notices.clone();
    let options = ClientOptions { listener: Listener::new(move |notice| heard.lock().unwrap().push(notice.to_string())), ..quick() };
    let client = Client::new(Configuration::default(), options);
    let image = reference(&proxy.address, &format!("app{seed}:1"));
    let (digest, _) = push_image(&client, &image, &layers, &[]).await;
    let up = proxy.bytes_up.load(Relaxed);
    let down_before = proxy.bytes_down.load(Relaxed);
    assert_eq!(client.resolve(&image).await.unwrap().digest, digest);
    for (descriptor, bytes) in &layers {
        let there = AtomicU64::new(0);
        let mut sink = Vec::new();
        client.fetch_blob(&image, descriptor, &mut sink, |bytes| assert!(there.swap(bytes, Relaxed) < bytes)).await.unwrap();
        assert!(&sink == bytes);
        assert_eq!(there.into_inner(), descriptor.size);
    }
    let down = proxy.bytes_down.load(Relaxed) - down_before;
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
