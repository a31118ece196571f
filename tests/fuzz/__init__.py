"""Coverage-guided fuzzing of the accept path: bytes of a request to a frame, and back."""
