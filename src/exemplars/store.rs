//! The exemplars of a run on disk: `exemplars/<layer>/exemplars.safetensors` and `exemplars/pictures.csv`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::{Exemplars, SiteExemplars};
use crate::inconclusive;

/// The folder of a site below the run's folder.
pub fn site_folder(out: &Path, site: &str) -> PathBuf {
    out.join("exemplars").join(site)
}

/// Writes every site, and which picture each id means. The same exemplars give the same bytes.
pub fn write(out: &Path, exemplars: &Exemplars, files: &[&str]) -> anyhow::Result<()> {
    for site in &exemplars.sites {
        let folder = site_folder(out, &site.site);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        write_whole(&folder.join("exemplars.safetensors"), &to_bytes(site)?)?;
    }
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record(["id", "file"])?;
    for (id, file) in files.iter().enumerate() {
        table.write_record([id.to_string().as_str(), file])?;
    }
    write_whole(&out.join("exemplars").join("pictures.csv"), &table.into_inner()?)
}

/// Reads one site back. Maps are kept in half precision.
pub fn read(out: &Path, site: &str) -> anyhow::Result<SiteExemplars> {
    let path = site_folder(out, site).join("exemplars.safetensors");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    from_bytes(site, &bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// Beside, synced, renamed: a file is there whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    let writing = || format!("cannot write {}", path.display());
    let folder = path.parent().with_context(writing)?;
    std::fs::create_dir_all(folder).with_context(writing)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(writing)?;
    file.write_all(bytes).with_context(writing)?;
    file.persist(path).with_context(writing)?;
    Ok(())
}

fn to_bytes(site: &SiteExemplars) -> anyhow::Result<Vec<u8>> {
    let SiteExemplars { n_units: u, k, map: (h, w), .. } = *site;
    let bytes =
        |name: &'static str, dtype, shape: Vec<usize>, data: Vec<u8>| (name, dtype, shape, data);
    let tensors = [
        bytes(
            "activations",
            Dtype::F32,
            vec![u, k],
            site.activations.iter().flat_map(|it| it.to_le_bytes()).collect(),
        ),
        bytes("dead", Dtype::U8, vec![u], site.dead.iter().map(|&it| u8::from(it)).collect()),
        bytes(
            "ids",
            Dtype::I64,
            vec![u, k],
            site.ids.iter().flat_map(|&it| (it as i64).to_le_bytes()).collect(),
        ),
        bytes(
            "maps",
            Dtype::F16,
            vec![u, k, h, w],
            site.maps.iter().flat_map(|&it| f16::from_f32(it).to_le_bytes()).collect(),
        ),
        bytes("n_pictures", Dtype::I64, vec![1], (site.n_pictures as i64).to_le_bytes().to_vec()),
        bytes(
            "thresholds",
            Dtype::F32,
            vec![u],
            site.thresholds.iter().flat_map(|it| it.to_le_bytes()).collect(),
        ),
    ];
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), data)?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    // Several metadata keys would come in a random order; one does not.
    let metadata = HashMap::from([("site".to_owned(), site.site.clone())]);
    Ok(serialize(views, Some(metadata))?)
}

fn from_bytes(site: &str, bytes: &[u8]) -> anyhow::Result<SiteExemplars> {
    let tensors =
        SafeTensors::deserialize(bytes).map_err(|error| inconclusive!("it is damaged: {error}"))?;
    let tensor = |name: &str| tensors.tensor(name).map_err(|_| inconclusive!("it has no `{name}`"));
    let floats = |name: &str| anyhow::Ok(words(tensor(name)?.data(), f32::from_le_bytes));
    let integers =
        |name: &str| anyhow::Ok(words(tensor(name)?.data(), |it| i64::from_le_bytes(it) as usize));
    let maps = tensor("maps")?;
    let [n_units, k, h, w] = maps.shape() else {
        return Err(inconclusive!("`maps` is {:?}; wanted (units, k, h, w)", maps.shape()));
    };
    Ok(SiteExemplars {
        site: site.to_owned(),
        n_units: *n_units,
        k: *k,
        map: (*h, *w),
        n_pictures: integers("n_pictures")?.first().copied().unwrap_or_default(),
        ids: integers("ids")?,
        activations: floats("activations")?,
        maps: words(maps.data(), |it| f16::from_le_bytes(it).to_f32()),
        thresholds: floats("thresholds")?,
        dead: tensor("dead")?.data().iter().map(|&it| it != 0).collect(),
    })
}

fn words<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|word| value(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_reads_back_as_written_and_the_same_twice() {
        let site = SiteExemplars {
            site: "layer1.0".into(),
            n_units: 2,
            k: 1,
            map: (1, 2),
            n_pictures: 5,
            ids: vec![4, 0],
            activations: vec![1.25, 0.],
            maps: vec![0.5, 1.25, 0., 0.],
            thresholds: vec![0.5, 0.],
            dead: vec![false, true],
        };
        let out = tempfile::tempdir().unwrap();
        let exemplars = Exemplars { sites: vec![site.clone()] };
        write(out.path(), &exemplars, &["a.jpg", "b,c.jpg"]).unwrap();
        assert_eq!(read(out.path(), "layer1.0").unwrap(), site);
        assert_eq!(to_bytes(&site).unwrap(), to_bytes(&site).unwrap());
        let pictures = std::fs::read_to_string(out.path().join("exemplars/pictures.csv")).unwrap();
        assert_eq!(pictures, "id,file\n0,a.jpg\n1,\"b,c.jpg\"\n");
    }
}
