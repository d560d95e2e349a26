//! The documents hold: what they name exists in the program and the other way round, their commands
//! run, their examples are taken, and their links lead somewhere. The program's side comes from its
//! own output, or from the source where it prints none.

mod console;
mod examples;
mod first;
mod keys;
mod links;
mod names;
mod points;
mod program;
mod verbs;
