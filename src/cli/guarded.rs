//! What must not get into anything that a build makes: the values of `--secret`, the passwords that registries know us
//! by, those in URLs of contexts. Unaware of how they are searched for.

use std::sync::Arc;

use crate::{
    build::{Request, Secret, Secrets, Services},
    cli::{args::BuildArgs, failure::Failure, write::Wanted},
    dockerfile::redact::password_of_url,
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
        name: host.to_owned(),
        value: value.as_bytes().to_vec(),
    });
    let names: Vec<String> = args.allow.iter().filter_map(|permission| allowed(permission)).map(str::to_owned).collect();
    let secrets = Secrets::new(of_build.chain(of_registries).chain(of_urls), &names);
    Services { secrets: Arc::new(secrets), ..services }
}

/// What the command line adds to an image after it was built and searched.
pub fn check_annotations(wanted: &Wanted, secrets: &Secrets) -> Result<(), Failure> {
    let of_outputs = wanted.outputs.iter().flat_map(|output| &output.annotations);
    for annotation in wanted.annotations.iter().chain(of_outputs) {
        if let Some(found) = secrets.find(annotation.value.as_bytes()) {
            let error = Secrets::refusal(&found, &format!("--annotation {}", annotation.key));
            return Err(Failure::from(error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_name_a_secret() {
        assert_eq!(allowed("secret.npm"), Some("npm"));
        assert_eq!(allowed("secret."), None);
        assert_eq!(allowed("network.host"), None);
    }
}
