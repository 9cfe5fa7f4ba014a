//! Accuracy before and after. Knows only predictions, no network.

pub mod control;

use serde::{Deserialize, Serialize};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a network said of one picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// The picture's id.
    pub picture: usize,
    pub label: Option<usize>,
    /// Up to five classes, best first.
    pub top: Vec<usize>,
}

impl Prediction {
    /// Whether the first answer is right; `None` without a label.
    fn is_right(&self) -> Option<bool> {
        Some(self.top.first().copied() == Some(self.label?))
    }
}

/// Shares of right answers, 0..=1, over the labelled pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    pub top1: f64,
    /// The label is among the first five answers; with fewer than six classes it always is.
    pub top5: f64,
    pub n: usize,
    /// Classes that have pictures, by index.
    pub per_class: Vec<ClassAccuracy>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassAccuracy {
    pub class: usize,
    pub name: String,
    pub n: usize,
    pub top1: f64,
}

/// The accuracy on all labelled pictures; `None` if there are none.
pub fn accuracy(predictions: &[Prediction], classes: &[String]) -> Option<Accuracy> {
    let n_classes = predictions.iter().filter_map(|it| it.label).max()? + 1;
    let mut counts = vec![(0usize, 0usize); n_classes]; // (right, all)
    let mut n_top5 = 0;
    for prediction in predictions {
        let Some(label) = prediction.label else { continue };
        counts[label].1 += 1;
        counts[label].0 += usize::from(prediction.is_right() == Some(true));
        n_top5 += usize::from(prediction.top.iter().take(5).any(|&class| class == label));
    }
    let (n_right, n) = counts.iter().fold((0, 0), |(right, all), it| (right + it.0, all + it.1));
    let share = |part: usize, whole: usize| part as f64 / whole as f64;
    let per_class =
        counts.iter().enumerate().filter(|(_, (_, n))| 0 < *n).map(|(class, &(right, n))| {
            let name = classes.get(class).cloned().unwrap_or_else(|| format!("class {class}"));
            ClassAccuracy { class, name, n, top1: share(right, n) }
        });
    let per_class = per_class.collect();
    Some(Accuracy { top1: share(n_right, n), top5: share(n_top5, n), n, per_class })
}

/// How two runs over the same pictures differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// After less before, of shares in 0..=1.
    pub top1: f64,
    pub top5: f64,
    /// The 95 % interval of `top1`, by a paired bootstrap over pictures.
    pub ci95: [f64; 2],
    /// Pictures whose first answer changed, labelled or not.
    pub n_changed: usize,
}

/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 2000;

/// Compares two runs picture by picture. Errs when they saw different pictures or none is labelled.
///
/// The interval is the percentile bootstrap (Efron 1979) of the mean difference; a picture's two
/// answers stay together, so what both runs get wrong does not widen it.
pub fn compare(
    before: &[Prediction],
    after: &[Prediction],
    seed: u64,
) -> anyhow::Result<Comparison> {
    let pictures =
        |run: &[Prediction]| run.iter().map(|it| (it.picture, it.label)).collect::<Vec<_>>();
    anyhow::ensure!(pictures(before) == pictures(after), "the two runs saw different pictures");
    let pairs = before.iter().zip(after);
    let differences: Vec<i8> = pairs
        .clone()
        .filter_map(|(before, after)| Some(after.is_right()? as i8 - before.is_right()? as i8))
        .collect();
    anyhow::ensure!(
        !differences.is_empty(),
        "no picture is labelled, so accuracy cannot be compared"
    );
    let n = differences.len() as f64;
    let (Some(first), Some(second)) = (accuracy(before, &[]), accuracy(after, &[])) else {
        anyhow::bail!("no picture is labelled, so accuracy cannot be compared");
    };
    Ok(Comparison {
        top1: differences.iter().map(|&it| f64::from(it)).sum::<f64>() / n,
        top5: second.top5 - first.top5,
        ci95: bootstrap(&differences, seed),
        n_changed: pairs.filter(|(before, after)| before.top.first() != after.top.first()).count(),
    })
}

/// The middle 95 % of the means of resamples.
fn bootstrap(differences: &[i8], seed: u64) -> [f64; 2] {
    let n = differences.len();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            (0..n).map(|_| i64::from(differences[rng.random_range(0..n)])).sum::<i64>() as f64
                / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[(q * (RESAMPLES - 1) as f64).round() as usize];
    [at(0.025), at(0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(answers: &[(Option<usize>, &[usize])]) -> Vec<Prediction> {
        let all = answers.iter().enumerate();
        all.map(|(picture, &(label, top))| Prediction { picture, label, top: top.to_vec() })
            .collect()
    }

    #[test]
    fn accuracy_counts_labelled_pictures_only() {
        let run = predictions(&[
            (Some(0), &[0, 1]),
            (Some(0), &[2, 1]),
            (Some(2), &[1, 2]),
            (None, &[0, 1]),
        ]);
        let found = accuracy(&run, &["cat".to_owned()]).unwrap();
        assert_eq!((found.top1, found.top5, found.n), (1. / 3., 2. / 3., 3));
        let classes: Vec<_> =
            found.per_class.iter().map(|it| (it.name.as_str(), it.n, it.top1)).collect();
        assert_eq!(classes, [("cat", 2, 0.5), ("class 2", 1, 0.)]);
        assert_eq!(accuracy(&predictions(&[(None, &[0])]), &[]), None);
        assert_eq!(accuracy(&[], &[]), None);
    }

    /// 1,000 pictures, 60 lost and 20 won: the normal interval is −0.04 ± 1.96 · √(0.0784 / 1000).
    #[test]
    fn the_interval_is_that_of_the_paired_difference() {
        let before: Vec<_> =
            (0..1000).map(|i| (Some(0), if i < 20 { [1usize] } else { [0] })).collect();
        let after: Vec<_> = (0..1000)
            .map(|i| (Some(0), if (20..80).contains(&i) { [1usize] } else { [0] }))
            .collect();
        let run = |answers: &[(Option<usize>, [usize; 1])]| {
            predictions(
                &answers.iter().map(|(label, top)| (*label, top.as_slice())).collect::<Vec<_>>(),
            )
        };
        let found = compare(&run(&before), &run(&after), 7).unwrap();
        assert_eq!((found.top1, found.n_changed), (-0.04, 80));
        assert!(
            (found.ci95[0] + 0.0574).abs() < 0.002 && (found.ci95[1] + 0.0226).abs() < 0.002,
            "{:?}",
            found.ci95
        );
        assert_eq!(found, compare(&run(&before), &run(&after), 7).unwrap());
        let same = compare(&run(&before), &run(&before), 7).unwrap();
        assert_eq!((same.top1, same.ci95, same.n_changed), (0., [0., 0.], 0));
    }

    #[test]
    fn runs_over_other_pictures_cannot_be_compared() {
        let one = predictions(&[(Some(0), &[0])]);
        let two = predictions(&[(Some(0), &[0]), (Some(0), &[0])]);
        assert!(compare(&one, &two, 0).is_err());
        assert!(compare(&predictions(&[(None, &[0])]), &predictions(&[(None, &[1])]), 0).is_err());
    }
}
