//! Which rules run: `# check=...`, BUILDKIT_DOCKERFILE_CHECK, and comments above an instruction.
//! Unaware of what the rules look for.

use super::super::number::parse_bool;
use super::super::parse::split_directive;
use super::super::quote::go_quote;
use super::rules::Rule;
use std::collections::BTreeSet;

/// Check options: `skip=A,B;error=true;experimental=C`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    skip_all: bool,
    skip: BTreeSet<String>,
    experimental_all: bool,
    experimental: BTreeSet<String>,
    /// Violations fail the build.
    pub error: bool,
}

impl Settings {
    /// Reads the text after `check=`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        if text.trim().is_empty() {
            return Ok(settings);
        }
        for option in text.trim().splitn(3, ';') {
            let (key, value) = option.split_once('=').ok_or_else(|| format!("invalid check option {}", go_quote(option)))?;
            let (key, value) = (key.trim(), value.trim());
            match key {
                "skip" if value == "all" => settings.skip_all = true,
                "skip" => settings.skip = names(value),
                "experimental" if value == "all" => settings.experimental_all = true,
                "experimental" => settings.experimental = names(value),
                "error" => {
                    let invalid = || {
                        let reason = format!("strconv.ParseBool: parsing {}: invalid syntax", go_quote(value));
                        format!("failed to parse check option {}: {reason}", go_quote(option))
                    };
                    settings.error = parse_bool(value).ok_or_else(invalid)?;
                }
                _ => return Err(format!("invalid check option {}", go_quote(key))),
            }
        }
        Ok(settings)
    }

    /// With what a `check=` comment among `comments` adds.
    pub(super) fn with_comments(&self, comments: &[String]) -> Self {
        let found = comments.iter().find_map(|comment| split_directive(comment).filter(|(key, _)| *key == "check"));
        let mut merged = self.clone();
        if let Some(Ok(more)) = found.map(|(_, value)| Self::parse(up_to_blank(value))) {
            merged.skip_all |= more.skip_all;
            merged.experimental_all |= more.experimental_all;
            merged.skip.extend(more.skip);
            merged.experimental.extend(more.experimental);
        }
        merged
    }

    pub(super) fn runs(&self, rule: &Rule) -> bool {
        if rule.experimental {
            return self.experimental_all || self.experimental.contains(rule.name);
        }
        !self.skip_all && !self.skip.contains(rule.name)
    }
}

/// Options end at the first blank.
pub(super) fn up_to_blank(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

fn names(text: &str) -> BTreeSet<String> {
    text.split(',').map(|name| name.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    #[test]
    fn reads_options() {
        let runs = |text: &str, rule: &Rule| Settings::parse(text).unwrap().runs(rule);
        assert!(runs("", &rules::UNDEFINED_VAR) && !runs("", &rules::INVALID_DEFINITION_DESCRIPTION));
        assert!(!runs("skip=all", &rules::UNDEFINED_VAR) && !runs("skip=A, UndefinedVar ;error=true", &rules::UNDEFINED_VAR));
        assert!(runs("skip=all;experimental=all", &rules::INVALID_DEFINITION_DESCRIPTION));
        assert!(Settings::parse("error=true").unwrap().error);
        for (text, error) in [
            ("skip", "invalid check option \"skip\""),
            ("what=x", "invalid check option \"what\""),
            ("error=x", "failed to parse check option \"error=x\": strconv.ParseBool: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(Settings::parse(text), Err(error.to_owned()));
        }
    }
}
