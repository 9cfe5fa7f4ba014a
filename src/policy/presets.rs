//! Policies that need no file.

/// One built-in policy. A change to what it matches is a new revision, and the old text stays in the list, in a file
/// `NAME@REVISION.toml`: an upgrade of the program must not flip a verdict.
pub struct Preset {
    pub name: &'static str,
    pub revision: usize,
    pub text: &'static str,
}

impl Preset {
    /// How a policy names it in `include`, and reports as a file.
    pub fn path(&self) -> String {
        format!("preset:{}@{}", self.name, self.revision)
    }
}

macro_rules! preset {
    ($name:literal @ $revision:literal in $file:literal) => {
        Preset {
            name: $name,
            revision: $revision,
            text: include_str!(concat!("../../policies/", $file)),
        }
    };
}

/// All of them, the newest revision of a name first.
pub const PRESETS: &[Preset] = &[
    preset!("faces" @ 2 in "faces.toml"),
    preset!("faces" @ 1 in "faces@1.toml"),
    preset!("people" @ 1 in "people.toml"),
    preset!("text" @ 1 in "text.toml"),
    preset!("watermark-and-logos" @ 1 in "watermark-and-logos.toml"),
    preset!("skin-tone-and-body" @ 1 in "skin-tone-and-body.toml"),
    preset!("religion-and-symbols" @ 1 in "religion-and-symbols.toml"),
    preset!("license-plates-and-identity" @ 1 in "license-plates-and-identity.toml"),
    preset!("medical" @ 1 in "medical.toml"),
    preset!("nudity-and-violence" @ 1 in "nudity-and-violence.toml"),
    preset!("colour" @ 1 in "colour.toml"),
];

/// `faces` or `faces@1`; without a revision the newest.
pub fn find(name: &str) -> Option<&'static Preset> {
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision.parse::<usize>().ok()?)),
        None => (name, None),
    };
    PRESETS.iter().find(|it| it.name == name && revision.is_none_or(|wanted| wanted == it.revision))
}

/// The newest revision of each.
pub fn newest() -> impl Iterator<Item = &'static Preset> {
    PRESETS.chunk_by(|a, b| a.name == b.name).map(|revisions| &revisions[0])
}

/// Their names, each once.
pub fn names() -> Vec<&'static str> {
    newest().map(|it| it.name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn revisions_of_a_name_stand_together_the_newest_first() {
        let names: BTreeSet<&str> = PRESETS.iter().map(|it| it.name).collect();
        assert_eq!(super::names().len(), names.len());
        let pairs = PRESETS.windows(2).filter(|it| it[0].name == it[1].name);
        for pair in pairs {
            assert!(pair[1].revision < pair[0].revision, "{}", pair[0].name);
        }
    }
}
