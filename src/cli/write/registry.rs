//! Pushing: an image of the store to the registries of its names, shown as steps.

use std::sync::Arc;

use futures_util::future::FutureExt;

use super::{Failure, steps::Steps};
use crate::{
    build::{Event, Progress, Services, StepId, chain, short},
    export::{ExportError, Obtain, PushEvent, Pusher},
    oci::{Descriptor, Reference},
    registry::{self, Client, Pushed},
};

/// An obtainer for images that must be whole in the store.
pub fn nothing_more() -> Box<Obtain> {
    Box::new(|blob: Descriptor| {
        let digest = blob.digest;
        async move { Err(format!("blob {digest} is neither in the registry nor in the store")) }.boxed()
    })
}

/// Pushes `top` under all `names`, one repository after the other: the later ones mount what the earlier ones got.
pub async fn push(
    top: &Descriptor,
    names: &[Reference],
    mount_from: &[Reference],
    obtain: &Obtain,
    client: &Client,
    services: &Services,
    steps: &Arc<Steps>,
) -> Result<(), Failure> {
    let mut mount_from = mount_from.to_vec();
    for group in by_repository(names) {
        let push = async |step: StepId| {
            let listener = listener(step, steps.clone());
            let pusher = Pusher { client, store: &services.store, obtain, listener };
            pusher.push(top, &group, &mount_from).await.map_err(|error| failure(&group[0], &error))
        };
        steps.step(&title(top, &group), push).await?;
        mount_from.push(group[0].clone());
    }
    Ok(())
}

fn title(top: &Descriptor, names: &[Reference]) -> String {
    let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
    format!("pushing {} to {}", short(&top.digest), shown.join(" "))
}

pub fn by_repository(names: &[Reference]) -> Vec<Vec<Reference>> {
    let mut groups: Vec<Vec<Reference>> = Vec::new();
    for name in names {
        let same = |group: &&mut Vec<Reference>| (group[0].registry(), group[0].repository()) == (name.registry(), name.repository());
        match groups.iter_mut().find(same) {
            Some(group) => group.push(name.clone()),
            None => groups.push(vec![name.clone()]),
        }
    }
    groups
}

fn listener(step: StepId, steps: Arc<Steps>) -> crate::export::PushListener {
    Arc::new(move |blob, event| match event {
        PushEvent::Sent(done_bytes) => {
            let what = format!("push {}", short(&blob.digest));
            steps.event(Event::Moved { step, what: &what, done_bytes, total_bytes: Some(blob.size) });
        }
        PushEvent::Done(Pushed::Uploaded) => {}
        PushEvent::Done(Pushed::Existed) => {
            let text = format!("{} is there already", short(&blob.digest));
            steps.event(Event::Note { step: Some(step), text: &text });
        }
        PushEvent::Done(Pushed::Mounted(from)) => {
            let text = format!("{} mounted from {from}", short(&blob.digest));
            steps.event(Event::Note { step: Some(step), text: &text });
        }
    })
}

fn failure(name: &Reference, error: &ExportError) -> Failure {
    let failed = Failure::new(format!("cannot push {}: {}", name.familiar(), chain(error)));
    match error {
        ExportError::Registry(registry::Error::Unauthorized { host, .. }) => {
            failed.with_hint(format!("log in with `rbuild login {}`", if host.contains("docker.io") { "" } else { host }.trim()))
        }
        ExportError::Registry(registry::Error::Unreachable { host, .. }) if name.registry() == "docker.io" => failed.with_hint(format!(
            "is {host} reachable from here? A name without a registry is of docker.io: rbuild push {0} --as registry.example.com/{0}",
            name.familiar()
        )),
        ExportError::Registry(registry::Error::Unreachable { host, .. }) => failed.with_hint(format!(
            "is {host} up and reachable from here? plain http is allowed with registry.insecure=true in --output, --insecure elsewhere"
        )),
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_one_repository_go_together() {
        let names: Vec<Reference> = ["h.example/a:1", "h.example/b:1", "h.example/a:2"].iter().map(|text| text.parse().unwrap()).collect();
        let groups = by_repository(&names);
        assert_eq!(groups, [vec![names[0].clone(), names[2].clone()], vec![names[1].clone()]]);
    }
}
