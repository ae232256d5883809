//! `rbuild help TOPIC`, shell completions and man pages: words for people, from the same source as `--help`.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory};

use crate::cli::{args::Cli, complete, failure::Failure};

/// Topics and their texts.
const TOPICS: [(&str, &str); 12] = [
    ("flags", FLAGS),
    ("caches", CACHES),
    ("outputs", OUTPUTS),
    ("attestations", ATTESTATIONS),
    ("platforms", PLATFORMS),
    ("rungs", RUNGS),
    ("secrets", SECRETS),
    ("limits", LIMITS),
    ("authorities", AUTHORITIES),
    ("reproducibility", REPRODUCIBILITY),
    ("progress", PROGRESS),
    ("report", REPORT),
];

/// Of docker, buildah and kaniko, and ours.
const FLAGS: &str = include_str!("topics/flags.txt");

const CACHES: &str = "\
A step is not run again when all that it can see is as it was: its text after expansion, environment, user, directory,
mounts, platform, its parent, and the content of the files it uses. Times of files, proxy variables, the values of
secrets and what is in cache mounts do not count.

  --no-cache                 run everything again
  --no-cache-filter STAGE    run these stages again
  --explain, rbuild why      which fact differs from the nearest earlier build, down to the file
  RUN --mount=type=cache     a directory that stays between builds and is in no image
  rbuild du, rbuild prune    what the store holds, and removing it

Steps of another machine come from a cache. It is read when the build starts; its layers move when a step needs them:

  --cache-to    type=registry,ref=NAME    in a registry; also NAME alone
                type=local,dest=DIR       an OCI layout; tag=NAME, reset=true
                type=s3,bucket=B          region, prefix, name=A;B, endpoint_url, use_path_style; AWS_* variables
                type=inline               in the image itself, which --cache-from takes by its name
  --cache-from  the same, and digest=.. of a layout; timeout=10s is how long it may be silent
  mode=min      layers of the result only; mode=max those of all stages (not inline)
                Keys of BuildKit's own form (compression, image-manifest, oci-mediatypes, touch_refresh, ..) are
                taken and change nothing: a cache has the layers as the build has them

A cache also tells what is in the layers that steps copy onto, base images' too, without their files: then a COPY in a
store that is new fetches nothing of its base, unless it may replace a file by the very same. type=inline does not.

A cache that is missing, fails, stalls or lies is a miss and a warning; one that can't be written is an error, or with
ignore-error=true a warning.

Caches that BuildKit wrote (docker buildx, versions 0.12 to 0.16 and since 0.18) are read too, wherever they are (in a
bucket with name=buildkit): a step is taken if its key there is what BuildKit would give it, on top of the same layers.
Always missed: ADD of URLs and repositories, fetched contexts, cache mounts with mode or owner, builds with --add-host,
--ulimit or --shm-size; patterns in COPY, --exclude and --parents before 0.26. With --cache-trust none of them counts.

  --cache-writer NAME        whose entries we write; entries that come from a cache keep theirs
  --cache-trust NAME,..      whose entries count, in the store too; our own always do

What is in a layer can't be checked without the layer: who tells it wrong makes images wrong, as who writes wrong steps
does. Trust is all there is against it; what is made on somebody's word counts for those who trust them.

A writer's name is what it says of itself. Let those whose builds you don't trust write to places of their own, and name
both with --cache-from: the build of a pull request reads the cache of main, and no build of main reads theirs.

Cache mounts outlive the machine, for instance in CI:

  rbuild cache ls                          ids, sizes, last use
  rbuild cache export registry/app:caches  all of them, or those that are named; ./DIR and oci:DIR are OCI layouts
  rbuild cache import registry/app:caches  into the store; files go over those that are there, or --replace

A cache mount is exported as a tar in chunks that its content cuts: what has not changed since the last export to the
same place is not compressed, written or sent again. Owners, modes, links and times are kept. Both ways wait until no
build uses the cache mount, and one that is broken off leaves what was there before. One place holds any number of
cache mounts; one that several jobs write at the same moment keeps the last one's list: give each a tag of its own.
";

const OUTPUTS: &str = "\
One build writes as many outputs as there are --output, each in its own form; without any the image is in the store.
Layers of its base that no step needed (there were COPY --link and metadata alone) stay in their registry until
something needs them: run, save, diff, sbom, a copy or push to where they are not, a RUN on top. `rbuild images` says
which; `rbuild images --fetch [NAME]` brings them.

  -o type=image             the store; name=A,B, push=true, store=false, name-canonical, push-by-digest,
                            dangling-name-prefix=P (the name P@DIGEST)
  --push, type=registry     the registry of each name; layers that it has are not fetched or sent. --push is about the
                            outputs of type=image and registry, where there are such
  --load, type=docker       docker, podman, nerdctl or containerd, the first that answers; what it has is not sent.
                            dest=FILE: an archive for docker load, dest=- on standard output; context=NAME: docker's
  type=oci,dest=FILE        an OCI layout; tar=false: a directory
  type=local,dest=DIR       the files; also -o DIR. mode=delete: what is not in the result goes; platform-split
  type=tar,dest=FILE        the files; also -o -
  type=cacheonly            nothing

Keys of images:
  compression=gzip|zstd|estargz|uncompressed, compression-level=N, force-compression=true (layers of the base too)
  rewrite-timestamp=true, source-date-epoch=N, oci-mediatypes=false, prefer-nondist-layers, registry.insecure=true
  attestation-inline=true, oci-artifact=true
  annotation.KEY=V; annotation-index, -manifest-descriptor, -index-descriptor, and [PLATFORM] before the dot

  --iidfile FILE            the image's id;  --metadata-file FILE: names, digests, descriptor and
                            provenance as JSON; BUILDX_METADATA_PROVENANCE=min|max|disabled says how much of it

With several platforms the result is an index; docker takes one platform.
";

const ATTESTATIONS: &str = "\
A statement says how an image was made (SLSA provenance) or what is in it (an SPDX document, from the databases of dpkg,
apk and rpm, and the metadata of npm, pip and cargo packages).

  --provenance=mode=min|max  what is pushed has mode=min by default, once; --provenance=false: none
  --sbom                     packages of each platform's image; `rbuild sbom IMAGE` prints it
  --attest type=..           the same, as buildx writes it
  version=v1|v0.2, builder-id=URI, reproducible=true

Mode min has neither values of build arguments nor the Dockerfile; max has both. Secrets are named; no mode has values.

Statements are put beside the image (OCI referrers; with registries that list none, under a tag made of the digest), so
that the image's own digest and manifest stay as they are. --attest-form=index writes the index entries of BuildKit
instead; type=oci has them when they are asked for, type=local and tar have files.
";

const PLATFORMS: &str = "\
--platform linux/amd64,linux/arm64 builds for each of them, and makes an index. The automatic arguments are BuildKit's
(BUILDPLATFORM, TARGETPLATFORM, TARGETARCH, ..): a stage FROM --platform=$BUILDPLATFORM compiles on this machine.

A RUN of another processor's stage needs an emulator. It is registered with the kernel for this build alone, by nobody
in particular (Linux 6.7 and later), and is the first that there is of

  qemu-ARCH-static, qemu-ARCH     static ones in PATH: Debian's qemu-user-static
  --emulators IMAGE@DIGEST        also RBUILD_EMULATORS: an image with such files in /usr/bin, /bin or /usr/local/bin,
                                  such as tonistiigi/binfmt. Fetched when a step first needs it, verified, kept in the
                                  store; by digest only, as it sees all that the step does
  what the host has registered    where the kernel is older, or neither of these is there

  rbuild doctor                   says which of them this machine has
  rbuild index create             joins images that were built on machines of their own

An entrypoint or a new program of another processor than the image's is an error; --allow-foreign lets it be.
";

const RUNGS: &str = "\
rbuild needs no root. It stands on the highest rung that the machine allows, and a build says which one if it is not
`full`. The same Dockerfile gives the same image on each that can run it:

  full      a user namespace with a range of ids: real owners, overlayfs
  single    a user namespace with one id: owners are written down beside the files, and chown, mknod and set*id answered
  chroot    root in a plain container without namespaces and mounts: a private directory and chroot
  copy      nothing: COPY works, a RUN is refused with the reason

  rbuild doctor           tries every gate, and says what would open those that are closed
  --rung, RBUILD_RUNG     stand on this one, or fail

For `full` an unprivileged user needs newuidmap (package `uidmap`) and a line in /etc/subuid and /etc/subgid.

On `single` the users of one step are told apart by name only: one may read, rename and remove what is another's.
On `chroot` a step has no /proc/self and no /dev/fd (bash's `<(..)`), no network of its own, cannot make devices, shares
the container's processes, and may write to what is mounted read-only: it is a copy. A step's network is told once.

What others do there: buildah 1.28 as tried, BuildKit rootless as its documentation says.

                               rbuild    buildah                            BuildKit rootless
  root, or a user with subuids full      builds                             builds; steps share the host's network
  a user without subuids       single    fails at the first chown           needs subuids
  docker run, as root          chroot    fails: unshare(CLONE_NEWUSER)      needs seccomp and AppArmor unconfined
  a restricted pod             copy      fails: unshare(CLONE_NEWUSER)      does not start
";

const SECRETS: &str = "\
\x20 rbuild --secret id=token,src=FILE .        or env=NAME
  RUN --mount=type=secret,id=token ...       a file in memory at /run/secrets/token
  RUN --mount=type=secret,id=token,env=T ... a variable of that step only
  rbuild --ssh default .                     RUN --mount=type=ssh reaches your agent
  rbuild --ssh default=~/.ssh/id_ed25519 .   or one that has this key and gives it to nobody

Values are in no layer, config, history, log or cache key, and not in a failed step that is kept for `rbuild shell`.
A value given with --build-arg is none of this: it stands in the image's history.
";

const LIMITS: &str = "\
Of each RUN step; none is in a cache key:

  --memory 2g --memory-swap 4g     a step that is out of memory fails, and is said to be
  --cpus 1.5 --cpuset-cpus 0-2     --cpu-quota, --cpu-period and --cpu-shares as with docker build
  --pids-limit 500                 processes and threads
  --ulimit nofile=1024:2048        limits of each process
  --timeout 10m                    the step and all that it has started is killed
  --retry 3                        a RUN that fails is tried again in a fresh root, after 1, 2, 4, .. s

They are kept by a control group, where one can be had (v2 by delegation, v1 as root), else by the processes themselves
(RLIMIT_DATA, RLIMIT_NPROC, affinity); the build says what that falls short of. `rbuild doctor` has the reason.
";

const AUTHORITIES: &str = "\
\x20 rbuild --ca company.pem .        certificates of authorities, as PEM; repeatable

RUN steps trust them too, and rbuild itself when it fetches. They are lent to a step and are in no layer, config or key:

  openssl, curl, pip, git, cargo, aws    SSL_CERT_FILE and the like name a bundle of the image's own and these
  node, deno                             NODE_EXTRA_CA_CERTS, DENO_CERT
  java                                   a key store of all, by JAVA_TOOL_OPTIONS
  wget, apt and whatever reads files     the image's own bundle has them while the step runs

Variables that the image sets are left alone. Proxies (--build-arg HTTP_PROXY=.. and the like) are in no key and no
history either, unless an ARG in the Dockerfile names them.
";

const REPRODUCIBILITY: &str = "\
Layers are sorted and have fixed headers; compressed bytes do not depend on threads, file system or rung. What is left
are times:

  SOURCE_DATE_EPOCH=0 rbuild ...                         the image's creation times; visible to RUN as a build argument
  -o type=oci,dest=F,rewrite-timestamp=true              later times of files are set to it too

Base images by digest (FROM name@sha256:..) and ADD --checksum fix what comes from outside.
";

const PROGRESS: &str = "\
\x20 --progress=auto      tty on a terminal, plain where standard error is a file, TERM is dumb or a CI is at work
  --progress=tty       what runs is a line with its time and last words; what is over scrolls up
  --progress=plain     lines for a log; sections in GitHub's, Forgejo's and GitLab's logs, and the error on its line
  --progress=quiet     the image's id alone; a failed step's output
  --progress=rawjson   one JSON object a line, on standard error

In GitHub's and Forgejo's logs warnings and the error mark the Dockerfile's lines. GitLab takes them from a file:
`--code-quality FILE`, and in the job `artifacts: {when: always, reports: {codequality: FILE}}`.

NO_COLOR takes the colours away; BUILDKIT_PROGRESS is the default of --progress.

rawjson is what `docker buildx build --progress=rawjson` writes (BuildKit's SolveStatus): a line is one object with what
is new. Times are RFC 3339; what is empty is left out.
  vertexes   steps: digest (its identity in these lines), name, inputs (digests), started, completed, cached, error
  logs       output: vertex (a digest), stream (1: stdout, 2: stderr), data (base64, cut anywhere), timestamp
  statuses   what moves: id, vertex, current and total (bytes; no total: unknown), timestamp, started, completed
  warnings   lint: level, short, detail (base64), url, sourceInfo.filename, range (lines)
  notes      ours: text, timestamp, vertex (null: of the build)
  built      ours, last: digest, names, size_bytes, layers
A build that fails ends with its error as text, as `error: ..`.
";

const REPORT: &str = "\
Every build leaves a report and the whole output of its steps in the store: `rbuild logs --json [BUILD]` prints the
report, `rbuild logs --list` the builds. Fields are only ever added; one with a new meaning raises `format` (now 1).
Times are milliseconds after `started`.

  format, id, version, started, duration_ms, succeeded, error, dockerfile, rung, platforms, notes
  user_us, system_us, max_rss_kb     rbuild itself, without the processes of RUN
  steps                              in the order of the plan

Each step:
  step, name, stage, instruction, line, platform
  inputs            numbers of the steps whose results it needs
  result            done, cached, failed, cancelled, running (given up), not-reached
  hit               definition, content (an input stage was made anew with equal files), remote (--cache-from), unneeded
                    (what copies from it is cached); null when it ran
  why               reason, or differences: fact, before, now, and for content its files
  key               its cache key
  ready_ms          what it needs was there; from then it waited for one of the workers
  started_ms, duration_ms, worker
  bytes_in          pulled, or copied; transfers: what, started_ms, ended_ms, bytes
  pack_started_ms, pack_ms           making its layer's blob, beside later steps
  bytes_out, digest, diff_id         that blob
  user_us, system_us, max_rss_kb     of its processes
  output_bytes, log                  what it wrote; the file is below builds/ID of the store
  notes, error
";

/// `rbuild help`.
#[derive(Debug, Args, Clone)]
pub struct HelpArgs {
    /// A verb or a topic: flags, caches, rungs, secrets, limits, authorities, reproducibility, progress, report
    #[arg(add = clap_complete::engine::ArgValueCandidates::new(complete::topics))]
    pub topic: Option<String>,
}

/// `rbuild completions`.
#[derive(Debug, Args, Clone)]
pub struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: clap_complete::Shell,
}

/// `rbuild man`.
#[derive(Debug, Args, Clone)]
pub struct ManArgs {
    /// Directory for a page of each verb; without it the first page goes to standard output
    pub directory: Option<PathBuf>,
}

/// Names of topics.
pub fn names() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|(name, _)| *name)
}

/// Shows the help of rbuild, a verb or a topic.
pub fn help(args: &HelpArgs) -> Result<ExitCode, Failure> {
    let mut command = <Cli>::command();
    // A help that nobody reads to its end is no failure.
    let mut out = std::io::stdout();
    let Some(topic) = &args.topic else {
        let _ = write!(out, "{}\nTopics: rbuild help {}\n", command.render_long_help(), TOPICS.map(|(name, _)| name).join("|"));
        return Ok(ExitCode::SUCCESS);
    };
    if let Some((_, text)) = TOPICS.iter().find(|(name, _)| name == topic) {
        let _ = out.write_all(text.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    command.build();
    match command.find_subcommand_mut(topic) {
        Some(verb) => {
            let _ = write!(out, "{}", verb.render_long_help());
            Ok(ExitCode::SUCCESS)
        }
        None => Err(Failure::usage(format!("no verb or topic is called {topic}"))
            .with_hint(format!("the topics are {}; `rbuild help` lists the verbs", TOPICS.map(|(name, _)| name).join(", ")))),
    }
}

/// Prints a completion script. Those of bash, zsh and fish ask rbuild itself, which knows stages and images.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    let shells = clap_complete::env::Shells::builtins();
    match shells.completer(&args.shell.to_string()) {
        Some(shell) => {
            let program = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned));
            let program = if is_on_path() { "rbuild".to_owned() } else { program.unwrap_or_else(|| "rbuild".to_owned()) };
            shell
                .write_registration(complete::VARIABLE, "rbuild", "rbuild", &program, &mut text)
                .map_err(|error| Failure::new(format!("cannot write the script: {error}")))?;
        }
        None => clap_complete::generate(args.shell, &mut <Cli>::command(), "rbuild", &mut text),
    }
    let _ = std::io::stdout().write_all(&text);
    Ok(ExitCode::SUCCESS)
}

/// Whether a shell would find rbuild by its name.
fn is_on_path() -> bool {
    crate::cli::environment::search_path().iter().any(|directory| directory.join("rbuild").is_file())
}

/// Writes man pages.
pub fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let fail = |error: std::io::Error| Failure::new(format!("cannot write man pages: {error}"));
    match &args.directory {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(fail)?;
            clap_mangen::generate_to(<Cli>::command(), directory).map_err(fail)?;
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(<Cli>::command()).render(&mut text).map_err(fail)?;
            let _ = std::io::stdout().write_all(&text);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a flag of `docker build` is not here, and what to do instead.
pub fn refused_flag(flag: &str) -> Option<&'static str> {
    let flag = flag.split('=').next().unwrap_or_default();
    Some(match flag {
        "--builder" => "there are no builders to choose from: rbuild itself builds. Leave it out",
        "--cgroup-parent" => {
            "there is no daemon whose control groups it could name. Steps are limited by --memory, --cpus and --pids-limit"
        }
        "--isolation" => "it is for Windows. Leave it out",
        "--squash" | "--compress" | "--rm" | "--force-rm" => "it belongs to the builder before BuildKit. Leave it out",
        "--security-opt" => "every step runs under the same rules. Leave it out",
        "--policy" | "--debug" | "-D" => "it is of buildx alone. See --explain, --on-error=shell and `rbuild logs`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_fit_a_terminal() {
        for (name, text) in TOPICS {
            assert!(text.lines().all(|line| line.chars().count() <= 120), "{name}");
        }
    }

    #[test]
    fn the_table_of_flags_names_flags_that_are_there() {
        let command = <Cli>::command();
        let build = command.find_subcommand("build").unwrap();
        let known = |flag: &str| build.get_arguments().chain(command.get_arguments()).any(|argument| argument.get_long() == Some(flag));
        let rows = FLAGS.lines().skip(5).take_while(|line| !line.is_empty());
        let ours: Vec<&str> = rows.filter_map(|row| row.get(79..)?.strip_prefix("--")?.split(' ').next()).collect();
        assert!(ours.len() > 30, "{ours:?}");
        for flag in ours {
            assert!(known(flag), "--{flag}");
        }
    }

    #[test]
    fn completions_and_pages_are_made_for_all_shells_and_verbs() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut <Cli>::command(), "rbuild", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("on-error"), "{shell}");
        }
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(<Cli>::command(), directory.path()).unwrap();
        assert!(directory.path().join("rbuild-build.1").exists());
    }
}
