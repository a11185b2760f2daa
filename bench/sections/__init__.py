"""What is measured, a section each; each puts what it finds into the book and can be run alone."""
