//! The one place where `grapnel-ctl` writes: standard output, which may be a terminal, a file or a
//! pipe whose reader has gone, and standard error.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::CtlError;

/// Columns where the terminal does not say.
const WIDTH_DEFAULT: u16 = 80;

/// Where answers go.
pub(super) struct Output {
    writer: Box<dyn Write>,
    /// For programs.
    pub json: bool,
    /// Columns of the terminal; `None` where the output is no terminal, and lines may be as long as they are.
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

    /// Text for people, as it is.
    pub fn text(&mut self, text: &str) -> Result<(), CtlError> {
        self.writer.write_all(text.as_bytes()).map_err(CtlError::Output)
    }

    /// A line for people.
    pub fn line(&mut self, line: &str) -> Result<(), CtlError> {
        self.text(line)?;
        self.text("\n")
    }

    /// An answer for programs.
    pub fn value(&mut self, value: &impl Serialize) -> Result<(), CtlError> {
        serde_json::to_writer_pretty(&mut self.writer, value)
            .map_err(|error| CtlError::Output(error.into()))?;
        self.text("\n")
    }

    /// Lets everything out that was written.
    pub fn flush(&mut self) -> Result<(), CtlError> {
        self.writer.flush().map_err(CtlError::Output)
    }

    /// A sentence on standard error, after everything that was written.
    pub fn complain(&mut self, sentence: &str) {
        // Standard output may be what is broken, and standard error may be closed: then nobody is to be told.
        let _ = self.writer.flush();
        // What is wrong may have several lines: the place in a file, a plugin's traceback.
        let lines: Vec<String> = sentence.lines().map(super::printable::printable).collect();
        let _ = writeln!(std::io::stderr(), "grapnel-ctl: {}", lines.join("\n  "));
    }
}
