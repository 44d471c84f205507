//! Models fetched from a server on this machine.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

type Requests = Arc<Mutex<Vec<String>>>;
/// Status, body and further lines of the head.
type Answer = (&'static str, Vec<u8>, String);

/// A hub on this machine: paths and what is answered. Runs until the tests end.
fn serve(answers: Vec<(&'static str, Answer)>) -> (String, Requests) {
    let answers: HashMap<&str, Answer> = answers.into_iter().collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &answers, &seen);
        }
    });
    (endpoint, requests)
}

fn answer(mut stream: TcpStream, answers: &HashMap<&str, Answer>, seen: &Requests) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_string();
    let token =
        lines.take_while(|line| !line.is_empty()).find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
    seen.lock().unwrap().push(format!("{path}{}", if token.is_some() { " with a token" } else { "" }));
    let missing = ("404 Not Found", Vec::new(), String::new());
    let refused = ("401 Unauthorized", Vec::new(), String::new());
    let known = answers.get(path.as_str()).unwrap_or(&missing);
    let (status, body, head) =
        if path.starts_with("/private/") && token.is_none_or(|token| !token.ends_with("Bearer secret")) {
            &refused
        } else {
            known
        };
    // An answer that breaks off.
    let (status, length) = match status.strip_prefix("short ") {
        Some(status) => (status, body.len() + 5),
        None => (*status, body.len()),
    };
    let head = format!("HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    // The client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn ok(body: &str) -> Answer {
    ("200 OK", body.into(), String::new())
}

fn redirected(to: &str) -> Answer {
    ("302 Found", Vec::new(), format!("Location: {to}\r\n"))
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn sha256(content: &str) -> String {
    use sha2::{Digest, Sha256};
    crate::contents::hexadecimal(&Sha256::digest(content))
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "lock" && name != "fetched.json").collect();
    names.sort_unstable();
    names
}

const ENCODER: [Wanted; 4] = [
    Wanted::OneOf(&["config.json"]),
    Wanted::IfThere("tokenizer_config.json"),
    Wanted::OneOf(&["tokenizer.json", "vocab.txt"]),
    Wanted::OneOf(&["model.safetensors", "pytorch_model.bin"]),
];

#[test]
fn files_of_either_layout_are_fetched_once() {
    let (endpoint, requests) = serve(vec![
        ("/allenai/old/resolve/main/config.json", ok("{}")),
        ("/allenai/old/resolve/main/vocab.txt", ok("[PAD]\n")),
        ("/allenai/old/resolve/main/pytorch_model.bin", redirected("/storage/abc")),
        ("/storage/abc", ok("weights")),
        ("/o/new/resolve/v1/config.json", ok("{}")),
        ("/o/new/resolve/v1/tokenizer.json", ok("{}")),
        ("/o/new/resolve/v1/model.safetensors", ok("w")),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = |offline| Hub::new(&endpoint, None, cache.path().into(), offline);
    let mut reported = Vec::new();
    let mut report = |done, total| {
        reported.push((done, total));
        Ok(())
    };
    let old = address("hf://allenai/old");
    let folder = hub(false).fetch_files(&old, &ENCODER, &mut report).unwrap();
    assert_eq!(reported, [(2, Some(2)), (6, Some(6)), (7, Some(7))]);
    assert_eq!(files(&folder), ["config.json", "pytorch_model.bin", "vocab.txt"]);
    assert_eq!(std::fs::read_to_string(folder.join("pytorch_model.bin")).unwrap(), "weights");
    let asked = requests.lock().unwrap().len();
    for offline in [false, true] {
        assert_eq!(hub(offline).fetch_files(&old, &ENCODER, &mut |_, _| Ok(())).unwrap(), folder);
    }
    assert_eq!(requests.lock().unwrap().len(), asked, "nothing is fetched twice");

    let new = address("hf://o/new@v1");
    assert_eq!(hub(false).kept(&new), None);
    let error = hub(true).fetch(&new, &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("config.json is not kept in") && error.contains("CHEMTAG_OFFLINE"), "{error}");
    let source = hub(false).fetch(&new, &mut |_, _| Ok(())).unwrap();
    let ModelSource::Folder(folder) = &source else { panic!("{source}") };
    assert_eq!(files(folder), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(hub(true).kept(&new), Some(source));
}

#[test]
fn what_cannot_be_fetched_is_named_and_leaves_no_file() {
    let (endpoint, _) = serve(vec![
        ("/o/short/resolve/main/config.json", ("short 200 OK", b"{}".into(), String::new())),
        ("/o/half/resolve/main/config.json", ok("{}")),
        ("/private/m/resolve/main/config.json", ok("{}")),
        ("/o/broken/resolve/main/config.json", ("500 Internal Server Error", Vec::new(), String::new())),
        ("/o/circle/resolve/main/config.json", redirected("/o/circle/resolve/main/config.json")),
        ("/o/open/resolve/main/config.json", redirected("http://example.org/config.json")),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = |token: Option<&str>| Hub::new(&endpoint, token.map(String::from), cache.path().into(), false);
    let error =
        |hub: Hub, model: &str| hub.fetch_files(&address(model), &ENCODER, &mut |_, _| Ok(())).unwrap_err().to_string();
    for (model, part) in [
        ("hf://o/none", "there is no config.json"),
        ("hf://o/half", "there is no tokenizer.json and no vocab.txt"),
        ("hf://o/broken", "status 500"),
        ("hf://o/short", "cannot be fetched"),
        ("hf://private/m", "HF_TOKEN"),
        ("hf://o/circle", "more than 10 times"),
        ("hf://o/open", "http://example.org/config.json, which is not encrypted"),
    ] {
        let message = error(hub(None), model);
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(files(&cache.path().join("hub/o/short/main")), [""; 0]);
    assert!(error(hub(Some("secret")), "hf://private/m").contains("there is no tokenizer.json"));
    let nobody = Hub::new("http://127.0.0.1:1", None, cache.path().into(), false);
    assert!(error(nobody, "hf://a/b").contains("cannot be fetched"));
}

#[test]
fn a_file_must_have_its_sha256() {
    let told =
        |sha256: &str| ("302 Found", Vec::new(), format!("Location: /storage/w\r\nX-Linked-ETag: \"{sha256}\"\r\n"));
    let right = sha256("weights");
    let (endpoint, requests) = serve(vec![
        ("/storage/w", ok("weights")),
        ("/o/good/resolve/main/m.safetensors", told(&right)),
        ("/o/bad/resolve/main/m.safetensors", told(&sha256("other"))),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&endpoint, None, cache.path().into(), false);
    let fetch = |text: &str| hub.fetch(&address(text), &mut |_, _| Ok(()));
    let url = format!("{endpoint}/storage/w.safetensors");
    assert!(fetch("hf://o/good/m.safetensors").is_ok());
    for text in ["hf://o/bad/m.safetensors".into(), format!("hf://o/good/m.safetensors#sha256={}", "0".repeat(64))] {
        let error = fetch(&text).unwrap_err().to_string();
        assert!(error.contains(&format!("its SHA-256 is {right}, but should be")), "{error}");
    }
    assert_eq!(files(&cache.path().join("hub/o/bad/main")), [""; 0]);
    // What was there stays, and is taken where its SHA-256 is the right one.
    let asked = requests.lock().unwrap().len();
    assert!(fetch(&format!("hf://o/good/m.safetensors#sha256={right}")).is_ok());
    assert_eq!(requests.lock().unwrap().len(), asked);
    assert!(fetch(&url).unwrap_err().to_string().contains("there is no w.safetensors"));
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (storage, elsewhere) = serve(vec![("/w", ok("weights"))]);
    let (endpoint, at_hub) =
        serve(vec![("/private/m/resolve/main/a.safetensors", redirected(&format!("{storage}/w")))]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&endpoint, Some("secret".into()), cache.path().into(), false);
    hub.fetch(&address("hf://private/m/a.safetensors"), &mut |_, _| Ok(())).unwrap();
    assert_eq!(*at_hub.lock().unwrap(), ["/private/m/resolve/main/a.safetensors with a token"]);
    assert_eq!(*elsewhere.lock().unwrap(), ["/w"]);
}

#[test]
fn who_comes_second_waits_for_the_first() {
    let (endpoint, requests) = serve(vec![("/o/m/resolve/main/a.safetensors", ok(&"weights".repeat(100_000)))]);
    let cache = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let hub = Hub::new(&endpoint, None, cache.path().into(), false);
                hub.fetch(&address("hf://o/m/a.safetensors"), &mut |_, _| Ok(())).unwrap();
            });
        }
    });
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[test]
fn what_is_kept_is_listed_verified_and_removed() {
    let (endpoint, _) = serve(vec![("/o/m/resolve/v2/a.safetensors", ok("weights")), ("/b.safetensors", ok("b"))]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&endpoint, None, cache.path().join("c"), false);
    assert_eq!(hub.list().unwrap(), []);
    let url = format!("{endpoint}/b.safetensors");
    for text in ["hf://o/m@v2/a.safetensors", &url] {
        hub.fetch(&address(text), &mut |_, _| Ok(())).unwrap();
    }
    let models = hub.list().unwrap();
    assert_eq!(models.iter().map(|model| model.address.as_str()).collect::<Vec<_>>(), ["hf://o/m@v2", &url]);
    assert_eq!(models[0].files["a.safetensors"], Kept { bytes: 7, sha256: sha256("weights") });
    assert!(models.iter().all(|model| model.verify().unwrap().is_empty()));
    std::fs::write(models[0].folder.join("a.safetensors"), "weighty").unwrap();
    std::fs::remove_file(models[1].folder.join("b.safetensors")).unwrap();
    assert_eq!(models[0].verify().unwrap(), ["a.safetensors"]);
    assert_eq!(models[1].verify().unwrap(), ["b.safetensors"]);
    assert!(hub.remove(&address("hf://o/m@v2")).unwrap());
    assert!(!hub.remove(&address("hf://o/m@v2")).unwrap());
    assert_eq!(hub.list().unwrap().len(), 1);
    // What is missing is fetched again.
    assert_eq!(hub.kept(&address(&url)), None);
    hub.fetch(&address(&url), &mut |_, _| Ok(())).unwrap();
    assert!(hub.kept(&address(&url)).is_some());
}
