//! Whether a rule that passes could have found something: pictures have to show what it looks for, and the layers in its
//! scope have to be looked at. Where critics judge units they compare them with those of all other layers, so that all
//! layers have to be looked at, whatever the rule's scope.

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
pub(super) fn inconclusive_unless_covered(
    rule: &Rule,
    facts: &Facts<'_>,
    outcome: Outcome,
) -> Outcome {
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
    let is_judged = rule.is_judged() && outcome.shown.is_some();
    let is_missed = |layer: &&String| is_judged || is_in_scope(rule, facts, layer);
    let missed: Vec<&str> =
        facts.not_looked_at.iter().filter(is_missed).map(String::as_str).collect();
    if !missed.is_empty() {
        let (n, missed) = (missed.len(), some(&missed));
        why.push(match is_judged {
            true => format!(
                "{n} of the network's layers were not looked at ({missed}), and its units are judged by comparison with those of all layers; have all layers described, or say --allow-uncovered"
            ),
            false => format!(
                "{n} of the layers in its scope were not looked at ({missed}); have them described too, narrow the rule's [rule.scope], or say --allow-uncovered"
            ),
        });
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

    /// One unit of layer `a` that a rule does not find, where so many of 800 pictures show it; `None` where nobody judges
    /// pictures.
    fn outcome(
        rule: &str,
        pictures: Option<usize>,
        not_looked_at: &[&str],
        allow_uncovered: bool,
    ) -> Outcome {
        outcome_of("dogs", rule, pictures, not_looked_at, allow_uncovered)
    }

    /// The same of a unit that is said to fire on something.
    fn outcome_of(
        said: &str,
        rule: &str,
        pictures: Option<usize>,
        not_looked_at: &[&str],
        allow_uncovered: bool,
    ) -> Outcome {
        let text =
            format!("policy-version = 1\n[[rule]]\nid = \"r\"\nmatch.any = [\"face\"]\n{rule}");
        let policy = parse(&text, "p.toml").unwrap();
        let unit = Description {
            unit: "a:0".parse().unwrap(),
            status: Status::Described,
            readings: vec![Reading { text: said.into(), confidence: 0.9 }],
            evidence: BTreeMap::new(),
            judged: BTreeMap::new(),
        };
        let shown = pictures.map(|it| Shown { places: it, pictures: it, of: 800 });
        let not_looked_at: Vec<String> = not_looked_at.iter().map(|it| (*it).to_owned()).collect();
        let kinds = [("a", Kind::ConvChannel), ("fc", Kind::MlpNeuron)];
        let facts = Facts {
            descriptions: &[unit],
            kinds: &kinds.map(|(layer, kind)| (layer.to_owned(), kind)).into(),
            importance: &BTreeMap::new(),
            similar: &Similarities::default(),
            model: &[],
            today: jiff::civil::date(2026, 6, 1),
            shown: &shown.map(|it| ("r".to_owned(), it)).into_iter().collect(),
            not_looked_at: &not_looked_at,
            allow_uncovered,
        };
        check(&policy, &facts).outcomes.remove(0)
    }

    #[test]
    fn pictures_that_do_not_show_it_let_no_rule_pass() {
        let it = outcome("", Some(1), &[], false);
        assert_eq!(it.status, CheckStatus::Inconclusive);
        assert_eq!(
            it.why,
            [
                "1 of 800 pictures show what it looks for, 4 are wanted; add pictures that do, or say --allow-uncovered"
            ]
        );
        assert_eq!(outcome("", Some(1), &[], true).status, CheckStatus::Passed);
        assert_eq!(outcome("", Some(4), &[], false).status, CheckStatus::Passed);
    }

    #[test]
    fn layers_in_its_scope_that_were_not_looked_at_let_no_rule_pass() {
        let it = outcome("", None, &["b", "fc"], false);
        assert_eq!(it.status, CheckStatus::Inconclusive);
        assert_eq!(
            it.why,
            [
                "2 of the layers in its scope were not looked at (b, fc); have them described too, narrow the rule's [rule.scope], or say --allow-uncovered"
            ]
        );
        assert_eq!(outcome("", None, &["b"], true).status, CheckStatus::Passed);
        // Out of its scope, or of another kind.
        let of_layer = "scope.layers = [\"a\"]";
        assert_eq!(outcome(of_layer, None, &["b"], false).status, CheckStatus::Passed);
        let of_kind = "scope.kinds = [\"conv-channel\"]";
        assert_eq!(outcome(of_kind, None, &["fc"], false).status, CheckStatus::Passed);
    }

    #[test]
    fn critics_compare_with_all_layers_whatever_the_scope() {
        let of_layer = "scope.layers = [\"a\"]";
        let it = outcome(of_layer, Some(4), &["b"], false);
        assert_eq!(it.status, CheckStatus::Inconclusive);
        assert_eq!(
            it.why,
            [
                "1 of the network's layers were not looked at (b), and its units are judged by comparison with those of all layers; have all layers described, or say --allow-uncovered"
            ]
        );
    }

    #[test]
    fn what_is_violated_stays_so() {
        let it = outcome_of("faces", "", Some(0), &["b"], false);
        assert_eq!(
            (it.status, it.why),
            (CheckStatus::Violated, vec!["1 unit found, 0 allowed".into()])
        );
    }
}
