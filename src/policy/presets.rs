//! Policies that need no file.

/// One built-in policy. A change to what it matches is a new revision, and the old one stays: an upgrade of the
/// program must not flip a verdict.
pub struct Preset {
    pub name: &'static str,
    pub revision: usize,
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal @ $revision:literal),* $(,)?) => {
        /// All of them, the newest revision of a name first.
        pub const PRESETS: &[Preset] = &[$(Preset {
            name: $name,
            revision: $revision,
            text: include_str!(concat!("../../policies/", $name, ".toml")),
        }),*];
    };
}

presets! {
    "faces" @ 1,
    "people" @ 1,
    "text" @ 1,
    "watermark-and-logos" @ 1,
    "skin-tone-and-body" @ 1,
    "religion-and-symbols" @ 1,
    "license-plates-and-identity" @ 1,
    "medical" @ 1,
    "nudity-and-violence" @ 1,
    "colour" @ 1,
}

/// `faces` or `faces@1`; without a revision the newest.
pub fn find(name: &str) -> Option<&'static Preset> {
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision.parse::<usize>().ok()?)),
        None => (name, None),
    };
    PRESETS.iter().find(|it| it.name == name && revision.is_none_or(|wanted| wanted == it.revision))
}

/// Their names, each once.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = PRESETS.iter().map(|it| it.name).collect();
    names.dedup();
    names
}
