//! JavaScript's way to the tagger: bytes or an address of a self-contained model -> a `Tagger`; strings -> entities with UTF-16 offsets.
//! The same path from text to entities as everywhere, on one thread; the package in `www/` adds workers, and the types that its users see.
//! By wasm-bindgen: <https://rustwasm.github.io/docs/wasm-bindgen/>.

mod cache;
mod download;
mod error;
mod options;
mod run;

use std::sync::Arc;

use js_sys::{Array, JsString, Promise, Uint8Array};
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

use self::download::Download;
use self::error::Failure;
use self::options::{LoadSettings, TagSettings};
pub use self::run::Run;
use crate::int8::to_file;
use crate::tokenizer::WordPieces;
use crate::{Contents, LoadOptions, Model, ModelFiles, Precision, TagOptions, Tagger as CoreTagger};

/// Pieces that are read at once: two groups of the integer engine. A larger number would not be faster, but let a caller wait longer for a
/// cancellation to be seen.
const TOKEN_BUDGET: usize = 512;

/// Called once when the module starts: a panic is written to the console before the instance stops, and its user sees a `RuntimeError`.
#[wasm_bindgen(start)]
fn start() {
    #[wasm_bindgen]
    extern "C" {
        #[wasm_bindgen(js_namespace = console, js_name = error)]
        fn console_error(message: &str);
    }
    std::panic::set_hook(Box::new(|panic| console_error(&format!("chemtag: {panic}"))));
}

/// A loaded model. It holds memory outside of JavaScript's heap until `free()` is called.
#[wasm_bindgen]
pub struct Tagger {
    tagger: CoreTagger,
    sha256: String,
    bytes: usize,
    source: &'static str,
    cached: Promise,
    file: Option<Blob>,
}

/// What `info()` tells.
#[derive(Serialize)]
struct Info<'m> {
    name: &'m str,
    version: &'m str,
    license: &'m str,
    classes: &'m [String],
    sha256: &'m str,
    bytes: usize,
    source: &'m str,
    engine: String,
    #[serde(rename = "engineVersion")]
    engine_version: &'static str,
    #[serde(rename = "memoryBytes")]
    memory_bytes: usize,
}

#[wasm_bindgen]
impl Tagger {
    /// Loads a self-contained model from `source`: its bytes (`Uint8Array`, `ArrayBuffer` or `Blob`), or its address (`string` or `URL`).
    #[wasm_bindgen(unchecked_return_type = "Tagger")]
    pub async fn load(source: JsValue, options: JsValue) -> Result<Tagger, JsValue> {
        Ok(Self::load_from(source, options).await?)
    }

    /// The chemicals in a text: an array of `{start, end, text, class, score}`, in order.
    pub fn tag(&self, text: JsString, options: JsValue) -> Result<Array, JsValue> {
        Ok(Run::new(&self.with(options)?, text).finish()?)
    }

    /// The chemicals in each of several texts, which share batches.
    #[wasm_bindgen(js_name = tagBatch)]
    pub fn tag_batch(&self, texts: Vec<JsString>, options: JsValue) -> Result<Array, JsValue> {
        let owned: Vec<String> = texts.iter().map(String::from).collect();
        let borrowed: Vec<&str> = owned.iter().map(String::as_str).collect();
        let found = self.with(options)?.tag_batch(&borrowed).map_err(Failure::from)?;
        let all = Array::new();
        for ((text, owned), found) in texts.iter().zip(&owned).zip(found) {
            let mut places = run::Utf16Places::default();
            let entities = Array::new();
            for entity in found {
                let of_entity = places.of(owned, entity.start..entity.end);
                entities.push(&run::to_js(text, of_entity, entity.class.as_deref(), entity.score)?);
            }
            all.push(&entities);
        }
        Ok(all)
    }

    /// Begins to tag one text, which `step()` of the result goes on with.
    pub fn begin(&self, text: JsString, options: JsValue) -> Result<Run, JsValue> {
        Ok(Run::new(&self.with(options)?, text))
    }

    /// The model's name, version, licence, classes, hash and size, where it came from, what computes it, and the memory of this instance.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        let model = self.tagger.model();
        let settings = &model.config().tagger;
        let info = Info {
            name: &settings.name,
            version: &settings.version,
            license: &settings.license,
            classes: &settings.classes,
            sha256: &self.sha256,
            bytes: self.bytes,
            source: self.source,
            engine: model.backend().describe(),
            engine_version: env!("CARGO_PKG_VERSION"),
            memory_bytes: memory_bytes(),
        };
        Ok(serde_wasm_bindgen::to_value(&info).map_err(|e| Failure::option(e.to_string()))?)
    }

    /// A promise of `{stored, reason}`: whether the downloaded file is in the cache, and if not, why. It is never rejected.
    #[wasm_bindgen(getter)]
    pub fn cached(&self) -> Promise {
        self.cached.clone()
    }

    /// The file that was loaded, for other workers, if the option `keepFile` asked for it; the second call has nothing to give.
    #[wasm_bindgen(js_name = takeFile)]
    pub fn take_file(&mut self) -> Option<Blob> {
        self.file.take()
    }
}

impl Tagger {
    async fn load_from(source: JsValue, options: JsValue) -> Result<Self, Failure> {
        let settings = LoadSettings::from_js(&options)?;
        let address = source.as_string().or_else(|| source.dyn_ref::<web_sys::Url>().map(|url| url.href()));
        if let Some(url) = address {
            return Self::load_from_address(&url, &settings).await;
        }
        let view = view_of(source).await?;
        let by_browser = cache::sha256(&view).await;
        settings.check_abort()?;
        let bytes = Contents::from(view.to_vec());
        let sha256 = by_browser.unwrap_or_else(|| bytes.sha256());
        settings.check_hash("the model's bytes", &sha256)?;
        settings.report(bytes.len() as f64, Some(bytes.len() as f64));
        let cached = cache::settled(false, "the model was given as bytes");
        Self::build("the model's bytes", bytes, sha256, "bytes", cached, None)
    }

    async fn load_from_address(url: &str, settings: &LoadSettings) -> Result<Self, Failure> {
        if let (Some(hash), true) = (&settings.sha256, settings.cache)
            && let Some(blob) = cache::find(hash).await
        {
            let buffer = JsFuture::from(blob.array_buffer()).await.map_err(Failure::from_js)?;
            let bytes = Uint8Array::new(&buffer);
            settings.check_abort()?;
            // What is damaged counts as absent: the download takes its place.
            if cache::sha256(&bytes).await.as_ref() == Some(hash) {
                settings.report(bytes.length().into(), Some(bytes.length().into()));
                let file = settings.keep_file.then_some(blob);
                let cached = cache::settled(true, "");
                return Self::build(url, bytes.to_vec().into(), hash.clone(), "cache", cached, file);
            }
        }
        let wants_file = settings.keep_file || (settings.cache && settings.sha256.is_some());
        let Download { bytes, sha256, chunks } = download::download(url, settings, wants_file).await?;
        settings.check_hash(url, &sha256)?;
        let file = match wants_file {
            true => Some(Blob::new_with_u8_array_sequence(&chunks).map_err(Failure::from_js)?),
            false => None,
        };
        drop(chunks);
        let cached = match (&settings.sha256, &file) {
            (Some(_), Some(blob)) if settings.cache => cache::store(sha256.clone(), url.into(), blob.clone()),
            (None, _) => cache::settled(false, "no sha256 was given to know the file by"),
            _ => cache::settled(false, "the option cache is false"),
        };
        Self::build(url, bytes.into(), sha256, "network", cached, file.filter(|_| settings.keep_file))
    }

    fn build(
        name: &str,
        bytes: Contents,
        sha256: String,
        source: &'static str,
        cached: Promise,
        file: Option<Blob>,
    ) -> Result<Self, Failure> {
        let length = bytes.len();
        let files = ModelFiles::from_file(bytes, name.into(), &mut |_, _| Ok(()))?;
        let options = LoadOptions { precision: Precision::Int8, ..LoadOptions::default() };
        // The hash is known: computing it once more would take a third of the load.
        let model = Model::load_with_tokenizer(&files, sha256.clone(), options, |vocab_size| {
            Ok(Arc::new(WordPieces::from_json(&files.tokenizer, &files.names[1], vocab_size)?))
        })?;
        let tagger = CoreTagger::from_model(Arc::new(model));
        let tagger = tagger.with_options(TagOptions { token_budget: TOKEN_BUDGET, ..TagOptions::default() })?;
        Ok(Self { tagger, sha256, bytes: length, source, cached, file })
    }

    /// The tagger with the options of one call.
    fn with(&self, options: JsValue) -> Result<CoreTagger, Failure> {
        let TagSettings { threshold, lone_sentences } = TagSettings::from_js(options)?;
        let options = TagOptions { threshold, lone_sentences, ..self.tagger.options().clone() };
        Ok(self.tagger.with_options(options)?)
    }
}

/// The models in the browser's cache: an array of `{sha256, url, bytes}`.
#[wasm_bindgen(js_name = cachedModels)]
pub async fn cached_models() -> Result<JsValue, JsValue> {
    let models = cache::list().await?;
    Ok(serde_wasm_bindgen::to_value(&models).map_err(|e| Failure::option(e.to_string()))?)
}

/// Removes all models from the browser's cache; returns whether there were any.
#[wasm_bindgen(js_name = clearCache)]
pub async fn clear_cache() -> Result<bool, JsValue> {
    Ok(cache::clear().await?)
}

/// A model folder's `config.json`, `tokenizer.json` and `model.safetensors` -> the self-contained file with 8-bit weights.
#[wasm_bindgen(js_name = toInt8)]
pub fn to_int8(config: Vec<u8>, tokenizer: Vec<u8>, weights: Vec<u8>) -> Result<Vec<u8>, JsValue> {
    let names = ["config.json", "tokenizer.json", "model.safetensors"].map(String::from);
    let [config, tokenizer, weights] = [config, tokenizer, weights].map(Contents::from);
    let files = ModelFiles { names, config, tokenizer, weights, self_contained: false };
    Ok(to_file(&files).map_err(Failure::from)?)
}

/// The bytes of an `ArrayBuffer`, a view of one, or a `Blob`.
async fn view_of(source: JsValue) -> Result<Uint8Array, Failure> {
    let buffer = match source.dyn_into::<Blob>() {
        Ok(blob) => JsFuture::from(blob.array_buffer()).await.map_err(Failure::from_js)?,
        Err(other) => other,
    };
    match buffer.dyn_into::<Uint8Array>() {
        Ok(view) => Ok(view),
        Err(buffer) if buffer.is_instance_of::<js_sys::ArrayBuffer>() => Ok(Uint8Array::new(&buffer)),
        Err(_) => {
            Err(Failure::option("a model is loaded from a Uint8Array, an ArrayBuffer, a Blob or an address".into()))
        }
    }
}

/// Bytes of this instance's memory. It grows, but never shrinks: only the end of the worker gives it back.
fn memory_bytes() -> usize {
    core::arch::wasm32::memory_size(0) * 65_536
}
