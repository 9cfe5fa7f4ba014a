//! As much English as phrases need: which words are nouns, what takes an article, what is misspelt. No tagger: what
//! people write tells it, for they write the same few words again and again.

use std::collections::BTreeMap;

/// Words that no phrase begins or ends with.
const FUNCTION_WORDS: &str = "a an the of in on and or with to from by at for near around behind that \
    which is are was be as it its this these those into over under above below between within inside \
    along across through their his her s very other some being have has not they them you your we our my \
    i he she who whom whose what where when while each every both all any many most mostly more few \
    several one ones lot lots up down out off like unlike against next toward towards onto upon there \
    here also only just if than then so but were been having had do does doing can could may might \
    will would various same such someone somebody underneath beneath beside besides another couple";
/// Of those, the ones that may stand inside a phrase.
const JOINING: &str = "a an the of in on and with from at for near around behind into over under \
    above below between within inside along across through";
const ARTICLES: [&str; 3] = ["a", "an", "the"];
const POSSESSIVES: [&str; 4] = ["their", "his", "her", "its"];
const RELATIVES: [&str; 2] = ["that", "which"];
const COPULAS: [&str; 4] = ["is", "are", "was", "were"];
/// Behind these a word says something of a noun, or what it does, and is none.
const BEFORE_ADJECTIVES: &str = "is are was were be been being very not so";
const BEFORE_VERBS: &str =
    "that which who they you it to can could may might will would do does also";
/// Behind these a colour is what the phrase is of: "the color red", "patches of red".
const BEFORE_COLOURS: [&str; 3] = ["color", "colour", "of"];
const PREPOSITIONS: [&str; 8] = ["in", "on", "at", "with", "near", "through", "over", "under"];
/// Where something is; each thing has one of them.
const PLACES: &str = "top bottom front back middle center centre side left right inside outside";
/// Words whose first sound is not that of their first letter.
const CONSONANT_SOUNDS: [&str; 5] = ["uni", "use", "usu", "eu", "one"];
const VOWEL_SOUNDS: [&str; 3] = ["hour", "honest", "heir"];
const IRREGULAR_PLURALS: [(&str, &str); 8] = [
    ("person", "people"),
    ("woman", "women"),
    ("man", "men"),
    ("child", "children"),
    ("foot", "feet"),
    ("tooth", "teeth"),
    ("mouse", "mice"),
    ("goose", "geese"),
];
/// What words in -s end with that are no plurals.
const NO_PLURALS: [&str; 4] = ["ss", "us", "is", "'s"];

/// A word that is written at most so often may be misspelt, if another is written so many times as often.
const RARE: usize = 3;
const FAR_MORE: usize = 10;
/// Two words that were written as one are so many times as frequent.
const MORE: usize = 3;
/// In shorter words a letter more or less makes another word.
const LEAST_LETTERS: usize = 5;

pub(super) fn is_function(word: &str) -> bool {
    FUNCTION_WORDS.split_whitespace().any(|it| it == word)
}

pub(super) fn is_article(word: &str) -> bool {
    ARTICLES.contains(&word)
}

/// Whether a word may stand inside a phrase, behind `before`.
pub(super) fn may_stand_inside(before: Option<&str>, word: &str) -> bool {
    let relative = RELATIVES.contains(&word)
        || COPULAS.contains(&word) && before.is_some_and(|it| RELATIVES.contains(&it));
    relative || !is_function(word) || JOINING.split_whitespace().any(|it| it == word)
}

/// Whether a word has the form of a plural; "dogs" and "people", not "grass".
pub(super) fn is_plural(word: &str) -> bool {
    let irregular = IRREGULAR_PLURALS.iter().any(|it| it.1 == word);
    irregular || word.ends_with('s') && !NO_PLURALS.iter().any(|it| word.ends_with(it))
}

/// A text whose indefinite articles fit the words behind them: "an animal".
pub(super) fn with_right_articles(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let right = |at: usize| match (words[at], words.get(at + 1)) {
        ("a" | "an", Some(next)) => indefinite_article(next),
        (word, _) => word,
    };
    (0..words.len()).map(right).collect::<Vec<_>>().join(" ")
}

/// "a" or "an", by the sound that a word begins with.
fn indefinite_article(word: &str) -> &'static str {
    let begins = |with: &[&str]| with.iter().any(|it| word.starts_with(it));
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u', '8']) && !begins(&CONSONANT_SOUNDS);
    if vowel || begins(&VOWEL_SOUNDS) { "an" } else { "a" }
}

/// What misspelt words should be.
#[derive(Debug, Default)]
pub(super) struct Spelling(BTreeMap<String, Vec<String>>);

impl Spelling {
    /// A rare word that is in no dictionary is misspelt where it has one letter more or less than a far more common
    /// word, or the same letters in another order; or it is two words, the first of which joins. `is_word` is the
    /// dictionary.
    pub(super) fn learn(clauses: &[Vec<String>], is_word: &dyn Fn(&str) -> bool) -> Spelling {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        clauses.iter().flatten().for_each(|word| *counts.entry(word).or_default() += 1);
        let is_word = |word: &str| is_word(word) || word.strip_suffix('s').is_some_and(is_word);
        let n_times = |times: usize, n: usize, word: &str| {
            counts.get(word).is_some_and(|&more| times * n <= more)
        };
        let mut right = BTreeMap::new();
        for (&word, &n) in counts.iter().filter(|it| *it.1 <= RARE && !is_word(it.0)) {
            let two = JOINING.split_whitespace().find_map(|first| {
                let second = word.strip_prefix(first).filter(|it| 3 <= it.len())?;
                let times = if first == "a" { FAR_MORE } else { MORE };
                let both = n_times(FAR_MORE, n, first) && n_times(times, n, second);
                both.then(|| vec![first.to_owned(), second.to_owned()])
            });
            let long = LEAST_LETTERS <= word.chars().count() && !word.contains('\'');
            let one = || {
                let common = counts.iter().filter(|it| FAR_MORE * n <= *it.1);
                let near = common.filter(|it| long && is_slip(word, it.0));
                near.max_by_key(|it| it.1).map(|it| vec![(*it.0).to_owned()])
            };
            if let Some(words) = two.or_else(one) {
                right.insert(word.to_owned(), words);
            }
        }
        Spelling(right)
    }

    pub(super) fn correct(&self, clause: &[String]) -> Vec<String> {
        let right = |word: &String| self.0.get(word).cloned().unwrap_or_else(|| vec![word.clone()]);
        clause.iter().flat_map(right).collect()
    }
}

/// Whether two words have the same first letter and all others, in any order, or one has one letter more. A plural is
/// no slip.
fn is_slip(a: &str, b: &str) -> bool {
    let letters = |word: &str| word.chars().collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    let (short, long) = if a.len() < b.len() { (&a, &b) } else { (&b, &a) };
    if short.len() == long.len() {
        let sorted = |word: &[char]| {
            let mut word = word.to_vec();
            word.sort_unstable();
            word
        };
        return short != long && short[0] == long[0] && sorted(short) == sorted(long);
    }
    let same = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let plural = same == short.len() && long.last() == Some(&'s');
    short.len() + 1 == long.len() && short[same..] == long[same + 1..] && !plural
}

/// How often a word was written where nouns stand, and where others do.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    n: usize,
    /// As the last of its words, behind nothing that says it is an adjective.
    noun: usize,
    /// Before another word that it says something of, behind "is", or before what it is done to.
    other: usize,
    /// As the last of its words, behind a noun: "heads" in "dog heads", but "looking" in "dog looking", too.
    behind_noun: usize,
    /// Behind "color".
    behind_color: usize,
    /// Behind another word that carries meaning, or one that leads to a verb.
    led: usize,
    /// As the last of words that begin with "a", with "the", and with no article.
    indefinite: usize,
    definite: usize,
    bare: usize,
}

/// What the words of some clauses are used as.
#[derive(Debug, Default)]
pub(super) struct Grammar(BTreeMap<String, Use>);

impl Grammar {
    pub(super) fn learn(clauses: &[Vec<String>]) -> Grammar {
        let mut uses: BTreeMap<String, Use> = BTreeMap::new();
        // Whether what stands behind an adjective is a noun is known only when adjectives are.
        for round in 0..2 {
            let before = std::mem::take(&mut uses);
            let is_adjective =
                |word: &str| before.get(word).is_some_and(|it| 0 < round && it.noun < it.other);
            for clause in clauses {
                for at in 0..clause.len() {
                    let it = uses.entry(clause[at].clone()).or_default();
                    it.note(clause, at, &is_adjective);
                }
            }
        }
        Grammar(uses)
    }

    fn of(&self, word: &str) -> Use {
        self.0.get(word).copied().unwrap_or_default()
    }

    /// Whether a word, its plural or its singular mostly stands where nouns do.
    pub(super) fn is_noun(&self, word: &str) -> bool {
        let it = self.of(word);
        let mut others = plurals(word).chain(singulars(word));
        let other = |word: String| 2 <= self.of(&word).noun && self.of(&word).is_noun(&word);
        it.is_noun(word) || 0 < it.noun && others.any(other)
    }

    /// Whether a word is what somebody does: half of the time it stands behind who does it and is no noun.
    fn is_verb(&self, word: &str) -> bool {
        let it = self.of(word);
        !self.is_noun(word) && it.n <= 2 * it.led
    }

    fn is_colour(&self, word: &str) -> bool {
        0 < self.of(word).behind_color
    }

    /// Whether the words of a phrase are such that a careful person would write them.
    pub(super) fn is_sound(&self, phrase: &[String]) -> bool {
        let words = phrase.iter().enumerate();
        let before = |at: usize| at.checked_sub(1).map(|it| phrase[it].as_str());
        let next = |at: usize| phrase.get(at + 1).map(String::as_str);
        let fits = |(at, word): (usize, &String)| {
            if is_function(word) {
                return may_stand_inside(before(at), word);
            }
            let begins = before(at).is_none_or(is_function);
            let ends = next(at).is_none_or(is_function);
            match (begins, ends) {
                (true, false) => !self.is_verb(word) && !self.is_careless(phrase, at),
                (false, false) => !self.is_careless(phrase, at),
                (_, true) => self.may_end(phrase, at) && !self.lacks_article(phrase, at),
            }
        };
        let count = |word: &str| matches!(word, "a" | "an");
        let numbers = phrase.windows(2).all(|it| !(count(&it[0]) && is_plural(&it[1])));
        numbers && words.clone().all(fits)
    }

    /// A plural before a noun: "dogs ears".
    fn is_careless(&self, phrase: &[String], at: usize) -> bool {
        let word = &phrase[at];
        let noun = self.is_noun(word) || singulars(word).any(|it| self.is_noun(&it));
        is_plural(word) && noun && self.is_noun(&phrase[at + 1])
    }

    /// Whether the words that end at a place, and begin behind others, should begin with an article: "heads of animal".
    fn lacks_article(&self, phrase: &[String], at: usize) -> bool {
        let begin = phrase[..at].iter().rposition(|it| is_function(it));
        begin.is_some_and(|it| !is_article(&phrase[it]))
            && 0 < self.of(&phrase[at]).indefinite
            && self.article(&phrase[at]) == Some("a")
    }

    /// Whether words may end with the one at a place: a noun, or what is said of one ("that are red", "the color
    /// red", "black and white stripes", "dog sitting on grass").
    fn may_end(&self, phrase: &[String], at: usize) -> bool {
        let word = &phrase[at];
        let back = |n: usize| at.checked_sub(n).map(|it| phrase[it].as_str());
        let next = phrase.get(at + 1).map(String::as_str);
        let adjective = !self.is_verb(word) && !self.is_noun(word);
        let said = back(1).is_some_and(|it| COPULAS.contains(&it));
        let before_last = back(1).is_none_or(is_function)
            && matches!(next, Some("and" | "or"))
            && phrase.get(at + 3).is_some_and(|it| !is_function(it));
        let done = word.ends_with("ing")
            && back(1).is_some_and(|it| self.is_noun(it))
            && next.is_some_and(|it| PREPOSITIONS.contains(&it));
        self.is_noun(word) && !said
            || adjective && (said || before_last)
            || self.is_colour(word) && back(1).is_some_and(|it| BEFORE_COLOURS.contains(&it))
            || done
    }

    /// A phrase with the article that people put before it.
    pub(super) fn with_article(&self, phrase: &[String]) -> String {
        let ends = phrase.iter().position(|it| is_function(it)).unwrap_or(phrase.len());
        let first = &phrase[..ends];
        // Of "person lifting weights" it is the person's.
        let subject = first
            .windows(2)
            .find(|it| self.is_noun(&it[0]) && it[1].ends_with("ing") && !self.is_noun(&it[1]))
            .map(|it| &it[0])
            .or(first.last());
        let of_many = |it: &String| it.strip_suffix("'s").is_some_and(is_plural);
        // "light and dark areas"
        let adjectives = ends == 1
            && phrase.get(1).is_some_and(|it| it == "and")
            && phrase.get(3).is_some_and(|it| !is_function(it));
        let colour = subject.is_some_and(|it| self.is_colour(it) && !self.is_noun(it));
        let article = match subject {
            _ if adjectives || first.iter().any(of_many) => None,
            _ if matches!(first[0].as_str(), "color" | "colour") && colour => Some("the"),
            Some(word) if PLACES.split_whitespace().any(|it| it == first[0]) => {
                (!is_plural(word)).then_some("the")
            }
            Some(word) => self.article(word),
            None => None,
        };
        let text = phrase.join(" ");
        with_right_articles(&article.map_or(text.clone(), |it| format!("{it} {text}")))
    }

    /// What people put before a word where it is the last behind an article, or might be: nothing before plurals and
    /// what is not counted.
    fn article(&self, head: &str) -> Option<&'static str> {
        let Use { indefinite, definite, bare, .. } = self.of(head);
        if is_plural(head) || !self.is_noun(head) {
            return None;
        }
        if indefinite + bare <= definite {
            return Some("the");
        }
        let plurals: usize = plurals(head).map(|it| self.of(&it).noun).sum();
        // Some count what others do not, so a plural or a third of the singulars must tell.
        let least = if 0 < plurals { 12 } else { 3 };
        let counted = indefinite + bare <= least * indefinite
            && bare <= 3 * plurals.max(indefinite)
            || bare <= plurals;
        counted.then_some("a")
    }
}

/// What the plural of a word may be.
fn plurals(word: &str) -> impl Iterator<Item = String> {
    let irregular = IRREGULAR_PLURALS.iter().find(|it| it.0 == word).map(|it| it.1.to_owned());
    let other = word.strip_suffix('y').map(|it| format!("{it}ies"));
    [format!("{word}s"), format!("{word}es")].into_iter().chain(other).chain(irregular)
}

/// What words it may be the plural of.
fn singulars(word: &str) -> impl Iterator<Item = String> {
    let ends = [("s", ""), ("es", ""), ("ies", "y")];
    let word = word.to_owned();
    let one = move |(end, new): (&str, &str)| Some(word.strip_suffix(end)?.to_owned() + new);
    ends.into_iter().filter_map(one)
}

impl Use {
    fn is_noun(&self, word: &str) -> bool {
        // "dog heads" is common, "child clothing" is less so than "child walking".
        let behind = if word.ends_with("ing") { 1 } else { 4 };
        self.other < self.noun && self.behind_noun <= behind * self.noun
    }

    /// Counts the word at a place of a clause.
    fn note(&mut self, clause: &[String], at: usize, is_adjective: &dyn Fn(&str) -> bool) {
        let before = at.checked_sub(1).map(|it| clause[it].as_str());
        let next = clause.get(at + 1).map(String::as_str);
        let content = before.filter(|it| !is_function(it));
        self.n += 1;
        let is_one = |list: &str| {
            before.is_some_and(|before| list.split_whitespace().any(|it| it == before))
        };
        self.led += usize::from(content.is_some() || is_one(BEFORE_VERBS));
        self.behind_color += usize::from(matches!(before, Some("color" | "colour")));
        let takes_object = next.is_some_and(|it| is_article(it) || POSSESSIVES.contains(&it));
        if is_one(BEFORE_ADJECTIVES)
            || is_one(BEFORE_VERBS)
            || next.is_some_and(|it| !is_function(it))
            || takes_object
        {
            self.other += 1;
            return;
        }
        match content {
            Some(before) if !is_adjective(before) => self.behind_noun += 1,
            // "long and thin objects" tells nothing of "long".
            None if matches!(next, Some("and" | "or")) => {}
            // No adjective is the last word behind an article.
            _ => self.noun += if before.is_some_and(is_article) { 2 } else { 1 },
        }
        let first = (0..at).rev().find(|&it| is_function(&clause[it]));
        match first.map(|it| clause[it].as_str()) {
            Some("a" | "an") => self.indefinite += 1,
            Some("the") => self.definite += 1,
            _ => self.bare += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn clauses(text: &str) -> Vec<Vec<String>> {
        text.split(", ").map(cut).collect()
    }

    fn grammar() -> Grammar {
        Grammar::learn(&clauses(
            "a dog, dogs, dogs, heads of dogs, head of a dog, the head, heads, grass, green grass, \
             objects that are long, long objects, objects, dog looking at grass, dogs looking at grass, \
             kids holding a dog, a kid, kids, objects that hold grass, the sky, the sky, the color green",
        ))
    }

    #[test]
    fn articles_fit_the_sound_behind_them() {
        let check = |text: &str, wanted: &str| assert_eq!(with_right_articles(text), wanted);
        check("space above a animal", "space above an animal");
        check("an dog on a unicycle", "a dog on a unicycle");
        check("a hour glass and a umbrella", "an hour glass and an umbrella");
        check("a", "a");
    }

    #[test]
    fn phrases_are_nouns_and_what_belongs_to_them() {
        let check = |phrase: &str, wanted: bool| {
            assert_eq!(grammar().is_sound(&cut(phrase)), wanted, "{phrase}");
        };
        check("dogs", true);
        check("heads of dogs", true);
        check("objects that are long", true);
        check("dog looking at grass", true);
        check("the color green", true);
        // An adjective, verbs, what belongs to no noun, plurals where none can stand, and a singular that must not.
        check("long", false);
        check("objects with long", false);
        check("dog looking", false);
        check("hold grass", false);
        check("heads in them", false);
        check("dogs heads", false);
        check("grass on a dogs", false);
        check("heads of dog", false);
    }

    #[test]
    fn phrases_begin_with_the_article_that_people_write() {
        let check =
            |phrase: &str, wanted: &str| assert_eq!(grammar().with_article(&cut(phrase)), wanted);
        check("dog", "a dog");
        check("dog looking at grass", "a dog looking at grass");
        check("dogs", "dogs");
        check("grass", "grass");
        check("sky", "the sky");
        check("color green", "the color green");
        check("left head", "the left head");
    }

    #[test]
    fn rare_words_are_corrected_where_a_common_one_is_a_slip_away() {
        let mut words = vec![cut("incest thewater anima stool ledges animals")];
        for (word, n) in [("insects", 9), ("insect", 10), ("the", 20), ("water", 5), ("animal", 30)]
        {
            words.extend(vec![cut(word); n]);
        }
        words.extend(vec![cut("tool"); 20]);
        words.extend(vec![cut("edges"); 20]);
        let spelling = Spelling::learn(&words, &|word| ["stool", "ledge"].contains(&word));
        let right = spelling.correct(&words[0]).join(" ");
        assert_eq!(right, "insect the water animal stool ledges animals");
    }
}
