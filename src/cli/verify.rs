//! `rbuild verify`: builds an image again from what was written down when it was made, and says which files came out
//! differently and why that may be.

use std::{io::Write, process::ExitCode};

use clap::{Args, Parser};
use serde_json::json;

use crate::{
    build::chain,
    cli::{
        absent,
        args::{BuildArgs, Cli, Verb},
        build, diff,
        failure::Failure,
        find, outputs,
        reproducible::{self, Call},
        services, words,
    },
    export::{self, Differences, FileDifference},
    oci::{Descriptor, Image, media_type},
    store::Store,
};

/// Keys of an output that don't change the image.
const PLACES: [&str; 9] = ["type", "dest", "name", "push", "push-by-digest", "tar", "registry.insecure", "store", "context"];

/// `rbuild verify`.
#[derive(Debug, Args, Clone)]
pub struct VerifyArgs {
    /// Image that was built here: a name, or a digest or its beginning
    pub image: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What came of building again.
struct Verdict {
    image: String,
    expected: String,
    found: String,
    dockerfile_changed: bool,
    times_compared: bool,
    /// None where the digests are equal.
    platforms: Vec<(String, Differences)>,
}

/// Builds again and compares. Exit code 1 if anything differs.
pub fn verify(cli: &Cli, args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let store = services::open_store(cli)?;
    let top = find::descriptor(&store, &args.image)?;
    let call = reproducible::recorded(&store, &top.digest)?.ok_or_else(|| {
        Failure::new(format!("how {} was made is not known here", args.image))
            .with_hint("only images that this store's rbuild built can be verified")
    })?;
    drop(store);
    std::env::set_current_dir(&call.directory).map_err(|error| Failure::new(format!("cannot go to {}: {error}", call.directory)))?;
    let mut again = build_args(&call)?;
    // Where the user namespace maps us to root everything of ours is reachable, wherever it is.
    let told = tempfile::NamedTempFile::new().map_err(|error| Failure::new(format!("cannot make a temporary file: {error}")))?;
    again.metadata_file = Some(told.path().to_owned());
    // What is printed is the verdict alone.
    again.quiet = false;
    if again.progress == "quiet" {
        again.progress = "auto".to_owned();
    }
    build::build(cli, &again)?;
    let text = std::fs::read(told.path()).map_err(|error| Failure::new(format!("cannot read what was built: {error}")))?;
    let told: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| Failure::new(format!("cannot read what was built: {error}")))?;
    let found = told["containerimage.digest"].as_str().unwrap_or_default().to_owned();
    let has_fixed_times = again.reproducible || again.build_args.iter().any(|text| text.starts_with("SOURCE_DATE_EPOCH="));
    let mut verdict = Verdict {
        image: args.image.clone(),
        // What is stated about the image says when, and is not the image.
        expected: call.image.as_ref().unwrap_or(&top.digest).to_string(),
        found,
        dockerfile_changed: false,
        times_compared: has_fixed_times,
        platforms: Vec::new(),
    };
    if verdict.found != verdict.expected {
        let store = services::open_store(cli)?;
        let repeated = verdict.found.parse().ok().map(|digest| reproducible::recorded(&store, &digest)).transpose()?.flatten();
        verdict.dockerfile_changed = repeated.is_some_and(|repeated| repeated.dockerfile != call.dockerfile);
        let again = find::descriptor(&store, &verdict.found)?;
        absent::fetch(cli, &store, &[&top, &again])?;
        verdict.platforms = differences(&store, &top, &verdict.found, has_fixed_times)?;
    }
    let text = if args.json { verdict.as_json() } else { verdict.as_text() };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::from(u8::from(verdict.found != verdict.expected)))
}

/// Of each platform.
fn differences(store: &Store, top: &Descriptor, found: &str, times: bool) -> Result<Vec<(String, Differences)>, Failure> {
    let fail = |error: &dyn std::error::Error| Failure::new(chain(error));
    let platforms = match media_type::is_index(&top.media_type) {
        true => {
            let index = store.index_blob(&top.digest).map_err(|error| fail(&error))?;
            let images = index.manifests.into_iter().filter(|entry| !export::is_attestation(entry));
            images.filter_map(|entry| Some(entry.platform?.to_string())).map(Some).collect()
        }
        false => vec![None],
    };
    let compare = |platform: Option<String>| {
        let (_, first) = find::image(store, top.digest.as_str(), platform.as_deref())?;
        let (_, second) = find::image(store, found, platform.as_deref())?;
        let list = |image: &Image| export::list(store, image, true).map_err(|error| fail(&error));
        let found = export::compare((&first, &list(&first)?), (&second, &list(&second)?), times);
        Ok((first.platform.to_string(), found))
    };
    platforms.into_iter().map(compare).collect()
}

impl Verdict {
    fn as_text(&self) -> String {
        let Self { image, expected, found, .. } = self;
        if found == expected {
            return format!("{image} is reproduced: {found}\n");
        }
        let mut text = String::new();
        if self.dockerfile_changed {
            text += &format!("the Dockerfile is no longer the one that {image} was built from\n");
        }
        text += &format!("{image} is {expected}, built again it is {found}\n");
        for (platform, differences) in &self.platforms {
            if self.platforms.len() > 1 {
                text += &format!("{platform}:\n");
            }
            text += &with_causes(differences);
        }
        if !self.times_compared {
            let is_same = !self.platforms.is_empty() && self.platforms.iter().all(|(_, differences)| differences.is_empty());
            let start = if is_same { "only times differ" } else { "times were not compared" };
            text += &format!("{start}: the image was built without --reproducible and without SOURCE_DATE_EPOCH\n");
        }
        text
    }

    fn as_json(&self) -> String {
        let platform = |(platform, differences): &(String, Differences)| {
            let mut value = diff::as_value(differences);
            value["platform"] = json!(platform);
            for (file, told) in differences.files.iter().zip(value["files"].as_array_mut().into_iter().flatten()) {
                told["likely"] = json!(cause(file));
            }
            value
        };
        let value = json!({
            "image": self.image,
            "expected": self.expected,
            "found": self.found,
            "isReproduced": self.found == self.expected,
            "dockerfileChanged": self.dockerfile_changed,
            "timesCompared": self.times_compared,
            "platforms": self.platforms.iter().map(platform).collect::<Vec<_>>(),
        });
        format!("{}\n", serde_json::to_string_pretty(&value).expect("a JSON value"))
    }
}

/// Each file with its likely cause, then the rest.
fn with_causes(differences: &Differences) -> String {
    let mut text = String::new();
    for file in &differences.files {
        text += &diff::as_text(&Differences { files: vec![file.clone()], ..Differences::default() });
        text += &cause(file).map(|why| format!("    likely: {why}\n")).unwrap_or_default();
    }
    text + &diff::as_text(&Differences { files: Vec::new(), ..differences.clone() })
}

/// The usual reasons, told by the name.
fn cause(file: &FileDifference) -> Option<&'static str> {
    let path = file.path.as_str();
    let name = path.rsplit('/').next().unwrap_or(path);
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let only_times = !file.what.is_empty() && file.what.iter().all(|what| what.starts_with("time "));
    Some(match () {
        () if ends(&[".pyc"]) || path.contains("__pycache__") => {
            "compiled Python holds the time of its source: set PYTHONDONTWRITEBYTECODE=1 or ARG SOURCE_DATE_EPOCH"
        }
        () if ends(&[".log"]) || path.starts_with("var/log/") => "a log holds the time of the build: remove it in the same RUN",
        () if path.starts_with("var/lib/apt/lists/") => "package lists change with the mirror: remove them in the same RUN",
        () if path.starts_with("var/cache/ldconfig/") => "ldconfig's cache holds inode numbers: remove it in the same RUN",
        () if path.starts_with("var/cache/") || path.contains("/.cache/") || path.contains("/.npm/") => {
            "a cache: use RUN --mount=type=cache, or remove it in the same RUN"
        }
        () if path == "etc/machine-id" || path.contains("ssh_host_") => {
            "made at random: remove it, and have it made when the container starts"
        }
        () if ends(&[".a", ".jar", ".zip", ".whl", ".gz", ".tgz", ".tar"]) => {
            "an archive holds times: pass SOURCE_DATE_EPOCH to what makes it"
        }
        () if only_times => "only the time differs: build with --reproducible",
        () if file.what.iter().any(|what| what == "content") => {
            "the same size and other bytes: a date, an id or an order that is left to chance"
        }
        () => return None,
    })
}

/// The same build without its destinations and without the cache.
fn build_args(call: &Call) -> Result<BuildArgs, Failure> {
    let words = words::with_default_verb(call.words.iter().map(Into::into).collect());
    let cli = Cli::try_parse_from(words).map_err(|error| Failure::new(format!("the recorded call is not understood: {error}")))?;
    let Verb::Build(args) = cli.verb else { return Err(Failure::new("the recorded call is no build")) };
    let first_image = args.outputs.iter().find(|text| outputs::OutputSpec::parse(text).is_ok_and(|output| output.is_image()));
    let mut again = BuildArgs {
        no_cache: true,
        tags: Vec::new(),
        outputs: vec![first_image.map_or_else(|| "type=image".to_owned(), |text| without_places(text))],
        push: false,
        load: false,
        tag_digest: false,
        iidfile: None,
        metadata_file: None,
        code_quality: None,
        provenance: Some("false".to_owned()),
        sbom: None,
        attest: Vec::new(),
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        ..(*args).clone()
    };
    if let Some(epoch) = &call.epoch
        && !again.build_args.iter().any(|text| text.starts_with("SOURCE_DATE_EPOCH"))
    {
        again.build_args.push(format!("SOURCE_DATE_EPOCH={epoch}"));
    }
    Ok(again)
}

/// `type=oci,dest=x,compression=zstd` is `type=image,compression=zstd`.
fn without_places(text: &str) -> String {
    let mut list = vec!["type=image".to_owned()];
    for field in outputs::fields(text) {
        let key = field.split('=').next().unwrap_or_default().to_ascii_lowercase();
        if !PLACES.contains(&key.as_str()) && field.contains('=') {
            list.push(if field.contains(',') { format!("\"{field}\"") } else { field });
        }
    }
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_repeated_without_its_destinations() {
        let words = ["rbuild", "-t", "app", "--push", "-o", "type=oci,dest=x,\"name=a,b\",compression=zstd", "--build-arg", "A=1", "dir"];
        let call = Call {
            words: words.map(str::to_owned).to_vec(),
            directory: String::new(),
            epoch: Some("5".to_owned()),
            dockerfile: String::new(),
            version: String::new(),
            image: None,
        };
        let args = build_args(&call).unwrap();
        assert_eq!(args.outputs, ["type=image,compression=zstd"]);
        assert_eq!((args.tags.len(), args.push, args.no_cache, args.context.as_str()), (0, false, true, "dir"));
        assert_eq!(args.build_args, ["A=1", "SOURCE_DATE_EPOCH=5"]);
    }

    #[test]
    fn causes_are_told_by_the_name() {
        let file = |path: &str, what: &[&str]| FileDifference {
            path: path.to_owned(),
            first_layer: Some(0),
            second_layer: Some(0),
            what: what.iter().map(|what| (*what).to_owned()).collect(),
        };
        for (path, what, expected) in [
            ("app/__pycache__/x.pyc", &["content"][..], "compiled Python"),
            ("var/log/dpkg.log", &["size 1 -> 2"], "a log"),
            ("app/x", &["time 1 -> 2"], "only the time"),
        ] {
            assert!(cause(&file(path, what)).unwrap().starts_with(expected), "{path}");
        }
        assert_eq!(cause(&file("app/x", &["mode 1 -> 2"])), None);
    }
}
