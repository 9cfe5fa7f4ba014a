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
    missing: Vec<String>,
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
    let fits = candidates.iter().flat_map(|candidate| {
        let prefixes = prefixes(candidate, shapes);
        prefixes.into_iter().map(|prefix| fit(candidate, prefix, shapes))
    });
    // A deeper network that lacks a tensor must not pass as a shallower one with tensors to spare, so
    // what is left unread counts as much as what is missing. Of equals the first in the table's order.
    let closest = fits.min_by_key(|fit| {
        let n_wrong = fit.missing.len() + fit.misshapen.len() + fit.unread.len();
        (n_wrong, std::cmp::Reverse(fit.n_fitting))
    });
    let Some(fit) = closest else { return Err(inconclusive!("no architecture is known")) };
    if fit.missing.is_empty() && fit.misshapen.is_empty() {
        let Fit { name, graph, prefix, unread, .. } = fit;
        return Ok(Recognised { name, graph, prefix, unread });
    }
    match arch {
        Some(name) => Err(inconclusive!("the tensors are not those of {name}: {}", misfit(&fit))),
        None if fit.n_fitting == 0 => Err(inconclusive!(
            "the tensors are those of no known architecture: {} (known: {})",
            listed(shapes.keys()),
            zoo::KNOWN
        )),
        None => Err(inconclusive!(
            "the tensors fit no known architecture; the closest is {}: {}",
            fit.name,
            misfit(&fit)
        )),
    }
}

/// What may stand before every tensor name: whatever stands before the last layer's, or in a file
/// without it the first layer's. The shortest few, because a file can name a layer any number of times.
fn prefixes(architecture: &Architecture, shapes: &Shapes) -> Vec<String> {
    const TRIED: usize = 4;
    let mut found = before(&format!("{}.weight", architecture.head), shapes);
    if found.is_empty() {
        let first = architecture.build(1).parameters().next();
        found = first.map_or(vec![], |first| before(&first.name, shapes));
    }
    if found.is_empty() {
        found.push(String::new());
    }
    found.sort_by_key(String::len);
    found.truncate(TRIED);
    found
}

/// Everything that stands before `name` in the checkpoint, whole components only, in order.
fn before(name: &str, shapes: &Shapes) -> Vec<String> {
    let prefixes = shapes.keys().filter_map(|tensor| tensor.strip_suffix(name));
    prefixes.filter(|it| it.is_empty() || it.ends_with('.')).map(str::to_owned).collect()
}

fn fit(architecture: &Architecture, prefix: String, shapes: &Shapes) -> Fit {
    let head = shapes.get(&format!("{prefix}{}.weight", architecture.head));
    let n_classes = head.and_then(|shape| shape.first().copied()).unwrap_or(1);
    // A network of no classes fits no file: its last layer is then misshapen.
    let graph = architecture.build(n_classes.max(1));

    let mut read = BTreeSet::new();
    let (mut n_fitting, mut missing, mut misshapen) = (0, vec![], vec![]);
    for parameter in graph.parameters() {
        let parameter = Parameter { name: format!("{prefix}{}", parameter.name), ..parameter };
        match shapes.get(&parameter.name) {
            None if parameter.optional => {}
            None => missing.push(parameter.name),
            Some(found) => {
                if parameter.optional || *found == parameter.shape {
                    n_fitting += 1;
                } else {
                    misshapen.push((parameter.clone(), found.clone()));
                }
                read.insert(parameter.name);
            }
        }
    }
    let unread = shapes.keys().filter(|name| !read.contains(*name)).cloned().collect();
    let name = architecture.name.clone();
    Fit { name, graph, prefix, n_fitting, missing, misshapen, unread }
}

/// Everything that does not fit, in one line.
fn misfit(fit: &Fit) -> String {
    let mut parts: Vec<String> = vec![];
    for (wanted, found) in fit.misshapen.iter().take(SHOWN) {
        let (found, wanted_shape) = (tuple(found), tuple(&wanted.shape));
        parts.push(format!("`{}` is {found}, {} reads {wanted_shape}", wanted.name, fit.name));
    }
    if SHOWN < fit.misshapen.len() {
        parts.push(format!("{} more of another shape", fit.misshapen.len() - SHOWN));
    }
    if !fit.missing.is_empty() {
        parts.push(format!("missing {}", listed(&fit.missing)));
    }
    match fit.unread.len() {
        0 => {}
        1 => parts.push(format!("1 tensor is read by nothing: {}", listed(&fit.unread))),
        n => parts.push(format!("{n} tensors are read by nothing: {}", listed(&fit.unread))),
    }
    parts.join("; ")
}

/// So many of a kind are named in a message.
const SHOWN: usize = 20;

/// The first names in code marks, and how many more there are.
fn listed<'a>(names: impl IntoIterator<Item = &'a String, IntoIter: ExactSizeIterator>) -> String {
    let names = names.into_iter();
    let n_more = names.len().saturating_sub(SHOWN);
    let mut shown: Vec<String> = names.take(SHOWN).map(|name| format!("`{name}`")).collect();
    if 0 < n_more {
        shown.push(format!("and {n_more} more"));
    }
    shown.join(", ")
}

/// A shape as it is written: `(64, 3, 7, 7)`.
fn tuple(shape: &[usize]) -> String {
    let sides: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({}{})", sides.join(", "), if sides.len() == 1 { "," } else { "" })
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

    /// The message for the tensors of `name` after a change.
    fn message(name: &str, change: impl Fn(&mut Shapes)) -> String {
        let mut shapes = shapes_of(name, "");
        change(&mut shapes);
        recognise(&shapes, None).err().unwrap().to_string()
    }

    #[test]
    fn all_that_does_not_fit_is_said_at_once() {
        let message = message("resnet18", |shapes| {
            shapes.insert("conv1.weight".into(), vec![64, 1, 7, 7]);
            shapes.insert("extra".into(), vec![3]);
            shapes.insert("more".into(), vec![3]);
            shapes.insert("bn1.bias".into(), vec![32]);
            shapes.remove("fc.bias");
        });
        assert_eq!(
            message,
            "the tensors fit no known architecture; the closest is resnet18: `conv1.weight` is \
             (64, 1, 7, 7), resnet18 reads (64, 3, 7, 7); `bn1.bias` is (32,), resnet18 reads (64,); \
             missing `fc.bias`; 2 tensors are read by nothing: `extra`, `more`"
        );
    }

    #[test]
    fn a_named_architecture_is_the_only_one_tried() {
        let message = recognise(&shapes_of("resnet18", ""), Some("resnet34")).err().unwrap();
        let message = message.to_string();
        assert!(message.starts_with(
            "the tensors are not those of resnet34: missing `layer1.2.conv1.weight`,"
        ));
        assert!(message.ends_with("`layer2.2.bn2.running_var`, and 60 more"), "{message}");
    }

    #[test]
    fn a_damaged_network_does_not_pass_as_a_shallower_one() {
        let message = message("resnet34", |shapes| {
            shapes.remove("layer3.5.bn2.bias");
        });
        assert!(
            message.ends_with("the closest is resnet34: missing `layer3.5.bn2.bias`"),
            "{message}"
        );
    }

    #[test]
    fn a_network_without_its_last_layer_is_still_the_closest() {
        let mut shapes = shapes_of("resnet18", "backbone.");
        shapes.retain(|name, _| !name.contains(".fc."));
        let message = recognise(&shapes, None).err().unwrap().to_string();
        let wanted = "closest is resnet18: missing `backbone.fc.weight`, `backbone.fc.bias`";
        assert!(message.ends_with(wanted), "{message}");
    }

    #[test]
    fn a_last_layer_of_no_classes_or_another_rank_does_not_fit() {
        for (shape, said) in
            [(vec![0, 512], "(0, 512)"), (vec![10, 512, 1, 1], "(10, 512, 1, 1)"), (vec![], "()")]
        {
            let message = message("resnet18", |shapes| {
                shapes.insert("fc.weight".into(), shape.clone());
            });
            assert!(
                message.contains(&format!("`fc.weight` is {said}, resnet18 reads (")),
                "{message}"
            );
        }
    }

    #[test]
    fn of_two_networks_in_a_file_the_first_is_read() {
        let mut shapes = shapes_of("cifar_resnet8", "b.student.");
        shapes.extend(shapes_of("cifar_resnet8", "a.teacher."));
        shapes.insert("c.linear.weight".into(), vec![2, 2]);
        let found = recognise(&shapes, None).unwrap();
        assert_eq!((found.name.as_str(), found.prefix.as_str()), ("cifar_resnet8", "a.teacher."));
        assert_eq!(found.unread.len(), 1 + shapes.len() / 2);
    }

    #[test]
    fn a_stranger_is_told_what_is_known() {
        let shapes = Shapes::from([("mid_block.attentions.0.to_q.weight".into(), vec![64, 64])]);
        let message = recognise(&shapes, None).err().unwrap().to_string();
        let wanted = "the tensors are those of no known architecture: `mid_block.attentions.0.to_q.weight` (known: resnet18, ";
        assert!(message.starts_with(wanted), "{message}");
        assert!(recognise(&Shapes::new(), None).is_err());
    }
}
