//! Platform choice from an index. Pure.

use crate::oci::{Descriptor, Index, Platform};

/// The entry of `index` that serves `platform` best; of equally good ones the first, as containerd does.
/// Attestations (`unknown/unknown`) and entries without a platform are no images to choose from.
pub fn select<'a>(index: &'a Index, platform: &Platform) -> Option<&'a Descriptor> {
    let ranked = index.manifests.iter().filter_map(|descriptor| {
        let offered = descriptor.platform.as_ref()?;
        let offered = Platform {
            os_version: offered.os_version.clone(),
            ..Platform::new(&offered.os, &offered.architecture, offered.variant.as_deref())
        };
        (offered.os != "unknown").then_some(())?;
        platform.rank(&offered).map(|rank| (rank, descriptor))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media_type};

    fn check(offered: &[&str], wanted: &str, expected: Option<&str>) {
        let manifests = offered.iter().map(|text| {
            let (os, rest) = text.split_once('/').unwrap();
            let (architecture, variant) = rest.split_once('/').map_or((rest, None), |(first, second)| (first, Some(second)));
            let platform = Platform {
                architecture: architecture.to_owned(),
                os: os.to_owned(),
                os_version: None,
                os_features: Vec::new(),
                variant: variant.map(str::to_owned),
            };
            Descriptor { platform: Some(platform), ..Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text.as_bytes()), 1) }
        });
        let index = Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests: manifests.collect(),
            annotations: Default::default(),
        };
        let found = select(&index, &wanted.parse().unwrap()).map(|descriptor| descriptor.digest.clone());
        assert_eq!(found, expected.map(|text| Digest::of(text.as_bytes())), "{wanted} of {offered:?}");
    }

    #[test]
    fn the_nearest_platform_is_chosen() {
        let common = ["unknown/unknown", "linux/386", "linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"];
        check(&common, "linux/amd64", Some("linux/amd64"));
        check(&common, "linux/arm64", Some("linux/arm64/v8"));
        check(&common, "linux/arm/v7", Some("linux/arm/v7"));
        check(&common, "linux/arm/v5", None);
        check(&common, "linux/s390x", None);
        check(&["linux/386"], "linux/amd64", Some("linux/386"));
        check(&["unknown/unknown"], "linux/amd64", None);
    }
}
