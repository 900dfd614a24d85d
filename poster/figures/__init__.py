"""One module a figure; `poster.sheet` says what is in one."""
