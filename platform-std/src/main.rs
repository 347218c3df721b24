//! The `quorate` program.

fn main() -> std::process::ExitCode {
    quorate_std::cli::main()
}
