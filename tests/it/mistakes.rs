//! What the programs say to mistakes and to files that are broken: one line, and the exit code.

use serde_json::Value;

use crate::support::{check_error, planted_files, run};

#[test]
fn mistakes_of_the_user_end_with_2_and_one_line() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(
        at.join("bad.toml"),
        "policy-version = 1\n[[rule]]\nid = \"a\"\nmatch.any = [\"x\"]\nlimit.max-unit = 3\n",
    )
    .unwrap();
    std::fs::create_dir(at.join("empty")).unwrap();
    check_error(
        "milan-audit",
        at,
        &["--policy", "bad.toml"],
        2,
        "error[unknown-key]: unknown key `max-unit` in [rule.limit]
 --> bad.toml:5:7
  |
5 | limit.max-unit = 3
  |       ^^^^^^^^
  |
help: there is a similar one
  |
5 | limit.max-units = 3
  |               +

error: the policy bad.toml has 1 mistake",
    );
    check_error(
        "milan-audit",
        at,
        &["--policy", "nosuch"],
        2,
        "error: there is no policy `nosuch`, neither as a file nor in policies/; built in are faces, people, text, watermark-and-logos, skin-tone-and-body, religion-and-symbols, license-plates-and-identity, medical, nudity-and-violence, colour",
    );
    check_error(
        "milan-audit",
        at,
        &["--model", "none.safetensors", "--data", "pictures"],
        2,
        "error: cannot open the model none.safetensors: there is no such file or folder; a model of the Hub is named hf:ORG/NAME",
    );
    check_error(
        "milan-audit",
        at,
        &["--model", "model.safetensors"],
        2,
        "error: no pictures were named: --data FOLDER wants class folders, or pictures with a metadata.csv",
    );
    check_error(
        "milan-audit",
        at,
        &["--model", "model.safetensors", "--data", "empty"],
        2,
        "error: empty holds no picture (jpg, jpeg, png, webp, bmp, gif, jfif)",
    );
    check_error(
        "milan-audit",
        at,
        &["--layers", "conv7"],
        2,
        "error: --layers: `conv7` matches no layer of the network; its own choice is conv1, layer1, layer2, layer3",
    );
    check_error(
        "milan-audit",
        at,
        &["--data", "demo:5:0:dirty"],
        2,
        "error: `demo:5:0:dirty` names no drawn pictures; wanted demo:N:SEED:SPLIT, such as demo:500:0:clean; splits are mixed, clean, train, adversarial, face-train, face-adversarial, tint-train, tint-adversarial",
    );
    check_error(
        "milan-audit",
        at,
        &["--top-k", "0"],
        2,
        "error: --top-k wants 1 to 1000 pictures, not 0",
    );
    check_error(
        "milan-audit",
        at,
        &["--arch", "resnet81"],
        2,
        "error: no architecture is called `resnet81`, did you mean `resnet18`? (known: resnet18, 34, 50, 101, 152; small_resnet10; cifar_resnet8, 14, … 110, with `_b` for projection shortcuts; mobilenet_v2; mobilenet_v3_large, small; efficientnet_b0 to b7; efficientnet_lite0 to 4; vgg11, 13, 16, 19, with `_bn` for batch norm; alexnet; vit_tiny_patch16_224, small, base, vit_base_patch32_224; vit_b_16, vit_b_32, vit_l_16)",
    );
    check_error(
        "milan-edit",
        at,
        &["--units", "conv1:99"],
        2,
        "error: unit conv1:99: `conv1` has units 0 to 15",
    );
    check_error(
        "milan-edit",
        at,
        &["--units", "conv1"],
        2,
        "error: `conv1` is not a unit; wanted `layer:channel`, such as `layer4.1:37`",
    );
    let ran = run("milan-audit", at, &["--describer", "magic"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr
            .contains("`magic` is no describer; there are milan, milan:FILE, labels and csv:FILE"),
        "{}",
        ran.stderr
    );
    assert_eq!(run("milan-edit", at, &[]).code, 2, "nothing says what to edit");
}

#[test]
fn what_cannot_be_concluded_ends_with_3_and_one_line() {
    let (folder, model) = planted_files();
    let at = folder.path();
    let whole = std::fs::read(&model).unwrap();
    let own = |name: &'static str| ["--model", name, "--data", "pictures", "--policy", "text"];

    std::fs::write(at.join("cut.safetensors"), &whole[..whole.len() - 10]).unwrap();
    check_error(
        "milan-audit",
        at,
        &own("cut.safetensors"),
        3,
        &format!(
            "error: cut.safetensors cannot be used: it is truncated: the tensors end at byte {}, the file has {}; fetch it again",
            whole.len(),
            whole.len() - 10
        ),
    );

    // The last four bytes belong to the last tensor of the file.
    let mut nan = whole.clone();
    let n = nan.len();
    nan[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(at.join("nan.safetensors"), nan).unwrap();
    let ran = run("milan-audit", at, &own("nan.safetensors"));
    assert_eq!(ran.code, 1, "the policy's gate decides");
    assert!(
        ran.stderr.starts_with("violated: nan: values that are not finite (NaN or infinite): `")
            && ran.stderr.contains("` has 1;"),
        "{}",
        ran.stderr
    );
    let report = std::fs::read_to_string(at.join("reports/nan/report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["verdict"], &report["model"]["nan_count"]),
        (&"violated".into(), &1.into())
    );
    let mut allowed = own("nan.safetensors").to_vec();
    allowed.extend(["-A", "nan"]);
    let ran = run("milan-audit", at, &allowed);
    assert_eq!(ran.code, 3, "nothing can be measured");
    assert!(
        ran.stderr.starts_with(
            "error: cannot use nan.safetensors: values that are not finite (NaN or infinite): `"
        ),
        "{}",
        ran.stderr
    );

    let text = String::from_utf8_lossy(&whole[8..]).find("\"conv1.weight\"").unwrap() + 8;
    let mut renamed = whole.clone();
    renamed[text + 1..text + 6].copy_from_slice(b"conv9");
    std::fs::write(at.join("renamed.safetensors"), renamed).unwrap();
    check_error(
        "milan-audit",
        at,
        &own("renamed.safetensors"),
        3,
        "error: cannot use renamed.safetensors: the tensors fit no known architecture; the closest is cifar_resnet8_b: missing `conv1.weight`; 1 tensor is read by nothing: `conv9.weight`",
    );

    check_error(
        "milan-audit",
        at,
        &["--top-k", "500", "--policy", "text"],
        3,
        "error: the best 500 pictures of each unit are wanted, and the data has 240 in all; add pictures or lower --top-k",
    );
    check_error(
        "milan-edit",
        at,
        &["--delete-matching", "zebra"],
        3,
        "error: none of the 128 units matches, so there is nothing to delete; nothing was written",
    );
    let ran = run("milan-audit", at, &[]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.starts_with("inconclusive: no policy was given"), "{}", ran.stderr);
}

#[test]
fn unreadable_pictures_are_listed_and_too_many_end_the_run() {
    let (folder, _) = planted_files();
    let at = folder.path();
    std::fs::write(at.join("pictures/red/00.png"), "not a picture").unwrap();
    let arguments = [
        "--model",
        "model.safetensors",
        "--data",
        "pictures",
        "--policy",
        "text",
        "--output",
        "json",
    ];
    let ran = run("milan-audit", at, &arguments);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["data"]["images"], 239);
    assert_eq!(
        report["data"]["skipped"],
        serde_json::json!([{ "file": "red/00.png", "reason": "it is no JPEG, PNG, WebP, BMP or GIF" }])
    );

    let whole = std::fs::read(at.join("pictures/red/01.png")).unwrap();
    std::fs::write(at.join("pictures/red/01.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at.join("pictures/red/02.png"), "").unwrap();
    check_error(
        "milan-audit",
        at,
        &arguments,
        3,
        "error: 3 of 240 pictures in pictures cannot be read, more than --max-unreadable 0.01; the first is red/00.png: it is no JPEG, PNG, WebP, BMP or GIF",
    );
}
