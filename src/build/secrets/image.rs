//! Searches an image's config and history. Unaware of layers.

use serde_json::Value;

use super::{Found, Secrets};
use crate::oci::ImageConfig;

/// Where in a config something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The secret.
    pub found: Found,
    /// `the image's config (config.Env.2)`.
    pub what: String,
    /// The entry of the history, if that is where.
    pub history: Option<usize>,
}

/// The first find in a config, names of labels and variables included.
pub fn search_image(config: &ImageConfig, secrets: &Secrets) -> Option<Place> {
    if secrets.is_empty() {
        return None;
    }
    let value = serde_json::to_value(config).expect("a config has a JSON form");
    search(&value, &mut Vec::new(), secrets)
}

fn search(value: &Value, path: &mut Vec<String>, secrets: &Secrets) -> Option<Place> {
    match value {
        Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| search_inside(&index.to_string(), item, path, secrets)),
        Value::Object(map) => map.iter().find_map(|(key, value)| match secrets.find(key.as_bytes()) {
            Some(found) => Some(Place { found, what: format!("a name in the image's {}", path.join(".")), history: None }),
            None => search_inside(key, value, path, secrets),
        }),
        Value::String(text) => secrets.find(text.as_bytes()).map(|found| {
            let history = path.first().filter(|first| *first == "history").and_then(|_| path.get(1)?.parse().ok());
            let what = match history {
                Some(_) => format!("the image's history (`{}`)", secrets.mask(text)),
                None => format!("the image's config ({})", path.join(".")),
            };
            Place { found, what, history }
        }),
        _ => None,
    }
}

fn search_inside(key: &str, value: &Value, path: &mut Vec<String>, secrets: &Secrets) -> Option<Place> {
    path.push(key.to_owned());
    let place = search(value, path, secrets);
    path.pop();
    place
}

#[cfg(test)]
mod tests {
    use super::super::tests::secret;
    use super::*;

    #[test]
    fn the_place_is_named_and_the_value_is_not() {
        let secrets = Secrets::new([secret("a", "first-secret-value")], &[]);
        let look = |text: &str| search_image(&serde_json::from_str(text).unwrap(), &secrets);
        let plain = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}"#;
        assert_eq!(look(&format!("{plain}}}")), None);
        let place = look(&format!(r#"{plain},"config":{{"Env":["A=1","B=x first-secret-value"]}}}}"#)).unwrap();
        assert_eq!((place.what.as_str(), place.history), ("the image's config (config.Env.1)", None));
        let place = look(&format!(r#"{plain},"history":[{{}},{{"created_by":"RUN |1 T=first-secret-value make"}}]}}"#)).unwrap();
        assert_eq!((place.what.as_str(), place.history), ("the image's history (`RUN |1 T=*** make`)", Some(1)));
        let place = look(&format!(r#"{plain},"config":{{"Labels":{{"first-secret-value":"1"}}}}}}"#)).unwrap();
        assert_eq!(place.what, "a name in the image's config.Labels");
    }
}
