"""The commands, a module for each group: a frozen record whose fields are its options, and calling it does the work."""
