//! All output of `grapnel-ctl` is written here: to standard output, which may be a terminal, a file
//! or a closed pipe, and to standard error.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::CtlError;

/// Columns if the terminal does not report its width.
const WIDTH_DEFAULT: u16 = 80;

/// The output of a command.
pub(super) struct Output {
    writer: Box<dyn Write>,
    /// Whether the output is JSON for programs.
    pub json: bool,
    /// Columns of the terminal; `None` if the output is no terminal, and lines are not wrapped.
    pub width: Option<u16>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).field("width", &self.width).finish_non_exhaustive()
    }
}

impl Output {
    /// Standard output.
    pub fn of_process(json: bool) -> Output {
        let stdout = std::io::stdout();
        let width = stdout.is_terminal().then(|| {
            let size = rustix::termios::tcgetwinsize(&stdout);
            size.map(|size| size.ws_col).ok().filter(|columns| *columns > 0).unwrap_or(WIDTH_DEFAULT)
        });
        Output { writer: Box::new(std::io::BufWriter::new(stdout)), json, width }
    }

    #[cfg(test)]
    pub fn to(writer: impl Write + 'static, json: bool, width: Option<u16>) -> Output {
        Output { writer: Box::new(writer), json, width }
    }

    /// Writes text for people, unchanged.
    pub fn text(&mut self, text: &str) -> Result<(), CtlError> {
        self.writer.write_all(text.as_bytes()).map_err(CtlError::Output)
    }

    /// Writes a line for people.
    pub fn line(&mut self, line: &str) -> Result<(), CtlError> {
        self.text(line)?;
        self.text("\n")
    }

    /// Writes a JSON value for programs.
    pub fn value(&mut self, value: &impl Serialize) -> Result<(), CtlError> {
        serde_json::to_writer_pretty(&mut self.writer, value)
            .map_err(|error| CtlError::Output(error.into()))?;
        self.text("\n")
    }

    /// Flushes the output.
    pub fn flush(&mut self) -> Result<(), CtlError> {
        self.writer.flush().map_err(CtlError::Output)
    }

    /// Writes a message to standard error, after all earlier output.
    pub fn complain(&mut self, sentence: &str) {
        // Errors are ignored: standard output may be what has failed, and standard error may be
        // closed.
        let _ = self.writer.flush();
        // A message may have several lines, such as a position in a file or a plugin's traceback.
        let lines: Vec<String> = sentence.lines().map(super::printable::printable).collect();
        let _ = writeln!(std::io::stderr(), "grapnel-ctl: {}", lines.join("\n  "));
    }
}
