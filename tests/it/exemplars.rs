//! Exemplars against a straightforward script's, `tests/data/exemplars.py`.

use std::path::Path;

use candle_core::{Device, Tensor};
use milan::data::{self, Preprocess};
use milan::exemplars::{Config, Exemplars, Gather, PictureKey, SiteExemplars, export, mask, store};
use milan::files::sha256;
use milan::model::Model;
use milan::model::run::Ablate;
use milan::pass::{Probe, Settings, pass};
use milan::weights::Weights;
use serde::Deserialize;

use crate::support::{folder, planted_files, run, shared_data, unhex};

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
    saturated: Vec<bool>,
    thresholds: Vec<f32>,
    /// Eight pixels a byte, each unit beginning a new one.
    masks: String,
    images_npy: String,
    masks_npy: String,
    ids_csv: String,
    activations_csv: String,
}

fn numbered(ids: &[usize]) -> Vec<PictureKey> {
    ids.iter().copied().map(PictureKey::numbered).collect()
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
        let mut gather = Gather::new(
            &self.site,
            Config { top_k: self.k, quantile, ..Config::default() },
            self.n,
        );
        let ids: Vec<usize> = pictures.collect();
        for ids in ids.chunks(7) {
            gather.add(&self.outputs(ids), &numbered(ids)).unwrap();
        }
        gather
    }

    fn find(&self, quantile: f64) -> SiteExemplars {
        self.gather(quantile, 0..self.n).finish().unwrap().0
    }

    /// `(c, k, side, side)`.
    fn masks(&self) -> Vec<bool> {
        let bits = bits(&self.masks);
        bits.chunks(bits.len() / self.c)
            .flat_map(|unit| unit[..self.k * self.side * self.side].to_vec())
            .collect()
    }
}

/// Eight a byte, the first in the highest place, bytes in hex.
fn bits(hex: &str) -> Vec<bool> {
    let bytes = unhex(hex).into_iter();
    bytes.flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1)).collect()
}

#[test]
fn pictures_and_thresholds_are_the_scripts() {
    let golden = golden();
    for site in &golden.sites {
        let found = site.find(golden.quantile);
        assert_eq!(found.ids, site.ids, "{}", site.site);
        assert_eq!(found.dead, site.dead, "{}", site.site);
        assert_eq!(found.saturated, site.saturated, "{}", site.site);
        assert_eq!(found.thresholds, site.thresholds, "{}", site.site);
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
        let parts = parts.finish().unwrap().0;
        assert_eq!(parts, whole);
    }
}

#[test]
fn the_export_is_numpys_byte_for_byte() {
    let golden = golden();
    let out = tempfile::tempdir().unwrap();
    for site in &golden.sites {
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
        let digest = |name: &str| sha256(&read(name));
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
    let exemplars = Exemplars { sites, ..Exemplars::default() };
    store::write(out.path(), &exemplars, &["0.jpg"]).unwrap();
    for site in &exemplars.sites {
        assert_eq!(&store::read(out.path(), &site.site).unwrap(), site);
    }
    let message = format!("{:#}", store::read(out.path(), "layer9").unwrap_err());
    assert!(message.contains("layer9"), "{message}");
}

/// What `tests/data/exemplars_photographs.py` found with PyTorch.
#[derive(Deserialize)]
struct Photographs {
    pictures: Vec<String>,
    k: usize,
    /// One unit in so many was kept.
    step: usize,
    side: usize,
    sites: Vec<PhotographSite>,
}

#[derive(Deserialize)]
struct PhotographSite {
    site: String,
    ids: Vec<Vec<usize>>,
    /// Values of a rank 1e-3 below and above the threshold's.
    low: Vec<f32>,
    high: Vec<f32>,
    masks: String,
}

#[test]
fn exemplars_of_a_real_network_are_pytorchs() {
    let Some(weights) = shared_data("models/mobilenet_v2.safetensors") else { return };
    let Some(images) = shared_data("images") else { return };
    let golden: Photographs =
        serde_json::from_str(include_str!("../data/exemplars_photographs.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in &golden.pictures {
        std::fs::copy(images.join(name), folder.path().join(name)).unwrap();
    }
    let model = Model::load(&Weights::open(&weights).unwrap(), None, &Device::Cpu).unwrap();
    let dataset = data::open(folder.path(), &[]).unwrap();
    let probe = Probe { dataset, preprocess: Preprocess::of(&model.arch) };
    let settings = Settings {
        batch_size: 16,
        threads: 2,
        max_unreadable: 0.,
        exemplars: Config { top_k: golden.k, ..Config::default() },
    };
    let sites: Vec<String> = golden.sites.iter().map(|site| site.site.clone()).collect();
    let found =
        pass(&model.network, &probe, &sites, &Ablate::default(), &settings, "", &|_, _, _| Ok(()))
            .unwrap();
    let (mut n_same, mut n_ids, mut ious) = (0, 0, vec![]);
    for (site, golden_site) in found.exemplars.sites.iter().zip(&golden.sites) {
        let masks = bits(&golden_site.masks);
        let n_pixels = golden.side * golden.side;
        for (place, wanted) in golden_site.ids.iter().enumerate() {
            let unit = place * golden.step;
            if site.dead[unit] {
                continue; // Any pictures are as good as any others.
            }
            n_ids += wanted.len();
            n_same += site.ids(unit).iter().filter(|id| wanted.contains(id)).count();
            let range = golden_site.low[place]..=golden_site.high[place];
            let threshold = site.thresholds[unit];
            assert!(range.contains(&threshold), "{} {unit}: {threshold}, {range:?}", site.site);
            if site.ids(unit)[0] == wanted[0] {
                let mask = site.mask(unit, 0, golden.side);
                let pairs = || mask.iter().zip(&masks[place * n_pixels..]);
                let both = pairs().filter(|(a, b)| **a && **b).count();
                let either = pairs().filter(|(a, b)| **a || **b).count();
                ious.push(if either == 0 { 1. } else { both as f64 / either as f64 });
            }
        }
    }
    let same = n_same as f64 / n_ids as f64;
    let iou = ious.iter().sum::<f64>() / ious.len() as f64;
    println!("{:.3} % of {n_ids} ids, mean IoU {iou:.4} of {} masks", 100. * same, ious.len());
    assert!(0.99 <= same && 0.99 <= iou, "{same} {iou}");
}

/// 1,024 units of 14 x 14 positions over 100,000 pictures. Takes minutes, so it is run on demand:
/// `cargo test --release --test it -- --ignored --nocapture hundred_thousand`.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes minutes"]
fn a_hundred_thousand_pictures_fit_in_a_gibibyte() {
    let config = Config::default();
    let mut gather = Gather::new("layer", config, 100_000);
    let n = 1024 * 14 * 14;
    let mut values: Vec<f32> = (0..8 * n).map(|i| (i * 7919 % 10_007) as f32).collect();
    for first in (0..100_000).step_by(8) {
        // Never the same twice, and rising here and there, so that top pictures keep changing.
        values.rotate_left(4_001);
        values[first % n] += first as f32;
        let ys = Tensor::from_slice(&values, (8, 1024, 14, 14), &Device::Cpu).unwrap();
        gather.add(&ys, &numbered(&(first..first + 8).collect::<Vec<_>>())).unwrap();
    }
    let site = gather.finish().unwrap().0;
    assert_eq!((site.n_units, site.n_pictures), (1024, 100_000));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("peak memory: {}", peak.trim());
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib <= 1 << 20, "{peak}");
}

/// Of each site by unit and rank the picture's content, and all else that is stored of the site.
fn by_content(run: &Path, pictures: &Path, sites: &[&str]) -> Vec<(Vec<String>, SiteExemplars)> {
    let table = std::fs::read_to_string(run.join("exemplars/pictures.csv")).unwrap();
    let digest = |line: &str| {
        sha256(&std::fs::read(pictures.join(line.split_once(',').unwrap().1)).unwrap())
    };
    let contents: Vec<String> = table.lines().skip(1).map(digest).collect();
    let read = |site: &&str| {
        let mut found = store::read(run, site).unwrap();
        let ids = std::mem::take(&mut found.ids);
        (ids.into_iter().map(|id| contents[id].clone()).collect(), found)
    };
    sites.iter().map(read).collect()
}

#[test]
fn what_pictures_are_called_and_where_they_stand_makes_no_difference() {
    let (named, model) = planted_files();
    let renamed = folder();
    std::fs::copy(model, renamed.path().join("model.safetensors")).unwrap();
    let pictures = renamed.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    let dataset = data::open(&named.path().join("pictures"), &[]).unwrap();
    let mut table = "file_name,label\n".to_owned();
    for (at, picture) in dataset.pictures.iter().enumerate() {
        let name = format!("{:03}.png", (at * 7919 + 5) % 1000);
        std::fs::copy(named.path().join("pictures").join(&picture.file), pictures.join(&name))
            .unwrap();
        table += &format!("{name},{}\n", dataset.classes[picture.label.unwrap()]);
    }
    std::fs::write(pictures.join("metadata.csv"), table).unwrap();
    let [one, other] = [&named, &renamed].map(|it| {
        let ran = run("milan-audit", it.path(), &["--policy", "text"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        it.path().join("reports/model")
    });
    let said = |run: &Path| std::fs::read(run.join("descriptions.csv")).unwrap();
    assert!(said(&one) == said(&other));
    let sites = ["conv1", "layer1", "layer2", "layer3"];
    let found = by_content(&one, &named.path().join("pictures"), &sites);
    assert!(found == by_content(&other, &pictures, &sites));
}
