//! What a run is about: a model, and the pictures to probe it with.

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::data::{self, Preprocess};
use crate::demo;
use crate::model::Model;
use crate::model::graph::Graph;
use crate::model::run::Compute;
use crate::pass::Probe;
use crate::unit::Globs;
use crate::weights::{Weights, hub};
use crate::{files, usage};

/// Where the model and the pictures come from, as the user named them.
#[derive(Debug, Clone)]
pub struct Source {
    /// `demo`, a file, a folder, or `hf:org/name[@revision]`.
    pub model: String,
    pub arch: Option<String>,
    /// A folder of pictures, or `demo:N:SEED:SPLIT` ([`Scenes`](crate::data::scenes::Scenes)); `None` with the demo
    /// means the demo's own.
    pub data: Option<String>,
    /// A file with one class name a line, in the order of the network's outputs.
    pub classes: Option<PathBuf>,
    pub offline: bool,
    /// Where models of the Hub are kept; `None` is where its own programs keep them.
    pub cache: Option<PathBuf>,
    pub device: Device,
    /// Whether every convolution is computed as it is defined, without Winograd's transforms.
    pub exact: bool,
    /// Where the demo may be written.
    pub scratch: PathBuf,
}

impl Source {
    /// A model and pictures of this machine, looked at on the CPU.
    pub fn local(model: &str, data: &str, scratch: &Path) -> Source {
        Source {
            model: model.to_owned(),
            arch: None,
            data: Some(data.to_owned()),
            classes: None,
            offline: true,
            cache: None,
            device: Device::Cpu,
            exact: false,
            scratch: scratch.to_owned(),
        }
    }
}

/// An opened model with its pictures.
pub struct Subject {
    pub source: Source,
    pub weights: Weights,
    pub model: Model,
    pub probe: Probe,
    /// Class names in the order of the network's outputs; empty when nobody knows them.
    pub classes: Vec<String>,
    pub warnings: Vec<String>,
}

/// Opens everything, and checks it against each other, before anything runs.
pub fn open(source: &Source) -> anyhow::Result<Subject> {
    let demo = match source.model.as_str() {
        "demo" => Some(demo::write(&source.scratch.join("demo"))?),
        _ => None,
    };
    let path = match (&demo, source.model.strip_prefix("hf:")) {
        (Some(demo), _) => demo.clone(),
        (None, Some(_)) => hub::resolve(&source.model, source.offline, source.cache.as_deref())?,
        (None, None) => PathBuf::from(&source.model),
    };
    let weights = Weights::open(&path).map_err(|error| match path.exists() {
        true => error,
        false => usage!("{error:#}; a model of the Hub is named hf:ORG/NAME"),
    })?;
    let mut model = Model::load(&weights, source.arch.as_deref(), &source.device)?;
    model.network = model.network.computed(Compute::exact(source.exact));
    let config = weights.config()?;

    let mut classes = match &source.classes {
        Some(file) => read_classes(file)?,
        None if demo.is_some() => demo::classes(),
        None => known_classes(&model, config.as_ref()),
    };
    let mut dataset = match (source.data.as_deref(), &demo) {
        (Some(data), _) if data != "demo" => data::named(data, &classes)?,
        (_, Some(_)) => data::named(demo::DATA, &classes)?,
        _ => {
            return Err(usage!(
                "no pictures were named: --data FOLDER wants class folders, or pictures with a metadata.csv"
            ));
        }
    };
    let mut warnings = model.warnings.clone();
    let n_classes = model.n_classes();
    if classes.is_empty() && dataset.classes.len() == n_classes {
        classes.clone_from(&dataset.classes);
    }
    if !classes.is_empty() && classes.len() != n_classes {
        return Err(usage!(
            "{} class names are given, but the network has {n_classes} outputs",
            classes.len()
        ));
    }
    if n_classes < dataset.classes.len()
        || dataset.pictures.iter().any(|it| it.label.is_some_and(|label| n_classes <= label))
    {
        warnings.push(format!(
            "the pictures' labels go beyond the network's {n_classes} outputs, so accuracy is not measured"
        ));
        dataset.pictures.iter_mut().for_each(|picture| picture.label = None);
    }
    let preprocess = config
        .as_ref()
        .and_then(Preprocess::from_config)
        .unwrap_or_else(|| Preprocess::of(&model.arch));
    let probe = Probe { dataset, preprocess };
    Ok(Subject { source: source.clone(), weights, model, probe, classes, warnings })
}

/// The sites that `globs` name, in the order of the network; none given means the architecture's own.
pub fn sites(graph: &Graph, globs: &[String]) -> anyhow::Result<Vec<String>> {
    if globs.is_empty() {
        return Ok(graph.default_sites().to_vec());
    }
    let known = graph.sites();
    for glob in globs {
        let one =
            Globs::new(std::slice::from_ref(glob)).map_err(|error| usage!("--layers: {error}"))?;
        if !glob.starts_with('!') && !known.iter().any(|(name, _)| one.matches(name)) {
            return Err(usage!(
                "--layers: `{glob}` matches no layer of the network; its own choice is {}",
                graph.default_sites().join(", ")
            ));
        }
    }
    let globs = Globs::new(globs).map_err(|error| usage!("--layers: {error}"))?;
    let mut sites: Vec<(&str, usize)> = Vec::new();
    for (name, id) in known {
        // A node with two names is looked at once; the container's shorter name comes first.
        if globs.matches(name) && sites.iter().all(|&(_, seen)| seen != id) {
            sites.push((name, id));
        }
    }
    Ok(sites.into_iter().map(|(name, _)| name.to_owned()).collect())
}

/// How deep a layer lies, 0 being the first and 1 the last of those that the architecture is described by: its place among
/// them, or between those that run before and after it.
pub fn depth(graph: &Graph, site: &str) -> f32 {
    let own: Vec<usize> = graph.default_sites().iter().filter_map(|it| graph.find(it)).collect();
    let (Some(id), Some(last)) = (graph.find(site), own.len().checked_sub(1)) else { return 1. };
    let place = match own.iter().rposition(|it| *it <= id) {
        None => 0.,
        Some(at) => {
            let next = own.get(at + 1).copied().unwrap_or(own[at] + 1);
            at as f32 + (id - own[at]) as f32 / (next - own[at]).max(1) as f32
        }
    };
    (place / last.max(1) as f32).min(1.)
}

fn read_classes(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = files::read_text(file)
        .map_err(|error| usage!("cannot read the class names in {}: {error}", file.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The names that the model's folder gives, else those of ImageNet where the outputs are as many.
fn known_classes(model: &Model, config: Option<&serde_json::Value>) -> Vec<String> {
    let from_config = config.and_then(|config| {
        let names = config.get("id2label")?.as_object()?;
        let name = |i: usize| Some(names.get(&i.to_string())?.as_str()?.to_owned());
        (0..names.len()).map(name).collect::<Option<Vec<_>>>()
    });
    let from_timm = || -> Option<Vec<String>> {
        let names = config?.get("label_names")?.as_array()?;
        names.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let names = from_config.or_else(from_timm).unwrap_or_default();
    if names.is_empty() && model.n_classes() == IMAGENET.lines().count() {
        return IMAGENET.lines().map(str::to_owned).collect();
    }
    names
}

/// ImageNet's thousand classes in their usual order, as torchvision shortens their names.
const IMAGENET: &str = include_str!("../assets/imagenet_classes.txt");
