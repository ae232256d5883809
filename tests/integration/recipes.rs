//! The recipes of `examples/ci`: the shell of each, step by step, with the variables and the standing that the service
//! gives a job.

use std::{fs, path::Path, process::Command};

use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Bed, Container, Outcome, Page, Registry, Web, binary, checkout, tool};

fn recipe(name: &str) -> Yaml {
    let text = fs::read_to_string(checkout().join("examples/ci").join(name)).unwrap();
    YamlLoader::load_from_str(&text).unwrap().remove(0)
}

/// A job: who runs it, what its expressions stand for and what its steps find in their environment.
struct Job<'a> {
    bed: &'a Bed,
    expressions: Vec<(&'static str, String)>,
    environment: Vec<(String, String)>,
    path: String,
    /// What the service puts the shell into.
    container: Option<Container>,
}

impl<'a> Job<'a> {
    fn new(bed: &'a Bed) -> Self {
        bed.file("Dockerfile", "FROM alpine\nRUN id -u > /who\nCOPY f /\n").file("f", "f\n");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", bed.path("programs").display());
        Self { bed, expressions: Vec::new(), environment: Vec::new(), path, container: None }
    }

    /// In a container that shares the test's files.
    fn inside(self, container: Container) -> Self {
        let container = container.share(&self.bed.path(""));
        Self { container: Some(container), ..self }
    }

    /// With rbuild in the path, as the job's image has it.
    fn with_rbuild(self) -> Self {
        let _ = fs::remove_dir_all(self.bed.path("programs"));
        fs::create_dir_all(self.bed.path("programs")).unwrap();
        std::os::unix::fs::symlink(binary(), self.bed.path("programs/rbuild")).unwrap();
        self
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// `${{ .. }}` by what it stands for; one that the service does not know is a fault of the recipe.
    fn resolve(&self, text: &str) -> String {
        let mut parts = text.split("${{");
        let mut resolved = parts.next().unwrap().to_owned();
        for part in parts {
            let (expression, rest) = part.split_once("}}").unwrap_or_else(|| panic!("{text}: an open expression"));
            let value = self.expressions.iter().find(|(name, _)| *name == expression.trim());
            resolved += &value.unwrap_or_else(|| panic!("{text}: what is {}?", expression.trim())).1;
            resolved += rest;
        }
        resolved
    }

    fn variables(&mut self, of: &Yaml) {
        for (name, value) in of["env"].as_hash().into_iter().flatten() {
            let value = self.resolve(value.as_str().unwrap());
            self.set(name.as_str().unwrap(), value);
        }
    }

    fn shell(&self, words: &[&str], script: &str) -> Outcome {
        let mut command = self.bed.user.command(Path::new(words[0]), &self.bed.path("home"));
        command.args(&words[1..]).arg(script).current_dir(self.bed.path("context"));
        command.env("PATH", &self.path).env("RBUILD_STORE", self.bed.store());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Outcome::of(match &self.container {
            Some(container) => container.wrap(&command),
            None => command,
        })
    }

    /// One step of a workflow or an action, in the service's shell. What it adds to the path is there for the next.
    fn step(&mut self, step: &Yaml) {
        let Some(script) = step["run"].as_str() else { return };
        assert!(!script.contains("${{"), "what a pipeline is told must not become its program: {script}");
        let kept = self.environment.len();
        self.variables(step);
        let shell: &[&str] = match step["shell"].as_str() {
            None => &["bash", "-e", "-c"],
            Some("sh") => &["sh", "-e", "-c"],
            Some(other) => panic!("which shell is {other}?"),
        };
        self.shell(shell, script).succeeds();
        self.environment.truncate(kept);
        if let Ok(added) = fs::read_to_string(self.bed.path("out/path")) {
            self.path = added.lines().map(|line| format!("{line}:")).collect::<String>() + &self.path;
        }
    }
}

fn pushed(name: &str) -> String {
    let tail = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
    tool(Command::new("skopeo").args(tail).arg(format!("docker://{name}"))).trim().to_owned()
}

/// A repository that no other test has, without the registry.
fn repository(bed: &Bed, name: &str) -> String {
    format!("{name}/{}", bed.path("").file_name().unwrap().to_string_lossy().to_lowercase())
}

#[test]
fn the_github_workflow_builds_as_the_runners_user() {
    let Some(bed) = Bed::each_user().pop() else { return };
    let registry = Registry::stand_in().address();
    let web = Web::start();
    let program = fs::read(binary()).unwrap();
    let sum = tool(Command::new("sha256sum").arg(binary()));
    web.page("/rbuild", Page::of(program));
    let recipe = recipe("github.yml");
    let repository = repository(&bed, "GitHub");
    let mut job = Job::new(&bed);
    job.expressions = vec![
        ("vars.RBUILD_URL", web.url("/rbuild")),
        ("vars.RBUILD_SHA256", sum.split(' ').next().unwrap().to_owned()),
        ("github.repository", repository.clone()),
        ("secrets.GITHUB_TOKEN", "token".to_owned()),
        ("github.actor", "someone".to_owned()),
        ("github.sha", "0123abc".to_owned()),
    ];
    job.set("GITHUB_ACTIONS", "true");
    job.set("RUNNER_TEMP", bed.path("out").display().to_string());
    job.set("GITHUB_PATH", bed.path("out/path").display().to_string());
    job.variables(&recipe);
    // The one thing that is not as it stands there: whose registry it is.
    for (_, value) in &mut job.environment {
        *value = value.replace("ghcr.io", registry);
    }
    for step in recipe["jobs"]["image"]["steps"].as_vec().unwrap() {
        job.step(step);
    }
    let name = format!("{registry}/{}", repository.to_lowercase());
    assert_eq!(pushed(&format!("{name}:0123abc")), pushed(&format!("{name}:latest")));
}

#[test]
fn the_forgejo_action_builds_and_tells_the_digest() {
    let (bed, Some(container)) = (Bed::caller(), Container::plain()) else { return };
    let registry = Registry::stand_in().address();
    let action = recipe("forgejo/action.yml");
    let workflow = recipe("forgejo/workflow.yml");
    let name = repository(&bed, "forgejo");
    let given = [
        ("image-name", "inputs.image-name", name.clone()),
        ("tag", "inputs.tag", "v1".to_owned()),
        ("registry", "inputs.registry", registry.to_owned()),
        ("username", "inputs.username", "someone".to_owned()),
        ("password", "inputs.password", "token".to_owned()),
        ("cache", "inputs.cache", format!("{name}-cache")),
    ];
    let uses = workflow["jobs"]["image"]["steps"].as_vec().unwrap().iter().find(|step| !step["with"].is_badvalue()).unwrap();
    for (input, ..) in &given {
        assert!(!action["inputs"][*input].is_badvalue() && !uses["with"][*input].is_badvalue(), "{input}");
    }
    let mut job = Job::new(&bed).with_rbuild().inside(container);
    job.expressions = given.into_iter().map(|(_, expression, value)| (expression, value)).collect();
    job.expressions.push(("inputs.context", action["inputs"]["context"]["default"].as_str().unwrap().to_owned()));
    job.set("GITHUB_ACTIONS", "true");
    job.set("FORGEJO_ACTIONS", "true");
    job.set("RUNNER_TEMP", bed.path("out").display().to_string());
    job.set("GITHUB_OUTPUT", bed.path("out/output").display().to_string());
    for step in action["runs"]["steps"].as_vec().unwrap() {
        job.step(step);
    }
    let output = fs::read_to_string(bed.path("out/output")).unwrap();
    assert_eq!(output, format!("digest={}\n", pushed(&format!("{registry}/{name}:v1"))));
}

#[test]
fn the_gitlab_job_builds_and_a_second_runner_takes_its_steps() {
    let bed = Bed::caller();
    let registry = Registry::stand_in().address();
    let job_text = &recipe("gitlab.yml")["image"];
    let name = repository(&bed, "gitlab");
    for runner in ["one", "two"] {
        // The docker executor's: root without namespaces and mounts.
        let Some(container) = Container::plain() else { return };
        let mut job = Job::new(&bed).with_rbuild().inside(container);
        for (variable, value) in [
            ("CI", "true"),
            ("GITLAB_CI", "true"),
            ("CI_REGISTRY", registry),
            ("CI_REGISTRY_USER", "someone"),
            ("CI_REGISTRY_PASSWORD", "token"),
            ("CI_REGISTRY_IMAGE", &format!("{registry}/{name}")),
            ("CI_COMMIT_SHORT_SHA", "0123abcd"),
            ("CI_COMMIT_REF_SLUG", "main"),
            ("CI_PROJECT_DIR", &bed.path("context").display().to_string()),
        ] {
            job.set(variable, value);
        }
        // As `variables:` has it, for each runner another place.
        assert_eq!(job_text["variables"]["RBUILD_STORE"].as_str(), Some("$CI_BUILDS_DIR/.rbuild"));
        job.set("RBUILD_STORE", bed.path("out").join(runner).display().to_string());
        for line in job_text["script"].as_vec().unwrap() {
            let outcome = job.shell(&["sh", "-e", "-c"], line.as_str().unwrap());
            outcome.succeeds();
            if runner == "two" && line.as_str().unwrap().contains("--push") {
                outcome.says("CACHED");
            }
        }
        assert!(bed.path("context/image.json").exists());
        let _ = fs::remove_file(bed.path("context/image.json"));
    }
    assert_eq!(pushed(&format!("{registry}/{name}:0123abcd")), pushed(&format!("{registry}/{name}:main")));
}

#[test]
fn the_kubernetes_job_builds_under_restricted_pod_security() {
    let (bed, Some(container)) = (Bed::caller(), Container::plain()) else { return };
    let registry = Registry::stand_in().address();
    let pod = &recipe("kubernetes.yaml")["spec"]["template"]["spec"];
    let recipe = &pod["containers"][0];
    // What restricted asks for (Pod Security Standards).
    assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
    assert!(matches!(pod["securityContext"]["seccompProfile"]["type"].as_str(), Some("RuntimeDefault" | "Localhost")));
    assert_eq!(recipe["securityContext"]["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(recipe["securityContext"]["capabilities"]["drop"][0].as_str(), Some("ALL"));
    let (user, group) = (pod["securityContext"]["runAsUser"].as_i64().unwrap(), pod["securityContext"]["runAsGroup"].as_i64().unwrap());

    let name = format!("{registry}/{}", repository(&bed, "kubernetes"));
    let work = bed.path("out/work");
    fs::create_dir_all(&work).unwrap();
    // The profile of the recipe lets namespaces through.
    let pod = container.restricted(u32::try_from(user).unwrap()).unfiltered();
    let mut job = Job::new(&bed).with_rbuild().inside(pod);
    for variable in recipe["env"].as_vec().unwrap() {
        let value = match variable["name"].as_str().unwrap() {
            "CONTEXT" => bed.path("context").display().to_string(),
            "IMAGE" => name.clone(),
            // The volumes.
            _ => variable["value"].as_str().unwrap().replace("/work", &work.display().to_string()),
        };
        job.set(variable["name"].as_str().unwrap(), value);
    }
    job.set("CONTAINERS_REGISTRIES_CONF", bed.path("home/.config/containers/registries.conf").display().to_string());
    for path in [bed.path("context"), work, bed.path("home")] {
        tool(Command::new("chown").arg("-R").arg(format!("{user}:{group}")).arg(path));
    }
    let words: Vec<&str> = recipe["command"].as_vec().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    job.shell(&words, recipe["args"][0].as_str().unwrap()).succeeds().says("single");
    assert!(pushed(&name).starts_with("sha256:"));
}
