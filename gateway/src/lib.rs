//! Its first slice is on its way.
