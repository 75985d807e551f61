//! Tests of the simulated disk: what a crash may keep, must keep and must lose.
