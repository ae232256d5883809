//! Ssh agents for a step: a socket with the owner and mode that the mount asks for, forwarding to the agent. That is the
//! user's own, or [`agent`] with keys from files.

mod agent;
mod keys;
mod wire;

use std::{
    fs::Permissions,
    io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use tempfile::TempDir;

pub use self::{
    agent::Agent,
    keys::{Key, KeyError},
};
use super::spec::{MountKind, Source, Spec};

/// A listening socket in a private directory; dropped, both are gone.
#[derive(Debug)]
pub struct Socket {
    directory: TempDir,
}

const SOCKET: &str = "agent";
const STOP: &str = "stop";

/// Replaces each ssh mount by a bind of a socket that leads to its agent.
pub(super) fn start_proxies(spec: &mut Spec) -> io::Result<Vec<Socket>> {
    let mut proxies = Vec::new();
    for mount in &mut spec.mounts {
        let MountKind::Ssh { agent, mode, uid, gid } = &mount.kind else { continue };
        let agent = agent.clone();
        let proxy = Socket::open(*mode, (*uid, *gid), spec.scratch.as_deref(), move |client| {
            let _ = forward(client, &agent);
        })?;
        let source = Source::Directory(proxy.directory.path().to_owned());
        mount.kind = match spec.scratch {
            Some(_) => MountKind::Moved { source, subpath: SOCKET.into(), returns: true },
            None => MountKind::Bind { source, subpath: SOCKET.into(), read_only: false },
        };
        proxies.push(proxy);
    }
    Ok(proxies)
}

impl Socket {
    /// Listens, and answers each client in a thread of its own.
    fn open(
        mode: u32,
        (uid, gid): (u32, u32),
        scratch: Option<&Path>,
        answer: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("rbuild-ssh-");
        let directory = match scratch {
            Some(scratch) => builder.tempdir_in(scratch)?,
            None => builder.tempdir()?,
        };
        let path = directory.path().join(SOCKET);
        // An address has room for 107 bytes; a store's path may be longer.
        let opened = std::fs::File::open(directory.path())?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))?;
        match chown(&path, Some(uid), Some(gid)) {
            // Where there is one id, everybody is the socket's owner.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => result?,
        }
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let stop = directory.path().join(STOP);
        thread::Builder::new().name("ssh agent".into()).spawn(move || listen(&listener, &Arc::new(answer), &stop))?;
        Ok(Self { directory })
    }

    /// Where it is.
    fn path(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::write(self.directory.path().join(STOP), "");
        // Wakes the thread, which then finds the mark.
        let Ok(opened) = std::fs::File::open(self.directory.path()) else { return };
        let _ = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
    }
}

fn listen(listener: &UnixListener, answer: &Arc<impl Fn(UnixStream) + Send + Sync + 'static>, stop: &Path) {
    while let Ok((client, _)) = listener.accept() {
        // The mark, or no directory any more: nobody needs us.
        if stop.exists() || !stop.parent().is_some_and(Path::exists) {
            return;
        }
        let answer = answer.clone();
        thread::spawn(move || answer(client));
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
