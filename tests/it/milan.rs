//! The authors' describer against PyTorch: `tests/data/milan.py` wrote the file and the numbers.
//!
//! `MILAN_TEST_PTH` names another file with its numbers beside it, such as one of full size by the script.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use milan::describe::milan::authors::{self, Checkpoint};
use milan::describe::milan::captioner::Regions;
use milan::describe::milan::decode::{Ending, Sentence, Speaker};
use milan::describe::milan::encoder::{Region, Resizing};
use milan::error::{Kind, kind};
use serde::Deserialize;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

#[derive(Deserialize)]
struct Golden {
    side: usize,
    /// Top, left, bottom, right of each exemplar's region, unit by unit.
    boxes: Vec<Vec<[usize; 4]>>,
    features: Vec<Vec<f32>>,
    features_area: Vec<Vec<f32>>,
    units: Vec<Unit>,
}

#[derive(Deserialize)]
struct Unit {
    forced: Vec<u32>,
    log_probs: Vec<Vec<f32>>,
    greedy: Greedy,
    greedy_mi: Greedy,
    beam_5: Beam,
    beam_20: Beam,
    beam_mi_5: Beam,
    rerank: Rerank,
    rerank_compat: Rerank,
}

#[derive(Deserialize)]
struct Greedy {
    tokens: Vec<u32>,
    /// Over all steps, those behind the stop too.
    score: f32,
}

#[derive(Deserialize)]
struct Beam {
    /// Finished sentences are filled with stops.
    tokens: Vec<Vec<u32>>,
    scores: Vec<f32>,
}

#[derive(Deserialize)]
struct Rerank {
    winner: usize,
    score: f32,
    lm: Vec<f32>,
}

const LAMBDA: f64 = 0.2;

fn golden() -> Golden {
    let text = std::fs::read_to_string(file().with_extension("json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn file() -> PathBuf {
    if let Some(path) = std::env::var_os("MILAN_TEST_PTH") {
        return path.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/milan.pth")
}

fn open(resizing: Resizing) -> Checkpoint {
    authors::open(&file(), resizing).unwrap()
}

#[track_caller]
fn close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(1f32, |most, it| most.max(it.abs()));
    for (place, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= 1e-4 * largest, "{what}, {place}: {found}, not {wanted}");
    }
}

/// The script's pictures, normalised, and its regions.
fn regions_of(checkpoint: &Checkpoint, golden: &Golden) -> (Tensor, Vec<Region>) {
    let side = golden.side;
    let boxes: Vec<[usize; 4]> = golden.boxes.concat();
    let mut values = Vec::new();
    for p in 0..boxes.len() {
        for c in 0..3 {
            for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                let byte = (x * (3 + p) + y * (5 + c) + x * y / (7 + p) + 40 * c + 97 * p) % 256;
                values.push((byte as f32 / 255. - checkpoint.mean[c]) / checkpoint.std[c]);
            }
        }
    }
    let xs = Tensor::from_vec(values, (boxes.len(), 3, side, side), &Device::Cpu).unwrap();
    let region = |(picture, &[top, left, bottom, right]): (usize, &[usize; 4])| {
        let inside = |(y, x)| (top..bottom).contains(&y) && (left..right).contains(&x);
        let mask = (0..side).flat_map(|y| (0..side).map(move |x| (y, x))).map(inside).collect();
        Region { picture, mask }
    };
    (xs, boxes.iter().enumerate().map(region).collect())
}

#[test]
fn the_encoder_sees_what_the_reference_sees() {
    let golden = golden();
    for (resizing, wanted) in
        [(Resizing::Reference, &golden.features), (Resizing::Area, &golden.features_area)]
    {
        let checkpoint = open(resizing);
        let (xs, regions) = regions_of(&checkpoint, &golden);
        let maps = checkpoint.encoder.maps(&xs).unwrap();
        let found = checkpoint.encoder.features(&maps, &regions).unwrap();
        assert_eq!(checkpoint.encoder.n_features(), wanted[0].len());
        close(&found, &wanted.concat(), &format!("{resizing:?}"));
    }
}

/// The golden features of all units, prepared for the captioner.
fn prepared(checkpoint: &Checkpoint, golden: &Golden) -> Regions {
    let (n, k, size) = (golden.units.len(), golden.boxes[0].len(), golden.features[0].len());
    let features = golden.features.concat();
    let features = Tensor::from_vec(features, (n, k, size), &Device::Cpu).unwrap();
    checkpoint.captioner.regions(&features).unwrap()
}

fn speaker(checkpoint: &Checkpoint) -> Speaker<'_> {
    Speaker {
        captioner: &checkpoint.captioner,
        lm: checkpoint.lm.as_ref(),
        vocabulary: &checkpoint.vocabulary,
        length: checkpoint.length,
    }
}

#[test]
fn steps_have_the_same_probabilities() {
    let (golden, checkpoint) = (golden(), open(Resizing::Reference));
    assert_eq!((checkpoint.length, checkpoint.beam_size), (15, 50));
    assert_eq!(checkpoint.temperature, LAMBDA);
    let all = prepared(&checkpoint, &golden);
    for (place, unit) in golden.units.iter().enumerate() {
        let regions = all.of(&[place]).unwrap();
        let mut state = checkpoint.captioner.start(&regions).unwrap();
        for (at, (token, wanted)) in unit.forced.iter().zip(&unit.log_probs).enumerate() {
            let token = Tensor::new(&[*token], &Device::Cpu).unwrap();
            let (found, after) = checkpoint.captioner.step(&regions, &token, &state).unwrap();
            close(&found.to_vec2::<f32>().unwrap()[0], wanted, &format!("unit {place}, step {at}"));
            state = after;
        }
    }
}

#[test]
fn greedy_sentences_are_the_same() {
    let (golden, checkpoint) = (golden(), open(Resizing::Reference));
    let (regions, speaker) = (prepared(&checkpoint, &golden), speaker(&checkpoint));
    let plain = speaker.greedy(&regions, None).unwrap();
    let mutual = speaker.greedy(&regions, Some(LAMBDA)).unwrap();
    for (unit, (plain, mutual)) in golden.units.iter().zip(plain.iter().zip(&mutual)) {
        for (found, wanted) in [(plain, &unit.greedy), (mutual, &unit.greedy_mi)] {
            assert_eq!(found.iter().map(|it| it.0).collect::<Vec<_>>(), wanted.tokens);
            close(&[found.iter().map(|it| it.1).sum()], &[wanted.score], "greedy");
        }
    }
}

#[test]
fn beams_are_allennlps() {
    let (golden, checkpoint) = (golden(), open(Resizing::Reference));
    let (regions, speaker) = (prepared(&checkpoint, &golden), speaker(&checkpoint));
    let stop = checkpoint.vocabulary.stop();
    let check = |width, lambda, wanted: &dyn Fn(&Unit) -> &Beam| {
        let found = speaker.beam(&regions, width, lambda).unwrap();
        for (unit, found) in golden.units.iter().zip(found) {
            let wanted = wanted(unit);
            let scores: Vec<f32> = found.iter().map(|it| it.score).collect();
            close(&scores, &wanted.scores, &format!("beam of {width}, {lambda:?}"));
            for (found, wanted) in found.iter().zip(&wanted.tokens) {
                let mut filled = found.tokens.clone();
                filled.resize(wanted.len().max(filled.len()), stop);
                assert_eq!(filled, *wanted, "beam of {width}, {lambda:?}");
            }
        }
    };
    check(5, None, &|unit| &unit.beam_5);
    check(20, None, &|unit| &unit.beam_20);
    check(5, Some(LAMBDA), &|unit| &unit.beam_mi_5);
    assert!(speaker.beam(&regions, checkpoint.vocabulary.n_tokens() + 1, None).is_err());
}

#[test]
fn the_winner_of_reranking_is_the_same() {
    let (golden, checkpoint) = (golden(), open(Resizing::Reference));
    let (regions, speaker) = (prepared(&checkpoint, &golden), speaker(&checkpoint));
    let beams = speaker.beam(&regions, 20, None).unwrap();
    let mut winners = Vec::new();
    for (unit, beam) in golden.units.iter().zip(&beams) {
        for (ending, wanted) in
            [(Ending::AtStop, &unit.rerank), (Ending::Reference, &unit.rerank_compat)]
        {
            let (winner, score, prior) = speaker.rerank(beam, LAMBDA, ending).unwrap();
            close(&prior, &wanted.lm, &format!("{ending:?}"));
            close(&[score], &[wanted.score], &format!("{ending:?}"));
            assert_eq!(winner, wanted.winner, "{ending:?}");
            winners.push(winner);
        }
    }
    if std::env::var_os("MILAN_TEST_PTH").is_some() {
        return;
    }
    // The script chose weights for which each of these makes a difference.
    assert!(winners.iter().any(|&it| 0 < it) && winners.chunks(2).any(|pair| pair[0] != pair[1]));
    let finished = |it: &Sentence| speaker.is_finished(it);
    assert!(beams.concat().iter().any(finished) && !beams.concat().iter().all(finished));
    let text = checkpoint.vocabulary.reconstruct(&beams[0][winners[0]].tokens);
    assert!(text.starts_with(|c: char| c.is_uppercase() || !c.is_alphabetic()), "{text}");
}

/// The file with some of its bytes exchanged for as many others.
fn with(from: &[u8], to: &[u8]) -> anyhow::Error {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(file()).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at..][..to.len()].copy_from_slice(to));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    authors::open(file.path(), Resizing::Area).err().unwrap()
}

#[test]
fn other_and_damaged_files_are_refused_with_the_reason() {
    let check = |error: anyhow::Error, wanted: &str| {
        let message = format!("{error:#}");
        assert!(message.contains(wanted), "{message}");
        assert_eq!(kind(&error), Kind::Inconclusive, "{message}");
    };
    let written = |bytes: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        authors::open(file.path(), Resizing::Area).err().unwrap()
    };
    let whole = std::fs::read(file()).unwrap();
    check(written(b"hello"), "it is no file of torch.save");
    check(written(&whole[..whole.len() / 2]), "it is no file of torch.save");
    // A changed byte in a stored pickle is found by the archive's own checksum.
    check(with(b"init_h.0.weight", b"init_x.0.weight"), "data.pkl");
    let missing = authors::open(Path::new("no/such.pth"), Resizing::Area).err().unwrap();
    assert_eq!(kind(&missing), Kind::Usage);
}

/// The file with some bytes of its pickle exchanged, in an archive whose checksums are right.
fn rewritten(from: &[u8], to: &[u8]) -> anyhow::Error {
    let mut archive = ZipArchive::new(File::open(file()).unwrap()).unwrap();
    let target = tempfile::NamedTempFile::new().unwrap();
    let mut writer = ZipWriter::new(target.reopen().unwrap());
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for place in 0..archive.len() {
        let mut entry = archive.by_index(place).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        if name.ends_with("data.pkl") {
            let at =
                bytes.windows(from.len()).position(|it| it == from).expect("not in the pickle");
            bytes.splice(at..at + from.len(), to.iter().copied());
        }
        writer.start_file(name, stored).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    writer.finish().unwrap();
    authors::open(target.path(), Resizing::Area).err().unwrap()
}

#[test]
fn no_weight_may_be_missing_left_over_or_of_another_shape() {
    let check = |from: &[u8], to: &[u8], wanted: &[&str]| {
        let error = rewritten(from, to);
        let message = format!("{error:#}");
        assert!(wanted.iter().all(|it| message.contains(it)), "{message}");
        assert_eq!(kind(&error), Kind::Inconclusive, "{message}");
    };
    check(
        b"init_h.0.weight",
        b"init_x.0.weight",
        &["`init_h.0.weight` is missing", "`init_x.0.weight` is read by nothing"],
    );
    check(b"encoder.mean", b"encoder.moan", &["`encoder.mean` is missing"]);
    check(
        b"encoder.encoder.model.bn1.bias",
        b"encoder.encoder.model.bn1.bios",
        &["its encoder", "missing `bn1.bias`"],
    );
    check(b"properties", b"propertees", &["it has no `properties`"]);
    check(b"temperature", b"temparature", &["it has no `temperature`"]);
}
