//! What the user of a program should know although the work goes on -> the program's own handler, or one line on standard error.
//! For the two cases where the library does something else than was asked: another device, or smaller batches.

use std::io::Write;
use std::sync::{Arc, PoisonError, RwLock};

type Handler = Arc<dyn Fn(&str) + Send + Sync>;

static HANDLER: RwLock<Option<Handler>> = RwLock::new(None);

/// Calls `handler` with each warning from now on, in whichever thread it arises; it takes the place of the handler before it. Without one,
/// warnings are written to standard error, each on a line that begins with `chemtag: `.
///
/// There are two: the device `auto` computes on the CPU because the GPU cannot be used, said once in a process; and a GPU has too little
/// memory for the batches, said once for each model.
///
/// ```
/// chemtag::on_warning(|message| println!("chemtag says: {message}"));
/// ```
pub fn on_warning(handler: impl Fn(&str) + Send + Sync + 'static) {
    *HANDLER.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(handler));
}

/// Tells the user.
pub(crate) fn warn(message: &str) {
    // A copy, so that a handler may set another one.
    let handler = HANDLER.read().unwrap_or_else(PoisonError::into_inner).clone();
    match handler {
        Some(handler) => handler(message),
        // Where standard error is closed there is nobody left to tell.
        None => drop(writeln!(std::io::stderr(), "chemtag: {message}")),
    }
}
