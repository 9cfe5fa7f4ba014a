//! Why a run ended without a verdict. The kind decides the exit code; the message is for the user.

/// What an error means to whoever called the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line, the policy or a named path is wrong. Exit code 2.
    Usage,
    /// Nothing could be concluded: an unsupported or malformed model, too few pictures. Exit code 3.
    Inconclusive,
    /// The machine failed: I/O, disk full, memory, device. Exit code 4.
    System,
    /// The user stopped it. Exit code 130.
    Interrupted,
}

/// An error whose kind is known. Made by [`usage!`](crate::usage) and [`inconclusive!`](crate::inconclusive).
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
}

/// The kind of an error: the outermost that was said, else [`Kind::System`].
pub fn kind(error: &anyhow::Error) -> Kind {
    error.downcast_ref::<Failure>().map_or(Kind::System, |failure| failure.kind)
}

/// An `anyhow::Error` that says the user asked for something wrong; arguments as `format!`.
#[macro_export]
macro_rules! usage {
    ($($arg:tt)*) => {
        ::anyhow::Error::new($crate::error::Failure {
            kind: $crate::error::Kind::Usage,
            message: format!($($arg)*),
        })
    };
}

/// An `anyhow::Error` that says nothing can be concluded; arguments as `format!`.
#[macro_export]
macro_rules! inconclusive {
    ($($arg:tt)*) => {
        ::anyhow::Error::new($crate::error::Failure {
            kind: $crate::error::Kind::Inconclusive,
            message: format!($($arg)*),
        })
    };
}

/// A message without the numbers that operating systems give their errors, as in "Is a directory (os error 21)".
pub fn without_numbers(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    let is_number = |it: &str| it.bytes().all(|it| it.is_ascii_digit());
    parts.fold(first, |text, part| match part.split_once(')') {
        Some((number, rest)) if is_number(number) => text + rest,
        _ => text + " (os error " + part,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_kind_is_found_under_context() {
        let error = Err::<(), _>(inconclusive!("no tensor")).context("cannot open").unwrap_err();
        assert_eq!(kind(&error), Kind::Inconclusive);
        assert_eq!(format!("{error:#}"), "cannot open: no tensor");
        assert_eq!(kind(&anyhow::anyhow!("disk")), Kind::System);
    }

    #[test]
    fn numbers_of_errors_are_left_out() {
        let message = "cannot read a: Is a directory (os error 21); nor b (os error 2)";
        assert_eq!(without_numbers(message), "cannot read a: Is a directory; nor b");
        assert_eq!(without_numbers("a file (os error x).csv"), "a file (os error x).csv");
    }
}
