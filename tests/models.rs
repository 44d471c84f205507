//! `chemtag models` and `--model ADDRESS` against a server on this machine.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chemtag::{LoadOptions, ModelFiles, Registry, int8};
use support::TinyModel;

/// A server that gives these bytes for every path with `model.safetensors` in it; and how often it was asked.
fn serve(model: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let known = lines.next().unwrap().contains("/model.safetensors ");
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = if known { ("200 OK", model.as_slice()) } else { ("404 Not Found", &b""[..]) };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (address, asked)
}

fn chemtag(cache: &Path, arguments: &[&str], offline: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chemtag"));
    command.args(arguments).env("CHEMTAG_CACHE", cache).env("CHEMTAG_OFFLINE", if offline { "1" } else { "0" });
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(b"LiCl in benzene");
    child.wait_with_output().unwrap()
}

fn printed(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn hub_models_are_fetched_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::read(&TinyModel::new().write(folder.path()).as_path().into()).unwrap();
    let (site, asked) = serve(int8::to_file(&files).unwrap());
    let cache = folder.path().join("cache");
    let run = |arguments: &[&str], offline| printed(&chemtag(&cache, arguments, offline));
    let address = format!("{site}/some/model.safetensors");

    let (code, _, message) = run(&["tag", "--model", &address], true);
    assert!(code == Some(1) && message.contains("is not kept in") && message.contains("CHEMTAG_OFFLINE"), "{message}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let (code, first, message) = run(&["tag", "--model", &address], false);
    assert_eq!((code, message.as_str()), (Some(0), ""));
    assert!(first.contains("\"LiCl\"") && first.contains("\"benzene\""), "{first}");
    assert_eq!(run(&["tag", "--model", &address], true), (Some(0), first, String::new()));
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let (code, path, _) = run(&["models", "get", &address], true);
    let kept = Path::new(path.trim_end());
    assert!(code == Some(0) && kept.starts_with(&cache) && kept.is_file(), "{path}");
    let (_, listed, _) = run(&["models", "list"], true);
    assert!(listed.contains(&address) && listed.contains("model.safetensors"), "{listed}");
    assert_eq!(run(&["models", "verify"], true).0, Some(0));
    let mut bytes = std::fs::read(kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(kept, bytes).unwrap();
    let (code, _, message) = run(&["models", "verify"], true);
    assert!(code == Some(1) && message.contains("model.safetensors is missing or not what was fetched"), "{message}");
    assert_eq!(run(&["models", "rm", &address], true).0, Some(0));
    assert_eq!(run(&["models", "rm", &address], true).0, Some(1));
    let (_, listed, message) = run(&["models", "list"], true);
    assert!(listed.is_empty() && message.contains("no models are kept"), "{listed}{message}");

    let (code, _, message) = run(&["models", "get", &format!("{site}/other.safetensors")], false);
    assert!(code == Some(1) && message.contains("there is no other.safetensors"), "{message}");
    assert_eq!(run(&["models", "get", "http://example.org/model.safetensors"], false).0, Some(2));

    // The library: a registry fetches a model once, and does not read it again.
    // SAFETY: no other test of this process reads or sets the environment.
    unsafe { std::env::set_var("CHEMTAG_CACHE", folder.path().join("of-library")) };
    let registry = Registry::new();
    let before = asked.load(Ordering::SeqCst);
    let taggers = [0, 1, 2].map(|_| registry.get(&address, LoadOptions::default()).unwrap());
    assert_eq!(taggers[2].tag("LiCl").unwrap().len(), 1);
    assert_eq!((registry.loads(), asked.load(Ordering::SeqCst) - before), (1, 1));
}
