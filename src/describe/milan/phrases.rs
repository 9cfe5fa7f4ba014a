//! What people say of units, in pieces: the phrases that sentences are composed of, and how they join.

use std::collections::{BTreeMap, BTreeSet};

use rust_stemmers::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};

use super::grammar::{
    Grammar, Spelling, is_article, is_function, may_stand_inside, with_right_articles,
};

/// What joins two phrases.
pub const CONNECTIVES: [&str; 5] = ["and", "with", "of", "on", "in"];

/// Words of which nothing can be learnt about a unit; no phrase has them.
const EMPTY_WORDS: &str = "nothing something anything everything none highlighted";
/// A phrase of these alone says nothing, either.
const GENERAL_WORDS: &str = "thing things object objects item items area areas region regions part \
    parts piece pieces stuff group groups kind kinds type types set sets variety bunch multiple \
    multiples different similar various random certain specific two three four 2 3 4 number bit bits portion portions section \
    sections place places spot half halves";
/// Nor do these, unless it is said of what they are.
const RELATIVE_WORDS: &str = "top tops bottom bottoms front fronts back backs middle middles center \
    centers centre side sides end ends left right inside outside distance rest lower upper row \
    rows";
/// What every unit is seen in.
const PICTURE_WORDS: &str =
    "picture pictures image images photo photos photograph photographs pic pics";

/// The longest phrase, in words.
const LONGEST: usize = 4;
/// The longest sentence of two phrases, in words, without what joins them.
const LONGEST_PAIR: usize = 6;

/// Phrases in the order of their letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
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

/// Phrases that would not be gathered today are left out.
impl TryFrom<Stored> for Phrases {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Phrases, String> {
        let Stored { texts, n_units, joined } = stored;
        if texts.len() != n_units.len() || joined.len() + 1 != CONNECTIVES.len() {
            let (a, b, c) = (texts.len(), n_units.len(), joined.len());
            return Err(format!(
                "{a} texts, {b} numbers of units, and {c} lists of what is joined"
            ));
        }
        let texts = texts.iter().map(|it| with_right_articles(it));
        let sayable = texts.zip(n_units).filter(|it| is_sayable(&words(&it.0)));
        let (texts, n_units) = sayable.unzip();
        Ok(Phrases::new(Stored { texts, n_units, joined }))
    }
}

impl From<Phrases> for Stored {
    fn from(phrases: Phrases) -> Stored {
        phrases.stored
    }
}

impl Phrases {
    fn new(stored: Stored) -> Phrases {
        let words: Vec<Vec<String>> = stored.texts.iter().map(|text| words(text)).collect();
        let stems = words.iter().map(|words| stems(words)).collect();
        let stemmed = |word: Option<&String>| word.map_or(String::new(), |it| stem(it));
        let ends = words.iter().map(|it| (stemmed(it.last()), stemmed(head(it)))).collect();
        Phrases { stored, words, stems, ends }
    }

    /// Every run of up to four words that was said of at least two units, mostly stands on its own (between the ends
    /// of a clause and function words), and is a noun with what belongs to it; with the article that people put
    /// before it. One list of sentences a unit; `is_word` knows words that are spelt right.
    pub fn gather(units: &[Vec<String>], is_word: &dyn Fn(&str) -> bool) -> Phrases {
        let cut = |sentences: &Vec<String>| -> Vec<Vec<String>> {
            sentences.iter().flat_map(|sentence| clauses(sentence)).collect()
        };
        let units: Vec<Vec<Vec<String>>> = units.iter().map(cut).collect();
        let spelling = Spelling::learn(&units.concat(), is_word);
        let correct = |it: &Vec<Vec<String>>| -> Vec<Vec<String>> {
            it.iter().map(|clause| spelling.correct(clause)).collect()
        };
        let units: Vec<Vec<Vec<String>>> = units.iter().map(correct).collect();
        let grammar = Grammar::learn(&units.concat());
        let mut runs: BTreeMap<String, Seen> = BTreeMap::new();
        let mut joined = vec![BTreeSet::new(); CONNECTIVES.len() - 1];
        for (unit, clauses) in units.iter().enumerate() {
            for clause in clauses {
                for (connective, joins) in joins(clause) {
                    joined[connective].insert(joins);
                }
                count_runs(clause, unit, &mut runs);
            }
        }
        let mut kept: BTreeMap<String, u32> = BTreeMap::new();
        for (text, seen) in runs {
            let run = words(&text);
            if seen.is_whole() && is_sayable(&run) && grammar.is_sound(&run) {
                kept.insert(grammar.with_article(&run), seen.units.len() as u32);
            }
        }
        let (texts, n_units) = kept.into_iter().unzip();
        Phrases::new(Stored { texts, n_units, joined })
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
        if LONGEST_PAIR < n_words(first) + n_words(second)
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

/// How a run of words was met.
#[derive(Default)]
struct Seen {
    units: BTreeSet<usize>,
    n: usize,
    begins: usize,
    ends: usize,
}

impl Seen {
    fn is_whole(&self) -> bool {
        2 <= self.units.len() && self.n <= 2 * self.ends && 2 * self.n <= 5 * self.begins
    }
}

/// Notes every run of a clause that may be a phrase.
fn count_runs(clause: &[String], unit: usize, seen: &mut BTreeMap<String, Seen>) {
    for (from, to) in runs(clause.len()) {
        let run = &clause[from..to];
        // As in "ball a kid", where something was left out.
        let gap = run.windows(2).any(|pair| is_article(&pair[1]) && !is_function(&pair[0]));
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

/// What the connectives of a clause but the first join: the stems of the word before and of the head behind.
fn joins(clause: &[String]) -> impl Iterator<Item = (usize, (String, String))> {
    clause.iter().enumerate().skip(1).filter_map(|(at, word)| {
        let connective = CONNECTIVES[1..].iter().position(|it| it == word)?;
        let head = head(&clause[at + 1..])?;
        Some((connective, (stem(&clause[at - 1]), stem(head))))
    })
}

/// Whether a phrase, without the article before it, has no word that cannot stand where it does, and says something.
fn is_sayable(phrase: &[String]) -> bool {
    let phrase = &phrase[phrase.first().map_or(0, |it| usize::from(is_article(it)))..];
    let (Some(first), Some(last)) = (phrase.first(), phrase.last()) else { return false };
    let inside = phrase.windows(2).all(|pair| may_stand_inside(Some(&pair[0]), &pair[1]));
    !is_function(first) && !is_function(last) && inside && says_something(phrase)
}

/// Whether anything can be learnt of a unit from a phrase.
fn says_something(phrase: &[String]) -> bool {
    let is_one = |list: &str, word: &str| list.split_whitespace().any(|it| it == word);
    let is_picture = |word: &String| is_one(PICTURE_WORDS, word);
    let is_general = |words: &[String]| {
        let mut content = words.iter().filter(|it| !is_function(it));
        content.all(|it| is_one(GENERAL_WORDS, it) || is_picture(it))
    };
    let mut content = phrase.iter().filter(|it| !is_function(it));
    let relative = !phrase.iter().any(|it| it == "of")
        && content.all(|it| is_one(RELATIVE_WORDS, it) || is_one(GENERAL_WORDS, it));
    // "dots in pictures", and "pictures of dots".
    let inside = phrase.iter().rev().skip(1).take(2).any(|it| it == "in");
    let in_picture = phrase.last().is_some_and(is_picture) && inside;
    let picture = head(phrase).is_some_and(is_picture);
    let empty = phrase.iter().any(|it| is_one(EMPTY_WORDS, it));
    // Half of "animals and things" would do.
    let general = phrase.split(|it| it == "and").any(is_general);
    !(general || relative || in_picture || picture || empty)
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

/// Without the articles.
pub fn n_words(words: &[String]) -> usize {
    words.iter().filter(|it| !is_article(it)).count()
}

/// Snowball's English.
pub(super) fn stem(word: &str) -> String {
    Stemmer::create(Algorithm::English).stem(word).into_owned()
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
        Phrases::gather(&said.map(|it| vec![it.to_owned()]), &|_| false)
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
    fn phrases_say_something() {
        let check = |phrase: &str, wanted: bool| {
            assert_eq!(is_sayable(&words(phrase)), wanted, "{phrase}");
        };
        check("the edges of objects", true);
        check("the top of buildings", true);
        check("objects that are red", true);
        check("corners of pictures", true);
        check("each", false);
        check("two different items", false);
        check("top", false);
        check("animals and things", false);
        check("rounded edges in pictures", false);
        check("pictures of an animal", false);
        check("objects that resemble them", false);
        check("girl is holding", false);
    }

    /// A file may hold what an older version gathered.
    #[test]
    fn phrases_that_say_nothing_are_left_out_of_a_file() {
        let text =
            r#"{"texts":["each","space above a animal"],"n_units":[5,2],"joined":[[],[],[],[]]}"#;
        let phrases: Phrases = serde_json::from_str(text).unwrap();
        assert_eq!(
            (phrases.texts(), phrases.n_units()),
            (&["space above an animal".to_owned()][..], &[2][..])
        );
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
        let without = text.replace("\"n_units\":[", "\"n_units\":[7,");
        assert!(serde_json::from_str::<Phrases>(&without).is_err());
    }

    #[test]
    fn words_keep_their_apostrophes() {
        assert_eq!(words("The dog's 'red' nose-tip"), ["the", "dog's", "red", "nose", "tip"]);
    }
}
