"""Tests of the optimizers of other libraries, which `make test-here EXTRA=field` installs."""
