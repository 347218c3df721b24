//! The built program, as a person would use it: the main job, its images and its errors.

mod program;
mod refusals;
mod run;
