//! Why a step was not taken from the cache: the facts that differ from the nearest earlier build of that step, and for
//! content the files behind them. Unaware of how facts come about.

use serde::{Deserialize, Serialize};

use crate::{
    build::Facts,
    snapshot::copy::{FileChange, Listing},
    store::{FactsRecord, Store},
};

/// Files that are named one by one; of the others there is the number.
const FILES_NAMED: usize = 20;

/// Values longer than this are cut in sentences, not in the report.
const SHOWN: usize = 160;

/// Why a step ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The reason when it isn't a difference: no earlier build, `--no-cache`, a layer that is gone.
    pub reason: Option<String>,
    /// When the build was that it is compared with, in seconds since 1970.
    pub compared_with_unix: Option<u64>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// One fact that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its name in the table of facts.
    pub fact: String,
    /// What it was.
    pub before: Option<String>,
    /// What it is.
    pub now: Option<String>,
    /// For content: the files.
    pub files: Vec<FileChange>,
    /// How many files there are beside those.
    pub more_files: usize,
}

impl Why {
    /// A reason that is no difference.
    pub fn because(reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::default() }
    }

    /// One line per reason.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.reason.iter().cloned().collect();
        for difference in &self.differences {
            lines.push(difference.sentence());
            lines.extend(difference.files.iter().map(|file| format!("  {} {}", file.path, file.change)));
            if difference.more_files > 0 {
                lines.push(format!("  and {} more", difference.more_files));
            }
        }
        lines
    }
}

impl Difference {
    fn sentence(&self) -> String {
        let show = |value: &Option<String>| match value {
            None => "not there".to_owned(),
            // Enough of a digest to tell it from others.
            Some(value) if value.starts_with("content:sha256:") => value.chars().skip(8).take(19).collect(),
            Some(value) if value.chars().count() > SHOWN => format!("`{}..`", value.chars().take(SHOWN).collect::<String>()),
            Some(value) => format!("`{value}`"),
        };
        let is_base = |value: &Option<String>| value.as_ref().is_some_and(|value| value.starts_with("chain:"));
        let (before, now) = (show(&self.before), show(&self.now));
        match self.fact.as_str() {
            "parent" if is_base(&self.before) && is_base(&self.now) => format!("the base image is another: {before} -> {now}"),
            "parent" => "the step before it has another result".to_owned(),
            fact if fact.starts_with("env ") => format!("the value of {} (ARG or ENV): {before} -> {now}", &fact[4..]),
            fact if fact.ends_with(" content") => format!("the content of {}: {before} -> {now}", fact.trim_end_matches(" content")),
            fact => format!("{fact}: {before} -> {now}"),
        }
    }
}

/// Compares with the nearest of `earlier` (newest first). `listing` gives the listing of a content fact of this build.
pub fn explain(facts: &Facts, earlier: &[FactsRecord], store: &Store, listing: &dyn Fn(&str) -> Option<Listing>) -> Why {
    let known = earlier.iter().filter_map(|record| Some((record, serde_json::from_str::<Facts>(&record.facts).ok()?)));
    let Some((record, nearest)) = known.min_by_key(|(_, known)| facts.differences(known).len()) else {
        return Why::because("no earlier build of this step is known");
    };
    let differences = facts.differences(&nearest).into_iter().map(|(fact, before, now)| {
        let mut difference = Difference {
            fact: fact.to_owned(),
            before: before.map(str::to_owned),
            now: now.map(str::to_owned),
            files: Vec::new(),
            more_files: 0,
        };
        if let (Some(source), Some(before)) = (fact.strip_suffix(" content"), before)
            && let Some(now) = listing(source)
            && let Some(before) = store.listing(before).ok().flatten().and_then(|bytes| Listing::from_bytes(&bytes))
        {
            let mut files = now.changes_since(&before);
            difference.more_files = files.len().saturating_sub(FILES_NAMED);
            files.truncate(FILES_NAMED);
            difference.files = files;
        }
        difference
    });
    let why = Why { reason: None, compared_with_unix: Some(record.recorded_unix), differences: differences.collect() };
    match why.differences.is_empty() {
        true => Why { reason: Some("its result is no longer in the store".to_owned()), ..why },
        false => why,
    }
}
