//! Tokens, refresh tokens and credential helpers.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rbuild::registry::{Client, Configuration, Credential, Error};

use crate::{
    content::{blob, fetch, quick, reference},
    fake::{Answer, Fake, Request},
};

/// A registry that takes `Bearer <n>`, and hands out `n` = 1, 2, ..; `accepts` says which it takes.
fn token_registry(blob: Vec<u8>, expires_in: u64, accepts: impl Fn(&Request, u64) -> bool + Send + Sync + 'static) -> Fake {
    let count = AtomicU64::new(0);
    Fake::start(move |request| {
        let host = request.header("host");
        if request.path.starts_with("/token") {
            let number = count.fetch_add(1, Relaxed) + 1;
            return Answer::new(200, format!(r#"{{"token":"{number}","expires_in":{expires_in}}}"#));
        }
        let token = request.header("authorization").strip_prefix("Bearer ").and_then(|token| token.parse().ok());
        if token.is_some_and(|token| accepts(request, token)) {
            return Answer::new(200, &blob);
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token?x=1",service="fake",scope="repository:app:pull""#);
        Answer::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#).header("WWW-Authenticate", challenge)
    })
}

fn tokens(fake: &Fake) -> Vec<Request> {
    fake.requests().into_iter().filter(|request| request.path.starts_with("/token")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_requests_share_one_token() {
    let (descriptor, bytes) = blob(1, 1000);
    let fake = token_registry(bytes, 300, |_, token| token == 1);
    let client = Client::new(Configuration::default(), quick());
    let image = reference(&fake.address, "app");
    let fetches = (0..8).map(|_| fetch(&client, &image, &descriptor));
    for result in futures_util::future::join_all(fetches).await {
        result.unwrap();
    }
    let tokens = tokens(&fake);
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?x=1&service=fake&scope=repository%3Aapp%3Apull");
    assert_eq!(tokens[0].header("authorization"), "");
}

#[tokio::test]
async fn a_token_that_dies_early_is_renewed_and_one_that_will_expire_too() {
    let (descriptor, bytes) = blob(2, 1000);
    for (expires_in, takes) in [(300, 2), (1, u64::MAX)] {
        let last = Arc::new(AtomicU64::new(0));
        let seen = last.clone();
        // The first token is taken once.
        let fake = token_registry(bytes.clone(), expires_in, move |_, token| {
            seen.fetch_add(1, Relaxed) == 0 || token == takes || takes == u64::MAX
        });
        let client = Client::new(Configuration::default(), quick());
        let image = reference(&fake.address, "app");
        fetch(&client, &image, &descriptor).await.unwrap();
        if expires_in == 1 {
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        }
        fetch(&client, &image, &descriptor).await.unwrap();
        assert_eq!(tokens(&fake).len(), 2, "{expires_in}");
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_says_why() {
    let (descriptor, bytes) = blob(3, 1000);
    let fake = token_registry(bytes, 300, |_, _| false);
    for with_password in [false, true] {
        let mut configuration = Configuration::default();
        if with_password {
            let credential = Credential::Password { user: "u".to_owned(), password: "p".to_owned() };
            configuration.put_credential(&fake.address, credential);
        }
        let before = fake.requests().len();
        let error = fetch(&Client::new(configuration, quick()), &reference(&fake.address, "app"), &descriptor).await.unwrap_err();
        let Error::Unauthorized { had_credentials, message, .. } = &error else { panic!("{error}") };
        assert_eq!((*had_credentials, message.as_str()), (with_password, "who are you?"));
        assert!(fake.requests().len() - before <= 5);
    }
}

#[tokio::test]
async fn passwords_go_to_the_token_server_as_basic_and_refresh_tokens_by_post() {
    let (descriptor, bytes) = blob(4, 1000);
    let fake = token_registry(bytes, 300, |_, _| true);
    let credentials =
        [Credential::Password { user: "u".to_owned(), password: "p".to_owned() }, Credential::IdentityToken("refresh me".to_owned())];
    for credential in credentials {
        let mut configuration = Configuration::default();
        configuration.put_credential(&fake.address, credential);
        fetch(&Client::new(configuration, quick()), &reference(&fake.address, "app"), &descriptor).await.unwrap();
    }
    let tokens = tokens(&fake);
    assert_eq!(tokens[0].header("authorization"), "Basic dTpw");
    assert_eq!(tokens[0].line(), "GET /token?x=1&service=fake&scope=repository%3Aapp%3Apull&account=u");
    assert_eq!(tokens[1].line(), "POST /token?x=1");
    assert_eq!(
        String::from_utf8(tokens[1].body.clone()).unwrap(),
        "grant_type=refresh_token&service=fake&client_id=rbuild&scope=repository%3Aapp%3Apull&refresh_token=refresh+me"
    );
    assert_eq!(tokens[1].header("authorization"), "");
}

#[tokio::test]
async fn a_credential_helper_is_called_only_for_its_host() {
    let (descriptor, bytes) = blob(5, 1000);
    let answers = |bytes: Vec<u8>| {
        Fake::start(move |request| match request.header("authorization") {
            "Basic dTpw" => Answer::new(200, &bytes),
            _ => Answer::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        })
    };
    let (own, other) = (answers(bytes.clone()), answers(bytes));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let helper = folder.path().join("docker-credential-test");
    let script = format!("#!/bin/sh\nread host\necho \"$1 $host\" >>{}\necho '{{\"Username\":\"u\",\"Secret\":\"p\"}}'\n", log.display());
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut configuration = Configuration::default();
    configuration.add_credentials(&format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, own.address)).unwrap();
    let mut options = quick();
    options.helper_path = Some(format!("{}:/bin:/usr/bin", folder.path().display()).into());
    let client = Client::new(configuration, options);
    let error = fetch(&client, &reference(&other.address, "app"), &descriptor).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { had_credentials: false, .. }), "{error}");
    assert!(!log.exists());
    fetch(&client, &reference(&own.address, "app"), &descriptor).await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("get {}\n", own.address));
}

#[tokio::test]
async fn a_helper_that_fails_is_named_when_anonymous_is_not_enough() {
    let (descriptor, bytes) = blob(6, 1000);
    let private = Fake::start(|_| Answer::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
    let public = token_registry(bytes, 300, |_, _| true);
    let mut configuration = Configuration::default();
    configuration.add_credentials(r#"{"credsStore":"not-installed"}"#).unwrap();
    let client = Client::new(configuration, quick());
    fetch(&client, &reference(&public.address, "app"), &descriptor).await.unwrap();
    let error = fetch(&client, &reference(&private.address, "app"), &descriptor).await.unwrap_err();
    assert!(matches!(&error, Error::CredentialHelper { helper, .. } if helper == "not-installed"), "{error}");
}
