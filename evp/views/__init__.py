"""What people see: structs in, Rich renderables out, no I/O."""
