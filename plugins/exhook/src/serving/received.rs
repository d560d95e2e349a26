//! Frames of a worker: reads what has come, and does what it says.

use std::io::{ErrorKind, Read};
use std::time::Instant;

use grapnel_plugin_abi::{Level, counted};

use super::{LAST, Serving};
use crate::call_queue::PendingCall;
use crate::command;
use crate::handover::LoginRecorder;
use crate::wire::{self, Answer, HEAD, WorkerMessage};
use crate::worker::{Worker, fail};

/// The result of a read from the socket.
#[derive(PartialEq, Eq)]
pub enum ReadResult {
    /// Nothing is there.
    Nothing,
    /// There may be more.
    Something,
    /// The worker has closed its end.
    End,
}

impl Serving<'_> {
    /// Reads what the worker has sent.
    ///
    /// # Errors
    /// What is wrong with it, as text for the log.
    pub(crate) fn receive(&mut self) -> Result<ReadResult, String> {
        let mut came = ReadResult::Nothing;
        for _ in 0..16 {
            match self.process.socket.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => {
                    self.is_open = false;
                    return self.frames().map(|()| ReadResult::End);
                }
                Ok(count) => {
                    self.input.extend_from_slice(&self.buffer[..count]);
                    came = ReadResult::Something;
                    self.frames()?;
                }
            }
        }
        Ok(came)
    }

    /// Reads all that has come from a process that sends no more. [`LAST`] bounds one that does.
    ///
    /// # Errors
    /// As [`Serving::receive`].
    pub(crate) fn receive_all(&mut self) -> Result<(), String> {
        let until = Instant::now() + LAST;
        while self.is_open && self.receive()? == ReadResult::Something && Instant::now() < until {}
        Ok(())
    }

    /// Handles the complete frames. After a wrong one, nothing more is read.
    fn frames(&mut self) -> Result<(), String> {
        self.whole_frames().inspect_err(|_| self.is_open = false)
    }

    fn whole_frames(&mut self) -> Result<(), String> {
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(len) = wire::frame_len(&input[at..]) {
            let max = self.worker.config.frame_bytes_max;
            if len > max {
                return Err(format!("sends a frame of {len} bytes, more than frame_bytes_max ({max})"));
            }
            let Some(frame) = input.get(at + HEAD..at + HEAD + len) else { break };
            self.said(wire::read(frame)?)?;
            at += HEAD + len;
        }
        self.input = input;
        self.input.drain(..at);
        Ok(())
    }

    fn said(&mut self, said: WorkerMessage<'_>) -> Result<(), String> {
        let host = self.worker.host;
        match said {
            WorkerMessage::Ready(ready) if !self.ready => {
                self.ready = true;
                self.stores_logins = self.worker.stores_logins(ready.stores_logins);
                self.early_output = None;
                self.worker.queue.open();
                let (name, hooks) = (self.worker.name(), counted(ready.hooks.len(), "hook"));
                host.info(format_args!(
                    "{name} is ready: {}, {hooks}, process {}",
                    ready.sdk,
                    self.process.id()
                ));
                if let Some(first) = self.worker.first.take() {
                    let _ = first.send(Ok(ready));
                }
            }
            WorkerMessage::Failed(text) => {
                self.early_output = None;
                return Err(format!("cannot run: {text}"));
            }
            WorkerMessage::Answers(answers, done) if self.ready => {
                // A log line is not progress on a call.
                if done > 0 || !answers.is_empty() {
                    self.last_progress = Instant::now();
                }
                self.open = self.open.saturating_sub(done);
                for answer in answers {
                    self.answer(&answer);
                }
            }
            WorkerMessage::Log(level, text) => {
                let level = match level {
                    1 => Level::Error,
                    2 => Level::Warn,
                    3 => Level::Info,
                    _ => Level::Debug,
                };
                self.lines.log(level, &text);
            }
            WorkerMessage::Commands(commands) if self.ready => {
                let driver = self.worker.config.driver.name();
                for command in commands {
                    let Worker { logins: kept, .. } = &*self.worker;
                    let (epoch, has_request) = (self.epoch, &|client| self.pending.is_about(client));
                    let shards = host.shards();
                    let keeping = self.stores_logins.then_some(LoginRecorder {
                        logins: kept,
                        epoch,
                        driver,
                        has_request,
                        shards,
                    });
                    if let Err(not_done) = command::run(host, keeping, &command) {
                        self.worker.command_failed(not_done);
                    }
                }
            }
            WorkerMessage::Ready(_) => return Err("introduced itself twice".to_owned()),
            WorkerMessage::Answers(..) | WorkerMessage::Commands(_) => {
                return Err("spoke before it was ready".to_owned());
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer<'_>) {
        // It may have timed out.
        let Some(PendingCall { ticket, since, .. }) = self.pending.remove(answer.id) else { return };
        self.worker.queue.stats.answered(since.elapsed());
        let wrong = match answer.code {
            0 | 1 => ticket.answer(&answer.value, answer.code == 1),
            2 => Err((ticket, format!("failed: {}", wire::text_of(&answer.value).unwrap_or_default()))),
            code => Err((ticket, format!("answered with the unknown code {code}"))),
        };
        if let Err((ticket, text)) = wrong {
            self.worker.wrong += 1;
            // To limit the log, only the first, second, fourth, eighth … failure is logged.
            if self.worker.wrong.is_power_of_two() {
                let (host, name) = (self.worker.host, self.worker.name());
                host.warn(format_args!("{name} {text} (failure {})", self.worker.wrong));
            }
            fail(&self.worker.queue.stats, ticket);
        }
    }
}
