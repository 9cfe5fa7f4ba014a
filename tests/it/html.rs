//! The report as a page: escaped, complete in one file and, where a Chromium is found, usable.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use milan::report::{Report, html};
use milan::unit::{Reading, Status};
use serde_json::{Value, json};
use tempfile::TempDir;

const IMG: &str = "<img src=x onerror=\"window.hacked = 1\">";
const SCRIPT: &str = "</script><script>window.hacked = 2</script>";
const ODD: &str = "{{script}} <!-- ]]> ' \" &lt; \u{2028}";

fn planted() -> Report {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/planted-edit.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The planted report, with everything named by somebody who wants to get into the page.
fn hostile() -> Report {
    let mut report = planted();
    let renamed = |layer: &str| match layer {
        "conv1" => IMG.to_owned(),
        "layer1" => SCRIPT.to_owned(),
        "layer2" => ODD.to_owned(),
        other => other.to_owned(),
    };
    report.model.source = SCRIPT.to_owned();
    report.model.arch = IMG.to_owned();
    report.why = [IMG, SCRIPT, ODD].map(str::to_owned).to_vec();
    report.warnings = report.why.clone();
    report.descriptions.method = IMG.to_owned();
    for layer in &mut report.layers {
        layer.name = renamed(&layer.name);
    }
    for unit in &mut report.units {
        unit.layer = renamed(&unit.layer);
        for reading in &mut unit.readings {
            reading.text = format!("{IMG}{SCRIPT}{ODD}");
        }
        unit.evidence = [IMG, SCRIPT, "__proto__"].map(|it| (it.to_owned(), 0.5)).into();
    }
    for rule in &mut report.rules {
        rule.title = Some(SCRIPT.to_owned());
        rule.reason = Some(IMG.to_owned());
        rule.url = Some("javascript:window.hacked=3".to_owned());
        for unit in &mut rule.units {
            unit.layer = renamed(&unit.layer);
            unit.description = SCRIPT.to_owned();
            unit.matched = IMG.to_owned();
        }
    }
    let accuracy = report.accuracy.as_mut().unwrap();
    for class in &mut accuracy.before.per_class {
        class.name = format!("{SCRIPT}{IMG}");
    }
    report
}

/// 10,000 units in 5 layers, and 1000 classes.
fn large() -> Report {
    let mut report = planted();
    let layer = report.layers[0].clone();
    let unit = report.units[0].clone();
    report.layers.clear();
    report.units.clear();
    for i in 0..5 {
        let mut layer = layer.clone();
        layer.name = format!("stage{i}");
        layer.units = 2000;
        for j in 0..layer.units {
            let mut unit = unit.clone();
            unit.layer = layer.name.clone();
            unit.unit = j;
            unit.status = Status::Described;
            let confidence = (j * 37 % 101) as f32 / 100.;
            unit.readings =
                vec![Reading { text: format!("Thing number {}", j * 7 % 1000), confidence }];
            report.units.push(unit);
        }
        report.layers.push(layer);
    }
    let accuracy = report.accuracy.as_mut().unwrap();
    for (part, less) in [(&mut accuracy.before, 0.), (accuracy.after.as_mut().unwrap(), 0.02)] {
        let class = part.per_class[0].clone();
        let with = |i: usize| {
            let mut class = class.clone();
            class.class = i;
            class.name = format!("class {i}");
            class.top1 = (i * 13 % 97) as f64 / 100. * (1. - less);
            class
        };
        part.per_class = (0..1000).map(with).collect();
    }
    report
}

fn page(report: &Report) -> String {
    html(report, &BTreeMap::new()).unwrap()
}

/// What stands between the first `open` and the next `close`.
fn between<'a>(text: &'a str, open: &str, close: &str) -> &'a str {
    text.split_once(open).unwrap().1.split_once(close).unwrap().0
}

#[test]
fn the_page_is_filled_and_the_same_every_time() {
    let page = page(&planted());
    assert!(!page.contains("{{"), "a slot is left");
    assert!(page == self::page(&planted()));
    for part in ["<h1>Passed</h1>", "delete-matching", "data-unit=\"conv1:4\""] {
        assert!(page.contains(part), "no {part}");
    }
}

#[test]
fn the_policy_of_the_page_names_what_it_holds() {
    let page = page(&hostile());
    for (kind, open, close) in
        [("style-src", "<style>", "</style>"), ("script-src", "<script>", "</script>")]
    {
        let hash = between(&page, &format!("{kind} 'sha256-"), "'");
        assert_eq!(unbase64(hash), milan::files::sha256(between(&page, open, close).as_bytes()));
    }
    let policy = between(&page, "Content-Security-Policy\" content=\"", "\"");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.contains(" style=\""), "an inline style, which the policy forbids");
}

/// Base64 as hex.
fn unbase64(text: &str) -> String {
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = text
        .trim_end_matches('=')
        .chars()
        .map(|it| format!("{:06b}", digits.find(it).unwrap()))
        .collect();
    let bytes = bits.as_bytes().chunks_exact(8).map(|it| std::str::from_utf8(it).unwrap());
    bytes.map(|it| format!("{:02x}", u8::from_str_radix(it, 2).unwrap())).collect()
}

#[test]
fn strangers_names_are_text() {
    let page = page(&hostile());
    assert!(!page.contains(IMG) && !page.contains(SCRIPT));
    assert!(page.contains("&lt;img src=x onerror=&quot;window.hacked = 1&quot;&gt;"));
    assert!(page.contains("\\u003c/script>\\u003cscript>"));
    assert!(
        page.contains("{{script}} &lt;!-- ]]&gt; &#39; &quot; &amp;lt;"),
        "what is filled in is no slot"
    );
    assert!(!page.contains("href=\"javascript"));
    assert_eq!(page.matches("<script").count(), 3);
    let report: Value =
        serde_json::from_str(between(&page, "id=\"report\">", "</script>")).unwrap();
    assert_eq!(report["model"]["source"], SCRIPT);
}

// The rest needs a browser.

/// A Chromium that is spoken to through two pipes, as `--remote-debugging-pipe` has it: JSON with a 0 after it.
struct Browser {
    child: Child,
    input: ChildStdin,
    output: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// What it said without being asked.
    events: Vec<Value>,
    folder: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The browser that `MILAN_CHROMIUM` names, or the first that is installed.
fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MILAN_CHROMIUM") {
        return Some(path.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |it| it.join(name)))
        .find(|it| it.is_file())
}

impl Browser {
    /// Opens a page, `width` pixels wide; says the test's name and is `None` where there is no browser.
    fn open(page: &str, width: u32) -> Option<Browser> {
        let Some(chromium) = chromium() else {
            println!("skipped {}: no Chromium", std::thread::current().name().unwrap_or("a test"));
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"])
            .arg(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                sender.send(serde_json::from_slice(&message).unwrap()).ok();
            }
        });
        let mut browser = Browser {
            child,
            input,
            output: receiver,
            session: None,
            calls: 0,
            events: vec![],
            folder,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", target);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        browser.call("Emulation.setDeviceMetricsOverride", size);
        std::fs::write(browser.folder.path().join("report.html"), page).unwrap();
        browser.load();
        Some(browser)
    }

    fn load(&mut self) {
        let url = format!("file://{}", self.folder.path().join("report.html").display());
        self.events.retain(|it| it["method"] != "Page.loadEventFired");
        self.call("Page.navigate", json!({ "url": url }));
        while !self.events.iter().any(|it| it["method"] == "Page.loadEventFired") {
            let event = self.read();
            self.events.push(event);
        }
    }

    fn read(&mut self) -> Value {
        self.output.recv_timeout(Duration::from_secs(60)).expect("Chromium does not answer")
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.read();
            if answer["id"] == self.calls {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// The value of an expression of the page.
    #[track_caller]
    fn value(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    #[track_caller]
    fn check(&mut self, expression: &str, wanted: impl Into<Value>) {
        assert_eq!(self.value(expression), wanted.into(), "{expression}");
    }

    /// Presses a key, or types a character.
    fn press(&mut self, key: &str) {
        let codes = [
            ("Enter", 13),
            ("Escape", 27),
            ("End", 35),
            ("ArrowUp", 38),
            ("ArrowRight", 39),
            ("ArrowDown", 40),
        ];
        let code = codes.iter().find(|it| it.0 == key).map(|it| it.1);
        let text = match key {
            "Enter" => "\r",
            _ if code.is_none() => key,
            _ => "",
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params =
                json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code.unwrap_or(0) });
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Nothing was complained of, and nothing but the page itself was asked for.
    #[track_caller]
    fn check_quiet(&mut self) {
        // What was said before is here once this is answered.
        self.value("new Promise((done) => setTimeout(done, 100))");
        for event in &self.events {
            let method = event["method"].as_str().unwrap_or_default();
            let complaints =
                ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"];
            assert!(!complaints.contains(&method), "{event}");
            let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
            let own = url.starts_with("data:") || url.ends_with("/report.html");
            assert!(method != "Network.requestWillBeSent" || own, "{event}");
        }
    }
}

#[test]
fn no_request_no_complaint_and_no_scrolling_aside() {
    for report in [planted(), hostile(), large()] {
        for width in [1280, 390] {
            let Some(mut browser) = Browser::open(&page(&report), width) else { return };
            browser.check("document.documentElement.scrollWidth <= innerWidth", true);
            browser.check(
                "getComputedStyle(document.querySelector('h1')).lineHeight !== 'normal'",
                true,
            );
            browser.check("document.querySelectorAll('.screen:not([hidden])').length", 4);
            browser.check("document.querySelectorAll('canvas').length", report.layers.len());
            browser.check_quiet();
        }
    }
}

#[test]
fn strangers_names_do_nothing() {
    let Some(mut browser) = Browser::open(&page(&hostile()), 1280) else { return };
    browser.value("document.querySelectorAll('details').forEach((it) => { it.open = true; })");
    browser.value("document.querySelector('a[data-unit]').click()");
    browser.check("document.querySelector('#detail').open", true);
    browser.check("document.querySelector('#detail-title').textContent", format!("{IMG}:4"));
    browser.check("document.querySelectorAll('img, [onerror]').length", 0);
    browser.check("document.scripts.length", 3);
    browser.check("document.querySelector('#layer').options[1].value", IMG);
    browser.check("typeof window.hacked", "undefined");
    browser.check_quiet();
}

#[test]
fn units_are_searched_filtered_and_sorted() {
    let report = planted();
    let Some(mut browser) = Browser::open(&page(&report), 1280) else { return };
    let matching = report.rules[0].units.len();
    let dead = report.units.iter().filter(|it| it.status == Status::Dead).count();
    let count = "document.querySelector('#count').textContent";
    let set = |id: &str, value: &str| {
        format!(
            "{{ const it = document.querySelector('#{id}'); it.value = '{value}'; it.dispatchEvent(new Event('input')); }}"
        )
    };
    let all = report.units.len();
    browser.check(count, format!("{all} units"));
    browser.value(&set("search", "LAYER3:4 text"));
    browser.check("[...document.querySelectorAll('#rows .name')].every((it) => it.textContent.startsWith('layer3:4'))", true);
    browser.check("document.querySelectorAll('#rows .row').length > 0", true);
    browser.value(&set("search", "nothing is described like this"));
    browser.check(count, format!("0 of {all} units"));
    browser.value("document.querySelector('#clear').click()");
    browser.value(&set("status", "dead"));
    browser.check(count, format!("{dead} of {all} units"));
    browser.value("document.querySelector('#clear').click()");
    browser.value(&set("rule", "rule delete-matching"));
    browser.check(count, format!("{matching} of {all} units"));
    browser.value(&set("layer", "conv1"));
    browser.check("[...document.querySelectorAll('#rows .name')].every((it) => it.textContent.startsWith('conv1:'))", true);
    browser.value("document.querySelector('#clear').click()");

    let numbers = "[...document.querySelectorAll('#rows .row')].map((it) => it.children[3].textContent).filter(Boolean).map(Number)";
    let sorted = |sign: &str| {
        format!("(({numbers}).every((it, i, all) => i === 0 || {sign} * (it - all[i - 1]) >= 0))")
    };
    browser.value("document.querySelector('[data-sort=confidence]').click()");
    browser.check(&sorted("-1"), true);
    browser.check("document.querySelector('[aria-sort=descending]').textContent", "confidence");
    browser.value("document.querySelector('[data-sort=confidence]').click()");
    browser.check(&sorted("1"), true);
    browser.check_quiet();
}

#[test]
fn a_unit_opens_by_keyboard() {
    let Some(mut browser) = Browser::open(&page(&planted()), 1280) else { return };
    let (focused, title) =
        ("document.activeElement.id", "document.querySelector('#detail-title').textContent");
    browser.press("/");
    browser.check(focused, "search");
    for letter in ["c", "o", "n", "v", "1"] {
        browser.press(letter);
    }
    browser.check("document.querySelector('#search').value", "conv1");
    browser.press("ArrowDown");
    browser.check(focused, "grid");
    for _ in 0..4 {
        browser.press("ArrowDown");
    }
    browser.check("document.querySelector('#grid').getAttribute('aria-activedescendant')", "row-4");
    browser.press("Enter");
    browser.check("document.querySelector('#detail').open", true);
    browser.check(title, "conv1:4");
    browser.check("location.hash", "#unit=conv1%3A4");
    browser.check(
        "document.querySelector('#detail-body').textContent.includes('delete-matching')",
        true,
    );
    browser.check(
        "document.querySelector('#detail-body').textContent.includes('Pictures were not embedded')",
        true,
    );
    browser.press("ArrowRight");
    browser.check(title, "conv1:5");
    browser.press("Escape");
    browser.check("document.querySelector('#detail').open", false);
    browser.check(focused, "grid");
    // An address leads to its unit.
    browser.value(
        "{ location.hash = '#unit=layer3:7'; new Promise((done) => setTimeout(done, 50)); }",
    );
    browser.check(title, "layer3:7");
    browser.check_quiet();
}

#[test]
fn of_ten_thousand_units_few_rows_exist() {
    let Some(mut browser) = Browser::open(&page(&large()), 1280) else { return };
    let rows = "document.querySelectorAll('#rows .row').length";
    browser.check("document.querySelector('#grid').getAttribute('aria-rowcount')", "10001");
    for scroll in ["0", "1234", "100000", "1e9"] {
        browser.value(&format!("document.querySelector('#grid').scrollTop = {scroll}"));
        browser.value(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
        );
        assert!((10..60).contains(&browser.value(rows).as_u64().unwrap()), "{scroll}");
    }
    browser
        .check("document.querySelector('#rows .row:last-child .name').textContent", "stage4:1999");
    browser.value("document.querySelector('#grid').focus()");
    browser.press("ArrowDown");
    browser.check("document.querySelector('[aria-selected=true] .name').textContent", "stage0:1");
    browser.press("End");
    browser
        .check("document.querySelector('[aria-selected=true] .name').textContent", "stage4:1999");
    browser.check_quiet();
}

#[test]
fn pictures_are_shown_where_there_are_any() {
    let pictures = BTreeMap::from([("conv1:4".to_owned(), vec![0xff, 0xd8, 0xff, 0xe0])]);
    let page = html(&planted(), &pictures).unwrap();
    assert!(page.contains("{\"conv1:4\":\"/9j/4A==\"}"));
    let Some(mut browser) = Browser::open(&page, 1280) else { return };
    browser.value("document.querySelector('a[data-unit=\"conv1:4\"]').click()");
    browser.check("document.querySelector('#detail img').src", "data:image/jpeg;base64,/9j/4A==");
    browser.check_quiet();
}

#[test]
fn what_counts_is_readable_without_a_program() {
    let Some(mut browser) = Browser::open(&page(&planted()), 1280) else { return };
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    browser.events.clear();
    browser.load();
    let document = browser.call("DOM.getDocument", json!({}));
    let mut text = |selector: &str| {
        let params = json!({ "nodeId": document["root"]["nodeId"], "selector": selector });
        let node = browser.call("DOM.querySelector", params);
        browser.call("DOM.getOuterHTML", json!({ "nodeId": node["nodeId"] }))["outerHTML"]
            .to_string()
    };
    assert!(text("h1").contains("Passed"));
    assert!(text("#rules").contains("conv1:4"));
    assert!(text("#units").contains("hidden"));
}
