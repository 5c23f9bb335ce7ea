"""Tests of the optimizers of other libraries, which `make test-field` installs."""
