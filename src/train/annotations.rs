//! What people said of units, and the units' exemplars.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use half::f16;
use safetensors::{Dtype, SafeTensors};

use crate::exemplars::SiteExemplars;
use crate::files::{self, sha256};
use crate::unit::Unit;
use crate::weights::words;
use crate::{inconclusive, usage};

/// A unit that people described.
#[derive(Debug, Clone)]
pub struct Annotated {
    pub unit: Unit,
    /// The place of its layer among those of the exemplars, and its own there.
    pub site: usize,
    pub row: usize,
    /// In small letters, one a person.
    pub texts: Vec<String>,
    /// What tells it from other annotated units, whatever form its exemplars come in: a digest of its name and
    /// of what was said.
    pub key: String,
}

/// Finds the columns of a table by their names.
pub(super) fn columns(
    reader: &mut csv::Reader<std::fs::File>,
    path: &Path,
) -> anyhow::Result<impl Fn(&str) -> anyhow::Result<usize> + use<>> {
    let path = path.display().to_string();
    let header = reader.headers().map_err(|error| usage!("{path}: {error}"))?.clone();
    Ok(move |name: &str| {
        header.iter().position(|it| it == name).ok_or_else(|| {
            let found: Vec<&str> = header.iter().collect();
            usage!("{path} has no column `{name}`; it has {}", found.join(", "))
        })
    })
}

/// The rows of some columns of a table.
pub(super) fn rows<const N: usize>(
    path: &Path,
    names: [&str; N],
) -> anyhow::Result<Vec<[String; N]>> {
    let mut reader = csv::Reader::from_path(path)
        .map_err(|error| usage!("cannot read the table {}: {error}", path.display()))?;
    let column = columns(&mut reader, path)?;
    let places = names.iter().map(|it| column(it)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| usage!("{}: {error}", path.display()))?;
        let field = |at: usize| record.get(places[at]).unwrap_or_default().trim().to_owned();
        rows.push(std::array::from_fn(field));
    }
    Ok(rows)
}

/// Reads `layer,unit,summary` and joins it with the exemplars, in the order of the file. `row` says where
/// in a layer the unit of a number is.
pub fn read(
    path: &Path,
    layers: &[&str],
    row: impl Fn(usize, usize) -> Option<usize>,
) -> anyhow::Result<Vec<Annotated>> {
    let mut reader = csv::Reader::from_path(path)
        .map_err(|error| usage!("cannot read the annotations {}: {error}", path.display()))?;
    let column = columns(&mut reader, path)?;
    let (layer, unit, summary) = (column("layer")?, column("unit")?, column("summary")?);
    let mut order = Vec::new();
    let mut texts: BTreeMap<Unit, Vec<String>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(|error| usage!("{}: {error}", path.display()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).unwrap_or_default().trim();
        let channel = field(unit).parse().map_err(|_| {
            usage!("{}:{line}: `{}` is no unit's number", path.display(), field(unit))
        })?;
        let unit = Unit::new(field(layer), channel);
        if !texts.contains_key(&unit) {
            order.push(unit.clone());
        }
        let said = field(summary).to_lowercase();
        texts.entry(unit).or_default().extend((!said.is_empty()).then_some(said));
    }
    let mut annotated = Vec::with_capacity(order.len());
    for unit in order {
        let texts = texts.remove(&unit).unwrap_or_default();
        let site = layers.iter().position(|it| *it == unit.site);
        let place = site.and_then(|site| Some((site, row(site, unit.channel)?)));
        let Some((site, row)) = place else {
            return Err(usage!("{} describes {unit}, which has no exemplars", path.display()));
        };
        if !texts.is_empty() {
            let mut sorted = texts.clone();
            sorted.sort();
            let key = sha256(format!("{unit} {sorted:?}").as_bytes())[..12].to_owned();
            annotated.push(Annotated { unit, site, row, texts, key });
        }
    }
    if annotated.is_empty() {
        return Err(usage!("{} describes no unit", path.display()));
    }
    Ok(annotated)
}

/// Which part of all things one belongs to, `0..n`: by its name alone, so that it stays there. The sha256 of
/// the name as a number, modulo `n`.
pub fn part(name: &str, n: u32) -> u32 {
    sha256(name.as_bytes())
        .chars()
        .filter_map(|it| it.to_digit(16))
        .fold(0, |rest, digit| (16 * rest + digit) % n)
}

/// Exemplars of several layers in one file: `L.ids` and `L.activations` `(units, k)`, `L.maps`
/// `(units, k, h, w)` in half precision, `L.thresholds` `(units,)`.
pub fn exemplars(path: &Path) -> anyhow::Result<Vec<SiteExemplars>> {
    let bytes = files::read(path, files::MAX_DATA)
        .map_err(|error| usage!("cannot read the exemplars {}: {error}", path.display()))?;
    let read = || -> anyhow::Result<Vec<SiteExemplars>> {
        let damaged = |error| inconclusive!("it is damaged: {error}");
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        let mut sites: Vec<String> =
            names.iter().filter_map(|it| Some(it.strip_suffix(".maps")?.to_owned())).collect();
        sites.sort();
        if sites.is_empty() {
            return Err(inconclusive!("it has no tensor `LAYER.maps`"));
        }
        sites
            .into_iter()
            .map(|site| {
                let tensor = |leaf: &str| {
                    let name = format!("{site}.{leaf}");
                    file.tensor(&name).map_err(|_| inconclusive!("`{name}` is missing"))
                };
                let maps = tensor("maps")?;
                let &[n_units, k, h, w] = maps.shape() else {
                    return Err(inconclusive!("`{site}.maps` is {:?}", maps.shape()));
                };
                let floats = |leaf: &str, n: usize| {
                    let view = tensor(leaf)?;
                    let values: Vec<f32> = match view.dtype() {
                        Dtype::F32 => words(view.data(), f32::from_le_bytes),
                        Dtype::F16 => words(view.data(), |it| f16::from_le_bytes(it).to_f32()),
                        other => return Err(inconclusive!("`{site}.{leaf}` is of type {other:?}")),
                    };
                    let right = values.len() == n;
                    let unfit =
                        || inconclusive!("`{site}.{leaf}` is {:?}, not {n} long", view.shape());
                    right.then_some(values).ok_or_else(unfit)
                };
                let ids = tensor("ids")?;
                let numbers: Vec<i64> = match ids.dtype() {
                    Dtype::I64 => words(ids.data(), i64::from_le_bytes),
                    Dtype::I32 => words(ids.data(), |it| i32::from_le_bytes(it).into()),
                    Dtype::U32 => words(ids.data(), |it| u32::from_le_bytes(it).into()),
                    other => return Err(inconclusive!("`{site}.ids` is of type {other:?}")),
                };
                let ids: Result<Vec<usize>, _> = numbers.into_iter().map(usize::try_from).collect();
                let ids = ids.map_err(|_| inconclusive!("`{site}.ids` holds a negative number"))?;
                if ids.len() != n_units * k || maps.dtype() != Dtype::F16 {
                    return Err(inconclusive!("`{site}.ids` and `{site}.maps` do not fit"));
                }
                Ok(SiteExemplars {
                    n_units,
                    k,
                    quantile: 0.99,
                    map: (h, w),
                    n_pictures: 0,
                    ids,
                    activations: floats("activations", n_units * k)?,
                    maps: words(maps.data(), f16::from_le_bytes),
                    thresholds: floats("thresholds", n_units)?,
                    dead: vec![false; n_units],
                    saturated: vec![false; n_units],
                    site,
                })
            })
            .collect()
    };
    read().with_context(|| format!("cannot use the exemplars {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_stays_in_its_part() {
        // int(sha256(b"layer1/7").hexdigest(), 16) % 90 and % 10 in Python.
        assert_eq!(part("layer1/7", 90), 2);
        assert_eq!(part("layer1/7", 90) % 10, part("layer1/7", 10));
    }

    #[test]
    fn what_people_said_is_joined_with_the_exemplars() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("said.csv");
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let row = |_, number: usize| (number < 2).then_some(number);
            read(&path, &["a"], row)
        };
        let found = check("unit,layer,summary\n1,a,Dogs\n0,a, \n1,a,\"cats, dogs\"\n").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].unit.channel, &found[0].texts[..]),
            (1, &["dogs".into(), "cats, dogs".into()][..])
        );
        for (text, part) in [
            ("layer,unit\na,1\n", "no column `summary`; it has layer, unit"),
            ("layer,unit,summary\na,x,dogs\n", ":2: `x` is no unit's number"),
            ("layer,unit,summary\na,2,dogs\n", "describes a:2, which has no exemplars"),
            ("layer,unit,summary\n", "describes no unit"),
        ] {
            let error = check(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
