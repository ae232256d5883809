//! The agent that answers for keys from files: it lists them and signs with them, and refuses everything else
//! (RFC 9987). Unaware of who asks.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Socket,
    keys::Key,
    wire::{Wire, put_number, put_string},
};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// OpenSSH's bound for a message.
const LONGEST_MESSAGE: usize = 256 << 10;

/// Who answers for one id of `--ssh`.
#[derive(Debug, Clone)]
pub enum Agent {
    /// The user's own agent.
    At(PathBuf),
    /// One of ours.
    OfKeys(Arc<KeyAgent>),
}

/// An agent with keys, which listens from its first use on, as long as somebody holds it.
#[derive(Debug)]
pub struct KeyAgent {
    keys: Arc<Vec<Key>>,
    socket: Mutex<Option<Socket>>,
}

impl Agent {
    /// An agent with these keys. It takes a thread, so it is started where it is needed.
    pub fn with_keys(keys: Vec<Key>) -> Self {
        Self::OfKeys(Arc::new(KeyAgent { keys: Arc::new(keys), socket: Mutex::default() }))
    }

    /// Where it listens.
    pub fn socket(&self) -> io::Result<PathBuf> {
        match self {
            Self::At(path) => Ok(path.clone()),
            Self::OfKeys(agent) => agent.socket(),
        }
    }
}

impl KeyAgent {
    fn socket(&self) -> io::Result<PathBuf> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_none() {
            let keys = self.keys.clone();
            let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            *socket = Some(Socket::open(0o600, own, None, move |client| {
                // A client that hangs up in the middle is nobody's fault.
                let _ = serve(client, &keys);
            })?);
        }
        Ok(socket.as_ref().map(Socket::path).unwrap_or_default())
    }
}

fn serve(mut client: UnixStream, keys: &[Key]) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST_MESSAGE {
            return Ok(());
        }
        let mut message = vec![0; length];
        client.read_exact(&mut message)?;
        let mut reply = Vec::new();
        put_string(&mut reply, &answer(&message, keys).unwrap_or_else(|| vec![FAILURE]));
        client.write_all(&reply)?;
    }
}

/// What is said to `message`; None is a refusal.
fn answer(message: &[u8], keys: &[Key]) -> Option<Vec<u8>> {
    let (kind, rest) = message.split_first()?;
    match *kind {
        REQUEST_IDENTITIES => {
            let mut reply = vec![IDENTITIES_ANSWER];
            put_number(&mut reply, u32::try_from(keys.len()).ok()?);
            for key in keys {
                put_string(&mut reply, key.public());
                put_string(&mut reply, key.comment().as_bytes());
            }
            Some(reply)
        }
        SIGN_REQUEST => {
            let mut wire = Wire(rest);
            let (public, data, flags) = (wire.string()?, wire.string()?, wire.number()?);
            let signature = keys.iter().find(|key| key.public() == public)?.sign(data, flags)?;
            let mut reply = vec![SIGN_RESPONSE];
            put_string(&mut reply, &signature);
            Some(reply)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    /// ssh-keygen signs through the agent, and checks what it got.
    #[test]
    fn ssh_believes_its_signatures() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut keys = Vec::new();
        let kinds = [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")];
        for (at, (kind, bits)) in kinds.iter().enumerate() {
            let file = path(&format!("key{at}"));
            let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-b", bits, "-f"]).arg(&file).status();
            assert!(made.unwrap().success());
            keys.push(Key::read(&fs::read_to_string(&file).unwrap(), "key").unwrap());
            // The agent has the only copy.
            fs::remove_file(&file).unwrap();
        }
        let agent = Agent::with_keys(keys);
        fs::write(path("message"), "what is signed").unwrap();
        for (at, kind) in kinds.iter().enumerate() {
            let public = path(&format!("key{at}.pub"));
            let mut sign = Command::new("ssh-keygen");
            sign.args(["-Y", "sign", "-n", "test", "-f"]).arg(&public).arg(path("message")).env("SSH_AUTH_SOCK", agent.socket().unwrap());
            assert!(sign.output().unwrap().status.success(), "{kind:?}");
            let allowed = format!("me {}", fs::read_to_string(&public).unwrap());
            fs::write(path("allowed"), allowed).unwrap();
            let mut verify = Command::new("ssh-keygen");
            verify.args(["-Y", "verify", "-I", "me", "-n", "test", "-s"]).arg(path("message.sig")).arg("-f").arg(path("allowed"));
            verify.stdin(fs::File::open(path("message")).unwrap());
            assert!(verify.output().unwrap().status.success(), "{kind:?}");
            fs::remove_file(path("message.sig")).unwrap();
        }
        let directory = agent.socket().unwrap().parent().unwrap().to_owned();
        drop(agent);
        assert!(!directory.exists());
    }

    #[test]
    fn nothing_but_listing_and_signing_is_done() {
        let said = |message: &[u8]| answer(message, &[]);
        assert_eq!(said(&[REQUEST_IDENTITIES]), Some(vec![IDENTITIES_ANSWER, 0, 0, 0, 0]));
        for kind in [0, 1, 17, 18, 19, 20, 22, 23, 25, 27, 255] {
            assert_eq!(said(&[kind]), None);
        }
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[SIGN_REQUEST, 0, 0, 0, 9, 1]), None);
        assert_eq!(said(&[SIGN_REQUEST, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]), None);
    }
}
