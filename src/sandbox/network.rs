//! The build's private network: one network namespace, connected through pasta, which every step joins.
//!
//! Started when the first step asks for the default network, ended with rbuild. Nothing of the host's loopback is
//! reachable, unless `host-gateway` is asked for, and no abstract socket; everything else the host can reach is, cloud
//! metadata services included, as in other container networks. Where pasta is missing or refuses, steps share the host's
//! network, without its abstract sockets where the kernel can do that (Landlock, Linux 6.12).
//! Unaware of what runs in it.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::sched::CloneFlags;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{CWD, FileType, Mode, OFlags},
    mount::MountAttrFlags,
};
use serde::{Deserialize, Serialize};

use super::{
    enter::{self, Rung},
    gateway,
    spec::Network,
};
use crate::sys::{mountns, process};

/// Answers name queries in a private network; pasta passes them to the host's own resolver.
pub const NAME_SERVER: &str = "169.254.1.1";

/// How long pasta may take to be ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// The network that steps get by default.
#[derive(Debug)]
pub enum DefaultNetwork {
    /// Private, through pasta.
    Private {
        /// The namespace.
        namespace: OwnedFd,
    },
    /// The host's.
    Host {
        /// Why it is not private.
        reason: String,
    },
}

/// What the keeper of a step does about the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Attachment {
    /// Stays where rbuild is.
    Host,
    /// Makes an empty one.
    Empty,
    /// Joins the namespace that is open here.
    Join(PathBuf),
}

static DEFAULT: OnceLock<DefaultNetwork> = OnceLock::new();

static PUBLISHED: OnceLock<Vec<Published>> = OnceLock::new();

/// A port of the host that leads to one of the private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The host's address; None for all.
    pub address: Option<std::net::IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The port inside.
    pub port: u16,
    /// UDP instead of TCP.
    pub is_udp: bool,
}

impl Published {
    /// As pasta takes it: `127.0.0.1/8080:80`.
    fn argument(&self) -> String {
        let address = self.address.map(|address| format!("{address}/")).unwrap_or_default();
        format!("{address}{}:{}", self.host_port, self.port)
    }
}

/// Lets ports of the host lead into the private network. To be said before [`default_network`] is asked for.
pub fn publish(ports: Vec<Published>) {
    let _ = PUBLISHED.set(ports);
}

/// The default network; the first call starts it.
pub fn default_network() -> &'static DefaultNetwork {
    default_network_for(&[])
}

/// The same for steps that know `hosts` (`--add-host`): the first call decides whether they reach this machine at the
/// gateway's address.
fn default_network_for(hosts: &[(String, String)]) -> &'static DefaultNetwork {
    DEFAULT.get_or_init(|| match start(gateway::is_wanted(hosts)) {
        Ok(namespace) => DefaultNetwork::Private { namespace },
        Err(error) => DefaultNetwork::Host { reason: error.to_string() },
    })
}

/// What steps reach by default, for people, `hosts` being what `--add-host` names; the first call may start it.
pub fn in_words(hosts: &[(String, String)]) -> String {
    if enter::current() < Rung::Single {
        return "network: the host's (no namespaces here)".to_owned();
    }
    match default_network_for(hosts) {
        DefaultNetwork::Private { .. } => "network: private, through pasta".to_owned(),
        DefaultNetwork::Host { reason } => format!("network: the host's ({reason}); see `rbuild doctor`"),
    }
}

/// What a step's wish means on this machine, `hosts` being what `--add-host` names.
pub(super) fn attachment(network: &Network, hosts: &[(String, String)]) -> Attachment {
    match network {
        Network::Host => Attachment::Host,
        Network::None => Attachment::Empty,
        Network::Default => match default_network_for(hosts) {
            DefaultNetwork::Host { .. } => Attachment::Host,
            DefaultNetwork::Private { namespace } => {
                Attachment::Join(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())))
            }
        },
    }
}

/// The same where there are no namespaces: everybody shares ours.
pub(super) fn without_namespaces(network: &Network) -> io::Result<Attachment> {
    match network {
        Network::Host | Network::Default => Ok(Attachment::Host),
        Network::None => Err(io::Error::other("network none takes a network namespace, which the `chroot` rung does not have")),
    }
}

/// Starts pasta from a thread that stays: pasta is tied to the thread that started it, and must not end with a worker.
fn start(reaches_host: bool) -> io::Result<OwnedFd> {
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("network".into()).spawn(move || match connect(reaches_host) {
        Ok((namespace, mut pasta)) => {
            let _ = tell.send(Ok(namespace));
            let _ = pasta.wait();
        }
        Err(error) => drop(tell.send(Err(error))),
    })?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("the network thread ended")))
}

/// Makes the namespace and connects it.
fn connect(reaches_host: bool) -> io::Result<(OwnedFd, Child)> {
    let Places { namespace: place, ready } = private_places()?;
    // A thread of its own: it cannot come back into a network namespace that belongs to the host.
    let made = thread::scope(|scope| scope.spawn(|| make_namespace(&place)).join());
    let namespace = made.unwrap_or_else(|_| Err(io::Error::other("the namespace thread ended")))?;
    rustix::fs::mknodat(CWD, &ready, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let ready_reader = rustix::fs::open(&ready, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let pasta = start_pasta(&place, &ready, reaches_host).and_then(|pasta| wait_until_ready(pasta, &ready_reader))?;
    Ok((namespace, pasta))
}

/// Two files for pasta.
struct Places {
    namespace: PathBuf,
    ready: PathBuf,
}

/// Where AppArmor's profile of pasta, which distributions enforce, lets it open a namespace and write its process id: below
/// /run/user and /tmp, covered for this thread and what it starts, so that nobody else sees the files and no disk keeps them.
fn private_places() -> io::Result<Places> {
    // Of this thread alone, and of its children.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    mountns::make_all_private()?;
    let temporary = ["/tmp", "/var/tmp", "/dev/shm"].map(Path::new).into_iter().find(|path| path.is_dir());
    let temporary = temporary.ok_or_else(|| io::Error::other("there is no /tmp"))?;
    cover(temporary)?;
    let run = Path::new("/run/user");
    let namespaces = if run.is_dir() { run.join("0/netns") } else { temporary.join("netns") };
    if namespaces.starts_with(run) {
        cover(run)?;
    }
    std::fs::create_dir_all(&namespaces)?;
    Ok(Places { namespace: namespaces.join("rbuild"), ready: temporary.join("rbuild.pid") })
}

fn cover(directory: &Path) -> io::Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = mountns::new_filesystem("tmpfs", &[("size", "64k"), ("mode", "0700")], attributes)?;
    mountns::attach(empty, mountns::open_directory(directory)?)
}

/// A new network namespace, also mounted at `place`: pasta gives up its rights before it opens the namespace, which it
/// could not do through /proc then.
fn make_namespace(place: &Path) -> io::Result<OwnedFd> {
    const OWN: &str = "/proc/thread-self/ns/net";
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    mountns::attach(mountns::clone_host_path(Path::new(OWN))?, File::create(place)?)?;
    Ok(File::open(OWN)?.into())
}

fn start_pasta(namespace: &Path, ready: &Path, reaches_host: bool) -> io::Result<Child> {
    let mut command = Command::new("pasta");
    command.arg("--netns").arg(namespace).arg("--pid").arg(ready);
    command.args(["--netns-only", "--no-netns-quit", "--foreground", "--quiet", "--config-net", "--runas", "0"]);
    if !reaches_host {
        command.arg("--no-map-gw");
    }
    // No ports of the host's loopback, and to it only those that were asked for.
    command.args(["-T", "none", "-U", "none", "--dns-forward", NAME_SERVER]);
    for (option, is_udp) in [("-t", false), ("-u", true)] {
        let ports: Vec<String> =
            PUBLISHED.get().into_iter().flatten().filter(|port| port.is_udp == is_udp).map(Published::argument).collect();
        for port in if ports.is_empty() { vec!["none".to_owned()] } else { ports } {
            command.args([option, &port]);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    process::end_with_this_thread(&mut command);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "pasta is not installed"),
        _ => io::Error::new(error.kind(), format!("cannot run pasta: {error}")),
    })
}

/// Pasta writes its process id when all is set up.
fn wait_until_ready(mut pasta: Child, ready: &OwnedFd) -> io::Result<Child> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let step = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut polled = [PollFd::new(ready, PollFlags::IN)];
        if rustix::event::poll(&mut polled, Some(&step))? > 0 && polled[0].revents().contains(PollFlags::IN) {
            return Ok(pasta);
        }
        if pasta.try_wait()?.is_some() {
            return Err(io::Error::other(format!("pasta: {}", last_words(&mut pasta))));
        }
    }
    let _ = pasta.kill();
    let _ = pasta.wait();
    Err(io::Error::other(format!("pasta was not ready after {PATIENCE:?}")))
}

fn last_words(pasta: &mut Child) -> String {
    let mut text = String::new();
    if let Some(mut stderr) = pasta.stderr.take() {
        let _ = stderr.read_to_string(&mut text);
    }
    let line = text.lines().rfind(|line| !line.is_empty() && !line.contains("syslog"));
    line.unwrap_or("ended at once").to_owned()
}
