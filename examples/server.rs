//! A server that tags: POST a text to /tag and get its entities as JSON. Texts that arrive at the same time share batches.
//!
//!     cargo run --release --example server -- 127.0.0.1:8080
//!     curl --data 'Aspirin in THF' http://127.0.0.1:8080/tag

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use chemtag::format::{Document, OffsetUnit, Record};
use chemtag::{LoadOptions, Registry, Tagger};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// Texts of one batch at most.
const MOST_TEXTS: usize = 64;
/// Texts that may wait. Who sends more waits, too.
const QUEUE: usize = 1024;

type Answer = Result<serde_json::Value, String>;

/// Takes as many texts as wait and tags them together; those that come meanwhile are the next batch.
async fn tag(tagger: Tagger, mut queue: mpsc::Receiver<(String, oneshot::Sender<Answer>)>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MOST_TEXTS).await > 0 {
        let (texts, senders): (Vec<String>, Vec<_>) = waiting.drain(..).unzip();
        let tagger = tagger.clone();
        // Tagging takes the CPU, on threads that are not the network's.
        let answers = tokio::task::spawn_blocking(move || answers(&tagger, texts)).await;
        // A panic leaves the senders behind, and who waits for one gets an error. Who asked may have gone.
        for (sender, answer) in senders.into_iter().zip(answers.into_iter().flatten()) {
            let _ = sender.send(answer);
        }
    }
}

fn answers(tagger: &Tagger, texts: Vec<String>) -> Vec<Answer> {
    let documents: Vec<Document> = texts.into_iter().map(|text| Document::from_text("", text)).collect();
    match tagger.tag_documents(&documents.iter().collect::<Vec<_>>()) {
        Err(error) => documents.iter().map(|_| Err(error.to_string())).collect(),
        Ok(found) => documents
            .iter()
            .zip(found)
            .map(|(document, entities)| serde_json::to_value(Record::new(document, &entities, &[], OffsetUnit::Utf16)))
            .map(|record| record.map_err(|error| error.to_string()))
            .collect(),
    }
}

type Queue = mpsc::Sender<(String, oneshot::Sender<Answer>)>;

async fn handle(State(queue): State<Queue>, text: String) -> Result<Json<serde_json::Value>, (StatusCode, String)> {
    let failed = |message: String| (StatusCode::INTERNAL_SERVER_ERROR, message);
    let (sender, answer) = oneshot::channel();
    queue.send((text, sender)).await.map_err(|_| failed("the tagger has ended".into()))?;
    answer.await.map_err(|_| failed("the tagger panicked".into()))?.map(Json).map_err(failed)
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let load = || Registry::global().get("models/chemtag-small.int8.safetensors", LoadOptions::default());
    let (queue, waiting) = mpsc::channel(QUEUE);
    tokio::spawn(tag(tokio::task::spawn_blocking(load).await??, waiting));
    Ok(axum::serve(listener, Router::new().route("/tag", post(handle)).with_state(queue)).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into())).await?;
    println!("http://{}/tag", listener.local_addr()?);
    serve(listener).await
}
