//! The recipes for continuous integration, as far as they run without the services that they are for.

use std::path::Path;
use std::process::Command;

use crate::support::{folder, planted_files, settings_of_the_user};

fn recipe(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ci").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// Runs a shell script where the programs are installed; gives the exit code and all that was printed.
fn shell(at: &Path, script: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let programs = Path::new(env!("CARGO_BIN_EXE_milan-audit")).parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-eo", "pipefail", "-c", script]).current_dir(at).env("PATH", path);
    for name in settings_of_the_user() {
        command.env_remove(name);
    }
    let ran = command
        .env("HOME", at.join("home"))
        .env("MILAN_DESCRIBER", "labels")
        .env("MILAN_ISOLATED", "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = [ran.stdout, ran.stderr].map(|it| String::from_utf8(it).unwrap()).concat();
    (ran.status.code().unwrap(), text)
}

/// The script under the first `run: |` of a recipe.
fn run_block(recipe: &str) -> String {
    let lines: Vec<&str> = recipe.lines().collect();
    let at = lines.iter().position(|it| it.trim() == "run: |").unwrap();
    let indent = lines[at].len() - lines[at].trim_start().len();
    let block = lines[at + 1..].iter().take_while(|it| it.len() - it.trim_start().len() > indent);
    block.map(|it| it.trim_start_matches(' ')).collect::<Vec<_>>().join("\n")
}

const POLICY: &str = "policy-version = 1\n[[rule]]\nid = \"text\"\nmatch.any = [\"text\"]\n";

#[test]
fn the_gate_ends_as_the_audit_does_and_keeps_its_reports() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(at.join("policy.toml"), POLICY).unwrap();
    let loose = POLICY.to_owned() + "limit.max-units = 100\n";
    std::fs::write(at.join("loose.toml"), loose).unwrap();
    let own = [
        ("MODEL", "model.safetensors"),
        ("DATA", "pictures"),
        ("POLICY", "policy.toml"),
        ("OUT", "out"),
    ];
    let gate = recipe("gate.sh");
    let (code, text) = shell(at, &gate, &own);
    assert_eq!(code, 1, "{text}");
    for name in [
        "milan.sarif",
        "milan.junit.xml",
        "milan.codequality.json",
        "summary.md",
        "report.html",
        "report.json",
    ] {
        assert!(at.join("out").join(name).is_file(), "{name}");
    }
    let mut passing = own.to_vec();
    passing.extend([("POLICY", "loose.toml"), ("OUT", "now")]);
    let (code, text) = shell(at, &gate, &passing);
    assert_eq!(code, 0, "{text}");
    passing.push(("BASELINE", "now/report.json"));
    let (code, text) = shell(at, &gate, &passing);
    assert_eq!(code, 0, "nothing is new: {text}");
    assert_eq!(shell(at, &gate, &[("DATA", "pictures")]).0, 1, "the shell itself refuses");
    let mut broken = own.to_vec();
    broken.push(("POLICY", "none.toml"));
    assert_eq!(shell(at, &gate, &broken).0, 2);
}

#[test]
fn the_action_annotates_summarises_and_fails() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(at.join("policy.toml"), POLICY).unwrap();
    let gate = format!("{}/examples/ci/gate.sh", env!("CARGO_MANIFEST_DIR"));
    let variables = [
        ("MODEL", "model.safetensors"),
        ("DATA", "pictures"),
        ("POLICY", "policy.toml"),
        ("OUT", "out"),
        ("GATE", gate.as_str()),
        ("GITHUB_STEP_SUMMARY", "summary.md"),
    ];
    let action = recipe("github/action.yml");
    // Inputs reach the script by its environment only, so that no value can be taken for a command.
    let script = run_block(&action);
    assert!(!script.contains("${{"), "{script}");
    let (code, text) = shell(at, &script, &variables);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("::error "), "{text}");
    assert!(
        std::fs::read_to_string(at.join("summary.md")).unwrap().contains("## Model Examination")
    );
}

#[test]
fn the_hooks_run_on_policies() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("policies")).unwrap();
    let tested = POLICY.to_owned() + "test.match = [\"white text\"]\n";
    std::fs::write(at.join("policies/own.toml"), tested).unwrap();
    let hooks = recipe("pre-commit-config.yaml");
    let entries: Vec<&str> =
        hooks.lines().filter_map(|it| it.trim().strip_prefix("entry: ")).collect();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        let (code, text) = shell(at, &format!("{entry} policies/own.toml"), &[]);
        assert_eq!(code, 0, "{entry}: {text}");
    }
}
