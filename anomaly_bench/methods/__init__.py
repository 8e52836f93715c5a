"""The methods: one file, one paper. A file's last line is `METHOD = ...`, and its name is the method's name."""
