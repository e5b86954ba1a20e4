//! The job files in `deploy/` work: Slurm's under a Slurm of the test's own, GitHub's step by step as a
//! runner takes them, and all that is YAML is what its schema says.

mod github;
mod kubernetes;
mod slurm;
mod support;
