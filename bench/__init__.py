"""What we claim, as scripts that anyone can run: each sets up what it needs, prints a table and leaves nothing behind."""
