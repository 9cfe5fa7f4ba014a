//! Trying a policy on words: its own examples, a unit of a report, and what its rules can never match.

use super::matcher::{Matcher, Pattern, Similarities, Tried};
use super::{Policy, Rule};

/// An example that came out otherwise than its rule says.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    pub rule: String,
    pub text: String,
    /// What matched where nothing should have; `None` where something should have.
    pub matched: Option<String>,
}

/// How the examples of a policy came out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tested {
    /// Examples that were tried.
    pub n: usize,
    pub failed: Vec<Failed>,
    /// Rules without any example.
    pub untested: Vec<String>,
}

/// Every text that [`test()`] tries.
pub fn texts(policy: &Policy) -> impl Iterator<Item = &str> {
    let all = policy.rules.iter().map(|it| &it.examples);
    all.flat_map(|it| it.matching.iter().chain(&it.not_matching)).map(String::as_str)
}

/// Tries each rule on its own examples.
pub fn test(policy: &Policy, similar: &Similarities) -> Tested {
    let mut tested = Tested::default();
    for rule in &policy.rules {
        let examples = &rule.examples;
        if examples.matching.is_empty() && examples.not_matching.is_empty() {
            tested.untested.push(rule.id.clone());
        }
        let wanted = examples.matching.iter().map(|it| (it, true));
        for (text, wanted) in wanted.chain(examples.not_matching.iter().map(|it| (it, false))) {
            tested.n += 1;
            let matched = rule.matcher.find(text, similar);
            if matched.is_some() != wanted {
                tested.failed.push(Failed { rule: rule.id.clone(), text: text.clone(), matched });
            }
        }
    }
    tested
}

/// Phrases of a rule that it can never match, because a `none` strikes them out.
pub fn never(rule: &Rule) -> Vec<String> {
    let never = |text: &String| {
        let trace = rule.matcher.trace(text, &Similarities::default());
        is_struck(&trace.tried) && !is_covered(&trace.tried)
    };
    let mut phrases = plain_phrases(&rule.matcher);
    phrases.retain(never);
    phrases
}

/// The phrases of a match and of those within it that stand for themselves alone.
fn plain_phrases(matcher: &Matcher) -> Vec<String> {
    let phrases = matcher.any.iter().flat_map(|it| match it {
        Pattern::Words(list) => {
            let plain = list.words().iter().filter(|it| !it.contains(['<', '?', '*']));
            plain.cloned().collect()
        }
        Pattern::Match(inner) => plain_phrases(inner),
        Pattern::Regex(_) | Pattern::Phrase { .. } => vec![],
    });
    phrases.collect()
}

fn is_struck(tried: &[Tried]) -> bool {
    tried.iter().any(|it| (it.part == "none" && !it.hits.is_empty()) || is_struck(&it.within))
}

fn is_covered(tried: &[Tried]) -> bool {
    tried.iter().any(|it| it.part == "any" && (!it.hits.is_empty() || is_covered(&it.within)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::file::parse;

    #[test]
    fn examples_come_out_as_the_rule_says() {
        let text = "policy-version = 1\n[[rule]]\nid = \"a\"\nmatch.any = [\"face\", \"clock face\"]\nmatch.none = [\"clock face\"]\n\
            [rule.test]\nmatch = [\"faces\", \"heads\"]\nno-match = [\"clock faces\", \"a face\"]\n\
            [[rule]]\nid = \"b\"\nmatch.any = [\"x\"]\n";
        let policy = parse(text, "p.toml").unwrap();
        let tested = test(&policy, &Similarities::default());
        assert_eq!((tested.n, tested.untested), (4, vec!["b".to_owned()]));
        let failed: Vec<_> =
            tested.failed.iter().map(|it| (it.text.as_str(), it.matched.as_deref())).collect();
        assert_eq!(failed, [("heads", None), ("a face", Some("face"))]);
        assert_eq!(texts(&policy).count(), 4);
        assert_eq!(never(&policy.rules[0]), ["clock face"]);
    }
    #[test]
    fn a_none_strikes_out_phrases_of_a_match_within_a_match() {
        let text = "policy-version = 1\n[[rule]]\nid = \"a\"\n[rule.match]\nany = [\n\
            { any = [\"clock face\", \"dog face\", \"eye\"], none = [\"dog face\"] }, { any = [\"eye of a dog\"] } ]\n\
            none = [\"clock face\"]\n";
        let policy = parse(text, "p.toml").unwrap();
        assert_eq!(never(&policy.rules[0]), ["clock face", "dog face"]);
    }
}
