//! Consecutive words, some of which may stand for a list: `<feature> of <filler>* <animal>`.
//!
//! Text is cut into words (letters and digits; case folded) and compared word by word, never inside a
//! word: `texture` is not `text`, `sword` not `word`, `surface` not `face`. By stem (Snowball's English
//! stemmer) `faces` is `face`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rust_stemmers::{Algorithm, Stemmer};

/// Named lists of phrases, that `<name>` in a phrase stands for.
pub type Lists = BTreeMap<String, Vec<String>>;

/// A text, cut into words, some of which may be struck out.
#[derive(Clone)]
pub(super) struct Words {
    pub(super) text: String,
    words: Vec<Word>,
}

#[derive(Debug, Clone)]
struct Word {
    folded: String,
    stem: String,
    at: Range<usize>,
    struck: bool,
}

impl Word {
    /// By what it is compared: its stem, or itself.
    fn key(&self, stem: bool) -> &str {
        if stem { &self.stem } else { &self.folded }
    }
}

impl Words {
    pub(super) fn of(text: &str) -> Words {
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

    /// The text with each letter of struck words replaced by one of as many bytes that no regex takes for a space or a
    /// letter, so that nothing is next to each other that was not before.
    pub(super) fn remaining(&self) -> String {
        let mut text = self.text.clone();
        for word in self.words.iter().filter(|word| word.struck) {
            let blank = |it: char| match it.len_utf8() {
                1 => '\u{1}',
                2 => '\u{80}',
                3 => '\u{e000}',
                _ => '\u{f0000}',
            };
            let blanks: String = self.text[word.at.clone()].chars().map(blank).collect();
            text.replace_range(word.at.clone(), &blanks);
        }
        text
    }

    /// Strikes out every word that touches these bytes of the text.
    pub(super) fn strike(&mut self, bytes: &Range<usize>) {
        let overlaps = |word: &&mut Word| word.at.start < bytes.end && bytes.start < word.at.end;
        self.words.iter_mut().filter(overlaps).for_each(|word| word.struck = true);
    }
}

/// A phrase of a rule, ready to be looked for.
#[derive(Debug, Clone)]
pub(super) struct Phrase {
    tokens: Vec<Token>,
    /// Whether words are compared by their stems.
    stem: bool,
}

#[derive(Debug, Clone)]
struct Token {
    /// Any of these, each one or several words, by the first of them.
    any: BTreeMap<String, Vec<Vec<String>>>,
    repeat: Repeat,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Repeat {
    Once,
    /// `?`
    AtMostOnce,
    /// `*`
    AnyTimes,
}

impl Phrase {
    /// Errs where a list is not known, or nothing is left that must be there.
    pub(super) fn new(text: &str, lists: &Lists, stem: bool) -> Result<Phrase, String> {
        let keys = |text: &str| -> Vec<String> {
            Words::of(text).words.iter().map(|it| it.key(stem).to_owned()).collect()
        };
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (any, after) = match rest.strip_prefix('<').and_then(|it| it.split_once('>')) {
                Some((name, after)) => {
                    let list =
                        lists.get(name).ok_or_else(|| format!("there is no list `{name}`"))?;
                    if let Some(it) = list.iter().find(|it| it.contains(['<', '?', '*'])) {
                        return Err(format!(
                            "`{it}` of list `{name}` holds one of < ? *, which stand in phrases only"
                        ));
                    }
                    let any = list.iter().map(|it| keys(it));
                    let any: Vec<Vec<String>> = any.filter(|it| !it.is_empty()).collect();
                    if any.is_empty() {
                        return Err(format!("list `{name}` holds no word"));
                    }
                    (any, after)
                }
                None if first.is_alphanumeric() => {
                    let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
                    (vec![keys(&rest[..end])], &rest[end..])
                }
                None => {
                    rest = &rest[first.len_utf8()..];
                    continue;
                }
            };
            let repeat = match after.chars().next() {
                Some('?') => Repeat::AtMostOnce,
                Some('*') => Repeat::AnyTimes,
                _ => Repeat::Once,
            };
            let mut by_first: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
            for words in any {
                by_first.entry(words[0].clone()).or_default().push(words);
            }
            tokens.push(Token { any: by_first, repeat });
            rest = after;
        }
        match tokens.iter().any(|it| it.repeat == Repeat::Once) {
            true => Ok(Phrase { tokens, stem }),
            false => Err(format!("`{text}` holds no word that must be there")),
        }
    }

    /// The names of the lists that a phrase speaks of.
    pub(super) fn lists_of(text: &str) -> impl Iterator<Item = &str> {
        text.split('<').skip(1).filter_map(|it| Some(it.split_once('>')?.0))
    }

    /// Where the phrase stands, as bytes of the text; the longest at each word it begins with, none within another.
    pub(super) fn find_all(&self, text: &Words) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.words.len() {
            match longest(&self.tokens, &text.words[at..], self.stem) {
                Some(n) if 0 < n => {
                    found.push(text.words[at].at.start..text.words[at + n - 1].at.end);
                    at += n;
                }
                _ => at += 1,
            }
        }
        found
    }
}

/// How many of the words the tokens cover from the first on; `None` if they do not. Every place that the tokens read so
/// far can end at is known, so that many `*` cost no more than many words.
fn longest(tokens: &[Token], words: &[Word], stem: bool) -> Option<usize> {
    let same = |a: &Word, b: &String| !a.struck && a.key(stem) == b;
    let begins = |at: usize, phrase: &[String]| {
        let here = &words[at..];
        phrase.len() <= here.len() && here.iter().zip(phrase).all(|(a, b)| same(a, b))
    };
    let mut ends = BTreeSet::from([0]);
    for token in tokens {
        let steps = |at: usize| {
            let phrases = words.get(at).and_then(|it| token.any.get(it.key(stem)));
            let phrases = phrases.into_iter().flatten().filter(move |it| begins(at, it));
            phrases.map(move |it| at + it.len())
        };
        let mut next: BTreeSet<usize> = match token.repeat {
            Repeat::Once => BTreeSet::new(),
            _ => ends.clone(),
        };
        let mut open: Vec<usize> = ends.into_iter().collect();
        while let Some(at) = open.pop() {
            for end in steps(at) {
                if next.insert(end) && token.repeat == Repeat::AnyTimes {
                    open.push(end);
                }
            }
        }
        ends = next;
    }
    ends.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(phrase: &str, text: &str, wanted: &[&str]) {
        let list = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect();
        let lists = Lists::from([
            ("animal".to_owned(), list(&["dog", "guinea pig", "pig"])),
            ("feature".to_owned(), list(&["face", "eye"])),
            ("filler".to_owned(), list(&["a", "the", "small"])),
        ]);
        let words = Words::of(text);
        let found = Phrase::new(phrase, &lists, true).unwrap().find_all(&words);
        let found: Vec<&str> = found.into_iter().map(|at| &text[at]).collect();
        assert_eq!(found, wanted, "{phrase} in {text}");
    }

    #[test]
    fn words_are_never_found_inside_words() {
        check("face", "Surfaces, facets, typeface", &[]);
        check("face", "Faces, of FACES", &["Faces", "FACES"]);
        check("tail light", "tail, light; tail-lights", &["tail, light", "tail-lights"]);
    }

    #[test]
    fn a_slot_stands_for_any_phrase_of_its_list() {
        check(
            "<animal> <feature>",
            "guinea pig faces and dog eyes",
            &["guinea pig faces", "dog eyes"],
        );
        check("<animal>'s? <feature>", "dog's face, dog face", &["dog's face", "dog face"]);
        check(
            "<feature> of <filler>* <animal>",
            "the eyes of the small dogs",
            &["eyes of the small dogs"],
        );
        check("<feature> of <filler>* <animal>", "eyes of the people", &[]);
        check("<feature>* dog", "dog, face eye dog", &["dog", "face eye dog"]);
    }

    #[test]
    fn long_texts_and_many_stars_end() {
        let text = "a ".repeat(1500);
        check("small* dog", &"small ".repeat(1500), &[]);
        let words = Words::of(&text);
        let phrase = Phrase::new("a* a* a* a* a* a* a* a* b", &Lists::new(), true).unwrap();
        assert!(phrase.find_all(&words).is_empty());
    }

    #[test]
    fn what_is_no_phrase_is_said() {
        let message = |text: &str| Phrase::new(text, &Lists::new(), true).unwrap_err();
        assert_eq!(message("<cat> eye"), "there is no list `cat`");
        assert_eq!(message("a? b*"), "`a? b*` holds no word that must be there");
        assert_eq!(message("?"), "`?` holds no word that must be there");
    }
}
