//! The built program, as a person would use it: the main job, its images and its errors.

mod images;
mod plan;
mod program;
mod provision;
mod refusals;
mod run;
mod wal;
