//! What must not get into anything that a build makes: the values of `--secret`, the passwords that registries know us
//! by, those in URLs of contexts. Unaware of how they are searched for.

use std::sync::Arc;

use crate::{
    build::{Request, Secret, Secrets, Services},
    cli::{args::BuildArgs, failure::Failure, write::Wanted},
};

/// `--allow secret.NAME`.
const PERMISSION: &str = "secret.";

/// The name of a secret that a permission is about.
pub fn allowed(permission: &str) -> Option<&str> {
    permission.strip_prefix(PERMISSION).filter(|name| !name.is_empty())
}

/// The services of a build that guards its secrets.
pub fn guard(services: Services, args: &BuildArgs, request: &Request) -> Services {
    let of_build = request.secrets.iter().map(|(id, value)| Secret {
        name: id.clone(),
        description: format!("the value of secret {id}"),
        value: value.clone(),
    });
    let of_registries = services.client.passwords().into_iter().map(|(host, value)| Secret {
        description: format!("the password for {host}"),
        name: host,
        value: value.into_bytes(),
    });
    let urls = std::iter::once(args.context.as_str()).chain(args.build_contexts.iter().filter_map(|text| Some(text.split_once('=')?.1)));
    let of_urls = urls.filter_map(password_of_url).map(|(host, value)| Secret {
        description: format!("the password in the URL of {host}"),
        name: host,
        value: value.into_bytes(),
    });
    let names: Vec<String> = args.allow.iter().filter_map(|permission| allowed(permission)).map(str::to_owned).collect();
    let secrets = Secrets::new(of_build.chain(of_registries).chain(of_urls), &names);
    Services { secrets: Arc::new(secrets), ..services }
}

/// Host and password of `scheme://user:password@host/`; a user alone is a token.
fn password_of_url(url: &str) -> Option<(String, String)> {
    let rest = url.split_once("://").filter(|(scheme, _)| *scheme != "ssh")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, host) = authority.rsplit_once('@')?;
    let password = user.split_once(':').map_or(user, |(_, password)| password);
    Some((host.to_owned(), password.to_owned()))
}

/// What the command line adds to an image after it was built and searched.
pub fn check_annotations(wanted: &Wanted, secrets: &Secrets) -> Result<(), Failure> {
    let of_outputs = wanted.outputs.iter().flat_map(|output| &output.annotations);
    for annotation in wanted.annotations.iter().chain(of_outputs) {
        if let Some(found) = secrets.find(annotation.value.as_bytes()) {
            let error = Secrets::refusal(&found, &format!("--annotation {}", annotation.key));
            return Err(Failure { hints: error.hint.into_iter().collect(), ..Failure::new(error.message) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_taken_out_of_urls() {
        let of = |url| password_of_url(url).map(|(host, password)| format!("{host} {password}"));
        assert_eq!(of("https://user:pass:word@host:8/a.git#main").as_deref(), Some("host:8 pass:word"));
        assert_eq!(of("https://ghp_token@host/a.git").as_deref(), Some("host ghp_token"));
        assert_eq!(of("ssh://git@host/a.git"), None);
        assert_eq!(of("git@host:a.git"), None);
        assert_eq!(of("https://host/a@b"), None);
    }

    #[test]
    fn permissions_name_a_secret() {
        assert_eq!(allowed("secret.npm"), Some("npm"));
        assert_eq!(allowed("secret."), None);
        assert_eq!(allowed("network.host"), None);
    }
}
