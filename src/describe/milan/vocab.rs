//! Words to numbers and back, as the reference's `utils/lang.py` does it.

use std::collections::HashMap;

/// The words that a describer knows. Word `i` is number `i`; behind them stand the four special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<String>,
    places: HashMap<String, u32>,
}

/// How long an index is, and what else it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Indexing {
    pub start: bool,
    pub stop: bool,
    pub pad: bool,
    /// Unknown words become a token; otherwise they are left out.
    pub unknown: bool,
    /// In words; `start` and `stop` come on top. `None` is the longest text given.
    pub length: Option<usize>,
}

impl Vocabulary {
    pub fn new(words: Vec<String>) -> Vocabulary {
        let places = words.iter().enumerate().map(|(i, word)| (word.clone(), i as u32)).collect();
        Vocabulary { words, places }
    }

    pub fn words(&self) -> &[String] {
        &self.words
    }

    pub fn start(&self) -> u32 {
        self.words.len() as u32
    }

    pub fn stop(&self) -> u32 {
        self.start() + 1
    }

    pub fn pad(&self) -> u32 {
        self.start() + 2
    }

    pub fn unknown(&self) -> u32 {
        self.start() + 3
    }

    /// Words and special tokens.
    pub fn n_tokens(&self) -> usize {
        self.words.len() + 4
    }

    /// The numbers of some texts, each already cut into words.
    pub fn index(&self, texts: &[Vec<&str>], how: Indexing) -> Vec<Vec<u32>> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or_default();
        let length = how.length.unwrap_or(longest) + usize::from(how.start) + usize::from(how.stop);
        let index = |words: &Vec<&str>| {
            let mut tokens: Vec<u32> = if how.start { vec![self.start()] } else { vec![] };
            let known = words.iter().map(|word| self.places.get(*word).copied());
            tokens.extend(known.filter_map(|it| it.or(how.unknown.then(|| self.unknown()))));
            tokens.truncate(length - usize::from(how.stop));
            if how.stop {
                tokens.push(self.stop());
            }
            if how.pad {
                tokens.resize(length, self.pad());
            }
            tokens
        };
        texts.iter().map(index).collect()
    }

    /// A sentence from tokens: up to the first stop, without special tokens, punctuation joined to its
    /// word, sentences beginning with a capital. `reconstruct` of the reference.
    pub fn reconstruct(&self, tokens: &[u32]) -> String {
        let before_stop = tokens.iter().take_while(|&&token| token != self.stop());
        let words = before_stop.filter_map(|&token| self.words.get(token as usize));
        let mut text = words.map(String::as_str).collect::<Vec<_>>().join(" ");
        for mark in [".", ",", ";", ":"] {
            text = text.replace(&format!(" {mark}"), mark);
        }
        text = text.replace(" -", "-").replace("- ", "-");
        let sentences = text.split('.').map(|sentence| capitalised(sentence.trim()));
        sentences.collect::<Vec<_>>().join(". ").trim().to_owned()
    }
}

/// The first letter large and all others small, as Python's `capitalize`.
pub(super) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase()
    })
}

/// A text in small letters, cut into words, numbers and punctuation: near enough to spaCy's English
/// rules, which the reference uses. `dog's` is `dog` and `'s`; a hyphen is a word of its own.
pub fn tokenize(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let mut tokens: Vec<String> = Vec::new();
    for part in text.split_whitespace() {
        let mut word = String::new();
        let mut letters = part.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter.is_alphanumeric() {
                word.push(letter);
                continue;
            }
            if !word.is_empty() {
                tokens.push(std::mem::take(&mut word));
            }
            let is_clitic = letter == '\'' && letters.peek().is_some_and(|it| it.is_alphanumeric());
            if is_clitic && !tokens.is_empty() {
                word.push(letter);
            } else {
                tokens.push(letter.to_string());
            }
        }
        if !word.is_empty() {
            tokens.push(word);
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary::new(["foo", "bar", "baz"].map(str::to_owned).to_vec())
    }

    /// The examples of the reference's tests/utils/lang_test.py.
    #[test]
    fn texts_are_indexed_as_in_the_reference() {
        let check = |texts: &[&str], how: Indexing, wanted: &[&[u32]]| {
            let texts: Vec<Vec<&str>> = texts.iter().map(|it| it.split(' ').collect()).collect();
            assert_eq!(vocabulary().index(&texts, how), wanted);
        };
        let plain = Indexing::default();
        check(&["baz bar foo"], plain, &[&[2, 1, 0]]);
        check(&["baz bar foo", "baz bad"], plain, &[&[2, 1, 0], &[2]]);
        check(&["baz bar foo"], Indexing { start: true, ..plain }, &[&[3, 2, 1, 0]]);
        check(&["baz bar foo"], Indexing { stop: true, ..plain }, &[&[2, 1, 0, 4]]);
        check(
            &["baz bar foo", "baz bad"],
            Indexing { pad: true, ..plain },
            &[&[2, 1, 0], &[2, 5, 5]],
        );
        check(&["baz bad foo"], Indexing { unknown: true, ..plain }, &[&[2, 6, 0]]);
        let short = Indexing { length: Some(2), ..plain };
        check(&["baz bar foo", "baz bad"], short, &[&[2, 1], &[2]]);
        check(&["baz bar foo", "baz bad"], Indexing { pad: true, ..short }, &[&[2, 1], &[2, 5]]);
        let all = Indexing { start: true, stop: true, pad: true, unknown: true, length: Some(2) };
        check(&["baz bad foo", "baz"], all, &[&[3, 2, 6, 4], &[3, 2, 4, 5]]);
        assert_eq!(vocabulary().index(&[], all), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn sentences_are_put_together_again() {
        let words = ["dog", "'s", "face", ",", "red", "-", "orange", ".", "or"];
        let vocabulary = Vocabulary::new(words.map(str::to_owned).to_vec());
        let stop = vocabulary.stop();
        assert_eq!(
            vocabulary.reconstruct(&[0, 1, 2, 3, 4, 5, 6, stop, 0]),
            "Dog 's face, red-orange"
        );
        assert_eq!(vocabulary.reconstruct(&[vocabulary.start(), 0, 7, 4, 12]), "Dog. Red");
        assert_eq!(vocabulary.reconstruct(&[stop, 0]), "");
    }

    #[test]
    fn text_is_cut_into_words() {
        let check = |text: &str, wanted: &str| assert_eq!(tokenize(text).join(" "), wanted);
        check("The dog's face, red-orange.", "the dog 's face , red - orange .");
        check("  Ünder \n water; 3 cats' ", "ünder water ; 3 cats '");
        check("'tis", "' tis");
        check("", "");
    }
}
