//! Why a finding is as probable as it is.

use crate::unit::Judgement;

/// What a judgement rests on, in words.
pub(crate) fn reasons(it: &Judgement) -> Vec<String> {
    let percent = |it: f32| format!("{:.0} %", 100. * it);
    let times = |a: f32, b: f32| a / b.max(1e-3);
    let mut reasons = vec![format!(
        "{} of what is expected to be said of its exemplars speaks of it ({} of the typical unit of the network)",
        percent(it.expected),
        percent(it.network)
    )];
    let selectivity = times(it.firing, it.elsewhere);
    reasons.push(match selectivity {
        it if 1.2 < it => format!(
            "where it fires it is seen {it:.1} times as clearly as elsewhere in the same pictures"
        ),
        _ => "where it fires it is seen no more clearly than elsewhere in the same pictures"
            .to_owned(),
    });
    if it.said == 0. {
        reasons.push("none of its descriptions says so".to_owned());
    }
    if it.depth < 0.67 {
        let text = "people say so less often of layers as deep as this one in another network";
        reasons.push(text.to_owned());
    }
    reasons
}
