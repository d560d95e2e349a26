//! The documents are correct: the names in them exist in the program and the other way round, their
//! commands run, their examples are accepted, and their links have targets. The program's side
//! comes from its own output, or from the source if it prints none.

mod commands;
mod console;
mod examples;
mod first;
mod keys;
mod links;
mod names;
mod points;
mod program;
mod schemas;
mod verbs;
