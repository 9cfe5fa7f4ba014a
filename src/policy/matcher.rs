//! Whether a description speaks of something.
//!
//! Text is cut into words (letters and digits; case folded) and compared word by word, never inside a
//! word: `texture` is not `text`, `sword` not `word`, `surface` not `face`. By stem (Snowball's English
//! stemmer) `faces` is `face`. What `none` covers is struck out before the rest is tried, so that
//! "a clock face and a human face" still speaks of a face.

use std::collections::BTreeMap;

use regex::Regex;
use rust_stemmers::{Algorithm, Stemmer};
use serde::{Serialize, Serializer};

/// Matches when any of `any` does, all of `all` do, after all of `none` is struck out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Matcher {
    pub any: Vec<Pattern>,
    pub all: Vec<Pattern>,
    pub none: Vec<Pattern>,
    /// Any of these matches too, whatever the words say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

/// Matches a unit for which a describer's evidence of a phrase is at least `min`, 0..=1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    pub phrase: String,
    pub min: f32,
}

/// One thing to look for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase", untagged)]
pub enum Pattern {
    /// Any of these phrases, each one or several consecutive words.
    Words { words: Vec<String>, stem: bool },
    Regex {
        #[serde(serialize_with = "as_text")]
        regex: Regex,
    },
}

impl Matcher {
    /// Matches any of these phrases by stem.
    pub fn of_words(words: &[String]) -> Matcher {
        let any = vec![Pattern::Words { words: words.to_vec(), stem: true }];
        Matcher { any, ..Matcher::default() }
    }

    /// The first phrase with evidence enough, and how much there is.
    pub fn evident(&self, evidence: &BTreeMap<String, f32>) -> Option<(&str, f32)> {
        self.evidence.iter().find_map(|it| {
            let score = *evidence.get(&it.phrase)?;
            (it.min <= score).then_some((it.phrase.as_str(), score))
        })
    }

    /// What of the rule matched, as the rule writes it; `None` if it does not match.
    pub fn find(&self, text: &str) -> Option<String> {
        let mut words = Words::of(text);
        for pattern in &self.none {
            pattern.strike(&mut words);
        }
        if self.any.is_empty() && self.all.is_empty() {
            return None; // Only evidence was asked for.
        }
        let mut matched = Vec::new();
        if !self.any.is_empty() {
            matched.push(self.any.iter().find_map(|pattern| pattern.find(&words))?);
        }
        for pattern in &self.all {
            matched.push(pattern.find(&words)?);
        }
        Some(matched.join(" and "))
    }
}

/// A text, cut into words, some of which may be struck out.
struct Words {
    text: String,
    words: Vec<Word>,
}

struct Word {
    folded: String,
    stem: String,
    at: std::ops::Range<usize>,
    struck: bool,
}

impl Words {
    fn of(text: &str) -> Words {
        let stemmer = Stemmer::create(Algorithm::English);
        let word = |(start, raw): (usize, &str)| {
            let folded = raw.to_lowercase();
            let stem = stemmer.stem(&folded).into_owned();
            Word { folded, stem, at: start..start + raw.len(), struck: false }
        };
        let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
        let start = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
        Words {
            text: text.to_owned(),
            words: parts.map(|part| word((start(part), part))).collect(),
        }
    }

    /// Where a phrase stands, as places of words.
    fn places_of(&self, phrase: &str, stem: bool) -> Vec<std::ops::Range<usize>> {
        let phrase = Words::of(phrase);
        let n = phrase.words.len();
        if n == 0 {
            return vec![];
        }
        let same = |a: &Word, b: &Word| {
            !a.struck && if stem { a.stem == b.stem } else { a.folded == b.folded }
        };
        let windows = self.words.windows(n).enumerate();
        windows
            .filter(|(_, window)| window.iter().zip(&phrase.words).all(|(a, b)| same(a, b)))
            .map(|(at, _)| at..at + n)
            .collect()
    }

    /// The text with struck words blanked out, bytes staying where they are.
    fn remaining(&self) -> String {
        let mut text = self.text.clone();
        for word in self.words.iter().filter(|word| word.struck) {
            text.replace_range(word.at.clone(), &" ".repeat(word.at.len()));
        }
        text
    }
}

impl Pattern {
    fn find(&self, text: &Words) -> Option<String> {
        match self {
            Pattern::Words { words, stem } => {
                words.iter().find(|phrase| !text.places_of(phrase, *stem).is_empty()).cloned()
            }
            Pattern::Regex { regex } => {
                regex.find(&text.remaining()).map(|found| found.as_str().to_owned())
            }
        }
    }

    fn strike(&self, text: &mut Words) {
        match self {
            Pattern::Words { words, stem } => {
                for phrase in words {
                    for places in text.places_of(phrase, *stem) {
                        text.words[places].iter_mut().for_each(|word| word.struck = true);
                    }
                }
            }
            Pattern::Regex { regex } => {
                let remaining = text.remaining();
                for found in regex.find_iter(&remaining) {
                    let overlaps = |word: &&mut Word| {
                        word.at.start < found.end() && found.start() < word.at.end
                    };
                    text.words.iter_mut().filter(overlaps).for_each(|word| word.struck = true);
                }
            }
        }
    }
}

fn as_text<S: Serializer>(regex: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(regex.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Pattern {
        Pattern::Words { words: words.iter().map(|it| (*it).to_owned()).collect(), stem: true }
    }

    fn regex(text: &str) -> Pattern {
        Pattern::Regex { regex: Regex::new(text).unwrap() }
    }

    #[track_caller]
    fn check(matcher: &Matcher, text: &str, wanted: Option<&str>) {
        assert_eq!(matcher.find(text).as_deref(), wanted, "{text}");
    }

    #[test]
    fn words_are_never_found_inside_words() {
        let matcher =
            Matcher { any: vec![words(&["text", "face", "word", "letter"])], ..Matcher::default() };
        for text in [
            "rough textures",
            "the surface of water",
            "a sword",
            "context",
            "letterbox",
            "faceted gems",
            "typeface",
        ] {
            check(&matcher, text, None);
        }
        check(&matcher, "Faces, of dogs", Some("face"));
        check(&matcher, "TEXT.", Some("text"));
        check(&matcher, "dog's face", Some("face"));
        check(&matcher, "black-lettered signs; letters", Some("letter"));
    }

    #[test]
    fn what_is_excluded_is_struck_out_and_nothing_else() {
        let matcher = Matcher {
            any: vec![words(&["face"])],
            none: vec![words(&["clock face", "watch"]), regex("(?i)face of (a|the) cliff")],
            ..Matcher::default()
        };
        check(&matcher, "clock faces", None);
        check(&matcher, "the face of a cliff", None);
        check(&matcher, "a clock face and a human face", Some("face"));
        check(&matcher, "a watch near a face", Some("face"));
    }

    #[test]
    fn all_must_match_and_phrases_are_consecutive() {
        let matcher = Matcher {
            all: vec![words(&["red"]), words(&["tail light", "lamp"])],
            ..Matcher::default()
        };
        check(&matcher, "red tail lights", Some("red and tail light"));
        check(&matcher, "red tail, white light", None);
        check(&matcher, "tail lights", None);
    }

    #[test]
    fn letters_of_other_scripts_are_letters() {
        let matcher = Matcher { any: vec![words(&["visage", "é"])], ..Matcher::default() };
        check(&matcher, "les visages", Some("visage"));
        check(&matcher, "l'É", Some("é"));
        check(&matcher, "éa", None);
    }
}
