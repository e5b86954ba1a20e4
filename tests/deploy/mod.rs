//! Tests of the job files in `deploy/`: Slurm's run under a Slurm of the test's own, GitHub's are run step by
//! step as by a runner, and all YAML is checked against its schema.

mod github;
mod kubernetes;
mod slurm;
mod support;
