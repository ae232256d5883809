//! `--ca`: reads the files, and makes this process trust what they hold too.

use std::{
    io::{Seek, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use crate::{
    build::{Authorities, certificates},
    cli::{args::BuildArgs, failure::Failure},
};

/// Where the distributions of this machine keep what it trusts.
const HOST_BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// Once for the process: one command line.
static TRUSTED: OnceLock<Trusted> = OnceLock::new();

struct Trusted {
    files: Vec<PathBuf>,
    /// A file in memory with the host's bundle and ours, for git.
    bundle: Option<std::fs::File>,
}

/// The authorities that the steps of a build trust, and from here on rbuild itself.
pub fn of_build(args: &BuildArgs) -> Result<Option<Arc<Authorities>>, Failure> {
    if args.authorities.is_empty() {
        return Ok(None);
    }
    let mut pem = Vec::new();
    for path in &args.authorities {
        let text = std::fs::read(path).map_err(|error| Failure::new(format!("--ca: cannot read {}: {error}", path.display())))?;
        let count = certificates(&text).len();
        let good = reqwest::Certificate::from_pem_bundle(&text).is_ok_and(|read| read.len() == count && count > 0);
        if !good {
            return Err(Failure::usage(format!("--ca: {} has no certificate in PEM form", path.display()))
                .with_hint("DER is turned into PEM by: openssl x509 -inform der -in FILE -out FILE.pem"));
        }
        // Only the certificates: a key beside them is nobody's business.
        for block in String::from_utf8_lossy(&text).split("-----BEGIN CERTIFICATE-----").skip(1) {
            let body = block.split("-----END CERTIFICATE-----").next().unwrap_or_default();
            pem.extend(format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n").bytes());
        }
    }
    let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let host = given.into_iter().chain(HOST_BUNDLES.map(PathBuf::from)).find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    let bundle = memory_file(&[&host, &b"\n"[..], &pem].concat()).ok();
    let _ = TRUSTED.set(Trusted { files: args.authorities.clone(), bundle });
    Ok(Some(Arc::new(Authorities { pem, host_bundle: host })))
}

/// The files of `--ca`.
pub fn files() -> &'static [PathBuf] {
    TRUSTED.get().map_or(&[], |trusted| &trusted.files)
}

/// A path for programs that take one bundle of all that is trusted; open as long as this process is.
pub fn bundle_path() -> Option<PathBuf> {
    let file = TRUSTED.get()?.bundle.as_ref()?;
    Some(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())))
}

fn memory_file(bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let fd = rustix::fs::memfd_create("rbuild-ca", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
