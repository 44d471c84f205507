//! A module that cargo has built for wasm32-unknown-unknown -> the module and the JavaScript that browsers and Node load it with, and its types.
//! Arguments: the module, the folder to write to, the name of the files. Run by `www/build.mjs`.

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder, name] = arguments.as_slice() else {
        eprintln!("chemtag-bindgen: expected three arguments, MODULE FOLDER NAME, found {}", arguments.len());
        return ExitCode::from(2);
    };
    let mut bindgen = Bindgen::new();
    bindgen.input_path(module).out_name(name).typescript(true).remove_name_section(true).remove_producers_section(true);
    // The package says where the module lies, in words that bundlers understand.
    bindgen.omit_default_module_path(true);
    match bindgen.web(true).and_then(|bindgen| bindgen.generate(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chemtag-bindgen: {module}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
