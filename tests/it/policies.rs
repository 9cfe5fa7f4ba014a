//! Policies as a user meets them: written, checked, tried, explained, and held against a model.

use std::path::Path;

use milan::policy::{self, Similarities, presets};
use serde_json::Value;

use crate::support::{check_error, check_file, folder, planted_files, run};

const MISTAKEN: &str = r#"policy-version = 1
name = "faces"

[[rule]]
id = "faces"
lvel = "deny"
match.any = [{ regex = '(face' }, "head"]

[rule.scope]
layers = ["layer[3"]

[rule.limit]
max-unit = 3

[[rule]]
id = "face"
level = "deney"
match.any = ["portrait"]
"#;

/// Five mistakes, each at its place.
#[test]
fn a_policy_with_mistakes_is_shown_like_a_program_with_mistakes() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(at.join("faces.toml"), MISTAKEN).unwrap();
    let ran = run("milan-audit", at, &["--policy", "faces.toml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(
        ran.stderr.ends_with("error: the policy faces.toml has 5 mistakes\n"),
        "{}",
        ran.stderr
    );
    check_file("reports/policy-mistakes.txt", &ran.stderr);

    let ran = run("milan-audit", at, &["--policy", "faces.toml", "--output", "json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let codes: Vec<&str> = found["mistakes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["unknown-key", "bad-regex", "bad-glob", "unknown-key", "unknown-value"]);
    assert_eq!(
        (&found["mistakes"][0]["line"], &found["mistakes"][0]["instead"]),
        (&6.into(), &"level".into())
    );
    assert!(!at.join("reports").exists(), "nothing ran");
}

#[test]
fn a_policy_is_written_read_over_and_never_replaced() {
    let folder = folder();
    let at = folder.path();
    let ran = run("milan-audit", at, &["policy", "init", "--preset", "faces,text"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "wrote policy.toml\nNext: milan-audit --policy policy.toml\n")
    );
    let ran = run("milan-audit", at, &["policy", "check", "policy.toml", "--locked"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "policy.toml: 2 rules, no mistake\n"),
        "{}",
        ran.stderr
    );
    check_error(
        "milan-audit",
        at,
        &["policy", "init"],
        2,
        "error: policy.toml is there already, and is left as it is; name another file",
    );
    // Every key that is commented out is one that there is.
    let text = std::fs::read_to_string(at.join("policy.toml")).unwrap();
    let shown: Vec<&str> = text.lines().filter(|it| !is_prose(it)).collect();
    let whole = shown
        .join("\n")
        .replace("\n# ", "\n")
        .replace('…', "0123456789abcdef")
        .replace("id = \"faces\"\n", "id = \"faces\"\ntitle = \"x\"\n")
        // The day that is shown goes by.
        .replace("expires = 2", "expires = 9");
    std::fs::write(at.join("whole.toml"), whole).unwrap();
    let ran = run("milan-audit", at, &["policy", "check", "whole.toml"]);
    let wanted = "whole.toml: 3 rules, 1 exception, no mistake\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, wanted), "{}", ran.stderr);
}

/// A comment that is none of the keys that are commented out.
fn is_prose(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("# ") else { return false };
    let key = rest.split([' ', '.']).next().unwrap_or_default();
    !rest.starts_with('[') && !rest.contains(" = ") || key.chars().any(char::is_uppercase)
}

#[test]
fn the_built_in_policies_come_out_on_their_own_examples() {
    for preset in presets::PRESETS {
        let policy = policy::file::parse(preset.text, preset.name).unwrap();
        let tested = policy::examples::test(&policy, &Similarities::default());
        assert_eq!(tested.failed, [], "{}", preset.name);
        assert_eq!(tested.untested, [] as [&str; 0], "{}", preset.name);
        for rule in &policy.rules {
            assert_eq!(policy::examples::never(rule), [] as [&str; 0], "{}", rule.id);
            assert!(
                3 <= rule.examples.matching.len() && 3 <= rule.examples.not_matching.len(),
                "{}",
                rule.id
            );
        }
    }
    let ran = run("milan-audit", folder().path(), &["policy", "test"]);
    assert_eq!(ran.code, 0, "{}", ran.stdout);
}

/// Descriptions of our own in the manner of people's: precision and recall, both .97 or more.
#[test]
fn faces_and_text_are_told_from_what_only_sounds_like_them() {
    for name in ["faces", "text"] {
        let policy = policy::load(&format!("preset:{name}"), false).unwrap();
        let path = format!("{}/tests/data/policies/{name}.csv", env!("CARGO_MANIFEST_DIR"));
        let mut table = csv::Reader::from_path(path).unwrap();
        let (mut hits, mut wrong, mut missed) = (0., vec![], vec![]);
        let mut n = 0;
        for row in table.records() {
            let row = row.unwrap();
            let (text, wanted) = (&row[0], &row[1] == "1");
            let found = policy
                .rules
                .iter()
                .any(|it| it.matcher.find(text, &Similarities::default()).is_some());
            match (found, wanted) {
                (true, true) => hits += 1.,
                (true, false) => wrong.push(text.to_owned()),
                (false, true) => missed.push(text.to_owned()),
                _ => {}
            }
            n += 1;
        }
        let precision = hits / (hits + wrong.len() as f64);
        let recall = hits / (hits + missed.len() as f64);
        println!("{name}: {n} descriptions, precision {precision:.3}, recall {recall:.3}");
        assert!(
            400 <= n && 0.97 <= precision && 0.97 <= recall,
            "{name}: {precision} {recall}, wrong: {wrong:#?}, missed: {missed:#?}"
        );
    }
}

/// A policy on the planted network, whose text units are known.
fn held(at: &Path, policy: &str, arguments: &[&str]) -> crate::support::Ran {
    std::fs::write(at.join("gate.toml"), format!("policy-version = 1\n{policy}")).unwrap();
    let all: Vec<&str> = ["--policy", "gate.toml", "--today", "2026-06-01"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    run("milan-audit", at, &all)
}

#[test]
fn a_gate_passes_or_cannot_conclude_and_says_so() {
    let (folder, _) = planted_files();
    let at = folder.path();
    let ran = held(at, "[[rule]]\nid = \"zebras\"\nmatch.any = [\"zebra\"]\n", &[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    check_file("reports/planted-pass.txt", &ran.stdout);
    let ran = held(
        at,
        "[[rule]]\nid = \"zebras\"\nmatch.any = [\"zebra\"]\nscope.layers = [\"layer9\"]\n",
        &[],
    );
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (3, "inconclusive: zebras: its layers (layer9) match none that was looked at\n")
    );
    check_file("reports/planted-inconclusive.txt", &ran.stdout);
}

#[test]
fn layers_that_were_not_looked_at_let_no_rule_pass() {
    let (folder, _) = planted_files();
    let at = folder.path();
    let rule = "[[rule]]\nid = \"zebras\"\nmatch.any = [\"zebra\"]\n";
    let missed = |layers: &str, n: usize| {
        let advice =
            "have them described too, narrow the rule's [rule.scope], or say --allow-uncovered";
        format!(
            "inconclusive: zebras: {n} of the layers in its scope were not looked at ({layers}); {advice}\n"
        )
    };
    let ran = held(at, rule, &["--layers", "conv1,layer3"]);
    assert_eq!((ran.code, ran.stderr), (3, missed("layer1, layer2", 2)));
    // Whatever a layer is called: `layer3` is its last block.
    let all = "conv1,layer1,layer2,layer3.0";
    assert_eq!(held(at, rule, &["--layers", all]).code, 0);
    let scoped = format!("{rule}scope.layers = [\"conv1\"]\n");
    assert_eq!(held(at, &scoped, &["--layers", "conv1"]).code, 0);
    let allowed = ["--layers", "conv1", "--allow-uncovered"];
    assert_eq!(held(at, rule, &allowed).code, 0);
    // A table that describes one layer says nothing of the others.
    std::fs::write(at.join("d.csv"), "layer,unit,description\nlayer1,4,a dog\n").unwrap();
    let ran = held(at, rule, &["--describer", "csv:d.csv"]);
    assert_eq!((ran.code, ran.stderr), (3, missed("conv1, layer2, layer3", 3)));
    // What is found is found.
    let ran = held(at, &rule.replace("zebra\"]", "text\"]"), &["--layers", "conv1"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
}

#[test]
fn levels_limits_and_exceptions_decide_what_fails() {
    let (folder, _) = planted_files();
    let at = folder.path();
    let rule = "[[rule]]\nid = \"text\"\nmatch.any = [\"text\"]\n";
    let warn = format!("{rule}level = \"warn\"\n");
    assert_eq!(held(at, rule, &[]).code, 1);
    assert_eq!(held(at, &warn, &[]).code, 0);
    assert_eq!(held(at, &warn, &["--fail-on", "warn"]).code, 1);
    assert_eq!(held(at, &warn, &["-D", "text"]).code, 1);
    assert_eq!(held(at, rule, &["-A", "text"]).code, 0);
    assert_eq!(held(at, rule, &["--exit-zero"]).code, 0);
    let report: Value = serde_json::from_str(
        &std::fs::read_to_string(at.join("reports/model/report.json")).unwrap(),
    )
    .unwrap();
    assert_eq!((&report["verdict"], &report["exit_code"]), (&"violated".into(), &0.into()));
    let ran = held(at, rule, &["-D", "txt"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            2,
            "error: policy `gate` has no rule `txt` and asks for no such gate; its rules are text\n"
        )
    );
    let exception = format!(
        "{rule}[[exception]]\nrule = \"text\"\nunits = [\"**:*\"]\nreason = \"seen\"\nexpires = 2026-06-05\n"
    );
    let ran = held(at, &exception, &[]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("expiring-soon"), "{}", ran.stdout);
    assert_eq!(held(at, &exception, &["--today", "2026-06-06"]).code, 2, "given twice");
    let ran = held(at, &exception.replace("2026-06-05", "2026-05-01"), &[]);
    assert_eq!(ran.code, 1);
    // Nothing in scope is never clean, whatever the level of the gate on it.
    let nowhere = format!("{rule}scope.layers = [\"nope.**\"]\n[gate]\nunused-rule = \"warn\"\n");
    assert_eq!(held(at, &nowhere, &[]).code, 3);
    let kinds = format!("{rule}scope.kinds = [\"mlp-neuron\"]\n[gate]\nunused-rule = \"deny\"\n");
    let ran = held(at, &kinds, &[]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (1, "violated: unused-rule: rules in whose scope there is no unit: text\n")
    );
}

#[test]
fn importance_and_likeness_are_measured_where_a_rule_asks() {
    let (folder, _) = planted_files();
    let at = folder.path();
    let rule = |more: &str| {
        format!(
            "sentence-encoder = \"built-in@3\"\n[[rule]]\nid = \"text\"\nmatch.any = [{{ phrase = \"written text\", min-similarity = 0.6 }}]\n{more}"
        )
    };
    let ran = held(at, &rule(""), &[]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let n = |ran: &crate::support::Ran| {
        ran.stderr.split_whitespace().nth(2).and_then(|it| it.parse::<usize>().ok()).unwrap_or(0)
    };
    let all = n(&ran);
    assert!(0 < all);
    let some = held(at, &rule("scope.min-importance = 0.002\n"), &[]);
    assert!(n(&some) < all, "{}", some.stderr);
    let long = held(
        at,
        &rule("scope.min-importance = 0.5\n[gate.accuracy]\nimportance = \"weight-norm\"\n"),
        &[],
    );
    assert!(n(&long) < all, "{}", long.stderr);
    let other = held(at, &rule("").replace("built-in@3", "all-MiniLM-L6-v2"), &[]);
    assert_eq!(other.code, 2);
    assert!(other.stderr.contains("name its folder with --sentence-encoder"), "{}", other.stderr);
}

#[test]
fn a_rule_is_explained_on_units_and_texts() {
    let (folder, _) = planted_files();
    let at = folder.path();
    let ran = run(
        "milan-audit",
        at,
        &["policy", "explain", "faces", "--text", "dog faces near a human face"],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    check_file("reports/policy-explain.txt", &ran.stdout);
    assert_eq!(run("milan-audit", at, &["--policy", "text"]).code, 1);
    let report: Value = serde_json::from_str(
        &std::fs::read_to_string(at.join("reports/model/report.json")).unwrap(),
    )
    .unwrap();
    let unit = &report["rules"][0]["units"][0];
    let unit = format!("{}:{}", unit["layer"].as_str().unwrap(), unit["unit"]);
    let explain = |unit: &str| {
        run(
            "milan-audit",
            at,
            &["policy", "explain", "text", unit, "--report", "reports/model/report.json"],
        )
    };
    let ran = explain(&unit);
    assert!(ran.stdout.ends_with("it counts against the rule\n"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(explain("conv1:999").code, 2);
}

#[test]
fn options_come_from_a_project_file_and_paths_from_its_folder() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::create_dir_all(at.join("below/.git")).unwrap();
    std::fs::write(
        at.join("below/milan.toml"),
        "model = \"../model.safetensors\"\ndata = \"../pictures\"\nlayers = [\"conv1\"]\n[audit]\npolicy = \"text\"\n[edit]\nmax-drop = 0.01\n",
    )
    .unwrap();
    std::fs::create_dir(at.join("below/deep")).unwrap();
    let below = at.join("below/deep");
    let ran = run("milan-audit", &below, &["--out", "here", "--output", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["layers"].as_array().unwrap().len(), 1);
    let ran = run(
        "milan-audit",
        &below,
        &["--layers", "layer1,layer2", "--out", "here", "--output", "json"],
    );
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["layers"].as_array().unwrap().len(), 2, "a flag beats the file");
    std::fs::write(
        at.join("below/milan.toml"),
        "layer = [\"conv1\"]\ntop-k = \"many\"\n[audit]\npolcy = \"text\"\n",
    )
    .unwrap();
    let ran = run("milan-audit", &below, &[]);
    assert_eq!(ran.code, 2);
    check_file(
        "reports/options-mistakes.txt",
        &ran.stderr.replace(&at.display().to_string(), "DIR"),
    );
    assert_ne!(
        run(
            "milan-audit",
            &below,
            &["--isolated", "--model", "../../model.safetensors", "--data", "../../pictures"]
        )
        .code,
        2
    );
}

#[test]
fn every_option_has_its_environment_variable_and_every_program_its_pages() {
    let folder = folder();
    let at = folder.path();
    for shell in ["bash", "fish", "zsh", "powershell", "elvish"] {
        let ran = run("milan-audit", at, &["completions", shell]);
        assert!(ran.code == 0 && ran.stdout.contains("fail-on"), "{shell}");
    }
    assert!(
        run("milan-audit", at, &["completions", "fish", "milan-edit"])
            .stdout
            .contains("delete-matching")
    );
    assert_eq!(run("milan-audit", at, &["man", "pages"]).code, 0);
    for page in ["milan-audit.1", "milan-edit.1", "milan-train.1", "milan-audit-policy-explain.1"] {
        assert!(at.join("pages").join(page).is_file(), "{page}");
    }
}

/// What milan-edit is held against: the accuracy, other units, and the edited model itself.
#[test]
fn an_edit_is_held_against_the_gates_of_its_policy() {
    let (folder, _) = planted_files();
    let at = folder.path();
    let edit = |gates: &str, arguments: &[&str]| {
        let text = format!(
            "policy-version = 1\n[[rule]]\nid = \"text\"\nmatch.any = [\"text\"]\nedit.action = \"zero\"\n{gates}"
        );
        std::fs::write(at.join("edit.toml"), text).unwrap();
        let own = ["--policy", "edit.toml", "--controls", "0", "--output", "json", "--force"];
        let ran = run("milan-edit", at, &[own.as_slice(), arguments].concat());
        let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let status = |id: &str| {
            let gates = report["gates"].as_array().cloned().unwrap_or_default();
            gates
                .iter()
                .find(|it| it["id"] == id)
                .map(|it| it["status"].as_str().unwrap().to_owned())
        };
        (
            ran.code,
            ran.stderr.clone(),
            status("accuracy.max-drop"),
            status("effect"),
            status("residual"),
        )
    };
    let strict =
        edit("[gate.accuracy]\nmax-drop = 0.01\nmax-class-drop = 0.9\nmin-images = 10\n", &[]);
    assert_eq!((strict.0, strict.2.as_deref()), (1, Some("violated")), "{}", strict.1);
    assert!(strict.1.contains("accuracy.max-drop: top-1 falls by"), "{}", strict.1);
    assert!(!at.join("model-edited.safetensors").exists());
    let few = edit("[gate.accuracy]\nmax-drop = 0.9\nmin-images = 1000\n", &[]);
    assert_eq!(few.0, 3, "{}", few.1);
    let loose = edit(
        "[gate.accuracy]\nmax-drop = 0.9\nmax-drop-upper = 0.95\n[gate.effect]\nrandom-controls = 2\nmin-gap = 0.0\nlevel = \"warn\"\n[gate.residual]\nlevel = \"warn\"\n",
        &[],
    );
    assert_eq!((loose.0, loose.2.as_deref()), (0, Some("passed")), "{}", loose.1);
    assert!(loose.3.is_some_and(|it| it != "inconclusive") && loose.4.is_some());
    assert!(at.join("model-edited.safetensors").exists());
    // Of the edited model those layers are asked about that were edited.
    let one = edit("[gate.residual]\n", &["--layers", "conv1"]);
    assert_eq!((one.0, one.4.as_deref()), (0, Some("passed")), "{}", one.1);
    // Units that are spared are left, and the gate finds them.
    let spared = edit("[gate.residual]\n", &["--max-units", "1"]);
    assert_eq!((spared.0, spared.4.as_deref()), (1, Some("violated")), "{}", spared.1);
    assert!(edit("", &["--order", "confidence"]).0 == 0);
    let prune = run("milan-edit", at, &["--policy", "edit.toml"]);
    assert_eq!(prune.code, 2, "the file is there already");
}

/// A flag beats a variable, and that the project's file; two flags are a mistake.
#[test]
fn what_to_delete_is_said_by_the_loudest() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(at.join("milan.toml"), "[edit]\nunits = \"nothere:0\"\ncontrols = 0\n").unwrap();
    let ran = run("milan-edit", at, &["--dry-run"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (2, "error: unit nothere:0: the network has no layer `nothere`\n")
    );
    let ran = run("milan-edit", at, &["--delete-matching", "text", "--dry-run"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = run("milan-edit", at, &["--delete-matching", "text", "--units", "conv1:0"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (2, "error: --delete-matching and --units both say what to delete; name one of them\n")
    );
    let ran = run("milan-edit", at, &["--delete-matching", "text", "-A", "text"]);
    assert_eq!(ran.code, 2, "there is no policy to set levels of");
    std::fs::write(at.join("milan.toml"), "[audit]\ndeny = [\"text\"]\n").unwrap();
    assert_eq!(run("milan-audit", at, &[]).code, 2);
    assert_eq!(
        run("milan-audit", at, &["policy", "test", "faces"]).code,
        0,
        "no run reads no options"
    );
}

/// An edit that would go beyond its rule's limit is a violation, and its report is written.
#[test]
fn an_edit_beyond_its_limit_is_a_violation() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(
        at.join("few.toml"),
        "policy-version = 1\n[[rule]]\nid = \"text\"\nmatch.any = [\"text\"]\n[rule.edit]\naction = \"zero\"\nmax-units = 2\n",
    )
    .unwrap();
    let ran = run("milan-edit", at, &["--policy", "few.toml"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("edit.max-units allows 2 to be zeroed; nothing was written"),
        "{}",
        ran.stderr
    );
    assert!(
        at.join("reports/model/report.json").is_file()
            && !at.join("model-edited.safetensors").exists()
    );
}

/// A built-in policy never changes under its revision: who pinned it would get another verdict.
#[test]
fn built_in_policies_are_those_of_their_revisions() {
    let found: Vec<String> = presets::PRESETS
        .iter()
        .map(|it| {
            let policy = policy::file::parse(it.text, it.name).unwrap();
            // What it says counts, not how it is commented.
            let says = serde_json::to_string(&policy).unwrap();
            format!("{}@{} {}", it.name, it.revision, &milan::files::sha256(says.as_bytes())[..16])
        })
        .collect();
    check_file("tests/data/policies/revisions.txt", &(found.join("\n") + "\n"));
}
