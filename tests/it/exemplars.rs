//! Exemplars against a straightforward script's, `tests/data/exemplars.py`.

use candle_core::{Device, Tensor};
use milan::exemplars::{Config, Exemplars, Gather, SiteExemplars, export, mask, store};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Golden {
    quantile: f64,
    sites: Vec<Site>,
}

#[derive(Deserialize)]
struct Site {
    site: String,
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    k: usize,
    side: usize,
    ids: Vec<usize>,
    dead: Vec<bool>,
    thresholds: Vec<f32>,
    /// Eight pixels a byte, each unit beginning a new one.
    masks: String,
    images_npy: String,
    masks_npy: String,
    ids_csv: String,
    activations_csv: String,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../data/exemplars.json")).unwrap()
}

impl Site {
    /// The script's formula for one unit's value.
    fn value(&self, picture: usize, unit: usize, i: usize) -> f32 {
        let (y, x) = (i / self.w, i % self.w);
        let far = y.abs_diff((picture * 5 + unit) % self.h);
        let far = far + x.abs_diff((picture * 3 + unit * 2) % self.w);
        let hill = 2000 * far / (self.h + self.w);
        let noise = picture * 9301 + unit * 49297 + picture * picture * 31;
        let noise = (noise + i * i * (unit + 1) * 17) % 401;
        let value = (noise as f32 + 1100. - hill as f32) / 64.;
        match unit {
            1 => value.max(0.),
            2 => value.clamp(0., 6.),
            3 => 0.5,
            _ => value,
        }
    }

    fn values(&self, picture: usize, unit: usize) -> impl Iterator<Item = f32> {
        (0..self.h * self.w).map(move |i| self.value(picture, unit, i))
    }

    fn outputs(&self, ids: &[usize]) -> Tensor {
        let of_picture = |&id| (0..self.c).flat_map(move |unit| self.values(id, unit));
        let values: Vec<f32> = ids.iter().flat_map(of_picture).collect();
        Tensor::from_vec(values, (ids.len(), self.c, self.h, self.w), &Device::Cpu).unwrap()
    }

    fn gather(&self, quantile: f64, pictures: std::ops::Range<usize>) -> Gather {
        let mut gather = Gather::new(&self.site, Config { top_k: self.k, quantile });
        let ids: Vec<usize> = pictures.collect();
        for ids in ids.chunks(7) {
            gather.add(&self.outputs(ids), ids).unwrap();
        }
        gather
    }

    fn find(&self, quantile: f64) -> SiteExemplars {
        self.gather(quantile, 0..self.n).finish().unwrap()
    }

    /// `(c, k, side, side)`.
    fn masks(&self) -> Vec<bool> {
        let bytes = self
            .masks
            .as_bytes()
            .chunks(2)
            .map(|it| u8::from_str_radix(std::str::from_utf8(it).unwrap(), 16).unwrap());
        let bits: Vec<bool> =
            bytes.flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1)).collect();
        bits.chunks(bits.len() / self.c)
            .flat_map(|unit| unit[..self.k * self.side * self.side].to_vec())
            .collect()
    }
}

#[test]
fn pictures_and_thresholds_are_the_scripts() {
    let golden = golden();
    for site in &golden.sites {
        let found = site.find(golden.quantile);
        assert_eq!(found.ids, site.ids, "{}", site.site);
        assert_eq!(found.dead, site.dead, "{}", site.site);
        if site.n * site.h * site.w <= 8192 {
            assert_eq!(found.thresholds, site.thresholds, "{}", site.site);
            continue;
        }
        for unit in 0..site.c {
            let values: Vec<f32> =
                (0..site.n).flat_map(|picture| site.values(picture, unit)).collect();
            let share = |n: usize| n as f64 / values.len() as f64;
            let at = found.thresholds[unit];
            let below = share(values.iter().filter(|&&value| value < at).count());
            let up_to = share(values.iter().filter(|&&value| value <= at).count());
            let range = below - 1e-3..=up_to + 1e-3;
            assert!(range.contains(&golden.quantile), "{} {unit}: {range:?}", site.site);
        }
    }
}

#[test]
fn masks_are_the_scripts() {
    let golden = golden();
    for site in &golden.sites {
        let found = site.find(golden.quantile);
        let mut masks = vec![];
        for unit in 0..site.c {
            for rank in 0..site.k {
                let map = found.map(unit, rank);
                masks.extend(mask(map, (site.h, site.w), site.thresholds[unit], site.side));
            }
        }
        assert!(masks.contains(&true) && masks.contains(&false));
        let wrong = masks.iter().zip(site.masks()).filter(|&(&a, b)| a != b).count();
        assert_eq!(wrong, 0, "pixels of {} in {}", masks.len(), site.site);
    }
}

#[test]
fn pictures_seen_in_two_parts_give_the_same() {
    let golden = golden();
    for site in &golden.sites {
        let whole = site.find(golden.quantile);
        let mut parts = site.gather(golden.quantile, 11..site.n);
        parts.merge(site.gather(golden.quantile, 0..11)).unwrap();
        let parts = parts.finish().unwrap();
        assert_eq!((&parts.ids, &parts.maps), (&whole.ids, &whole.maps));
        if site.n * site.h * site.w <= 8192 {
            assert_eq!(parts, whole);
        }
    }
}

#[test]
fn the_export_is_numpys_byte_for_byte() {
    let golden = golden();
    let out = tempfile::tempdir().unwrap();
    for site in golden.sites.iter().filter(|site| site.n * site.h * site.w <= 8192) {
        let found = site.find(golden.quantile);
        let mut asked = vec![];
        let mut picture = |id: usize| {
            asked.push(id);
            Ok((0..3 * site.side * site.side).map(|i| ((id * 31 + i * 7) % 251) as u8).collect())
        };
        export::export(out.path(), &found, site.side, &mut picture).unwrap();
        let read = |name: &str| {
            std::fs::read(store::site_folder(out.path(), &site.site).join(name)).unwrap()
        };
        let digest = |name: &str| -> String {
            Sha256::digest(read(name)).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(digest("images.npy"), site.images_npy, "{}", site.site);
        assert_eq!(digest("masks.npy"), site.masks_npy, "{}", site.site);
        assert_eq!(read("ids.csv"), site.ids_csv.as_bytes(), "{}", site.site);
        assert_eq!(read("activations.csv"), site.activations_csv.as_bytes(), "{}", site.site);
        let mut once = asked.clone();
        once.dedup();
        assert_eq!(asked, once, "each picture is read once");
    }
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let golden = golden();
    let out = tempfile::tempdir().unwrap();
    let site = &golden.sites[0];
    let error =
        export::export(out.path(), &site.find(golden.quantile), site.side, &mut |_| Ok(vec![0; 7]));
    let message = format!("{:#}", error.unwrap_err());
    assert!(message.contains("images.npy") && message.contains("7 bytes"), "{message}");
    let folder = store::site_folder(out.path(), &site.site);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn what_is_stored_reads_back() {
    let golden = golden();
    let out = tempfile::tempdir().unwrap();
    let sites = golden.sites.iter().map(|site| site.find(golden.quantile)).collect();
    let exemplars = Exemplars { sites };
    store::write(out.path(), &exemplars, &["0.jpg"]).unwrap();
    for site in &exemplars.sites {
        assert_eq!(&store::read(out.path(), &site.site).unwrap(), site);
    }
    let message = format!("{:#}", store::read(out.path(), "layer9").unwrap_err());
    assert!(message.contains("layer9"), "{message}");
}
