//! Downloading a model, from a server on this machine that answers as the Hub does.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::support::program;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves one model, `org/demo`, on a port of its own for as long as the test runs.
fn serve(model: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, model) = (stream.unwrap(), model.clone());
            std::thread::spawn(move || while answer(&stream, &model).is_some() {});
        }
    });
    address
}

/// Reads one request and answers it; `None` when the client has gone.
fn answer(mut stream: &TcpStream, model: &[u8]) -> Option<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next()?;
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.split(' ').nth(1)?;
    let range = headers.iter().find_map(|line| {
        let line = line.to_lowercase();
        let (first, last) = line.strip_prefix("range: bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()))
    });
    let info = format!(
        r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"README.md"}},{{"rfilename":"model.safetensors"}}]}}"#
    );
    let content = match path {
        "/api/models/org/demo/revision/main" => info.as_bytes(),
        "/org/demo/resolve/main/model.safetensors" => model,
        _ => {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            return Some(());
        }
    };
    let (first, last) = range.unwrap_or((0, None));
    let part = &content[first..last.map_or(content.len(), |last| (last + 1).min(content.len()))];
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{}\r\nETag: \"abc\"\r\nx-repo-commit: {COMMIT}\r\n\r\n",
        part.len(),
        first + part.len() - 1,
        content.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(part).ok()
}

fn audit(folder: &Path, endpoint: &str, model: &str, more: &[&str]) -> (i32, String) {
    let output = program("milan-audit", folder)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", folder.join("cache"))
        .env("MILAN_DESCRIBER", "labels")
        .args(["--data", "pictures", "--policy", "text", "--layers", "conv1", "--model", model])
        .args(more)
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_model_is_downloaded_once_and_then_read_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let planted = milan::planted::write(folder.path()).unwrap();
    let endpoint = serve(std::fs::read(planted.model).unwrap());
    let at = folder.path();

    let (code, stderr) = audit(at, &endpoint, "hf:org/demo", &["--offline"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: org/demo@main is not in the local cache"), "{stderr}");

    let (code, stderr) = audit(at, &endpoint, "hf:org/demo", &[]);
    assert_eq!((code, stderr.as_str()), (1, "violated: text: 5 units found, 0 allowed\n"));

    for model in ["hf:org/demo", "hf:org/demo@main", &format!("hf:org/demo@{COMMIT}")] {
        let (code, stderr) = audit(at, "http://127.0.0.1:9", model, &["--offline"]);
        assert_eq!(code, 1, "{stderr}");
    }
}

#[test]
fn a_model_that_is_not_there_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    milan::planted::write(folder.path()).unwrap();
    let endpoint = serve(vec![]);
    let (code, stderr) = audit(folder.path(), &endpoint, "hf:org/other", &[]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.starts_with("error: cannot download org/other@main: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
