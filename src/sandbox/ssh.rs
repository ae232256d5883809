//! Ssh agents for a step: a socket with the owner and mode that the mount asks for, forwarding to the agent.
//! Unaware of the agent protocol.

use std::{
    fs::Permissions,
    io,
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

use super::spec::{MountKind, Source, Spec};

/// A listening socket in a private directory; dropped, both are gone.
#[derive(Debug)]
pub struct Proxy {
    directory: TempDir,
}

const SOCKET: &str = "agent";
const STOP: &str = "stop";

/// Replaces each ssh mount by a bind of a proxy's socket.
pub fn start_proxies(spec: &mut Spec) -> io::Result<Vec<Proxy>> {
    let mut proxies = Vec::new();
    for mount in &mut spec.mounts {
        let MountKind::Ssh { agent, mode, uid, gid } = &mount.kind else { continue };
        let proxy = Proxy::start(agent.clone(), *mode, (*uid, *gid))?;
        let source = Source::Directory(proxy.directory.path().to_owned());
        mount.kind = MountKind::Bind { source, subpath: SOCKET.into(), read_only: false };
        proxies.push(proxy);
    }
    Ok(proxies)
}

impl Proxy {
    fn start(agent: PathBuf, mode: u32, (uid, gid): (u32, u32)) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rbuild-ssh-").tempdir()?;
        let path = directory.path().join(SOCKET);
        let listener = UnixListener::bind(&path)?;
        match chown(&path, Some(uid), Some(gid)) {
            // Where there is one id, everybody is the socket's owner.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => result?,
        }
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let stop = directory.path().join(STOP);
        thread::Builder::new().name("ssh agent".into()).spawn(move || serve(&listener, &agent, &stop))?;
        Ok(Self { directory })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::write(self.directory.path().join(STOP), "");
        // Wakes the thread, which then finds the mark.
        let _ = UnixStream::connect(self.directory.path().join(SOCKET));
    }
}

fn serve(listener: &UnixListener, agent: &Path, stop: &Path) {
    while let Ok((client, _)) = listener.accept() {
        // The mark, or no directory any more: the step is over.
        if stop.exists() || !stop.parent().is_some_and(Path::exists) {
            return;
        }
        let agent = agent.to_owned();
        thread::spawn(move || forward(client, &agent));
    }
}

fn forward(client: UnixStream, agent: &Path) -> Option<()> {
    let upstream = UnixStream::connect(agent).ok()?;
    let (mut client_reader, mut upstream_writer) = (client.try_clone().ok()?, upstream.try_clone().ok()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut client_reader, &mut upstream_writer);
        let _ = upstream_writer.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut &upstream, &mut &client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    there.join().ok()
}
