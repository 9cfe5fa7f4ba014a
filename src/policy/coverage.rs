//! Whether a rule that passes could have found something: pictures have to show what it looks for, and all layers in its
//! scope have to be looked at, as units of different layers are compared with each other.

use super::check::{CheckStatus, Facts, Outcome, is_in_scope};
use super::gates::some;
use super::{Level, Rule};

impl Outcome {
    /// Whether too few pictures show what the rule looks for, so that a unit that detects it need not show.
    pub fn is_uncovered(&self) -> bool {
        self.shown.is_some_and(|it| it.pictures < least_shown(it.of))
    }
}

/// How many of so many pictures have to show what a rule looks for: three, and more than the critics see by mistake, which
/// is in about one of 800 pictures that do not show it.
fn least_shown(pictures: usize) -> usize {
    3.max(pictures.div_ceil(200)).min(pictures.max(1))
}

/// The outcome, which is inconclusive where the rule passes without having been able to find anything.
pub(super) fn covered(rule: &Rule, facts: &Facts<'_>, outcome: Outcome) -> Outcome {
    if facts.allow_uncovered || rule.level == Level::Allow || outcome.status != CheckStatus::Passed
    {
        return outcome;
    }
    let mut why = vec![];
    if let Some(shown) = outcome.shown.filter(|_| outcome.is_uncovered()) {
        why.push(format!(
            "{} of {} pictures show what it looks for, {} are wanted; add pictures that do, or say --allow-uncovered",
            shown.pictures,
            shown.of,
            least_shown(shown.of)
        ));
    }
    let missed = facts.not_looked_at.iter().filter(|it| is_in_scope(rule, facts, it));
    let missed: Vec<&str> = missed.map(String::as_str).collect();
    if !missed.is_empty() {
        why.push(format!(
            "{} of the layers in its scope were not looked at ({}); leave --layers out, narrow the rule's [rule.scope], or say --allow-uncovered",
            missed.len(),
            some(&missed)
        ));
    }
    if why.is_empty() {
        return outcome;
    }
    Outcome { status: CheckStatus::Inconclusive, why, ..outcome }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::policy::check::{CheckStatus, Facts, Outcome, check};
    use crate::policy::file::parse;
    use crate::policy::matcher::Similarities;
    use crate::unit::{Description, Kind, Reading, Shown, Status};

    /// One unit of layer `a` that a rule does not find.
    fn outcome(
        rule: &str,
        pictures: usize,
        not_looked_at: &[&str],
        allow_uncovered: bool,
    ) -> Outcome {
        let text =
            format!("policy-version = 1\n[[rule]]\nid = \"r\"\nmatch.any = [\"face\"]\n{rule}");
        let policy = parse(&text, "p.toml").unwrap();
        let unit = Description {
            unit: "a:0".parse().unwrap(),
            status: Status::Described,
            readings: vec![Reading { text: "dogs".into(), confidence: 0.9 }],
            evidence: BTreeMap::new(),
            judged: BTreeMap::new(),
        };
        let shown = Shown { places: pictures, pictures, of: 800 };
        let not_looked_at: Vec<String> = not_looked_at.iter().map(|it| (*it).to_owned()).collect();
        let kinds = [("a", Kind::ConvChannel), ("fc", Kind::MlpNeuron)];
        let facts = Facts {
            descriptions: &[unit],
            kinds: &kinds.map(|(layer, kind)| (layer.to_owned(), kind)).into(),
            importance: &BTreeMap::new(),
            similar: &Similarities::default(),
            model: &[],
            today: jiff::civil::date(2026, 6, 1),
            shown: &BTreeMap::from([("r".to_owned(), shown)]),
            not_looked_at: &not_looked_at,
            allow_uncovered,
        };
        check(&policy, &facts).outcomes.remove(0)
    }

    #[test]
    fn pictures_that_do_not_show_it_let_no_rule_pass() {
        let it = outcome("", 1, &[], false);
        assert_eq!(it.status, CheckStatus::Inconclusive);
        assert_eq!(
            it.why,
            [
                "1 of 800 pictures show what it looks for, 4 are wanted; add pictures that do, or say --allow-uncovered"
            ]
        );
        assert_eq!(outcome("", 1, &[], true).status, CheckStatus::Passed);
        assert_eq!(outcome("", 4, &[], false).status, CheckStatus::Passed);
    }

    #[test]
    fn layers_that_were_not_looked_at_let_no_rule_pass() {
        let it = outcome("", 4, &["b", "fc"], false);
        assert_eq!(it.status, CheckStatus::Inconclusive);
        assert_eq!(
            it.why,
            [
                "2 of the layers in its scope were not looked at (b, fc); leave --layers out, narrow the rule's [rule.scope], or say --allow-uncovered"
            ]
        );
        assert_eq!(outcome("", 4, &["b"], true).status, CheckStatus::Passed);
        // Out of its scope, or of another kind.
        assert_eq!(outcome("scope.layers = [\"a\"]", 4, &["b"], false).status, CheckStatus::Passed);
        let of_kind = "scope.kinds = [\"conv-channel\"]";
        assert_eq!(outcome(of_kind, 4, &["fc"], false).status, CheckStatus::Passed);
        // What is violated stays so.
        let violated = "limit.max-share = 0.0\n[rule.scope]\nmin-confidence = 0.0";
        assert_eq!(outcome(violated, 4, &["b"], false).status, CheckStatus::Inconclusive);
    }
}
