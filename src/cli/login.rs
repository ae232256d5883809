//! `rbuild login` and `rbuild logout`: credentials checked with the registry and kept where docker keeps them.

use std::{
    io::{BufRead, IsTerminal, Read, Write},
    process::ExitCode,
};

use clap::Args;

use crate::{
    build::chain,
    cli::{environment, failure::Failure, services},
    registry::{self, Client, ClientOptions, Credential, Kept},
};

/// `rbuild login`.
#[derive(Debug, Args, Clone)]
pub struct LoginArgs {
    /// Registry
    #[arg(default_value = "docker.io", value_name = "REGISTRY")]
    pub registry: String,
    /// User
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Password or token; --password-stdin keeps it out of the list of processes
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Accept plain http and unverified TLS
    #[arg(long)]
    pub insecure: bool,
}

/// `rbuild logout`.
#[derive(Debug, Args, Clone)]
pub struct LogoutArgs {
    /// Registry
    #[arg(default_value = "docker.io", value_name = "REGISTRY")]
    pub registry: String,
}

/// Asks the registry whether the credential is good and keeps it.
pub fn login(args: &LoginArgs) -> Result<ExitCode, Failure> {
    let host = host(&args.registry);
    let file = environment::login_file()?;
    let credential = credential(args)?;
    let mut configuration = services::configuration()?;
    configuration.put_credential(&host, credential.clone());
    if args.insecure {
        configuration.mark_insecure(&host);
    }
    let client = Client::new(configuration, ClientOptions::default());
    let runtime = services::runtime()?;
    let kept = runtime.block_on(async {
        client.check_login(&host).await?;
        registry::store_login(&file, &host, &credential).await
    });
    match kept.map_err(|error| Failure::new(format!("cannot log in to {host}: {}", chain(&error))))? {
        Kept::WithHelper(name) => eprintln!("logged in to {host}; docker-credential-{name} keeps the password"),
        Kept::InFile => eprintln!("logged in to {host}; the password is in {}, which only you can read", file.display()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Forgets the credential.
pub fn logout(args: &LogoutArgs) -> Result<ExitCode, Failure> {
    let host = host(&args.registry);
    let file = environment::login_file()?;
    let removed = services::runtime()?.block_on(registry::remove_login(&file, &host));
    match removed.map_err(|error| Failure::new(format!("cannot log out of {host}: {}", chain(&error))))? {
        true => eprintln!("logged out of {host}"),
        false => eprintln!("not logged in to {host}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// `https://h.example/v2/` is `h.example`; Docker Hub has several names.
fn host(text: &str) -> String {
    let text = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = text.split('/').next().unwrap_or(text);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

fn credential(args: &LoginArgs) -> Result<Credential, Failure> {
    let fail = |error: std::io::Error| Failure::new(format!("cannot read standard input: {error}"));
    let is_terminal = std::io::stdin().is_terminal();
    let user = match &args.username {
        Some(user) => user.clone(),
        None if args.password_stdin || !is_terminal => return Err(Failure::usage("--username is needed where nobody can be asked")),
        None => ask("Username: ").map_err(fail)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().take(64 << 10).read_to_string(&mut text).map_err(fail)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None if is_terminal => unseen(|| ask("Password: ")).map_err(fail)?,
        None => return Err(Failure::usage("--password-stdin is needed where nobody can be asked")),
    };
    if user.is_empty() || password.is_empty() {
        return Err(Failure::usage("neither user nor password may be empty"));
    }
    // As docker has it: a token that stands for its owner.
    Ok(if user == "<token>" { Credential::IdentityToken(password) } else { Credential::Password { user, password } })
}

fn ask(prompt: &str) -> std::io::Result<String> {
    let mut out = std::io::stderr();
    write!(out, "{prompt}")?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Does `work` while the terminal does not show what is typed.
fn unseen<T>(work: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let terminal = std::io::stdin();
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
    let result = work();
    tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    eprintln!();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_by_their_host() {
        for (text, expected) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://ghcr.io", "ghcr.io"),
            ("localhost:5000/team", "localhost:5000"),
        ] {
            assert_eq!(host(text), expected);
        }
    }
}
