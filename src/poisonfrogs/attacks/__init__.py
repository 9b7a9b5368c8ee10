"""The attacks, one paper a file."""
