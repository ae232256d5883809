//! From kaniko's flags to the words of `rbuild build` and what the registry client is told besides.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use super::flags::Executor;
use crate::{
    cli::{failure::Failure, services::RegistryAdjustments},
    oci::Reference,
};

/// What a kaniko command line means here.
#[derive(Debug, Default)]
pub struct Translated {
    /// Words behind `rbuild build`.
    pub words: Vec<String>,
    /// What the registry client is told besides the user's files.
    pub registries: RegistryAdjustments,
    /// File that is to be standard input: an archive as context.
    pub stdin: Option<PathBuf>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Translated {
    fn flag(&mut self, name: &str, value: impl Into<String>) {
        self.words.extend([name.to_owned(), value.into()]);
    }

    fn flags(&mut self, name: &str, values: &[String]) {
        values.iter().for_each(|value| self.flag(name, value));
    }
}

/// Translates, or says what is wrong.
pub fn translate(executor: &Executor) -> Result<Translated, Failure> {
    check(executor)?;
    let mut to = Translated::default();
    // kaniko pushes the image and nothing beside it.
    to.words.push("--provenance=false".to_owned());
    to.flags("--tag", &executor.destinations);
    to.flags("--build-arg", &executor.build_args);
    to.flags("--label", &executor.labels);
    to.flags("--annotation", &executor.annotations);
    to.flags("--secret", &executor.secrets);
    to.flags("--target", executor.target.as_slice());
    to.flags("--platform", executor.custom_platform.as_slice());
    if executor.reproducible {
        to.words.push("--reproducible".to_owned());
    }
    if executor.single_snapshot {
        to.notes.push("--single-snapshot: layers stay one a step; a step that changes nothing costs nothing".to_owned());
    }
    if !executor.ignore_paths.is_empty() {
        to.notes.push(format!("--ignore-path: what steps write to {} is in the image", executor.ignore_paths.join(", ")));
    }
    outputs(executor, &mut to);
    cache(executor, &mut to)?;
    registries(executor, &mut to)?;
    context(executor, &mut to)?;
    Ok(to)
}

fn check(executor: &Executor) -> Result<(), Failure> {
    let wants_name = !executor.no_push || executor.tar_path.is_some();
    if executor.destinations.is_empty() && wants_name {
        return Err(
            Failure::usage("no --destination").with_hint("name the image with --destination, or say --no-push if it is only to be built")
        );
    }
    for name in &executor.destinations {
        name.parse::<Reference>().map_err(|error| Failure::usage(format!("--destination: {error}")))?;
    }
    Ok(())
}

fn outputs(executor: &Executor, to: &mut Translated) {
    let mut form = String::new();
    if let Some(compression) = &executor.compression {
        let _ = write!(form, ",compression={compression}");
    }
    if let Some(level) = executor.compression_level.filter(|level| *level >= 0) {
        let _ = write!(form, ",compression-level={level}");
    }
    if !executor.no_push {
        to.flag("--output", format!("type=registry{form}"));
    } else if !form.is_empty() && executor.tar_path.is_none() && executor.oci_layout_path.is_none() {
        to.flag("--output", format!("type=image{form}"));
    }
    if let Some(path) = &executor.tar_path {
        to.flag("--output", format!("type=docker,\"dest={}\"{form}", path.display()));
    }
    if let Some(path) = &executor.oci_layout_path {
        to.flag("--output", format!("type=oci,\"dest={}\",tar=false{form}", path.display()));
    }
}

fn cache(executor: &Executor, to: &mut Translated) -> Result<(), Failure> {
    if !executor.cache {
        return Ok(());
    }
    let by_default = executor.destinations.first().and_then(|name| name.parse::<Reference>().ok());
    let by_default = by_default.map(|name| format!("{}/{}/cache", name.registry(), name.repository()));
    let Some(place) = executor.cache_repo.clone().or(by_default) else {
        return Err(Failure::usage("--cache: where is the cache?").with_hint("name it with --cache-repo, or a --destination"));
    };
    let (from, into) = match place.strip_prefix("oci:") {
        Some(directory) => (format!("type=local,\"src={directory}\""), format!("type=local,\"dest={directory}\"")),
        None => (format!("type=registry,ref={place}"), format!("type=registry,ref={place}")),
    };
    to.flag("--cache-from", from);
    if !executor.no_push_cache {
        to.flag("--cache-to", format!("{into},mode=max"));
    }
    Ok(())
}

fn registries(executor: &Executor, to: &mut Translated) -> Result<(), Failure> {
    let adjust = &mut to.registries;
    adjust.insecure.extend(executor.insecure_registries.iter().chain(&executor.skip_tls_verify_registries).cloned());
    if executor.insecure || executor.skip_tls_verify {
        let names = executor.destinations.iter().chain(&executor.cache_repo).filter_map(|name| name.parse::<Reference>().ok());
        adjust.insecure.extend(names.map(|name| name.registry().to_owned()));
    }
    let insecure_pull = executor.insecure_pull || executor.skip_tls_verify_pull;
    if insecure_pull {
        adjust.insecure.push("*".to_owned());
    }
    let mut mirrors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for text in &executor.registry_maps {
        let pair = text.split_once('=').filter(|(of, mirror)| !of.is_empty() && !mirror.is_empty());
        let (of, mirror) = pair.ok_or_else(|| Failure::usage(format!("--registry-map {text}: it must be HOST=OTHER")))?;
        let of = if of == "index.docker.io" { "docker.io" } else { of };
        mirrors.entry(of).or_default().push(mirror);
    }
    mirrors.entry("docker.io").or_default().extend(executor.registry_mirrors.iter().map(String::as_str));
    for (of, mirrors) in mirrors.into_iter().filter(|(_, mirrors)| !mirrors.is_empty()) {
        adjust.texts.push(registry_text(
            of,
            &mirrors,
            insecure_pull || executor.insecure_registries.iter().any(|host| mirrors.contains(&host.as_str())),
        ));
    }
    for text in &executor.registry_certificates {
        let (_, path) =
            text.split_once('=').ok_or_else(|| Failure::usage(format!("--registry-certificate {text}: it must be HOST=FILE")))?;
        adjust.authorities.push(path.into());
    }
    Ok(())
}

/// A `registries.conf` of one registry.
fn registry_text(of: &str, mirrors: &[&str], insecure: bool) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = format!("[[registry]]\nprefix = {0}\nlocation = {0}\n", quoted(of));
    for mirror in mirrors {
        let _ = write!(text, "[[registry.mirror]]\nlocation = {}\ninsecure = {insecure}\n", quoted(mirror));
    }
    text
}

fn context(executor: &Executor, to: &mut Translated) -> Result<(), Failure> {
    let context = executor.context.as_str();
    let below = executor.context_sub_path.as_deref().map(|path| path.trim_matches('/')).filter(|path| !path.is_empty());
    let scheme = context.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("s3" | "gs") => {
            return Err(Failure::usage(format!("--context {context}: buckets are not read"))
                .with_hint("fetch it with the bucket's own tool: aws s3 cp s3://.. - | rbuild kaniko --context tar://stdin .."));
        }
        Some("tar") => {
            if below.is_some() {
                return Err(Failure::usage("--context-sub-path of an archive").with_hint("unpack the archive and name its directory"));
            }
            let path = &context["tar://".len()..];
            to.stdin = (path != "stdin").then(|| PathBuf::from(path));
            to.flag("--file", &executor.dockerfile);
            to.words.push("-".to_owned());
        }
        Some("git") => {
            if let Some(name) = ["GIT_TOKEN", "GIT_PASSWORD"].into_iter().find(|name| std::env::var_os(name).is_some()) {
                to.flag("--secret", format!("id=GIT_AUTH_TOKEN,env={name}"));
            }
            to.flag("--file", &executor.dockerfile);
            to.words.push(git_url(executor, below));
        }
        Some(scheme) if scheme != "dir" => {
            to.flag("--file", &executor.dockerfile);
            to.words.push(context.to_owned());
        }
        _ => {
            let mut directory = PathBuf::from(context.strip_prefix("dir://").unwrap_or(context));
            directory.extend(below);
            // kaniko looks from the working directory first, then in the context.
            let is_here = executor.dockerfile.contains("://") || Path::new(&executor.dockerfile).exists();
            let file = if is_here { executor.dockerfile.clone() } else { directory.join(&executor.dockerfile).display().to_string() };
            to.flag("--file", file);
            to.words.push(directory.display().to_string());
        }
    }
    Ok(())
}

/// kaniko's `git://HOST/PATH#REF#COMMIT` is fetched by https and written `https://HOST/PATH.git#REF:DIR` here.
fn git_url(executor: &Executor, below: Option<&str>) -> String {
    let mut parts = executor.context["git://".len()..].split('#');
    let place = parts.next().unwrap_or_default().trim_end_matches('/');
    let suffix = if place.ends_with(".git") { "" } else { ".git" };
    let branch = executor.git.as_deref().unwrap_or_default().split(',').find_map(|option| option.strip_prefix("branch="));
    // The commit, which comes last, says it all.
    let revision = parts.rfind(|part| !part.is_empty()).or(branch).unwrap_or_default();
    let fragment = match (revision, below) {
        ("", None) => String::new(),
        (revision, None) => format!("#{revision}"),
        (revision, Some(below)) => format!("#{revision}:{below}"),
    };
    format!("https://{place}{suffix}{fragment}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn of(text: &str) -> Result<Translated, String> {
        let words = std::iter::once("kaniko").chain(text.split_whitespace());
        translate(&Executor::try_parse_from(words).map_err(|error| error.to_string())?).map_err(|failure| failure.message)
    }

    fn words(text: &str) -> String {
        let words = of(text).unwrap().words.join(" ");
        words.strip_prefix("--provenance=false ").expect("an image alone").to_owned()
    }

    #[test]
    fn what_a_pipeline_says_is_a_build_and_a_push() {
        assert_eq!(
            words("--context dir:///src --dockerfile docker/Dockerfile --destination r.example/a:1 --build-arg A=b --target x"),
            "--tag r.example/a:1 --build-arg A=b --target x --output type=registry --file /src/docker/Dockerfile /src"
        );
        assert_eq!(words("-c /src -d a --context-sub-path /b/"), "--tag a --output type=registry --file /src/b/Dockerfile /src/b");
    }

    #[test]
    fn archives_and_layouts_are_outputs() {
        assert_eq!(
            words("-c / -d a --no-push --tarPath x.tar --oci-layout-path l --compression zstd --compression-level 3"),
            "--tag a --output type=docker,\"dest=x.tar\",compression=zstd,compression-level=3 \
             --output type=oci,\"dest=l\",tar=false,compression=zstd,compression-level=3 --file /Dockerfile /"
        );
        assert_eq!(words("-c / --no-push"), "--file /Dockerfile /");
    }

    #[test]
    fn an_image_needs_a_name_where_it_goes_somewhere() {
        assert!(of("-c /").unwrap_err().contains("no --destination"));
        assert!(of("-c / --no-push --tar-path x").unwrap_err().contains("no --destination"));
        assert!(of("-c / -d A").unwrap_err().contains("--destination"));
    }

    #[test]
    fn the_cache_is_beside_the_image_unless_it_is_named() {
        let cache = |text: &str| words(text).split(" --").filter(|word| word.starts_with("cache")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            cache("-c / -d a.io/b --cache=true"),
            "cache-from type=registry,ref=a.io/b/cache cache-to type=registry,ref=a.io/b/cache,mode=max"
        );
        assert_eq!(cache("-c / -d a.io/b --cache --cache-repo c.io/d --no-push-cache"), "cache-from type=registry,ref=c.io/d");
        assert_eq!(
            cache("-c / -d a --cache --cache-repo oci:/c"),
            "cache-from type=local,\"src=/c\" cache-to type=local,\"dest=/c\",mode=max"
        );
        assert_eq!(cache("-c / -d a.io/b --cache=false"), "");
    }

    #[test]
    fn contexts_of_git_go_by_https() {
        let context = |text: &str| of(&format!("--no-push -c {text}")).unwrap().words.pop().unwrap();
        assert_eq!(context("git://github.com/a/b"), "https://github.com/a/b.git");
        assert_eq!(context("git://github.com/a/b.git#refs/heads/x"), "https://github.com/a/b.git#refs/heads/x");
        assert_eq!(context("git://h/a/b#refs/heads/x#0123abc --context-sub-path d"), "https://h/a/b.git#0123abc:d");
        assert_eq!(context("git://h/a/b --git branch=next,recurse-submodules=true"), "https://h/a/b.git#next");
    }

    #[test]
    fn archives_are_read_from_standard_input() {
        let translated = of("--no-push -c tar:///c/x.tar.gz").unwrap();
        assert_eq!((translated.stdin, translated.words.last().unwrap().as_str()), (Some("/c/x.tar.gz".into()), "-"));
        assert_eq!(of("--no-push -c tar://stdin").unwrap().stdin, None);
        assert!(of("--no-push -c s3://b/x.tar.gz").unwrap_err().contains("buckets"));
    }

    #[test]
    fn registries_are_told_who_is_insecure_and_who_mirrors() {
        let translated =
            of("-c / -d r.io:5000/a --insecure --skip-tls-verify-registry s.io --registry-mirror m.io --registry-map q.io=p.io/x").unwrap();
        assert_eq!(translated.registries.insecure, ["s.io", "r.io:5000"]);
        assert_eq!(
            translated.registries.texts,
            [
                "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"m.io\"\ninsecure = false\n",
                "[[registry]]\nprefix = \"q.io\"\nlocation = \"q.io\"\n[[registry.mirror]]\nlocation = \"p.io/x\"\ninsecure = false\n"
            ]
        );
        assert_eq!(of("-c / -d a --insecure-pull").unwrap().registries.insecure, ["*"]);
    }
}
