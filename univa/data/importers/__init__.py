"""Commands that turn corpora and feature files into stores."""
