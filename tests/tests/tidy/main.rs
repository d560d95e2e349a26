//! The house rules hold: sizes of files and functions, names that scripts, recipes and
//! CONTRIBUTING.md share, the files with `unsafe`, and the dependencies.

mod dependencies;
mod recipes;
mod sizes;
mod sources;
