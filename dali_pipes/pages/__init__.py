"""Pages that need nothing but themselves: one look, one way to escape, pictures inside."""
