//! The exemplars of a run on disk: `exemplars/<layer>/exemplars.safetensors`, `spread.safetensors` beside it
//! where places were drawn, and `exemplars/pictures.csv`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use half::f16;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use super::{Exemplars, SiteExemplars};
use crate::files::{self, write_whole};
use crate::inconclusive;
use crate::weights::words;
use crate::weights::write::{self, Entry};

const STRONGEST: &str = "exemplars.safetensors";
const SPREAD: &str = "spread.safetensors";

/// The folder of a site below the run's folder.
pub fn site_folder(out: &Path, site: &str) -> PathBuf {
    out.join("exemplars").join(site)
}

/// Writes every site, and which picture each id means. The same exemplars give the same bytes.
pub fn write(out: &Path, exemplars: &Exemplars, files: &[&str]) -> anyhow::Result<()> {
    for (file, sites) in [(STRONGEST, &exemplars.sites), (SPREAD, &exemplars.spread)] {
        for site in sites {
            write_whole(&site_folder(out, &site.site).join(file), &to_bytes(site))?;
        }
    }
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record(["id", "file"])?;
    for (id, file) in files.iter().enumerate() {
        table.write_record([id.to_string().as_str(), file])?;
    }
    write_whole(&out.join("exemplars").join("pictures.csv"), &table.into_inner()?)
}

/// Reads one site's strongest exemplars back. Errs where a tensor is missing or of another dtype or shape than
/// is written.
pub fn read(out: &Path, site: &str) -> anyhow::Result<SiteExemplars> {
    let path = site_folder(out, site).join(STRONGEST);
    let bytes = files::read(&path, files::MAX_DATA)
        .with_context(|| format!("cannot read {}", path.display()))?;
    from_bytes(site, &bytes).with_context(|| format!("cannot use {}", path.display()))
}

fn to_bytes(site: &SiteExemplars) -> Vec<u8> {
    let SiteExemplars { n_units: u, k, map: (h, w), .. } = *site;
    let metadata = [
        ("k", k.to_string()),
        ("n_pictures", site.n_pictures.to_string()),
        ("quantile", site.quantile.to_string()),
        ("site", site.site.clone()),
    ];
    // Wide types first, so that each tensor is aligned.
    let tensors = vec![
        Entry::new("ids", "I64", &[u, k], &site.ids, |&id| (id as i64).to_le_bytes()),
        Entry::f32("activations", &[u, k], &site.activations),
        Entry::f32("thresholds", &[u], &site.thresholds),
        Entry::new("maps", "F16", &[u, k, h, w], &site.maps, |it| it.to_le_bytes()),
        Entry::new("dead", "U8", &[u], &site.dead, |&it| [u8::from(it)]),
        Entry::new("saturated", "U8", &[u], &site.saturated, |&it| [u8::from(it)]),
    ];
    write::to_bytes(&metadata, tensors)
}

fn from_bytes(site: &str, bytes: &[u8]) -> anyhow::Result<SiteExemplars> {
    let damaged = |error| inconclusive!("it is damaged: {error}");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let maps = tensors.tensor("maps").map_err(damaged)?;
    let &[u, k, h, w] = maps.shape() else {
        return Err(inconclusive!("`maps` is {:?}; wanted (units, k, h, w)", maps.shape()));
    };
    let data = |name: &str, dtype: Dtype, shape: &[usize]| {
        let tensor = tensors.tensor(name).map_err(damaged)?;
        if (tensor.dtype(), tensor.shape()) != (dtype, shape) {
            return Err(inconclusive!(
                "`{name}` is {:?} {:?}; wanted {dtype:?} {shape:?}",
                tensor.dtype(),
                tensor.shape()
            ));
        }
        Ok(tensor.data())
    };
    let flags = |name: &str| -> anyhow::Result<Vec<bool>> {
        Ok(data(name, Dtype::U8, &[u])?.iter().map(|&it| it != 0).collect())
    };
    let ids = words(data("ids", Dtype::I64, &[u, k])?, i64::from_le_bytes);
    let ids: Result<Vec<usize>, _> = ids.into_iter().map(usize::try_from).collect();
    Ok(SiteExemplars {
        site: site.to_owned(),
        n_units: u,
        k,
        quantile: number(&header, "quantile")?,
        map: (h, w),
        n_pictures: number(&header, "n_pictures")?,
        ids: ids.map_err(|_| inconclusive!("`ids` holds a negative number"))?,
        activations: words(data("activations", Dtype::F32, &[u, k])?, f32::from_le_bytes),
        maps: words(data("maps", Dtype::F16, &[u, k, h, w])?, f16::from_le_bytes),
        thresholds: words(data("thresholds", Dtype::F32, &[u])?, f32::from_le_bytes),
        dead: flags("dead")?,
        // Files from before units were called saturated do not have it.
        saturated: match tensors.names().contains(&"saturated") {
            true => flags("saturated")?,
            false => vec![false; u],
        },
    })
}

/// A number kept as text in the header's metadata.
fn number<T: std::str::FromStr>(header: &Metadata, key: &str) -> anyhow::Result<T> {
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(key));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| inconclusive!("its metadata has no number `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};

    fn site() -> SiteExemplars {
        SiteExemplars {
            site: "layer1.0".into(),
            n_units: 2,
            k: 1,
            quantile: 0.99,
            map: (1, 2),
            n_pictures: 5,
            ids: vec![4, 0],
            activations: vec![1.25, 0.],
            maps: [0.5, 1.25, 0., 0.].map(f16::from_f32).to_vec(),
            thresholds: vec![0.5, 0.],
            dead: vec![false, true],
            saturated: vec![true, false],
        }
    }

    #[test]
    fn a_site_reads_back_as_written() {
        let out = tempfile::tempdir().unwrap();
        let exemplars = Exemplars { sites: vec![site()], ..Exemplars::default() };
        write(out.path(), &exemplars, &["a.jpg", "b,c.jpg"]).unwrap();
        assert_eq!(read(out.path(), "layer1.0").unwrap(), site());
        let pictures = std::fs::read_to_string(out.path().join("exemplars/pictures.csv")).unwrap();
        assert_eq!(pictures, "id,file\n0,a.jpg\n1,\"b,c.jpg\"\n");
        let left: Vec<_> =
            std::fs::read_dir(site_folder(out.path(), "layer1.0")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn the_header_is_in_one_order() {
        let bytes = to_bytes(&site());
        let header = String::from_utf8_lossy(&bytes[8..]);
        let start = r#"{"__metadata__":{"k":"1","n_pictures":"5","quantile":"0.99","site":"layer1.0"},"ids":"#;
        assert!(header.starts_with(start), "{header}");
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], part: &str) {
        let error = from_bytes("layer1.0", bytes).unwrap_err();
        assert_eq!(kind(&error), Kind::Inconclusive);
        assert!(error.to_string().contains(part), "{error}");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let whole = to_bytes(&site());
        check_refused(&whole[..whole.len() - 1], "damaged");
        check_refused(&whole[..20], "damaged");
        let with = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let place = whole.windows(from.len()).position(|it| it == from.as_bytes()).unwrap();
            let mut bytes = whole.clone();
            bytes[place..][..to.len()].copy_from_slice(to.as_bytes());
            bytes
        };
        check_refused(&with(r#""dead""#, r#""deed""#), "dead");
        check_refused(&with("[2,1,1,2]", "[1,2,1,2]"), "`ids` is I64 [2, 1]; wanted I64 [1, 2]");
        check_refused(&with("[2,1,1,2]", "[2,2  ,1]"), "`maps` is [2, 2, 1]");
        check_refused(&with("\"0.99\"", "\"much\""), "quantile");
        let mut negative = whole.clone();
        let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        negative[8 + length + 7] = 0x80;
        check_refused(&negative, "negative");
    }
}
