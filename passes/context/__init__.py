"""What each position sees, and what a cache keeps."""
