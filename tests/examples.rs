//! What a user copies first: each example compiled and run.

#[path = "../examples/basic.rs"]
mod basic;
#[path = "../examples/batch.rs"]
mod batch;
#[path = "../examples/corpus.rs"]
mod corpus;
#[path = "../examples/custom_model.rs"]
mod custom_model;
// Its `main` waits for ever: what it calls is run here.
#[allow(dead_code)]
#[path = "../examples/server.rs"]
mod server;
#[path = "../examples/threads.rs"]
mod threads;

use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn each_runs_to_its_end() {
    basic::main().unwrap();
    batch::main().unwrap();
    threads::main().unwrap();
    corpus::main().unwrap();
    custom_model::main().unwrap();
}

#[test]
fn the_server_answers_many_at_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(server::serve(listener));
    let ask = |text: String| {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = text.len();
        let head = format!(
            "POST /tag HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all((head + &text).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let record: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let units: Vec<u16> = text.encode_utf16().collect();
        for entity in record["entities"].as_array().unwrap() {
            let [start, end] = ["start", "end"].map(|key| entity[key].as_u64().unwrap() as usize);
            assert_eq!(String::from_utf16(&units[start..end]).unwrap(), entity["text"].as_str().unwrap());
        }
        record["entities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entity| entity["text"].as_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        for number in 0..20 {
            let ask = &ask;
            scope.spawn(move || {
                let text = format!("🧪 Sample {number} held benzene and LiCl in tetrahydrofuran.");
                assert_eq!(ask(text), ["benzene", "LiCl", "tetrahydrofuran"]);
            });
        }
    });
}
