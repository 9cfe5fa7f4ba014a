//! What people say of units, in pieces: the phrases that sentences are composed of, and how they join.

use std::collections::{BTreeMap, BTreeSet};

use rust_stemmers::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};

/// What joins two phrases.
pub const CONNECTIVES: [&str; 5] = ["and", "with", "of", "on", "in"];

/// Words that no phrase begins or ends with.
const FUNCTION_WORDS: &str = "a an the of in on and or with to from by at for near around behind that \
    which is are was be as it its this these those into over under above below between within inside \
    along across through their his her s very other some being have has not";
/// Words of which nothing can be learnt about a unit; no phrase has them.
const EMPTY_WORDS: &str = "nothing something anything everything none";
const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// The longest phrase, in words.
const LONGEST: usize = 4;
/// The longest sentence of two phrases, in words, without what joins them.
const LONGEST_PAIR: usize = 6;

/// Phrases in the order of their letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Phrases {
    stored: Stored,
    words: Vec<Vec<String>>,
    /// Of the words that carry meaning.
    stems: Vec<BTreeSet<String>>,
    /// The stems of the last word and of the [head]: what a connective behind or before it joins.
    ends: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    texts: Vec<String>,
    /// Of how many units each was said.
    n_units: Vec<u32>,
    /// For each connective but the first what it was seen to join: the stems of the word before it and of the [head]
    /// of what follows.
    joined: Vec<BTreeSet<(String, String)>>,
}

impl From<Stored> for Phrases {
    fn from(stored: Stored) -> Phrases {
        let words: Vec<Vec<String>> = stored.texts.iter().map(|text| words(text)).collect();
        let stems = words.iter().map(|words| stems(words)).collect();
        let stemmed = |word: Option<&String>| word.map_or(String::new(), |it| stem(it));
        let ends = words.iter().map(|it| (stemmed(it.last()), stemmed(head(it)))).collect();
        Phrases { stored, words, stems, ends }
    }
}

impl From<Phrases> for Stored {
    fn from(phrases: Phrases) -> Stored {
        phrases.stored
    }
}

impl Phrases {
    /// Every run of up to four words that was said of at least two units and mostly stands on its own:
    /// between the ends of a clause and function words. One list of sentences a unit.
    pub fn gather(units: &[Vec<String>]) -> Phrases {
        #[derive(Default)]
        struct Seen {
            units: BTreeSet<usize>,
            n: usize,
            begins: usize,
            ends: usize,
        }
        let empty_words: BTreeSet<&str> = EMPTY_WORDS.split_whitespace().collect();
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let mut joined = vec![BTreeSet::new(); CONNECTIVES.len() - 1];
        for (unit, sentences) in units.iter().enumerate() {
            for clause in sentences.iter().flat_map(|sentence| clauses(sentence)) {
                for (at, word) in clause.iter().enumerate().skip(1) {
                    let Some(connective) = CONNECTIVES[1..].iter().position(|it| it == word) else {
                        continue;
                    };
                    if let Some(head) = head(&clause[at + 1..]) {
                        joined[connective].insert((stem(&clause[at - 1]), stem(head)));
                    }
                }
                for (from, to) in runs(clause.len()) {
                    let run = &clause[from..to];
                    // As in "ball a kid", where something was left out.
                    let gap = run
                        .windows(2)
                        .any(|pair| ARTICLES.contains(&pair[1].as_str()) && !is_function(&pair[0]));
                    if gap || is_function(&run[0]) || is_function(&run[run.len() - 1]) {
                        continue;
                    }
                    let seen = seen.entry(run.join(" ")).or_default();
                    seen.units.insert(unit);
                    seen.n += 1;
                    seen.begins += usize::from(from == 0 || is_function(&clause[from - 1]));
                    seen.ends += usize::from(to == clause.len() || is_function(&clause[to]));
                }
            }
        }
        seen.retain(|text, it| {
            let whole = it.n <= 2 * it.ends && 2 * it.n <= 5 * it.begins;
            2 <= it.units.len() && whole && !text.split(' ').any(|it| empty_words.contains(it))
        });
        let (texts, n_units) =
            seen.into_iter().map(|(text, it)| (text, it.units.len() as u32)).unzip();
        Phrases::from(Stored { texts, n_units, joined })
    }

    pub fn texts(&self) -> &[String] {
        &self.stored.texts
    }

    /// Of how many units each was said.
    pub fn n_units(&self) -> &[u32] {
        &self.stored.n_units
    }

    /// Stems of the meaningful words of a phrase.
    pub fn stems(&self, phrase: usize) -> &BTreeSet<String> {
        &self.stems[phrase]
    }

    /// Whether two phrases share no meaningful word, are short enough, and may stand around a connective.
    pub fn may_join(&self, a: usize, connective: usize, b: usize) -> bool {
        let (first, second) = (&self.words[a], &self.words[b]);
        let joint = CONNECTIVES[connective];
        let repeats = |words: &[String]| words.iter().any(|word| word == joint);
        if LONGEST_PAIR < first.len() + second.len()
            || self.stems[a].is_empty()
            || self.stems[b].is_empty()
            || !self.stems[a].is_disjoint(&self.stems[b])
            || repeats(first)
            || repeats(second)
        {
            return false;
        }
        let Some(joining) = connective.checked_sub(1) else { return true };
        let (before, head) = (&self.ends[a].0, &self.ends[b].1);
        self.stored.joined[joining].contains(&(before.clone(), head.clone()))
    }

    pub fn join(&self, a: usize, connective: usize, b: usize) -> String {
        format!("{} {} {}", self.texts()[a], CONNECTIVES[connective], self.texts()[b])
    }
}

/// The words of a text in small letters: letters, digits, and apostrophes inside.
pub fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|it: char| !it.is_alphanumeric() && it != '\'');
    let words = words.map(|word| word.trim_matches('\'')).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Stems of words without function words.
pub fn stems(words: &[String]) -> BTreeSet<String> {
    words.iter().filter(|word| !is_function(word)).map(|word| stem(word)).collect()
}

/// Snowball's English.
fn stem(word: &str) -> String {
    Stemmer::create(Algorithm::English).stem(word).into_owned()
}

fn is_function(word: &str) -> bool {
    FUNCTION_WORDS.split_whitespace().any(|it| it == word)
}

/// What a phrase is of: "animals" in "the brown animals with horns".
fn head(words: &[String]) -> Option<&String> {
    let mut words = words.iter().skip_while(|word| is_function(word));
    words.by_ref().take_while(|word| !is_function(word)).last()
}

fn clauses(sentence: &str) -> Vec<Vec<String>> {
    let sentence = sentence.to_lowercase().replace('-', " ");
    let ends = |it: char| !it.is_alphanumeric() && it != '\'' && it != ' ';
    sentence.split(ends).map(words).filter(|words| !words.is_empty()).collect()
}

/// Beginnings and ends of the runs of up to [`LONGEST`] of so many words.
fn runs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |from| (from + 1..=n.min(from + LONGEST)).map(move |to| (from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases() -> Phrases {
        let said = [
            "the heads of dogs",
            "heads of dogs, green grass",
            "dog's nose with green grass",
            "nose of animals with green grass",
            "the nose of an animal",
            "red nose of animals",
            "dogs, nothing",
            "animals, nothing",
            "heads, nothing, a ball a kid holds",
            "ball a kid holds",
            "a ball, a kid",
        ];
        Phrases::gather(&said.map(|it| vec![it.to_owned()]))
    }

    #[test]
    fn phrases_stand_on_their_own_and_are_said_of_two_units() {
        let phrases = phrases();
        let wanted = [
            ("animals", 3),
            ("dogs", 3),
            ("green grass", 3),
            ("heads", 3),
            ("heads of dogs", 2),
            ("nose of animals", 2),
        ];
        let found: Vec<(&str, u32)> =
            phrases.texts().iter().map(String::as_str).zip(phrases.n_units().to_vec()).collect();
        assert!(wanted.iter().all(|it| found.contains(it)), "{found:?}");
        // "green" and "grass" never stand alone, "nothing" says nothing, between "ball" and "a kid" is a gap.
        let wrong = ["green", "grass", "of dogs", "nothing", "ball a kid", "holds"];
        assert!(!found.iter().any(|(text, _)| wrong.contains(text)), "{found:?}");
    }

    #[test]
    fn phrases_join_as_people_join_them() {
        let phrases = phrases();
        let place = |text: &str| phrases.texts().iter().position(|it| it == text).unwrap();
        let (nose, grass) = (place("nose of animals"), place("green grass"));
        assert!(phrases.may_join(nose, 0, grass));
        assert!(!phrases.may_join(place("animals"), 0, nose), "a word twice");
        assert!(!phrases.may_join(grass, 3, nose), "nobody said so");
        assert!(phrases.may_join(place("heads"), 2, place("dogs")));
        assert!(!phrases.may_join(place("heads"), 2, place("animals")), "only of noses");
        assert_eq!(phrases.join(nose, 1, grass), "nose of animals with green grass");
        let text = serde_json::to_string(&phrases).unwrap();
        assert_eq!(serde_json::from_str::<Phrases>(&text).unwrap(), phrases);
    }

    #[test]
    fn words_keep_their_apostrophes() {
        assert_eq!(words("The dog's 'red' nose-tip"), ["the", "dog's", "red", "nose", "tip"]);
    }
}
