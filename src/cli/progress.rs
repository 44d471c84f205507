//! Bytes tagged so far -> a bar on standard error, where somebody can see it and it disturbs nothing.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use chemtag::format::Format;
use indicatif::{ProgressBar, ProgressStyle};

use super::report;
use super::tag::is_standard_input;
use super::terminal::visible;

/// A bar that counts bytes of text.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for these inputs, which names the `engine` that reads them; hidden unless standard error is a terminal and standard output is not.
    pub fn new(paths: &[PathBuf], from: Option<Format>, engine: &str) -> Self {
        if !io::stderr().is_terminal() || io::stdout().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let size = |path: &PathBuf| match path.metadata() {
            // How much comes out of a pipe is not known before it ends.
            _ if is_standard_input(path) => None,
            // Nor how much text a file holds that is more than text.
            _ if from.or_else(|| Format::of_path(path)).unwrap_or(Format::Text) != Format::Text
                || is_compressed(path) =>
            {
                None
            }
            Ok(data) if data.is_file() => Some(data.len()),
            Ok(data) if !data.is_dir() => None,
            _ => Some(0),
        };
        let total: Option<u64> = paths.iter().map(size).sum();
        let (bar, template) = match total {
            Some(total) => {
                (ProgressBar::new(total), "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left ({msg})")
            }
            None => (ProgressBar::no_length(), "{spinner} {bytes}, {bytes_per_sec} ({msg})"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style).with_message(visible(engine).into_owned());
        // A clone is the same bar: what the library warns of stands above it, too.
        let above = bar.clone();
        chemtag::on_warning(move |message| above.suspend(|| report(message)));
        Self { bar }
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// Writes a message to standard error above the bar.
    pub fn report(&self, message: &str) {
        self.bar.suspend(|| report(message));
    }
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz" || extension == "zst")
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
