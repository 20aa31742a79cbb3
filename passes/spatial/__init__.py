"""Images in bands of rows: which rows each operation needs, and who has them."""
