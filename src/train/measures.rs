//! Measures of how well descriptions of units, and what is claimed of them, agree with people.
//!
//! Slices given together must be of equal length.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// How often a unit's description fits its own unit better than another, 0..=1; chance is 0.5.
///
/// NaN where there is no pair.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Specificity {
    /// Against the other units of its layer.
    pub same_layer: f64,
    /// Against all other units.
    pub all: f64,
}

/// Similarities this close are a tie, which counts half.
const TIE: f64 = 1e-7;

/// Compares, for all units i ≠ j, `similarity(i, i)` with `similarity(i, j)`.
///
/// `similarity(i, j)` is how alike unit i's description and the people's words about unit j are.
/// `layers` holds each unit's layer. Each pair of units weighs the same, so a large layer weighs
/// more. A pair with a NaN counts 0.
pub fn specificity(similarity: impl Fn(usize, usize) -> f32, layers: &[usize]) -> Specificity {
    let (mut same, mut all) = ((0., 0usize), (0., 0usize)); // (won, pairs)
    for i in 0..layers.len() {
        let own = f64::from(similarity(i, i));
        for j in (0..layers.len()).filter(|&j| j != i) {
            let lead = own - f64::from(similarity(i, j));
            let won = if lead > TIE {
                1.
            } else if lead >= -TIE {
                0.5
            } else {
                0.
            };
            all = (all.0 + won, all.1 + 1);
            if layers[i] == layers[j] {
                same = (same.0 + won, same.1 + 1);
            }
        }
    }
    let share = |(won, pairs): (f64, usize)| won / pairs as f64;
    Specificity { same_layer: share(same), all: share(all) }
}

/// Weighs words by how rare they are, as scikit-learn's `TfidfVectorizer` does by default.
#[derive(Debug, Clone)]
pub struct Tfidf {
    /// Each word's index, in alphabetical order, and its inverse document frequency.
    words: BTreeMap<String, (usize, f64)>,
}

impl Tfidf {
    /// Learns the words of `documents`, which are split and stemmed already.
    ///
    /// A word in `df` of `n` documents weighs ln((1 + n) / (1 + df)) + 1.
    pub fn fit(documents: &[Vec<String>]) -> Tfidf {
        let mut frequencies = BTreeMap::<&String, usize>::new();
        for document in documents {
            for word in document.iter().collect::<BTreeSet<_>>() {
                *frequencies.entry(word).or_default() += 1;
            }
        }
        let weight = |df: usize| ((1 + documents.len()) as f64 / (1 + df) as f64).ln() + 1.;
        let words = frequencies.into_iter().enumerate();
        Tfidf { words: words.map(|(i, (word, df))| (word.clone(), (i, weight(df)))).collect() }
    }

    /// The (index, weight) of each known word, by index; of length 1 unless no word is known.
    pub fn vector(&self, words: &[String]) -> Vec<(usize, f32)> {
        let mut weights = BTreeMap::<usize, f64>::new();
        for &(index, weight) in words.iter().filter_map(|word| self.words.get(word)) {
            *weights.entry(index).or_default() += weight;
        }
        let length = weights.values().map(|it| it * it).sum::<f64>().sqrt();
        weights.into_iter().map(|(index, weight)| (index, (weight / length) as f32)).collect()
    }
}

/// The dot product of two sparse vectors sorted by index; of [`Tfidf::vector`]s, their cosine.
pub fn dot(a: &[(usize, f32)], b: &[(usize, f32)]) -> f32 {
    let (mut a, mut b, mut sum) = (a, b, 0f64); // an f32 sum would break more ties
    while let ([(i, x), rest_a @ ..], [(j, y), rest_b @ ..]) = (a, b) {
        if i == j {
            sum += f64::from(*x) * f64::from(*y);
        }
        (a, b) = (if i <= j { rest_a } else { a }, if j <= i { rest_b } else { b });
    }
    sum as f32
}

/// Of those that there are.
pub fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.flatten().collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The area under the ROC curve, 0..=1, where equal scores count half; `None` with one class only.
///
/// From the rank sum of the true ones (Mann and Whitney 1947).
pub fn auroc(scores: &[f32], truth: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), truth.len());
    let n_true = truth.iter().filter(|&&it| it).count() as f64;
    let n_false = truth.len() as f64 - n_true;
    if n_true == 0. || n_false == 0. {
        return None;
    }
    let ranks = average_ranks(scores);
    let sum: f64 = ranks.iter().zip(truth).filter(|(_, truth)| **truth).map(|(rank, _)| rank).sum();
    Some((sum - n_true * (n_true + 1.) / 2.) / (n_true * n_false))
}

/// The average precision, 0..=1, as scikit-learn's `average_precision_score`; `None` if none is true.
///
/// Sums over the distinct scores, the highest first, the precision there times the gain in recall.
pub fn average_precision(scores: &[f32], truth: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), truth.len());
    let n_true = truth.iter().filter(|&&it| it).count();
    if n_true == 0 {
        return None;
    }
    let order = ascending(scores);
    let (mut hits, mut seen, mut sum) = (0, 0, 0.);
    for tied in order.chunk_by(|&i, &j| scores[i] == scores[j]).rev() {
        let new = tied.iter().filter(|&&i| truth[i]).count();
        hits += new;
        seen += tied.len();
        sum += new as f64 * hits as f64 / seen as f64;
    }
    Some(sum / n_true as f64)
}

/// Ranks from 1 for the lowest; equal values share the mean of their ranks.
pub fn average_ranks(values: &[f32]) -> Vec<f64> {
    let mut ranks = vec![0.; values.len()];
    let mut below = 0;
    for tied in ascending(values).chunk_by(|&i, &j| values[i] == values[j]) {
        for &i in tied {
            ranks[i] = below as f64 + (tied.len() + 1) as f64 / 2.;
        }
        below += tied.len();
    }
    ranks
}

/// The indices of `values`, the lowest first, equal ones in the order given.
pub(super) fn ascending(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // Adding 0 makes −0 and 0 equal in the total order too.
    order.sort_by(|&i, &j| (values[i] + 0.).total_cmp(&(values[j] + 0.)));
    order
}

/// BLEU-4 over all texts together, 0..=1 (Papineni et al. 2002); 0 if any precision is 0.
///
/// Each hypothesis has its own references. Counts are clipped at their highest in any one of them;
/// the brevity penalty takes the reference of closest length, of two the shorter.
pub fn bleu(hypotheses: &[Vec<String>], references: &[Vec<Vec<String>>]) -> f64 {
    assert_eq!(hypotheses.len(), references.len());
    let mut precisions = [(0usize, 0usize); 4]; // (clipped, all) of each n-gram length
    let (mut length, mut wanted) = (0, 0);
    for (hypothesis, references) in hypotheses.iter().zip(references) {
        let here = hypothesis.len();
        length += here;
        let lengths = references.iter().map(Vec::len);
        wanted += lengths.min_by_key(|&it| (it.abs_diff(here), it)).unwrap_or(0);
        for (n, (clipped, all)) in (1..).zip(&mut precisions) {
            let allowed: Vec<_> = references.iter().map(|it| n_grams(it, n)).collect();
            for (gram, count) in n_grams(hypothesis, n) {
                let most = allowed.iter().filter_map(|it| it.get(gram)).max();
                *clipped += count.min(most.copied().unwrap_or(0));
                *all += count;
            }
        }
    }
    if precisions.iter().any(|(clipped, _)| *clipped == 0) {
        return 0.;
    }
    let logs = precisions.iter().map(|&(clipped, all)| (clipped as f64 / all as f64).ln());
    let brevity = (1. - wanted as f64 / length as f64).min(0.);
    (brevity + logs.sum::<f64>() / 4.).exp()
}

/// How often each run of `n` words occurs.
fn n_grams(words: &[String], n: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    for gram in words.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The share of the found that is true, and the share of the true that is found, 0..=1.
///
/// `None` where nothing was found, or nothing is true.
pub fn precision_recall(found: &[bool], truth: &[bool]) -> (Option<f64>, Option<f64>) {
    assert_eq!(found.len(), truth.len());
    let count = |them: &[bool]| them.iter().filter(|&&it| it).count();
    let right = found.iter().zip(truth).filter(|(found, truth)| **found && **truth).count();
    let share = |whole: usize| (whole > 0).then(|| right as f64 / whole as f64);
    (share(count(found)), share(count(truth)))
}

/// scikit-learn's `ENGLISH_STOP_WORDS` (BSD-3-Clause), which are the Glasgow Information Retrieval
/// Group's; one word a line.
static STOP_WORDS: LazyLock<Vec<&str>> =
    LazyLock::new(|| include_str!("stop_words.txt").lines().collect());

/// 318 English words that say little, lower case, in alphabetical order.
pub fn stop_words() -> &'static [&'static str] {
    &STOP_WORDS
}

/// Whether a lower-case word, not stemmed, is a stop word.
pub fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn flags(bits: &[u8]) -> Vec<bool> {
        bits.iter().map(|&it| it == 1).collect()
    }

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
    }

    /// Of [`SCORES`], as [`TRUTH`] has it, scikit-learn 1.9.1 and scipy gave the numbers below.
    const SCORES: [f32; 10] = [0.1, 0.4, 0.35, 0.8, 0.4, 0.4, -1.5, 0.8, 0.2, 0.];
    const TRUTH: [u8; 10] = [0, 1, 0, 1, 0, 1, 0, 0, 1, 0];

    #[test]
    fn specificity_counts_pairs_won() {
        // Unit 0 wins one and ties one, unit 1 wins both, unit 2 loses both.
        let similarities = [[0.5, 0.5, 0.1], [0.2, 0.9, 0.3], [0.4, 0.6, 0.]];
        let similarity = |i: usize, j: usize| similarities[i][j];
        let found = specificity(similarity, &[7, 7, 8]);
        assert_eq!(found, Specificity { same_layer: 0.75, all: 3.5 / 6. });
    }

    #[test]
    fn specificity_is_one_half_where_all_descriptions_are_the_same() {
        let found = specificity(|_, j| 0.3 + 1e-8 * j as f32, &[0, 0, 1, 1, 1]);
        assert_eq!(found, Specificity { same_layer: 0.5, all: 0.5 });
    }

    #[test]
    fn specificity_needs_pairs() {
        let found = specificity(|_, _| 1., &[0]);
        assert!(found.same_layer.is_nan() && found.all.is_nan());
        let found = specificity(|i, j| f32::from(u8::from(i == j)), &[0, 1]);
        assert!(found.same_layer.is_nan() && found.all == 1.);
    }

    #[track_caller]
    fn check_vector(tfidf: &Tfidf, text: &str, expected: &[(usize, f64)]) {
        let found = tfidf.vector(&words(text));
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.0, expected.0);
            near(f64::from(found.1), expected.1);
        }
    }

    /// The words are, in order: car, dog, fur, red, sky, wheel.
    #[test]
    fn tfidf_is_that_of_scikit_learn() {
        let documents =
            ["red dog dog fur", "red car wheel", "dog wheel red car car sky", "", "sky"].map(words);
        let tfidf = Tfidf::fit(&documents);
        check_vector(
            &tfidf,
            "red dog dog fur",
            &[(1, 0.8015825191469964), (2, 0.49677043566499), (3, 0.33269295040197516)],
        );
        check_vector(
            &tfidf,
            "dog wheel red car car sky",
            &[
                (0, 0.7212630004839772),
                (1, 0.3606315002419886),
                (3, 0.2993567223773143),
                (4, 0.3606315002419886),
                (5, 0.3606315002419886),
            ],
        );
        check_vector(
            &tfidf,
            "dog dog unknown sky",
            &[(1, 0.8944271909999159), (4, 0.4472135954999579)],
        );
        check_vector(&tfidf, "unknown", &[]);
        check_vector(&tfidf, "", &[]);
        check_vector(&Tfidf::fit(&[]), "dog", &[]);

        let vectors = documents.map(|it| tfidf.vector(&it));
        let expected = [
            (0, 1, 0.16841063731487171),
            (0, 2, 0.3886697776381075),
            (1, 2, 0.8112949261816729),
            (2, 4, 0.3606315002419886),
            (2, 2, 1.),
            (0, 4, 0.),
            (3, 3, 0.),
        ];
        for (i, j, expected) in expected {
            near(f64::from(dot(&vectors[i], &vectors[j])), expected);
            assert_eq!(dot(&vectors[i], &vectors[j]), dot(&vectors[j], &vectors[i]));
        }
    }

    #[test]
    fn equal_values_share_a_rank() {
        assert_eq!(average_ranks(&SCORES), [3., 7., 5., 9.5, 7., 7., 1., 9.5, 4., 2.]);
        assert_eq!(average_ranks(&[0., -0., 0.]), [2.; 3]);
        assert_eq!(average_ranks(&[]), [0.; 0]);
    }

    #[test]
    fn auroc_is_that_of_scikit_learn() {
        near(auroc(&SCORES, &flags(&TRUTH)).unwrap(), 0.7291666666666666);
        assert_eq!(auroc(&[1., 2., 3.], &flags(&[0, 1, 1])), Some(1.));
        assert_eq!(auroc(&[3., 2., 1.], &flags(&[0, 1, 1])), Some(0.));
        assert_eq!(auroc(&[2., 2., 2.], &flags(&[0, 1, 1])), Some(0.5));
        assert_eq!(auroc(&[1., 2.], &[true; 2]), None);
        assert_eq!(auroc(&[1., 2.], &[false; 2]), None);
    }

    #[test]
    fn average_precision_is_that_of_scikit_learn() {
        near(average_precision(&SCORES, &flags(&TRUTH)).unwrap(), 0.5678571428571428);
        assert_eq!(average_precision(&[2., 2., 2., 2.], &flags(&[0, 1, 0, 0])), Some(0.25));
        assert_eq!(average_precision(&[1., 2.], &[true; 2]), Some(1.));
        assert_eq!(average_precision(&[1., 2.], &[false; 2]), None);
    }

    #[track_caller]
    fn check_bleu(texts: &[(&str, &[&str])], expected: f64) {
        let hypotheses: Vec<_> = texts.iter().map(|(text, _)| words(text)).collect();
        let references: Vec<Vec<_>> =
            texts.iter().map(|(_, all)| all.iter().map(|it| words(it)).collect()).collect();
        near(bleu(&hypotheses, &references), expected);
    }

    /// sacreBLEU 2 without tokenising or smoothing. (NLTK counts one n-gram in too short a text.)
    #[test]
    fn bleu_is_that_of_sacrebleu() {
        let texts: [(&str, &[&str]); 3] = [
            (
                "the cat sat on the red mat today",
                &["the cat sat on the mat", "a cat is on the red mat today now"],
            ),
            (
                "a dog with brown fur runs",
                &["a brown dog with brown fur runs fast", "dog with brown fur"],
            ),
            ("blue sky", &["the blue sky above", "sky"]),
        ];
        check_bleu(&texts, 0.8884549608034871);
        check_bleu(&texts[1..], 0.8034284189446517);
        check_bleu(&texts.map(|(text, all)| (text, &all[..1])), 0.5761960888038399);
        check_bleu(&[("a b c d e", &["a b c d e f g h"])], 0.5488116360940266);
        check_bleu(
            &[("the cat is on the mat the the", &["the cat is on the mat"])],
            0.68037493331712,
        );
    }

    #[test]
    fn bleu_is_0_without_a_run_of_four() {
        check_bleu(&[("a b c d", &["a b c d"])], 1.);
        check_bleu(&[("a b c", &["a b c"])], 0.);
        check_bleu(&[("a b c d", &["a b c e"])], 0.);
        check_bleu(&[("", &["a b c d"]), ("a b c d", &[])], 0.);
        check_bleu(&[], 0.);
    }

    #[test]
    fn precision_and_recall_need_something_to_divide_by() {
        let found = flags(&[1, 1, 1, 0, 0]);
        assert_eq!(precision_recall(&found, &flags(&[1, 0, 0, 1, 0])), (Some(1. / 3.), Some(0.5)));
        assert_eq!(precision_recall(&found, &[false; 5]), (Some(0.), None));
        assert_eq!(precision_recall(&[false; 5], &found), (None, Some(0.)));
        assert_eq!(precision_recall(&[], &[]), (None, None));
    }

    #[test]
    fn stop_words_are_scikit_learns() {
        assert_eq!(stop_words().len(), 318);
        assert!(stop_words().is_sorted_by(|a, b| a < b));
        for word in ["a", "amoungst", "couldnt", "the", "yourselves"] {
            assert!(is_stop_word(word), "{word}");
        }
        for word in ["", "dog", "The", "zebra"] {
            assert!(!is_stop_word(word), "{word}");
        }
    }
}
