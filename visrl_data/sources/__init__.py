"""Where questions come from: one file per kind of source."""
