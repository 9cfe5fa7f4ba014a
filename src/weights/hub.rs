//! `hf:org/name[@revision]` to a folder on this machine.
//!
//! The local cache of the Hugging Face Hub is read without any network. Downloading needs the cargo
//! feature `hub`; this file is the only one that meets the network.

use std::path::{Path, PathBuf};

use crate::{files, usage};

/// A model on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec<'a> {
    repo: &'a str,
    revision: &'a str,
}

/// The folder that holds a model of the Hub: from the local cache (`None`: where the Hub's own programs keep it), else
/// downloaded unless `offline`.
pub fn resolve(spec: &str, offline: bool, cache: Option<&Path>) -> anyhow::Result<PathBuf> {
    let spec = parse(spec)?;
    let own = || cache_folder(&|name| std::env::var(name).ok());
    let cache = cache.map_or_else(own, Path::to_owned);
    if let Some(snapshot) = cached(&cache, &spec) {
        return Ok(snapshot);
    }
    let offline =
        offline || ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().any(|name| is_set(name));
    if offline {
        return Err(usage!(
            "{}@{} is not in the local cache {}, and the network is not to be used",
            spec.repo,
            spec.revision,
            cache.display()
        ));
    }
    download(&spec, &cache)
}

fn parse(text: &str) -> anyhow::Result<Spec<'_>> {
    let rest = text.strip_prefix("hf:").unwrap_or(text);
    let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let is_word = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with('.')
    };
    let is_repo = repo.split_once('/').is_some_and(|(org, name)| is_word(org) && is_word(name));
    let is_revision = !revision.is_empty() && revision.split('/').all(is_word);
    if !is_repo || !is_revision {
        return Err(usage!(
            "`{text}` is no model of the Hub; wanted hf:ORG/NAME or hf:ORG/NAME@REVISION"
        ));
    }
    Ok(Spec { repo, revision })
}

/// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
fn cache_folder(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let set = |name| variable(name).filter(|it| !it.is_empty()).map(PathBuf::from);
    if let Some(cache) = set("HF_HUB_CACHE") {
        return cache;
    }
    if let Some(home) = set("HF_HOME") {
        return home.join("hub");
    }
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    caches.unwrap_or_default().join("huggingface").join("hub")
}

/// The snapshot of a revision, where it holds weights.
fn cached(cache: &Path, spec: &Spec<'_>) -> Option<PathBuf> {
    let repo = cache.join(format!("models--{}", spec.repo.replace('/', "--")));
    let named = files::read_text(&repo.join("refs").join(spec.revision)).ok();
    let commit = named.as_deref().map_or(spec.revision, str::trim);
    let snapshot = repo.join("snapshots").join(commit);
    let has_weights = std::fs::read_dir(&snapshot).ok()?.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    });
    has_weights.then_some(snapshot)
}

fn is_set(name: &str) -> bool {
    std::env::var(name)
        .is_ok_and(|it| ["1", "ON", "YES", "TRUE"].contains(&it.to_uppercase().as_str()))
}

#[cfg(not(feature = "hub"))]
fn download(spec: &Spec<'_>, cache: &Path) -> anyhow::Result<PathBuf> {
    Err(usage!(
        "{}@{} is not in the local cache {}, and this program was built without the cargo feature `hub`, which downloads",
        spec.repo,
        spec.revision,
        cache.display()
    ))
}

#[cfg(feature = "hub")]
fn download(spec: &Spec<'_>, cache: &Path) -> anyhow::Result<PathBuf> {
    use anyhow::Context;
    use hf_hub::api::sync::ApiBuilder;
    use hf_hub::{Cache, Repo, RepoType};

    let mut builder = ApiBuilder::from_cache(Cache::new(cache.to_owned())).with_progress(false);
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint);
    }
    let api = builder.build().context("cannot reach the Hub")?;
    let repo = Repo::with_revision(spec.repo.into(), RepoType::Model, spec.revision.into());
    let files = api.repo(repo);
    let asked = || format!("cannot download {}@{}", spec.repo, spec.revision);
    let listed = files.info().with_context(asked)?.siblings;
    let names: Vec<&str> = listed.iter().map(|it| it.rfilename.as_str()).collect();
    let is_wanted = |name: &&&str| {
        !name.contains('/')
            && (name.ends_with(".safetensors")
                || name.ends_with(".safetensors.index.json")
                || **name == "config.json")
    };
    let wanted: Vec<&&str> = names.iter().filter(is_wanted).collect();
    if !wanted.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(crate::inconclusive!(
            "{}@{} holds no .safetensors file",
            spec.repo,
            spec.revision
        ));
    }
    let mut folder = None;
    for name in wanted {
        let path = files.get(name).with_context(asked)?;
        folder = path.parent().map(Path::to_owned);
    }
    folder.with_context(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_an_organisation_a_name_and_perhaps_a_revision() {
        assert_eq!(
            parse("hf:timm/resnet18.a1_in1k").unwrap(),
            Spec { repo: "timm/resnet18.a1_in1k", revision: "main" }
        );
        assert_eq!(parse("hf:a/b@refs/pr/1").unwrap().revision, "refs/pr/1");
        for wrong in
            ["hf:resnet18", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b@../x", "hf:/b", "hf:a/"]
        {
            let message = parse(wrong).unwrap_err().to_string();
            assert!(message.contains(wrong), "{message}");
        }
    }

    #[test]
    fn the_cache_is_looked_for_where_the_hub_client_puts_it() {
        let check = |set: &[(&str, &str)], wanted: &str| {
            let variable = |name: &str| {
                set.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(cache_folder(&variable), Path::new(wanted));
        };
        check(&[("HOME", "/h"), ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c");
        check(&[("HOME", "/h"), ("HF_HOME", "/f")], "/f/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
    }

    #[test]
    fn a_cached_revision_is_found_by_name_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--a--b");
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(repo.join("snapshots/abc123")).unwrap();
        std::fs::write(repo.join("refs/main"), "abc123").unwrap();
        let find = |spec| cached(cache.path(), &parse(spec).unwrap());
        assert_eq!(find("hf:a/b"), None, "a snapshot without weights is not there yet");
        std::fs::write(repo.join("snapshots/abc123/model.safetensors"), "").unwrap();
        assert_eq!(find("hf:a/b"), Some(repo.join("snapshots/abc123")));
        assert_eq!(find("hf:a/b@abc123"), Some(repo.join("snapshots/abc123")));
        assert_eq!(find("hf:a/b@other"), None);
    }
}
