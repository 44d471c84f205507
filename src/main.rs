//! The command `chemtag`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
