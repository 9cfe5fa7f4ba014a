//! Reports of earlier runs, read back.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::{Report, SCHEMA};
use crate::{files, usage};

/// Reads a `report.json`, or the one in a run's folder. A file that is not there, or no whole report of this version,
/// is the user's mistake.
pub fn read(path: &Path) -> anyhow::Result<Report> {
    let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let name = path.display();
    let bytes = match files::read(&path, files::MAX_DATA) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(usage!(
                "there is no report {name}; name the report.json of a run, or its folder"
            ));
        }
        bytes => bytes.with_context(|| format!("cannot read {name}"))?,
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| match error.is_eof() {
        true => usage!("{name} is cut off; write it anew by the run that it is of"),
        false => usage!("{name} is no report: it is not JSON, {error}"),
    })?;
    match value["schema"].as_str() {
        Some(SCHEMA) => {}
        Some(other) => {
            return Err(usage!(
                "{name} is a report of the form {other}, and this version reads {SCHEMA}; write it anew with this version"
            ));
        }
        None => {
            return Err(usage!(
                "{name} is no report: it has no `schema`; name the report.json of a run"
            ));
        }
    }
    if value["complete"] != Value::Bool(true) {
        return Err(usage!("{name} is not complete: its run did not come to an end; run it again"));
    }
    serde_json::from_value(value).map_err(|error| {
        usage!("{name} is no whole report: {error}; write it anew with this version")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, kind};

    #[test]
    fn what_is_no_whole_report_is_a_mistake_of_the_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let check = |text: Option<&str>, wanted: &str| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = read(folder.path()).unwrap_err();
            let message = error.to_string().replace(&folder.path().display().to_string(), "DIR");
            assert!(message.contains(wanted), "{message}");
            assert_eq!(kind(&error), Kind::Usage);
        };
        check(None, "there is no report DIR/report.json; name");
        check(Some("{\"schema\": \"milan-re"), "DIR/report.json is cut off");
        check(Some("hello"), "not JSON");
        check(Some("{}"), "it has no `schema`");
        check(Some("{\"schema\": \"milan-report/2\"}"), "milan-report/2, and this version reads");
        check(Some("{\"schema\": \"milan-report/1\"}"), "is not complete");
        let no_fields = "{\"schema\": \"milan-report/1\", \"complete\": true}";
        check(Some(no_fields), "no whole report: missing field `verdict`");
    }
}
