//! Authorities of `--ca` for the duration of a RUN.
//!
//! | For | How |
//! |---|---|
//! | OpenSSL, curl, git, pip, requests, cargo, AWS | variables that name a bundle: the image's own (the host's where there is none) and ours |
//! | node, deno | a variable that names ours alone, which they add to their own |
//! | java | a key store of all of them, by JAVA_TOOL_OPTIONS |
//! | GnuTLS (apt, wget), busybox | ours at the end of the image's bundle, taken away after the step |
//!
//! The files are in the step's /dev, which is in no layer; variables that the image has are left alone. The bundle in the
//! image is a real file during the step: a mount could not be replaced by `update-ca-certificates`, which renames a new
//! one onto it. Afterwards our part is cut out of it, wherever it has got to, and a bundle that is then as before counts
//! as unchanged. Like proxies, authorities are not in the cache key: they decide whether a step works, not what it makes.
//! Unaware of the command line.

mod java;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    sandbox::{Mount, MountKind, RootFs},
    snapshot::layered::{LayeredRoot, Lower},
    sys::root::RootDir,
};

pub use java::certificates;

/// Where distributions keep their bundle: Debian, Alpine; Red Hat; SUSE; BSDs and Alpine.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A bundle has some 200 KB.
const MAX_BUNDLE_BYTES: u64 = 16 << 20;

const BUNDLE: &str = "/dev/rbuild-ca/bundle.pem";
const ADDED: &str = "/dev/rbuild-ca/added.pem";
const JAVA: &str = "/dev/rbuild-ca/java.jks";

/// Programs that are told of a whole bundle.
const BUNDLE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
];
/// Programs that add to their own.
const ADDED_VARIABLES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
const JAVA_VARIABLE: &str = "JAVA_TOOL_OPTIONS";

const BEGIN: &[u8] = b"\n# added by rbuild --ca for this step\n";
const END: &[u8] = b"# end of what rbuild --ca added\n";

/// Authorities that steps trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Their certificates, as PEM.
    pub pem: Vec<u8>,
    /// What this machine trusts, for images that trust nobody yet.
    pub host_bundle: Vec<u8>,
}

/// What a step gets.
pub struct ForStep {
    /// Files in its /dev.
    pub mounts: Vec<Mount>,
    /// Variables, in addition to those it has.
    pub env: Vec<(String, String)>,
}

/// Our part in bundles of a step's root, to be taken away after it.
pub struct Lent {
    upper: PathBuf,
    lowers: Vec<PathBuf>,
    bundles: Vec<(PathBuf, Vec<u8>)>,
}

impl Authorities {
    /// Files and variables for a step on these layers, top first.
    pub fn for_step(&self, lowers: &[PathBuf], env: &[(String, String)]) -> io::Result<ForStep> {
        let root = LayeredRoot::read_only(open(lowers)?)?;
        let own = BUNDLES.iter().find_map(|path| root.read_file(Path::new(path), MAX_BUNDLE_BYTES).ok());
        let mut bundle = own.unwrap_or_else(|| self.host_bundle.clone());
        bundle.push(b'\n');
        bundle.extend_from_slice(&self.pem);
        let file = |target: &str, bytes: Vec<u8>| Mount { target: target.into(), kind: MountKind::File { bytes, mode: 0o644 } };
        let mounts = vec![file(JAVA, java::key_store(&bundle)), file(BUNDLE, bundle), file(ADDED, self.pem.clone())];
        let known = |name: &str| env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let files = BUNDLE_VARIABLES.iter().map(|name| (*name, BUNDLE)).chain(ADDED_VARIABLES.iter().map(|name| (*name, ADDED)));
        let mut variables: Vec<(String, String)> =
            files.filter(|(name, _)| known(name).is_none()).map(|(name, path)| (name.to_owned(), path.to_owned())).collect();
        let options = known(JAVA_VARIABLE).map(|options| format!("{options} ")).unwrap_or_default();
        if !options.contains("javax.net.ssl.trustStore") {
            variables.push((JAVA_VARIABLE.to_owned(), format!("{options}-Djavax.net.ssl.trustStore={JAVA}")));
        }
        Ok(ForStep { mounts, env: variables })
    }

    /// Adds ours to the bundles in a root that is about to be run in.
    pub fn lend(&self, rootfs: &RootFs) -> io::Result<Lent> {
        let (upper, lowers) = match rootfs {
            RootFs::Overlay { lowers, upper, .. } => (upper.clone(), lowers.clone()),
            RootFs::Directory(path) => (path.clone(), Vec::new()),
        };
        let mut lent = Lent { upper, lowers, bundles: Vec::new() };
        let mut root = lent.root()?;
        for path in BUNDLES.map(Path::new) {
            let Ok(original) = root.read_file(path, MAX_BUNDLE_BYTES) else { continue };
            let real = root.resolve(path, true)?;
            if lent.bundles.iter().any(|(known, _)| *known == real) {
                continue;
            }
            root.rewrite_file(&real, &[&original, BEGIN, &self.pem, END].concat())?;
            lent.bundles.push((real, original));
        }
        Ok(lent)
    }
}

impl Lent {
    fn root(&self) -> io::Result<LayeredRoot> {
        LayeredRoot::new(RootDir::open(&self.upper)?, open(&self.lowers)?)
    }

    /// Cuts our part out of every bundle, also of one that the step has made anew.
    pub fn take_back(&self) -> io::Result<()> {
        let mut root = self.root()?;
        let places = BUNDLES.iter().map(PathBuf::from).chain(self.bundles.iter().map(|(path, _)| path.clone()));
        for path in places {
            let Ok(content) = root.read_file(&path, MAX_BUNDLE_BYTES) else { continue };
            if let Some(cleaned) = without_ours(&content) {
                root.rewrite_file(&path, &cleaned)?;
            }
        }
        Ok(())
    }
}

fn open(lowers: &[PathBuf]) -> io::Result<Vec<Lower>> {
    lowers.iter().map(|path| Ok(Lower::Directory(RootDir::open(path)?))).collect()
}

/// The content without each of our parts; None if there is none.
fn without_ours(content: &[u8]) -> Option<Vec<u8>> {
    let at = |content: &[u8], mark: &[u8]| content.windows(mark.len()).position(|part| part == mark);
    let mut cleaned = content.to_vec();
    let mut found = false;
    while let Some(start) = at(&cleaned, BEGIN) {
        let length = at(&cleaned[start..], END).map_or(cleaned.len() - start, |end| end + END.len());
        cleaned.drain(start..start + length);
        found = true;
    }
    found.then_some(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::MetadataExt};

    const OURS: &[u8] = b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    fn lower(top: &Path) -> PathBuf {
        let lower = top.join("lower");
        fs::create_dir_all(lower.join("etc/ssl/certs")).unwrap();
        fs::create_dir_all(top.join("upper")).unwrap();
        fs::write(lower.join("etc/ssl/certs/ca-certificates.crt"), "theirs\n").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1234);
        fs::File::open(lower.join("etc/ssl/certs/ca-certificates.crt")).unwrap().set_modified(time).unwrap();
        std::os::unix::fs::symlink("certs/ca-certificates.crt", lower.join("etc/ssl/cert.pem")).unwrap();
        lower
    }

    fn rootfs(top: &Path) -> RootFs {
        RootFs::Overlay { lowers: vec![lower(top)], upper: top.join("upper"), work: top.join("work"), volatile: true }
    }

    fn authorities() -> Authorities {
        Authorities { pem: OURS.to_vec(), host_bundle: b"host's\n".to_vec() }
    }

    fn changes(top: &Path) -> Vec<String> {
        let (upper, lower) = (RootDir::open(&top.join("upper")).unwrap(), RootDir::open(&top.join("lower")).unwrap());
        let below = LayeredRoot::read_only(vec![Lower::Directory(lower)]).unwrap();
        let changes = crate::snapshot::diff_overlay(&upper, &below).unwrap();
        changes.iter().map(|change| change.path.display().to_string()).collect()
    }

    #[test]
    fn what_was_lent_leaves_no_trace() {
        let top = tempfile::tempdir().unwrap();
        let lent = authorities().lend(&rootfs(top.path())).unwrap();
        let bundle = top.path().join("upper/etc/ssl/certs/ca-certificates.crt");
        let text = fs::read_to_string(&bundle).unwrap();
        assert!(text.starts_with("theirs\n") && text.contains("AQID"), "{text}");
        assert_eq!(fs::read_to_string(top.path().join("lower/etc/ssl/certs/ca-certificates.crt")).unwrap(), "theirs\n");
        lent.take_back().unwrap();
        assert_eq!((fs::read_to_string(&bundle).unwrap().as_str(), fs::metadata(&bundle).unwrap().mtime()), ("theirs\n", 1234));
        assert_eq!(changes(top.path()), Vec::<String>::new());
    }

    #[test]
    fn a_bundle_that_the_step_changed_is_its_own_without_ours() {
        let top = tempfile::tempdir().unwrap();
        let lent = authorities().lend(&rootfs(top.path())).unwrap();
        let bundle = top.path().join("upper/etc/ssl/certs/ca-certificates.crt");
        let mut text = fs::read(&bundle).unwrap();
        text.extend_from_slice(b"the step's\n");
        fs::write(&bundle, text).unwrap();
        lent.take_back().unwrap();
        assert_eq!(fs::read_to_string(&bundle).unwrap(), "theirs\nthe step's\n");
        assert_eq!(changes(top.path()), ["etc/ssl/certs/ca-certificates.crt"]);
    }

    #[test]
    fn the_images_bundle_counts_else_the_hosts() {
        let top = tempfile::tempdir().unwrap();
        let lower = lower(top.path());
        let bundle = |lowers: &[PathBuf]| match authorities().for_step(lowers, &[]).unwrap().mounts.swap_remove(1).kind {
            MountKind::File { bytes, .. } => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(bundle(&[lower]).starts_with("theirs\n\n-----BEGIN"));
        assert!(bundle(&[]).starts_with("host's\n\n-----BEGIN"));
    }

    #[test]
    fn variables_of_the_step_are_left_alone() {
        let env = [("PIP_CERT".to_owned(), "/mine".to_owned()), (JAVA_VARIABLE.to_owned(), "-Xmx1g".to_owned())];
        let env = authorities().for_step(&[], &env).unwrap().env;
        assert!(!env.iter().any(|(name, _)| name == "PIP_CERT"));
        let java = env.iter().find(|(name, _)| name == JAVA_VARIABLE).unwrap();
        assert_eq!(java.1, format!("-Xmx1g -Djavax.net.ssl.trustStore={JAVA}"));
    }
}
