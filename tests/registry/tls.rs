//! Certificates of one's own, and redirects that would leave TLS. The hosts are `0.0.0.0`, which reaches this machine
//! but is not a loopback name, so that nothing is accepted unseen.

use std::{path::Path, process::Command};

use rbuild::registry::{Client, ConfigPaths, Configuration, Error, configuration};

use crate::{
    content::{quick, reference},
    fake::{Answer, Fake},
    real_registry::RealRegistry,
};

/// A certificate for 0.0.0.0 that signs itself; None, with the reason printed, without openssl.
fn make_certificate(folder: &Path) -> Option<()> {
    let extensions = "basicConstraints = CA:FALSE\nsubjectAltName = IP:0.0.0.0\n";
    let config = format!("[req]\nprompt = no\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\nCN = test\n[ext]\n{extensions}");
    std::fs::write(folder.join("openssl.cnf"), config).unwrap();
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-config", "openssl.cnf", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output();
    let Ok(output) = output else {
        assert!(std::env::var_os("RBUILD_TEST_REQUIRE").is_none(), "openssl is not installed");
        println!("skipped: openssl is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_where_it_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = make_certificate(folder.path()) else { return };
    let Some(registry) = RealRegistry::start_with_tls(&folder.path().join("cert.pem"), &folder.path().join("key.pem")) else { return };
    let image = reference(&registry.address, "app:1");
    let certificates = folder.path().join("certs.d");
    std::fs::create_dir_all(certificates.join(&registry.address)).unwrap();
    std::fs::copy(folder.path().join("cert.pem"), certificates.join(&registry.address).join("ca.crt")).unwrap();
    let with_certificates = configuration::load(&ConfigPaths { certificates: vec![certificates], ..ConfigPaths::default() }).unwrap();
    let bundle = ConfigPaths { authorities: vec![folder.path().join("cert.pem")], ..ConfigPaths::default() };
    let mut insecure = Configuration::default();
    insecure.mark_insecure(&registry.address);
    for (configuration, trusted) in
        [(Configuration::default(), false), (with_certificates, true), (configuration::load(&bundle).unwrap(), true), (insecure, true)]
    {
        let error = Client::new(configuration, quick()).resolve(&image).await.unwrap_err();
        match error {
            Error::Tls { .. } => assert!(!trusted, "{error}"),
            Error::NotFound { .. } => assert!(trusted),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_from_https_to_http_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = make_certificate(folder.path()) else { return };
    let plain = Fake::start(|_| Answer::new(200, "{}"));
    let manifests = folder.path().join("v2/app/manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let answer = format!("HTTP/1.0 307 Elsewhere\r\nLocation: http://{}/v2/app/manifests/1\r\nContent-Length: 0\r\n\r\n", plain.address);
    std::fs::write(manifests.join("1"), answer).unwrap();
    let server = TlsFiles::start(folder.path());
    let mut configuration = Configuration::default();
    configuration.add_authorities(std::fs::read(folder.path().join("cert.pem")).unwrap());
    let image = reference(&server.address, "app:1");
    let error = Client::new(configuration, quick()).resolve(&image).await.unwrap_err();
    assert!(matches!(error, Error::Redirect { reason: "from https to http", .. }), "{error}");
    assert!(plain.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_registry_is_not_spoken_to_unless_allowed() {
    let fake = Fake::start(|_| Answer::new(404, ""));
    let port = fake.address.split(':').next_back().unwrap();
    let image = reference(&format!("0.0.0.0:{port}"), "app:1");
    let error = Client::new(Configuration::default(), quick()).resolve(&image).await.unwrap_err();
    assert!(!matches!(error, Error::NotFound { .. }), "{error}");
    assert!(fake.requests().is_empty());
    let mut configuration = Configuration::default();
    configuration.mark_insecure(&format!("0.0.0.0:{port}"));
    let error = Client::new(configuration, quick()).resolve(&image).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// Serves a folder's files, each a whole HTTP answer, over TLS.
struct TlsFiles {
    address: String,
    child: std::process::Child,
}

impl TlsFiles {
    fn start(folder: &Path) -> Self {
        let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-HTTP", "-quiet", "-cert", "cert.pem", "-key", "key.pem", "-accept", &format!("0.0.0.0:{port}")])
            .current_dir(folder)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("0.0.0.0:{port}");
        while std::net::TcpStream::connect(&address).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { address, child }
    }
}

impl Drop for TlsFiles {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
