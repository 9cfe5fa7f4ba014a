//! Which architecture a checkpoint is, from the names and shapes of its tensors alone.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Graph, Parameter};
use super::zoo::{self, Architecture};
use crate::inconclusive;

/// An architecture that fits a checkpoint.
pub struct Recognised {
    pub name: String,
    pub graph: Graph,
    /// What stands before every tensor name, such as `module.`; often nothing.
    pub prefix: String,
    /// Tensors that no node reads, by name.
    pub unread: Vec<String>,
}

/// Shapes by tensor name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// How an architecture and a checkpoint differ.
struct Fit {
    name: String,
    graph: Graph,
    prefix: String,
    n_fitting: usize,
    missing: Vec<Parameter>,
    /// With the shape found.
    misshapen: Vec<(Parameter, Vec<usize>)>,
    unread: Vec<String>,
}

/// Finds the architecture all of whose tensors are there in their shapes: among all, or only `arch`.
///
/// Where none fits, the error names the closest and everything that does not fit, at once.
pub fn recognise(shapes: &Shapes, arch: Option<&str>) -> anyhow::Result<Recognised> {
    let candidates = match arch {
        Some(name) => vec![zoo::by_name(name)?],
        None => zoo::all(),
    };
    let fits = candidates.iter().map(|candidate| fit(candidate, shapes));
    // A deeper network that lacks a tensor must not pass as a shallower one with tensors to spare, so
    // what is left unread counts as much as what is missing. Of equals the first in the table's order.
    let closest = fits.min_by_key(|fit| {
        let n_wrong = fit.missing.len() + fit.misshapen.len() + fit.unread.len();
        (n_wrong, std::cmp::Reverse(fit.n_fitting))
    });
    let Some(fit) = closest else { return Err(inconclusive!("no architecture is known")) };
    if !fit.missing.is_empty() || !fit.misshapen.is_empty() {
        return Err(inconclusive!("{}", misfit(&fit, arch)));
    }
    Ok(Recognised { name: fit.name, graph: fit.graph, prefix: fit.prefix, unread: fit.unread })
}

fn fit(architecture: &Architecture, shapes: &Shapes) -> Fit {
    let prefix = prefix_before(&format!("{}.weight", architecture.head), shapes);
    let head = shapes.get(&format!("{prefix}{}.weight", architecture.head));
    let n_classes = head.and_then(|shape| shape.first().copied()).unwrap_or(1);
    let graph = architecture.build(n_classes);

    let mut read = BTreeSet::new();
    let (mut n_fitting, mut missing, mut misshapen) = (0, vec![], vec![]);
    for parameter in graph.parameters() {
        let parameter = Parameter { name: format!("{prefix}{}", parameter.name), ..parameter };
        match shapes.get(&parameter.name) {
            None if parameter.optional => {}
            None => missing.push(parameter),
            Some(found) => {
                read.insert(parameter.name.clone());
                if parameter.optional || *found == parameter.shape {
                    n_fitting += 1;
                } else {
                    misshapen.push((parameter, found.clone()));
                }
            }
        }
    }
    let unread = shapes.keys().filter(|name| !read.contains(*name)).cloned().collect();
    let name = architecture.name.clone();
    Fit { name, graph, prefix, n_fitting, missing, misshapen, unread }
}

/// What stands before `name` in the checkpoint, whole components only.
fn prefix_before(name: &str, shapes: &Shapes) -> String {
    let before = |tensor: &String| {
        let prefix = tensor.strip_suffix(name)?;
        (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
    };
    shapes.keys().filter_map(before).min_by_key(String::len).unwrap_or_default()
}

/// Everything that does not fit, in one line.
fn misfit(fit: &Fit, arch: Option<&str>) -> String {
    let opening = match arch {
        Some(name) => format!("the tensors are not those of {name}"),
        None => format!("no known architecture has these tensors; the closest is {}", fit.name),
    };
    let misshapen = fit.misshapen.iter().map(|(wanted, found)| {
        format!("`{}` is {found:?}, {} reads {:?}", wanted.name, fit.name, wanted.shape)
    });
    let mut parts: Vec<String> = listed(misshapen.collect());
    let missing: Vec<String> =
        fit.missing.iter().map(|it| format!("`{}` {:?}", it.name, it.shape)).collect();
    if !missing.is_empty() {
        parts.push(format!("missing {}", listed(missing).join(", ")));
    }
    if !fit.unread.is_empty() {
        let unread: Vec<String> = fit.unread.iter().map(|name| format!("`{name}`")).collect();
        parts.push(format!("read by nothing {}", listed(unread).join(", ")));
    }
    format!("{opening}: {}", parts.join("; "))
}

/// The first twenty, and how many more.
fn listed(mut items: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 20;
    if SHOWN < items.len() {
        let n_more = items.len() - SHOWN;
        items.truncate(SHOWN);
        items.push(format!("and {n_more} more"));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes_of(name: &str, prefix: &str) -> Shapes {
        let graph = zoo::by_name(name).unwrap().build(10);
        graph.parameters().map(|it| (format!("{prefix}{}", it.name), it.shape)).collect()
    }

    #[test]
    fn every_architecture_is_recognised_as_itself() {
        for architecture in zoo::all() {
            let found = recognise(&shapes_of(&architecture.name, ""), None).unwrap();
            assert_eq!(found.name, architecture.name);
            assert_eq!((found.prefix.as_str(), found.unread), ("", vec![]));
        }
    }

    #[test]
    fn a_common_prefix_is_recognised() {
        let found = recognise(&shapes_of("resnet18", "module."), None).unwrap();
        assert_eq!((found.name.as_str(), found.prefix.as_str()), ("resnet18", "module."));
    }

    #[test]
    fn tensors_that_nothing_reads_are_named() {
        let mut shapes = shapes_of("resnet18", "");
        shapes.insert("ema.decay".into(), vec![]);
        assert_eq!(recognise(&shapes, None).unwrap().unread, ["ema.decay"]);
    }

    #[test]
    fn all_that_does_not_fit_is_said_at_once() {
        let mut shapes = shapes_of("resnet18", "");
        shapes.insert("conv1.weight".into(), vec![64, 1, 7, 7]);
        shapes.remove("fc.bias");
        shapes.insert("extra".into(), vec![3]);
        let message = recognise(&shapes, None).err().unwrap().to_string();
        assert_eq!(
            message,
            "no known architecture has these tensors; the closest is resnet18: `conv1.weight` is \
             [64, 1, 7, 7], resnet18 reads [64, 3, 7, 7]; missing `fc.bias` [10]; read by nothing `extra`"
        );
        let message =
            recognise(&shapes_of("resnet18", ""), Some("resnet34")).err().unwrap().to_string();
        assert!(
            message.starts_with("the tensors are not those of resnet34: missing `layer1.2.conv1"),
            "{message}"
        );
    }

    #[test]
    fn a_damaged_network_does_not_pass_as_a_shallower_one() {
        let mut shapes = shapes_of("resnet34", "");
        shapes.remove("layer3.5.bn2.bias");
        let message = recognise(&shapes, None).err().unwrap().to_string();
        assert!(
            message.ends_with("the closest is resnet34: missing `layer3.5.bn2.bias` [256]"),
            "{message}"
        );
    }
}
