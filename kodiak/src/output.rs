//! What the program prints.
//!
//! `println!` panics where nobody reads any more, as after `kodiak … | head`. A command then ends, and a store that
//! serves goes on.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::process::exit;

/// Prints a line of a command, which ends if nobody reads it.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
/// Prints a line of a store that serves, whether anybody reads it or not.
macro_rules! tell {
    ($($text:tt)*) => { $crate::output::line_or_nothing(format_args!($($text)*)) };
}
pub(crate) use {say, tell};

/// See [`say!`]. Whoever read, as `head`, has seen enough: that is no failure.
pub fn line(text: Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            complain(format_args!("Error: cannot print: {error}"));
            exit(1)
        }
    }
}

/// See [`tell!`].
pub fn line_or_nothing(text: Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a line to standard error, where somebody may have closed it.
pub fn complain(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
