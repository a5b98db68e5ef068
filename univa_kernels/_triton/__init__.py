"""The Triton backend. Importing this package imports nothing; `ops` needs triton."""
