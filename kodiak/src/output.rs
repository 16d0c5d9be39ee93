//! What commands print.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::process::exit;

/// Prints a line, as `println!` does, which would panic where nobody reads any more.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints a line to standard output. If that is closed, the command ends: whoever read it, as `head`, has seen enough.
pub fn line(text: Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("Error: cannot print: {error}");
            exit(1)
        }
    }
}
