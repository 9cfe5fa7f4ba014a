//! Whether a description speaks of something.
//!
//! What `none` covers is struck out before the rest is tried, so that "a clock face and a human face" still
//! speaks of a face. How words are compared stands in [`phrase`](super::phrase).

use std::collections::BTreeMap;
use std::ops::Range;

use regex::Regex;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::phrase::{Lists, Phrase, Words};

/// Matches when any of `any` does, and all of `all` do, after all of `none` is struck out.
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
#[derive(Debug, Clone)]
pub enum Pattern {
    /// Any of some phrases.
    Words(WordList),
    Regex(Regex),
    /// A text whose meaning is at least so close to that of the phrase: the cosine of their vectors.
    Phrase {
        phrase: String,
        min_similarity: f32,
    },
    /// What another match finds in what is left of the text; what it strikes out is struck out for itself alone.
    Match(Matcher),
}

/// Phrases of consecutive words, by stem or as they are written.
#[derive(Debug, Clone)]
pub struct WordList {
    words: Vec<String>,
    stem: bool,
    /// Those that the phrases speak of.
    lists: Lists,
    phrases: Vec<Phrase>,
}

impl WordList {
    /// Errs where a phrase speaks of a list that is not known, or has no word that must be there.
    pub fn new(words: Vec<String>, stem: bool, known: &Lists) -> Result<WordList, String> {
        let phrases =
            words.iter().map(|it| Phrase::new(it, known, stem)).collect::<Result<_, _>>()?;
        let named = words.iter().flat_map(|it| Phrase::lists_of(it));
        let lists = named.filter_map(|it| Some((it.to_owned(), known.get(it)?.clone()))).collect();
        Ok(WordList { words, stem, lists, phrases })
    }

    /// How many words it would hold, those of a list for each phrase that speaks of it.
    pub fn size(words: &[String], known: &Lists) -> usize {
        let count = |text: &String| text.split_whitespace().count().max(1);
        let of_list = |name: &str| known.get(name).map_or(0, |it| it.iter().map(count).sum());
        let of_phrase = |it: &String| count(it) + Phrase::lists_of(it).map(of_list).sum::<usize>();
        words.iter().map(of_phrase).sum()
    }

    pub fn words(&self) -> &[String] {
        &self.words
    }
}

/// How alike texts are to the phrases of a policy: the cosine of their vectors, -1..=1.
#[derive(Debug, Clone, Default)]
pub struct Similarities(pub BTreeMap<String, BTreeMap<String, f32>>);

impl Similarities {
    fn of(&self, phrase: &str, text: &str) -> Option<f32> {
        self.0.get(phrase)?.get(text).copied()
    }
}

impl Matcher {
    /// Matches any of these phrases by stem. Errs as [`WordList::new`].
    pub fn of_words(words: &[String]) -> Result<Matcher, String> {
        let words = WordList::new(words.to_vec(), true, &Lists::new())?;
        Ok(Matcher { any: vec![Pattern::Words(words)], ..Matcher::default() })
    }

    /// The first phrase with evidence enough, and how much there is.
    pub fn evident(&self, evidence: &BTreeMap<String, f32>) -> Option<(&str, f32)> {
        self.evidence.iter().find_map(|it| {
            let score = *evidence.get(&it.phrase)?;
            (it.min <= score).then_some((it.phrase.as_str(), score))
        })
    }

    /// Whether no words are asked for.
    pub fn wants_no_words(&self) -> bool {
        self.any.is_empty() && self.all.is_empty()
    }

    /// The phrases whose likeness to a text is asked for.
    pub fn phrases(&self) -> Vec<&str> {
        let patterns = [&self.any, &self.all, &self.none].into_iter().flatten();
        let phrases = patterns.flat_map(|it| match it {
            Pattern::Phrase { phrase, .. } => vec![phrase.as_str()],
            Pattern::Match(inner) => inner.phrases(),
            Pattern::Words(_) | Pattern::Regex(_) => vec![],
        });
        phrases.collect()
    }

    /// What of the text matched; `None` if it does not match.
    pub fn find(&self, text: &str, similar: &Similarities) -> Option<String> {
        self.judge(&Words::of(text), similar, None).map(|it| it.said)
    }

    /// Everything that was tried, and what came of it.
    pub fn trace(&self, text: &str, similar: &Similarities) -> Trace {
        let mut tried = Vec::new();
        let found = self.judge(&Words::of(text), similar, Some(&mut tried));
        Trace { tried, found: found.map(|it| it.said) }
    }

    /// Tries the patterns in turn, on what is not struck out of the text yet, and adds each to `tried`. What is struck
    /// out here is not struck out of the caller's text.
    fn judge(
        &self,
        text: &Words,
        similar: &Similarities,
        mut tried: Option<&mut Vec<Tried>>,
    ) -> Option<Match> {
        let mut words = text.clone();
        let mut look = |part, pattern: &Pattern, words: &Words| {
            let mut within = tried.is_some().then(Vec::new);
            let found = pattern.judge(words, similar, within.as_mut());
            if let Some(tried) = tried.as_deref_mut() {
                let covers = found.as_ref().map(|it| it.covers.as_slice()).unwrap_or_default();
                let within = within.unwrap_or_default();
                tried.push(Tried::new(part, pattern, &words.text, covers, within, similar));
            }
            found
        };
        for pattern in &self.none {
            let found = look("none", pattern, &words);
            found.iter().flat_map(|it| &it.covers).for_each(|it| words.strike(it));
        }
        let any: Vec<Match> = self.any.iter().filter_map(|it| look("any", it, &words)).collect();
        let all: Vec<Option<Match>> = self.all.iter().map(|it| look("all", it, &words)).collect();
        let all: Vec<Match> = all.into_iter().collect::<Option<_>>()?;
        let asks_any = !self.any.is_empty() || !self.evidence.is_empty();
        if (asks_any && any.is_empty()) || (!asks_any && all.is_empty()) {
            return None;
        }
        let said: Vec<&str> = any.iter().take(1).chain(&all).map(|it| it.said.as_str()).collect();
        let said = said.join(" and ");
        Some(Match { said, covers: any.into_iter().chain(all).flat_map(|it| it.covers).collect() })
    }
}

/// What matched in a text.
struct Match {
    /// As a finding names it.
    said: String,
    /// Of the text, in the order of the patterns; never empty.
    covers: Vec<Range<usize>>,
}

/// How a text was judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    pub tried: Vec<Tried>,
    /// What matched; `None` if the text does not match.
    pub found: Option<String>,
}

/// One pattern, held against a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// `any`, `all` or `none`.
    pub part: &'static str,
    /// As the rule writes it, shortened.
    pub pattern: String,
    /// What of the text it covers.
    pub hits: Vec<String>,
    /// Of a phrase, how alike it is.
    pub similarity: Option<f32>,
    /// Of a match within the match, what it tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Tried>,
}

impl Tried {
    /// Whether it, or anything that it tried in turn, covers some of the text.
    pub fn covers_anything(&self) -> bool {
        !self.hits.is_empty() || self.within.iter().any(Tried::covers_anything)
    }

    fn new(
        part: &'static str,
        pattern: &Pattern,
        text: &str,
        covers: &[Range<usize>],
        within: Vec<Tried>,
        similar: &Similarities,
    ) -> Tried {
        let similarity = match pattern {
            Pattern::Phrase { phrase, .. } => similar.of(phrase, text),
            _ => None,
        };
        let hits = covers.iter().map(|at| text[at.clone()].to_owned()).collect();
        Tried { part, pattern: pattern.to_string(), hits, similarity, within }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pattern::Words(list) => {
                let shown = list.words.iter().take(3).map(String::as_str).collect::<Vec<_>>();
                let more = if shown.len() < list.words.len() { ", …" } else { "" };
                write!(f, "{}{more}", shown.join(", "))
            }
            Pattern::Regex(regex) => write!(f, "/{regex}/"),
            Pattern::Phrase { phrase, min_similarity } => {
                write!(f, "like \"{phrase}\" ({min_similarity} or more)")
            }
            Pattern::Match(inner) => {
                let parts = [("any", &inner.any), ("all", &inner.all), ("none", &inner.none)];
                let parts = parts.iter().filter_map(|(name, patterns)| {
                    let more = if 1 < patterns.len() { "; …" } else { "" };
                    Some(format!("{name} of {}{more}", patterns.first()?))
                });
                write!(f, "({})", parts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Pattern {
    /// What of the text the pattern covers, and what to call it.
    fn judge(
        &self,
        text: &Words,
        similar: &Similarities,
        tried: Option<&mut Vec<Tried>>,
    ) -> Option<Match> {
        let covers: Vec<Range<usize>> = match self {
            Pattern::Words(list) => list.phrases.iter().flat_map(|it| it.find_all(text)).collect(),
            Pattern::Regex(regex) => {
                // One that finds an empty place, as `\b` does, finds nothing there.
                let found =
                    regex.find_iter(&text.remaining()).map(|it| it.range()).collect::<Vec<_>>();
                found.into_iter().filter(|it| !it.is_empty()).collect()
            }
            Pattern::Phrase { phrase, min_similarity } => {
                let is_like = min_similarity <= &similar.of(phrase, &text.text)?;
                let all = 0..text.text.len();
                let said = format!("like \"{phrase}\"");
                return is_like.then(|| Match { said, covers: vec![all] });
            }
            Pattern::Match(inner) => return inner.judge(text, similar, tried),
        };
        let said = text.text[covers.first()?.clone()].to_owned();
        Some(Match { said, covers })
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Pattern::Words(list) => {
                map.serialize_entry("words", &list.words)?;
                map.serialize_entry("stem", &list.stem)?;
                if !list.lists.is_empty() {
                    map.serialize_entry("lists", &list.lists)?;
                }
            }
            Pattern::Regex(regex) => map.serialize_entry("regex", regex.as_str())?,
            Pattern::Phrase { phrase, min_similarity } => {
                map.serialize_entry("phrase", phrase)?;
                map.serialize_entry("min-similarity", min_similarity)?;
            }
            Pattern::Match(inner) => {
                for (key, patterns) in
                    [("any", &inner.any), ("all", &inner.all), ("none", &inner.none)]
                {
                    if !patterns.is_empty() {
                        map.serialize_entry(key, patterns)?;
                    }
                }
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Pattern {
        let words = words.iter().map(|it| (*it).to_owned()).collect();
        Pattern::Words(WordList::new(words, true, &Lists::new()).unwrap())
    }

    fn regex(text: &str) -> Pattern {
        Pattern::Regex(Regex::new(text).unwrap())
    }

    #[track_caller]
    fn check(matcher: &Matcher, text: &str, wanted: Option<&str>) {
        assert_eq!(matcher.find(text, &Similarities::default()).as_deref(), wanted, "{text}");
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
        check(&matcher, "Faces, of dogs", Some("Faces"));
        check(&matcher, "TEXT.", Some("TEXT"));
        check(&matcher, "dog's face", Some("face"));
        check(&matcher, "black-lettered signs; letters", Some("lettered"));
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
        check(&matcher, "red tail lights", Some("red and tail lights"));
        check(&matcher, "red tail, white light", None);
        check(&matcher, "tail lights", None);
    }

    #[test]
    fn a_match_within_a_match_strikes_out_for_itself_alone() {
        let of = |any: Pattern, none: Pattern| {
            Pattern::Match(Matcher { any: vec![any], none: vec![none], ..Matcher::default() })
        };
        let faces = of(words(&["face"]), words(&["face of dogs", "dog face"]));
        let people = words(&["face of dogs and people"]);
        let none = vec![words(&["clock face"])];
        let matcher = Matcher { any: vec![faces, people], none, ..Matcher::default() };
        check(&matcher, "dog faces", None);
        check(&matcher, "clock faces", None);
        check(&matcher, "dog faces, a face", Some("face"));
        check(&matcher, "faces of dogs and people", Some("faces of dogs and people"));
        let both = Matcher { all: vec![words(&["red"]), words(&["car"])], ..Matcher::default() };
        let matcher = Matcher { any: vec![Pattern::Match(both)], ..Matcher::default() };
        check(&matcher, "a car that is red", Some("red and car"));
        check(&matcher, "a car", None);
    }

    #[test]
    fn a_match_within_a_match_is_traced() {
        let none = vec![words(&["dog face"])];
        let inner = Matcher { any: vec![words(&["face", "head"])], none, ..Matcher::default() };
        let matcher = Matcher { any: vec![Pattern::Match(inner)], ..Matcher::default() };
        let trace = matcher.trace("dog faces", &Similarities::default());
        let [tried] = &trace.tried[..] else { panic!("{trace:?}") };
        assert_eq!(
            (tried.part, tried.pattern.as_str()),
            ("any", "(any of face, head, none of dog face)")
        );
        assert!(tried.hits.is_empty());
        let within: Vec<_> = tried.within.iter().map(|it| (it.part, it.hits.join(", "))).collect();
        assert_eq!(within, [("none", "dog faces".to_owned()), ("any", String::new())]);
    }

    #[test]
    fn a_regex_sees_no_space_where_words_are_struck_out() {
        let none = vec![words(&["hand of dog", "école"])];
        let matcher =
            Matcher { any: vec![regex(", *face"), regex("face .+")], none, ..Matcher::default() };
        check(&matcher, "trees, hands of dogs faces", None);
        check(&matcher, "trees, faces", Some(", face"));
        // Struck letters keep their bytes.
        check(&matcher, "face école", Some("face école"));
    }

    #[test]
    fn a_regex_that_finds_an_empty_place_finds_nothing() {
        check(&Matcher { any: vec![regex(r"\b")], ..Matcher::default() }, "a face", None);
    }

    #[test]
    fn letters_of_other_scripts_are_letters() {
        let matcher = Matcher { any: vec![words(&["visage", "é"])], ..Matcher::default() };
        check(&matcher, "les visages", Some("visages"));
        check(&matcher, "l'É", Some("É"));
        check(&matcher, "éa", None);
    }

    #[test]
    fn a_phrase_matches_what_is_like_it_and_strikes_all_of_it() {
        let like = |min_similarity| Pattern::Phrase { phrase: "a face".into(), min_similarity };
        let scores = BTreeMap::from([("portraits".to_owned(), 0.7), ("faces".to_owned(), 0.9)]);
        let similar = Similarities(BTreeMap::from([("a face".to_owned(), scores)]));
        let matcher = Matcher { any: vec![like(0.6)], ..Matcher::default() };
        assert_eq!(matcher.find("portraits", &similar).as_deref(), Some("like \"a face\""));
        assert_eq!(matcher.find("dogs", &similar), None);
        let matcher =
            Matcher { any: vec![words(&["face"])], none: vec![like(0.8)], ..Matcher::default() };
        assert_eq!(matcher.find("faces", &similar), None);
        let trace = matcher.trace("faces", &similar);
        assert_eq!((trace.tried[0].part, trace.tried[0].similarity), ("none", Some(0.9)));
    }

    #[test]
    fn evidence_alone_matches_no_text() {
        let evidence = vec![Evidence { phrase: "faces".into(), min: 0.5 }];
        check(&Matcher { evidence, ..Matcher::default() }, "faces", None);
    }
}
