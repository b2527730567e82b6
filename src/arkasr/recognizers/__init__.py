"""The seam between model families and everything that trains, scores and decodes: one file a family."""
